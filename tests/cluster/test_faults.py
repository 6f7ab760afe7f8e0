"""Every fault of a run on a cluster: what it says, how soon it notices, that nothing is left, that finished points are kept.

Small programs play the engines (stand_in_server.py), so that a fault takes seconds; what is about vLLM itself runs with the real
one too. `PDSLURM_FAULTS=FILE` adds one JSON line a fault to FILE, for a table."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pdslurm.config import Limits
from tests.cluster.cluster_run import DEMO, LIMITS, POINTS, ROOT, SERVER, ClusterRun
from tests.cluster.lab import Lab
from tests.integration.conftest import ENGINE

pytestmark = pytest.mark.cluster

NOTICE_S = 5.0  # the death of a process or a host
ORPHAN_S = LIMITS["orphan_s"] + LIMITS["stop_s"] + 2.0  # a node that nobody reaches has ended everything by then
LIMITS_AGENTS_S = Limits().agents_s
MEASURED = dict.fromkeys(POINTS, "done")
KEPT = {64: "done", 256: "done", 128: "failed"}
Start = Callable[..., ClusterRun]
Told = Callable[..., None]
Fault = Callable[..., None]


@pytest.fixture
def fault(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Fault:
    """fault("an engine dies", began, noticed_s=…): a line of the table of faults."""

    def note(name: str, run: ClusterRun, **seconds: float | str | None) -> None:
        lines = run.text.splitlines()
        says = next((line for line in lines if line.startswith("pdslurm: ")), lines[-1] if lines else "")
        row = {"fault": name, **{k: round(v, 2) if isinstance(v, float) else v for k, v in seconds.items()}, "says": says[:200]}
        record_property("fault", json.dumps(row))
        print(row)
        if file := os.environ.get("PDSLURM_FAULTS"):
            with open(file, "a") as out:
                out.write(json.dumps(row) + "\n")

    return note


def ends(
    run: ClusterRun, began: float, *, noticed: str | None = "process died", reachable: Iterable[str] | None = None
) -> dict[str, float]:
    """Seconds from the fault until the driver noticed, until the job's end, and until nothing was left on reachable machines."""
    times = {}
    if noticed:
        run.wait_event(noticed, 30)
        times["noticed_s"] = (run.when(noticed) or 0.0) - began
    nodes = [*(run.nodes if reachable is None else reachable), "ctl"]
    run.wait_clean(nodes, LIMITS["stop_s"] + 15, slurms=False)
    times["clean_s"] = time.time() - began
    run.wait_end(30)
    times["ended_s"] = time.time() - began
    return times


def rerun(run: ClusterRun, start: Start, told: Told, *, skipped: int = 2) -> None:
    """The same command again measures only what is missing."""
    told()
    again = start()
    again.wait_end(60)
    before = f", {skipped} done before" if skipped else ""
    assert f"{len(POINTS) - skipped} points measured{before}" in again.text
    assert again.points() == MEASURED
    again.wait_clean(again.nodes, 10)


def test_no_fault(start: Start, told: Told, fault: Fault) -> None:
    began = time.time()
    run = start(how="salloc")
    run.wait_end(60)
    assert "3 points measured" in run.text, run.text
    assert run.points() == MEASURED
    run.wait_clean((*run.nodes, "ctl"), 5)
    fault("none", run, ended_s=time.time() - began)


def in_the_last_point(start: Start, told: Told, *overrides: str, **how: Any) -> ClusterRun:
    """A run that has measured two points and hangs in the third."""
    told(client="hang:128")
    run = start(*overrides, **how)
    run.wait_in_point()
    return run


# --- processes


def test_an_engine_dies_at_its_start(start: Start, told: Told, fault: Fault) -> None:
    told(engine_n2="die")
    run = start()
    run.wait_event("process died")
    began = run.when("starting 2 engine process(es)") or 0.0
    times = ends(run, began)
    assert "pdslurm: engine1 (both) on 10.78.0.2 died: exit code 1" in run.text
    assert "| ValueError: --max-num-seqs must be positive" in run.text
    assert times["noticed_s"] <= NOTICE_S
    fault("engine dies at its start", run, **times)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("engine", "engine1 (both) on 10.78.0.2 died: "),
        ("router", "router on 127.0.0.1 died: "),
        ("agent", "node n2 on n2 died: its agent is gone"),
        ("guard", "engine1 (both) on 10.78.0.2 died: "),
        ("client", "client on 10.78.0.1 died: killed by SIGKILL"),
    ],
)
def test_a_process_is_killed_in_a_point(start: Start, told: Told, fault: Fault, kind: str, says: str) -> None:
    run = in_the_last_point(start, told)
    began = time.time()
    run.kill("n1" if kind in ("router", "client") else "n2", kind)
    times = ends(run, began)
    assert f"pdslurm: {says}" in run.text
    assert kind == "agent" or "killed by SIGKILL" in run.text or "refuses connections" in run.text
    assert times["noticed_s"] <= NOTICE_S
    assert run.points() == KEPT
    fault(f"{kind} killed in a point", run, **times)
    if kind == "engine":
        rerun(run, start, told)


def test_the_driver_is_killed(start: Start, told: Told, fault: Fault) -> None:
    run = in_the_last_point(start, told)
    began = time.time()
    run.kill("n1", "driver")
    times = ends(run, began, noticed=None)
    assert times["clean_s"] <= NOTICE_S + LIMITS["stop_s"]
    fault("driver killed", run, **times)
    rerun(run, start, told)


# --- nodes, cables, disks


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_node_crashes(lab: Lab, start: Start, told: Told, fault: Fault, node: str) -> None:
    run = in_the_last_point(start, told)
    began = time.time()
    lab.crash(node)
    if node == "n2":
        times = ends(run, began, reachable=["n1"])
        assert "pdslurm: node n2 on n2 died: silent for" in run.text
        assert "; on it: engine1" in run.text
        assert times["noticed_s"] <= NOTICE_S
        assert run.points() == KEPT
    else:
        run.wait_clean(["n2"], ORPHAN_S, slurms=False)
        times = {"clean_s": time.time() - began}
        told()
        again = start(nodes=("n3", "n4"))
        again.wait_end(60)
        assert "1 points measured, 2 done before" in again.text
    run.mend()
    fault("node with an engine crashes" if node == "n2" else "node with the driver crashes", run, **times)


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_cable_is_pulled(lab: Lab, start: Start, told: Told, fault: Fault, node: str) -> None:
    run = in_the_last_point(start, told)
    began = time.time()
    lab.cable(node, False)
    run.wait_event("process died")
    noticed_s = (run.when("process died") or 0.0) - began
    run.wait_clean(run.nodes, ORPHAN_S + NOTICE_S, slurms=False)
    clean_s = time.time() - began
    assert clean_s <= ORPHAN_S + (NOTICE_S if node == "n1" else 0)
    assert noticed_s <= NOTICE_S
    assert "pdslurm: node n2 on n2 died: " in run.text
    assert run.points() == KEPT
    run.mend()
    fault(f"cable of the node with the {'driver' if node == 'n1' else 'engine'} pulled", run, noticed_s=noticed_s, clean_s=clean_s)


def test_slurmd_dies_and_the_run_goes_on(lab: Lab, start: Start, told: Told, fault: Fault) -> None:
    run = in_the_last_point(start, told)
    began = time.time()
    lab.kill_slurmd("n2")
    time.sleep(1)
    told()
    run.wait_event("stopping", 20)
    run.wait_clean(run.nodes, 15, slurms=False)
    assert "3 points measured" in run.text
    assert run.points() == MEASURED
    fault("slurmd dies alone, the run goes on", run, clean_s=time.time() - began)
    run.mend()


def test_slurmd_dies_and_slurm_gives_the_node_up(make_lab: Callable[..., Lab], start: Start, told: Told, fault: Fault) -> None:
    lab = make_lab(nodes=2, slurmd_timeout_s=3, kill_wait_s=15)  # between TERM and KILL: a driver on two busy cores needs seconds
    run = in_the_last_point(start, told, lab=lab)
    began = time.time()
    lab.kill_slurmd("n2")
    run.wait_event("stopping", 60)
    noticed_s = (run.when("stopping") or 0.0) - began
    run.wait_clean(run.nodes, 15, slurms=False)
    assert "stopped by SIGTERM; run the same command again to go on" in run.text
    fault("slurmd dies alone, Slurm gives the node up", run, noticed_s=noticed_s, clean_s=time.time() - began)


def test_the_disk_is_full_and_then_read_only(
    make_lab: Callable[..., Lab], start: Start, told: Told, fault: Fault, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(disk)], check=True)
    try:  # a lab made now sees it on every machine
        lab = make_lab(nodes=2)
        run = in_the_last_point(start, told, lab=lab, folder="disk/run")
        found = os.statvfs(disk)
        remount(disk, f"size={(found.f_blocks - found.f_bfree) * found.f_bsize}")  # all that there is is used
        began = time.time()
        told()
        run.wait_end(30)
        run.wait_clean(run.nodes, 10)
        assert "No space left on device; free space or fix permissions, then run again" in run.text
        assert run.points() == {64: "done", 256: "done"}
        fault("shared disk full", run, ended_s=time.time() - began)
        remount(disk, "size=2g")
        again = start(lab=lab, folder="disk/run")
        again.wait_end(60)
        assert "1 points measured, 2 done before" in again.text
        again.wait_clean(again.nodes, 10)
        remount(disk, "ro")
        began = time.time()
        refused = start(lab=lab, folder="disk/run")
        refused.wait_end(30)
        assert f"pdslurm: run_dir={disk}/run: cannot be written (Read-only file system); choose another" in refused.text
        refused.wait_clean(refused.nodes, 5)
        fault("results folder read-only", refused, ended_s=time.time() - began)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def remount(disk: Path, options: str) -> None:
    """For all machines at once: they share the one mounted file system."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


# --- Slurm ends it


@pytest.mark.parametrize("how", ["sbatch", "salloc"])
def test_scancel(lab: Lab, start: Start, told: Told, fault: Fault, how: str) -> None:
    run = in_the_last_point(start, told, how=how)
    began = time.time()
    lab.run("ctl", ["scancel", run.job], 10)
    times = ends(run, began, noticed="stopping")
    assert times["noticed_s"] <= NOTICE_S
    assert how == "salloc" or "pdslurm: stopped by SIGTERM; run the same command again to go on" in run.text
    assert run.points() == {64: "done", 256: "done"}
    fault(f"scancel ({how})", run, **times)
    if how == "salloc":
        rerun(run, start, told)


def test_the_time_limit(lab: Lab, start: Start, told: Told, fault: Fault) -> None:
    run = in_the_last_point(start, told)
    began = time.time()
    lab.run("ctl", ["scontrol", "update", f"JobId={run.job}", "EndTime=now"], 10)
    run.wait_event("stopping", 70)
    times = ends(run, began, noticed="stopping")
    assert "pdslurm: stopped by SIGTERM; run the same command again to go on" in run.text
    run.wait_until(lambda: run.state() == "TIMEOUT", "TIMEOUT", 20)
    assert run.points() == {64: "done", 256: "done"}
    fault("time limit", run, **times)


# --- requests, files, neighbours


def test_engines_that_answer_health_but_never_a_request(start: Start, told: Told, fault: Fault) -> None:
    told(engine="silent")
    run = start("limits.start_s=6")
    run.wait_event("2 instance(s) ready")
    began = run.when("2 instance(s) ready") or 0.0
    times = ends(run, began, noticed="stopping")
    assert "did not complete a request of 200 tokens within 6 s" in run.text
    assert times["noticed_s"] < 6 + NOTICE_S
    fault("engines answer /health, never a request (start_s=6)", run, **times)


def test_a_request_that_is_stuck(start: Start, told: Told, fault: Fault) -> None:
    run = in_the_last_point(start, told, "limits.point_s=4")
    began = run.when("2/3 ") or 0.0
    told(client="hang:128", engine="silent")
    times = ends(run, began, noticed="FAILED: the benchmark client gave no answer in time")
    assert times["noticed_s"] < 4 + NOTICE_S
    assert "did not complete a request of 200 tokens within 4 s" in run.text
    assert run.points() == KEPT
    fault("a stuck request (point_s=4)", run, **times)
    rerun(run, start, told)


def test_an_engine_is_missing_on_one_node(lab: Lab, start: Start, told: Told, fault: Fault) -> None:
    program = f'#!/bin/sh\nexec {sys.executable} -S {SERVER} "$@"\n'
    try:
        lab.run("n1", ["sh", "-c", f"echo '{program}' > /tmp/vllm; chmod +x /tmp/vllm"], 10)
        began = time.time()
        run = start("runtime.vllm=[/tmp/vllm]")
        run.wait_end(30)
        assert "pdslurm: preflight failed; no engine was started\n  - n2: runtime.vllm=/tmp/vllm: no such program" in run.text
        assert "n1: runtime.vllm" not in run.text
        run.wait_clean(run.nodes, 5)
        fault("the engine's file is missing on one node", run, ended_s=time.time() - began)
    finally:
        lab.run("n1", ["rm", "/tmp/vllm"], 10)


# --- before any agent has joined


@contextlib.contextmanager
def hidden(lab: Lab, node: str, path: Path, by: str = "/dev/null") -> Iterator[None]:
    """On this node alone another file lies where `path` was."""
    lab.run(node, ["mount", "--bind", by, str(path)], 10)
    try:
        yield
    finally:
        lab.run(node, ["umount", str(path)], 10)


def ends_before_engines(run: ClusterRun, began: float) -> float:
    """Seconds until the run's end; nothing of it is left, on no node and not in its folder."""
    run.wait_end(60)
    ended_s = time.time() - began
    run.wait_clean(run.nodes, 10)
    assert not list(run.folder.glob(".key*"))
    assert not list(run.folder.glob("points/*/*"))
    return ended_s


def test_munge_is_dead_on_a_node(lab: Lab, start: Start, told: Told, fault: Fault) -> None:
    with hidden(lab, "n2", lab.root / "run" / "munge.sock"):
        began = time.time()
        run = start()
        ended_s = ends_before_engines(run, began)
    assert "pdslurm: no agent on n2: srun says: " in run.text, run.text
    assert "is munged running on that node, and is its clock right?" in run.text
    fault("munge is dead on one node", run, ended_s=ended_s)
    run.mend()
    rerun(run, start, told, skipped=0)


def test_a_nodes_name_does_not_resolve(lab: Lab, start: Start, told: Told, fault: Fault) -> None:
    names = lab.scratch / "hosts"
    hosts = Path(lab.root / "etc" / "hosts").read_text()
    names.write_text("".join(line for line in hosts.splitlines(keepends=True) if "n2" not in line.split()))
    with hidden(lab, "n1", Path("/etc/hosts"), str(names)):
        began = time.time()
        run = start()
        ended_s = ends_before_engines(run, began)
    assert "n2" in run.text.partition("pdslurm: ")[2], run.text
    assert "resolve" in run.text
    fault("a node's name does not resolve", run, ended_s=ended_s)
    names.unlink()


def test_an_agent_cannot_start(lab: Lab, start: Start, told: Told, fault: Fault) -> None:
    with hidden(lab, "n2", ROOT / "pdslurm" / "slurm" / "wire.py"):
        began = time.time()
        run = start()
        ended_s = ends_before_engines(run, began)
    assert "pdslurm: no agent on n2: srun says: n2: task 1: Exited with exit code 1" in run.text, run.text
    assert "No module named 'pdslurm.slurm.wire'" in run.text
    assert ended_s < LIMITS_AGENTS_S
    fault("an agent cannot start on one node", run, ended_s=ended_s)


def test_two_runs_on_the_same_nodes(lab: Lab, start: Start, told: Told, fault: Fault) -> None:
    told(client="hang:128")
    first = start(folder="first", options=())
    first.wait_in_point()
    second = start(folder="second", options=())
    second.wait_in_point()
    ports = [{(p["host"], port) for p in run.plan()["processes"] if (port := p["port"])} for run in (first, second)]
    assert len(ports[0]) == len(ports[1]) == 3
    assert not ports[0] & ports[1]
    lab.run("ctl", ["scancel", first.job], 10)
    first.wait_event("stopping")
    first.wait_end(30)
    told()
    second.wait_end(30)
    assert "3 points measured" in second.text
    assert second.points() == MEASURED
    second.wait_clean(second.nodes, 10)
    first.wait_clean(first.nodes, 10)
    fault("two runs on the same nodes, one is cancelled", second)


def test_the_submitting_process_is_killed(lab: Lab, start: Start, told: Told, fault: Fault) -> None:
    run = in_the_last_point(start, told, how="slurm", options=())
    assert run.popen
    run.popen.kill()
    run.popen.wait(10)
    again = start(how="slurm", options=())
    told()
    again.wait_end(60)
    assert f"job {run.job} of this run is RUNNING already; nothing was submitted" in again.text
    assert "3 points measured" in again.text
    again.wait_clean((*run.nodes, "ctl"), 10)
    fault("the submitting process is killed", again)


def test_slurmctld_is_away_while_a_job_is_waited_for(lab: Lab, start: Start, told: Told, fault: Fault) -> None:
    """Nobody but Slurm is away: the job measures on, its end is waited for, and the same command meanwhile submits nothing."""
    run = in_the_last_point(start, told, how="slurm", options=())
    began = time.time()
    lab.stop_slurmctld()
    try:
        run.wait_until(lambda: "slurmctld has not answered for" in run.text, "word of the silence", 60)
        said_s = time.time() - began
        away = lab.on("ctl", run.command, env=run.env, cwd=run.output.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        time.sleep(max(0.0, began + 20 - time.time()))
        assert not run.has_ended()
    finally:
        lab.start_slurmctld()
    back = time.time()
    told()
    run.wait_end(90)
    again = away.communicate(timeout=90)[0].decode()
    times = {"said_s": said_s, "away_s": back - began, "ended_after_s": time.time() - back}
    assert run.popen
    assert run.popen.returncode == 0
    assert f"job {run.job} goes on without it, and pdslurm asks again" in run.text
    assert "3 points measured" in run.text
    assert run.points() == MEASURED
    assert f"job {run.job} of this run is " in again, again
    assert "already; nothing was submitted" in again
    assert "3 points measured" in again
    queue = lab.run("ctl", ("squeue", "-h", "--states=all", f"--name={run.job_name()}", "-o", "%i %T"), 20).stdout
    assert queue == f"{run.job} COMPLETED\n"
    run.wait_clean((*run.nodes, "ctl"), 10)
    lab.wait_idle()
    fault("slurmctld away for 20 s while a job is waited for", run, **times)


# --- the real engine


@pytest.fixture
def real(lab: Lab, tmp_path: Path) -> Iterator[Callable[..., ClusterRun]]:
    """real("limits.point_s=30"): three points on two nodes with vLLM and a tiny model."""
    runs: list[ClusterRun] = []
    env = {"PDSLURM_ENGINE": str(ENGINE.resolve()), "PDSLURM_MODELS": str(tmp_path)}

    def begin(*overrides: str) -> ClusterRun:
        more = ("model=tiny", f"run_root={ROOT}/runs", "limits.stop_s=5", "limits.start_s=300", *overrides)
        runs.append(ClusterRun(lab, tmp_path / "run", (*DEMO, *more), env, outputs=tmp_path))
        return runs[-1]

    yield begin
    for run in runs:
        run.close()


@pytest.mark.engine
def test_a_real_engine_dies_at_its_start(real: Callable[..., ClusterRun], fault: Fault) -> None:
    run = real()
    run.wait_until(lambda: run.runs("n2", "engine") or run.has_ended(), "EngineCore on n2", 120)
    time.sleep(2.5)  # its guard looks once a second
    began = time.time()
    run.kill("n2", "engine")
    times = ends(run, began)
    assert "pdslurm: engine1 (both) on 10.78.0.2 died: " in run.text
    assert times["noticed_s"] <= NOTICE_S
    assert run.points() == {}
    fault("real engine: EngineCore killed at its start", run, **times)


@pytest.mark.engine
def test_a_real_engine_is_stuck_in_a_point_and_dies_in_another(real: Callable[..., ClusterRun], fault: Fault) -> None:
    point_s = 40
    # a point takes several seconds, also on a fast machine: progress.json, from which its middle is known, is written every two
    many = ("workload.num_prompts=96", "workload.prompts_per_concurrency=48")
    run = real(f"limits.point_s={point_s}", *many, "workload.sweeps.concurrency.max_concurrency=[2]")
    run.wait_event("1/3 ", 200)
    began = run.when("1/3 ") or 0.0
    time.sleep(0.5)
    run.kill("n2", "engine", "STOP")
    run.wait_event("2/3 ", point_s + 20)
    run.kill("n2", "engine", "CONT")
    noticed_s = (run.when("2/3 ") or 0.0) - began
    assert "FAILED: the benchmark client gave no answer in time" in run.text
    assert point_s <= noticed_s < point_s + NOTICE_S
    fault(f"real engine: EngineCore stopped, a request is stuck (point_s={point_s})", run, noticed_s=noticed_s)
    last = f"i{POINTS[-1]}-"
    run.wait_until(lambda: last in (now := run.progress()).get("point", "") and now["requests_done"] > 0, "last point", 90)
    began = time.time()
    run.kill("n2", "engine")
    times = ends(run, began)
    assert "pdslurm: engine1 (both) on 10.78.0.2 died: " in run.text
    assert times["noticed_s"] <= NOTICE_S
    assert run.points() == {64: "done", 256: "failed", 128: "failed"}
    fault("real engine: EngineCore killed in a point", run, **times)


# --- launcher=slurm

ON_SLURM = ("cluster.slurm.requeue=true", '+cluster.slurm.extra.nodelist="n1,n2"')


def goes_on(run: ClusterRun, told: Told) -> None:
    """Slurm has warned; the job is queued again, and measures only what is missing."""
    run.wait_event("stopping", 60)
    told()
    run.wait_end(90)
    assert "2 of 3 points are done already" in run.text
    assert "1 points measured, 2 done before" in run.text
    assert run.points() == MEASURED
    run.wait_clean((*run.nodes, "ctl"), 10)


def test_preemption(lab: Lab, start: Start, told: Told, fault: Fault) -> None:
    run = in_the_last_point(start, told, *ON_SLURM, how="slurm")
    began = time.time()
    other = ("sbatch", "--partition=high", "--exclusive", "--nodelist=n1,n2", "--nodes=2", "--output=/dev/null", "--wrap=sleep 2")
    lab.run("ctl", other, 10, cwd=lab.scratch)
    goes_on(run, told)
    noticed_s = (run.when("stopping") or 0.0) - began
    assert noticed_s <= NOTICE_S
    fault("preemption, queued again, resumed", run, noticed_s=noticed_s, ended_s=time.time() - began)


def test_the_time_limit_under_launcher_slurm(lab: Lab, start: Start, told: Told, fault: Fault) -> None:
    run = in_the_last_point(start, told, *ON_SLURM, how="slurm")
    began = time.time()
    lab.run("ctl", ["scontrol", "update", f"JobId={run.job}", "EndTime=now+100"], 10)
    goes_on(run, told)
    noticed_s = (run.when("stopping") or 0.0) - began
    fault("time limit near, queued again, resumed", run, noticed_s=noticed_s, ended_s=time.time() - began)
