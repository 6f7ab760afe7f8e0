"""versions.json and nodes.json of a run that is resumed: every session's facts stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pdslurm.launchers import run
from pdslurm.launchers.run import write_nodes, write_session
from pdslurm.plan.deployment import Host
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
