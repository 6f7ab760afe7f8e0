"""What a test left on the cluster: jobs, processes, ports, shared memory and containers; and how to get rid of it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from tests.cluster.lab import Lab
from tests.cluster.machine import LabError


class Leftover(NamedTuple):
    """`key` finds it again: a job's id, a pid, a port, a file or container name."""

    machine: str
    kind: str
    key: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.machine}: {self.kind} {self.key} {self.detail}".rstrip()


def present(lab: Lab) -> frozenset[Leftover]:
    """All there is on ctl and the healthy nodes; on the others nobody could have removed it."""
    found = [Leftover("ctl", "job", job) for job in lab.run("ctl", ["squeue", "-h", "-o", "%i"], 10).stdout.split()]
    for machine in ("ctl", *filter(lab.is_healthy, lab.nodes)):
        found += [Leftover(machine, "process", str(pid), cmdline) for pid, cmdline in lab.processes(machine)]
        found += [Leftover(machine, "port", str(port)) for port in lab.listening(machine)]
        found += [Leftover(machine, "shared memory", name) for name in lab.shm(machine)]
        found += [Leftover(machine, "container", name, engine) for engine, name in lab.containers(machine)]
    return frozenset(found)


def since(lab: Lab, before: Iterable[Leftover], patience_s: float) -> tuple[Leftover, ...]:
    """What is there and was not before; looks again for patience_s, since Slurm ends a job's last processes after the job."""
    deadline = time.monotonic() + patience_s
    while True:
        left = present(lab) - frozenset(before)
        if not left or time.monotonic() > deadline:
            return tuple(sorted(left))
        time.sleep(0.1)


def restore(lab: Lab, left: Iterable[Leftover] = ()) -> None:
    """Removes what is left, boots nodes that had a fault, returns when Slurm can use all nodes again."""
    faulty = [node for node in lab.nodes if not lab.is_healthy(node)]
    for node in faulty:
        if lab.is_on(node):
            lab.crash(node)  # and with it what runs there
        lab.boot(node)
    for leftover in left:
        _remove(lab, leftover)
    if left or faulty:
        _settle(lab)


def _remove(lab: Lab, leftover: Leftover) -> None:
    commands = {
        "job": ["scancel", leftover.key],
        "process": ["kill", "-KILL", leftover.key],
        "shared memory": ["rm", "-f", f"/dev/shm/{leftover.key}"],
        "container": [leftover.detail, "rm", "--force", leftover.key],
    }
    # a step's process is ended by its slurmstepd's death or by its own; Slurm wants to see the latter
    if leftover.kind in commands and not leftover.detail.startswith("slurmstepd"):
        lab.run(leftover.machine, commands[leftover.kind], 30, check=False)  # it may have gone meanwhile


def _settle(lab: Lab) -> None:
    """Slurm takes up to a minute to believe that a job ended on a node that lost it; an administrator's down and resume end it."""
    try:
        lab.wait_for("Slurm to use all nodes", lambda: not _unusable(lab), timeout_s=5)
    except LabError:
        nodes = f"NodeName={','.join(_unusable(lab))}"
        lab.run("ctl", ["scontrol", "update", nodes, "State=DOWN", "Reason=restore"], 10)
        lab.run("ctl", ["scontrol", "update", nodes, "State=RESUME"], 10, check=False)  # it may have come back by itself
        lab.wait_for("Slurm to use all nodes", lambda: not _unusable(lab), timeout_s=60)


def _unusable(lab: Lab) -> list[str]:
    """Nodes on which no job could start, or that Slurm still clears of one: `comp`, `down`, `idle*` (not responding), …"""
    states = lab.run("ctl", ["sinfo", "-h", "-N", "-p", "batch", "-o", "%N %t"], 10).stdout.splitlines()
    return [node for node, state in (line.split() for line in states) if state not in ("idle", "mix", "alloc")]
