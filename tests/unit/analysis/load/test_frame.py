"""Records in run folders in; the rows of the frame out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from analysis.load.frame import COLUMNS, load_runs
from pdslurm.errors import ResultsError
from pdslurm.records.measurement import METRICS
from pdslurm.records.run_folder import RunFolder
from tests.unit.analysis.records_made import failed, invalid, record, write


def test_load_gives_a_row_for_each_record_with_unknown_as_nan(tmp_path: Path) -> None:
    records = [
        record(concurrency=4, rate=2.5),
        record("pd_1p1d", repeat=1, value=7.5),
        failed("pd_1p1d"),
        invalid("route_2", (512, 512)),
    ]
    frame = load_runs([write(tmp_path, records)])
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == 4
    by = {(row["arm"], row["repeat"], row["status"], row["output_len"]): row for _, row in frame.iterrows()}
    done = by["pd_1p1d", 1, "done", 256]
    assert (done["mean_ttft_ms"], done["output_throughput_tok_s"], done["gpus"], done["seed"]) == (7.5, 7.5, 2, 1001)
    assert done["disaggregated"] == True  # noqa: E712  numpy's
    assert (done["request_rate"], done["max_concurrency"]) == (math.inf, math.inf)
    assert done["sweeps"] == ("input", "output")
    lost = by["pd_1p1d", 0, "failed", 256]
    assert lost[[*METRICS, "completed", "failed"]].isna().all()
    assert lost["path"].endswith(".failed.json")
    assert frame[frame["max_concurrency"] == 4]["request_rate"].tolist() == [2.5]
    assert by["route_2", 0, "done", 512]["invalid_reasons"] == ("prefix cache hits", "3 requests failed")


def test_load_finds_runs_below_a_folder_and_counts_none_twice(tmp_path: Path) -> None:
    write(tmp_path / "a" / "one", [record()])
    write(tmp_path / "b", [record("pd_1p1d")])
    (tmp_path / "empty").mkdir()
    assert load_runs([tmp_path])["arm"].tolist() == ["route_2", "pd_1p1d"]
    assert len(load_runs([tmp_path, tmp_path / "b", tmp_path / "a" / "one"])) == 2
    write(tmp_path / "copy of b", [record("pd_1p1d")])
    assert len(load_runs([tmp_path])) == 2


@pytest.mark.parametrize(
    ("made", "text"),
    [
        ([], "no such folder; give a run folder (one that holds points/)"),
        (["run/"], "no records; looked for points/*/*.json in it and in every folder below. Is it the run's own folder"),
        (["run/points/arm/"], "no records; looked for"),
        (["run/state.json"], "The run was started but no point has ended yet: see state.json and logs/"),
        (["run"], "a file; give the run folder"),
        (["run/points/arm/x.json"], "none of 1 records can be read: "),
    ],
)
def test_load_says_what_it_looked_for(tmp_path: Path, made: list[str], text: str) -> None:
    for name in made:
        path = tmp_path / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text("{}")
    with pytest.raises(ResultsError) as caught:
        load_runs([tmp_path / "run"])
    assert text in str(caught.value)
    assert str(tmp_path / "run") in str(caught.value)


def test_load_names_a_record_without_its_point(tmp_path: Path) -> None:
    path = RunFolder(write(tmp_path, [record()])).path.glob("points/*/*.json").__next__()
    value = json.loads(path.read_text())
    del value["point"]["input_len"]
    path.write_text(json.dumps(value))
    with pytest.raises(ResultsError, match="point has no 'input_len'; measure it again"):
        load_runs([tmp_path])


def lanes(*names: str) -> dict[str, Any]:
    return {"peer": "inter-node", "lanes": list(names), "how": "zero-copy"}


@pytest.mark.parametrize(
    ("arm", "told", "text"),
    [
        ("pd_1p1d", {"kinds": ["shm"], "engines": {"e": [lanes("cuda_ipc/cuda")]}}, "cuda_ipc (shm)"),
        (
            "pd_1p1d",
            {
                "kinds": ["rdma", "shm"],
                "engines": {"e": [lanes("rc_mlx5/mlx5_0:1", "rc_mlx5/mlx5_1:1")], "f": [lanes("cma/memory")]},
            },
            "rc_mlx5, cma (rdma, shm)",
        ),
        ("pd_1p1d", {"kinds": ["efa"], "engines": {"e": [lanes("libfabric/efa")]}}, "libfabric/efa (efa)"),
        ("pd_1p1d", {"kinds": None, "engines": {"e": [lanes("tcp/eth0")], "f": None}}, "unknown"),
        ("pd_1p1d", None, "unknown"),
        ("route_2", None, ""),
    ],
)
def test_what_carried_kv(tmp_path: Path, arm: str, told: dict[str, Any] | None, text: str) -> None:
    made = record(arm, telemetry={"transport": told})
    assert load_runs([write(tmp_path, [made])])["transport"].tolist() == [text]
