"""From a configuration to the list of everything that is wrong with it: each line names field, value and what is allowed.

Looks at files (a model's config.json, a data set) but starts nothing. What only the engine's environment knows is preflight's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pdslurm import attach_checks, search_checks
from pdslurm.commands import OWN_BENCH_FLAGS, OWN_FLAGS, OWN_ROUTER_FLAGS
from pdslurm.config import Cluster, Config, LauncherKind, Model, Topology, Workload
from pdslurm.errors import ConfigError
from pdslurm.model import DTYPE_BYTES, OVERHEAD_BYTES, ModelShape, read_hf_config, shape_of
from pdslurm.placement import RoleShape, decode_instances, group_gpus, role_shapes
from pdslurm.runtime import findings
from pdslurm.workload_checks import workload_problems

GIB = 2**30
# What `explained` may name: what pdslurm/fairness.py compares by name; other options and variables by their kind and name.
EXPLAINABLE = (
    *("gpus", "model", "dtype", "context", "memory_share", "prefix_cache", "expert_parallel", "tensor_parallel", "api_servers"),
    *("router", "router_hops", "router_policy", "load", "instances", "kv_connector"),
)
MIN_TELEMETRY_S = 0.1


def arms_of(config: Config) -> Mapping[str, Topology]:
    """The topologies to measure by name: `arms`, or the one `topology` under the run's name."""
    return config.arms or {config.name: config.topology}


def model_shape(model: Model) -> ModelShape | None:
    """Sizes from the model's folder, else from `model.hf_config`; None when neither is at hand."""
    found = hf_config(model)
    return shape_of(found) if found else None


def hf_config(model: Model) -> Mapping[str, Any]:
    """The model's config.json. A folder that pdslurm makes itself is made from `model.hf_config`, so that one left from an earlier
    run does not count."""
    return (None if model.make else read_hf_config(model.path)) or model.hf_config


def check(config: Config) -> None:
    """Raises ConfigError with all problems at once."""
    found = list(dict.fromkeys(problems(config)))
    if found:
        raise ConfigError(found)


def problems(config: Config) -> Iterator[str]:
    """Every problem of a configuration, one sentence each."""
    shape = None
    try:
        shape = model_shape(config.model)
    except KeyError as missing:
        yield f"model.hf_config: the key {missing} is missing in the model's config.json; copy it from the model's own"
    except ValueError as bad:
        yield f"model.path={config.model.path}: config.json there is not JSON ({bad})"
    yield from _model(config.model)
    yield from _cluster(config.cluster)
    yield from _workload(config.workload, config.model, shape)
    yield from search_checks.problems(config)
    yield from findings(config.runtime)
    for field, name in {"name": config.name, **{f"arms.{arm}": arm for arm in config.arms}}.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            yield f"{field}={name}: names a folder; use up to 64 letters, digits, '.', '_' and '-'"
    yield from _explained(config)
    placeable: dict[str, Topology] = {}
    for name, topology in arms_of(config).items():
        field = f"arms.{name}" if config.arms else "topology"
        yield from _extra_args(field, topology)
        numbers = list(_numbers(field, topology))
        yield from numbers
        if numbers or config.cluster.gpus_per_node < 1:
            continue
        structural = list(_topology(field, topology, config.cluster))
        yield from structural
        if not structural:
            placeable[name] = topology
        roles = role_shapes(topology, config.cluster.gpus_per_node)
        for role in roles:
            yield from _divides(field, role, topology, config.model, shape)
            if not structural and not config.attach:  # what runs already fits
                yield from _fit(field, role, topology, config, shape)
        yield from _one_machine(field, topology, config)
    if len(placeable) == len(arms_of(config)):
        yield from attach_checks.problems(config, placeable)
    for limit in ("start_s", "point_s", "stop_s", "wall_hours", "gpu_hours"):
        value = getattr(config.limits, limit)
        if value is not None and value <= 0:
            yield f"limits.{limit}={value}: must be above 0"
    if (every := config.telemetry_every_s) is not None and every < MIN_TELEMETRY_S:
        yield f"telemetry_every_s={every:g}: must be {MIN_TELEMETRY_S:g} or more: every look costs the engines time; null: none"


def _explained(config: Config) -> Iterator[str]:
    for name, reason in config.explained.items():
        if name not in EXPLAINABLE and not re.fullmatch(r"(engine|router) -.+|env .+", name):
            allowed = f"{', '.join(EXPLAINABLE)}, or 'engine --OPTION', 'router --OPTION', 'env VARIABLE'"
            yield f"explained.{name}: nothing that arms are compared by; use {allowed}"
        if not reason.strip():
            yield f"explained.{name}: is empty; say why the arms differ in it on purpose, or leave it out"


def _model(model: Model) -> Iterator[str]:
    if model.dtype not in DTYPE_BYTES:
        yield f"model.dtype={model.dtype}: use one of {', '.join(DTYPE_BYTES)}"
    folder = Path(model.path)
    if model.make and not model.hf_config:
        yield "model.make=true: needs model.hf_config, from which the model's folder is made"
    if not model.make and not (folder / "config.json").is_file():
        if folder.is_dir():
            yield f"model.path={model.path}: the folder has no config.json; give a folder of a Hugging Face model"
        elif model.path.startswith(("/", ".", "~")) or model.path.count("/") > 1:
            yield f"model.path={model.path}: no such folder; give a folder with config.json, or a hub's name such as org/model"
    yield from _own_flags("model.engine_args", _as_flags(model.engine_args), OWN_FLAGS)


def _cluster(cluster: Cluster) -> Iterator[str]:
    if cluster.gpus_per_node < 1:
        yield f"cluster.gpus_per_node={cluster.gpus_per_node}: must be 1 or more"
    if cluster.gpu_memory_gib <= 0:
        yield f"cluster.gpu_memory_gib={cluster.gpu_memory_gib}: must be above 0"
    yield from _ports(cluster)
    for backend in cluster.kv_backends:
        if backend not in ("UCX", "LIBFABRIC"):
            yield f"cluster.kv_backends={backend}: use UCX or LIBFABRIC"
    yield from _own_flags("cluster.engine_args", _as_flags(cluster.engine_args), OWN_FLAGS)


def _ports(cluster: Cluster) -> Iterator[str]:
    ranges = {"http": cluster.ports.http, "internal": cluster.ports.internal}
    for name, r in ranges.items():
        if not 1024 <= r.first <= r.last <= 65535:
            yield f"cluster.ports.{name}={r.first}-{r.last}: first must not be above last, both within 1024-65535"
        elif r.first <= 60999 and r.last >= 32768:
            yield (
                f"cluster.ports.{name}={r.first}-{r.last}: overlaps 32768-60999, from which Linux gives ports to outgoing "
                "connections; use a range below 32768"
            )
    http, internal = ranges.values()
    if http.first <= internal.last and internal.first <= http.last:
        yield (
            f"cluster.ports.http={http.first}-{http.last}: overlaps cluster.ports.internal={internal.first}-{internal.last}; "
            "use ranges apart from each other"
        )


def _workload(workload: Workload, model: Model, shape: ModelShape | None) -> Iterator[str]:
    yield from _own_flags("workload.extra_args", workload.extra_args, OWN_BENCH_FLAGS)
    context = model.max_model_len or (shape.context if shape else None)
    if shape and model.max_model_len and model.max_model_len > shape.context:
        yield f"model.max_model_len={model.max_model_len}: {model.name} has a context of {shape.context} tokens; use at most that"
    yield from workload_problems(workload, context)


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
    yield from _own_flags(f"{field}.extra_args", topology.extra_args, OWN_FLAGS)
    yield from _own_flags(f"{field}.as_prefill.extra_args", topology.as_prefill.extra_args, OWN_FLAGS)
    yield from _own_flags(f"{field}.as_decode.extra_args", topology.as_decode.extra_args, OWN_FLAGS)
    yield from _own_flags(f"{field}.router.extra_args", topology.router.extra_args, OWN_ROUTER_FLAGS)


def _own_flags(field: str, args: Iterable[str], own: Mapping[str, str]) -> Iterator[str]:
    for arg in args:
        flag = arg.split("=")[0]
        known = flag.replace("_", "-").replace("--no-", "--", 1)  # vLLM takes all these spellings
        if known in own:
            yield f"{field}={arg}: pdslurm sets {flag} itself; use the configuration's {own[known]}"


def _as_flags(engine_args: Mapping[str, object]) -> list[str]:
    return [f"--{name}" for name in engine_args]


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
