"""Ctrl-C, TERM and a closed terminal end a run cleanly: the handlers only take note, the driver acts at its next tick."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pdslurm.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SignalNote:
    """While it is entered it remembers signals; afterwards the handlers of before are back."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self.before: dict[int, Any] = {}

    def __enter__(self) -> SignalNote:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.received.append(number)

    @property
    def name(self) -> str | None:
        """The first signal's name, None while there was none."""
        return signal.Signals(self.received[0]).name if self.received else None

    @property
    def hurry(self) -> bool:
        """Somebody asked twice: kill, do not wait."""
        return len(self.received) > 1


@contextmanager
def raising(advice: str = "run the same command again to go on") -> Iterator[None]:
    """While it is entered a signal raises Interrupted at once: for the short work before and after the driver, which only waits for
    programs that `subprocess.run` ends by itself."""

    def stop(number: int, _: object) -> None:
        raise Interrupted(f"stopped by {signal.Signals(number).name}; {advice}")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
