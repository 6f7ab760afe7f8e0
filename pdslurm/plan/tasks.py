"""From a deployment to its tasks: a point on an arm, with the client's arguments and the content key that says whether it is done.

Reads the data set's file, if there is one."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pdslurm.config import Limits, Transport
from pdslurm.plan.commands import ROUTER_TIMEOUT, TRANSPORT_LOGGING, with_base_url
from pdslurm.plan.deployment import BoundArm, BoundSet, Deployment
from pdslurm.plan.points import Point, tried_again
from pdslurm.records.measurement import content_key


@dataclass(frozen=True)
class Task:
    """One point to be measured on one arm. `args` are the benchmark client's; `key` is the same for all tasks that would give the
    same number."""

    arm: BoundArm
    point: Point
    key: str
    args: tuple[str, ...]


class Tasks:
    """(arm, point) → Task, each made once.

    A content key is a hash of the command lines with symbolic hosts and ports, the model, the point, the versions. Which ports
    happened to be free does not change a number, so it does not change the key; nor do deadlines, of which the router's command
    line has one: a run that was stopped by a limit goes on where it was under another. Nor does what makes engines log their
    transport; which one they must use does, for what was measured over another is not done; so do a chosen interface
    and CIDR where engines are on several nodes. Of a data set's file the content
    counts, wherever it lies by the name that the client is given."""

    def __init__(self, deployment: Deployment, symbolic: Deployment, versions: Mapping[str, str | None]) -> None:
        """`symbolic` is the same plan on symbolic hosts, `versions` are the engine environment's."""
        self.deployment, self.versions = deployment, dict(versions)
        self.known: dict[tuple[str, Point], Task] = {}
        self.base_urls = {arm.arm.name: arm.base_url for arm in symbolic.arms}
        self.material = {arm.arm.name: self._material(bound, arm) for bound in symbolic.sets for arm in bound.arms}

    def of(self, arm: BoundArm, point: Point) -> Task:
        name = arm.arm.name
        if (name, point) not in self.known:
            args = self.deployment.bench_args(arm, point)
            key = content_key([*self.material[name], with_base_url(args, self.base_urls[name])])
            self.known[name, point] = Task(arm, point, key, args)
        return self.known[name, point]

    def again(self, task: Task, tries: int) -> Task:
        """The task as it is sent after `tries` invalid measurements: other prompts and arrivals under the same key, for it answers
        the same question. workload.one_seed asks for that one seed, and gets it."""
        if not tries or self.deployment.plan.config.workload.one_seed:
            return task
        point = tried_again(task.point, tries)
        return Task(task.arm, point, task.key, self.deployment.bench_args(task.arm, point))

    def _material(self, bound: BoundSet, arm: BoundArm) -> list[Any]:
        """What the keys of an arm's points have in common."""
        config = self.deployment.plan.config
        engines = [
            (e.role, e.gpus, e.argv or e.url, sorted((k, v) for k, v in e.env.items() if k not in TRANSPORT_LOGGING))
            for e in bound.engines
        ]
        sizes = [(i.tensor_parallel, i.pipeline_parallel, i.data_parallel, i.gpu_count) for i in bound.set.instances]
        setting = [
            [*engines, sizes] if config.attach else engines,  # where no command line says them
            dict(arm.engine_roles),
            [_without_deadline(router.argv) for router in arm.routers],
            config.model.hf_config,
            self.versions,
        ]
        return [setting, self._cluster(arm, len({e.node for e in bound.engines}))]

    def _cluster(self, arm: BoundArm, nodes: int) -> list[str]:
        cluster, path = self.deployment.plan.config.cluster, self.deployment.plan.config.workload.dataset_path
        transport = cluster.network.transport
        demanded = [transport.value] if arm.arm.topology.prefill and transport is not Transport.any else []
        network = cluster.network
        chosen = [f"{k}={v}" for k, v in (("interface", network.interface), ("cidr", network.cidr)) if v]
        over = chosen if nodes > 1 and not cluster.one_host else []
        return [cluster.name, cluster.gpu, *demanded, *over, *([digest(path)] if path else [])]


def _without_deadline(argv: Sequence[str]) -> tuple[str, ...]:
    """A router's command line as it is under the default limits."""
    before = ("", *argv)
    return tuple(str(int(Limits().point_s)) if flag == ROUTER_TIMEOUT else word for flag, word in zip(before, argv, strict=False))


def digest(path: str) -> str:
    """16 hexadecimal digits of the SHA-256 of a file; a gigabyte takes a second or two, once."""
    facts = os.stat(path)
    return _digest(path, facts.st_size, facts.st_mtime_ns)


@functools.cache
def _digest(path: str, *_: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
