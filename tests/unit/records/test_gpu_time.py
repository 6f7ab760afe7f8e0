"""Events and records in, what the time of the GPUs went to out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pdslurm.records.gpu_time import (
    COUNTERS,
    FAILED,
    OTHER,
    PROMPTS,
    UNSPLIT,
    WORK,
    SetTime,
    loads_of,
    measuring_s,
    set_times,
    work_of,
)
from pdslurm.records.measurement import Measurement
from pdslurm.records.run_folder import RunFolder
from tests.unit.analysis.records_made import record

BEGAN = datetime(2026, 3, 10, tzinfo=UTC)


def at(seconds: float) -> str:
    return (BEGAN + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def point(
    arm: str, began_s: float, wall_s: float, repeat: int = 0, client: Mapping[str, Any] | None = None, **more: Any
) -> Measurement:
    made = record(arm, repeat=repeat, started_at=at(began_s), wall_s=wall_s, provenance={"client": client or {}}, **more)
    return replace(made, metrics={**made.metrics, "duration_s": 20.0})


def write(folder: Path, events: Sequence[Mapping[str, Any]], records: Sequence[Measurement]) -> RunFolder:
    run = RunFolder(folder)
    for each in records:
        run.save(each)
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + '{"at": "2026-0')
    return run


def ready(name: str, seconds: float, load_s: float, start: int = 0) -> dict[str, Any]:
    return {"at": at(seconds), "event": "ready", "set": name, "start": start, "load_s": load_s}


CLIENT_FACTS = {"client_wall_s": 23.0, "prompts_s": 1.0}


def test_a_load_s_time_is_its_points_and_what_lies_between(tmp_path: Path) -> None:
    events = [
        ready("a", 100, 90.0),
        {"at": at(105), "event": WORK, "on": "warm-up", "seconds": 4.0},
        ready("b", 300, 80.0),
        ready("a", 500, 70.0, start=1),
        {"at": at(900), "event": WORK, "on": "router stop", "seconds": 9.0},
    ]
    records = [
        point("a", 110, 25.0, 0, CLIENT_FACTS),
        point("a", 135, 25.0, 1, CLIENT_FACTS),
        point("b", 301, 25.0, 0, CLIENT_FACTS),
        point("a", 501, 25.0, 2, CLIENT_FACTS),
    ]
    first, second = set_times(loads_of(write(tmp_path, events, records)))
    assert (first.set, first.loads, first.load_s) == ("a", 2, 160.0)
    assert (first.ready_s, first.measuring_s) == (60.0 + 26.0, 60.0)
    assert first.rest == {"the client's start and end": 6.0, COUNTERS: 6.0, OTHER: 7.0, "warm-up": 4.0, PROMPTS: 3.0}
    assert list(first.rest.values()) == sorted(first.rest.values(), reverse=True)
    assert sum(first.rest.values()) == pytest.approx(first.ready_s - first.measuring_s)
    assert (second.set, second.loads, second.ready_s, second.share) == ("b", 1, 26.0, 20 / 26)


def test_events_of_before_tell_a_load_in_words(tmp_path: Path) -> None:
    events = [{"at": at(133), "event": "route_2: 2 instance(s) ready after 133 s", "said": True}]
    (load,) = loads_of(write(tmp_path, events, [point("route_2", 140, 30.0, client={"client_wall_s": 29.0})]))
    assert (load.set, load.load_s, load.ready_s, load.rest) == ("route_2", 133.0, 37.0, {UNSPLIT: 9.0, COUNTERS: 1.0})


@pytest.mark.parametrize(
    "event",
    [
        {"event": "ready", "set": "a", "load_s": 1.0},
        {"at": "yesterday", "event": "ready", "set": "a", "load_s": 1.0},
        {"at": "2026-03-10T00:00:00", "event": "ready", "set": "a", "load_s": 1.0},
        {"at": at(0), "event": "ready", "set": "a", "load_s": "long"},
        {"at": at(0), "event": ["a: 2 instance(s) ready after 3 s"]},
        {"at": at(0), "event": "arm ready", "arm": "a"},
    ],
)
def test_an_event_that_tells_no_load_is_passed_over(tmp_path: Path, event: Mapping[str, Any]) -> None:
    assert loads_of(write(tmp_path, [event], [point("a", 10, 20.0)])) == []


def test_a_folder_without_events_has_no_loads(tmp_path: Path) -> None:
    assert loads_of(RunFolder(tmp_path / "none")) == []


def test_a_fixed_time_is_measured_until_its_last_answer() -> None:
    assert measuring_s(point("a", 0, 30.0)) == 20.0
    assert measuring_s(point("a", 0, 30.0, client={"until_last_answer": {"duration": 24.0}})) == 24.0
    failed = replace(point("a", 0, 30.0), metrics={})
    assert (measuring_s(failed), work_of(failed)) == (0.0, {FAILED: 30.0})


def test_a_load_that_measured_nothing_has_no_share() -> None:
    assert SetTime("a", 1, 60.0, 0.0, 0.0, {}).share == 0.0
