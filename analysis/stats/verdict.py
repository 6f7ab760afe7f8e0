"""Judged records in, an answer out: whether to disaggregate, for which workloads, by how much, and how sure that is.

At every setting the best arm with separate prefill and decode instances is compared with the best one without, per GPU, in pairs of
repeats. "Better" needs a 95 % interval of the ratio that excludes equality; else the two are not distinguishable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.load.frame import SETTING
from analysis.stats import repeats
from analysis.stats.capacity import as_settings
from analysis.stats.paired import UNKNOWN, Pair, Ratio, by_pair, percent_text, ratio_of
from pdslurm.records.t_interval import MIN_REPEATS

DISAGGREGATE, TOGETHER, EQUAL, UNDECIDED = "disaggregate", "do not disaggregate", "not distinguishable", "too few repeats"


@dataclass(frozen=True)
class Measure:
    """What arms are judged by: a column of the frame, its words, and whether more of it is better."""

    metric: str
    words: str
    largest: bool = True


THROUGHPUT = Measure("output_tok_s_per_gpu", "output tokens/s per GPU")
TTFT = Measure("mean_ttft_ms", "mean TTFT", largest=False)
ITL = Measure("mean_itl_ms", "mean ITL", largest=False)
CAPACITY = Measure("capacity_per_s_gpu", "requests/s per GPU that keep the SLO")
MEASURES = (THROUGHPUT, TTFT, ITL)


@dataclass(frozen=True)
class Decision:
    """One setting by one measure: the best arm of each kind, and how far the P/D arm leads."""

    setting: Mapping[str, Any]
    measure: Measure
    pd_arm: str
    plain_arm: str
    lead: Ratio  # above 1: the P/D arm is better, also by what should be small
    outcome: str


def per_gpu(used: pd.DataFrame) -> pd.DataFrame:
    """The frame with what is counted per GPU."""
    return used.assign(output_tok_s_per_gpu=used["output_throughput_tok_s"] / used["gpus"])


def decide(used: pd.DataFrame, measures: Sequence[Measure] = MEASURES) -> tuple[Decision, ...]:
    """A decision for each setting and measure where both kinds of arms have valid measurements, in the settings' order."""
    frame = per_gpu(used)
    separate = dict(zip(frame["series"], frame["disaggregated"].astype(bool), strict=True))
    decisions = []
    for key, rows in frame.groupby(list(SETTING), sort=True):
        setting: dict[str, Any] = dict(zip(SETTING, key, strict=True))
        for measure in measures:
            values = by_pair(rows, measure.metric)
            pd_arm, plain_arm = (_best(values, measure, [a for a in values if separate[a] is kind]) for kind in (True, False))
            if pd_arm and plain_arm:
                found = ratio_of(values[pd_arm], values[plain_arm])
                decisions.append(Decision(setting, measure, pd_arm, plain_arm, *_judged(found, measure)))
    return tuple(decisions)


def _best(values: Mapping[str, Mapping[Pair, float]], measure: Measure, arms: Sequence[str]) -> str | None:
    """The arm with the best mean, the first of equals by name; None without any."""
    means = {arm: sum(values[arm].values()) / len(values[arm]) for arm in sorted(arms)}
    return (max if measure.largest else min)(means, key=lambda arm: means[arm], default=None)


def _judged(found: Ratio, measure: Measure) -> tuple[Ratio, str]:
    """The P/D arm's lead, and what it says."""
    lead = found if measure.largest or found is UNKNOWN else found.inverse()
    return lead, UNDECIDED if not lead.is_known else EQUAL if not lead.is_apart else DISAGGREGATE if lead.low > 1 else TOGETHER


def sentence(decisions: Sequence[Decision], measure: Measure) -> str:
    """One sentence on one measure over all settings: `Do not disaggregate, by output tokens/s per GPU: …`. Empty without any."""
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
    of = f"of {repeats.plural(len(mine), 'workload')}"
    return f"{headline[0].upper()}{headline[1:]}, by {measure.words}: {of}, {'; '.join(parts)}."


def _side_text(mine: Sequence[Decision], side: str) -> str:
    """`at 7 route_4 is better, by 12 % [8, 16] to 46 % [40, 52]`: the smallest and the largest lead, each with its interval."""
    won = [d for d in mine if d.outcome == side]
    leads = sorted((d.lead if side == DISAGGREGATE else d.lead.inverse() for d in won), key=lambda lead: lead.value)
    arms = Counter(d.pd_arm if side == DISAGGREGATE else d.plain_arm for d in won)
    names = " or ".join(name for name, _ in arms.most_common())
    span = percent_text(leads[0]) + (f" to {percent_text(leads[-1])}" if len(leads) > 1 else "")
    return f"at {len(won)} {names} is better, by {span}"


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
    sentences = [text for measure in (CAPACITY, *MEASURES) if (text := sentence(decisions, measure))]
    sure = sum(d.lead.is_known for d in decisions)
    sentences.append(
        "Better means that the 95 % interval of the ratio of paired repeats excludes equality"
        + (f"; of {sure} comparisons {sure / 20:.1g} would look so by chance between equal arms." if sure else ".")
    )
    return sentences
