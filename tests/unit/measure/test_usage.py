"""What a run's sessions used, over resumes, and what is said at a limit. The clock is the test's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pdslurm.config import Budget, Limits
from pdslurm.measure.usage import FOLDER, Usage, earlier_sessions


class Clock:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def session(folder: Path, hours: float, gpus: int = 1, *, name: str = "") -> Usage:
    """One that went on for so long, and was killed without a word at its end."""
    clock = Clock()
    usage = Usage(folder, gpus, clock=clock)
    usage.path = usage.path.with_name(f"{name or len(usage.before)}.jsonl")
    usage.note()
    clock.s += hours * 3600
    usage.note()
    return usage


def test_what_is_used_counts_over_sessions_that_were_killed(tmp_path: Path) -> None:
    session(tmp_path, 0.5, 2)
    session(tmp_path, 0.1, 4)
    now = Usage(tmp_path, 1)
    assert [(one.hours, one.gpus, one.gpu_hours) for one in now.before] == [(0.5, 2, 1.0), (0.1, 4, 0.4)]


@pytest.mark.parametrize(
    ("limits", "budget", "said"),
    [
        ({}, {}, None),
        ({"gpu_hours": 2.1, "wall_hours": 1.3, "session_hours": 0.7}, {"gpu_hours": 2.1}, None),
        (
            {"gpu_hours": 1.9},
            {},
            "limits.gpu_hours=1.9 is used up (1.4 GPU-hours in 2 earlier sessions, 0.6 GPU-hours in this one); ",
        ),
        (
            {},
            {"gpu_hours": 1.9},
            "budget.gpu_hours=1.9 is used up (1.4 GPU-hours in 2 earlier sessions, 0.6 GPU-hours in this one); ",
        ),
        ({"wall_hours": 1.1}, {}, "limits.wall_hours=1.1 is used up (0.6 h in 2 earlier sessions, 0.6 h in this one); raise "),
        (
            {"session_hours": 0.34},
            {},
            "limits.session_hours=0.34: this session's time is over; run the same command again to go on",
        ),
    ],
)
def test_what_is_said_at_a_limit(tmp_path: Path, limits: dict[str, Any], budget: dict[str, Any], said: str | None) -> None:
    session(tmp_path, 0.5, 2)
    session(tmp_path, 0.1, 4)
    found = session(tmp_path, 0.6, 1).used_up(Limits(**limits), Budget(**budget))
    assert (found or "").startswith(said or "nothing") == (said is not None)
    if said and "session_hours" not in said:
        field = said.partition("=")[0]
        advice = f"raise {field} and run the same command again to go on, or read what was measured"
        assert str(found).endswith(f"{advice}: python -m analysis summary {tmp_path}")


def test_one_earlier_session_is_one_and_a_new_one_has_its_own_time(tmp_path: Path) -> None:
    session(tmp_path, 1.0)
    now = Usage(tmp_path, 1, clock=Clock())
    limits = Limits(wall_hours=0.5, session_hours=0.5)
    assert str(now.used_up(limits, Budget())).startswith(
        "limits.wall_hours=0.5 is used up (1 h in 1 earlier session, 0 h in this one); "
    )
    assert now.used_up(Limits(session_hours=0.5), Budget()) is None


def test_a_line_every_ten_seconds(tmp_path: Path) -> None:
    clock = Clock()
    usage = Usage(tmp_path, 3, clock=clock)
    for _ in range(25):
        usage.note()
        clock.s += 1
    usage.end()
    lines = [json.loads(line) for line in usage.path.read_text().splitlines()]
    assert [line["seconds"] for line in lines] == [0, 10, 20, 25]
    assert {line["gpus"] for line in lines} == {3}


@pytest.mark.parametrize(
    ("last", "hours"),
    [
        ('{"began": "2026-01-01", "gpus": 1, "sec', 1.0),
        ("\x00\x00\x00", 1.0),
        ("[]", 1.0),
        ('{"began": "2026-01-01", "gpus": "many", "seconds": 9}', 1.0),
        ('{"began": "2026-01-01", "gpus": 1, "seconds": NaN}', 1.0),
        ('{"began": "2026-01-01", "gpus": 1, "seconds": -9}', 1.0),
        ('{"began": "2026-01-01", "gpus": 1, "seconds": 1' + "0" * 400 + "}", 1.0),
        ("[" * 100_000, 1.0),
        ('{"began": "2026-01-01", "gpus": 1, "seconds": 7200, "more": 1}', 2.0),
    ],
)
def test_a_line_that_was_cut_off_loses_itself_alone(tmp_path: Path, last: str, hours: float) -> None:
    path = session(tmp_path, 1.0).path
    with path.open("a") as file:
        file.write(last)
    assert [one.hours for one in earlier_sessions(tmp_path)] == [hours]
    path.write_bytes(b"\xff")
    assert earlier_sessions(tmp_path) == ()


def test_a_session_with_nothing_to_do_is_none(tmp_path: Path) -> None:
    Usage(tmp_path, 1).end()
    assert earlier_sessions(tmp_path) == ()
    usage = Usage(tmp_path, 1)
    usage.without = ("raw",)
    usage.note()
    assert [one.without for one in earlier_sessions(tmp_path)] == [("raw",)]


def test_copies_of_a_folder_are_put_together(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        session(tmp_path / name, 1.0, name=name)
    shutil.copytree(tmp_path / "a" / FOLDER, tmp_path / "b" / FOLDER, dirs_exist_ok=True)
    assert sum(one.hours for one in earlier_sessions(tmp_path / "b")) == 2.0


def test_a_folder_that_cannot_be_written_ends_no_run(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    usage = Usage(tmp_path, 1)
    usage.note()
    assert usage.before == ()
