"""Repeats in, how well their mean is known out: Student's t interval, for the driver and for the analysis."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

# Two-sided 95 % points of Student's t for 1 to 30 degrees of freedom (NIST/SEMATECH e-Handbook 1.3.6.7.2).
T_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
MIN_REPEATS = 3  # repeats from which on an interval is worth its name: with 2, t is 12.7


def t_95(freedom: int) -> float:
    """The two-sided 95 % point of Student's t; NaN without a degree of freedom. Past the table the expansion about the
    normal distribution's point (Abramowitz and Stegun 26.7.5, two terms), good to 0.0005."""
    if freedom < 1:
        return math.nan
    if freedom <= len(T_95):
        return T_95[freedom - 1]
    z = 1.95996
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


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
