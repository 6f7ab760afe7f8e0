"""For people who drive Slurm by hand: sbatch/run.sbatch under sbatch and salloc, and launcher=script's script with real engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster_run import POINTS, ROOT, ClusterRun, present
from tests.cluster.lab import Lab
from tests.stand_ins import SERVER

pytestmark = pytest.mark.cluster

RUN = ROOT / "sbatch" / "run.sbatch"
NASTY = 'it\'s $(touch x) "a\\b" #1'  # a folder's name and a job's comment


class ByHand(ClusterRun):
    """sbatch/run.sbatch in place of pdslurm itself, submitted from a folder that is not pdslurm's."""

    def _words(self) -> tuple[str, ...]:
        return tuple(word for word in self.command[3:] if not word.startswith("launcher="))

    def _sbatch(self, where: Iterable[str]) -> str:
        submit = ("sbatch", "--parsable", f"--output={self.output}", *where, str(RUN), *self._words())
        return self.lab.run("ctl", submit, 20, env=self.env, cwd=self.output.parent).stdout.strip()

    def _start(self, command: Iterable[str]) -> None:
        where = tuple(command)[: -len(self.command)]
        super()._start((*where, "bash", str(RUN), *self._words()))

    def wait_state(self, state: str) -> None:
        """Slurm's last word comes when it has heard of all nodes."""
        self.wait_until(lambda: self.state() == state, state, 20)


@pytest.fixture
def by_hand(lab: Lab, tmp_path: Path, stand_ins: tuple[str, ...], told: Callable[..., None]) -> Iterator[Callable[..., ByHand]]:
    """by_hand(how="salloc"): a run of three points on two nodes with stand-ins; the same folder again."""
    runs: list[ByHand] = []

    def begin(more: Mapping[str, str] | None = None, **how: Any) -> ByHand:
        env = {"STAND_INS": str(tmp_path / "told"), "PDSLURM_PYTHON": sys.executable, **(more or {})}
        runs.append(ByHand(lab, tmp_path / "run", stand_ins, env, outputs=tmp_path, **how))
        return runs[-1]

    yield begin
    for run in runs:
        run.close()


def test_run_sbatch_ends_at_scancel_and_goes_on(by_hand: Callable[..., ByHand], told: Callable[..., None], lab: Lab) -> None:
    told(client="hang:128")
    run = by_hand({"PDSLURM_HOME": str(ROOT)})
    run.wait_in_point()
    began = time.time()
    lab.run("ctl", ("scancel", run.job), 10)
    run.wait_until(lambda: "stopped by SIGTERM; run the same command again to go on" in run.text, "last words", 20)
    run.wait_clean((*run.nodes, "ctl"), 20)
    print(f"clean {time.time() - began:.1f} s after scancel")
    run.wait_state("CANCELLED")
    assert sorted(run.points()) == [64, 256]
    told()
    again = by_hand({"PDSLURM_HOME": str(ROOT)})
    again.wait_end(60)
    again.wait_state("COMPLETED")
    assert run.points() == dict.fromkeys(POINTS, "done")
    assert "1 points measured, 2 done before" in again.text
    again.wait_clean((*again.nodes, "ctl"), 10)


def test_run_sbatch_under_salloc(by_hand: Callable[..., ByHand]) -> None:
    run = by_hand(how="salloc")  # the script itself is started, so it knows where pdslurm is
    run.wait_end(90)
    assert run.popen
    assert (run.popen.returncode, run.points()) == (0, dict.fromkeys(POINTS, "done"))
    assert "3 points measured" in run.text
    run.wait_clean((*run.nodes, "ctl"), 10)


@pytest.mark.parametrize(
    ("signal", "says"),
    [
        pytest.param(("--batch", "--signal=TERM"), "stopped by SIGTERM; run the same command again", id="TERM to the script alone"),
        pytest.param(("--signal=USR2",), "Slurm", id="USR2 to every process of the steps, as with sbatch --signal=USR2@120"),
    ],
)
def test_run_sbatch_keeps_what_it_has_when_its_time_is_nearly_over(
    by_hand: Callable[..., ByHand], told: Callable[..., None], lab: Lab, signal: tuple[str, ...], says: str
) -> None:
    told(client="hang:128")
    run = by_hand({"PDSLURM_HOME": str(ROOT)})
    run.wait_in_point()
    lab.run("ctl", ("scancel", *signal, run.job), 10)
    run.wait_end(20)
    run.wait_state("FAILED")
    assert says in run.text.splitlines()[-1]
    assert sorted(run.points()) == [64, 256]
    run.wait_clean((*run.nodes, "ctl"), 10)


def test_run_sbatch_says_what_it_cannot_find(by_hand: Callable[..., ByHand]) -> None:
    run = by_hand()
    run.wait_end(20)
    assert f"SLURM_SUBMIT_DIR={run.folder.parent} is not pdslurm's folder, or n1 does not see it; submit from there" in run.text


def test_the_script_ends_all_when_an_engine_is_killed(lab: Lab, tmp_path: Path, stand_ins: tuple[str, ...]) -> None:
    server, script, output = tmp_path / "server.py", tmp_path / "job.sbatch", tmp_path / "out"
    server.write_text(SERVER)
    program = f"[{sys.executable},-S,{server}]"
    more = (f"runtime.vllm={program}", f"runtime.router={program}", "launcher=script", f"launcher.file={script}")
    command = (sys.executable, "-m", "pdslurm", *stand_ins, *more)
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    lab.run("ctl", ("sbatch", "--nodelist=n1,n2", f"--output={output}", str(script)), 20, cwd=tmp_path)
    until(lambda: "the first point: " in said(output), output, 60)
    pid = next(pid for pid, line in lab.processes("n2") if line.startswith(f"{sys.executable} -S {server} serve"))
    killed = time.monotonic()
    lab.run("n2", ("kill", "-KILL", str(pid)), 10)
    until(lambda: "engine1 on n2 died: exit code 137" in said(output), output, 5)
    until(lambda: not lab.run("ctl", ("squeue", "-h"), 10).stdout, output, 15)
    print(f"ended {time.monotonic() - killed:.1f} s after the death")
    assert "  | serving\n" in said(output), "the end of its log"
    assert not list(tmp_path.rglob("api-key"))


@pytest.mark.engine
def test_the_script_serves_with_real_engines_on_two_nodes(lab: Lab, tmp_path: Path, hf_configs: Mapping[str, Any]) -> None:
    """1P1D between two nodes: the request that the script prints is answered, KV has moved, and scancel leaves nothing."""
    engine, folder = ROOT / ".venv-engine", tmp_path / "hand"
    folder.mkdir()
    make = [str(engine / "bin" / "python"), str(ROOT / "pdslurm" / "bench" / "make_model.py"), str(tmp_path / "models" / "tiny")]
    subprocess.run(make, input=json.dumps(hf_configs["tiny"]), text=True, check=True)
    script, output = folder / "job.sbatch", folder / "out"
    quoted = "'" + NASTY.replace("'", "\\'") + "'"  # as Hydra reads it
    command = (
        sys.executable, "-m", "pdslurm", "experiment=demo", "cluster=cpu_nodes", "launcher=script", "launcher.arm=pd_1p1d",
        f"launcher.file={script}", f"+cluster.slurm.extra.comment={quoted}", f"run_root={quoted}",
    )  # fmt: skip
    env = {**os.environ, "PDSLURM_ENGINE": str(engine), "PDSLURM_MODELS": str(tmp_path / "models"), "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=env, check=True)
    before = {node: present(lab, node) for node in lab.nodes}
    job = lab.run("ctl", ("sbatch", "--parsable", f"--output={output}", str(script)), 20, cwd=folder).stdout.strip()
    began = time.monotonic()
    try:
        assert f"Comment={NASTY}" in lab.run("ctl", ("scontrol", "show", "job", job), 20).stdout
        until(lambda: "the first point: " in said(output), output, 300)
        print(f"serving after {time.monotonic() - began:.0f} s")
        first = next(line.split()[2] for line in said(output).splitlines() if line.startswith("node 0: "))
        request = next(line for line in said(output).splitlines() if line.startswith("a request: ")).partition(": ")[2]
        answer = json.loads(lab.run(first, ("bash", "-c", request), 120).stdout)
        assert answer["usage"]["completion_tokens"] == 16
        decode = "http://10.78.0.2:8000"
        metrics = lab.run(first, ("curl", "-s", f"{decode}/metrics"), 20).stdout
        moved = [line for line in metrics.splitlines() if line.startswith("vllm:nixl_bytes_transferred_sum")]
        assert float(moved[0].split()[-1]) > 0, "KV went from one node to the other"
        refused = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{decode}/v1/models")
        assert lab.run(first, refused, 20).stdout == "401"
        (key_file,) = folder.glob(f"*/demo-script-{job}/api-key")
        key = key_file.read_text().strip()
        assert not [line for node in lab.nodes for _, line in lab.processes(node) if key in line]
    finally:
        lab.run("ctl", ("scancel", job), 10)
    cancelled = time.monotonic()
    until(lambda: all(same(present(lab, node), before[node]) for node in lab.nodes), output, 20)
    print(f"nothing left {time.monotonic() - cancelled:.1f} s after scancel")
    assert not key_file.exists()
    assert not list(folder.rglob("x"))
    print({node: lab.tmp(node) for node in lab.nodes})


def same(now: tuple[Any, ...], then: tuple[Any, ...]) -> bool:
    """Processes, ports and shared memory; vLLM leaves files in /tmp, which only a guard would remove."""
    return now[:3] == then[:3]


def said(output: Path) -> str:
    return output.read_text() if output.exists() else ""


def until(true: Callable[[], bool], output: Path, timeout_s: float) -> None:
    """Raises AssertionError with what the job said, and the ends of its logs."""
    deadline = time.monotonic() + timeout_s
    while not true():
        logs = "\n".join(f"--- {p.name}\n{p.read_text()[-2000:]}" for p in output.parent.rglob("*.log"))
        assert time.monotonic() < deadline, f"not within {timeout_s} s\n{said(output)}\n{logs}"
        time.sleep(0.1)
