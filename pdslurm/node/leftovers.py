"""From this node's processes to those that an earlier run left: once below one of pdslurm's guards, now with nobody of it above."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

# what watches over a process of a run: `python -m pdslurm…`, submitit's job, the program pdslurm, and by their paths the guard and
# the client
PDSLURM = re.compile(
    r"(^|\0)(-m\0(pdslurm[.\w]*|submitit\.core\._submit)|[^\0]*/bin/pdslurm|[^\0]*/pdslurm/((node/)?guard|bench/client|bench_client)\.py)\0"
)
TEMP_PREFIX = "pdslurm-"  # how the name of the temporary folder begins that guards give to what they start


@dataclass(frozen=True)
class ProcessInfo:
    """A process; `command` has its arguments, each with a NUL behind it; `marked`: it has a guard's temporary folder."""

    pid: int
    ppid: int
    command: str
    marked: bool

    @property
    def words(self) -> str:
        return self.command.replace("\0", " ").strip()[:80]


def leftover_findings(processes: Iterable[ProcessInfo]) -> tuple[str, ...]:
    """A finding for each marked process that has no guard, agent or driver above it."""
    by_pid = {p.pid: p for p in processes}
    return tuple(
        f"process {p.pid} ({p.words}) is left of an earlier run of yours; end it with `kill -KILL {p.pid}`"
        for p in by_pid.values()
        if p.marked and not any(PDSLURM.search(above.command) for above in with_ancestors(p, by_pid))
    )


def with_ancestors(process: ProcessInfo, by_pid: dict[int, ProcessInfo]) -> list[ProcessInfo]:
    """The process, its parent, and so on."""
    line = [process]
    while (parent := by_pid.get(line[-1].ppid)) and parent not in line:
        line.append(parent)
    return line


def processes_here() -> list[ProcessInfo]:
    """All processes of this node; only those of this user can bear the mark."""
    found, own = [], os.getuid()
    for process in psutil.process_iter():
        try:
            command = Path(f"/proc/{process.pid}/cmdline").read_text(errors="replace")
            if command:  # neither a thread of the kernel nor a zombie
                marked = process.uids().real == own and has_mark(process.pid)
                found.append(ProcessInfo(process.pid, process.ppid(), command, marked))
        except (OSError, psutil.Error):  # ended meanwhile
            continue
    return found


def has_mark(pid: int) -> bool:
    """Whether its temporary folder is one of a guard's."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return False
    return any(
        Path(value.removeprefix("TMPDIR=")).name.startswith(TEMP_PREFIX)
        for value in environ.split("\0")
        if value.startswith("TMPDIR=")
    )
