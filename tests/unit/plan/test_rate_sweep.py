"""Which rate is measured next."""

from __future__ import annotations

import pytest

from pdslurm.config import Search
from pdslurm.plan.rate_sweep import expected_points, highest_met, next_rate, rates


@pytest.mark.parametrize(
    ("search", "swept"),
    [
        (Search(1.0, 4.0, 2.0), (1.0, 2.0, 4.0)),
        (Search(1.0, 3.9, 2.0), (1.0, 2.0)),
        (Search(2.0, 2.0, 1.25), (2.0,)),
        (Search(1.0, 2.0, 1.25), (1.0, 1.25, 1.56, 1.95)),
    ],
)
def test_rates(search: Search, swept: tuple[float, ...]) -> None:
    assert rates(search) == swept


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


@pytest.mark.parametrize("count", [1, 2, 5, 16])
@pytest.mark.parametrize("start", [-1, 0, 2, 7, 15, 99])
def test_a_search_finds_the_highest_rate_that_meets_the_slo(count: int, start: int) -> None:
    for answer in range(-1, count):
        outcomes: dict[int, bool] = {}
        while (n := next_rate(outcomes, count, start)) is not None:
            assert n not in outcomes
            outcomes[n] = n <= answer
        assert highest_met(outcomes) == answer
        if count == 16 and abs(answer - start) <= 1:
            assert len(outcomes) <= 3


def test_a_search_ends_where_noise_lets_a_rate_pass_above_one_that_misses() -> None:
    outcomes: dict[int, bool] = {}
    while (n := next_rate(outcomes, 16, 5)) is not None:
        outcomes[n] = n in (0, 1, 2, 3, 5, 6)
    assert len(outcomes) <= 16


def test_the_cost_that_is_planned_is_about_what_a_search_takes() -> None:
    used = []
    for answer in range(-1, 16):
        outcomes: dict[int, bool] = {}
        while (n := next_rate(outcomes, 16, 8)) is not None:
            outcomes[n] = n <= answer
        used.append(len(outcomes))
    assert abs(sum(used) / len(used) - expected_points(16, first=True)) < 1.5
