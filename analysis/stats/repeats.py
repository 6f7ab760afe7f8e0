"""Loaded records in, what may be shown of them out: which count, which series they belong to, mean and spread over repeats."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import pandas as pd

from analysis.load.frame import IDENTITY
from analysis.load.setup import ACROSS
from pdslurm.records.t_interval import MIN_REPEATS, t_95

T = TypeVar("T")
# Why a record is not drawn, in the order in which it is said. `superseded`: the same arm, setting, repeat and seed was measured
# again in the same folder under another key, so something that changes the number was changed; the newest stands.
LEFT_OUT = ("failed", "invalid", "superseded")
ITL_IS = "ITL is the gap between two chunks of an answer, and a chunk may carry several tokens; TPOT counts every token"
THROUGHPUTS = ("output_throughput_tok_s", "request_throughput_per_s", "total_throughput_tok_s", "output_tok_s_per_gpu")
OFFERED = "At a fixed request rate throughput is the load that was offered, and judges no arm."
MOST_CHECKS = 3  # named, of those that lack evidence


def judge(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with `use` (used, or one of LEFT_OUT) and `series` (the label of the line it belongs to)."""
    use = pd.Series("used", index=frame.index)
    use[~frame["valid"]] = "invalid"
    use[frame["status"] != "done"] = "failed"
    done = frame[use != "failed"].sort_values("started_at", kind="stable")
    use[done.index[done.duplicated(list(IDENTITY), keep="last")]] = "superseded"
    return frame.assign(use=use, series=series(frame))


def strict(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame in which a record with anything unverified is invalid, and says so."""
    lacks = frame["unverified"].map(len) > 0
    said = [
        (*reasons, f"unverified: {', '.join(names)}") if names else reasons
        for reasons, names in zip(frame["invalid_reasons"], frame["unverified"], strict=True)
    ]
    return frame.assign(valid=frame["valid"] & ~lacks, invalid_reasons=pd.Series(said, index=frame.index, dtype=object))


def series(frame: pd.DataFrame) -> pd.Series[str]:
    """A label for each row. Rows of one label may be averaged: same arm, same source, same run folder. The label says no more than
    it must: the arm, `(simulated)` where it is not measured, and the run where an arm occurs in several runs."""
    label = frame["arm"].astype(str) + frame["source"].map(lambda source: "" if source == "measured" else f" ({source})")
    folders = frame.groupby(["arm", "source"])["folder"].transform("nunique")
    runs = frame.groupby(["arm", "source"])["run"].transform("nunique")
    where = frame["run"].where(runs == folders, frame["folder"]).astype(str)
    label = label.where(folders == 1, label + " [" + where + "]")
    for name in ACROSS:  # put together by name: what one arm of one run was measured on is not averaged either
        several = frame.groupby(["arm", "source", "folder"])[name].transform("nunique") > 1
        label = label.where(~several, label + " (" + frame[name].fillna("unknown").astype(str) + ")")
    return label


def comparable(used: pd.DataFrame) -> pd.DataFrame:
    """What arms are compared on: measurements where there are any, so that no prediction wins over a measurement."""
    measured = used[used["source"] == "measured"]
    return used if measured.empty else measured


def telling(used: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The records whose `metric` tells arms apart: at a request rate that is held, a throughput is the load that was offered."""
    return used[used["request_rate"] == math.inf] if metric in THROUGHPUTS else used


MIXED = "start or repeat"  # some arms were started several times, others once


def aggregate(used: pd.DataFrame, metric: str, by: Sequence[str]) -> pd.DataFrame:
    """Columns `by`, n, mean, low, high of what knows `metric`. Where there are several starts, each start's mean over its repeats
    is one of n values. Else each repeat is one, and the interval holds within that start. low and high are the 95 % t interval of
    the mean from 3 values on, and NaN for fewer: two numbers do not tell how far a third lies from them."""
    starts = used.dropna(subset=[metric]).groupby([*by, "start"], sort=True)[metric].agg(["count", "mean", "std"]).reset_index()
    over = starts.groupby(list(by), sort=True)
    out = over["mean"].agg(n="count", mean="mean", std="std").reset_index()
    alone, within = out["n"] == 1, over[["count", "std"]].first().reset_index()
    out["n"], out["std"] = out["n"].mask(alone, within["count"]), out["std"].mask(alone, within["std"])
    half = (out["std"] * out["n"].map(lambda n: t_95(n - 1)) / out["n"] ** 0.5).where(out["n"] >= MIN_REPEATS)
    return out.assign(low=out["mean"] - half, high=out["mean"] + half).drop(columns="std")


def units(used: pd.DataFrame, by: Sequence[str]) -> pd.Series[int]:
    """What `aggregate` counts in each group. The series' name says what: "start" where every group has several, "repeat" where none
    has, else MIXED."""
    counts = used.groupby(list(by))["start"].agg(["nunique", "size"])
    several = counts["nunique"] > 1
    name = MIXED if several.any() and not several.all() else "start" if several.any() else "repeat"
    return counts["nunique"].where(several, counts["size"]).rename(name)


def plurals(counts: pd.Series[int]) -> str:
    """What `units` counts, as a plural: `starts or repeats` of MIXED."""
    return str(counts.name or "repeat").replace(" or ", "s or ") + "s"


def kind(n: int) -> str:
    """What low and high of `aggregate` are for n starts or repeats: interval or none."""
    return "interval" if n >= MIN_REPEATS else "none"


def left_out(judged: pd.DataFrame) -> dict[str, int]:
    """How many records are not used, by reason."""
    counts = judged["use"].value_counts()
    return {reason: int(counts[reason]) for reason in LEFT_OUT if reason in counts}


def left_out_text(judged: pd.DataFrame) -> str:
    """`57 valid of 60 tried; left out: 1 failed, 2 invalid, 1 superseded`, then what is unverified or judged anew. A try is a
    measurement that was carried out: one that failed is none, and one that was measured again stays one."""
    counts = left_out(judged)
    valid, tried = int((judged["use"] == "used").sum()), int((judged["status"] == "done").sum())
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
    said = [f"{valid} valid of {tried} tried", f"left out: {reasons}" if reasons else ""]
    return "; ".join(filter(None, [*said, unverified_text(judged), disagrees_text(judged)]))


def unverified_text(judged: pd.DataFrame) -> str:
    """`3 unverified: text (3)`: how many of the records used lack evidence for a decisive check, and for which, the commonest
    first; empty without."""
    lacking = judged.loc[judged["use"] == "used", "unverified"]
    counts = Counter(name for names in lacking for name in names)
    each = ", ".join(f"{name} ({count})" for name, count in counts.most_common(MOST_CHECKS))
    more = f" and {plural(len(counts) - MOST_CHECKS, 'more check')}" if len(counts) > MOST_CHECKS else ""
    return f"{int((lacking.map(len) > 0).sum())} unverified: {each}{more}" if counts else ""


def disagrees_text(judged: pd.DataFrame) -> str:
    """How many records today's rules judge otherwise than their file does; empty without."""
    count = int((judged["disagrees"] != "").sum())
    return (
        f"{plural(count, 'record')} judged otherwise by today's rules than in {'its file' if count == 1 else 'their files'}"
        if count
        else ""
    )


def withdrawn(judged: pd.DataFrame) -> dict[str, str]:
    """Run → why it was withdrawn, of the runs that were."""
    some = judged[judged["withdrawn"] != ""].drop_duplicates(["run", "withdrawn"])
    return dict(zip(some["run"].astype(str), some["withdrawn"].astype(str), strict=True))


def withdrawn_text(judged: pd.DataFrame) -> str:
    """`WITHDRAWN, not to be relied on: run demo: …`; empty where no run was withdrawn."""
    said = "; ".join(f"run {run}: {why.strip().rstrip('.')}" for run, why in withdrawn(judged).items())
    return f"WITHDRAWN, not to be relied on: {said}" if said else ""


def transports(judged: pd.DataFrame) -> dict[str, str]:
    """Series → what carried its KV, `unknown` where a record does not tell; only series in which KV moves."""
    moved = judged[judged["transport"].fillna("") != ""]
    return {str(label): ", ".join(sorted(set(some))) for label, some in moved.groupby("series")["transport"]}


def transport_text(judged: pd.DataFrame) -> str:
    """`pd_1p3d KV over cuda_ipc (shm)` for each arm in which KV moves; empty without any."""
    return ", ".join(f"{label} KV over {over}" for label, over in transports(judged).items())


def reasons(judged: pd.DataFrame) -> dict[str, int]:
    """Why records are failed or invalid, in their own words (an error's first line), the commonest first."""
    errors = judged.loc[judged["use"] == "failed", "error"].dropna().str.split("\n").str[0]
    invalid = judged.loc[judged["use"] == "invalid", "invalid_reasons"].explode().dropna()
    counts = pd.concat([errors.astype(object), invalid.astype(object)]).value_counts()
    return {str(reason): int(count) for reason, count in counts.items()}


def repeats_text(counts: pd.Series[int]) -> str:
    """How many repeats or starts (`units`) the means stand on: `2 repeats per point`, `1 to 3 starts per point`."""
    low, high = int(counts.min()), int(counts.max())
    if low == high:
        return f"1 {counts.name or 'repeat'} per point" if low == 1 else f"{low} {plurals(counts)} per point"
    return f"{low} to {high} {plurals(counts)} per point"


def cautions(frame: pd.DataFrame) -> tuple[str, ...]:
    """Every caution that a driver wrote into the records, once each, and what the records themselves give reason for."""
    written = dict.fromkeys(caution for some in frame["cautions"].drop_duplicates() for caution in some)
    gpus = frame.dropna(subset=["gpus"]).groupby("arm")["gpus"].max()
    if gpus.nunique() > 1:
        each = ", ".join(f"{arm} {count:g}" for arm, count in gpus.items())
        written[f"arms with different numbers of GPUs ({each}), not scaled"] = None
    return tuple(written)


def evenly_spaced(found: Sequence[T], most: int) -> list[T]:
    """At most so many of them: all, or the first, the last and those at even distances between."""
    if len(found) <= most or most < 2:
        return list(found[:most])
    return [found[round(i * (len(found) - 1) / (most - 1))] for i in range(most)]


def plural(count: int, word: str) -> str:
    """`1 setting`, `8 settings`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
