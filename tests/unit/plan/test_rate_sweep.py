"""Which rate is measured next, and what a request has to keep."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pdslurm.config import Search
from pdslurm.errors import ResultsError
from pdslurm.plan.rate_sweep import expected_points, held, next_rung, rates
from pdslurm.records.good_requests import good_share, is_good, read_requests
from pdslurm.records.measurement import REQUEST_COLUMNS

SLO = {"ttft_ms": 500.0, "tpot_ms": 50.0, "e2el_ms": None}
GOOD: dict[str, float | None] = {"ok": 1.0, "ttft_ms": 500.0, "tpot_ms": 50.0, "e2el_ms": 9e9, "output_len": 32.0}


@pytest.mark.parametrize(
    ("search", "ladder"),
    [
        (Search(1.0, 4.0, 2.0), (1.0, 2.0, 4.0)),
        (Search(1.0, 3.9, 2.0), (1.0, 2.0)),
        (Search(2.0, 2.0, 1.25), (2.0,)),
        (Search(1.0, 2.0, 1.25), (1.0, 1.25, 1.56, 1.95)),
    ],
)
def test_rates(search: Search, ladder: tuple[float, ...]) -> None:
    assert rates(search) == ladder


@pytest.mark.parametrize(
    ("outcomes", "rung"),
    [
        ({}, -1),
        ({0: False}, -1),
        ({2: True}, 2),
        ({1: True, 3: False}, 1),
        ({1: True, 2: False, 3: True}, 1),
        ({2: False, 3: True}, -1),
    ],
)
def test_held_is_below_every_rung_that_is_not(outcomes: dict[int, bool], rung: int) -> None:
    assert held(outcomes) == rung


@pytest.mark.parametrize("count", [1, 2, 5, 16])
@pytest.mark.parametrize("start", [-1, 0, 2, 7, 15, 99])
def test_a_search_finds_the_highest_rung_that_is_held(count: int, start: int) -> None:
    for answer in range(-1, count):
        outcomes: dict[int, bool] = {}
        while (rung := next_rung(outcomes, count, start)) is not None:
            assert rung not in outcomes
            outcomes[rung] = rung <= answer
        assert held(outcomes) == answer
        if count == 16 and abs(answer - start) <= 1:
            assert len(outcomes) <= 3


def test_a_search_ends_where_noise_holds_a_rate_above_one_that_is_lost() -> None:
    outcomes: dict[int, bool] = {}
    while (rung := next_rung(outcomes, 16, 5)) is not None:
        outcomes[rung] = rung in (0, 1, 2, 3, 5, 6)
    assert len(outcomes) <= 16


def test_the_cost_that_is_planned_is_about_what_a_search_takes() -> None:
    used = []
    for answer in range(-1, 16):
        outcomes: dict[int, bool] = {}
        while (rung := next_rung(outcomes, 16, 8)) is not None:
            outcomes[rung] = rung <= answer
        used.append(len(outcomes))
    assert abs(sum(used) / len(used) - expected_points(16, first=True)) < 1.5


# --- goodput


@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ({}, True),
        ({"ttft_ms": 500.1}, False),
        ({"tpot_ms": 50.1}, False),
        ({"ok": 0.0}, False),
        ({"ttft_ms": None}, False),
        ({"tpot_ms": None}, False),
        ({"tpot_ms": None, "output_len": 1.0}, True),
    ],
)
def test_a_good_request(changes: dict[str, float | None], good: bool) -> None:
    assert is_good({**GOOD, **changes}, SLO) is good


def test_the_share_of_good_requests() -> None:
    late = {**GOOD, "ttft_ms": 900.0}
    assert good_share([GOOD, GOOD, GOOD, late], SLO) == 0.75
    assert good_share([late], dict.fromkeys(SLO)) == 1.0
    assert good_share([], SLO) is None


def test_requests_are_read_with_what_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "x.requests.csv.gz"
    path.write_bytes(gzip.compress((",".join(REQUEST_COLUMNS) + "\n0.5,64,1,12.5,,,12.5,1\n").encode()))
    (request,) = read_requests(path)
    assert request == {"start_s": 0.5, "input_len": 64.0, "output_len": 1.0, "ttft_ms": 12.5, "tpot_ms": None,
                       "itl_max_ms": None, "e2el_ms": 12.5, "ok": 1.0}  # fmt: skip


@pytest.mark.parametrize(
    "content", [None, b"no gzip", gzip.compress(b"start_s\nsoon\n", mtime=0)], ids=["missing", "no gzip", "no number"]
)
def test_a_file_of_requests_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.requests.csv.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ResultsError, match=r"x\.requests\.csv\.gz: not a file of requests"):
        read_requests(path)
