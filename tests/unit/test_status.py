"""`python -m pdslurm.status`: what it says of runs in every state, from their files alone."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pdslurm import status
from pdslurm.records.measurement import Measurement
from pdslurm.records.run_folder import RunFolder


@pytest.fixture(autouse=True)
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def run(path: Path, state: dict[str, Any] | None, *, age_s: float = 0.0, **points: int) -> Path:
    """A run's folder with a state and so many points that are done, failed, invalid."""
    path.mkdir(parents=True)
    (path / "plan.json").write_text("{}")
    if state:
        (path / "state.json").write_text(json.dumps(state))
        seen = {"stage": "measuring", "arm": "pd", "point": "i64", "left_s": 300.0, "points_total": 9}
        (path / "progress.json").write_text(json.dumps(seen))
        os.utime(path / "progress.json", (time.time() - age_s, time.time() - age_s))
    number = 0
    for word, count in points.items():
        for _ in range(count):
            number += 1
            state_word = "failed" if word == "failed" else "done"
            reasons = () if word == "done" else ("why it is",)
            record = Measurement(f"k{number}", "r", "pd", "measured", state_word, word == "done", reasons,
                                 {"id": f"p{number}"}, {}, "2026-01-01T00:00:00Z", 1.0, metrics={"mean_ttft_ms": 12.5})  # fmt: skip
            RunFolder(path).save(record)
    return path


@pytest.mark.parametrize(
    ("state", "age_s", "word", "detail"),
    [
        (None, 0, "not started", ""),
        ({"status": "running", "points_total": 9}, 0, "running", "measuring pd i64, about 5 min left"),
        ({"status": "running", "points_total": 9}, 120, "lost: it wrote nothing for a minute; run the same command again", ""),
        ({"status": "done", "points_total": 9}, 120, "done", ""),
        ({"status": "stopped", "reason": "engine1 died\nlog", "points_total": 9}, 120, "stopped", "engine1 died"),
    ],
)
def test_where_a_run_is(tmp_path: Path, state: dict[str, Any] | None, age_s: float, word: str, detail: str) -> None:
    found = status.read_status(run(tmp_path / "a", state, age_s=age_s, done=3, failed=1, invalid=2))
    assert (found.state, found.detail) == (word, detail)
    assert dict(found.points) == {"done": 3, "failed": 1, "invalid": 2}
    assert found.total == (9 if state else None)


def test_runs_below_a_folder_and_the_points_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "runs" / "a", {"status": "done", "points_total": 2}, done=1, invalid=1)
    run(tmp_path / "runs" / "multirun" / "b", None)
    (tmp_path / "runs" / "models").mkdir()
    assert status.main([str(tmp_path / "runs")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0].removeprefix(f"{tmp_path}/runs/") for line in lines[1:]] == ["a", "multirun/b"]
    assert status.main([str(tmp_path / "runs" / "a")]) == 0
    out = capsys.readouterr().out
    assert "p1" in out
    assert "12.5" in out
    assert "why it is" in out


def test_no_runs_and_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no runs in {tmp_path}\n"
    assert status.main([str(tmp_path / "none")]) == 2
    assert f"{tmp_path}/none: no such folder" in capsys.readouterr().err
