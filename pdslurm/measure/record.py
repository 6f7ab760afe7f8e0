"""From a task to the record of a measurement that has not been made yet: everything but the numbers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pdslurm.config import Config
from pdslurm.node.provenance import cautions
from pdslurm.plan.points import point_json
from pdslurm.plan.tasks import Task
from pdslurm.plan.tuning import is_tuned
from pdslurm.records.measurement import Measurement
from pdslurm.records.run_folder import RunFolder


def blank_record(
    folder: RunFolder,
    config: Config,
    versions: Mapping[str, str | None],
    task: Task,
    started_at: str,
    warm_up: Mapping[str, Any] | None = None,
    *,
    engines: Mapping[str, Any] | None = None,
) -> Measurement:
    """`started_at` is ISO 8601 in UTC, `warm_up` what its arm was warmed by, `engines` the load of the engines that measured it:
    `set`, `start` and `ready_at`, which records of one load have in common. A record is failed until it is measured."""
    arm, point = task.arm.arm, task.point
    roles = list(arm.roles)
    info = {
        "disaggregated": bool(arm.topology.prefill),
        "gpus": arm.topology.nodes * config.cluster.gpus_per_node,
        "nodes": arm.topology.nodes,
        "instances": len(roles),
        "roles": roles,
        "model": config.model.name,
        "cluster": config.cluster.name,
    }
    if is_tuned(config):
        info |= {"tuned_arm": arm.base, "setting": dict(arm.setting)}
    provenance = {
        "bench_args": list(task.args),
        "tries": folder.tries(arm.name, point.id, task.key) + 1,
        "raw": f"{folder.raw_name(arm.name, point.id, task.key)}.json.gz",
        "versions": dict(versions),
        "warm_up": dict(warm_up or {}),
        "engines": dict(engines or {}),
        "cautions": cautions(config),
    }
    return Measurement(
        key=task.key, run=folder.path.name, arm=arm.name, source="measured", status="failed", valid=False,
        invalid_reasons=(), point=point_json(point), arm_info=info, started_at=started_at, wall_s=0.0, provenance=provenance,
    )  # fmt: skip
