"""The highest request rate at which an arm meets the SLO: which rate of a sweep to measure next. Pure.

An arm meets the SLO at a rate when the SLO's share of its requests is good there. Every repeat sweeps the rates by itself, with
seeds of its own, so that the highest rates of the repeats have a spread, and arms are compared in pairs."""

from __future__ import annotations

from collections.abc import Mapping

from pdslurm.config import Search


def rates(search: Search) -> tuple[float, ...]:
    """The rates of a sweep: `lowest` times powers of `step`, up to `highest`, to three significant digits."""
    assert search.lowest is not None
    found = [search.lowest]
    while (rate := float(f"{search.lowest * search.step ** len(found):.3g}")) <= search.highest:
        found.append(rate)
    return tuple(dict.fromkeys(found))


def highest_met(outcomes: Mapping[int, bool]) -> int:
    """The number of the highest rate that meets the SLO below every one that misses it; -1 where none does. `outcomes`: a rate's
    number in its sweep → whether it met the SLO."""
    missed = min((n for n, ok in outcomes.items() if not ok), default=None)
    return max((n for n, ok in outcomes.items() if ok and (missed is None or n < missed)), default=-1)


def next_rate(outcomes: Mapping[int, bool], count: int, start: int) -> int | None:
    """The number of the rate to measure next in a sweep of `count` rates; None once the highest one that meets the SLO is known.
    Begins at `start`, doubles its stride until the answer lies between two rates, then halves: from a start that is off by d rates
    about 2·log2(d) + 2 points."""
    start = min(max(start, 0), count - 1)
    if not outcomes:
        return start
    low = highest_met(outcomes)
    high = min((n for n, ok in outcomes.items() if not ok), default=count)
    if high - low == 1:
        return None
    if low >= 0 and high < count:
        return (low + high) // 2
    if high == count:  # all met it
        return min(2 * low - start if low > start else start + 1, count - 1)
    return max(2 * high - start if high < start else start - 1, 0)  # none did


def expected_points(count: int, *, first: bool) -> int:
    """About how many points a sweep takes, for the plan's cost: from its middle at first, then from the last repeat's answer."""
    return count.bit_length() + 1 if first else 3
