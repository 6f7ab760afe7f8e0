"""Judged records and reduced requests in, new DataFrames out: what the figures beyond seed 004's four show.

Nothing is read and nothing drawn. Rows are averaged or pooled over repeats of one series at one setting alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.load.frame import SETTING
from analysis.load.request_files import Bins
from analysis.stats import repeats
from pdslurm.records.measurement import TTFT_SHARES, TTFT_UNSPLIT
from pdslurm.records.t_interval import half_width

KEYS = ("series", *SETTING)

Counts = npt.NDArray[np.int64]


def with_goodput(judged: pd.DataFrame, reduced: pd.DataFrame) -> pd.DataFrame:
    """`goodput_per_s_gpu`: requests within the SLO by the point's duration and the arm's GPUs, as `vllm bench serve --goodput`
    counts them. (DistServe, OSDI 2024, calls goodput the highest rate at which so many per cent of the requests are good.)"""
    good = reduced["good"].reindex(judged.index)
    return judged.assign(goodput_per_s_gpu=good / judged["duration_s"] / judged["gpus"])


def with_rates(judged: pd.DataFrame) -> pd.DataFrame:
    """`user_tok_s`: what one user sees, 1000 / mean TPOT. `gpu_tok_s`: output tokens/s by GPU."""
    return judged.assign(user_tok_s=1000 / judged["mean_tpot_ms"], gpu_tok_s=judged["output_throughput_tok_s"] / judged["gpus"])


def tradeoff(rated: pd.DataFrame) -> pd.DataFrame:
    """Columns KEYS and mean, low, high of user_tok_s (…_x) and gpu_tok_s (…_y), from used records of `with_rates`."""
    known = rated.dropna(subset=["user_tok_s", "gpu_tok_s"])
    if known.empty:
        return pd.DataFrame(columns=[*KEYS, *(f"{name}_{axis}" for axis in "xy" for name in ("mean", "low", "high"))])
    x, y = (repeats.aggregate(known, name, KEYS).drop(columns="n") for name in ("user_tok_s", "gpu_tok_s"))
    return x.merge(y, on=list(KEYS), suffixes=("_x", "_y"))


def front(points: pd.DataFrame) -> pd.DataFrame:
    """The points of `tradeoff` that no other is at least as good as in both means and better in one, by falling mean_y."""
    ordered = points.sort_values(["mean_x", "mean_y"], ascending=False, kind="stable")
    best = ordered["mean_y"].astype(float).cummax().shift(fill_value=-math.inf)
    return ordered[ordered["mean_y"] > best].iloc[::-1]


def floors(used: pd.DataFrame) -> pd.DataFrame:
    """Mean TTFT of each arm that is one instance alone with one request in flight: no queue, no other's prefill, no transfer.
    Columns KEYS, n, mean, low, high. No P/D arm of the same engine can be below it: KV transfer comes on top."""
    plain = used["disaggregated"].map(lambda known: known is None or not known)
    alone = plain & (used["instances"] == 1) & (used["max_concurrency"] == 1) & (used["source"] == "measured")
    return repeats.aggregate(used[alone], "mean_ttft_ms", KEYS)


def floor_for(floors: pd.DataFrame, output_len: float | str, load: float | str) -> pd.DataFrame:
    """The floors at an output length or, where it was not measured there, at the shortest: the first token does not wait for those
    after it. One row for each series and input length."""
    mine = floors[floors["load"] == load]
    exact = mine[mine["output_len"] == output_len]
    chosen = mine[mine["output_len"] == mine["output_len"].min()] if exact.empty else exact
    return chosen.drop_duplicates(["series", "input_len"])


def parts(used: pd.DataFrame) -> pd.DataFrame:
    """Where the mean TTFT goes: columns KEYS, n, mean, low, high (the measured TTFT), each of TTFT_SHARES in ms (0 where the arm
    has none or none is known, negative where it came out so) and `rest`: measured less all of them,
    negative where they come to more.
    Where one repeat does not tell API server and queue apart, none of its group does."""
    some = used[[f"ttft_{part}_ms" for part in TTFT_SHARES]].notna().any(axis=1)
    known = used[some & used["ttft_measured_ms"].notna()]
    if known.empty:
        return pd.DataFrame(columns=[*KEYS, "n", "mean", "low", "high", *TTFT_SHARES, "rest"])
    measured = repeats.aggregate(known, "ttft_measured_ms", KEYS)
    columns = {f"ttft_{part}_ms": part for part in TTFT_SHARES}
    whole, apart = f"ttft_{TTFT_UNSPLIT}_ms", ["ttft_api_server_ms", "ttft_queue_ms"]
    mixed = known.groupby(list(KEYS))[whole].transform("count") > 0
    known = known.assign(
        **{
            whole: known[whole].fillna(known[apart].sum(axis=1, min_count=2)).where(mixed),
            **{name: known[name].mask(mixed) for name in apart},
        }
    )
    of_starts = known.groupby([*KEYS, "start"])[list(columns)].mean()  # as the measured mean is one of starts
    means = of_starts.groupby(list(KEYS)).mean().rename(columns=columns).reset_index()
    means[list(TTFT_SHARES)] = means[list(TTFT_SHARES)].fillna(0.0)
    out = measured.merge(means, on=list(KEYS))
    return out.assign(rest=out["mean"] - out[list(TTFT_SHARES)].sum(axis=1))


# --- distributions


def stacked(repeats: Iterable[Bins]) -> tuple[int, Counts]:
    """The first bin, and a row of counts for each repeat, from there without a gap."""
    some = list(repeats)
    first, last = min(int(b[0, 0]) for b in some), max(int(b[-1, 0]) for b in some)
    counts = np.zeros((len(some), last - first + 1), dtype=np.int64)
    for row, found in zip(counts, some, strict=True):
        row[found[:, 0] - first] = found[:, 1]
    return first, counts


def by_start(bins: pd.Series, starts: pd.Series[int]) -> list[Bins]:
    """The distributions of one point's starts, each over its repeats; of one start those of its repeats."""
    if starts.nunique() == 1:
        return list(bins)
    return [_together(list(some)) for _, some in bins.groupby(starts)]


def _together(some: Sequence[Bins]) -> Bins:
    """One distribution of the values of several."""
    first, counts = stacked(some)
    total = counts.sum(axis=0)
    return np.column_stack([first + np.arange(len(total)), total])


def cdf(repeats: Sequence[Bins], per_decade: int) -> pd.DataFrame:
    """Columns ms and share: the part of all values, of the repeats together, that is at most so large; at the edges of the bins."""
    first, counts = stacked(repeats)
    share = np.concatenate([[0.0], counts.sum(axis=0).cumsum() / counts.sum()])
    ms = 10 ** ((first + np.arange(len(share))) / per_decade)
    turns = np.ones(len(share), dtype=bool)  # what lies within a level or an empty stretch adds nothing to the line
    turns[1:-1] = (share[1:-1] != share[:-2]) | (share[1:-1] != share[2:])
    return pd.DataFrame({"ms": ms[turns], "share": share[turns]})


def quantile(units: Sequence[Bins], per_decade: int, q: float) -> tuple[float, float, float]:
    """The q-quantile of all values in ms, and the ends of its 95 % interval: Student's t over the logarithms of the units' own
    quantiles. NaN for the ends of fewer than three units, starts or repeats (by_start). Values within one unit depend on each
    other, so that they say nothing of its error. Error by the bins: half a bin, 0.6 % at 200 bins a decade."""
    first, counts = stacked(units)
    rows = np.vstack([counts.sum(axis=0), counts])
    whole, *own = (first + _inverse(rows, np.full(len(rows), q))) / per_decade * math.log(10)
    half = half_width(own)
    return math.exp(whole), math.exp(whole - half), math.exp(whole + half)


def _inverse(counts: Counts, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Where, in bins from the first, each row of counts reaches its share; within a bin values are taken to lie evenly."""
    cumulated = counts.cumsum(axis=1)
    target = shares * cumulated[:, -1]
    index = (cumulated >= target[:, None]).argmax(axis=1)
    rows = np.arange(len(counts))
    inside = counts[rows, index]
    before = cumulated[rows, index] - inside
    return np.asarray(index + (target - before) / np.maximum(inside, 1))


def percentiles(used: pd.DataFrame, bins: pd.Series, per_decade: int, q: float, by: Sequence[str]) -> pd.DataFrame:
    """Columns `by`, n (starts where there are several, else repeats), mean (here the quantile), low, high, from the records whose
    bins are known; `bins` is a column of distributions at the records' index."""
    known = bins.reindex(used.index).dropna()
    rows = [
        (*(key if isinstance(key, tuple) else (key,)), len(of_units), *quantile(of_units, per_decade, q))
        for key, part in known.groupby([used.loc[known.index, name] for name in by])
        for of_units in (by_start(part, used.loc[part.index, "start"]),)
    ]
    return pd.DataFrame(rows, columns=[*by, "n", "mean", "low", "high"])
