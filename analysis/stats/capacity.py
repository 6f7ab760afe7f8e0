"""Judged records and their good requests in, the highest request rate that each arm held in each repeat out.

A rate is held where the SLO's share of the requests was good, and at every lower rate that was measured too. The answer is one of
the rates that were measured: the next one up was lost, so that the truth lies between the two."""

from __future__ import annotations

import math

import pandas as pd

from analysis.load import request_files, slo

# What tells one ladder of rates from another, beside the arm; seeds differ from rate to rate.
LADDER = ("input_len", "output_len", "max_concurrency", "load", "repeat")
CARRIED = ("gpus", "disaggregated", "folder")
TELLS_LOSS = ("overloaded", "unsteady")  # columns: invalid numbers that still say that a rate is not held


SHARE = 0.9  # of a point's requests that have to be good, where the run's configuration does not say


def rates_of(judged: pd.DataFrame) -> pd.DataFrame:
    """`held` of records that were measured at rates, under the SLO that their runs' config.yaml name; empty where none is named.
    Reads their request files. Raises ResultsError for one that cannot be read, or runs with different SLOs."""
    folders = sorted(judged["folder"].unique())
    bounds = slo.of_runs(folders)
    at_rates = judged[judged["request_rate"] < math.inf]
    if not bounds or at_rates.empty:
        return held(judged.iloc[:0], pd.DataFrame({"requests": [], "good": []}), SHARE)
    share = slo.scalar_of_runs(folders, "slo", "share")
    return held(judged, request_files.reduce(at_rates, bounds), float(share) if share else SHARE)


def held(judged: pd.DataFrame, reduced: pd.DataFrame, share: float) -> pd.DataFrame:
    """A row for each series and ladder: LADDER, CARRIED, `held_per_s` (requests/s; 0 where the lowest rate was lost), `lost_per_s`
    (the lowest rate that was not held; inf where all were), `held_per_s_gpu`. Of used records at a rate whose good requests are
    known, and of those that are invalid because more arrived than was served, which lost. `reduced` has `requests` and `good` by
    the records' index. One that was over before it was steady lost, too, where too few of its requests were good. A ladder of one
    rate says nothing and is left out."""
    known = judged[["series", *LADDER, *CARRIED, "request_rate", "use", *TELLS_LOSS]].join(reduced[["requests", "good"]])
    invalid = known["use"] == "invalid"  # not superseded by a measurement under the same key or a later one
    missed = invalid & known["unsteady"] & (known["good"] < share * known["requests"])
    overloaded = invalid & known["overloaded"]
    known.loc[overloaded, ["requests", "good"]] = 1, 0
    counts = (known["use"] == "used") | overloaded | missed
    known = known[counts & (known["request_rate"] < math.inf)].dropna(subset=["good"])
    rows = [_row(key, ladder, share) for key, ladder in known.groupby(["series", *LADDER], sort=True) if len(ladder) > 1]
    columns = ["series", *LADDER, *CARRIED, "held_per_s", "lost_per_s", "held_per_s_gpu"]
    return pd.DataFrame(rows, columns=columns)


def _row(key: object, ladder: pd.DataFrame, share: float) -> tuple[object, ...]:
    assert isinstance(key, tuple)
    is_kept = ladder["good"] >= share * ladder["requests"]
    lost = ladder.loc[~is_kept, "request_rate"].min()
    lost = math.inf if math.isnan(lost) else float(lost)
    best = ladder.loc[is_kept & (ladder["request_rate"] < lost), "request_rate"].max()
    best = 0.0 if math.isnan(best) else float(best)
    carried = [ladder[name].iloc[0] for name in CARRIED]
    return (*key, *carried, best, lost, best / carried[0])


def as_settings(rates: pd.DataFrame) -> pd.DataFrame:
    """The rows of `held` as if each were a measurement without a rate of its own, for whoever compares measurements in pairs. An
    arm that lost the lowest rate counts as if it had held that, which is more than it did."""
    at_most = rates["held_per_s_gpu"].where(rates["held_per_s"] > 0, rates["lost_per_s"] / rates["gpus"])
    nothing = {"request_rate": math.inf, "num_prompts": 0, "seed": 0, "output_throughput_tok_s": math.nan}
    return rates.assign(held_per_s_gpu=at_most, **nothing)


def text(rates: pd.DataFrame) -> list[str]:
    """A sentence for each ladder and arm: `1024 tokens in, 256 out: route_4 holds 12.2 to 15.3 requests/s, in 3 repeat(s).`"""
    lines = []
    for (inputs, outputs, _, load), ladder in rates.groupby(list(LADDER[:-1]), sort=True):
        what = f"{inputs:g} tokens in, {outputs:g} out" if load == "random" else str(load)
        for arm, mine in ladder.groupby("series", sort=True):
            low, high = mine["held_per_s"].min(), mine["held_per_s"].max()
            span = f"{low:g}" if low == high else f"{low:g} to {high:g}"
            more = " or more" if (mine["lost_per_s"] == math.inf).any() else ""
            said = f"holds {span}{more} requests/s" if high > 0 else f"does not hold {mine['lost_per_s'].max():g} requests/s"
            lines.append(f"{what}: {arm} {said}, in {len(mine)} repeat(s).")
    return lines
