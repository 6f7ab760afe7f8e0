"""From a topology and a cluster's node size to instances on nodes and GPUs. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pdslurm.config import Cluster, Topology


@dataclass(frozen=True)
class Part:
    """The GPUs of one instance on one node; one process there."""

    node: int
    gpus: tuple[int, ...]


@dataclass(frozen=True)
class Instance:
    """One `vllm serve` with its data-parallel and headless parts. Parts are in rank order, the first one has the HTTP server."""

    role: str  # both, prefill or decode
    group: int
    parts: tuple[Part, ...]
    tensor_parallel: int
    pipeline_parallel: int
    data_parallel: int
    extra_args: tuple[str, ...]

    @property
    def gpu_count(self) -> int:
        return sum(len(part.gpus) for part in self.parts)

    @property
    def spans_nodes(self) -> bool:
        """One model replica is larger than a node, so that its TP or PP ranks run on several."""
        return self.data_parallel == 1 and len(self.parts) > 1


@dataclass(frozen=True)
class RoleShape:
    """What each instance of a role uses."""

    role: str
    tensor_parallel: int
    pipeline_parallel: int
    gpus: int
    extra_args: tuple[str, ...]

    @property
    def replica(self) -> int:
        """GPUs of one model replica."""
        return self.tensor_parallel * self.pipeline_parallel


def group_gpus(topology: Topology, gpus_per_node: int) -> int:
    """GPUs of one group."""
    return topology.nodes * gpus_per_node // topology.route


def role_shapes(topology: Topology, gpus_per_node: int) -> tuple[RoleShape, ...]:
    """(both,) for a plain topology, (prefill, decode) for a disaggregated one, with every default filled in."""
    total, common = group_gpus(topology, gpus_per_node), tuple(topology.extra_args)
    if not topology.prefill:
        return (RoleShape("both", topology.tensor_parallel, topology.pipeline_parallel, total, common),)
    shapes = []
    for name, role in (("prefill", topology.as_prefill), ("decode", topology.as_decode)):
        tp = role.tensor_parallel or topology.tensor_parallel
        pp = role.pipeline_parallel or topology.pipeline_parallel
        default = max(tp * pp, gpus_per_node) if total > gpus_per_node else tp * pp
        gpus = role.gpus or topology.gpus or default
        shapes.append(RoleShape(name, tp, pp, gpus, common + tuple(role.extra_args)))
    return tuple(shapes)


def decode_instances(topology: Topology, gpus_per_node: int) -> int:
    """Decode instances per group: what the prefill instances leave, zero or negative when they leave nothing."""
    prefill, decode = role_shapes(topology, gpus_per_node)
    return (group_gpus(topology, gpus_per_node) - topology.prefill * prefill.gpus) // decode.gpus


def place(topology: Topology, cluster: Cluster) -> tuple[Instance, ...]:
    """Instances in group order, prefill before decode, each on the next free GPUs. Expects a topology that `checks` accepts."""
    return tuple(_place(topology, cluster))


def _place(topology: Topology, cluster: Cluster) -> Iterator[Instance]:
    size = cluster.gpus_per_node
    per_group = group_gpus(topology, size)
    for group in range(topology.route):
        at = group * per_group
        for shape in role_shapes(topology, size):
            count = {"both": 1, "prefill": topology.prefill}.get(shape.role)
            for _ in range(decode_instances(topology, size) if count is None else count):
                yield Instance(
                    role=shape.role,
                    group=group,
                    parts=_parts(range(at, at + shape.gpus), size, cluster.one_host),
                    tensor_parallel=shape.tensor_parallel,
                    pipeline_parallel=shape.pipeline_parallel,
                    data_parallel=shape.gpus // shape.replica,
                    extra_args=shape.extra_args,
                )
                at += shape.gpus


def _parts(gpus: range, per_node: int, one_host: bool) -> tuple[Part, ...]:
    """Cuts a run of cluster-wide GPU numbers into nodes; on one host a GPU keeps its cluster-wide number."""
    by_node: dict[int, list[int]] = {}
    for gpu in gpus:
        by_node.setdefault(gpu // per_node, []).append(gpu if one_host else gpu % per_node)
    return tuple(Part(node, tuple(local)) for node, local in by_node.items())
