"""What is kept of each request: its line, whole or not there, and the time between tokens in bins."""

from __future__ import annotations

import csv
import gzip
import math
from pathlib import Path
from typing import Any

import pytest

from pdslurm.bench import result_files
from pdslurm.records import measurement

RESULT: dict[str, Any] = {
    "start_times": [50.5, 50.0, 51.0, 52.0],
    "input_lens": [128, 64, 32, 16],
    "output_lens": [3, 1, 0, 2],
    "ttfts": [0.1, 0.05, 0.0, None],
    "itls": [[0.01, 0.03], [], [], []],
    "latencies": [0.14, 0.05, 0.0, 0.3],
}


def test_a_line_for_each_request_in_the_order_of_their_start(tmp_path: Path) -> None:
    path = tmp_path / "raw" / "arm" / "p.requests.csv.gz"
    result_files.write_requests(path, RESULT)
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    assert [list(row.values()) for row in rows] == [
        ["0.0", "64", "1", "50.0", "", "", "50.0", "1"],
        ["0.5", "128", "3", "100.0", "20.0", "30.0", "140.0", "1"],
        ["1.0", "32", "", "", "", "", "", "0"],
        ["2.0", "16", "2", "", "", "", "300.0", "1"],
    ]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_that_cannot_be_written_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "p.csv.gz"
    with pytest.raises(KeyError):
        result_files.write_requests(path, {"start_times": [1.0]})
    assert list(tmp_path.iterdir()) == []


def test_no_request_at_all(tmp_path: Path) -> None:
    empty: dict[str, Any] = {name: [] for name in RESULT}
    result_files.write_requests(tmp_path / "p.csv.gz", empty)
    assert (list(result_files.request_rows(empty)), result_files.itl_histogram(empty), result_files.itl_histogram({})) == (
        [],
        {},
        {},
    )


@pytest.mark.parametrize("itl_s", [1e-5, 0.001, 0.00999, 0.0101, 0.2, 3.0])
def test_a_bin_holds_what_its_number_says(itl_s: float) -> None:
    ((number, count),) = result_files.itl_histogram({"itls": [[itl_s], [itl_s]]}).items()
    low, high = (10 ** ((int(number) + end) / measurement.BINS_PER_DECADE) for end in (0, 1))
    assert count == 2
    assert low * (1 - 1e-9) <= 1000 * itl_s < high


def test_tokens_of_one_chunk_stay_countable() -> None:
    assert result_files.itl_histogram({"itls": [[0.0, 0.01], [-1e-9]]}) == {
        str(math.floor(math.log10(result_files.SHORTEST_MS) * measurement.BINS_PER_DECADE)): 2,
        "50": 1,
    }


def test_latencies_where_the_client_gives_none() -> None:
    old = {key: value for key, value in RESULT.items() if key != "latencies"}
    old["ttfts"] = [0.1, 0.05, 0.0, 0.3]
    assert result_files.with_latencies(old)["latencies"] == pytest.approx([0.14, 0.05, 0.0, 0.3])
    assert result_files.with_latencies(RESULT) is RESULT
    assert result_files.with_latencies({"input_lens": [1]}) == {"input_lens": [1]}


def test_times_are_kept_to_a_microsecond() -> None:
    exact = {**RESULT, "itls": [[0.0123456789, 0.03], [], [], []], "mean_itl_ms": 12.3456789}
    kept = result_files.to_microseconds(exact)
    assert kept == {**exact, "itls": [[0.012346, 0.03], [], [], []]}
    assert exact["itls"][0][0] == 0.0123456789
