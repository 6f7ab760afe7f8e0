"""What a person sees while a run goes on: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pdslurm.errors import ResultsError
from pdslurm.records.whole_file import write_json

PLAIN_EVERY_S = 15.0
FILE_EVERY_S = 2.0
PROGRESS = "progress.json"
# A terminal or `| tee` that is gone must not end hours of measuring (rich leaves by SystemExit then); events.jsonl has it all.
GONE = contextlib.suppress(OSError, SystemExit)


@dataclass
class State:
    """Where the run is. The driver writes it, a display reads it."""

    title: str
    points_total: int
    points_done: int = 0
    loads_left: int = 0
    load_s: float = 60.0  # what a load took last, at first the plan's estimate
    stage: str = "preparing"
    arm: str = ""
    point: str = ""
    requests_done: int = 0
    requests_total: int = 0
    instances: dict[str, str] = field(default_factory=dict)  # name → starting, ready, …
    began: float = field(default_factory=time.monotonic)
    stage_began: float = field(default_factory=time.monotonic)
    point_times_s: list[float] = field(default_factory=list)
    estimate_point_s: float = 10.0

    def enter(self, stage: str, arm: str = "", point: str = "") -> None:
        """A new stage of the run begins."""
        self.stage, self.arm, self.point, self.stage_began = stage, arm, point, time.monotonic()

    def loaded(self, seconds: float) -> None:
        """A set of instances is ready; the next one will take as long."""
        self.load_s, self.loads_left = seconds, self.loads_left - 1
        self.instances = dict.fromkeys(self.instances, "ready")

    def left_s(self) -> float:
        """Time left, from the mean of the points measured so far, or from the plan while there is none."""
        times = self.point_times_s
        mean = sum(times) / len(times) if times else self.estimate_point_s
        loading = min(self.load_s, time.monotonic() - self.stage_began) if self.stage == "starting" else 0.0
        return (self.points_total - self.points_done) * mean + self.loads_left * self.load_s - loading

    def as_json(self, now: float) -> dict[str, Any]:
        """Plain values with ages in place of this machine's clock."""
        value = asdict(self)
        return {**value, "began": self.began - now, "stage_began": self.stage_began - now, "left_s": self.left_s()}

    def update_from(self, value: dict[str, Any], now: float) -> None:
        """Becomes what `as_json` made, on another machine's clock."""
        for each in fields(self):
            setattr(self, each.name, value[each.name])
        self.began, self.stage_began = value["began"] + now, value["stage_began"] + now

    def what(self) -> str:
        """The stage with its arm and point, and how long it has been going on."""
        words = [self.stage, self.arm, self.point, _minutes(time.monotonic() - self.stage_began)]
        return " ".join(word for word in words if word)


class Display:
    """A live table on a terminal, else a line whenever something happens and every 15 s while nothing does."""

    def __init__(
        self,
        state: State,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        folder: Path | None = None,
    ) -> None:
        """`folder`: a run's, where progress.json is kept up to date for whoever looks from elsewhere."""
        self.state, self.clock, self.folder = state, clock, folder
        self.written = -FILE_EVERY_S
        self.console = console or Console(stderr=True, highlight=False)
        self.live = (
            Live(get_renderable=self._render, console=self.console, refresh_per_second=4) if self.console.is_terminal else None
        )
        self.last = self.clock()

    def __enter__(self) -> Display:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with GONE:
            if self.live:
                self.live.update(Text(""), refresh=True)
                self.live.stop()

    def line(self, text: str) -> None:
        """Something that stays on the screen."""
        self.last = self.clock()
        elapsed = _minutes(self.last - self.state.began)
        with GONE:
            self.console.print(Text(f"[{elapsed}] {text}"), soft_wrap=True)

    def tick(self) -> None:
        """Called often; shows that the run is alive where no terminal redraws itself."""
        if self.folder and self.clock() - self.written > FILE_EVERY_S:
            self.written = self.clock()
            with contextlib.suppress(OSError, ResultsError):
                write_json(self.folder / PROGRESS, self.state.as_json(self.written))
        if not self.live and self.clock() - self.last > PLAIN_EVERY_S:
            s = self.state
            requests = f", request {s.requests_done}/{s.requests_total}" if s.requests_total else ""
            waiting = ", ".join(name for name, what in s.instances.items() if what != "ready")
            detail = f", waiting for {waiting}" if waiting else ""
            self.line(f"{s.what()}{requests}{detail}; {self._counts()}")

    def _counts(self) -> str:
        s = self.state
        return f"{s.points_done}/{s.points_total} points done, about {_minutes(s.left_s())} left"

    def _render(self) -> RenderableType:
        s = self.state
        bars = Table.grid(padding=(0, 1))
        bars.add_row("points", ProgressBar(max(1, s.points_total), s.points_done, width=40), self._counts())
        if s.requests_total:
            bars.add_row(
                "requests", ProgressBar(s.requests_total, s.requests_done, width=40), f"{s.requests_done}/{s.requests_total}"
            )
        colours = {"ready": "green", "died": "red"}
        states = [
            Text.assemble((name, "bold"), " ", (what, colours.get(what, "yellow"))) for name, what in list(s.instances.items())[:16]
        ]
        more = [Text(f"… {len(s.instances) - 16} more")] if len(s.instances) > 16 else []
        head = Text.assemble((s.title, "bold"), f"  {_minutes(self.clock() - s.began)}  {s.what()}")
        return Group(head, Text("  ").join([*states, *more]), bars)


def _minutes(seconds: float) -> str:
    """`3:07`, or `1:02:03` past an hour."""
    whole = max(0, int(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
