"""A pdslurm run on the lab with stand-in engines: wait for what it does, interfere, and see when it noticed and what remains."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pdslurm.records.measurement import Measurement
from pdslurm.records.run_folder import RunFolder
from tests.cluster.lab import Lab
from tests.integration.local_run import events_in

ROOT = Path(__file__).parents[2]
SERVER = Path(__file__).with_name("stand_in_server.py")
# Slurm's own, which end when slurmctld can talk to them again: seconds after a node came back
SLURMS = ("slurmstepd", "srun ")
KINDS = {
    "driver": r"^\S*python\S* -m pdslurm |submitit",
    "agent": r"^\S*python\S* -m pdslurm\.slurm\.agent",
    "guard": r"guard\.py .* serve ",
    "engine": rf"^\S*python\S* -S {SERVER} serve|^VLLM::EngineCore",
    "router": rf"^\S*python\S* -S {SERVER} --host|^\S*python\S* \S*vllm-router",
    "client": r"/bench/client\.py",
}
ALIVE = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED")
LIMITS = {"start_s": 20, "point_s": 90, "stop_s": 1, "orphan_s": 5}
POINTS = (64, 256, 128)  # input lengths in the order in which they are measured
DEMO = (
    "cluster=cpu_nodes", "topology=route_2", "topology.nodes=2", "workload=closed_loop",
    "workload.sweeps.concurrency.output_len=[32]", f"workload.sweeps.concurrency.input_len={sorted(POINTS)}",
    "workload.sweeps.concurrency.max_concurrency=[null]",
    "workload.repeats=1", "workload.num_prompts=4", "workload.warmup_prompts=0",
)  # fmt: skip


class ClusterRun:
    """One job on `nodes` that runs pdslurm: by sbatch on the first of them, by salloc from ctl, or by launcher=slurm from ctl.
    What it prints goes to a file in `outputs`."""

    def __init__(
        self,
        lab: Lab,
        folder: Path,
        overrides: Iterable[str],
        env: Mapping[str, str],
        *,
        outputs: Path,
        how: str = "sbatch",
        nodes: Iterable[str] = ("n1", "n2"),
        options: Iterable[str] = ("--exclusive",),
    ) -> None:
        self.lab, self.folder, self.results, self.how = lab, folder, RunFolder(folder), how
        self.nodes = tuple(nodes)
        self.before = {node: present(lab, node) for node in (*lab.nodes, "ctl")}
        self.output = outputs / f"{folder.name}.{time.monotonic_ns()}.out"
        self.events_before = len(self.events())
        self.env = {**os.environ, **env, "PYTHONPATH": str(ROOT)}
        where = (f"--nodes={len(self.nodes)}", f"--nodelist={','.join(self.nodes)}", *options)
        launcher = "slurm" if how == "slurm" else "allocation"
        self.command = (sys.executable, "-m", "pdslurm", *overrides, f"launcher={launcher}", f"run_dir={folder}")
        self.popen: subprocess.Popen[Any] | None = None
        if how == "sbatch":
            self.job = self._sbatch(where)
        else:
            self._start(("salloc", *where, *self.command) if how == "salloc" else self.command)

    def _sbatch(self, where: Iterable[str]) -> str:
        script = self.output.with_suffix(".sh")
        words = " ".join(f"'{word}'" for word in self.command)
        script.write_text(f"#!/bin/bash\nexec {words}\n")
        submit = ("sbatch", "--parsable", "--no-requeue", f"--output={self.output}", *where, str(script))
        return self.lab.run("ctl", submit, 20, env=self.env, cwd=self.output.parent).stdout.strip()

    def _start(self, command: Iterable[str]) -> None:
        with self.output.open("wb") as out:
            self.popen = self.lab.on(
                "ctl", tuple(command), env=self.env, cwd=self.output.parent, stdout=out, stderr=subprocess.STDOUT
            )
        self.job = ""
        self.wait_until(lambda: bool(self._queued()), "job in the queue", 20)
        self.job = self._queued()[-1]

    def _queued(self) -> list[str]:
        return self.lab.run("ctl", ("squeue", "-h", "-o", "%i"), 10).stdout.split()

    # --- what it says

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def events(self) -> list[dict[str, Any]]:
        return events_in(self.folder)

    def when(self, text: str) -> float | None:
        """When an event with this text was written by this run, as time.time() counts."""
        at = next((e["at"] for e in self.events()[self.events_before :] if text in e["event"]), None)
        return datetime.fromisoformat(at).timestamp() if at else None

    def points(self) -> dict[int, str]:
        """Input length → done or failed."""
        return {record.point["input_len"]: record.status for record in self.records()}

    def records(self) -> list[Measurement]:
        return list(self.results.records())

    def plan(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.folder / "plan.json").read_text())
        return value

    def job_name(self) -> str:
        """By which launcher=slurm finds the job again."""
        name: str = json.loads((self.folder / "slurm" / "job.json").read_text())["name"]
        return name

    def state(self) -> str:
        """What Slurm says of the job."""
        fields = self.lab.run("ctl", ("scontrol", "-o", "show", "job", self.job), 20).stdout.split()
        return next(field.removeprefix("JobState=") for field in fields if field.startswith("JobState="))

    def has_ended(self) -> bool:
        return self.popen.poll() is not None if self.popen else self.state() not in ALIVE

    # --- waiting and interfering

    def wait_until(self, true: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Raises AssertionError with the run's output when the time is over."""
        deadline = time.monotonic() + timeout_s
        while not true():
            assert time.monotonic() < deadline, f"no {what} within {timeout_s} s\n{self.text}\n{self.logs()}"
            time.sleep(0.05)

    def wait_event(self, text: str, timeout_s: float = 60) -> None:
        self.wait_until(lambda: self.when(text) is not None or self._dead(), f"event with {text!r}", timeout_s)
        assert self.when(text), f"ended before {text!r}\n{self.text}\n{self.logs()}"

    def _dead(self) -> bool:
        """Whether nobody is left who could write an event; asked about once a second. A job that was cancelled is COMPLETING, and
        no longer RUNNING, before its driver has seen the signal."""
        if int(time.monotonic() * 20) % 20:
            return False
        return self.has_ended() and (self.popen is not None or self.state() != "COMPLETING")

    def wait_in_point(self) -> None:
        """Until the last point, in which the client was told to hang, is being measured."""
        self.wait_event("2/3 ")
        time.sleep(0.3)

    def wait_end(self, timeout_s: float) -> None:
        self.wait_until(self.has_ended, "end", timeout_s)

    def pid(self, node: str, kind: str) -> int:
        """The first process of that kind there that this run has started."""
        found = self.lab.processes(node)
        mine = [pid for pid, line in found if pid not in self.before[node][0] and re.search(KINDS[kind], line)]
        assert mine, f"no {kind} on {node}: {found}"
        return mine[0]

    def runs(self, node: str, kind: str) -> bool:
        return any(re.search(KINDS[kind], line) for pid, line in self.lab.processes(node) if pid not in self.before[node][0])

    def progress(self) -> dict[str, Any]:
        """What the run says of itself in progress.json; empty before."""
        with contextlib.suppress(OSError, ValueError):
            value: dict[str, Any] = json.loads((self.folder / "progress.json").read_text())
            return value
        return {}

    def kill(self, node: str, kind: str, signal: str = "KILL") -> None:
        self.lab.run(node, ("kill", f"-{signal}", str(self.pid(node, kind))), 10)

    def logs(self) -> str:
        """Ends of all logs, for a failed assertion."""
        paths = sorted(self.folder.glob("logs/**/*.log"))
        return "\n".join(f"--- {path}\n{path.read_text(errors='replace')[-3000:]}" for path in paths)

    # --- the end

    def left(self, nodes: Iterable[str], *, slurms: bool = True) -> list[str]:
        """Everything on these machines that was not there before, and what a run must not leave in its folder."""
        found = []
        for node in filter(self.lab.is_on, nodes):
            processes, *rest = present(self.lab, node)
            new = {pid: line for pid, line in processes.items() if pid not in self.before[node][0]}
            found += [f"{node}: process {pid} {line}" for pid, line in new.items() if slurms or not line.startswith(SLURMS)]
            own = not slurms and any(line.startswith(SLURMS) for line in new.values())  # and so are its ports
            for kind, now, then in zip(("port", "/dev/shm", "/tmp"), rest, self.before[node][1:], strict=True):
                found += [
                    f"{node}: {kind} {name}" for name in sorted(now - then) if not (own and kind == "port" and int(name) > 32767)
                ]
        found += [f"file {path}" for pattern in (".key*", "**/.*.tmp") for path in self.folder.glob(pattern)]
        return found

    def wait_clean(self, nodes: Iterable[str], timeout_s: float, *, slurms: bool = True) -> None:
        """Until nothing is left on these machines."""
        wanted, deadline = tuple(nodes), time.monotonic() + timeout_s
        while left := self.left(wanted, slurms=slurms):
            assert time.monotonic() < deadline, f"left after {timeout_s} s:\n" + "\n".join(left) + f"\n{self.text}\n{self.logs()}"
            time.sleep(0.05)

    def mend(self) -> None:
        """The faulty nodes are switched on again, and Slurm is told to forget the job: alone it takes a minute."""
        faulty = [node for node in self.lab.nodes if not self.lab.is_healthy(node)]
        self.lab.run("ctl", ("scancel", self.job), 10, check=False)
        for node in faulty:
            if self.lab.is_on(node):
                self.lab.crash(node)
            self.lab.boot(node)
        for state in ("DOWN", "RESUME"):
            update = ("scontrol", "update", f"NodeName={','.join(self.nodes)}", f"State={state}", "Reason=mended")
            self.lab.run("ctl", update, 10, check=False)  # Slurm refuses to resume what has come back by itself
        self.wait_until(lambda: not self._queued(), "end of the job", 20)
        self.wait_clean(self.lab.nodes, 10)
        self.lab.wait_idle()

    def close(self) -> None:
        """Ends the job if it still runs."""
        if self.job:
            self.lab.run("ctl", ("scancel", self.job), 10, check=False)
        if self.popen and self.popen.poll() is None:
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(10)
            self.popen.kill()
            self.popen.wait(10)


def present(lab: Lab, node: str) -> tuple[dict[int, str], set[str], set[str], set[str]]:
    """Processes, listening ports, names in /dev/shm and in /tmp of a machine; nothing of one that is off."""
    if not lab.is_on(node):
        return {}, set(), set(), set()
    return dict(lab.processes(node)), set(map(str, lab.listening(node))), set(lab.shm(node)), set(lab.tmp(node))
