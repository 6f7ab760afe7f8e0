"""Plain lines where there is no terminal, a redrawn table where there is one, and neither may end a run."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import IO

import pytest
from rich.console import Console

from pdslurm.measure.progress import Display, State


class Clock:
    """Time that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def plain(state: State, clock: Clock, file: IO[str] | None = None) -> tuple[Display, Callable[[], list[str]]]:
    """A display that is no terminal, and what it has printed."""
    out = file or io.StringIO()
    display = Display(state, Console(file=out, width=80, highlight=False), clock)
    return display, lambda: out.getvalue().splitlines() if isinstance(out, io.StringIO) else []


def test_a_line_has_the_time_since_the_beginning(clock: Clock) -> None:
    display, lines = plain(State("demo", 4, began=0.0), clock)
    with display:
        for clock.now, text in ((0.0, "starting"), (67.9, "[red] is no markup"), (3723.0, "x" * 200)):
            display.line(text)
    assert lines() == ["[0:00] starting", "[1:07] [red] is no markup", "[1:02:03] " + "x" * 200]


def test_plain_lines_come_every_15_s_while_nothing_happens(clock: Clock) -> None:
    state = State("demo", 4, points_done=1, began=0.0, load_s=30.0, loads_left=1, estimate_point_s=10.0)
    state.instances = {"engine0": "ready", "engine1": "starting"}
    state.enter("measuring", "route_2", "i64-o32")
    display, lines = plain(state, clock)
    for clock.now in (1.0, 14.0, 15.1, 16.0, 30.0, 30.2, 31.0):
        display.tick()
    text = "measuring route_2 i64-o32 0:00, waiting for engine1; 1/4 points done, about 1:00 left"
    assert lines() == [f"[0:15] {text}", f"[0:30] {text}"]


def test_a_line_puts_off_the_next_sign_of_life(clock: Clock) -> None:
    display, lines = plain(State("demo", 4, began=0.0), clock)
    clock.now = 14.0
    display.line("something happened")
    clock.now = 20.0
    display.tick()
    assert lines() == ["[0:14] something happened"]


def test_requests_of_the_point_in_progress(clock: Clock) -> None:
    state = State("demo", 4, began=0.0, requests_done=3, requests_total=24)
    state.enter("measuring", "route_2", "i64-o32")
    display, lines = plain(state, clock)
    clock.now = 16.0
    display.tick()
    assert "i64-o32 0:00, request 3/24; 0/4 points done" in lines()[0]


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        pytest.param({"loads_left": 2}, 160.0, id="nothing measured: the plan's estimates"),
        pytest.param({"points_done": 1, "point_times_s": [3.0, 5.0], "loads_left": 1}, 72.0, id="the mean of what was measured"),
        pytest.param({"points_done": 4}, 0.0, id="done"),
    ],
)
def test_time_left(changes: dict[str, object], left: float) -> None:
    assert State("demo", 4, **{"load_s": 60.0, "estimate_point_s": 10.0, **changes}).left_s() == left  # type: ignore[arg-type]


def test_time_left_shrinks_while_engines_load() -> None:
    state = State("demo", 2, load_s=60.0, loads_left=1, estimate_point_s=10.0)
    state.enter("starting")
    state.stage_began = time.monotonic() - 20.0
    assert state.left_s() == pytest.approx(60.0, abs=0.5)
    state.stage_began = time.monotonic() - 500.0
    assert state.left_s() == 20.0
    state.instances = {"engine0": "starting"}
    state.loaded(500.0)
    assert (state.loads_left, state.load_s, state.instances) == (0, 500.0, {"engine0": "ready"})


def on_terminal(state: State) -> str:
    """The table of a terminal, once drawn."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, height=30, color_system=None, legacy_windows=False)
    display = Display(state, console, Clock())
    console.print(display._render())
    return out.getvalue()


def test_terminal() -> None:
    state = State("demo", 4, points_done=1, began=0.0, requests_done=3, requests_total=24, point_times_s=[2.0])
    state.instances = {"engine0": "ready", "engine1": "died"}
    state.enter("measuring", "pd_1p1d", "i64-o32")
    head, states, points, requests = on_terminal(state).splitlines()
    assert head.split() == ["demo", "0:00", "measuring", "pd_1p1d", "i64-o32", "0:00"]
    assert states.split() == ["engine0", "ready", "engine1", "died"]
    assert points.startswith("points ")
    assert points.rstrip().endswith("1/4 points done, about 0:06 left")
    assert requests.rstrip().endswith("3/24")


def test_terminal_with_many_instances() -> None:
    state = State("big", 4, instances={f"engine{n}": "starting" for n in range(40)})
    drawn = on_terminal(state)
    assert "engine15" in drawn
    assert "engine16" not in drawn
    assert "… 24 more" in " ".join(drawn.split())


def test_terminal_is_redrawn_and_lines_stay(clock: Clock) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None, legacy_windows=False)
    with Display(State("demo", 4, began=0.0), console, clock) as display:
        display.line("1/4 route_2: done")
        clock.now = 100.0
        display.tick()  # no plain line: the table is redrawn by itself
    assert "[0:00] 1/4 route_2: done" in out.getvalue()
    assert "[1:40]" not in out.getvalue()


class Gone(io.StringIO):
    """A terminal or pipe whose other end is gone."""

    def write(self, _: str) -> int:
        raise self.error

    error: OSError = BrokenPipeError()


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error")])
def test_output_that_is_gone_ends_nothing(clock: Clock, error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    """`… | tee log` whose tee was killed, a closed ssh session under nohup. rich would leave by SystemExit."""
    monkeypatch.setattr("os.dup2", lambda *_: None)  # rich points stdout to /dev/null
    gone = Gone()
    gone.error = error
    display, _ = plain(State("demo", 4, began=0.0), clock, gone)
    with display:
        display.line("1/4 done")
        clock.now = 20.0
        display.tick()
