"""Loaded records in; means, capacities, ratios of arms and decisions out, with how sure they are."""
