"""What a request has to keep, one at a time and by column, and the file that requests are read from."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest

from pdslurm.errors import ResultsError
from pdslurm.records.good_requests import NEVER, is_good, judged_from_s, read_requests, slo_ratio
from pdslurm.records.measurement import REQUEST_COLUMNS

SLO = {"ttft_ms": 500.0, "tpot_ms": 50.0, "e2el_ms": None}
GOOD: dict[str, float | None] = {"ok": 1.0, "ttft_ms": 500.0, "tpot_ms": 50.0, "e2el_ms": 9e9, "output_len": 32.0}


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


def test_many_requests_at_once_are_judged_as_one_by_one() -> None:
    values = {"ok": (0.0, 1.0), "output_len": (None, 1.0, 32.0), **dict.fromkeys(("ttft_ms", "tpot_ms"), (None, 50.0, 501.0))}
    requests = [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]
    columns = {name: np.array([request[name] for request in requests], dtype=float) for name in values}
    assert is_good(columns, SLO, np.fmax).tolist() == [is_good(request, SLO) for request in requests]
    assert 0 < sum(is_good(columns, SLO, np.fmax)) < len(requests)


def columns_of(latencies_ms: list[float], ok: float = 1.0) -> dict[str, list[float]]:
    """A request a second, each with one latency."""
    many = len(latencies_ms)
    fixed = {"input_len": 8.0, "output_len": 8.0, "tpot_ms": 10.0, "itl_max_ms": 10.0, "ok": ok}
    varied = {"start_s": [float(n) for n in range(many)], "ttft_ms": latencies_ms, "e2el_ms": latencies_ms}
    return {name: varied[name] if name in varied else [fixed[name]] * many for name in REQUEST_COLUMNS}


def test_a_point_meets_the_slo_exactly_where_its_ratio_is_at_most_1() -> None:
    slo = {"ttft_ms": 500.0}
    assert slo_ratio(columns_of([400.0] * 19 + [2000.0]), slo, 0.9) == pytest.approx(0.8)
    assert slo_ratio(columns_of([400.0] * 8 + [2000.0] * 2), slo, 0.9) == pytest.approx(4.0)
    assert slo_ratio(columns_of([400.0] * 8, ok=0.0), slo, 0.9) == NEVER, "what was not answered is not good"
    assert slo_ratio(columns_of([]), slo, 0.9) is None
    assert slo_ratio(columns_of([float("nan")] * 3), slo, 0.9) is None, "what no request shows is not known"
    assert slo_ratio(columns_of([900.0]), dict.fromkeys(SLO), 0.9) == 0.0, "no demand"
    three_of_four = columns_of([400.0] * 3 + [2000.0])
    three_of_four["start_s"] = [0.0] * 4
    assert [slo_ratio(three_of_four, slo, share) for share in (0.75, 0.76)] == pytest.approx([0.8, 4.0])


def test_what_one_request_does_not_show_is_not_good_unless_it_has_none() -> None:
    ttft, tpot = {"ttft_ms": 500.0}, {"tpot_ms": 50.0}
    one_unknown = {**columns_of([400.0, 400.0]), "start_s": [0.0, 0.0], "ttft_ms": [400.0, float("nan")]}
    assert slo_ratio(one_unknown, ttft, 0.5) == pytest.approx(0.8)
    assert slo_ratio(one_unknown, ttft, 0.51) == NEVER
    assert slo_ratio({**columns_of([400.0]), "tpot_ms": [float("nan")], "output_len": [1.0]}, tpot, 0.9) == 0.0, (
        "one token has no TPOT"
    )


def test_the_first_residence_times_of_a_point_are_not_judged() -> None:
    assert judged_from_s([0.0, 1.0, 2.0, 30.0], [500.0, 1000.0, 1500.0, float("nan")]) == 2.0
    assert judged_from_s([0.0, 4.0], [9000.0, 9000.0]) == 2.0, "never more than half of the time"
    assert judged_from_s([3.0], [float("nan")]) == 0.0
    assert slo_ratio(columns_of([100.0] * 4 + [1000.0] * 6), {"ttft_ms": 500.0}, 0.5) == pytest.approx(2.0)
