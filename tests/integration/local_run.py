"""`python -m pdslurm … launcher=local` as a subprocess: wait for what it does, interfere, and list whatever it left behind."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pdslurm.node.ports import is_free
from pdslurm.records.measurement import Measurement
from pdslurm.records.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
SHM = Path("/dev/shm")


class LocalRun:
    """One pdslurm process in a session of its own. Whatever it starts is found again by a mark in its environment, or by the
    session of one of its children (a program that renames itself, as vLLM does, overwrites what /proc shows of its environment).
    Its temporary files go to a folder that is empty before."""

    def __init__(self, folder: Path, *overrides: str, env: Mapping[str, str] | None = None) -> None:
        self.folder, self.results = folder, RunFolder(folder)
        self.mark = f"PDSLURM_TEST_RUN={uuid.uuid4().hex}"
        self.temp = Path(tempfile.mkdtemp(prefix="pds-", dir="/tmp"))  # short: engines put Unix sockets into it
        self.shm_before = set(os.listdir(SHM))
        self.events_before = len(self.events())  # a folder that is resumed has some
        self.output = folder.parent / f"{folder.name}-{self.mark[-6:]}.out"
        self.command = [sys.executable, "-m", "pdslurm", *overrides, f"run_dir={folder}"]
        name, _, value = self.mark.partition("=")
        with self.output.open("wb") as out:
            self.started_at = time.time()
            self.popen = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env={**os.environ, **(env or {}), name: value, "TMPDIR": str(self.temp)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.sessions = {self.popen.pid}

    # --- what it says

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def events(self) -> list[dict[str, Any]]:
        return events_in(self.folder)

    def new_events(self) -> list[dict[str, Any]]:
        """What this process added."""
        return self.events()[self.events_before :]

    def event(self, text: str) -> dict[str, Any]:
        """The first of its events that contains `text`."""
        return next(e for e in self.new_events() if text in e["event"])

    def count(self, text: str) -> int:
        """How many of its events contain `text`."""
        return sum(text in e["event"] for e in self.new_events())

    def plan(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.folder / "plan.json").read_text())
        return value

    def state(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return value

    def records(self, arm: str | None = None) -> list[Measurement]:
        return [r for r in self.results.records() if arm in (None, r.arm)]

    def logs(self) -> list[str]:
        """Every log, relative to the run's folder."""
        return sorted(str(p.relative_to(self.folder)) for p in self.folder.glob("logs/**/*.log"))

    # --- waiting and interfering

    def wait_until(self, true: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Raises AssertionError with the run's output when it ends before, or the time is over."""
        deadline = time.monotonic() + timeout_s
        while not true():
            ended = self.popen.poll()
            assert ended is None or true(), f"ended with {ended} before {what}\n{self.text}"
            assert time.monotonic() < deadline, f"no {what} within {timeout_s} s\n{self.text}"
            self.sessions.update(children(self.popen.pid))
            time.sleep(0.1)

    def wait_event(self, text: str, timeout_s: float, *, count: int = 1) -> None:
        self.wait_until(lambda: self.count(text) >= count, f"event with {text!r}", timeout_s)

    def wait(self, timeout_s: float) -> int:
        """Its exit code."""
        self.wait_until(lambda: self.popen.poll() is not None, "end", timeout_s)
        assert self.popen.returncode is not None
        return self.popen.returncode

    def child(self, word: str) -> int:
        """Its one direct child that has `word` in its command line."""
        found = [pid for pid in children(self.popen.pid) if word in " ".join(arguments(pid))]
        assert len(found) == 1, (word, {pid: " ".join(arguments(pid)) for pid in children(self.popen.pid)})
        return found[0]

    def engine(self, name: str) -> int:
        """The first process of an engine of the plan that is running now, below its guard; `name` as in the plan."""
        argv = [p["argv"][1:] for p in self.plan()["processes"] if p["name"] == name and p["kind"] == "engine"]
        guards = [pid for pid in children(self.popen.pid) if any(arguments(pid)[-len(words) :] == words for words in argv)]
        assert len(guards) == 1, (name, argv, {pid: arguments(pid) for pid in children(self.popen.pid)})
        (engine,) = (pid for pid in children(guards[0]) if arguments(pid)[-len(argv[0]) :] == argv[0])
        return engine

    # --- the end

    def left(self) -> list[str]:
        """Everything of this run that still exists; empty when it cleaned up."""
        found = [f"process {pid}: {' '.join(arguments(pid))[:150]}" for pid in self.living()]
        with contextlib.suppress(FileNotFoundError):  # a run that did not get so far has no plan
            found += [f"port {host}:{port}" for host, port in sorted(planned_ports(self.plan())) if not is_free(host, port)]
        # what lies in /dev/shm and is mapped by a living process belongs to that one: other runs may go on beside the tests
        new = set(os.listdir(SHM)) - self.shm_before
        found += [f"/dev/shm/{name}" for name in sorted(new - mapped_shm())] if new else []
        found += [f"{self.temp}/{name}" for name in os.listdir(self.temp)]
        return found

    def living(self) -> list[int]:
        """Every process of this run."""
        return [p for p in processes() if session(p) in self.sessions or self.mark in environment(p)]

    def close(self) -> None:
        """Stops it if it still runs, by TERM and then KILL, and removes its temporary folder."""
        if self.popen.poll() is None:
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(40)
        for pid in self.living():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.popen.wait(10)
        shutil.rmtree(self.temp, ignore_errors=True)


def seconds(event: Mapping[str, Any]) -> float:
    """When an event was written, as time.time() counts."""
    return datetime.fromisoformat(event["at"]).timestamp()


def processes() -> Iterator[int]:
    """Every process; a zombie counts while other threads of it live."""
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            if stat(pid)[:1] != ["Z"] or len(os.listdir(f"/proc/{pid}/task")) > 1:
                yield pid


def stat(pid: int) -> list[str]:
    """Its /proc/PID/stat after the command: state, parent, process group, session, …; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def session(pid: int) -> int | None:
    found = stat(pid)
    return int(found[3]) if found else None


def children(pid: int) -> list[int]:
    return [p for p in processes() if stat(p)[1:2] == [str(pid)]]


def arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def environment(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def mapped_shm() -> set[str]:
    """Names in /dev/shm that some living process has mapped."""
    found = set()
    for pid in processes():
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                found.add(line.partition("/dev/shm/")[2])
    return found


def events_in(run_dir: Path) -> list[dict[str, Any]]:
    """A run's events.jsonl, without a line that is being written; nothing where there is none."""
    try:
        lines = (run_dir / "events.jsonl").read_text().split("\n")[:-1]
    except OSError:
        return []
    return [json.loads(line) for line in lines]


def planned_ports(plan: Mapping[str, Any]) -> set[tuple[str, int]]:
    """Every address that the plan's processes listen on."""
    flags = ("--port", "--prometheus-port", "--master-port", "--data-parallel-rpc-port")
    found = set()
    for process in plan["processes"]:
        argv = process["argv"]
        found |= {(process["host"], int(value)) for flag, value in itertools.pairwise(argv) if flag in flags}
        if side_channel := process["env"].get("VLLM_NIXL_SIDE_CHANNEL_PORT"):
            found.add((process["host"], int(side_channel)))
    return found
