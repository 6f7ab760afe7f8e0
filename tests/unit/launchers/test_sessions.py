"""versions.json and nodes.json of a run that is resumed: every session's facts stay."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from pdslurm import config as c
from pdslurm.launchers import run
from pdslurm.launchers.run import write_nodes, write_provenance, write_session
from pdslurm.launchers.slurm_wait import Events
from pdslurm.measure.journal import Journal
from pdslurm.measure.progress import Display, State
from pdslurm.plan.deployment import Host
from pdslurm.plan.outline import make_outline
from pdslurm.plan.tasks import Tasks
from pdslurm.records.gpu_time import EVENTS
from pdslurm.records.run_folder import RunFolder


def test_every_session_s_facts_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "versions.json"
    path.write_text(json.dumps({"engine": {"vllm": "0.24.0"}, "host": {"hostname": "old"}}))  # as an older pdslurm wrote it
    for hour, host in (("10", "a"), ("11", "b")):
        monkeypatch.setattr(run, "_now", lambda hour=hour: f"2026-01-01T{hour}:00:00+00:00")
        write_session(path, {"engine": {"vllm": "0.32.0"}, "host": {"hostname": host}})
    found = json.loads(path.read_text())
    assert (found["host"], found["started_at"][11:13]) == ({"hostname": "b"}, "11"), "the newest where one session's were"
    assert [session["host"]["hostname"] for session in found["sessions"]] == ["old", "a", "b"]
    assert [session.get("started_at", "")[11:13] for session in found["sessions"]] == ["", "10", "11"]


def test_nodes_of_every_job_stay(tmp_path: Path) -> None:
    for job in ("7", "8"):
        write_nodes(RunFolder(tmp_path), job, [Host(f"n{job}", "10.0.0.1", None)], {f"n{job}": {"driver": "580"}})
    found = json.loads((tmp_path / "nodes.json").read_text())
    assert (found["slurm_job_id"], found["nodes"][0]["name"]) == ("8", "n8")
    assert [(s["slurm_job_id"], s["nodes"][0]["facts"]) for s in found["sessions"]] == [
        ("7", {"driver": "580"}),
        ("8", {"driver": "580"}),
    ]


BROKEN = [
    "",
    "{",
    '{"sessions": [{"host": ',
    "null",
    "[]",
    '"x"',
    '{"sessions": 3}',
    '{"sessions": [1]}',
    "[" * 100_000,
    b"\xff\xfe",
]


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: repr(text[:12]))
def test_a_file_that_cannot_be_read_is_set_aside_by_name(
    tmp_path: Path, text: str | bytes, make_config: Callable[..., c.Config], capsys: pytest.CaptureFixture[str]
) -> None:
    outline = make_outline(make_config({"topology.route": 2}))
    tasks = Tasks(outline.deployment, outline.deployment, {"vllm": "0.32.0"})
    before = text.encode() if isinstance(text, str) else text
    names = ("versions.json", "fairness.json", "plan.json", "state.json", "config.yaml", "events.jsonl")
    for name in names:
        (tmp_path / name).write_bytes(before)
    write_provenance(RunFolder(tmp_path), tasks, outline.compared)
    err = capsys.readouterr().err
    is_object = text in ('{"sessions": 3}', '{"sessions": [1]}')  # fairness.json has no sessions
    for name in ("versions.json", "fairness.json")[: 1 if is_object else 2]:  # what earlier sessions told is nowhere else
        assert (tmp_path / f"{name}.broken").read_bytes() == before
        assert err.count(f"pdslurm: {tmp_path / name} cannot be read (") == 1
        assert f"pdslurm set it aside as {name}.broken\n" in err
    assert len(json.loads((tmp_path / "versions.json").read_text())["sessions"]) == 1
    assert json.loads((tmp_path / "plan.json").read_text())
    write_provenance(RunFolder(tmp_path), tasks, outline.compared)
    assert len(json.loads((tmp_path / "versions.json").read_text())["sessions"]) == 2
    assert not list(tmp_path.glob("*.broken-2"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("cut", ['{"at": "2026', "\x00\x00"])
def test_half_a_line_in_events_does_not_swallow_the_next(tmp_path: Path, cut: str) -> None:
    path = tmp_path / EVENTS
    whole = json.dumps({"at": "", "event": "one", "said": True})
    path.write_text(f"{whole}\n{cut}")
    events = Events(path)
    Journal(Display(State("test", 1), Console(file=io.StringIO())), tmp_path).say("two")
    lines = path.read_text().splitlines()
    assert (lines[:2], json.loads(lines[2])["event"], len(lines)) == ([whole, cut], "two", 3)
    assert events.new() == ["two"]
