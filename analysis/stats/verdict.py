"""Judged records in, an answer out: whether to disaggregate, for which workloads, by how much, and how sure that is.

At every setting the best arm with separate prefill and decode instances is compared with the best one without, per GPU, in pairs of
repeats. "Better" needs a 95 % interval of the ratio that excludes equality; else the two are not distinguishable. A ratio is always
the P/D arm's number over the other's, of a latency too, and is said as "2.6 times", so that no sign reads backwards."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.load.frame import SETTING
from analysis.stats import repeats
from analysis.stats.capacity import as_settings
from analysis.stats.paired import Pair, Ratio, by_pair, ratio_of, ratio_text
from pdslurm.records.t_interval import MIN_REPEATS

DISAGGREGATE, TOGETHER, EQUAL, UNDECIDED = "disaggregate", "do not disaggregate", "not distinguishable", "too few repeats"


@dataclass(frozen=True)
class Measure:
    """What arms are judged by: a column of the frame, its words, how a ratio of it is said, and whether more of it is better."""

    metric: str
    words: str
    says: str  # of the P/D arm, the ratio and the other arm
    largest: bool = True

    @property
    def better(self) -> str:
        return "higher" if self.largest else "lower"


THROUGHPUT = Measure(
    "output_tok_s_per_gpu", "output tokens/s per GPU", "{pd} has {ratio} times the output tokens/s per GPU of {plain}"
)
TTFT = Measure("mean_ttft_ms", "mean TTFT", "{pd}'s mean TTFT is {ratio} times {plain}'s", largest=False)
TPOT = Measure("mean_tpot_ms", "mean TPOT", "{pd}'s mean TPOT is {ratio} times {plain}'s", largest=False)
CAPACITY = Measure(
    "capacity_per_s_gpu", "requests/s per GPU that keep the SLO", "{pd} holds {ratio} times the requests/s per GPU of {plain}"
)
MEASURES = (THROUGHPUT, TTFT, TPOT)


@dataclass(frozen=True)
class Decision:
    """One setting by one measure: the best arm of each kind, and the ratio of their numbers."""

    setting: Mapping[str, Any]
    measure: Measure
    pd_arm: str
    plain_arm: str
    ratio: Ratio  # the P/D arm's number over the other's: of a latency, above 1 is worse
    outcome: str


def per_gpu(used: pd.DataFrame) -> pd.DataFrame:
    """The frame with what is counted per GPU."""
    return used.assign(output_tok_s_per_gpu=used["output_throughput_tok_s"] / used["gpus"])


def decide(used: pd.DataFrame, measures: Sequence[Measure] = MEASURES) -> tuple[Decision, ...]:
    """A decision for each setting and measure where both kinds of arms have valid measurements, in the settings' order; none by
    throughput at a request rate, where it is the load that was offered."""
    frame = per_gpu(used)
    separate = dict(zip(frame["series"], frame["disaggregated"].astype(bool), strict=True))
    decisions = []
    for key, rows in frame.groupby(list(SETTING), sort=True):
        setting: dict[str, Any] = dict(zip(SETTING, key, strict=True))
        for measure in measures:
            values = by_pair(repeats.telling(rows, measure.metric), measure.metric)
            pd_arm, plain_arm = (_best(values, measure, [a for a in values if separate[a] is kind]) for kind in (True, False))
            if pd_arm and plain_arm:
                found = ratio_of(values[pd_arm], values[plain_arm])
                decisions.append(Decision(setting, measure, pd_arm, plain_arm, found, _judged(found, measure)))
    return tuple(decisions)


def _best(values: Mapping[str, Mapping[Pair, float]], measure: Measure, arms: Sequence[str]) -> str | None:
    """The arm with the best mean, the first of equals by name; None without any."""
    means = {arm: sum(values[arm].values()) / len(values[arm]) for arm in sorted(arms)}
    return (max if measure.largest else min)(means, key=lambda arm: means[arm], default=None)


def _judged(found: Ratio, measure: Measure) -> str:
    """What the ratio says."""
    if not found.is_known:
        return UNDECIDED
    return EQUAL if not found.is_apart else DISAGGREGATE if (found.low > 1) is measure.largest else TOGETHER


def sentence(decisions: Sequence[Decision], measure: Measure, over: Mapping[str, str] | None = None) -> str:
    """One sentence on one measure over all settings: `Do not disaggregate, by output tokens/s per GPU: …`. `over`: what carried the
    KV of each P/D arm, in words. Empty without any decision."""
    mine = [d for d in decisions if d.measure == measure]
    if not mine:
        return ""
    counts = Counter(d.outcome for d in mine)
    headline, _ = counts.most_common(1)[0]
    if len(counts) > 1 and headline in (DISAGGREGATE, TOGETHER) and {DISAGGREGATE, TOGETHER} <= set(counts):
        headline = "it depends on the workload"
    parts = [_side_text(mine, side) for side in (DISAGGREGATE, TOGETHER) if counts[side]]
    parts += [f"at {counts[EQUAL]} the two are not distinguishable"] if counts[EQUAL] else []
    parts += [f"at {counts[UNDECIDED]} there are too few repeats to tell"] if counts[UNDECIDED] else []
    arms = dict.fromkeys(d.pd_arm for d in mine)
    parts += [f"{arm} moved KV over {(over or {}).get(arm) or 'unknown'}" for arm in arms]
    of = f"of {repeats.plural(len(mine), 'workload')}"
    return f"{headline[0].upper()}{headline[1:]}, by {measure.words}: {of}, {'; '.join(parts)}."


def _side_text(mine: Sequence[Decision], side: str) -> str:
    """`at 7 route_4 is better: pd_1p3d's mean TTFT is 1.2 [1.1, 1.3] to 2.6 [2.1, 3.2] times route_4's`: the smallest ratio and the
    largest, each with its interval."""
    won = [d for d in mine if d.outcome == side]
    ratios = sorted((d.ratio for d in won), key=lambda ratio: ratio.value)
    separate, plain = (_names(Counter(arms)) for arms in ([d.pd_arm for d in won], [d.plain_arm for d in won]))
    span = ratio_text(ratios[0]) + (f" to {ratio_text(ratios[-1])}" if len(ratios) > 1 else "")
    said = won[0].measure.says.format(pd=separate, ratio=span, plain=plain)
    return f"at {len(won)} {separate if side == DISAGGREGATE else plain} is better: {said}"


def _names(arms: Counter[str]) -> str:
    """`pd_1p3d or pd_2p2d`, the commonest first."""
    return " or ".join(name for name, _ in arms.most_common())


def decisions_of(used: pd.DataFrame, rates: pd.DataFrame | None = None) -> tuple[Decision, ...]:
    """By the highest rates held (analysis.stats.capacity) where rates were looked for, else by throughput and latencies."""
    if rates is not None and not rates.empty:
        return decide(as_settings(rates), (CAPACITY,))
    return decide(used)


def verdict(used: pd.DataFrame, rates: pd.DataFrame | None = None) -> list[str]:
    """Sentences: one for each measure, then what they stand on. None where arms of one kind are missing."""
    decisions = decisions_of(used, rates)
    if not decisions:
        return []
    if all(d.outcome == UNDECIDED for d in decisions):
        return [
            f"Whether to disaggregate cannot be told: that takes {MIN_REPEATS} valid repeats of a workload on both kinds of arms."
        ]
    over = repeats.transports(used)
    sentences = [text for measure in (CAPACITY, *MEASURES) if (text := sentence(decisions, measure, over))]
    if (used["request_rate"] < math.inf).any() and decisions[0].measure != CAPACITY:
        sentences.append(repeats.OFFERED)
    sure = sum(d.ratio.is_known for d in decisions)
    sentences.append(
        "Better means that the 95 % interval of the ratio of paired repeats excludes equality"
        + (f"; of {sure} comparisons {sure / 20:.1g} would look so by chance between equal arms." if sure else ".")
    )
    unverified = repeats.unverified_text(used.assign(use="used"))
    return [*sentences, *([f"Of the measurements behind this {unverified}."] if unverified else [])]
