"""Judged records in, how arms differ out: repeats are compared in pairs that sent the same prompts, as ratios.

A ratio of two throughputs is what people ask for ("12 % more"), and its logarithm is nearer to normal than a difference. Seeds are
the same in every arm at the same setting and repeat (plan/points.py), so what prompts do to a number drops out of a pair."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from analysis.load.frame import SETTING
from pdslurm.records.t_interval import MIN_REPEATS, half_width

PAIR = (*SETTING, "repeat", "seed")
Pair = tuple[object, ...]


@dataclass(frozen=True)
class Ratio:
    """How many times larger one arm's number is than another's: geometric mean over `pairs` repeats and its 95 % t interval; low
    and high are NaN for fewer than three pairs, whose spread is not known."""

    value: float
    low: float
    high: float
    pairs: int

    @property
    def is_apart(self) -> bool:
        """Whether the interval excludes equality; false where there is none."""
        return self.low > 1.0 or self.high < 1.0

    @property
    def is_known(self) -> bool:
        return not math.isnan(self.low)

    def inverse(self) -> Ratio:
        return Ratio(1 / self.value, 1 / self.high, 1 / self.low, self.pairs)


UNKNOWN = Ratio(math.nan, math.nan, math.nan, 0)


def by_pair(used: pd.DataFrame, metric: str) -> dict[str, dict[Pair, float]]:
    """Series → pair → value, without unknown ones. Plain dictionaries: of ten thousand records thousands of small groups are
    compared, and each selection in a DataFrame would take a millisecond."""
    found: dict[str, dict[Pair, float]] = {}
    for label, value, *pair in used[["series", metric, *PAIR]].itertuples(index=False, name=None):
        if not math.isnan(value):
            found.setdefault(label, {})[tuple(pair)] = value
    return found


def ratio_of(one: Mapping[Pair, float], other: Mapping[Pair, float]) -> Ratio:
    """The ratio over the pairs that both have; unknown without any, or with a number that is not above 0."""
    both = [(value, other[pair]) for pair, value in one.items() if pair in other]
    if not both or min(map(min, both)) <= 0:
        return UNKNOWN
    logs = [math.log(a / b) for a, b in both]
    mean = math.fsum(logs) / len(logs)
    half = half_width(logs) if len(logs) >= MIN_REPEATS else math.nan
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(logs))


def ratio_text(ratio: Ratio) -> str:
    """`2.6 [2.1, 3.2]`: how many times the second's number the first's is; `2.6` where the spread is not known, `?` where nothing
    is."""
    value, low, high = (_digits(bound) for bound in (ratio.value, ratio.low, ratio.high))
    return f"{value} [{low}, {high}]" if ratio.is_known else value


def times_text(ratio: Ratio) -> str:
    """`×2.6`, `?` where it is not known."""
    return "?" if math.isnan(ratio.value) else f"×{_digits(ratio.value)}"


def _digits(value: float) -> str:
    """Three digits; a whole number from 1000 on."""
    return "?" if math.isnan(value) else f"{value:.3g}" if value < 999.5 else f"{value:.0f}"
