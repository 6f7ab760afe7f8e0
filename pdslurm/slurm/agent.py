"""From the driver's orders to checks and processes on one node; one agent runs on each, and ends all that it started.

    python -m pdslurm.slurm.agent DRIVER_HOST:PORT KEY_FILE

srun starts one on each node. It ends everything that it started when the driver says so, when the connection to the driver is lost
or silent for `limits.orphan_s`, and at TERM: so nothing is left on a node that was cut off, whether or not Slurm is there. Should
the agent itself be killed, every engine's guard does the same for its own (pdslurm/node/guard.py)."""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pdslurm.config import Config, from_dict
from pdslurm.errors import CleanUpFailed, PdslurmError, PreflightError
from pdslurm.node import gpu_states, gpus, network
from pdslurm.node.engine_env import prepare
from pdslurm.node.node_check import NodeReport, check_node
from pdslurm.node.ports import ReservedPorts
from pdslurm.node.preflight import known_options
from pdslurm.node.process_logs import log_tail
from pdslurm.node.processes import LocalProcesses
from pdslurm.node.provenance import host_facts
from pdslurm.plan.deployment import Process
from pdslurm.slurm.wire import Wire, api_key

BEAT_S = 1.0
DEATH_POLL_S = 0.2


class Agent:
    """Two threads: this one talks and beats, the worker carries out one order after another and reports deaths in between."""

    def __init__(self, wire: Wire, key: str) -> None:
        self.wire, self.key = wire, key
        self.node = os.environ.get("SLURMD_NODENAME") or platform.node()
        self.orders: queue.Queue[dict[str, Any]] = queue.Queue()
        self.hurried = self.ending = self.warned = False
        self.config: Config
        self.processes: LocalProcesses
        self.ports = ReservedPorts()
        self.reported_dead: set[str] = set()
        self.driver_temp: str

    def serve(self) -> int:
        """Until the driver says `quit`, is lost, or a signal comes. Returns the exit code."""
        self.wire.send(join=self.node)
        first = self.wire.receive(30.0)
        if not first or first["do"] != "setup":
            raise ConnectionError("the driver said nothing")
        self._set_up(first)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end)
        signal.signal(signal.SIGUSR2, self._warn)
        worker = threading.Thread(target=self._work, name="worker")
        with self.ports:
            worker.start()
            try:
                self._talk()
            except OSError as error:
                log(f"the connection to the driver is lost ({error}); ending everything of this run here")
                shutil.rmtree(self.driver_temp, ignore_errors=True)  # should the driver have been killed
            finally:
                self.ending = True
                while worker.is_alive():  # its last replies may still reach the driver, which counts beats meanwhile
                    with contextlib.suppress(OSError):
                        self.wire.send(beat=True)
                    worker.join(BEAT_S)
        return 0

    def _set_up(self, order: dict[str, Any]) -> None:
        """Takes the configuration and replies with this node's address and facts."""
        try:
            config = self.config = from_dict(order["config"])
            hurry = lambda: self.hurried  # noqa: E731
            self.processes = LocalProcesses(stop_s=config.limits.stop_s, hurry=hurry, api_key=api_key(self.key), adopts=True)
            self.driver_temp = order["temp"]
            reached_by = self.wire.sock.getsockname()[0]
            host = network.choose_host(config.cluster.network.interface, config.cluster.network.cidr, reached_by, node=self.node)
            self.wire.send(hello=self.node, address=host.address, interface=host.interface, facts=host_facts())
        except PreflightError as error:
            self.wire.send(hello=self.node, findings=list(error.findings))
        except Exception as error:  # whatever it is, the driver must not have to wait for it
            self.wire.send(hello=self.node, findings=[f"the agent cannot start: {type(error).__name__}: {error}"])
            raise

    def _end(self, number: int, _: object) -> None:
        log(f"{signal.Signals(number).name}: ending everything of this run here")
        self.ending = True

    def _warn(self, *_: object) -> None:
        """Slurm's signal before a time limit or a preemption goes to the steps, not to the driver."""
        self.warned = True

    def _talk(self) -> None:
        """Reads orders and sends beats. Raises OSError when the driver is gone or silent for too long."""
        received = beaten = time.monotonic()
        while not self.ending:
            message = self.wire.receive(0.2)
            now = time.monotonic()
            if message:
                received = now
                if message.get("do") == "hurry":
                    self.hurried = True
                elif message.get("do") == "quit":
                    return
                elif "do" in message:
                    self.orders.put(message)
            elif now - received > self.config.limits.orphan_s:
                raise TimeoutError(f"silent for limits.orphan_s={self.config.limits.orphan_s:g} s")
            if now - beaten > BEAT_S:
                beaten = now
                self.wire.send(beat=True, warned=self.warned)

    # --- the worker

    def _work(self) -> None:
        """Tells the driver why, should it end without being asked to."""
        try:
            with self.processes:
                self._take_orders()
        except CleanUpFailed as error:
            self._tell(left=list(error.left))
        except Exception as error:
            log(traceback.format_exc())
            self._tell(failed=f"{type(error).__name__}: {error}")
            self.ending = True
        if self.processes.left_behind:
            log(f"processes {self.processes.left_behind} are still there after KILL")

    def _take_orders(self) -> None:
        while not self.ending:
            try:
                order = self.orders.get(timeout=DEATH_POLL_S)
            except queue.Empty:
                self._report_deaths()
                continue
            self._carry_out(order)

    def _tell(self, **message: Any) -> None:
        """A driver that is gone is found by the talking thread."""
        with contextlib.suppress(OSError):
            self.wire.send(**message)

    def _carry_out(self, order: dict[str, Any]) -> None:
        work: Callable[[dict[str, Any]], Any] = getattr(self, f"_do_{order['do']}")
        try:
            reply = {"value": work(order)}
        except PdslurmError as error:
            reply = {"error": str(error)}
        except Exception:
            reply = {"error": traceback.format_exc()}
        self._tell(reply=order["id"], **reply)

    def _report_deaths(self) -> None:
        """Reports every death once."""
        for running in self.processes.running:
            name = running.process.name
            if name not in self.reported_dead and (cause := self.processes.cause_of(running)):
                self.reported_dead.add(name)
                self._tell(died=name, cause=cause, tail=log_tail(running.log))

    def _do_check(self, order: dict[str, Any]) -> dict[str, Any]:
        run_dir = Path(order["run_dir"])
        try:
            self.processes.engine_env = prepare(self.config, run_dir, node=self.node)
        except PreflightError as error:  # told together with what other nodes find
            return asdict(NodeReport(error.findings))
        report = check_node(
            self.config,
            order["gpus"],
            self.processes.engine_env,
            run_dir=run_dir,
            routers=order["routers"],
            give_up=lambda: self.ending,
        )
        return asdict(report)

    def _do_time(self, _: dict[str, Any]) -> float:
        return time.time()

    def _do_options(self, order: dict[str, Any]) -> dict[str, list[str]]:
        known = known_options(self.config, order["versions"], Path(order["cache"]), self.processes.engine_env)
        return {kind: sorted(names) for kind, names in known.items()}

    def _do_reserve(self, order: dict[str, Any]) -> list[list[Any]]:
        """The (host, port) pairs that are taken here; the others are reserved from now on."""
        return [list(pair) for pair in self.ports.reserve_free((host, port) for host, port in order["ports"])]

    def _do_start(self, order: dict[str, Any]) -> None:
        """Nobody waits for this order's reply: whatever keeps the process from starting is told as its death."""
        process = Process(**order["process"])
        self.reported_dead.discard(process.name)
        try:
            self.processes.start(process, Path(order["log"]))
        except Exception as error:
            self._tell(died=process.name, cause=getattr(error, "cause", f"cannot be started: {error}"), tail="")

    def _do_gpu_states(self, order: dict[str, Any]) -> list[dict[str, Any]]:
        return gpu_states.read_states(gpus.visible_gpus(order["gpus"], os.environ.get("CUDA_VISIBLE_DEVICES")))

    def _do_begin_gpu_use(self, order: dict[str, Any]) -> None:
        self.processes.gpu_use.begin(gpus.visible_gpus(order["gpus"], os.environ.get("CUDA_VISIBLE_DEVICES")))

    def _do_end_gpu_use(self, _: dict[str, Any]) -> dict[str, Any]:
        return self.processes.gpu_use.end()

    def _do_stop(self, order: dict[str, Any]) -> list[int]:
        self.processes.stop([r for r in self.processes.running if r.process.name in order["names"]])
        return self.processes.left_behind


def log(text: str) -> None:
    """To srun's output, which the driver keeps in the run's folder."""
    print(f"{time.strftime('%H:%M:%S')} {platform.node()}: {text}", file=sys.stderr, flush=True)


def main() -> int:
    address, key_file = sys.argv[1:3]
    host, _, port = address.rpartition(":")
    key = Path(key_file).read_text().strip()
    wire = Wire(socket.create_connection((host, int(port)), timeout=30), key, is_driver=False)
    return Agent(wire, key).serve()


if __name__ == "__main__":
    sys.exit(main())
