"""The command line: what it prints, how it fails, and what it imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.__main__ import main
from tests.unit.analysis.records_made import record, write


def test_commands_print_and_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(write(tmp_path / "run", [record()]))
    assert main(["table", run]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["summary", run]) == 0
    assert "One arm" in capsys.readouterr().out
    (tmp_path / "taken").write_text("")
    for argv in (["table", str(tmp_path / "nowhere")], ["figures", run, "--out", str(tmp_path / "taken"), "--jobs", "1"]):
        assert main(argv) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("analysis: ")


def test_a_reader_that_leaves_early_gets_no_traceback(tmp_path: Path) -> None:
    run = write(tmp_path, [record(repeat=i, value=100 / 3) for i in range(400)])  # more than a pipe holds
    command = f"'{sys.executable}' -m analysis table '{run}' | head -n 1"
    # An unbuffered Python drops what a closed pipe does not take, and so would pass without being tested.
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    shell = ["bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)


@pytest.mark.parametrize(
    ("modules", "of_pdslurm"),
    [
        ("analysis.__main__", set()),
        ("analysis.figures.by_workload, analysis.report.summary, analysis.report.csv_table", set()),
        # sizes of models: one set of formulas, of the standard library alone
        ("analysis.seeds.claims_table", {"pdslurm.plan", "pdslurm.plan.model"}),
    ],
)
def test_analysis_imports_nothing_of_the_driver(modules: str, of_pdslurm: set[str]) -> None:
    code = f"import sys, {modules}; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.split()
    )
    assert not loaded & {"hydra", "omegaconf", "submitit", "vllm", "yaml", "rich"}
    allowed = {"pdslurm", "pdslurm.errors"} | of_pdslurm
    shared = ("pdslurm.records", "pdslurm.validity", "pdslurm.bench")  # the client's result files, which --deep reads
    assert {name for name in loaded if name.startswith("pdslurm") and not name.startswith(shared)} == allowed & loaded
    if modules in ("analysis.__main__", "analysis.seeds.claims_table"):
        assert not loaded & {"pandas", "matplotlib", "numpy"}


def test_strict_takes_the_unverified_for_invalid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A made record has no evidence at all."""
    folder = str(write(tmp_path, [record("route_2")]))
    assert main(["summary", folder]) == 0
    assert "1 valid of 1 tried; 1 unverified: " in " ".join(capsys.readouterr().out.split())
    assert main(["summary", folder, "--strict"]) == 0
    assert "0 valid of 1 tried; left out: 1 invalid. Reasons: unverified: " in " ".join(capsys.readouterr().out.split())
