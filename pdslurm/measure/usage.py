"""A run's folder in; how many hours and GPU-hours its sessions used, out, and whether a limit of them is used up.

Each session adds lines to a file of its own: one that is killed loses seconds, and copies of a folder can be put together."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pdslurm.config import Budget, Limits
from pdslurm.records.shapes import misfit

FOLDER = "used"
EVERY_S = 10.0
LONGEST_S = 1e9  # 30 years; a number beyond it, or none at all, is damage


@dataclass(frozen=True)
class Session:
    """One start of the command in a run's folder; the fields are the keys of a line."""

    began: str  # ISO 8601, UTC
    gpus: int
    seconds: float  # since then
    without: tuple[str, ...] = ()  # which of RAW_ENDS no file in the folder had when it began

    @property
    def hours(self) -> float:
        return self.seconds / 3600

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.gpus


class Usage:
    """What the sessions before used, and this one so far."""

    def __init__(self, folder: Path, gpus: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.before, self.clock, self.began, self.gpus = earlier_sessions(folder), clock, clock(), gpus
        self.began_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        stamp = self.began_at[:23].replace(":", "-")
        self.path = folder / FOLDER / f"{stamp}-{platform.node()}-{os.getpid()}.jsonl"
        self.without: tuple[str, ...] = ()
        self.noted: float | None = None

    def now(self) -> Session:
        """This session until now."""
        return Session(self.began_at, self.gpus, round(self.clock() - self.began, 3), self.without)

    def note(self, *, every_s: float = EVERY_S) -> None:
        """Writes down what this session used, unless it did within `every_s`. A disk that is full does not end a run here."""
        if self.noted is not None and self.clock() - self.noted < every_s:
            return
        self.noted = self.clock()
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(asdict(self.now())) + "\n")

    def end(self) -> None:
        """Writes down the rest, unless this session had nothing to do."""
        if self.noted is not None:
            self.note(every_s=0)

    def used_up(self, limits: Limits, budget: Budget) -> str | None:
        """What to say of the first limit that is used up; None where none is."""
        now, hours, gpu_hours = self.now(), "hours", "gpu_hours"
        if limits.session_hours is not None and now.hours > limits.session_hours:
            return (
                f"limits.session_hours={limits.session_hours:g}: this session's time is over; run the same command again to go on"
            )
        for field, limit, unit in (
            ("limits.wall_hours", limits.wall_hours, hours),
            ("budget.gpu_hours", budget.gpu_hours, gpu_hours),
            ("limits.gpu_hours", limits.gpu_hours, gpu_hours),
        ):
            earlier, mine = sum(getattr(session, unit) for session in self.before), getattr(now, unit)
            if limit is not None and earlier + mine > limit:
                return f"{field}={limit:g} is used up ({self._shares(earlier, mine, unit)}); {self._advice(field)}"
        return None

    def _shares(self, earlier: float, mine: float, unit: str) -> str:
        word = "h" if unit == "hours" else "GPU-hours"
        count = len(self.before)
        before = f"{round(earlier, 3):g} {word} in {count} earlier session{'s' if count > 1 else ''}, " if count else ""
        return f"{before}{round(mine, 3):g} {word} in this one"

    def _advice(self, field: str) -> str:
        read = f"python -m analysis summary {self.path.parents[1]}"
        return f"raise {field} and run the same command again to go on, or read what was measured: {read}"


def earlier_sessions(folder: Path) -> tuple[Session, ...]:
    """Every session that wrote down what it used, by its last whole line: a folder may be copied while a line is written."""
    found = (list(_lines(path))[-1:] for path in sorted(folder.glob(f"{FOLDER}/*.jsonl")))
    return tuple(session for some in found for session in some)


def _lines(path: Path) -> Iterator[Session]:
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                value: Any = json.loads(line)
                if isinstance(value, dict) and not _problem(value):
                    yield Session(value["began"], value["gpus"], value["seconds"], tuple(value.get("without", ())))


def _problem(value: dict[str, Any]) -> str | None:
    kinds = (("began", str), ("gpus", int), ("seconds", float), ("without", list[str]))
    if why := next(filter(None, (misfit(value.get(name, []), kind, name) for name, kind in kinds)), None):
        return why
    return None if 0 <= value["seconds"] < LONGEST_S and 0 <= value["gpus"] < LONGEST_S else "seconds or gpus are no amount"
