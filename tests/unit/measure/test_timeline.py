"""A timeline: what is read out of /metrics, the rows that come of it, the file."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest

from pdslurm.errors import ResultsError
from pdslurm.measure.timeline import Samples, rows, sampling, values_in, write
from pdslurm.records.measurement import TIMELINE_COLUMNS

TEXT = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 2.0
vllm:num_requests_running{engine="1",model_name="tiny"} 3.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 9.0
vllm:prompt_tokens_total{engine="0",model_name="a}b"} 1.5e+03
vllm:prompt_tokens_total 7
vllm:generation_tokens_total{engine="0",model_name="tiny"} 40.0 1795260201715
vllm:generation_tokens_created{engine="0",model_name="tiny"} 1.7e+09
vllm:nixl_bytes_transferred_sum{engine="0",model_name="tiny"} 1048576.0
vllm:nixl_bytes_transferred_count{engine="0",model_name="tiny"} 4.0
python_gc_objects_collected_total{generation="0"} 12345.0
"""
ROLES = {"engine0": "prefill", "engine1": "decode"}
SAMPLES: Samples = [
    (99.5, "engine0", {"running": 0.0, "waiting": 0.0, "prompt_tokens": 1000.0}),
    (99.5, "engine1", {"running": 0.0, "waiting": 0.0, "generation_tokens": 500.0, "nixl_bytes": 100.0}),
    (100.25, "engine0", {"running": 2.0, "waiting": 7.0, "prompt_tokens": 1512.0}),
]  # fmt: skip


def test_values_are_summed_over_ranks() -> None:
    assert values_in(TEXT) == {
        "running": 5.0, "waiting": 1.0, "prompt_tokens": 1507.0, "generation_tokens": 40.0, "nixl_bytes": 1048576.0,
    }  # fmt: skip


def test_counters_count_from_the_first_look_and_time_from_the_first_request() -> None:
    assert list(rows(SAMPLES, ROLES, 100.0)) == [
        {"t_s": -0.5, "engine": "engine0", "role": "prefill", "running": 0, "waiting": 0, "prompt_tokens": 0},
        {"t_s": -0.5, "engine": "engine1", "role": "decode", "running": 0, "waiting": 0, "generation_tokens": 0, "nixl_bytes": 0},
        {"t_s": 0.25, "engine": "engine0", "role": "prefill", "running": 2, "waiting": 7, "prompt_tokens": 512},
    ]


def test_the_file_has_every_column_and_nothing_for_what_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "raw" / "arm" / "point.timeline.csv.gz"
    write(path, SAMPLES, ROLES, 100.0)
    with gzip.open(path, "rt", newline="") as file:
        first, *lines = csv.reader(file)
    assert tuple(first) == TIMELINE_COLUMNS
    assert lines[2] == ["0.25", "engine0", "prefill", "2", "7", "512", "", ""]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("in the way")
    with pytest.raises(ResultsError, match="free space or fix permissions"):
        write(tmp_path / "raw" / "arm" / "point.timeline.csv.gz", SAMPLES, ROLES, 100.0)


def test_nothing_is_looked_at_unless_it_is_asked_for() -> None:
    with sampling([], None) as samples:
        pass
    assert samples == []
