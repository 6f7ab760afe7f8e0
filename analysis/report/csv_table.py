"""Loaded records in, CSV out: a line for each record, failed and invalid ones too, with units in the columns' names."""

from __future__ import annotations

import pandas as pd

LATENCIES = ("ttft", "tpot", "itl", "e2el")
TABLE_COLUMNS = (
    *(
        "arm",
        "source",
        "input_len",
        "output_len",
        "request_rate",
        "max_concurrency",
        "start",
        "repeat",
        "seed",
        "valid",
        "completed",
        "failed",
    ),
    *("output_throughput_tok_s", "request_throughput_per_s"),
    *(f"{stat}_{what}_ms" for what in LATENCIES for stat in ("mean", "p50", "p99")),
    *("run", "num_prompts", "load", "duration_s", "status", "invalid_reasons", "key"),
    *("unverified", "stored_valid", "disagrees", "transport", "withdrawn"),
    *("energy_j", "j_per_token", "mean_sm_mhz", "power_cap_s"),
)
WHOLE = ("completed", "failed")  # floats in the frame, for they may be unknown
BOUNDS = ("request_rate", "max_concurrency")


def records_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns TABLE_COLUMNS, sorted by setting, arm and repeat, so that the arms at one setting stand below each other."""
    ordered = frame.sort_values(
        ["load", "input_len", "output_len", "request_rate", "max_concurrency", "arm", "repeat", "seed"], kind="stable"
    )
    shown = ordered[list(TABLE_COLUMNS)].astype(dict.fromkeys(WHOLE, "Int64"))
    for name in BOUNDS:
        shown[name] = shown[name].map(lambda value: f"{value:g}")  # `inf`, and 16 rather than 16.0
    return shown.assign(**{name: shown[name].map("; ".join) for name in ("invalid_reasons", "unverified")})


def to_csv(frame: pd.DataFrame) -> str:
    """RFC 4180 with a header; an unknown number is an empty field."""
    return str(records_table(frame).to_csv(index=False, lineterminator="\n"))
