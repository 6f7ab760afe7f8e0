"""From a deployment to what its arms have in common and where they differ: what a topology forces, and what it does not. Pure.

Read from the final command lines and environments, for they are what runs. Of each thing every arm has a value in words; equal
words mean the same. A difference that is not forced is named with the reason why it matters, whoever chose it: the choice can be
right, but the comparison is then about it too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pdslurm.config import Config
from pdslurm.plan.commands import OWN_FLAGS, OWN_ROUTER_FLAGS, TRANSPORT_LOGGING
from pdslurm.plan.deployment import BoundArm, BoundSet, Deployment, Process
from pdslurm.plan.model import model_shape
from pdslurm.plan.placement import Instance
from pdslurm.records.command_line import options
from pdslurm.records.measurement import content_key

SAME, FORCED, DIFFERS = "same", "forced", "differs"
WHY = {
    "gpus": "an arm with more GPUs has more capacity: compare per GPU, or give every arm as many",
    "model": "other weights are another task",
    "dtype": "a smaller type moves fewer bytes and computes faster",
    "context": "a longer context reserves other buffers and changes what is admitted at once",
    "memory_share": "more memory for KV cache is more requests in flight and fewer preemptions",
    "prefix_cache": "one arm computes prompts that another finds in its cache",
    "expert_parallel": "a mixture of experts under data parallel without expert parallel cuts every expert over all ranks, which "
    "then step together, idle ones with dummy passes: the arm pays for a setting that is not its topology",
    "tensor_parallel": "another TP is another latency of one step; the instances are large enough for the same",
    "api_servers": "tokenising and streaming take CPU: fewer API servers for as many GPUs are a bottleneck sooner",
    "router": "a proxy costs every request a hop and a parser of its stream; arms without it do not pay that",
    "router_hops": "P/D in several groups needs a router in front of the groups' routers",
    "router_policy": "a policy spreads load well or badly by itself: consistent_hash can send most requests to one worker",
    "load": "other prompts, lengths, rates or seeds: the arms did not do the same work, and cannot be compared",
    "instances": "what the topology is",
    "kv_connector": "arms that move KV in different ways compare the ways too",
}
FORCED_WHY = {
    "instances": WHY["instances"],
    "router_hops": WHY["router_hops"],
    "kv_connector": "arms that disaggregate have to move KV; the others do not carry a connector's cost",
    "tensor_parallel": "the smaller instances have too few GPUs for the larger TP",
    "router_policy": "an arm without a router has none",
}
OPTION = "an option of {} that only some arms have, or with another value"
VARIABLE = "a variable of the engines' environment that only some arms have, or with another value"
# What a topology, a node or a port decides; what has a name in WHY is compared there.
FORCED_FLAGS = frozenset({*OWN_FLAGS, "--distributed-executor-backend"})
NAMED_FLAGS = frozenset({"--gpu-memory-utilization", "--enable-prefix-caching", "--api-server-count"})
FORCED_ENV = frozenset(
    {"CUDA_VISIBLE_DEVICES", "VLLM_HOST_IP", "VLLM_NIXL_SIDE_CHANNEL_HOST", "VLLM_NIXL_SIDE_CHANNEL_PORT", *TRANSPORT_LOGGING}
    | {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME", "UCX_NET_DEVICES"}
)
CPU_MEMORY = "VLLM_CPU_KVCACHE_SPACE"  # GiB of KV cache: the CPU's memory share
DEFAULT = "the engine's default"
KNOWN_ATTACHED = ("gpus", "load", "instances", "tensor_parallel")  # what is known of engines that somebody else started


@dataclass(frozen=True)
class Compared:
    """One thing that was compared: a name, what each arm has, and whether that is the same, forced or a difference."""

    field: str
    verdict: str
    values: Mapping[str, str]
    why: str = ""  # of a difference: what it does to the comparison
    explained: str | None = None  # the configuration's own word on it


@dataclass(frozen=True)
class ArmFacts:
    """What really runs in one arm. `engines` has each process with its role, parts too."""

    bound: BoundArm
    set: BoundSet
    engines: tuple[tuple[str, Process], ...]
    config: Config

    @property
    def instances(self) -> tuple[tuple[str, Instance], ...]:
        return tuple(zip(self.bound.arm.roles, self.set.set.instances, strict=True))

    def of_engines(self, value: Callable[[Process], str]) -> str:
        """`value` of every engine process in words: once when all agree, else by role."""
        return by_role([(role, value(engine)) for role, engine in self.engines])


def compare(deployment: Deployment) -> tuple[Compared, ...]:
    """Everything that is compared, named things first. One arm is the same as itself; its values tell it from other runs. Arms are
    compared as they are configured: what `tune` changes in them differs on purpose, and their trials name it."""
    arms = {b.arm.name: _facts(deployment, s, b) for s in deployment.sets for b in s.arms if not b.arm.setting}
    explained = deployment.plan.config.explained
    return tuple(_judged(field, values, arms, explained) for field, values in _values(deployment, arms) if values)


def differences(compared: Sequence[Compared]) -> tuple[Compared, ...]:
    """Those that no topology forces: the findings."""
    return tuple(c for c in compared if c.verdict == DIFFERS)


def stale(deployment: Deployment, compared: Sequence[Compared]) -> tuple[str, ...]:
    """What the configuration explains though no arms differ in it. What engines resolve is not known before they run."""
    found = {c.field for c in differences(compared)}
    return tuple(f for f in deployment.plan.config.explained if f not in found and not f.startswith("resolved "))


def as_json(compared: Sequence[Compared]) -> dict[str, Any]:
    """`differs` and `forced` with each arm's value, `same` with the one value: for the plan and for fairness.json."""
    return {
        "differs": [
            {"field": c.field, "values": dict(c.values), "why": c.why, "explained": c.explained} for c in differences(compared)
        ],
        "forced": [{"field": c.field, "values": dict(c.values), "why": c.why} for c in compared if c.verdict == FORCED],
        "same": {c.field: next(iter(c.values.values())) for c in compared if c.verdict == SAME},
    }


def lines(compared: Sequence[Compared], stale_names: Sequence[str] = ()) -> Iterator[str]:
    """The findings for a person; nothing where there is one arm."""
    if max(len(c.values) for c in compared) < 2:
        return
    found = differences(compared)
    count = f"{len(found)} difference{'' if len(found) == 1 else 's'}" if found else "no difference"
    yield f"fairness: {count} between the arms that their topologies do not force"
    for c in found:
        yield f"  {c.field}: {values_text(c.values)}"
        yield f"      explained: {c.explained}" if c.explained else f"      UNEXPLAINED: {c.why}"
    for field in stale_names:
        yield f"  explained.{field}: the arms do not differ in it; leave it out"


def values_text(values: Mapping[str, str]) -> str:
    """`round_robin (dp, route_2); consistent_hash (pd_1p3d)`."""
    by_value: dict[str, list[str]] = {}
    for arm, value in values.items():
        by_value.setdefault(value, []).append(arm)
    return "; ".join(f"{value} ({', '.join(arms)})" for value, arms in by_value.items())


def effective_options(argv: Sequence[str]) -> dict[str, str]:
    """The options of a command line by their long names, `--no-x` as `--x` with the value off, a flag alone as on; a later one
    wins, as argparse has it. What stands before the first option (program, model) is not among them."""
    found: dict[str, str] = {}
    for option in options(argv):
        name, off = option.name.replace("_", "-"), option.name.startswith("--no-")
        name = "--" + name.removeprefix("--no-") if off else name
        found[name] = " ".join(option.values) if option.values else "off" if off else "on"
    found.pop("", None)
    return found


# --- what each arm has


def _facts(deployment: Deployment, bound: BoundSet, arm: BoundArm) -> ArmFacts:
    engines = tuple((arm.engine_roles[engine.name.partition("-part")[0]], engine) for engine in bound.engines)
    return ArmFacts(arm, bound, engines, deployment.plan.config)


def _values(deployment: Deployment, arms: Mapping[str, ArmFacts]) -> Iterator[tuple[str, dict[str, str]]]:
    shape = model_shape(deployment.plan.config.model)
    named: dict[str, Callable[[ArmFacts], str]] = {
        "gpus": lambda a: str(sum(instance.gpu_count for _, instance in a.instances)),
        "model": lambda a: a.of_engines(_model),
        "dtype": lambda a: a.of_engines(lambda e: _options(e).get("--dtype", DEFAULT)),
        "context": lambda a: a.of_engines(lambda e: _options(e).get("--max-model-len", "the model's own")),
        "memory_share": lambda a: a.of_engines(_memory),
        "prefix_cache": lambda a: a.of_engines(lambda e: _options(e).get("--enable-prefix-caching", DEFAULT)),
        "expert_parallel": lambda a: a.of_engines(_experts) if shape is None or shape.experts else "the model has no experts",
        "tensor_parallel": lambda a: by_role([(role, _parallel(instance)) for role, instance in a.instances]),
        "api_servers": lambda a: by_role([(r, _api_servers(e)) for r, e in a.engines if e.port is not None]),
        "router": lambda a: "vllm-router" if a.bound.routers else "none",
        "router_policy": lambda a: _policy(a.bound.routers),
        "load": lambda a: _load(deployment, a.bound),
        "instances": lambda a: _counted(a.bound.arm.roles),
        "kv_connector": lambda a: a.of_engines(_connector),
    }
    attached = any(not engine.argv for arm in arms.values() for _, engine in arm.engines)
    for field, value in named.items():
        if not attached or field in KNOWN_ATTACHED:
            yield field, {name: value(arm) for name, arm in arms.items()}
    if attached:
        return
    yield "router_hops", {name: str(min(len(a.bound.routers), 2)) for name, a in arms.items() if a.bound.routers}
    yield from _rest("engine", arms, _engine_options, {name: [e for _, e in a.engines] for name, a in arms.items()})
    yield from _rest("env", arms, _variables, {name: [e for _, e in a.engines] for name, a in arms.items()})
    yield from _rest("router", arms, _router_options, {name: list(a.bound.routers) for name, a in arms.items() if a.bound.routers})


def _rest(
    what: str,
    arms: Mapping[str, ArmFacts],
    read: Callable[[Process], Mapping[str, str]],
    processes: Mapping[str, Sequence[Process]],
) -> Iterator[tuple[str, dict[str, str]]]:
    """Every other option or variable that some process has."""
    names = dict.fromkeys(name for some in processes.values() for process in some for name in read(process))
    for name in sorted(names):
        values = {}
        for arm, some in processes.items():
            roles = {id(engine): role for role, engine in arms[arm].engines}
            values[arm] = by_role([(roles.get(id(p), p.name), read(p).get(name, "not given")) for p in some])
        yield f"{what} {name}", values


@cache
def _parsed(argv: tuple[str, ...]) -> Mapping[str, str]:
    return effective_options(argv)


def _options(process: Process) -> Mapping[str, str]:
    return _parsed(process.argv)


def _engine_options(process: Process) -> dict[str, str]:
    return {k: v for k, v in _options(process).items() if k not in FORCED_FLAGS | NAMED_FLAGS and "--kv-transfer" not in k}


def _router_options(process: Process) -> dict[str, str]:
    return {k: v for k, v in _options(process).items() if k not in OWN_ROUTER_FLAGS}


def _variables(process: Process) -> dict[str, str]:
    return {k: v for k, v in process.env.items() if k not in FORCED_ENV and k != CPU_MEMORY}


def _model(engine: Process) -> str:
    return engine.argv[engine.argv.index("serve") + 1]


def _memory(engine: Process) -> str:
    share = _options(engine).get("--gpu-memory-utilization")
    return share or (f"{engine.env[CPU_MEMORY]} GiB of KV cache" if CPU_MEMORY in engine.env else DEFAULT)


def _experts(engine: Process) -> str:
    """vLLM without --enable-expert-parallel shards experts over DP×TP."""
    found = _options(engine)
    if "--enable-expert-parallel" in found:
        return "on"
    ranks = int(found.get("--data-parallel-size", "1"))
    return "off" if ranks == 1 else f"off under DP={ranks}"


def _parallel(instance: Instance) -> str:
    tp, pp = instance.tensor_parallel, instance.pipeline_parallel
    return str(tp) if pp == 1 else f"{tp} with PP={pp}"


def _api_servers(engine: Process) -> str:
    """For a model replica: vLLM starts one for each data-parallel rank unless told (0.32, vllm/entrypoints/cli/serve.py)."""
    found = _options(engine)
    ranks = int(found.get("--data-parallel-size", "1"))
    return f"{int(found.get('--api-server-count', ranks)) / ranks:g} for each model replica"


def _policy(routers: Sequence[Process]) -> str:
    """What decides on a worker, by whom it is chosen among."""
    said: list[tuple[str, str]] = []
    for router in routers:
        found = _options(router)
        policy = found.get("--policy", "the router's default")
        if "--vllm-pd-disaggregation" in found:
            said += [(role, found.get(f"--{role}-policy", policy)) for role in ("prefill", "decode")]
        else:
            said.append(("groups", policy))
    return by_role(said) if said else "no router"


def _load(deployment: Deployment, arm: BoundArm) -> str:
    """The points' benchmark commands, seeds among them, whatever their order and the arm's address: a number and a hash."""
    plan = deployment.plan
    points = sorted(" ".join(w for w in deployment.bench_args(arm, p) if w != arm.base_url) for p in plan.points)
    return f"{len(points)} points, {content_key(points)}"


def _counted(roles: Sequence[str]) -> str:
    return ", ".join(f"{roles.count(role)} {role}" for role in dict.fromkeys(roles))


def _connector(engine: Process) -> str:
    """Without the role of one instance, which the arm's topology decides."""
    found = _options(engine).get("--kv-transfer-config")
    if found is None:
        return "none"
    value = json.loads(found)
    value["kv_role"] = "any" if value.get("kv_role") == "kv_both" else "by role"
    return json.dumps(value)


def by_role(said: Sequence[tuple[str, str]]) -> str:
    """`a` where all say a, else `prefill: a, decode: b`."""
    if len({value for _, value in said}) == 1:
        return said[0][1]
    by_role: dict[str, list[str]] = {}
    for role, value in said:
        by_role.setdefault(role, []).append(value)
    return ", ".join(f"{role}: {' or '.join(dict.fromkeys(values))}" for role, values in by_role.items())


# --- what a difference is


def _judged(field: str, values: dict[str, str], arms: Mapping[str, ArmFacts], explained: Mapping[str, str]) -> Compared:
    if len(set(values.values())) == 1:
        return Compared(field, SAME, values)
    if _is_forced(field, values, arms):
        return Compared(field, FORCED, values, FORCED_WHY[field])
    kind = field.partition(" ")[0]
    why = WHY.get(field) or (VARIABLE if kind == "env" else OPTION.format("the engines" if kind == "engine" else "the router"))
    return Compared(field, DIFFERS, values, why, explained.get(field))


def _is_forced(field: str, values: Mapping[str, str], arms: Mapping[str, ArmFacts]) -> bool:
    if field in ("instances", "router_hops"):
        return True
    if field == "kv_connector":
        return len({value for value in values.values() if value != "none"}) == 1
    if field == "router_policy":
        return len({value for name, value in values.items() if arms[name].bound.routers}) == 1
    return field == "tensor_parallel" and _too_small(arms)


def _too_small(arms: Mapping[str, ArmFacts]) -> bool:
    """Whether every instance whose replica is smaller than the largest has too few GPUs for that one."""
    sizes = [(i.tensor_parallel * i.pipeline_parallel, i.gpu_count) for arm in arms.values() for _, i in arm.instances]
    largest = max(replica for replica, _ in sizes)
    return all(replica == largest or gpus < largest for replica, gpus in sizes)
