"""From the log of a process, its guard's or an agent's to its last lines, to all of its lines, and to why the process ended."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pdslurm.node import guard

TAIL_LINES = 40


def log_tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, read from its end."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4000 * lines))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"(the log cannot be read: {error})"


def log_lines(logs: Iterable[Path]) -> Iterator[str]:
    """Of one log after the other; one that cannot be read has none."""
    for log in logs:
        with contextlib.suppress(OSError), log.open(errors="replace") as file:
            yield from file


def cause_from_guard(log: Path) -> str | None:
    """Why the process ended, from the first of the guard's lines in the last 8 KiB of its log; None while there is none. Asked ten
    times a second while the log grows, beside what is being measured."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    return next((line.removeprefix(guard.PREFIX) for line in lines if line.startswith(guard.PREFIX)), None)
