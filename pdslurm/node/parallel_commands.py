"""From commands to the result of each, run side by side on this node; nothing of them is left however this process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pdslurm.node import guard

TIMEOUT_S = 120.0  # the engine's Python may come from a cold network file system
END_TIMEOUT_S = 3.0  # for a command that did not answer; one that hangs in a driver cannot be ended

_unended: list[subprocess.Popen[bytes]] = []  # kept, for Python complains of one that it forgets while it runs

Command = tuple[Sequence[str], Mapping[str, str]]  # and what it needs in its environment beside its parent's


@dataclass(frozen=True)
class CommandResult:
    """What a command printed; `code` is None when it did not end in time."""

    code: int | None
    out: str
    err: str
    limit_s: float = TIMEOUT_S

    @property
    def why(self) -> str:
        """For a failure: the last words."""
        own = (f"{guard.PREFIX}exit code", f"{guard.PREFIX}killed")  # the guard tells it too
        err = [line for line in self.err.strip().splitlines() if not line.startswith(own)]
        last = " / ".join((err or self.out.strip().splitlines())[-3:])
        ended = f"no answer within {self.limit_s:g} s" if self.code is None else f"exit code {self.code}"
        return f"{ended}: {last}" if last else ended


class ParallelCommands:
    """Commands that run side by side. Each has a guard, so that nothing of them is left however this process ends. `limits_s` has
    those that get another time than TIMEOUT_S."""

    def __init__(self, commands: Mapping[str, Command], environ: Mapping[str, str], limits_s: Mapping[str, float]) -> None:
        self.commands, self.environ = commands, environ
        self.limits_s = {name: limits_s.get(name, TIMEOUT_S) for name in commands}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> ParallelCommands:
        with ExitStack() as stack:
            self.temp = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pdslurm-")))
            stack.callback(self._end)
            for name, (argv, env) in self.commands.items():
                # files, not pipes: nobody has to read them while they are written
                with (self.temp / f"{name}.out").open("wb") as out, (self.temp / f"{name}.err").open("wb") as err:
                    self.running[name] = subprocess.Popen(
                        (sys.executable, "-I", "-S", guard.__file__, "1", *argv), stdin=subprocess.PIPE, stdout=out, stderr=err,
                        env={**self.environ, **env, "TMPDIR": str(self.temp)}, start_new_session=True,
                    )  # fmt: skip
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def _end(self) -> None:
        """Closes every guard's stdin, which ends it, and waits a little for what does not answer."""
        for popen in self.running.values():
            if popen.stdin:
                popen.stdin.close()
        deadline = time.monotonic() + END_TIMEOUT_S
        while any(popen.poll() is None for popen in self.running.values()) and time.monotonic() < deadline:
            time.sleep(0.02)

    def results(self, give_up: Callable[[], bool] = lambda: False) -> dict[str, CommandResult]:
        """When each has ended or had its time, or when `give_up` says so."""
        began = time.monotonic()
        while self._waits(time.monotonic() - began) and not give_up():
            time.sleep(0.02)
        return {
            name: CommandResult(popen.poll(), self._output(name, "out"), self._output(name, "err"), self.limits_s[name])
            for name, popen in self.running.items()
        }

    def _waits(self, waited_s: float) -> bool:
        return any(popen.poll() is None and waited_s < self.limits_s[name] for name, popen in self.running.items())

    def _output(self, name: str, stream: str) -> str:
        return (self.temp / f"{name}.{stream}").read_text(errors="replace")


def output_of(command: Sequence[str], timeout_s: float, cwd: Path | None = None) -> CommandResult:
    """Runs a short command of the node itself and kills it, with what it started, after `timeout_s`. It does not wait for the end
    of what was killed: a process that hangs in a driver cannot be ended. Raises OSError."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=cwd, start_new_session=True)
        try:
            code: int | None = popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = None
            _unended.append(popen)
            os.killpg(popen.pid, signal.SIGKILL)
        except BaseException:
            os.killpg(popen.pid, signal.SIGKILL)
            raise
        for file in (out, err):
            file.seek(0)
        return CommandResult(code, out.read().decode(errors="replace"), err.read().decode(errors="replace"), timeout_s)
