"""From an arm and a point to the record of a measurement that has not been made yet: everything but the numbers. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pdslurm.config import Config
from pdslurm.node.provenance import cautions
from pdslurm.plan.deployment import BoundArm
from pdslurm.plan.points import Point, point_json
from pdslurm.records.measurement import Measurement
from pdslurm.records.run_folder import RunFolder


def blank_record(
    folder: RunFolder,
    config: Config,
    versions: Mapping[str, str | None],
    arm: BoundArm,
    point: Point,
    key: str,
    args: Sequence[str],
    started_at: str,
) -> Measurement:
    """`args` are those of `vllm bench serve`, `started_at` is ISO 8601 in UTC. A record is failed until it is measured."""
    topology = arm.arm.topology
    roles = list(arm.arm.roles)
    info = {
        "disaggregated": bool(topology.prefill),
        "gpus": topology.nodes * config.cluster.gpus_per_node,
        "nodes": topology.nodes,
        "instances": len(roles),
        "roles": roles,
        "model": config.model.name,
        "cluster": config.cluster.name,
    }
    provenance = {
        "bench_args": list(args),
        "raw": f"{folder.raw_name(arm.arm.name, point.id, key)}.json.gz",
        "versions": dict(versions),
        "cautions": cautions(config),
    }
    return Measurement(
        key=key, run=folder.path.name, arm=arm.arm.name, source="measured", status="failed", valid=False,
        invalid_reasons=(), point=point_json(point), arm_info=info, started_at=started_at, wall_s=0.0, provenance=provenance,
    )  # fmt: skip
