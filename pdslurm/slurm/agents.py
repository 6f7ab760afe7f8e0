"""From the driver's orders to replies from the nodes of an allocation: it starts an agent on each, talks to them and ends them."""

from __future__ import annotations

import contextlib
import itertools
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pdslurm.config import Config, Limits, as_dict
from pdslurm.errors import CleanUpFailed, NotReady, PreflightError, ProcessDied
from pdslurm.node import guard
from pdslurm.node.process_logs import log_tail
from pdslurm.node.processes import Started
from pdslurm.plan.deployment import Host
from pdslurm.signals import SignalNote
from pdslurm.slurm.wire import Wire

BEAT_S = 1.0
Launch = Callable[[str], Sequence[str]]  # from the driver's host:port to the command that starts an agent on every node
# What srun says at once of a task that it could not start or that ended, while it goes on waiting for the others
SRUN_FAILURES = re.compile(r"^srun: error: (.*: tasks? [\d,-]+: .*|Task launch for .*|.*[Ll]aunch failed.*)$", re.M)
NO_SLURMCTLD = re.compile(r"Unable to contact slurm controller|Socket timed out", re.I)
CREDENTIALS = re.compile(r"munge|authentication|credential|Zero Bytes", re.I)  # slurmd hangs up on what munge did not sign
STEP_AGAIN_S = 2.0


@dataclass
class Node:
    """One node of the allocation and what its agent sent. `lost` says why no order reaches it any more."""

    name: str
    wire: Wire
    host: Host | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[str] = ()
    received_at: float = field(default_factory=time.monotonic)
    lost: str | None = None
    warned: bool = False
    left: list[str] = field(default_factory=list)  # what its agent could not remove
    replies: dict[int, dict[str, Any]] = field(default_factory=dict)
    deaths: queue.SimpleQueue[dict[str, Any]] = field(default_factory=queue.SimpleQueue)

    def send(self, **message: Any) -> None:
        """A node that cannot be reached is lost, no error here."""
        try:
            self.wire.send(**message)
        except OSError as error:
            self.lost = self.lost or f"cannot be reached: {error}"

    def talk(self, ended: threading.Event) -> None:
        """In a thread: sends a beat every second and takes what comes, until the connection ends."""
        beaten = 0.0
        while not ended.is_set() and not self.lost:
            if time.monotonic() - beaten > BEAT_S:
                beaten = time.monotonic()
                self.send(beat=True)
            try:
                message = self.wire.receive(0.5)
            except OSError as error:
                self.lost = self.lost or f"its agent is gone: {error}"
                return
            if message:
                self.received_at = time.monotonic()
                self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        self.warned = self.warned or bool(message.get("warned"))
        if "reply" in message:
            self.replies[message["reply"]] = message
        elif "died" in message:
            self.deaths.put(message)
        elif "left" in message:
            self.left += message["left"]
        elif "failed" in message:
            self.lost = self.lost or f"its agent failed: {message['failed']}"
        elif "hello" in message:
            self.facts = message.get("facts", {})
            self.findings = message.get("findings", ())
            self.host = Host(self.name, message.get("address", ""), message.get("interface"))


class Nodes:
    """Agents on `names`, in this order. As a context manager it ends them all, and with them whatever they started."""

    def __init__(
        self,
        names: Sequence[str],
        address: str,
        key: str,
        config: Config,
        *,
        launch: Launch,
        env: Mapping[str, str],
        log: Path,
        temp: Path,
    ) -> None:
        """`launch` gives the command that starts the agents, `env` is its environment, `log` takes what it says. `temp` is the
        driver's temporary folder: the agent beside it removes it, should the driver be killed."""
        self.names, self.key, self.log = tuple(names), key, log
        self.limits: Limits = config.limits
        self.setup = {"config": as_dict(config), "temp": str(temp)}
        self.joined: dict[str, Node] = {}
        self.ended = threading.Event()
        self.ids = itertools.count()
        self.server = socket.create_server((address, 0), backlog=len(names) + 8)
        self.server.settimeout(0.5)
        port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, name="agents", daemon=True).start()
        self.command, self.env = tuple(launch(f"{address}:{port}")), dict(env)
        self._start_step()

    def _start_step(self) -> None:
        """Raises NotReady where there is no srun."""
        try:
            with self.log.open("ab") as out:
                self.log_from = out.tell()  # what is before it was said of another step
                self.step = subprocess.Popen(
                    self.command, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
                )
        except OSError as error:
            raise NotReady(f"no agent on any node: `{self.command[0]}` cannot be started ({error.strerror})") from error

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, kind: object, error: object, _: object) -> None:
        """Agents stop what runs on their nodes and end; a step that does not end then is killed. A signal that comes meanwhile
        asks for haste and must not end the cleaning up. Raises CleanUpFailed for what an agent could not remove, but where another
        error ends the run: then that one counts and this one is printed."""
        nodes = list(self.joined.values())
        with SignalNote() as signals:
            for node in nodes:
                node.send(do="quit")
            patience = self.limits.stop_s + guard.KILL_WAIT_S if any(not n.lost for n in nodes) else 0.0
            deadline, hurried = time.monotonic() + patience, False
            while self.step.poll() is None and time.monotonic() < deadline and not all(self._gone(n) for n in nodes):
                if signals.hurry and not hurried:
                    hurried = True
                    for node in nodes:
                        node.send(do="hurry")
                time.sleep(0.05)
            self.ended.set()
            self.server.close()
            self._end_step()
        if left := [f"{node.name}: {line}" for node in nodes for line in node.left]:
            if error is None:
                raise CleanUpFailed(left)
            print(f"pdslurm: {CleanUpFailed(left)}", file=sys.stderr, flush=True)

    def _gone(self, node: Node) -> bool:
        return bool(node.lost) or time.monotonic() - node.received_at > self.limits.lost_s

    def _end_step(self) -> None:
        """srun waits for Slurm to notice a lost node, minutes; TERM makes it give up the step, KILL itself."""
        silent = any(time.monotonic() - node.received_at > self.limits.lost_s for node in self.joined.values())
        for number, patience_s in ((None, 0.0 if silent else 3.0), (signal.SIGTERM, 1.0), (signal.SIGKILL, 3.0)):
            if number:
                self.step.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.step.wait(patience_s)
                return

    def _accept(self) -> None:
        """In a thread: takes connections; whoever does not know the key is dropped."""
        while not self.ended.is_set():
            with contextlib.suppress(TimeoutError, OSError):
                sock, _ = self.server.accept()
                threading.Thread(target=self._join, args=[sock], daemon=True).start()

    def _join(self, sock: socket.socket) -> None:
        try:
            wire = Wire(sock, self.key, is_driver=True)
            first = wire.receive(10.0)
            if not first or first.get("join") not in self.names or first["join"] in self.joined:
                raise ConnectionError("not an agent of this run")
            node = self.joined[first["join"]] = Node(first["join"], wire)
            node.send(do="setup", **self.setup)
            node.talk(self.ended)
        except OSError:
            sock.close()

    # --- orders

    def wait(self) -> tuple[Host, ...]:
        """Until the agents of all nodes said hello: their addresses. A step that slurmctld did not answer is started again. Raises
        NotReady at limits.agents_s or as soon as srun says that an agent could not be started or has ended, PreflightError for a
        node without a fitting address."""
        deadline = time.monotonic() + self.limits.agents_s
        while missing := [n for n in self.names if n not in self.joined or not (self.joined[n].host or self.joined[n].lost)]:
            if self.step.poll() and NO_SLURMCTLD.search(self.step_said()) and not self.joined and time.monotonic() < deadline:
                time.sleep(STEP_AGAIN_S)
                self._start_step()
            elif why := self._why_no_agent(deadline):
                where = named_in(why, missing) or missing  # a node that is named failed; another may be late
                raise NotReady(f"no agent on {', '.join(where)}: {why}; {self.log} ends with:\n{log_tail(self.log)}")
            time.sleep(0.02)
        nodes = [self.joined[name] for name in self.names]
        for node in nodes:
            self.raise_lost(node, [])
        if findings := [f"{node.name}: {finding}" for node in nodes for finding in node.findings]:
            raise PreflightError(findings)
        return tuple(node.host for node in nodes if node.host)

    def _why_no_agent(self, deadline: float) -> str | None:
        """Why no agent will join any more, None while there is hope."""
        said = self.step_said()
        if failure := SRUN_FAILURES.search(said):
            why = f"srun says: {failure[1]}"
        elif self.step.poll() is not None:
            why = f"srun ended with exit code {self.step.returncode}"
        elif time.monotonic() > deadline:
            return f"limits.agents_s={self.limits.agents_s:g} s are over"
        else:
            return None
        munge = "; Slurm could not verify a message: is munged running on that node, and is its clock right?"
        return why + munge * bool(CREDENTIALS.search(said))

    def step_said(self) -> str:
        """What srun and the agents have printed in this session."""
        try:
            with self.log.open("rb") as file:
                file.seek(self.log_from)
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def call(self, orders: Mapping[int, Mapping[str, Any]], timeout_s: float) -> dict[int, Any]:
        """Sends orders to nodes by number, all at once, and waits for all replies. Raises ProcessDied for a node that is lost,
        NotReady at the deadline, PreflightError for what an agent could not do."""
        ids = {number: next(self.ids) for number in orders}
        for number, order in orders.items():
            self.node(number).send(id=ids[number], **order)
        deadline = time.monotonic() + timeout_s
        while waiting := [self.node(n) for n in orders if ids[n] not in self.node(n).replies]:
            for node in waiting:
                self.raise_lost(node, [])
            if time.monotonic() > deadline:
                raise NotReady(f"{', '.join(n.name for n in waiting)}: no answer within {timeout_s:g} s")
            time.sleep(0.02)
        replies = {number: self.node(number).replies.pop(ids[number]) for number in orders}
        if errors := [f"{self.node(n).name}: {r['error']}" for n, r in replies.items() if "error" in r]:
            raise PreflightError(errors)
        return {number: reply["value"] for number, reply in replies.items()}

    def node(self, number: int) -> Node:
        return self.joined[self.names[number]]

    def raise_lost(self, node: Node, running: Sequence[Started]) -> None:
        """Raises ProcessDied when a node is lost; `running` is what it was running."""
        silent = time.monotonic() - node.received_at
        if not node.lost and silent > self.limits.lost_s:
            node.lost = f"silent for {silent:.1f} s (limits.lost_s={self.limits.lost_s:g})"
        if node.lost:
            on_it = ", ".join(r.process.name for r in running)
            log = running[0].log if running else self.log
            what = f"{node.lost}; on it: {on_it}" if on_it else node.lost
            raise ProcessDied(f"node {node.name}", node=node.name, cause=what, log=log, log_tail=log_tail(log))


def named_in(text: str, nodes: Sequence[str]) -> list[str]:
    """Those of the nodes that a text names.

    >>> named_in("n2: task 1: Exited with exit code 1", ["n1", "n2", "n22"])
    ['n2']
    """
    return [node for node in nodes if re.search(rf"(?<![\w.-]){re.escape(node)}(?![\w-])", text)]
