"""The highest request rate that an arm holds: which rung of a ladder of rates to measure next. Pure.

An arm holds a rate when the SLO's share of its requests is good there. Every repeat climbs the ladder by itself, with seeds of its
own, so that the rates held in the repeats have a spread, and arms are compared in pairs."""

from __future__ import annotations

from collections.abc import Mapping

from pdslurm.config import Search


def rates(search: Search) -> tuple[float, ...]:
    """The ladder: `lowest` times powers of `step`, up to `highest`. Three significant digits, so that a rate reads as one."""
    assert search.lowest is not None
    found = [search.lowest]
    while (rate := float(f"{search.lowest * search.step ** len(found):.3g}")) <= search.highest:
        found.append(rate)
    return tuple(dict.fromkeys(found))


def held(outcomes: Mapping[int, bool]) -> int:
    """The highest rung that is held below every one that is not; -1 where none is. `outcomes`: rung → whether it was held."""
    lost = min((rung for rung, ok in outcomes.items() if not ok), default=None)
    return max((rung for rung, ok in outcomes.items() if ok and (lost is None or rung < lost)), default=-1)


def next_rung(outcomes: Mapping[int, bool], count: int, start: int) -> int | None:
    """What to measure next on a ladder of `count` rungs; None once the highest held one is known. Begins at `start`, doubles its
    stride until the answer lies between two rungs, then halves: from a start that is off by d rungs about 2·log2(d) + 2 points."""
    start = min(max(start, 0), count - 1)
    if not outcomes:
        return start
    low = held(outcomes)
    high = min((rung for rung, ok in outcomes.items() if not ok), default=count)
    if high - low == 1:
        return None
    if low >= 0 and high < count:
        return (low + high) // 2
    if high == count:  # all were held
        return min(2 * low - start if low > start else start + 1, count - 1)
    return max(2 * high - start if high < start else start - 1, 0)  # none was


def expected_points(count: int, *, first: bool) -> int:
    """About how many points a ladder takes, for the plan's cost: from its middle at first, then from the last repeat's answer."""
    return count.bit_length() + 1 if first else 3
