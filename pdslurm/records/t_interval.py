"""Repeats in, how well their mean is known out: Student's t interval, for the driver and for the analysis."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Sequence

LEVEL = 0.025  # of each end of a 95 % interval
MIN_REPEATS = 3  # repeats from which on an interval is worth its name: with 2, t is 12.7


def t_95(freedom: int) -> float:
    """The two-sided 95 % point of Student's t; NaN without a degree of freedom."""
    return t_above(0.025, freedom)


@functools.cache
def t_above(share: float, freedom: float) -> float:
    """The value that Student's t with so many degrees of freedom exceeds with probability `share`, above 0 and below 0.5; NaN for
    fewer than one."""
    if freedom < 1:
        return math.nan
    return _above(lambda t: beta_share(freedom / (freedom + t * t), freedom / 2, 0.5) / 2, share)


@functools.cache
def f_above(share: float, first: int, second: int) -> float:
    """The value that the ratio of two variances with so many degrees of freedom (Fisher's F) exceeds with probability `share`."""
    return _above(lambda f: beta_share(second / (second + first * f), second / 2, first / 2), share)


def _above(exceeds: Callable[[float], float], share: float) -> float:
    """Where a falling probability reaches `share`, by halving, to nine digits or more."""
    low, high = 0.0, 1.0
    while exceeds(high) > share:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if exceeds(middle) > share else (low, middle)
    return (low + high) / 2


def beta_share(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by Lentz's continued fraction (Abramowitz and Stegun 26.5.8)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_share(1 - x, b, a)
    product, c, d = 1.0, math.inf, 1.0
    for n in range(1, 400):
        m = n // 2
        term = (-(a + m) * (a + b + m) if n % 2 else m * (b - m)) * x / ((a + n - 1) * (a + n))
        c, d = 1 + term / c, 1 / (1 + term * d)
        product *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) * product / a


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
