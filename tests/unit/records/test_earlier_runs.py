"""A folder of runs in, what loads and points took out; whatever is broken there is passed over."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdslurm.records.earlier_runs import MOST_RUNS, NO_RUNS, ArmShape, earlier_runs
from pdslurm.records.measurement import SMOKE, Measurement
from tests.unit.records.test_gpu_time import CLIENT_FACTS, point, ready, write

PAIR = ArmShape(("both", "both"), 1.0)


def of(record: Measurement, cluster: str = "lab", model: str = "tiny", **info: Any) -> Measurement:
    return replace(record, arm_info={"cluster": cluster, "model": model, "gpus": 2, "roles": ["both", "both"], **info})


def run(root: Path, name: str, mtime: float, load_s: float = 60.0, **info: Any) -> Path:
    folder = root / name
    write(folder, [ready("a", 100, load_s)], [of(point("a", 110, 24.0, 0, CLIENT_FACTS), **info)])
    os.utime(folder, (mtime, mtime))
    return folder


def test_runs_of_the_same_cluster_and_model_the_newest_first(tmp_path: Path) -> None:
    old, new = run(tmp_path, "old", 1.0, 60.0), run(tmp_path, "new", 2.0, 70.0)
    run(tmp_path, "another cluster", 3.0, cluster="other")
    run(tmp_path, "another model", 4.0, model="other")
    found = earlier_runs(tmp_path, "lab", "tiny")
    assert found.runs == (str(new), str(old))
    assert [(load.arm, load.load_s) for load in found.loads] == [(PAIR, 70.0), (PAIR, 60.0)]
    assert found.beside_s == (4.0, 4.0)
    assert [(each.arm, each.input_len, each.measuring_s) for each in found.points] == [(PAIR, 512, 20.0)] * 2


def test_a_run_that_goes_on_tells_first_wherever_its_folder_is(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "runs", run(tmp_path / "elsewhere", "own", 1.0, 50.0)
    inside = run(root, "inside", 2.0)
    newest = run(root, "newest", 3.0)
    other = run(tmp_path / "elsewhere", "other", 4.0, model="other")
    assert earlier_runs(root, "lab", "tiny", elsewhere).runs == (str(elsewhere), str(newest), str(inside))
    assert earlier_runs(root, "lab", "tiny", inside).runs == (str(inside), str(newest))
    assert earlier_runs(root, "lab", "tiny", other).runs == (str(newest), str(inside))
    assert earlier_runs(root, "lab", "tiny", root / "none").runs == (str(newest), str(inside))


def test_a_load_is_of_the_arms_that_it_measured(tmp_path: Path) -> None:
    records = [of(point("a", 110, 24.0)), of(point("pd", 310, 24.0, 1), roles=["prefill", "decode"])]
    write(tmp_path / "run", [ready("a", 100, 60.0), ready("pd", 300, 80.0), ready("a", 500, 9.0)], records)
    found = earlier_runs(tmp_path, "lab", "tiny")
    assert [(load.arm, load.load_s) for load in found.loads] == [(PAIR, 60.0), (ArmShape(("prefill", "decode"), 1.0), 80.0)]


def test_failed_and_smoke_measurements_tell_nothing(tmp_path: Path) -> None:
    failed = replace(of(point("a", 110, 24.0)), status="failed", valid=False)
    smoke = of(point("a", 140, 24.0, 1))
    write(tmp_path / "run", [ready("a", 100, 60.0)], [failed, replace(smoke, point={**smoke.point, "sweeps": (SMOKE,)})])
    found = earlier_runs(tmp_path, "lab", "tiny")
    assert (found.points, found.beside_s, found.loads) == ((), (), ())


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b'{"schema_version": 3}'])
def test_what_is_broken_is_passed_over(tmp_path: Path, content: bytes) -> None:
    folder = run(tmp_path, "run", 1.0)
    (folder / "points" / "a" / "broken.json").write_bytes(content)
    (tmp_path / "cache").mkdir()
    (tmp_path / "a file").write_bytes(content)
    (folder / "events.jsonl").write_bytes(content + b"\n")
    found = earlier_runs(tmp_path, "lab", "tiny")
    assert (len(found.points), found.loads) == (1, ())


def test_a_record_that_lacks_what_a_point_has_tells_what_it_can(tmp_path: Path) -> None:
    odd = of(point("a", 110, 24.0, client={"until_last_answer": "late", "client_wall_s": "late"}))
    write(tmp_path / "run", [ready("a", 100, 60.0)], [replace(odd, point={"id": "odd", "max_concurrency": 0})])
    (seen,) = earlier_runs(tmp_path, "lab", "tiny").points
    assert (seen.num_prompts, seen.is_work, seen.measuring_s) == (0, False, 20.0)


def test_no_more_than_the_newest_runs_are_read(tmp_path: Path) -> None:
    for n in range(MOST_RUNS + 2):
        run(tmp_path, f"run{n}", float(n))
    assert len(earlier_runs(tmp_path, "lab", "tiny").runs) == MOST_RUNS


def test_of_a_large_run_some_records_of_every_arm_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdslurm.records.earlier_runs.MOST_RECORDS", 4)
    records = [of(point(arm, 110 + n, 1.0, n), roles=[arm]) for arm in ("a", "b") for n in range(5)]
    write(tmp_path / "run", [ready("set", 100, 60.0)], records)
    found = earlier_runs(tmp_path, "lab", "tiny")
    assert len(found.points) == 4
    assert {each.arm.roles for each in found.points} == {("a",), ("b",)}


def test_no_folder_no_runs(tmp_path: Path) -> None:
    assert earlier_runs(tmp_path / "none", "lab", "tiny") == NO_RUNS
