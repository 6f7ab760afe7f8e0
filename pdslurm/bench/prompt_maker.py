"""Processes of the benchmark client that make the prompts of coming points, of the lowest priority: they run where a core is idle.

Part of the benchmark client, so standard library only. Each is forked once vLLM is imported, so that it costs no second import.
Prompts come back as bytes, which the client turns into objects when their point is measured, and not while another one is."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

PR_SET_PDEATHSIG = 1
MOST = 4
LENGTH_BYTES = 8  # of what follows; 0: the prompts could not be made
CORES_EACH = 4  # engines, routers and the client itself have the others


def makers_for(cores: int) -> int:
    """How many processes make prompts on a machine."""
    return max(1, min(MOST, cores // CORES_EACH))


def request_of(args: Sequence[str]) -> tuple[str, ...]:
    """A point's arguments without the address that it is sent to: arms that send the same prompts share them."""
    values = list(args)
    if "--base-url" in values[:-1]:
        at = values.index("--base-url")
        del values[at : at + 2]
    return tuple(values)


class PromptMakers:
    """The processes, and what they were asked for. `make`: a point's arguments in, its prompts out; `told` is called for each
    request once its prompts are there, or cannot be made."""

    def __init__(self, count: int, make: Callable[[list[str]], Any], told: Callable[[], None]) -> None:
        self.make, self.told = make, told
        self.changed = threading.Condition()
        self.waiting: deque[tuple[str, ...]] = deque()
        self.begun: set[tuple[str, ...]] = set()
        self.made: dict[tuple[str, ...], bytes] = {}  # pickled; empty: could not be made
        pipes = [self._fork() for _ in range(count)]  # all of them before the first thread
        self.alive = count
        for orders, answers in pipes:
            threading.Thread(target=self._serve, args=(orders, answers), name="prompts", daemon=True).start()

    def ask(self, args: Sequence[str]) -> None:
        """Asks for prompts to be made; returns at once."""
        wanted = request_of(args)
        with self.changed:
            if not self.alive or wanted in self.made or wanted in self.begun or wanted in self.waiting:
                self.told()
            else:
                self.waiting.append(wanted)
                self.changed.notify_all()

    def take(self, args: Sequence[str]) -> Any:
        """The prompts of a point, waited for where they are being made; None where nobody makes them, or could."""
        wanted = request_of(args)
        with self.changed:
            if wanted in self.waiting:
                self.waiting.remove(wanted)
                self.told()
            self.changed.wait_for(lambda: wanted not in self.begun)
            made = self.made.get(wanted)
        return pickle.loads(made) if made else None  # of our own process

    def _fork(self) -> tuple[int, int]:
        """Starts a process; returns where it takes orders and where it answers."""
        orders, to_parent = os.pipe(), os.pipe()
        parent = os.getpid()
        if not os.fork():
            try:
                os.close(orders[1])
                os.close(to_parent[0])
                self._live(parent, orders[0], to_parent[1])
            finally:
                os._exit(0)
        os.close(orders[0])
        os.close(to_parent[1])
        return orders[1], to_parent[0]

    def _live(self, parent: int, orders: int, answers: int) -> None:
        """The life of a process: an order in, its prompts out."""
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            return
        with contextlib.suppress(OSError):  # nice alone where the kernel has no idle class for it
            os.nice(19)
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        with open(orders, "rb") as given, open(answers, "wb") as told:
            for line in given:
                try:
                    made = pickle.dumps(self.make(json.loads(line)), protocol=pickle.HIGHEST_PROTOCOL)
                except (Exception, SystemExit):  # argparse exits on a bad argument; the point will fail by itself
                    traceback.print_exc()
                    made = b""
                sys.stdout.flush()
                sys.stderr.flush()
                told.write(len(made).to_bytes(LENGTH_BYTES, "big") + made)
                told.flush()

    def _serve(self, orders: int, answers: int) -> None:
        """A thread: hands one process one order after the other, until that ends."""
        with open(orders, "wb") as to, open(answers, "rb") as answered:
            made: bytes | None = b""
            while made is not None:
                with self.changed:
                    self.changed.wait_for(lambda: bool(self.waiting))
                    wanted = self.waiting.popleft()
                    self.begun.add(wanted)
                made = _ordered(to, answered, wanted)
                with self.changed:
                    self.begun.remove(wanted)
                    self.made[wanted] = made or b""
                    self.told()
                    if made is None:
                        self._one_less()
                    self.changed.notify_all()

    def _one_less(self) -> None:
        """A process was killed, as by a machine that is out of memory. After the last one the client makes prompts itself."""
        self.alive -= 1
        while not self.alive and self.waiting:
            self.waiting.popleft()
            self.told()


def _ordered(to: BinaryIO, answered: BinaryIO, wanted: Sequence[str]) -> bytes | None:
    """What a process made of an order; None where it is gone."""
    try:
        to.write(json.dumps(list(wanted)).encode() + b"\n")
        to.flush()
    except OSError:
        return None
    length = answered.read(LENGTH_BYTES)
    made = answered.read(int.from_bytes(length, "big"))
    return made if len(length) == LENGTH_BYTES and len(made) == int.from_bytes(length, "big") else None
