"""What is known of an arm's rate sweep in, the rate to measure next out, until its capacity and the rates around it are known.

Pure. A rate meets the SLO when the SLO's share of its requests is good there. Every repeat sweeps the rates by itself, with seeds
of its own, so that the capacities of starts and repeats show how far they differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from pdslurm.config import Search

MOST_CLOSED = 4  # rates that could not be measured: with more of them the fault is not the rate's, and the bracket stays wide
ABOVE = 2  # coarse rates above the capacity that are measured until one is overloaded, for the plan's cost


@dataclass(frozen=True)
class Known:
    """What is known of one sweep, its rates by their numbers from the lowest on."""

    meets_slo: Mapping[int, bool]
    overloaded: Set[int] = frozenset()  # rates at which the queue only grows
    closed: Set[int] = frozenset()  # rates that could not be measured, and are not tried again

    @property
    def highest_met(self) -> int:
        return highest_met(self.meets_slo)


def rates(search: Search) -> tuple[float, ...]:
    """The rates of a sweep: `lowest` times powers of `step`^(1/`fine`), up to `highest`, to three significant digits."""
    assert search.lowest is not None
    found = [search.lowest]
    while (rate := float(f"{search.lowest * search.step ** (len(found) / search.fine):.3g}")) <= search.highest:
        found.append(rate)
    return tuple(dict.fromkeys(found))


def highest_met(outcomes: Mapping[int, bool]) -> int:
    """The number of the highest rate that meets the SLO below every one that misses it; -1 where none does. `outcomes`: a rate's
    number in its sweep → whether it met the SLO."""
    missed = min((n for n, ok in outcomes.items() if not ok), default=None)
    return max((n for n, ok in outcomes.items() if ok and (missed is None or n < missed)), default=-1)


def middle(count: int, search: Search) -> int:
    """Where a sweep of `count` rates begins that knows nothing: the coarse rate in the middle."""
    return -(-count // search.fine) // 2 * search.fine


def next_rate(known: Known, count: int, *, search: Search, start: int, is_first: bool) -> int | None:
    """The number of the rate to measure next in a sweep of `count` rates; None once everything is known that the search asks for.

    First two neighbouring rates of which the lower meets the SLO and the upper misses it, beginning at `start`: by coarse strides
    where `is_first`, else by fine ones. Then the rates beside them, then those that cover other SLOs, from the nearest on."""
    n = _next_of_bracket(known.meets_slo, count, min(max(start, 0), count - 1), search.fine if is_first else 1)
    if not known.meets_slo:
        return None if n in known.closed else n
    if n is not None and (open_ := _nearest_open(n, known, count)) is not None:
        return open_
    wanted = (*_beside(known, search), *_ends(known.meets_slo), *_cover(known, count, search))
    return next((n for n in wanted if 0 <= n < count and n not in known.meets_slo and n not in known.closed), None)


def _nearest_open(n: int, known: Known, count: int) -> int | None:
    """`n`, or where that is closed the nearest open rate between the highest that meets the SLO and the lowest that misses it; None
    where all or too many are closed."""
    if n in known.closed and len(known.closed) > MOST_CLOSED:
        return None
    low, high = _bracket(known.meets_slo, count)
    return min((k for k in range(low + 1, high) if k not in known.closed), key=lambda k: abs(k - n), default=None)


def _next_of_bracket(outcomes: Mapping[int, bool], count: int, start: int, stride: int) -> int | None:
    """Doubles its stride until the capacity lies between two rates, then halves: from a start that is off by d strides about
    2·log2(d) + log2(stride) + 2 points."""
    if not outcomes:
        return start
    low, high = _bracket(outcomes, count)
    if high - low == 1:
        return None
    if low >= 0 and high < count:
        return (low + high) // 2
    if high == count:  # all met it
        return min(2 * low - start if low > start else low + stride, count - 1)
    return max(2 * high - start if high < start else high - stride, 0)  # none did


def _bracket(outcomes: Mapping[int, bool], count: int) -> tuple[int, int]:
    """The highest rate that meets the SLO and the lowest that misses it; -1 and `count` where there is none."""
    return highest_met(outcomes), min((n for n, ok in outcomes.items() if not ok), default=count)


def _beside(known: Known, search: Search) -> Iterator[int]:
    """The fine rates next to the two between which the capacity lies, from the nearest on."""
    low, high = known.highest_met, min((n for n, ok in known.meets_slo.items() if not ok), default=None)
    for k in range(1, search.beside + 1):
        yield low - k
        if high is not None:
            yield high + k


def _ends(outcomes: Mapping[int, bool]) -> Iterator[int]:
    """A rate above the highest where that meets the SLO, and one below the lowest where that misses it. Chance made a rate beneath
    miss, or one above meet it: the capacity does not lie between two measured rates yet."""
    lowest, highest = min(outcomes), max(outcomes)
    if outcomes[highest]:
        yield highest + 1
    if not outcomes[lowest]:
        yield lowest - 1


def _cover(known: Known, count: int, search: Search) -> list[int]:
    """Coarse rates farther than half a coarse step from the capacity, the nearest first: every second one down to capacity / cover,
    and every one up to the first that is overloaded. The same coarse rates for every arm, so that all have some in common."""
    if search.cover is None:
        return []
    low, high = _bracket(known.meets_slo, count)
    near, reach = max(search.fine // 2, 1), _fine_steps(search.cover, search)
    below = [n for n in range(0, low - near + 1, 2 * search.fine) if n >= low - reach]
    above = [n for n in range(0, min(known.overloaded, default=count), search.fine) if n >= high + near]
    return sorted([*below, *above], key=lambda n: abs(n - low))


def _fine_steps(factor: float, search: Search) -> float:
    """How many fine steps lie between a rate and `factor` times it."""
    return search.fine * math.log(factor) / math.log(search.step) + 1e-9


def likely_rates(count: int, around: int, search: Search, *, is_known: bool) -> dict[int, int]:
    """The rates that a sweep may come to, with how far from `around` they lie, the nearer the likelier: the coarse ones around the
    middle, and, where `around` is a capacity, the fine ones within a coarse step of it."""
    away = {n: abs(n - around) for n in range(count)}
    return {n: far for n, far in away.items() if n % search.fine == 0 or (is_known and far <= search.fine)}


def expected_points(count: int, *, search: Search, is_first: bool) -> int:
    """About how many points a sweep of `count` rates takes, for the plan's cost: from its middle at first, then from the last
    answer."""
    coarse, halvings = -(-count // search.fine), (search.fine - 1).bit_length()
    found = coarse.bit_length() + 1 + halvings if is_first else 3
    around = search.beside if is_first else 2 * search.beside  # some of what a first sweep comes by lies there already
    if search.cover is not None:
        around += int(_fine_steps(search.cover, search) / (2 * search.fine)) + (0 if is_first else ABOVE)
    return min(found + around, count)
