"""Placement: a table of topologies with every GPU of every instance, and thousands of odd ones against a second way of counting."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from pdslurm.config import Cluster, Config, Role, Topology
from pdslurm.plan.checks.configuration import problems
from pdslurm.plan.deployment import Deployment, bind
from pdslurm.plan.placement import Instance, place
from pdslurm.plan.plan import build_plan


def cluster(gpus_per_node: int, *, one_host: bool = False) -> Cluster:
    return Cluster(name="c", gpus_per_node=gpus_per_node, gpu="any", gpu_memory_gib=80, one_host=one_host)


def spans(numbers: tuple[int, ...]) -> str:
    """(0, 1, 2, 5) → `0-2,5`."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def describe(i: Instance) -> str:
    parts = " + ".join(f"n{p.node}[{spans(p.gpus)}]" for p in i.parts)
    return f"{i.role} g{i.group} {parts} tp{i.tensor_parallel} pp{i.pipeline_parallel} dp{i.data_parallel}"


@pytest.mark.parametrize(
    ("topology", "on", "expected"),
    [
        pytest.param(
            Topology(nodes=1, tensor_parallel=4), cluster(4), ["both g0 n0[0-3] tp4 pp1 dp1"], id="one instance on one node"
        ),
        pytest.param(
            Topology(nodes=4, route=4, tensor_parallel=8),
            cluster(8),
            [f"both g{n} n{n}[0-7] tp8 pp1 dp1" for n in range(4)],
            id="route 4: a node each",
        ),
        pytest.param(
            Topology(nodes=4, tensor_parallel=8),
            cluster(8),
            ["both g0 n0[0-7] + n1[0-7] + n2[0-7] + n3[0-7] tp8 pp1 dp4"],
            id="one DP group over four nodes",
        ),
        pytest.param(
            Topology(nodes=4, route=2, tensor_parallel=4),
            cluster(8),
            ["both g0 n0[0-7] + n1[0-7] tp4 pp1 dp4", "both g1 n2[0-7] + n3[0-7] tp4 pp1 dp4"],
            id="route 2, each DP over two nodes with two ranks a node",
        ),
        pytest.param(
            Topology(nodes=1, tensor_parallel=2), cluster(8), ["both g0 n0[0-7] tp2 pp1 dp4"], id="TP below the node: DP inside"
        ),
        pytest.param(
            Topology(nodes=1, route=4, tensor_parallel=2),
            cluster(8),
            [
                "both g0 n0[0-1] tp2 pp1 dp1",
                "both g1 n0[2-3] tp2 pp1 dp1",
                "both g2 n0[4-5] tp2 pp1 dp1",
                "both g3 n0[6-7] tp2 pp1 dp1",
            ],
            id="four instances on one node",
        ),
        pytest.param(
            Topology(nodes=2, route=4, tensor_parallel=2),
            cluster(8),
            [
                "both g0 n0[0-3] tp2 pp1 dp2",
                "both g1 n0[4-7] tp2 pp1 dp2",
                "both g2 n1[0-3] tp2 pp1 dp2",
                "both g3 n1[4-7] tp2 pp1 dp2",
            ],
            id="two instances a node, DP inside each",
        ),
        pytest.param(
            Topology(nodes=4, route=2, tensor_parallel=16),
            cluster(8),
            ["both g0 n0[0-7] + n1[0-7] tp16 pp1 dp1", "both g1 n2[0-7] + n3[0-7] tp16 pp1 dp1"],
            id="TP over two nodes",
        ),
        pytest.param(
            Topology(nodes=3, tensor_parallel=8, pipeline_parallel=3),
            cluster(8),
            ["both g0 n0[0-7] + n1[0-7] + n2[0-7] tp8 pp3 dp1"],
            id="PP over three nodes",
        ),
        pytest.param(
            Topology(nodes=1, tensor_parallel=2, pipeline_parallel=2),
            cluster(8),
            ["both g0 n0[0-7] tp2 pp2 dp2"],
            id="PP inside a node",
        ),
        pytest.param(
            Topology(nodes=4, prefill=1, tensor_parallel=8),
            cluster(8),
            ["prefill g0 n0[0-7] tp8 pp1 dp1", *(f"decode g0 n{n}[0-7] tp8 pp1 dp1" for n in (1, 2, 3))],
            id="1P3D, a node each",
        ),
        pytest.param(
            Topology(nodes=4, route=2, prefill=1, tensor_parallel=8),
            cluster(8),
            [
                "prefill g0 n0[0-7] tp8 pp1 dp1",
                "decode g0 n1[0-7] tp8 pp1 dp1",
                "prefill g1 n2[0-7] tp8 pp1 dp1",
                "decode g1 n3[0-7] tp8 pp1 dp1",
            ],
            id="route 2 of 1P1D each",
        ),
        pytest.param(
            Topology(nodes=1, prefill=1, tensor_parallel=2),
            cluster(4),
            ["prefill g0 n0[0-1] tp2 pp1 dp1", "decode g0 n0[2-3] tp2 pp1 dp1"],
            id="1P1D on one node",
        ),
        pytest.param(
            Topology(nodes=2, route=4, prefill=1, tensor_parallel=2),
            cluster(8),
            [
                f"{role} g{group} n{group // 2}[{gpus}] tp2 pp1 dp1"
                for group in range(4)
                for role, gpus in zip(("prefill", "decode"), (("0-1", "2-3"), ("4-5", "6-7"))[group % 2], strict=True)
            ],
            id="two groups of 1P1D on each node",
        ),
        pytest.param(
            Topology(nodes=1, prefill=1, tensor_parallel=1, as_prefill=Role(tensor_parallel=4), as_decode=Role(tensor_parallel=2)),
            cluster(8),
            ["prefill g0 n0[0-3] tp4 pp1 dp1", "decode g0 n0[4-5] tp2 pp1 dp1", "decode g0 n0[6-7] tp2 pp1 dp1"],
            id="prefill TP=4, decode TP=2",
        ),
        pytest.param(
            Topology(nodes=2, prefill=2, tensor_parallel=2, gpus=4),
            cluster(8),
            [
                "prefill g0 n0[0-3] tp2 pp1 dp2",
                "prefill g0 n0[4-7] tp2 pp1 dp2",
                "decode g0 n1[0-3] tp2 pp1 dp2",
                "decode g0 n1[4-7] tp2 pp1 dp2",
            ],
            id="2P2D of four GPUs each, DP inside",
        ),
        pytest.param(
            Topology(nodes=3, prefill=1, tensor_parallel=8, as_decode=Role(tensor_parallel=1, gpus=16)),
            cluster(8),
            ["prefill g0 n0[0-7] tp8 pp1 dp1", "decode g0 n1[0-7] + n2[0-7] tp1 pp1 dp16"],
            id="wide decode: one DP group over two nodes",
        ),
        pytest.param(
            Topology(nodes=1, prefill=1, tensor_parallel=1, as_decode=Role(gpus=3)),
            cluster(4),
            ["prefill g0 n0[0] tp1 pp1 dp1", "decode g0 n0[1-3] tp1 pp1 dp3"],
            id="a node cut into 1 and 3",
        ),
        pytest.param(
            Topology(nodes=4, prefill=1, tensor_parallel=16, as_decode=Role(tensor_parallel=8, pipeline_parallel=2)),
            cluster(8),
            ["prefill g0 n0[0-7] + n1[0-7] tp16 pp1 dp1", "decode g0 n2[0-7] + n3[0-7] tp8 pp2 dp1"],
            id="P and D larger than a node",
        ),
        pytest.param(
            Topology(nodes=4, prefill=1, tensor_parallel=1),
            cluster(1, one_host=True),
            ["prefill g0 n0[0] tp1 pp1 dp1", *(f"decode g0 n{n}[{n}] tp1 pp1 dp1" for n in (1, 2, 3))],
            id="one host: GPUs keep their number on the machine",
        ),
        pytest.param(
            Topology(nodes=2, tensor_parallel=2),
            cluster(4, one_host=True),
            ["both g0 n0[0-3] + n1[4-7] tp2 pp1 dp4"],
            id="one host cut into two nodes",
        ),
    ],
)
def test_place(topology: Topology, on: Cluster, expected: list[str]) -> None:
    assert [describe(i) for i in place(topology, on)] == expected


def test_extra_args_go_to_their_role_after_the_common_ones() -> None:
    topology = Topology(
        nodes=2,
        prefill=1,
        tensor_parallel=8,
        extra_args=["--a"],
        as_prefill=Role(extra_args=["--p"]),
        as_decode=Role(extra_args=["--d"]),
    )
    assert [i.extra_args for i in place(topology, cluster(8))] == [("--a", "--p"), ("--a", "--d")]


# Below: every combination of small numbers is either refused, or placed so that no GPU is idle, shared or wrongly joined.


@dataclass(frozen=True)
class Sizes:
    """GPUs and degrees of one instance."""

    tp: int
    pp: int
    gpus: int


def placeable(topology: Topology, per_node: int) -> bool:
    """Counts GPU by GPU what is allowed, knowing nothing of pdslurm's own arithmetic."""
    if topology.gpus is not None and not topology.prefill:
        return False
    total = topology.nodes * per_node
    if total % topology.route:
        return False
    group = total // topology.route
    if group % per_node and per_node % group:
        return False
    instances = list(instances_of(topology, group, per_node))
    if any(max(i.tp, j.tp) % min(i.tp, j.tp) for i in instances for j in instances):
        return False  # NIXL cannot join them
    if sum(i.gpus for i in instances) != group or (topology.prefill and len(instances) <= topology.prefill):
        return False
    for g in range(topology.route):
        at = g * group
        for i in instances:
            nodes = [gpu // per_node for gpu in range(at, at + i.gpus)]
            whole = all(nodes.count(n) == per_node for n in set(nodes))
            if len(set(nodes)) > 1 and not whole:
                return False  # takes a part of a node beside another node
            replicas = [set(nodes[r : r + i.tp * i.pp]) for r in range(0, i.gpus, i.tp * i.pp)]
            if i.gpus % (i.tp * i.pp) or (len(replicas) > 1 and any(len(r) > 1 for r in replicas)):
                return False  # replicas of unequal size, or data parallel over replicas that lie on several nodes each
            at += i.gpus
    return True


def instances_of(topology: Topology, group: int, per_node: int) -> Iterator[Sizes]:
    """The instances that a topology asks for in one group; the decode ones fill what is left, rounded up."""
    if not topology.prefill:
        yield Sizes(topology.tensor_parallel, topology.pipeline_parallel, group)
        return
    p, d = (
        Sizes(tp, pp, r.gpus or topology.gpus or (max(tp * pp, per_node) if group > per_node else tp * pp))
        for r in (topology.as_prefill, topology.as_decode)
        for tp, pp in [(r.tensor_parallel or topology.tensor_parallel, r.pipeline_parallel or topology.pipeline_parallel)]
    )
    yield from [p] * topology.prefill
    left = group - topology.prefill * p.gpus
    yield from [d] * max(0, -(-left // d.gpus))


def same_sizes(nodes: int) -> Iterator[tuple[int, Topology]]:
    for per_node, route, prefill, tp, pp, gpus in itertools.product(
        (1, 2, 3, 4, 6, 8), (1, 2, 3, 4, 8), (0, 1, 2, 3), (1, 2, 3, 4, 8), (1, 2), (None, 2, 3, 8)
    ):
        if prefill or gpus is None:
            yield per_node, Topology(nodes=nodes, route=route, prefill=prefill, tensor_parallel=tp, pipeline_parallel=pp, gpus=gpus)


def mixed_sizes(nodes: int) -> Iterator[tuple[int, Topology]]:
    roles = [Role(tp, None, g) for tp, g in ((1, None), (1, 2), (2, 4), (1, 3), (2, 6), (4, None), (2, 12), (8, 16), (6, None))]
    for per_node, prefill, as_prefill, as_decode in itertools.product((2, 4, 6, 8), (1, 2, 3, 4), roles, roles):
        yield per_node, Topology(nodes=nodes, prefill=prefill, tensor_parallel=1, as_prefill=as_prefill, as_decode=as_decode)


def faults(instances: tuple[Instance, ...], topology: Topology, on: Cluster) -> Iterator[str]:
    """What is wrong with a placement, in words."""
    used = Counter((part.node, gpu) for i in instances for part in i.parts for gpu in part.gpus)
    size = on.gpus_per_node
    there = {(g // size, g if on.one_host else g % size) for g in range(topology.nodes * size)}
    if set(used) != there or set(used.values()) != {1}:
        yield f"GPUs used {used}, there are {there}"
    for i in instances:
        if i.tensor_parallel * i.pipeline_parallel * i.data_parallel != i.gpu_count:
            yield f"degrees and GPUs differ: {describe(i)}"
        if len(i.parts) > 1 and any(len(part.gpus) != size for part in i.parts):
            yield f"takes a node in part: {describe(i)}"
        replica = i.tensor_parallel * i.pipeline_parallel
        if i.data_parallel > 1 and any(len(part.gpus) % replica for part in i.parts):
            yield f"a replica lies on several nodes beside others: {describe(i)}"
        if i.spans_nodes != (replica > size):
            yield f"spans_nodes={i.spans_nodes}: {describe(i)}"
    for group in range(topology.route):
        roles = [i.role for i in instances if i.group == group]
        expected = ["prefill"] * topology.prefill + ["decode"] * (len(roles) - topology.prefill) if topology.prefill else ["both"]
        if roles != expected or (topology.prefill and "decode" not in roles):
            yield f"group {group} has {roles}"


def port_faults(deployment: Deployment) -> Iterator[str]:
    """Every port that a process of a set listens on, against the others of the same host."""
    for bound in deployment.sets:
        ports: list[tuple[str, int]] = []
        for process in (*bound.engines, *(router for arm in bound.arms for router in arm.routers)):
            options = dict(itertools.pairwise(process.argv))
            numbers = [int(options[name]) for name in ("--port", "--prometheus-port") if name in options]
            if "--headless" not in process.argv:
                numbers += [int(options[name]) for name in ("--data-parallel-rpc-port", "--master-port") if name in options]
            if side := process.env.get("VLLM_NIXL_SIDE_CHANNEL_PORT"):  # vLLM adds the data-parallel rank
                numbers += range(int(side), int(side) + int(options.get("--data-parallel-size", 1)))
            ports += [(process.host, n) for n in numbers]
        yield from (f"port {port} of {host} twice" for (host, port), times in Counter(ports).items() if times > 1)


@pytest.mark.parametrize("nodes", [1, 2, 3, 4])
@pytest.mark.parametrize("family", [same_sizes, mixed_sizes])
def test_every_topology_is_refused_or_placed_right(
    nodes: int, family: Callable[[int], Iterator[tuple[int, Topology]]], make_config: Callable[..., Config]
) -> None:
    wrong: list[str] = []
    accepted = refused = 0
    for number, (per_node, topology) in enumerate(family(nodes)):
        config = make_config({"model.hf_config": {}, "topology": topology, "cluster": cluster(per_node, one_host=number % 2 == 0)})
        found, ok, what = list(problems(config)), placeable(topology, per_node), f"{per_node} GPUs a node, {topology}: "
        if bool(found) == ok:
            wrong.append(what + (f"refused though it fits: {found}" if found else "accepted though it does not fit"))
        wrong += [what + f"unclear message {m!r}" for m in found if not m.startswith("topology.") or "=" not in m]
        refused += bool(found)
        if not found:
            accepted += 1
            plan = build_plan(config)
            wrong += [
                what + fault for fault in (*faults(plan.sets[0].instances, topology, config.cluster), *port_faults(bind(plan)))
            ]
    assert not wrong, f"{len(wrong)} wrong, such as\n" + "\n".join(wrong[:5])
    assert accepted > 20
    assert refused > 20
