"""`python -m pdslurm.status`: what it says of runs in every state, from their files alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdslurm import status
from pdslurm.errors import ResultsError
from pdslurm.records.measurement import Measurement
from pdslurm.records.run_folder import RunFolder
from tests.slurm_stand_ins import SlurmStandIn


@pytest.fixture(autouse=True)
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # short paths leave the table's lines whole


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


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmStandIn:
    stand_in = SlurmStandIn(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{stand_in.bin}:/bin:/usr/bin")
    return stand_in


def with_job(path: Path, job: object) -> Path:
    (path / "slurm").mkdir(parents=True, exist_ok=True)
    (path / "slurm" / "job.json").write_text(json.dumps({"job_id": job}))
    return path


def lines(root: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Run → the rest of its line; below "" what is said beside the table."""
    assert status.main([root.name]) == 0
    rows = [line.removeprefix(f"{root.name}/").strip() for line in capsys.readouterr().out.splitlines()[1:]]
    return {(name if rest else ""): (rest or row) for row in rows for name, _, rest in [row.partition("  ")]}


def test_one_question_for_all_runs(tmp_path: Path, slurm: SlurmStandIn, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    for number in range(1, 201):
        with_job(runs / f"r{number}", str(number))
        slurm.job(str(number), "PENDING")
    slurm.forget("7")
    found = lines(runs, capsys)
    assert len(found) == 200
    assert [found[f"r{n}"].split()[:2] for n in (1, 200)] == [["1", "pending"], ["200", "pending"]]
    assert found["r7"].split()[:3] == ["7", "not", "started"]
    assert (len(slurm.calls("squeue")), slurm.calls("scontrol")) == (1, [])


@pytest.mark.parametrize("how", ["away", "hang"])
def test_slurm_does_not_answer(
    tmp_path: Path, slurm: SlurmStandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(status, "SLURM_TIMEOUT_S", 0.3 if how == "hang" else 20.0)
    runs = tmp_path / "runs"
    for name, age_s in (("a", 0.0), ("b", 120.0)):
        with_job(run(runs / name, {"status": "running", "points_total": 9}, age_s=age_s, done=1), "7")
    slurm.told(all=how)
    found = lines(runs, capsys)
    assert found["a"].startswith("7    running")
    assert "wrote nothing for a minute, and Slurm does not answer" in found["b"]
    assert found[""].startswith(
        "Slurm does not answer, so states come from the runs' files alone: slurmctld does not answer: `squeue"
    )


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("state.json", b"[1, 2]", "state.json is a JSON list, not an object"),
        ("state.json", b'{"status": "runn', "state.json cannot be read (Unterminated string"),
        ("state.json", b"\xff\x00", "state.json cannot be read ("),
        ("state.json", b'{"status": {"a": []}, "points_total": "9", "reason": 4}', "4"),
        ("progress.json", b'{"stage": 1}', "progress.json: no 'arm'"),
        ("progress.json", b'{"stage": "s", "arm": "a", "point": "p", "left_s": "long"}', "progress.json: unsupported operand"),
        (
            "progress.json",
            b'{"stage": "s", "arm": "a", "point": "p", "left_s": 1%s}' % (b"0" * 400),
            "progress.json: integer division result too large for a float",
        ),
        ("progress.json", b"null", "progress.json is a JSON NoneType, not an object"),
        ("slurm/job.json", b'"7"', "job.json is a JSON str, not an object"),
        ("slurm/job.json", b'{"job_id": ["7"]}', "slurm/job.json: job_id=['7'] is no job's id"),
        ("slurm/job.json", b'{"job_id": "7,8; rm"}', "slurm/job.json: job_id='7,8; rm' is no job's id"),
        ("slurm", b"a file", "job.json cannot be read (Not a directory)"),
    ],
)
def test_an_odd_run_hides_no_other(
    tmp_path: Path, slurm: SlurmStandIn, capsys: pytest.CaptureFixture[str], file: str, text: bytes, said: str
) -> None:
    runs = tmp_path / "runs"
    odd = run(runs / "a", {"status": "running", "points_total": 9}, done=2)
    (odd / file).parent.mkdir(exist_ok=True)
    (odd / file).write_bytes(text)
    run(runs / "b", {"status": "done", "points_total": 1}, done=1)
    found = lines(runs, capsys)
    assert said in found["a"]
    assert found["b"].split() == ["done", "1", "0", "0", "1"]
    assert status.main([str(odd)]) == 0
    assert "p2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "error", [ResultsError("record x.json is cut"), PermissionError(13, "Permission denied"), TypeError("odd")]
)
def test_records_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    runs = tmp_path / "runs"
    for name in ("a", "b"):
        run(runs / name, {"status": "done", "points_total": 1}, done=1)
    whole = RunFolder.records

    def records(folder: RunFolder) -> Any:
        if folder.path.name == "a":
            raise error
        return whole(folder)

    monkeypatch.setattr(RunFolder, "records", records)
    found = lines(runs, capsys)
    assert (getattr(error, "strerror", None) or str(error)) in found["a"]
    assert found["b"].split() == ["done", "1", "0", "0", "1"]
    assert status.main([str(runs / "a")]) == 0
    assert "cannot be read" in capsys.readouterr().out


def refusing(folder: Path, method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of Path that does not enter `folder`."""

    def method_or_error(path: Path, *args: Any, **more: Any) -> Any:
        if folder in path.absolute().parents:
            raise PermissionError(13, "Permission denied", str(path))
        return method(path, *args, **more)

    return method_or_error


def test_a_folder_of_another_user(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    for name in ("a", "b"):
        run(runs / name, {"status": "done", "points_total": 1}, done=1)
    for name in ("is_file", "read_text", "stat"):  # root, who may run this, may read everything
        monkeypatch.setattr(Path, name, refusing(runs / "a", getattr(Path, name)))
    found = lines(runs, capsys)
    assert "Permission denied" in found["a"]
    assert found["b"].split() == ["done", "1", "0", "0", "1"]


def test_names_of_folders_that_a_table_would_read_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    for name in ("[/red]", "[b]x", "new\nline", os.fsdecode(b"\xff")):
        run(runs / name, {"status": "done", "points_total": 1}, done=1)
    assert set(lines(runs, capsys)) == {"[/red]", "[b]x", "new\N{REPLACEMENT CHARACTER}line", "\N{REPLACEMENT CHARACTER}"}
