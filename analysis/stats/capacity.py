"""Judged records and their good requests in, each arm's capacity in each repeat out: the highest rate at which the SLO is met.

A rate meets the SLO where the SLO's share of the requests was good, and at every lower rate that was measured too. A capacity is
one of the rates that were measured: the next one up missed the SLO, so that the truth lies between the two."""

from __future__ import annotations

import math

import pandas as pd

from analysis.load import request_files, slo
from analysis.load.slo import SHARE

# What tells one rate sweep from another, beside the arm; seeds differ from rate to rate.
SWEEP = ("input_len", "output_len", "max_concurrency", "load", "repeat")
CARRIED = ("gpus", "disaggregated", "folder")
SHOWS_MISS = ("overloaded", "unsteady")  # columns: invalid numbers that still say that a rate misses the SLO


def capacities_of(judged: pd.DataFrame) -> pd.DataFrame:
    """`capacities` of records that were measured at rates, under the SLO that their runs' config.yaml name; empty where none is
    named. Reads their request files. Raises ResultsError for one that cannot be read, or runs with different SLOs."""
    folders = sorted(judged["folder"].unique())
    bounds = slo.of_runs(folders)
    at_rates = judged[judged["request_rate"] < math.inf]
    if not bounds or at_rates.empty:
        return capacities(judged.iloc[:0], pd.DataFrame({"requests": [], "good": []}), SHARE)
    share = slo.scalar_of_runs(folders, "slo", "share")
    return capacities(judged, request_files.reduce(at_rates, bounds), float(share) if share else SHARE)


def capacities(judged: pd.DataFrame, reduced: pd.DataFrame, share: float) -> pd.DataFrame:
    """A row for each series and rate sweep: SWEEP, CARRIED, `capacity_per_s` (requests/s; 0 where the lowest rate misses the SLO),
    `missed_per_s` (the lowest rate that misses it; inf where none does), `capacity_per_s_gpu`. Of used records at a rate whose good
    requests are known, and of those that are invalid because more arrived than was served, which miss. `reduced` has `requests` and
    `good` by the records' index. One that was over before it was steady misses, too, where too few of its requests were good. A
    sweep of one rate says nothing and is left out."""
    known = judged[["series", *SWEEP, *CARRIED, "request_rate", "use", *SHOWS_MISS]].join(reduced[["requests", "good"]])
    invalid = known["use"] == "invalid"  # not superseded by a measurement under the same key or a later one
    short = invalid & known["unsteady"] & (known["good"] < share * known["requests"])
    overloaded = invalid & known["overloaded"]
    known.loc[overloaded, ["requests", "good"]] = 1, 0
    counts = (known["use"] == "used") | overloaded | short
    known = known[counts & (known["request_rate"] < math.inf)].dropna(subset=["good"])
    rows = [_row(key, sweep, share) for key, sweep in known.groupby(["series", *SWEEP], sort=True) if len(sweep) > 1]
    columns = ["series", *SWEEP, *CARRIED, "capacity_per_s", "missed_per_s", "capacity_per_s_gpu"]
    return pd.DataFrame(rows, columns=columns)


def _row(key: object, sweep: pd.DataFrame, share: float) -> tuple[object, ...]:
    assert isinstance(key, tuple)
    is_kept = sweep["good"] >= share * sweep["requests"]
    missed = sweep.loc[~is_kept, "request_rate"].min()
    missed = math.inf if math.isnan(missed) else float(missed)
    best = sweep.loc[is_kept & (sweep["request_rate"] < missed), "request_rate"].max()
    best = 0.0 if math.isnan(best) else float(best)
    carried = [sweep[name].iloc[0] for name in CARRIED]
    return (*key, *carried, best, missed, best / carried[0])


def as_settings(rates: pd.DataFrame) -> pd.DataFrame:
    """The rows of `capacities` as if each were a measurement without a rate of its own, for whoever compares measurements in pairs.
    An arm that misses the SLO at the lowest rate counts as if that were its capacity, which is more than it has."""
    at_most = rates["capacity_per_s_gpu"].where(rates["capacity_per_s"] > 0, rates["missed_per_s"] / rates["gpus"])
    nothing = {"request_rate": math.inf, "num_prompts": 0, "seed": 0, "output_throughput_tok_s": math.nan}
    return rates.assign(capacity_per_s_gpu=at_most, **nothing)


def capacity_text(rates: pd.DataFrame) -> list[str]:
    """A sentence for each rate sweep and arm: `1024 tokens in, 256 out: route_4 holds 12.2 to 15.3 requests/s, in 3 repeat(s).`"""
    lines = []
    for (inputs, outputs, _, load), sweep in rates.groupby(list(SWEEP[:-1]), sort=True):
        what = f"{inputs:g} tokens in, {outputs:g} out" if load == "random" else str(load)
        for arm, mine in sweep.groupby("series", sort=True):
            low, high = mine["capacity_per_s"].min(), mine["capacity_per_s"].max()
            span = f"{low:g}" if low == high else f"{low:g} to {high:g}"
            more = " or more" if (mine["missed_per_s"] == math.inf).any() else ""
            said = f"holds {span}{more} requests/s" if high > 0 else f"does not hold {mine['missed_per_s'].max():g} requests/s"
            lines.append(f"{what}: {arm} {said}, in {len(mine)} repeat(s).")
    return lines
