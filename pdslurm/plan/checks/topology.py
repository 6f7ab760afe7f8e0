"""What is wrong with a topology on a cluster and for a model: one sentence for each problem. Pure."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from pdslurm.config import Cluster, Config, LauncherKind, Model, Topology
from pdslurm.plan.checks.own_flags import own_flags
from pdslurm.plan.commands import OWN_FLAGS, OWN_ROUTER_FLAGS
from pdslurm.plan.model import DTYPE_BYTES, OVERHEAD_BYTES, ModelShape
from pdslurm.plan.placement import RoleShape, decode_instances, group_gpus, role_shapes
from pdslurm.plan.tuning import variants
from pdslurm.records.settings import setting_text

GIB = 2**30


def problems(config: Config, shape: ModelShape | None) -> Generator[str, None, dict[str, Topology]]:
    """Of every arm, with every setting that it is tried with; returns by name the topologies that can be placed. `shape` is None
    where the model's sizes are unknown."""
    placeable: dict[str, Topology] = {}
    for name, variant in variants(config).items():
        topology, field = variant.topology, f"arms.{variant.arm}" if config.arms else "topology"
        field += f" with {setting_text(variant.setting)}: {field}" if variant.setting else ""
        yield from _extra_args(field, topology)
        numbers = list(_numbers(field, topology))
        yield from numbers
        if numbers or config.cluster.gpus_per_node < 1:
            continue
        structural = list(_topology(field, topology, config.cluster))
        yield from structural
        if not structural:
            placeable[name] = topology
        for role in role_shapes(topology, config.cluster.gpus_per_node):
            yield from _divides(field, role, topology, config.model, shape)
            if not structural and not config.attach:  # what runs already fits
                yield from _fit(field, role, topology, config, shape)
        yield from _one_machine(field, topology, config)
    return placeable


def _topology(field: str, topology: Topology, cluster: Cluster) -> Iterator[str]:
    per_node, nodes, route = cluster.gpus_per_node, topology.nodes, topology.route
    if nodes % route and route % nodes:
        yield (
            f"{field}.route={route}: {nodes} nodes cannot be divided into {route} groups; "
            f"use one of {_list(_divisors(nodes))}, or a multiple of {nodes}"
        )
        return
    if route > nodes and per_node % (route // nodes):
        yield (
            f"{field}.route={route}: {route // nodes} groups a node do not divide its {per_node} GPUs; "
            f"use {_list([nodes * d for d in _divisors(per_node)])}"
        )
        return
    total = group_gpus(topology, per_node)
    roles = role_shapes(topology, per_node)
    wrong = [problem for role in roles for problem in _role(field, role, topology, total, per_node)]
    yield from wrong
    prefill = topology.prefill
    if wrong:
        pass  # counting instances of impossible sizes says nothing more
    elif prefill and decode_instances(topology, per_node) < 1:
        most = (total - roles[1].gpus) // roles[0].gpus
        allowed = f"use 1 to {most}" if most > 0 else "use more GPUs, or smaller instances (topology.gpus, tensor_parallel)"
        yield (
            f"{field}.prefill={prefill}: no decode instance left: a group has {total} GPUs, {prefill} prefill instances take "
            f"{prefill * roles[0].gpus} of them and a decode instance needs {roles[1].gpus}; {allowed}"
        )
    elif prefill and (rest := (total - prefill * roles[0].gpus) % roles[1].gpus):
        yield f"{field}.prefill={prefill}: leaves {rest} GPUs of each group idle; choose gpus per instance that divide {total}"
    elif prefill:
        yield from _straddling(field, topology, roles, per_node)
    if prefill and not topology.kv.connector:
        yield f"{field}.kv.connector=: empty; use nixl or a connector of vLLM by its class name"
    if not prefill and topology.gpus is not None:
        yield f"{field}.gpus={topology.gpus}: sizes P/D instances, and prefill=0; a plain instance takes its group's {total} GPUs"
    if topology.moves_by_nixl:
        ours, theirs = (role.tensor_parallel for role in roles)
        if max(ours, theirs) % min(ours, theirs):
            yield f"{field}.as_decode.tensor_parallel={theirs}: NIXL joins it to prefill's {ours} only where one divides the other"
    if not topology.router.enabled and (route > 1 or prefill):
        yield f"{field}.router.enabled=false: several instances need a router; only a single plain instance goes without"


def _straddling(field: str, topology: Topology, roles: tuple[RoleShape, ...], per_node: int) -> Iterator[str]:
    """A P/D instance that would begin in the rest of one node and end in the next. Groups all begin alike: one stands for all."""
    at = 0
    for role, count in zip(roles, (topology.prefill, decode_instances(topology, per_node)), strict=True):
        for _ in range(count):
            if at % per_node and at % per_node + role.gpus > per_node:
                yield (
                    f"{_size(field, role, topology)}: an instance of {role.gpus} GPUs would straddle two nodes of {per_node}; "
                    f"choose gpus per instance that divide {per_node}"
                )
                return
            at += role.gpus


def _numbers(field: str, topology: Topology) -> Iterator[str]:
    """Numbers that no topology can have; what follows them divides by them."""
    for name, least in (("nodes", 1), ("route", 1), ("prefill", 0), ("tensor_parallel", 1), ("pipeline_parallel", 1), ("gpus", 1)):
        value = getattr(topology, name)
        if value is not None and value < least:
            yield f"{field}.{name}={value}: must be {least} or more"
    for own in ("as_prefill", "as_decode"):
        for name in ("tensor_parallel", "pipeline_parallel", "gpus"):
            value = getattr(getattr(topology, own), name)
            if value is not None and value < 1:
                yield f"{field}.{own}.{name}={value}: must be 1 or more"


def _extra_args(field: str, topology: Topology) -> Iterator[str]:
    yield from own_flags(f"{field}.extra_args", topology.extra_args, OWN_FLAGS)
    yield from own_flags(f"{field}.as_prefill.extra_args", topology.as_prefill.extra_args, OWN_FLAGS)
    yield from own_flags(f"{field}.as_decode.extra_args", topology.as_decode.extra_args, OWN_FLAGS)
    yield from own_flags(f"{field}.router.extra_args", topology.router.extra_args, OWN_ROUTER_FLAGS)


def _field(field: str, role: RoleShape, topology: Topology, name: str) -> str:
    """The field that a role has a value from: its own where that is set, else the topology's."""
    own = {"prefill": topology.as_prefill, "decode": topology.as_decode}.get(role.role)
    return f"{field}.as_{role.role}.{name}" if own and getattr(own, name) is not None else f"{field}.{name}"


def _degrees(field: str, role: RoleShape, topology: Topology) -> str:
    text = f"{_field(field, role, topology, 'tensor_parallel')}={role.tensor_parallel}"
    return text + (f" × pipeline_parallel={role.pipeline_parallel}" if role.pipeline_parallel > 1 else "")


def _size(field: str, role: RoleShape, topology: Topology) -> str:
    """The field that gives an instance its number of GPUs: `gpus` where it is set, else the degrees."""
    own = {"prefill": topology.as_prefill, "decode": topology.as_decode}.get(role.role)
    given = own and (own.gpus or topology.gpus)
    return f"{_field(field, role, topology, 'gpus')}={given}" if given else _degrees(field, role, topology)


def _role(field: str, role: RoleShape, topology: Topology, total: int, per_node: int) -> Iterator[str]:
    replica = role.replica
    degrees = _degrees(field, role, topology)
    size = _size(field, role, topology)
    if replica > total:
        have = f"a group of {total} GPUs" if topology.route > 1 else f"{topology.nodes} node(s) of {per_node} GPUs, {total} in all"
        yield f"{degrees}: needs {replica} GPUs, more than {have}; use at most {total}"
    elif role.gpus > total:
        yield f"{size}: more than the {total} GPUs of a group; use at most {total}"
    elif role.gpus % replica:
        yield (
            f"{degrees}: an instance of {role.gpus} GPUs cannot be divided into replicas of {replica}; "
            f"use {_list(_divisors(role.gpus))}"
        )
    elif role.gpus > per_node and role.gpus % per_node:
        yield f"{size}: an instance would take a node of {per_node} GPUs only in part; use a multiple of {per_node}"
    elif replica > per_node and role.gpus > replica:
        instead = f"gpus={replica}" if topology.prefill else f"route={topology.nodes * per_node // replica}"
        yield (
            f"{degrees}: a replica is larger than a node of {per_node} GPUs, and data parallel over such replicas is not "
            f"supported; use {instead} to make each replica an instance"
        )
    elif replica < per_node < role.gpus and per_node % replica:
        yield f"{degrees}: replicas would straddle nodes of {per_node} GPUs; use {_list(_divisors(per_node))}"


def _divides(field: str, role: RoleShape, topology: Topology, model: Model, shape: ModelShape | None) -> Iterator[str]:
    """Whether the model can be cut into tensor- and pipeline-parallel parts at all."""
    if shape is None:
        return
    tp, pp, kv_heads = role.tensor_parallel, role.pipeline_parallel, 1 if shape.mla_rank else shape.kv_heads
    fits = [d for d in _divisors(shape.heads) if kv_heads % d == 0 or d % kv_heads == 0]  # KV heads are cut or copied
    if tp not in fits:
        heads = f"{shape.heads} attention heads" + (f" and {kv_heads} KV heads" if shape.heads % tp == 0 else "")
        yield f"{_field(field, role, topology, 'tensor_parallel')}={tp}: {model.name} has {heads}; use {_list(fits)}"
    if pp > shape.layers:
        name = _field(field, role, topology, "pipeline_parallel")
        yield f"{name}={pp}: {model.name} has {shape.layers} layers; use at most that"


def _fit(field: str, role: RoleShape, topology: Topology, config: Config, shape: ModelShape | None) -> Iterator[str]:
    """Whether weights and the KV cache of one request of full length fit a GPU's memory."""
    if shape is None or config.model.dtype not in DTYPE_BYTES:
        return
    model, tp, pp = config.model, role.tensor_parallel, role.pipeline_parallel
    size = DTYPE_BYTES[model.dtype]
    weights = shape.weight_bytes_per_gpu(size, tensor_parallel=tp, pipeline_parallel=pp, data_parallel=role.gpus // role.replica)
    tokens = model.max_model_len or shape.context
    kv = tokens * shape.kv_bytes_per_token_per_gpu(size, tensor_parallel=tp, pipeline_parallel=pp)
    share = float({**config.cluster.engine_args, **model.engine_args}.get("gpu_memory_utilization", 0.9))
    overhead = OVERHEAD_BYTES / GIB
    need, there = weights / GIB + kv / GIB + overhead, config.cluster.gpu_memory_gib * share
    if need > there:
        yield (
            f"{_field(field, role, topology, 'tensor_parallel')}={tp}: {model.name} needs {need:.1f} GiB on each GPU "
            f"(weights {weights / GIB:.1f}, KV cache of one request of {tokens} tokens {kv / GIB:.1f}, "
            f"overhead {overhead}), and {there:.1f} GiB are there "
            f"({config.cluster.gpu} has {config.cluster.gpu_memory_gib:g}, of which gpu_memory_utilization={share:g}); "
            "use a larger tensor_parallel or a smaller model.max_model_len"
        )


def _one_machine(field: str, topology: Topology, config: Config) -> Iterator[str]:
    if config.launcher.kind is LauncherKind.local and topology.nodes > 1 and not config.cluster.one_host:
        yield (
            f"{field}.nodes={topology.nodes}: launcher=local has this machine alone, and cluster={config.cluster.name} means "
            "separate nodes; use cluster=laptop or a cluster with one_host: true"
        )


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _list(values: list[int]) -> str:
    *head, last = map(str, values)
    return f"{', '.join(head)} or {last}" if head else last
