"""What a run tells: lines for people on the display, and everything in events.jsonl."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pdslurm.measure.progress import Display
from pdslurm.records.gpu_time import EVENTS, WORK


class Journal:
    """One for a run; `folder` is the run's."""

    def __init__(self, display: Display, folder: Path) -> None:
        self.display, self.folder = display, folder
        self._end_cut_line()

    def say(self, text: str, **more: Any) -> None:
        """A line on the display; the event has `more` beside it."""
        self.display.line(text)
        self.event(text, said=True, **more)

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Notes how long a piece of work took that keeps ready engines from being measured."""
        began = time.monotonic()
        yield
        self.event(WORK, on=what, seconds=round(time.monotonic() - began, 3))

    def event(self, what: str, **more: Any) -> None:
        """One line in events.jsonl. A full disk must not keep a run from stopping its engines: records report it, this does not."""
        entry = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": what, **more}
        with contextlib.suppress(OSError), (self.folder / EVENTS).open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def _end_cut_line(self) -> None:
        """A session that was killed, or a folder that was copied meanwhile, leaves half a line; the next gets one of its own."""
        with contextlib.suppress(OSError), (self.folder / EVENTS).open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
