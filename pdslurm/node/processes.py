"""From planned processes to running ones on this machine, each in a session of its own under a guard; stopped, nothing is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pdslurm.config import Runtime
from pdslurm.errors import CleanUpFailed, ProcessDied
from pdslurm.node import gpu_states, gpus, guard
from pdslurm.node.engine_env import EngineEnv
from pdslurm.node.gpu_use import GpuUse
from pdslurm.node.process_logs import cause_from_guard, log_tail
from pdslurm.plan.deployment import Process
from pdslurm.plan.environment import no_proxy

HURRY_S = 10.0  # for KILL to work where no guard waits for it


@dataclass(frozen=True)
class Started:
    """A process that was started, here or on another node, and its log."""

    process: Process
    log: Path


@dataclass(frozen=True)
class Running(Started):
    """One started here; its pid is also its session's id. All but the client run under the guard, which watches
    its stdin; the client's stdin and stdout are for talking to it."""

    popen: subprocess.Popen[bytes]
    guarded: bool = True


def logs_by_instance(started: Iterable[Started], instances: Iterable[str]) -> dict[str, list[Path]]:
    """The logs of each instance's processes; an instance that spans nodes has one process on each."""
    logs: dict[str, list[Path]] = {name: [] for name in instances}
    for each in started:
        logs.get(each.process.name.partition("-part")[0], []).append(each.log)
    return logs


class Processes(Protocol):
    """What the driver asks for, wherever the processes are."""

    @property
    def running(self) -> Sequence[Started]: ...
    @property
    def left_behind(self) -> Sequence[object]: ...
    def start(self, process: Process, log: Path) -> Started: ...
    def start_client(self, process: Process, log: Path) -> Running: ...
    def check(self) -> None: ...
    def died(self, name: str, cause: str) -> ProcessDied: ...
    def by_name(self, name: str) -> Started: ...
    def stop(self, chosen: Iterable[Started]) -> None: ...
    def gpu_states(self, engines: Iterable[Process]) -> dict[str, list[dict[str, Any]]]: ...
    def begin_gpu_use(self, engines: Iterable[Process]) -> None: ...
    def end_gpu_use(self) -> dict[str, dict[str, Any]]: ...


def cause_of_returncode(code: int) -> str:
    """`exit code 1` or `killed by SIGKILL`."""
    return guard.exit_cause(128 - code if code < 0 else code)


def died(started: Started, cause: str, tail: str | None = None) -> ProcessDied:
    """The error for a dead process, with the end of its log, read here unless its node sent it."""
    process = started.process
    has_role = process.role not in (process.name, "any", "client", "router")
    name = f"{process.name} ({process.role})" if has_role else process.name
    tail = log_tail(started.log) if tail is None else tail
    return ProcessDied(name, node=process.host, cause=cause, log=started.log, log_tail=tail)


class LocalProcesses:
    """Starts, watches and stops. As a context manager it stops everything at the end, whatever happened.

    `api_key` is what the engines ask for: it goes to environments by the name that each program knows, and stands in no plan.
    Temporary files go to a folder of the run. `adopts`: this process has no other children, so it also ends whatever is orphaned
    below it, should a guard be killed."""

    def __init__(
        self,
        *,
        stop_s: float,
        hurry: Callable[[], bool] = lambda: False,
        api_key: str | None = None,
        engine_env: EngineEnv | None = None,
        adopts: bool = False,
    ) -> None:
        self.stop_s = stop_s
        self.engine_env = engine_env or EngineEnv(Runtime("bare"))
        self.adopts = adopts
        if adopts:
            guard.adopt_orphans()
        self.hurry = hurry  # says whether to kill at once
        self.api_key = api_key
        self.running: list[Running] = []
        self.log_sizes: dict[str, int] = {}  # when a guard's line was last looked for
        self.left_behind: list[int] = []  # pids that outlived KILL
        self.gpu_use = GpuUse()
        self._temp: Path | None = None

    def __enter__(self) -> LocalProcesses:
        return self

    def __exit__(self, kind: object, error: object, _: object) -> None:
        """Raises CleanUpFailed, but where another error ends the run: then that one counts and this one is printed."""
        try:
            self.stop(list(self.running))
            self._remove_containers(is_raised=error is None)
        finally:
            if self.adopts:
                _end_adopted()
            self._remove_temp()

    def _remove_containers(self, *, is_raised: bool) -> None:
        try:
            self.engine_env.remove_containers()
        except CleanUpFailed as error:
            if is_raised:
                raise
            print(f"pdslurm: {error}", file=sys.stderr, flush=True)

    @property
    def temp(self) -> Path:
        """The folder for temporary files of what is started here. It is made at its first use: one who starts nothing leaves none,
        should he be killed."""
        if self._temp is None:
            self._temp = Path(tempfile.mkdtemp(prefix="pdslurm-"))
        return self._temp

    def _remove_temp(self) -> None:
        if self._temp is None:
            return
        for note in self._temp.glob(f"*/{guard.NOTE}"):  # of a guard that was killed
            guard.remove_shared_memory(set(map(int, note.read_text().split())))
        shutil.rmtree(self._temp, ignore_errors=True)

    def start(self, process: Process, log: Path) -> Running:
        """Starts one process under a guard with its output in `log`. Raises ProcessDied when it cannot be started at all."""
        bare = self.engine_env.is_bare
        python = [sys.executable] if bare else self.engine_env.runtime.python
        return self._start(process, log, (*python, "-I", "-S", guard.__file__, f"{self.stop_s:g}", *process.argv), guarded=True)

    def start_client(self, process: Process, log: Path) -> Running:
        """Starts a process to talk to by its stdin and stdout, and which ends when they do."""
        return self._start(process, log, process.argv, guarded=False)

    def _start(self, process: Process, log: Path, argv: Sequence[str], *, guarded: bool) -> Running:
        log.parent.mkdir(parents=True, exist_ok=True)
        env = {**process.env, "PYTHONUNBUFFERED": "1"}
        if process.gpus and "CUDA_VISIBLE_DEVICES" in env:  # the plan counts the GPUs that are this run's
            env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus.visible_gpus(process.gpus, os.environ.get("CUDA_VISIBLE_DEVICES")))
        if self.engine_env.is_bare:
            env["TMPDIR"] = str(self.temp)
        env |= no_proxy(process.direct, {**os.environ, **env})
        if self.api_key:
            env["VLLM_API_KEY" if process.kind == "engine" else "OPENAI_API_KEY"] = self.api_key
        argv, env = self.engine_env.command(argv, env, name=f"{process.name}-{log.stem}", stdin=True)
        with log.open("ab") as out:
            try:
                popen = subprocess.Popen(
                    argv,
                    env=env,
                    stdin=subprocess.PIPE,
                    stdout=out if guarded else subprocess.PIPE,
                    stderr=out,
                    start_new_session=True,
                )
            except OSError as error:
                raise ProcessDied(process.name, node=process.host, cause=f"cannot start {argv[0]}: {error}", log=log) from error
        running = Running(process, log, popen, guarded)
        self.running.append(running)
        return running

    def check(self) -> None:
        """Raises ProcessDied for the first process that ended by itself."""
        for running in self.running:
            if cause := self.cause_of(running):
                raise self.died(running.process.name, cause)

    def cause_of(self, running: Running) -> str | None:
        """Why a process ended by itself, None while it runs. Its guard may be cleaning up still."""
        code = running.popen.poll()
        size = _size(running.log)
        if running.guarded and (code is not None or size != self.log_sizes.get(running.process.name)):
            self.log_sizes[running.process.name] = size
            if cause := cause_from_guard(running.log):
                return cause
        return None if code is None else cause_of_returncode(code)

    def died(self, name: str, cause: str) -> ProcessDied:
        return died(self.by_name(name), cause)

    def by_name(self, name: str) -> Running:
        return next(r for r in self.running if r.process.name == name)

    def gpu_states(self, engines: Iterable[Process]) -> dict[str, list[dict[str, Any]]]:
        """The states of the GPUs of these engines, by host."""
        used = sorted({gpu for engine in engines for gpu in engine.gpus})
        return {"localhost": gpu_states.read_states(gpus.visible_gpus(used, os.environ.get("CUDA_VISIBLE_DEVICES")))}

    def begin_gpu_use(self, engines: Iterable[Process]) -> None:
        """Begins to look at the GPUs of these engines every second or so."""
        used = sorted({gpu for engine in engines for gpu in engine.gpus})
        self.gpu_use.begin(gpus.visible_gpus(used, os.environ.get("CUDA_VISIBLE_DEVICES")))

    def end_gpu_use(self) -> dict[str, dict[str, Any]]:
        """What the looks saw, by host."""
        return {"localhost": self.gpu_use.end()}

    def stop(self, chosen: Iterable[Started]) -> None:
        """TERM to each, which a guard turns into TERM, `stop_s`, KILL for all below it; then KILL to whatever is left."""
        wanted = list(chosen)
        stopping = [r for r in self.running if r in wanted]
        if not stopping:
            return
        sessions = {r.popen.pid for r in stopping}
        _send(stopping, signal.SIGTERM)
        self._wait_gone(stopping, sessions)
        _kill(stopping, sessions)
        self.left_behind += _pids_in_sessions(sessions)
        for running in stopping:
            _close_pipes(running.popen)
        self.running = [r for r in self.running if r not in stopping]

    def _wait_gone(self, stopping: list[Running], sessions: set[int]) -> None:
        """Until no process of the sessions is left, or none that would see to it: a client is killed after `stop_s`, a guard gets
        the time that it needs for KILL too."""
        began, hurried = time.monotonic(), False
        limit = self.stop_s + guard.KILL_WAIT_S
        while (waited := time.monotonic() - began) < limit:
            alive = [r for r in stopping if r.popen.poll() is None]
            if not alive or not _pids_in_sessions(sessions):
                return
            if self.hurry() and not hurried:
                hurried, limit = True, waited + HURRY_S
                _send(alive, signal.SIGINT)  # a guard then kills at once
            for running in alive:
                if not running.guarded and (hurried or waited > self.stop_s):
                    running.popen.kill()
            time.sleep(0.05)


def _send(running: Iterable[Running], number: signal.Signals) -> None:
    for each in running:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            each.popen.send_signal(number)


def _kill(stopping: Iterable[Running], sessions: set[int]) -> None:
    """KILL to whatever is left of the sessions, again and again: what was being forked is found the next time."""
    deadline = time.monotonic() + HURRY_S
    while time.monotonic() < deadline:
        for running in stopping:
            running.popen.poll()
        left = _pids_in_sessions(sessions)
        if not left:
            return
        for pid in left:
            guard.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _size(log: Path) -> int:
    try:
        return log.stat().st_size
    except OSError:
        return 0


def _end_adopted() -> None:
    """KILL to what is left below a guard that was itself killed: orphans have become children of this process."""
    deadline = time.monotonic() + HURRY_S
    while time.monotonic() < deadline and (left := guard.below(os.getpid())):
        for pid in left:
            guard.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


def _close_pipes(popen: subprocess.Popen[bytes]) -> None:
    """Closes the pipes of a process that is gone. While it lives a thread may wait in them, and close() would wait for that."""
    if popen.poll() is not None:
        for pipe in (popen.stdin, popen.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()


def _pids_in_sessions(sessions: set[int]) -> list[int]:
    """Living processes whose session leader was one of ours; found though the leader may be dead. A zombie counts while it has
    other threads: one that still frees GPU memory in the kernel looks like that."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # after the command's name in parentheses: state, ppid, pgrp, session
            state, _, _, session = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) in sessions and (state != "Z" or len(os.listdir(f"/proc/{name}/task")) > 1):
                found.append(int(name))
    return found
