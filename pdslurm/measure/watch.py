"""What the driver notices whatever it waits for: a process that died, a signal, a limit that is used up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from pdslurm.config import Config
from pdslurm.errors import Interrupted, LimitReached, ProcessDied
from pdslurm.measure.health import HealthPoll
from pdslurm.measure.journal import Journal
from pdslurm.measure.progress import State
from pdslurm.measure.usage import Usage
from pdslurm.node.processes import Processes
from pdslurm.signals import SignalNote

T = TypeVar("T")
TICK_S = 0.1


@dataclass(frozen=True)
class Deadline:
    """A moment of the monotonic clock."""

    at: float

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.at

    @property
    def left_s(self) -> float:
        return max(0.0, self.at - time.monotonic())


class Watch:
    """Handed down to whoever waits. Everything that waits calls `tick`, or `pause` and `wait`, which do."""

    def __init__(self, config: Config, gpus: int, processes: Processes, signals: SignalNote, journal: Journal) -> None:
        """`gpus`: how many the run holds, for its limits in GPU-hours."""
        self.limits, self.budget = config.limits, config.budget
        self.processes, self.signals, self.journal = processes, signals, journal
        self.usage = Usage(journal.folder, gpus)
        self.polls: list[HealthPoll] = []  # of the engines and of the arm's routers

    @property
    def state(self) -> State:
        """Where the run is, for the display."""
        return self.journal.display.state

    def tick(self) -> None:
        """Raises ProcessDied, Interrupted or LimitReached; draws the display."""
        self.journal.display.tick()
        if self.signals.received:
            raise Interrupted(f"stopped by {self.signals.name}; run the same command again to go on")
        self._check_limits()
        try:
            self.processes.check()
            for name, cause in [sick for poll in self.polls for sick in list(poll.sick.items())]:
                raise self.processes.died(name, cause)
        except ProcessDied as error:
            self.state.instances[error.name.split()[0]] = "died"
            self.journal.event("process died", name=error.name, cause=error.cause, node=error.node)
            raise

    def pause(self, seconds: float = TICK_S) -> None:
        """A tick, and then nothing for so long."""
        self.tick()
        time.sleep(seconds)

    def wait(self, work: Callable[[], T]) -> T:
        """Runs something that blocks in a thread of its own, so that a death is noticed meanwhile. Raises what it raises."""
        result: Future[T] = Future()

        def carry_out() -> None:
            try:
                result.set_result(work())
            except BaseException as error:
                result.set_exception(error)

        threading.Thread(target=carry_out, daemon=True).start()
        while not result.done():
            self.pause(0.02)
        return result.result()

    def deadline(self, seconds: float) -> Deadline:
        """The moment in so many seconds."""
        return Deadline(time.monotonic() + seconds)

    @contextmanager
    def polling(self, urls: Mapping[str, str]) -> Iterator[HealthPoll]:
        """Asks endpoints for their health while the block runs; every tick looks at what they answer."""
        with HealthPoll(urls) as poll:
            self.polls.append(poll)
            try:
                yield poll
            finally:
                self.polls.remove(poll)

    def _check_limits(self) -> None:
        self.usage.note()
        if said := self.usage.used_up(self.limits, self.budget):
            raise LimitReached(said)
