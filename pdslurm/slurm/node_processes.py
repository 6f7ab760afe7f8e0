"""From planned processes to running ones on the nodes of an allocation, by their agents, as if they were here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pdslurm.errors import AllocationEnding, NotReady, PreflightError, ProcessDied
from pdslurm.node import guard
from pdslurm.node.processes import LocalProcesses, Running, Started, died
from pdslurm.plan.deployment import Process
from pdslurm.slurm.agents import Nodes

GPU_STATES_S = 25.0  # nvidia-smi runs twice at most


class NodeProcesses:
    """Starts, watches and stops processes on the nodes of an allocation; the client runs here, beside the driver."""

    def __init__(self, nodes: Nodes, local: LocalProcesses, hurry: Callable[[], bool]) -> None:
        self.nodes, self.local, self.hurry = nodes, local, hurry
        self.remote: list[Started] = []
        self.left_on_nodes: list[str] = []
        self.looking: list[int] = []  # nodes whose agents look at their GPUs

    @property
    def running(self) -> list[Started]:
        return [*self.remote, *self.local.running]

    @property
    def left_behind(self) -> list[str]:
        return [*self.left_on_nodes, *map(str, self.local.left_behind)]

    def start(self, process: Process, log: Path) -> Started:
        """Tells the process's node to start it; a program that cannot be started is found by the next check."""
        started = Started(process, log)
        self.nodes.node(process.node).send(do="start", id=next(self.nodes.ids), process=asdict(process), log=str(log.absolute()))
        self.remote.append(started)
        return started

    def start_client(self, process: Process, log: Path) -> Running:
        return self.local.start_client(process, log)

    def check(self) -> None:
        """Raises ProcessDied for the first process, or node, that ended, AllocationEnding when Slurm warns of its end."""
        self.local.check()
        if any(node.warned for node in self.nodes.joined.values()):
            raise AllocationEnding("Slurm ends this allocation soon (time limit or preemption); run the same command to go on")
        for node in {started.process.node for started in self.remote}:
            self.nodes.raise_lost(self.nodes.node(node), [r for r in self.remote if r.process.node == node])
        for number in range(len(self.nodes.names)):
            node_deaths = self.nodes.node(number).deaths
            while not node_deaths.empty():
                death = node_deaths.get()
                if any(r.process.name == death["died"] for r in self.remote):
                    raise self.died(death["died"], death["cause"], death["tail"])

    def died(self, name: str, cause: str, tail: str | None = None) -> ProcessDied:
        return died(self.by_name(name), cause, tail)

    def by_name(self, name: str) -> Started:
        return next(r for r in self.running if r.process.name == name)

    def gpu_states(self, engines: Iterable[Process]) -> dict[str, list[dict[str, Any]]]:
        """What each node's agent reads of the GPUs of these engines; nothing of a node that does not reply in time."""
        states = self._ask_nodes({n: {"do": "gpu_states", "gpus": gpus} for n, gpus in _gpus_of(engines).items()})
        return {node: told or [] for node, told in states.items()}

    def begin_gpu_use(self, engines: Iterable[Process]) -> None:
        """Each node's agent begins to look at the GPUs of these engines."""
        used = _gpus_of(engines)
        self.looking = sorted(used)
        self._ask_nodes({number: {"do": "begin_gpu_use", "gpus": gpus} for number, gpus in used.items()})

    def end_gpu_use(self) -> dict[str, dict[str, Any]]:
        """What the looks of each node saw; nothing of a node that does not reply in time."""
        told = self._ask_nodes({number: {"do": "end_gpu_use"} for number in self.looking})
        return {node: value or {} for node, value in told.items()}

    def _ask_nodes(self, orders: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
        """The answer of each node by its name; None of one that does not reply in time."""
        try:
            answers = self.nodes.call(orders, GPU_STATES_S)
        except (NotReady, PreflightError):
            answers = {}
        return {self.nodes.names[number]: answers.get(number) for number in orders}

    def stop(self, chosen: Iterable[Started]) -> None:
        """Stops on all nodes side by side. A node that is lost ends its own after limits.orphan_s."""
        stopping = list(chosen)
        self.local.stop([r for r in stopping if isinstance(r, Running)])
        by_node: dict[int, list[str]] = {}
        for started in stopping:
            if started in self.remote:
                by_node.setdefault(started.process.node, []).append(started.process.name)
        ids = {number: next(self.nodes.ids) for number in by_node}
        for number, names in by_node.items():
            self.nodes.node(number).send(do="stop", id=ids[number], names=names)
        self._wait_stopped(ids)
        self.remote = [r for r in self.remote if r not in stopping]

    def _wait_stopped(self, ids: Mapping[int, int]) -> None:
        deadline, hurried = time.monotonic() + self.nodes.limits.stop_s + guard.KILL_WAIT_S + 10.0, False
        waiting = dict(ids)
        while waiting and time.monotonic() < deadline:
            if self.hurry() and not hurried:
                hurried = True
                for number in waiting:
                    self.nodes.node(number).send(do="hurry")
            for number in list(waiting):
                node = self.nodes.node(number)
                if waiting[number] in node.replies:
                    reply = node.replies.pop(waiting.pop(number))
                    self.left_on_nodes += [f"{node.name}:{pid}" for pid in reply.get("value") or ()]
                else:
                    with contextlib.suppress(ProcessDied):
                        self.nodes.raise_lost(node, [])
                    if node.lost:
                        waiting.pop(number)
            time.sleep(0.02)
        self.left_on_nodes += [f"{self.nodes.node(number).name}: no answer" for number in waiting]


def _gpus_of(engines: Iterable[Process]) -> dict[int, list[int]]:
    """Node → the GPUs of these engines there."""
    used: dict[int, set[int]] = {}
    for engine in engines:
        used.setdefault(engine.node, set()).update(engine.gpus)
    return {number: sorted(gpus) for number, gpus in used.items()}
