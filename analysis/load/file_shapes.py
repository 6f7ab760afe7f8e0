"""The shapes of a run's own files, as far as the analysis relies on them; more keys are allowed. pdslurm.records.shapes judges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict


class Untold(TypedDict):
    """What some engine did not tell."""

    field: str
    values: Mapping[str, str]  # by arm


class Difference(Untold):
    """What arms differ in."""

    why: str


class Explained(Difference, total=False):
    """What arms differ in though no topology forces it."""

    explained: str | None


class Fairness(TypedDict, total=False):
    """fairness.json."""

    differs: list[Explained]
    forced: list[Difference]
    unknown: list[Untold]
    same: Mapping[str, str]


class Instances(TypedDict):
    """One of Plan.sets."""

    name: str
    arms: list[str]
    gpus: float


class Named(TypedDict):
    """What every process has."""

    name: str
    kind: str
    role: str | None


class Process(Named, total=False):
    """One of Plan.processes."""

    set: str
    arm: str
    roles: Mapping[str, str]
    port: int | None
    gpus: list[Any]
    argv: list[Any]
    env: Mapping[str, Any]


class Plan(TypedDict, total=False):
    """plan.json."""

    model: str
    cluster: str
    sets: list[Instances]
    processes: list[Process]
    fairness: Fairness | None


class Host(TypedDict, total=False):
    """What is known of a machine."""

    hostname: str | None
    kernel: str | None
    cpu: str | None
    gpus: list[str] | None
    gpu_names: list[str] | None
    gpu_topology: str | None


class Code(TypedDict, total=False):
    """Which pdslurm ran."""

    pdslurm: str | None
    commit: str | None
    dirty: bool | None
    command: list[Any] | None


class Session(TypedDict, total=False):
    """One of Versions.sessions."""

    started_at: str | None
    code: Code | None
    host: Host | None
    engine: Mapping[str, str | None] | None


class Versions(Session, total=False):
    """versions.json."""

    sessions: list[Session] | None


class NamedNode(TypedDict):
    """What every node has."""

    name: str


class Node(NamedNode, total=False):
    """One node of a job."""

    facts: Host | None


class Job(TypedDict, total=False):
    """One of Nodes.sessions."""

    started_at: str | None
    slurm_job_id: str | int | None
    nodes: list[Node]


class Nodes(Job, total=False):
    """nodes.json."""

    sessions: list[Job] | None


SHAPES: Mapping[str, Any] = {"plan.json": Plan, "fairness.json": Fairness, "versions.json": Versions, "nodes.json": Nodes}
