"""Judged records and their rate sweeps in, an answer out: whether to disaggregate, for which workloads, by how much, and how sure.

At every setting the best arm with separate prefill and decode instances is compared with the best one without, per GPU, over the
starts of both (analysis.stats.inference). A ratio is always the P/D arm's number over the other's, of a latency too, and is said as
"2.6 times", so that no sign reads backwards."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.load.frame import SETTING
from analysis.load.slo import Slo
from analysis.stats import inference, repeats
from analysis.stats.inference import INTEREST, Comparison, Score, compare, of_repeats, ratio_text
from analysis.stats.sweeps import LOAD, Sweep, by_load, scores

DISAGGREGATE, TOGETHER = "disaggregate", "do not disaggregate"
SAME, UNDECIDED, ONE_START = "the same", "cannot be told", "one start"
OUTCOMES = {inference.BETTER: DISAGGREGATE, inference.WORSE: TOGETHER, inference.SAME: SAME, inference.ONE_START: ONE_START}
SAME_WITHIN = "the same within {within}"  # of `with_interest`
MORE_STARTS = "workload.starts=3 starts each arm three times"


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
    "capacity_per_s_gpu", "capacity per GPU under the SLO", "{pd} meets the SLO at {ratio} times the requests/s per GPU of {plain}"
)
MEASURES = (THROUGHPUT, TTFT, TPOT)


@dataclass(frozen=True)
class Decision:
    """One setting by one measure: the best arm of each kind, and the ratio of their numbers."""

    setting: Mapping[str, Any]
    measure: Measure
    ratio: Comparison  # the P/D arm's number over the other's: of a latency, above 1 is worse
    outcome: str

    @property
    def pd_arm(self) -> str:
        return self.ratio.first

    @property
    def plain_arm(self) -> str:
        return self.ratio.second

    @property
    def leaning(self) -> str | None:
        """The kind that one start of each arm shows to be better in that start; None where it shows none."""
        if self.outcome != ONE_START or not self.ratio.is_apart:
            return None
        return DISAGGREGATE if (self.ratio.low > 1) is self.measure.largest else TOGETHER


def with_interest(words: str, interest: float) -> str:
    """`the same within 5 %` of SAME_WITHIN: {within} becomes the smallest difference that matters."""
    return words.replace("{within}", f"{100 * interest:g} %")


def per_gpu(used: pd.DataFrame) -> pd.DataFrame:
    """The frame with what is counted per GPU."""
    return used.assign(output_tok_s_per_gpu=used["output_throughput_tok_s"] / used["gpus"])


def decide(used: pd.DataFrame, measures: Sequence[Measure] = MEASURES, *, interest: float = INTEREST) -> tuple[Decision, ...]:
    """A decision for each setting and measure where both kinds of arms have valid measurements, in the settings' order; none by
    throughput at a request rate, where it is the load that was offered. `interest`: of analysis.stats.inference.compare."""
    frame = per_gpu(used)
    separate = dict(zip(frame["series"], frame["disaggregated"].astype(bool), strict=True))
    decisions = []
    for key, rows in frame.groupby(list(SETTING), sort=True):
        setting: dict[str, Any] = dict(zip(SETTING, key, strict=True))
        for measure in measures:
            arms = scores_of(repeats.telling(rows, measure.metric), measure)
            kinds = ({arm: of for arm, of in arms.items() if separate[arm] is kind} for kind in (True, False))
            decisions += _decision(setting, measure, compare(*kinds, interest=interest))
    return tuple(decisions)


def decide_capacity(sweeps: Sequence[Sweep], bounds: Slo, share: float, *, interest: float = INTEREST) -> tuple[Decision, ...]:
    """A decision for each load whose rates were swept on both kinds of arms."""
    decisions = []
    for load, mine in by_load(sweeps).items():
        setting = dict(zip(LOAD, load, strict=True))
        decisions += _decision(setting, CAPACITY, compare(*scores(mine, bounds, share), interest=interest))
    return tuple(decisions)


def _decision(setting: Mapping[str, Any], measure: Measure, found: Comparison | None) -> list[Decision]:
    if found is None:
        return []
    ratio = found if measure.largest else found.inverse()
    return [Decision(setting, measure, ratio, OUTCOMES.get(found.outcome, UNDECIDED))]


def scores_of(rows: pd.DataFrame, measure: Measure) -> dict[str, list[Score]]:
    """Of one setting's records: each arm's score in each of its starts, the mean over the start's repeats. Plain dictionaries: of
    ten thousand records thousands of small groups are compared, and each selection in a DataFrame would take a millisecond."""
    values: dict[str, dict[int, list[float]]] = {}
    sign = 1.0 if measure.largest else -1.0
    for arm, start, value in rows[["series", "start", measure.metric]].itertuples(index=False, name=None):
        if value > 0:
            values.setdefault(arm, {}).setdefault(start, []).append(sign * math.log(value))
    return {arm: [of_repeats(some) for some in starts.values()] for arm, starts in values.items()}


def sentence(decisions: Sequence[Decision], measure: Measure, over: Mapping[str, str] | None = None) -> str:
    """One sentence on one measure over all settings: `Do not disaggregate, by output tokens/s per GPU: …`. `over`: what carried the
    KV of each P/D arm, in words. Empty without any decision."""
    mine = [d for d in decisions if d.measure == measure]
    if not mine:
        return ""
    counts = Counter(d.outcome for d in mine)
    parts = [_side_text(mine, side) for side in (DISAGGREGATE, TOGETHER) if counts[side]]
    parts += [_same_text([d for d in mine if d.outcome == SAME])] if counts[SAME] else []
    parts += [_open_text([d for d in mine if d.outcome == UNDECIDED])] if counts[UNDECIDED] else []
    parts += [_one_start_text([d for d in mine if d.outcome == ONE_START])] if counts[ONE_START] else []
    arms = dict.fromkeys(d.pd_arm for d in mine)
    parts += [f"{arm} moved KV over {(over or {}).get(arm) or 'unknown'}" for arm in arms]
    of = f"of {repeats.plural(len(mine), 'workload')}"
    return f"{headline(counts)}, by {measure.words}: {of}, {'; '.join(parts)}."


HEADLINES = {
    DISAGGREGATE: "Disaggregate",
    TOGETHER: "Do not disaggregate",
    SAME: "It makes no difference",
    UNDECIDED: "Whether to disaggregate cannot be told",
    ONE_START: "Whether to disaggregate cannot be told from one start of each arm",
}


def headline(counts: Mapping[str, int]) -> str:
    """What the decisions say together: the commonest outcome, unless some say one thing and some the other."""
    if counts.get(DISAGGREGATE) and counts.get(TOGETHER):
        return "It depends on the workload"
    return HEADLINES[max(HEADLINES, key=lambda outcome: counts.get(outcome, 0))]


def _side_text(mine: Sequence[Decision], side: str) -> str:
    """`at 7 route_4 is better: pd_1p3d's mean TTFT is 1.2 [1.1, 1.3] to 2.6 [2.1, 3.2] times route_4's`."""
    won = [d for d in mine if d.outcome == side]
    better = _names(Counter(d.pd_arm if side == DISAGGREGATE else d.plain_arm for d in won))
    return f"at {len(won)} {better} is better: {_says(won)}"


def _same_text(mine: Sequence[Decision]) -> str:
    return f"at {len(mine)} the two are {with_interest(SAME_WITHIN, mine[0].ratio.interest)}: {_says(mine)}"


def _open_text(mine: Sequence[Decision]) -> str:
    return f"at {len(mine)} the two cannot be told apart: {_says(mine)}"


def _one_start_text(mine: Sequence[Decision]) -> str:
    """What the starts that were measured show, and that they are no more than that."""
    sides = {side: [d for d in mine if d.leaning == side] for side in (DISAGGREGATE, TOGETHER)}
    better = {side: _names(Counter(d.pd_arm if side == DISAGGREGATE else d.plain_arm for d in won)) for side, won in sides.items()}
    parts = [f"{better[side]} is better at {len(won)}" for side, won in sides.items() if won]
    if open_ := sum(d.leaning is None for d in mine):
        parts.append(f"the two cannot be told apart at {open_}")
    said = f"in the one start of each arm {' and '.join(parts)}: {_says(mine)}"
    return f"{said}; what other starts would show is not known ({MORE_STARTS})"


def _says(mine: Sequence[Decision]) -> str:
    """The smallest ratio and the largest, each with its interval; those of which nothing is known only where there is no other."""
    ratios = sorted((d.ratio for d in mine if not math.isnan(d.ratio.value)), key=lambda ratio: ratio.value)
    ratios = ratios or [mine[0].ratio]
    separate, plain = (_names(Counter(arms)) for arms in ([d.pd_arm for d in mine], [d.plain_arm for d in mine]))
    span = ratio_text(ratios[0]) + (f" to {ratio_text(ratios[-1])}" if len(ratios) > 1 else "")
    return mine[0].measure.says.format(pd=separate, ratio=span, plain=plain)


def _names(arms: Counter[str]) -> str:
    """`pd_1p3d or pd_2p2d`, the commonest first."""
    return " or ".join(name for name, _ in arms.most_common())


def decisions_of(used: pd.DataFrame, by_capacity: Sequence[Decision] = (), *, interest: float = INTEREST) -> tuple[Decision, ...]:
    """By capacity where rates were swept, else by throughput and latencies."""
    return tuple(by_capacity) or decide(used, interest=interest)


def verdict(used: pd.DataFrame, by_capacity: Sequence[Decision] = (), *, interest: float = INTEREST) -> list[str]:
    """Sentences: one for each measure, then what they stand on. None where arms of one kind are missing."""
    decisions = decisions_of(used, by_capacity, interest=interest)
    if not decisions:
        return []
    over = repeats.transports(used)
    sentences = [text for measure in (CAPACITY, *MEASURES) if (text := sentence(decisions, measure, over))]
    if (used["request_rate"] < math.inf).any() and decisions[0].measure != CAPACITY:
        sentences.append(repeats.OFFERED)
    sure = sum(d.outcome != ONE_START for d in decisions)
    if sure:
        sentences.append(
            "Better means that the 95 % interval of the ratio over starts excludes equality, corrected for the choice of the best "
            f"arm; of {sure} comparisons {sure / 20:.1g} would look so by chance between equal arms."
        )
    unverified = repeats.unverified_text(used.assign(use="used"))
    return [*sentences, *([f"Of the measurements behind this {unverified}."] if unverified else [])]
