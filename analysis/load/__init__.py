"""Run folders in; a table with a row for each record out, and what lies beside the records: requests, timelines, provenance."""
