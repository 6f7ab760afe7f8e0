"""From commands to the result of each, run side by side on this node; nothing of them is left however this process ends."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pdslurm.node import guard

TIMEOUT_S = 120.0  # the engine's Python may come from a cold network file system; a sick GPU makes nvidia-smi hang
END_TIMEOUT_S = 3.0  # for a command that did not answer; one that hangs in a driver cannot be ended

Command = tuple[Sequence[str], Mapping[str, str]]  # and what it needs in its environment beside its parent's


@dataclass(frozen=True)
class CommandResult:
    """What a command printed; `code` is None when it did not end in time."""

    code: int | None
    out: str
    err: str

    @property
    def why(self) -> str:
        """For a failure: the last words."""
        own = (f"{guard.PREFIX}exit code", f"{guard.PREFIX}killed")  # the guard tells it too
        err = [line for line in self.err.strip().splitlines() if not line.startswith(own)]
        last = " / ".join((err or self.out.strip().splitlines())[-3:])
        ended = f"no answer within {TIMEOUT_S:g} s" if self.code is None else f"exit code {self.code}"
        return f"{ended}: {last}" if last else ended


class ParallelCommands:
    """Commands that run side by side. Each has a guard, so that nothing of them is left however this process ends."""

    def __init__(self, commands: Mapping[str, Command], environ: Mapping[str, str]) -> None:
        self.commands, self.environ = commands, environ
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
        """When all have ended, after TIMEOUT_S, or when `give_up` says so."""
        deadline = time.monotonic() + TIMEOUT_S
        while any(popen.poll() is None for popen in self.running.values()) and time.monotonic() < deadline and not give_up():
            time.sleep(0.02)
        return {
            name: CommandResult(popen.poll(), self._output(name, "out"), self._output(name, "err"))
            for name, popen in self.running.items()
        }

    def _output(self, name: str, stream: str) -> str:
        return (self.temp / f"{name}.{stream}").read_text(errors="replace")
