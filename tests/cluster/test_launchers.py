"""launcher=slurm on the lab: what is asked of Slurm, and what is said when it refuses. Whole runs are in the other files here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.lab import Lab

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
HELD = ("experiment=custom", "model=tiny", "workload=demo", "cluster=cpu_nodes", "+cluster.slurm.extra.hold=true")


def pdslurm(lab: Lab, folder: Path, *args: str, module: str = "pdslurm", timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *args]
    return lab.run("ctl", command, timeout_s, check=False, cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"})


def jobs(lab: Lab) -> dict[str, dict[str, Any]]:
    """Job id → what squeue knows of it."""
    lines = lab.run("ctl", ["squeue", "--noheader", "--format=%i|%D|%T|%j|%l|%P"], 20).stdout.splitlines()
    names = ("nodes", "state", "name", "time", "partition")
    return {job: dict(zip(names, rest, strict=True)) for job, *rest in (line.split("|") for line in lines)}


def test_a_multirun_submits_jobs_of_different_size(lab: Lab, tmp_path: Path) -> None:
    """And the same command finds its job again though somebody renamed it, the status shows it, and a cancelled job makes room for
    a new one."""
    sizes = ("-m", "topology=route_2", "topology.nodes=2,4", *HELD, "launcher.wait=false", "cluster.slurm.partition=high")
    done = pdslurm(lab, tmp_path, *sizes)
    assert done.returncode == 0, done.stdout + done.stderr
    found = jobs(lab)
    assert sorted(job["nodes"] for job in found.values()) == ["2", "4"]
    assert {(job["state"], job["time"], job["partition"]) for job in found.values()} == {("PENDING", "30:00", "high")}
    names = {job["name"] for job in found.values()}
    assert len(names) == 2, "each is its folder's own"
    assert all(re.fullmatch(r"custom-[0-9a-f]{8}", name) for name in names)
    for job in found:
        assert f"job {job}: " in done.stdout
    lab.run("ctl", ["scontrol", "update", f"JobId={min(found)}", "JobName=renamed"], 20)
    again = pdslurm(lab, tmp_path, *sizes)
    assert again.stdout.count("of this run is PENDING already; nothing was submitted") == 2
    assert jobs(lab).keys() == found.keys()
    status = pdslurm(lab, tmp_path, "runs", module="pdslurm.status")
    assert [line.split()[1:3] for line in status.stdout.splitlines()[1:]] == [[job, "pending"] for job in _by_folder(tmp_path)]
    lab.run("ctl", ["scancel", *found], 20)
    third = pdslurm(lab, tmp_path, *sizes)
    assert "already" not in third.stdout
    assert len(jobs(lab).keys() - found.keys()) == 2
    lab.run("ctl", ["scancel", *jobs(lab)], 20)


def _by_folder(folder: Path) -> list[str]:
    """The jobs of all runs, in the order of their folders."""
    import json

    return [json.loads(file.read_text())["job_id"] for file in sorted(folder.glob("runs/*/slurm/job.json"))]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("cluster.slurm.partition=nope", "invalid partition specified: nope"),
        ("+cluster.slurm.extra.no_such_option=1", "no-such-option"),
    ],
)
def test_slurms_refusal_is_told_in_its_own_words(lab: Lab, tmp_path: Path, override: str, said: str) -> None:
    done = pdslurm(lab, tmp_path, "topology=dp", "topology.nodes=2", *HELD, override)
    assert done.returncode == 2
    assert "cluster.slurm: sbatch refuses: " in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert jobs(lab) == {}


def test_an_allocation_that_is_too_small(lab: Lab, tmp_path: Path) -> None:
    command = ["salloc", "-N1", "--exclusive", sys.executable, "-m", "pdslurm", *HELD, "topology=route_2", "topology.nodes=2"]
    done = lab.run(
        "ctl",
        [*command, "launcher=allocation"],
        60,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 2, done.stderr
    assert "topology.nodes=2: job " in done.stderr
    assert "has 1 (n1)" in done.stderr
