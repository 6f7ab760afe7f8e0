"""From a deployment to the content key of every point: what makes two measurements the same. Reads the data set's file, if any."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pdslurm.config import Limits, Transport
from pdslurm.plan.attached import deployment_of
from pdslurm.plan.commands import TELLING, bench_args
from pdslurm.plan.deployment import BoundArm, Deployment
from pdslurm.plan.points import Point
from pdslurm.records.measurement import content_key


class PointKeys:
    """(arm, point) → content key: a hash of the command lines with symbolic hosts and ports, the model, the point, the versions.
    Which ports happened to be free does not change a number, so it does not change the key; nor do deadlines, of which the
    router's command line has one: a run that was stopped by a limit goes on where it was under another. Nor does what makes engines
    tell their transport; which one they must use does, for what was measured over another is not done. Of a data set's file the
    content counts, wherever it lies by the name that the client is given."""

    def __init__(self, deployment: Deployment, versions: Mapping[str, str | None]) -> None:
        self.plan = replace(deployment.plan, config=replace(deployment.plan.config, limits=Limits()))
        self.known: dict[tuple[str, str], str] = {}
        self.base_urls: dict[str, str] = {}
        self.material: dict[str, list[Any]] = {}
        for bound in deployment_of(self.plan).sets:
            engines = [
                (e.role, e.gpus, e.argv or e.url, sorted((k, v) for k, v in e.env.items() if k not in TELLING))
                for e in bound.engines
            ]
            sizes = [(i.tensor_parallel, i.pipeline_parallel, i.data_parallel, i.gpu_count) for i in bound.set.instances]
            for arm in bound.arms:
                setting = [
                    [*engines, sizes] if self.plan.config.attach else engines,  # where no command line says them
                    dict(arm.engine_roles),
                    [r.argv for r in arm.routers],
                    self.plan.config.model.hf_config,
                    dict(versions),
                ]
                self.material[arm.arm.name] = [setting, self._cluster(arm)]
                self.base_urls[arm.arm.name] = arm.base_url

    def _cluster(self, arm: BoundArm) -> list[str]:
        cluster, transport = self.plan.config.cluster, self.plan.config.cluster.network.transport
        asked = [transport.value] if arm.arm.topology.prefill and transport is not Transport.any else []
        path = self.plan.config.workload.dataset_path
        return [cluster.name, cluster.gpu, *asked, *([digest(path)] if path else [])]

    def __call__(self, arm: BoundArm, point: Point) -> str:
        name = arm.arm.name
        if (name, point.id) not in self.known:
            args = bench_args(self.plan.config, point, self.base_urls[name])
            self.known[name, point.id] = content_key([*self.material[name], args])
        return self.known[name, point.id]


def point_keys(deployment: Deployment, versions: Mapping[str, str | None]) -> dict[tuple[str, str], str]:
    """(arm, point id) → content key of every point of the plan."""
    key = PointKeys(deployment, versions)
    arms = [arm for bound in deployment.sets for arm in bound.arms]
    return {(arm.arm.name, point.id): key(arm, point) for arm in arms for point in deployment.plan.points}


def digest(path: str) -> str:
    """16 hexadecimal digits of the SHA-256 of a file; a gigabyte takes a second or two, once."""
    facts = os.stat(path)
    return _digest(path, facts.st_size, facts.st_mtime_ns)


@functools.cache
def _digest(path: str, *_: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
