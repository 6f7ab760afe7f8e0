"""The driver's side of the long-lived benchmark client: commands out, events in, and a watch on the run while it waits."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pdslurm.errors import NotReady, PointFailed, UnknownEngine
from pdslurm.measure.progress import State
from pdslurm.measure.watch import Deadline, Watch
from pdslurm.node.processes import Running
from pdslurm.plan.deployment import Process


class BenchClient:
    """One client process. It imports vLLM while engines load; `ready` waits for that."""

    def __init__(self, watch: Watch, process: Process, log: Path) -> None:
        self.watch = watch
        self.running: Running = watch.processes.start_client(process, log)
        self.commands: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.is_ready = False
        self.makers = 0  # how many points' prompts it makes at once
        self.owed = 0  # answers to `prepare` that have not come yet
        threading.Thread(target=self._write, name="client-commands", daemon=True).start()
        threading.Thread(target=self._read, name="client-events", daemon=True).start()

    def _write(self) -> None:
        """In a thread: while the client imports vLLM it reads nothing, and a pipe holds the commands of a hundred points only."""
        with contextlib.suppress(OSError, ValueError):  # a dead client is found by the next tick
            assert self.running.popen.stdin
            while True:
                self.running.popen.stdin.write(self.commands.get())
                self.running.popen.stdin.flush()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the pipe closes when the client is stopped
            assert self.running.popen.stdout
            for line in self.running.popen.stdout:
                self.events.put(json.loads(line))

    def _send(self, **command: Any) -> None:
        self.commands.put(json.dumps(command).encode() + b"\n")

    def _next(self, deadline: Deadline, meanwhile: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """The next event; `meanwhile` is called while there is none. Raises what the watch raises, UnknownEngine, or NotReady at
        the deadline."""
        while True:
            with contextlib.suppress(queue.Empty):
                return _unless_refused(self.events.get(timeout=0.1))
            self.watch.tick()
            meanwhile()
            if deadline.is_over:
                raise NotReady(f"the benchmark client gave no answer in time; its log: {self.running.log}")

    def prepare(self, args: Sequence[str]) -> None:
        """Asks for a point's prompts to be made; returns at once."""
        self._send(do="prepare", args=list(args))
        self.owed += 1

    def has_room(self) -> bool:
        """Whether it has imported vLLM and could begin at once with one more point's prompts; asks nobody and waits for nothing.
        Raises UnknownEngine."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._note(_unless_refused(self.events.get_nowait()))
        return self.is_ready and self.owed < self.makers

    def settle(self, timeout_s: float) -> None:
        """Waits until the client has imported vLLM and made the prompts that it was asked for."""
        deadline = self.watch.deadline(timeout_s)
        while self.owed or not self.is_ready:
            self._note(self._next(deadline))

    def _note(self, event: dict[str, Any]) -> None:
        if event["event"] == "ready":
            self.is_ready, self.makers = True, event["makers"]
        elif event["event"] == "prepared":
            self.owed -= 1

    def run(
        self,
        args: Sequence[str],
        raw: Path | None,
        *,
        requests: Path | None = None,
        timeout_s: float,
        state: State | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """Measures one point and returns the summary; what is kept of each request goes to the files `raw` and `requests`, how
        many are done to `state`. `meanwhile` is called again and again. Raises PointFailed, or NotReady after `timeout_s`."""
        deadline = self.watch.deadline(timeout_s)
        while not self.is_ready:
            self._note(self._next(deadline))
        self._send(do="run", args=list(args), raw=str(raw) if raw else None, requests=str(requests) if requests else None)
        while True:
            event = self._next(deadline, meanwhile)
            self._note(event)
            if event["event"] == "progress" and state:
                state.requests_done, state.requests_total = event["done"], event["total"]
            if event["event"] == "error":
                raise PointFailed(f"the benchmark client failed: {event['error']}; its log: {self.running.log}")
            if event["event"] == "result":
                result: dict[str, Any] = event["result"]
                return result

    def stop(self) -> None:
        self.watch.processes.stop([self.running])


def _unless_refused(event: dict[str, Any]) -> dict[str, Any]:
    """The event. Raises UnknownEngine where it says that this vLLM cannot be measured with."""
    if event["event"] == "refused":
        raise UnknownEngine(event["error"])
    return event
