"""Which rate is measured next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from statistics import fmean

import pytest

from pdslurm.config import Search
from pdslurm.plan.rate_sweep import Known, expected_points, highest_met, likely_rates, middle, next_rate, rates

BARE = Search(lowest=1.0, step=1.25, fine=1, beside=0)
FINE = replace(BARE, fine=4)
WHOLE = replace(FINE, beside=1, cover=4.0)


@pytest.mark.parametrize(
    ("search", "swept"),
    [
        (Search(1.0, 4.0, 2.0, fine=1), (1.0, 2.0, 4.0)),
        (Search(1.0, 3.9, 2.0, fine=1), (1.0, 2.0)),
        (Search(2.0, 2.0, 1.25), (2.0,)),
        (Search(1.0, 2.0, 1.25, fine=1), (1.0, 1.25, 1.56, 1.95)),
        (Search(1.0, 1.5, 1.25, fine=4), (1.0, 1.06, 1.12, 1.18, 1.25, 1.32, 1.4, 1.48)),
        (Search(1.0, 2.0, 2.0, fine=2), (1.0, 1.41, 2.0)),
        (Search(1.0, 1.02, 1.01, fine=4), (1.0, 1.01, 1.02)),  # three digits: none twice
    ],
)
def test_rates(search: Search, swept: tuple[float, ...]) -> None:
    assert rates(search) == swept


def test_the_coarse_rates_are_among_the_fine_ones() -> None:
    coarse, fine = (rates(Search(0.5, 128.0, 1.25, fine=n)) for n in (1, 4))
    assert fine[::4] == coarse
    assert max(b / a for a, b in pairwise(fine)) < 1.065


@pytest.mark.parametrize(
    ("outcomes", "n"),
    [
        ({}, -1),
        ({0: False}, -1),
        ({2: True}, 2),
        ({1: True, 3: False}, 1),
        ({1: True, 2: False, 3: True}, 1),
        ({2: False, 3: True}, -1),
    ],
)
def test_the_highest_met_is_below_every_rate_that_misses(outcomes: dict[int, bool], n: int) -> None:
    assert highest_met(outcomes) == n


@pytest.mark.parametrize(
    ("count", "fine", "begins"), [(1, 1, 0), (6, 1, 3), (21, 1, 10), (6, 4, 4), (100, 4, 48), (101, 4, 52), (3, 4, 0)]
)
def test_a_sweep_begins_at_the_coarse_rate_in_the_middle(count: int, fine: int, begins: int) -> None:
    assert middle(count, replace(FINE, fine=fine)) == begins


@pytest.mark.parametrize(
    ("known", "is_first", "expected"),
    [
        pytest.param(Known({}), True, 40, id="begins at the start"),
        pytest.param(Known({40: True}), True, 44, id="one coarse step up"),
        pytest.param(Known({40: True}), False, 41, id="one fine step up"),
        pytest.param(Known({40: True, 44: True, 48: True}), True, 56, id="the strides double"),
        pytest.param(Known({40: True, 41: True, 42: True}), False, 44, id="the fine strides too"),
        pytest.param(Known({40: False, 36: False}), True, 32, id="downwards"),
        pytest.param(Known({40: True, 48: False}), True, 44, id="halves"),
        pytest.param(Known({40: True, 41: False}), True, 39, id="beside, below"),
        pytest.param(Known({39: True, 40: True, 41: False}), True, 42, id="beside, above"),
        pytest.param(Known({39: True, 40: True, 41: False, 42: False}), True, 44, id="the nearest that covers, above"),
        pytest.param(Known({39: True, 40: True, 41: False, 42: False, 44: False}, {44}), True, 32, id="up to an overload"),
        pytest.param(Known({39: True, 40: True, 41: False, 42: False, 44: False}), True, 32, id="as near as the next one above"),
        pytest.param(
            Known({32: True, 39: True, 40: True, 41: False, 42: False, 44: False}), True, 48, id="a miss is no overload"
        ),
        pytest.param(
            Known({**dict.fromkeys((16, 24, 32, 39, 40), True), **dict.fromkeys((41, 42, 44), False)}, {44}), True, None,
            id="all is known: down to a quarter",
        ),
        pytest.param(Known({}, closed={40}), True, None, id="the first one cannot be measured"),
        pytest.param(Known({40: True, 48: False}, closed={44}), True, 43, id="beside an invalid one in the bracket"),
        pytest.param(Known({40: True, 48: False}, closed=set(range(42, 47))), True, 39, id="too many invalid ones in the bracket"),
        pytest.param(Known({40: True, 42: False}, closed={41}), True, 39, id="an invalid one alone in the bracket leaves the rest"),
        pytest.param(Known({40: True, 41: False}, closed={39, 42}), True, 44, id="an invalid one beside leaves the rest"),
        pytest.param(
            Known({39: True, 40: True, 41: False, 42: False}, closed={44}), True, 32, id="an invalid one above leaves the rest"
        ),
    ],
)  # fmt: skip
def test_the_next_rate(known: Known, is_first: bool, expected: int | None) -> None:
    assert next_rate(known, 60, search=WHOLE, start=40, is_first=is_first) == expected


def swept(count: int, search: Search, start: int, answer: int, *, is_first: bool = True, overload: int = 6) -> Mapping[int, bool]:
    """The rates that a sweep measures, in their order, where rates up to `answer` meet the SLO and those `overload` above it are
    overloaded."""
    outcomes: dict[int, bool] = {}
    overloaded: set[int] = set()
    while (n := next_rate(Known(outcomes, overloaded), count, search=search, start=start, is_first=is_first)) is not None:
        assert n not in outcomes, "no rate is measured twice"
        assert 0 <= n < count
        outcomes[n] = n <= answer
        overloaded |= {n} if n >= answer + overload else set()
    return outcomes


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("search", [BARE, FINE, WHOLE, replace(WHOLE, beside=3, cover=1.5)], ids=["bare", "fine", "whole", "wide"])
@pytest.mark.parametrize("count", [1, 2, 5, 16, 50])
def test_every_sweep_ends_with_the_capacity_between_neighbours(count: int, search: Search, is_first: bool) -> None:
    for start in range(-1, count + 2):
        for answer in range(-1, count):
            outcomes = swept(count, search, start, answer, is_first=is_first)
            assert highest_met(outcomes) == answer
            around = {answer - k for k in range(search.beside + 1)} | {answer + 1 + k for k in range(search.beside + 1)}
            if answer < count - 1:
                assert {n for n in around if 0 <= n < count} <= set(outcomes)


def test_a_sweep_that_begins_near_its_answer_is_short() -> None:
    for answer in range(3, 13):
        for off in (-1, 0, 1):
            assert len(swept(16, BARE, answer + off, answer)) <= 3
            assert len(swept(64, FINE, 4 * answer + off, 4 * answer, is_first=False)) <= 3


@pytest.mark.parametrize("answer", [10, 21, 37, 44])
def test_what_covers_other_slos_is_measured_at_coarse_rates_from_the_nearest_on(answer: int) -> None:
    order = list(swept(60, WHOLE, answer, answer, is_first=False))
    needed = set(swept(60, replace(WHOLE, cover=None), answer, answer, is_first=False))
    cover = [n for n in order if n not in needed]
    assert order[: len(needed)] == [n for n in order if n in needed], "the rates that cover come last"
    assert all(n % 4 == 0 for n in cover)
    assert [abs(n - answer) for n in cover] == sorted(abs(n - answer) for n in cover)
    below = [n for n in cover if n < answer]
    assert below == [n for n in range(answer - 2, -1, -1) if n % 8 == 0 and answer - n <= 24]
    assert sum(n >= answer + 6 for n in cover) == 1, "one that is overloaded is enough"


def test_a_sweep_ends_where_noise_lets_a_rate_pass_above_one_that_misses() -> None:
    for search in (BARE, FINE, WHOLE):
        outcomes: dict[int, bool] = {}
        while (n := next_rate(Known(outcomes), 16, search=search, start=5, is_first=True)) is not None:
            assert n not in outcomes
            outcomes[n] = n in (0, 1, 2, 3, 5, 6)
        assert highest_met(outcomes) == (3 if 4 in outcomes else 6)


@pytest.mark.parametrize(("met", "expected"), [({3, 6}, 7), ({3, 6, 7}, 8)], ids=["the highest met it", "again, one further up"])
def test_a_sweep_goes_on_above_where_its_highest_rate_met_the_slo(met: set[int], expected: int) -> None:
    outcomes = {n: n in met for n in range(3, expected)}
    search = replace(BARE, beside=1)
    assert next_rate(Known(outcomes, closed={2}), 16, search=search, start=5, is_first=True) == expected


def test_a_sweep_goes_on_below_where_its_lowest_rate_missed_the_slo() -> None:
    known = Known({3: False, 4: True, 5: True, 6: False}, closed={0, 1})
    assert next_rate(known, 16, search=replace(BARE, beside=1), start=5, is_first=True) == 2


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("search", [BARE, FINE, WHOLE], ids=["bare", "fine", "whole"])
def test_the_cost_that_is_planned_is_about_what_a_sweep_takes(search: Search, is_first: bool) -> None:
    count = len(rates(replace(search, lowest=0.5, highest=128.0)))
    used = []
    for answer in range(count // 6, count * 5 // 6):
        starts = [middle(count, search)] if is_first else [answer + off for off in (-1, 0, 1)]
        used += [len(swept(count, search, start, answer, is_first=is_first, overload=2 * search.fine)) for start in starts]
    assert abs(fmean(used) - expected_points(count, search=search, is_first=is_first)) < 1.5


def test_a_sweep_costs_no_more_than_its_rates() -> None:
    assert expected_points(3, search=WHOLE, is_first=True) == 3


@pytest.mark.parametrize(("is_known", "order"), [(False, [8, 4, 12, 0, 16]), (True, [8, 7, 9, 6, 10, 5, 11, 4, 12, 0, 16])])
def test_prompts_are_made_ahead_for_coarse_rates_and_those_around_a_capacity(is_known: bool, order: list[int]) -> None:
    likely = likely_rates(17, 8, FINE, is_known=is_known)
    assert sorted(likely, key=lambda n: (likely[n], n)) == order
