"""`python -m pdslurm.doctor site` on the login node of a real Slurm, with one step on a node: its draft makes a plan."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pdslurm.doctor import site_options
from tests.cluster.lab import Lab
from tests.cluster.test_launchers import ROOT, jobs, pdslurm

pytestmark = pytest.mark.cluster


def test_the_first_draft_of_the_lab(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "cluster" / "lab.yaml"
    file.parent.mkdir()
    command = ("site", "--look", "1", "--out", str(file))
    assert site_options(command[1:]).out == file
    done = pdslurm(lab, tmp_path, *command, module="pdslurm.doctor", timeout_s=120)
    assert (done.returncode, done.stdout) == (
        0, f"wrote {file}; next: python -m pdslurm experiment=pd_1p3d cluster=lab launcher=plan\n",
    ), done.stderr  # fmt: skip
    lines = file.read_text().splitlines()
    for line in (
        "name: lab  # for people and for the record; the file's name is what cluster=… takes",
        f"gpus_per_node: 8  # sinfo: gres=gpu:8 on {len(lab.nodes)} node(s) of partition batch",
        "gpu: GPU  # FILL IN: GRES has no type, and no feature names it",
        "  partition: batch  # sinfo: the default partition; a job may last without limit, and 30:00 where it asks for no time",
        f"  # partition: high  # sinfo: {len(lab.nodes)} node(s) with gpu:8; a job may last without limit",
        "  gpus_by: gres  # sinfo: GRES names the GPUs",
    ):
        assert line in lines, file.read_text()
    assert any(line.startswith("  # cidr: 10.78.0.0/24  # n") for line in lines), file.read_text() + done.stderr
    assert not jobs(lab)
    again = pdslurm(lab, tmp_path, *command, module="pdslurm.doctor")
    assert again.returncode == 2
    assert "is there already and stays as it is" in again.stderr
    here = ("salloc", "--quiet", "-N1", sys.executable, "-m", "pdslurm.doctor", "site")
    within = lab.run("ctl", here, 60, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}).stdout
    assert "  # cidr: 10.78.0.0/24  # n" in within, "a job's own node is looked at without being asked"
    plan = pdslurm(lab, tmp_path, "--config-dir", str(tmp_path), "experiment=pd_1p3d", "cluster=lab", "launcher=plan")
    assert plan.returncode == 0, plan.stderr
    assert "not checked here: cluster.slurm: sbatch says" in plan.stdout
