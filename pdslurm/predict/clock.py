"""Something and a time in; it happens at that time, in order. A discrete-event simulation is a heap of such pairs."""

from __future__ import annotations

import heapq
from collections.abc import Callable

Event = tuple[float, str, str, object]  # time in s, who (an instance, or "client"), what, and details


class Clock:
    """What is to happen at the same time happens in the order in which it was decided."""

    def __init__(self, log: list[Event] | None = None) -> None:
        self.now_s = 0.0
        self.log = log
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.number = 0

    def at(self, time_s: float, happens: Callable[[], None]) -> None:
        self.number += 1
        heapq.heappush(self.heap, (time_s, self.number, happens))

    def run(self) -> None:
        """Until nothing is left to happen."""
        while self.heap:
            self.now_s, _, happens = heapq.heappop(self.heap)
            happens()

    def note(self, who: str, what: str, details: object) -> None:
        if self.log is not None:
            self.log.append((self.now_s, who, what, details))
