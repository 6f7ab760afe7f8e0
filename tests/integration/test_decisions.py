"""A small part of the simulation behind docs/answers.md: how often the answer errs, and how often it is silent.

Every bound is what the answer promises, widened by three standard errors of so few simulated experiments."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from analysis.stats.inference import BETTER, UNDECIDED
from tests.decisions import Cell, Tally, tally_of

JOBS = 2
COVERED, WRONG = 0.93, 0.05  # the least share of 95 % intervals that hold the truth, the largest share of wrong answers
FOUND = {Cell((1, 1), better=0.2): 0.85, Cell((3, 1), better=0.2): 0.85, Cell((7, 7), better=0.3, start_sd=0.05): 0.75}
RUNS = {
    **dict.fromkeys(FOUND, 60),
    Cell((7, 7), better=0.3, start_sd=0.05): 30,
    Cell((3, 1), start_sd=0.05): 60,
    Cell((3, 3), noisy=3): 40,
    Cell((2, 1), better=0.2, highest=20.0): 60,
    Cell((2, 1), better=0.2, highest=16.0): 40,
}


def least(share: float, count: int) -> float:
    """What a share may fall to in so many independent cases."""
    return share - 3 * math.sqrt(share * (1 - share) / count)


@pytest.fixture(scope="module")
def tallies() -> Mapping[Cell, Tally]:
    return {cell: tally_of(cell, runs, JOBS) for cell, runs in RUNS.items()}


def test_intervals_hold_the_truth(tallies: Mapping[Cell, Tally]) -> None:
    for cell, tally in tallies.items():
        assert tally.covered / tally.runs >= least(COVERED, tally.runs), cell.name
        assert tally.arms_covered / tally.arms >= least(COVERED, tally.runs), f"arms of one run are not independent: {cell.name}"
        assert tally.zero_width == 0, cell.name
    runs, covered = sum(each.runs for each in tallies.values()), sum(each.covered for each in tallies.values())
    assert covered / runs >= least(COVERED, runs)


def test_few_answers_are_wrong(tallies: Mapping[Cell, Tally]) -> None:
    runs, wrong = sum(each.runs for each in tallies.values()), sum(each.wrong for each in tallies.values())
    assert 1 - wrong / runs >= least(1 - WRONG, runs)


@pytest.mark.parametrize("cell", FOUND, ids=lambda cell: cell.name)
def test_a_better_arm_is_found(tallies: Mapping[Cell, Tally], cell: Cell) -> None:
    assert tallies[cell].share(BETTER) >= least(FOUND[cell], tallies[cell].runs)


def test_where_every_rate_meets_the_slo_nothing_can_be_told(tallies: Mapping[Cell, Tally]) -> None:
    for cell, tally in tallies.items():
        if cell.highest < 17:
            assert tally.share(UNDECIDED) >= least(0.99, tally.runs), cell.name
