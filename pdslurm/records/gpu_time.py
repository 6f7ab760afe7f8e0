"""A run's folder in; out comes what the time of its GPUs went to: loads, and of the time between ready engines and the last point
how much was measuring and what the rest was.

Loads and the work between points stand in events.jsonl, points in their records."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pdslurm.records.measurement import Measurement
from pdslurm.records.run_folder import RunFolder

EVENTS = "events.jsonl"
WORK = "work between points"  # the event of a piece of it: `on` what, and `seconds`
ENOUGH = 0.8  # of the time between ready engines and the last point is to be measuring
READY = re.compile(r"(?P<set>\S+): \d+ instance\(s\) ready after (?P<load_s>\d+) s")  # an event of a run before it had fields
PROMPTS, CLIENT, COUNTERS, FAILED, OTHER = "prompts", "the client's start and end", "counters", "failed points", "other"
UNSPLIT = "prompts and the client's start and end"  # of a record that does not know what its prompts took


@dataclass
class LoadTime:
    """One load of an arm set."""

    set: str
    load_s: float  # until its engines were ready
    ready_at: datetime
    last_at: datetime  # when its last point ended; ready_at while there is none
    measuring_s: float = 0.0  # of all points, from the first request to the last answer
    rest: dict[str, float] = field(default_factory=dict)  # what took the rest → seconds

    @property
    def ready_s(self) -> float:
        """From ready engines to the end of the last point."""
        return (self.last_at - self.ready_at).total_seconds()


@dataclass(frozen=True)
class SetTime:
    """All loads of an arm set together; seconds."""

    set: str
    loads: int
    load_s: float
    ready_s: float
    measuring_s: float
    rest: Mapping[str, float]  # the largest first

    @property
    def share(self) -> float:
        """The part of ready_s that was measuring."""
        return self.measuring_s / self.ready_s if self.ready_s else 0.0


def measuring_s(record: Measurement) -> float:
    """From a point's first request to its last answer; 0 where none was answered."""
    whole = (record.provenance.get("client") or {}).get("until_last_answer")  # a fixed time's end is not that of its requests
    until_last = _seconds(whole.get("duration")) if isinstance(whole, Mapping) else 0.0
    return until_last or _seconds(record.metrics.get("duration_s"))


def work_of(record: Measurement) -> dict[str, float]:
    """What a point's time went to beside measuring: making or reading its prompts, the rest of the client's work, and reading
    counters and GPUs before and after."""
    measured, client = measuring_s(record), record.provenance.get("client") or {}
    if not measured:
        return {FAILED: record.wall_s}
    whole = _seconds(client.get("client_wall_s")) or measured
    if "prompts_s" not in client:
        return {UNSPLIT: whole - measured, COUNTERS: record.wall_s - whole}
    prompts = _seconds(client["prompts_s"])
    return {PROMPTS: prompts, CLIENT: whole - measured - prompts, COUNTERS: record.wall_s - whole}


def loads_of(folder: RunFolder, records: Iterable[Measurement] | None = None) -> list[LoadTime]:
    """Every load whose engines became ready, in the order of time, with the points that it measured: all of the folder, or those in
    `records`."""
    events = list(_events(folder.path / EVENTS))
    loads = [load for event in events if (load := _ready(event))]
    for record in folder.records() if records is None else records:
        began = _at(record.started_at)
        if began and (load := _load_at(loads, began)):
            load.measuring_s += measuring_s(record)
            load.last_at = max(load.last_at, datetime.fromtimestamp(began.timestamp() + record.wall_s, began.tzinfo))
            _add(load.rest, work_of(record))
    for event in events:
        at = _at(event.get("at"))
        if event.get("event") == WORK and at and (load := _load_at(loads, at)) and at <= load.last_at:
            _add(load.rest, {str(event.get("on")): _seconds(event.get("seconds"))})
    return loads


def set_times(loads: Sequence[LoadTime]) -> list[SetTime]:
    """Arm sets by their loads, those that measured nothing left out of the time after the load."""
    found = []
    for name in dict.fromkeys(load.set for load in loads):
        mine = [load for load in loads if load.set == name]
        ready_s, measured = sum(load.ready_s for load in mine), sum(load.measuring_s for load in mine)
        rest: dict[str, float] = {}
        for load in mine:
            _add(rest, load.rest)
        _add(rest, {OTHER: ready_s - measured - sum(rest.values())})
        ordered = {what: s for what, s in sorted(rest.items(), key=lambda item: -item[1]) if s > 0}
        found.append(SetTime(name, len(mine), sum(load.load_s for load in mine), ready_s, measured, ordered))
    return found


def _load_at(loads: Sequence[LoadTime], at: datetime) -> LoadTime | None:
    """The newest load that was ready by then."""
    return max((load for load in loads if load.ready_at <= at), key=lambda load: load.ready_at, default=None)


def _ready(event: Mapping[str, Any]) -> LoadTime | None:
    at, told = _at(event.get("at")), event
    if "load_s" not in event:
        found = READY.fullmatch(str(event.get("event")))
        told = found.groupdict() if found else {}
    if at is None or "load_s" not in told:
        return None
    with suppress(TypeError, ValueError):
        return LoadTime(str(told["set"]), float(told["load_s"]), at, at)
    return None


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole line; nothing where there is no such file."""
    with suppress(OSError), path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with suppress(ValueError, RecursionError):
                if isinstance(event := json.loads(line), dict):
                    yield event


def _at(text: Any) -> datetime | None:
    """A moment that names its zone, as pdslurm writes them; None for anything else."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else None


def _seconds(value: Any) -> float:
    """0 for what is no number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def _add(to: dict[str, float], more: Mapping[str, float]) -> None:
    for what, seconds in more.items():
        to[what] = to.get(what, 0.0) + max(seconds, 0.0)
