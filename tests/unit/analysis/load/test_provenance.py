"""A run's own files whose parts have other types: they count as not there, one sentence names them, and no command breaks off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.__main__ import main
from analysis.load.provenance import Provenance
from tests.unit.analysis.records_made import two_arms, write

PROCESS = {"name": "engine0", "kind": "engine", "role": "both"}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("fairness.json", {"differs": [1]}, "fairness.differs[0] is a whole number, not an object"),
        ("fairness.json", {"differs": [{"field": "x", "values": [], "why": ""}]}, "fairness.differs[0].values is a list"),
        ("fairness.json", {"differs": [{"field": "x", "values": {}}]}, "fairness.differs[0] has no why"),
        ("fairness.json", {"same": []}, "fairness.same is a list, not an object"),
        ("plan.json", {"sets": [{"name": "a", "gpus": 1}]}, "plan.sets[0] has no arms"),
        ("plan.json", {"processes": [{**PROCESS, "env": None}]}, "plan.processes[0].env is null, not an object"),
        ("plan.json", {"processes": [{**PROCESS, "gpus": 1}]}, "plan.processes[0].gpus is a whole number, not a list"),
        ("plan.json", {"fairness": {"forced": "x"}}, "plan.fairness.forced is a text, not a list"),
        ("versions.json", {"code": {"dirty": "yes"}}, "versions.code.dirty is a text, not true or false"),
        ("versions.json", {"host": "n0"}, "versions.host is a text, not an object"),
        ("versions.json", {"sessions": [{"host": {"gpu_names": [1]}}]}, "versions.sessions[0].host.gpu_names[0] is a whole number"),
        ("nodes.json", {"nodes": [{}]}, "nodes.nodes[0] has no name"),
        (
            "nodes.json",
            {"sessions": [{"nodes": [{"name": "n", "facts": 1}]}]},
            "nodes.sessions[0].nodes[0].facts is a whole number",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_type_within_a_file(
    tmp_path: Path, name: str, value: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [write(tmp_path / run, two_arms({"pd": [1.0], "route_2": [5.0]})) for run in ("a", "b")]
    for folder in folders:
        (folder / name).write_text(json.dumps(value))
    run = Provenance(folders[0])
    assert getattr(run, name.removesuffix(".json")) is None
    (problem,) = run.problems()
    assert problem.startswith(f"{folders[0] / name} ({said}")
    for command in (["summary", str(folders[0])], ["diff", *map(str, folders)]):
        assert main(command) == 0
        assert said in " ".join(capsys.readouterr().err.split())


def test_a_report_of_files_of_other_types(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "run", two_arms({"pd": [1.0], "route_2": [5.0]}))
    for name in ("fairness", "plan", "versions", "nodes"):
        (folder / f"{name}.json").write_text(json.dumps(dict.fromkeys(("differs", "sets", "host", "nodes"), 1)))
    assert main(["report", str(folder), "--out", str(tmp_path / "report.html")]) == 0
    assert "versions.host is a whole number, not an object" in capsys.readouterr().err
