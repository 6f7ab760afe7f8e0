"""Repeats in, how well their mean is known out: Student's t interval, for the driver and for the analysis."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence

MIN_REPEATS = 3  # repeats from which on an interval is worth its name: with 2, t is 12.7


def t_95(freedom: int) -> float:
    """The two-sided 95 % point of Student's t; NaN without a degree of freedom."""
    return t_above(0.025, freedom)


@functools.cache
def t_above(share: float, freedom: int) -> float:
    """The value that Student's t with so many degrees of freedom exceeds with probability `share`, above 0 and below 0.5; NaN
    without a degree of freedom. Found by halving, to nine digits or more."""
    if freedom < 1:
        return math.nan
    low, high = 0.0, 1.0
    while exceeds(high, freedom) > share:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if exceeds(middle, freedom) > share else (low, middle)
    return (low + high) / 2


def exceeds(t: float, freedom: int) -> float:
    """The probability that Student's t exceeds `t`, 0 or more: the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(freedom))
    cos2 = math.cos(angle) ** 2
    term = total = math.cos(angle) if freedom % 2 and freedom > 1 else float(freedom % 2 == 0)
    for k in range(3 if freedom % 2 else 2, freedom - 1, 2):
        term *= cos2 * (k - 1) / k
        total += term
    inside = math.sin(angle) * total
    return (1 - (2 / math.pi * (angle + inside) if freedom % 2 else inside)) / 2


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % t interval of the mean, in the values' unit; NaN for fewer than MIN_REPEATS values: their spread is not
    known."""
    if len(values) < MIN_REPEATS:
        return math.nan
    return t_95(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def relative_half_width(values: Sequence[float]) -> float:
    """half_width as a share of the mean; NaN where either is not known, infinite about a mean of 0."""
    half = half_width(values)
    mean = statistics.fmean(values) if values else math.nan
    return half / abs(mean) if mean else math.inf if half > 0 else math.nan
