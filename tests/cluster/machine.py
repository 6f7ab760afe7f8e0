"""One machine of the lab, from outside: switched on and off, entered, and looked into through /proc, with nothing run in it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

PID1 = Path(__file__).with_name("pid1.py")
OWN_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")


class LabError(RuntimeError):
    """The lab, or a command that had to succeed in it, did not do what was asked."""


class Entered(subprocess.Popen[Any]):
    """A process on a machine. nsenter, its parent, passes on how it ended, but no signals: these go to the process itself."""

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:  # so nsenter lives, and with it the pid of its child is not another's
            inside = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            os.kill(int(inside[0]) if inside else self.pid, sig)


@dataclass(frozen=True)
class Process:
    """`pid` and `cmdline` as the machine sees them; `name` is the kernel's, 15 characters at most."""

    pid: int
    name: str
    cmdline: str


@dataclass(frozen=True)
class Machine:
    """One that is on. `init` is its PID 1's pid outside, `pidfd` that very process for ever, whatever becomes of the number."""

    process: subprocess.Popen[str]
    init: int
    pidfd: int
    log: Path

    @classmethod
    def on(cls, log: Path, environment: Mapping[str, str]) -> Self:
        """PID 1 runs and waits for boot(): time to lay its cable. It ends when this process does."""
        # slave: what others unmount outside is not kept mounted here; nothing is mounted outside. -IS: no site-packages to read
        command = ["unshare", *OWN_NAMESPACES, "--propagation=slave", "--fork", sys.executable, "-IS", str(PID1)]
        pipe = subprocess.PIPE
        with log.open("ab") as err:
            process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=err, text=True, env=environment, cwd="/", start_new_session=True
            )
        init = int(_answer(process, log))
        return cls(process, init, os.pidfd_open(init), log)

    def boot(self, settings: Mapping[str, Any]) -> None:
        """Returns at once; ready() waits."""
        self._tell(settings)

    def ready(self) -> None:
        _answer(self.process, self.log)

    def start(self, argv: Sequence[str], log: Path) -> None:
        """A daemon of the machine."""
        self._tell({"argv": argv, "log": str(log)})

    def off(self) -> None:
        """Returns when the kernel has ended every process of the machine."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.process.communicate()
        os.close(self.pidfd)

    def has_ended(self) -> bool:
        return bool(select.select([self.pidfd], [], [], 0)[0])  # readable: that process is no more

    def enter(self, argv: Sequence[str], *, ids: tuple[int, int] = (0, 0), cwd: Path, **popen_kwargs: Any) -> Entered:
        """argv on the machine, as (uid, gid); `cwd` is a path there."""
        credentials = [f"--setuid={ids[0]}", f"--setgid={ids[1]}"] if ids != (0, 0) else []
        command = ["nsenter", f"--target={self.init}", *OWN_NAMESPACES, *credentials, "env", f"--chdir={cwd}", *argv]
        popen_kwargs.setdefault("stdin", subprocess.DEVNULL)
        return Entered(command, **popen_kwargs)

    def processes(self) -> tuple[Process, ...]:
        """All but PID 1 and zombies, containers' processes too."""
        found = []
        for folder in self._seen("proc").iterdir():
            if folder.name.isdecimal() and folder.name != "1":
                try:
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    name = (folder / "comm").read_text().strip()
                except (FileNotFoundError, ProcessLookupError):
                    continue  # ended meanwhile
                if line:  # a zombie has none
                    found.append(Process(int(folder.name), name, line))
        return tuple(sorted(found, key=lambda process: process.pid))

    def listening(self) -> frozenset[int]:
        """From the kernel's tables of TCP sockets: the local port is in hexadecimal, state 0A is LISTEN."""
        net = Path(f"/proc/{self.init}/net")
        rows = [row.split() for table in ("tcp", "tcp6") for row in (net / table).read_text().splitlines()[1:]]
        return frozenset(int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A")

    def names_in(self, folder: str) -> frozenset[str]:
        """What lies in a folder, such as /dev/shm, as the machine sees it."""
        return frozenset(os.listdir(self._seen(folder)))

    def _seen(self, path: str) -> Path:
        return Path(f"/proc/{self.init}/root", path.removeprefix("/"))

    def _tell(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()


def _answer(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise LabError(f"a machine's PID 1 ended before it was up, exit code {process.wait()}: {tail(log)}")
    return line


def tail(path: Path, lines: int = 5) -> str:
    return f"{path}: " + "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
