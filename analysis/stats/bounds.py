"""Numbers that are not known exactly in, the interval of what is computed from them out."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pdslurm.records.t_interval import half_width

Operation = Callable[[float, float], float]


@dataclass(frozen=True)
class Bounded:
    """A best value and the bounds that it is known within. Bounds are carried to the end, never added in squares: what comes
    out is too wide rather than too narrow, since the errors of two measurements need not be independent."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"interval {self.low} to {self.high} does not hold its value {self.value}; give low ≤ value ≤ high")

    def __mul__(self, other: Bounded | float) -> Bounded:
        return _corners(lambda a, b: a * b, self, exact(other))

    def __truediv__(self, other: Bounded | float) -> Bounded:
        divisor = exact(other)
        if divisor.low <= 0 <= divisor.high:
            raise ValueError(f"cannot divide by an interval with 0 in it, {divisor.low} to {divisor.high}")
        return _corners(lambda a, b: a / b, self, divisor)

    def __add__(self, other: Bounded | float) -> Bounded:
        more = exact(other)
        return Bounded(self.value + more.value, self.low + more.low, self.high + more.high)

    def __sub__(self, other: Bounded | float) -> Bounded:
        less = exact(other)
        return Bounded(self.value - less.value, self.low - less.high, self.high - less.low)

    def overlaps(self, other: Bounded) -> bool:
        return self.low <= other.high and other.low <= self.high


def exact(value: Bounded | float) -> Bounded:
    """An interval of no width, or what is one already."""
    return value if isinstance(value, Bounded) else Bounded(value, value, value)


def within(value: float, error: float) -> Bounded:
    """`value` ± `error`."""
    return Bounded(value, value - error, value + error)


def least(*intervals: Bounded) -> Bounded:
    """The interval of the least of several: min is monotone in each, so bounds go through."""
    return Bounded(min(i.value for i in intervals), min(i.low for i in intervals), min(i.high for i in intervals))


def over(function: Callable[..., float], *operands: Bounded) -> Bounded:
    """The interval of a function of several: its least and largest value at the ends of their intervals, all combinations of them,
    which hold its extremes where it is monotone in each operand."""
    ends = [function(*corner) for corner in itertools.product(*((each.low, each.high) for each in operands))]
    value = function(*(each.value for each in operands))
    return Bounded(value, min(value, *ends), max(value, *ends))


def of_repeats(values: Sequence[float]) -> Bounded:
    """The mean of repeats that are all above 0, and its 95 % t interval, of which nothing lies below half of the smallest; of two
    their range, of one itself. Raises ValueError without any."""
    if not values:
        raise ValueError("the mean of no repeats")
    mean, half = statistics.fmean(values), half_width(values)
    if math.isnan(half):
        return Bounded(mean, min(values), max(values))
    return Bounded(mean, max(mean - half, min(values) / 2), mean + half)


def _corners(operation: Operation, a: Bounded, b: Bounded) -> Bounded:
    """`operation` is monotone in each operand over the intervals, so its extremes lie at their ends."""
    ends = [operation(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    return Bounded(operation(a.value, b.value), min(ends), max(ends))
