"""From a plan, the nodes' addresses and the ports that are taken to every process with its command line. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pdslurm.config import Config, PortRange
from pdslurm.errors import ConfigError
from pdslurm.plan import commands
from pdslurm.plan.placement import Instance
from pdslurm.plan.plan import Arm, InstanceSet, Plan
from pdslurm.plan.points import Point

LOOPBACK = "127.0.0.1"
CLIENT_SCRIPT = Path(__file__).parents[1] / "bench" / "client.py"


@dataclass(frozen=True)
class Host:
    """A node as others reach it. `interface` is None where none has to be chosen: on one machine."""

    name: str
    address: str
    interface: str | None = None


@dataclass(frozen=True)
class Process:
    """One process: what, where, how. `url` is None for what serves no HTTP (headless parts, the client)."""

    name: str
    kind: str  # engine, router or client
    role: str  # both, prefill, decode; router; client
    group: int | None
    node: int
    host: str
    gpus: tuple[int, ...]
    port: int | None
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    metrics_url: str | None = None
    direct: tuple[str, ...] = ()  # names and addresses that it reaches without a proxy; no part of a plan or of a key

    @property
    def url(self) -> str | None:
        return None if self.port is None else f"http://{self.host}:{self.port}"


@dataclass(frozen=True)
class BoundArm:
    """An arm with its routers (front router last) and the URL that the client talks to."""

    arm: Arm
    engine_roles: Mapping[str, str]  # name of each HTTP engine → its role in this arm
    routers: tuple[Process, ...]
    base_url: str


@dataclass(frozen=True)
class BoundSet:
    """An instance set with its engines' processes."""

    set: InstanceSet
    engines: tuple[Process, ...]
    arms: tuple[BoundArm, ...]


@dataclass(frozen=True)
class Deployment:
    """Every process of a plan on real hosts."""

    plan: Plan
    sets: tuple[BoundSet, ...]
    client: Process

    @property
    def arms(self) -> tuple[BoundArm, ...]:
        """The arms of all sets, in their order."""
        return tuple(arm for bound in self.sets for arm in bound.arms)

    def bench_args(self, arm: BoundArm, point: Point) -> tuple[str, ...]:
        """The arguments of `vllm bench serve` for a point of an arm, computed once."""
        if (arm.base_url, point) not in self._bench_args:
            self._bench_args[arm.base_url, point] = commands.bench_args(self.plan.config, point, arm.base_url)
        return self._bench_args[arm.base_url, point]

    @cached_property
    def _bench_args(self) -> dict[tuple[str, Point], tuple[str, ...]]:
        return {}


class _Ports:
    """Hands out ports of one range, lowest first, per node; ports in `taken` are passed over."""

    def __init__(self, name: str, allowed: PortRange, taken: AbstractSet[tuple[str, int]]) -> None:
        self.name, self.allowed, self.taken = name, allowed, taken
        self.next: dict[str, int] = {}

    def take(self, host: str, count: int = 1) -> int:
        """The first of `count` consecutive free ports on `host`."""
        at = self.next.get(host, self.allowed.first)
        while clash := [p for p in range(at, at + count) if (host, p) in self.taken]:
            at = clash[-1] + 1
        if at + count - 1 > self.allowed.last:
            text = f"{self.allowed.first}-{self.allowed.last}"
            raise ConfigError([f"cluster.ports.{self.name}={text}: too few free ports on {host} for this plan; widen the range"])
        self.next[host] = at + count
        return at


def node_names(plan: Plan) -> tuple[Host, ...]:
    """Names that stand for addresses while no host is known; one machine is always 127.0.0.1."""
    if plan.config.cluster.one_host:
        return (Host("localhost", LOOPBACK),) * plan.nodes
    return tuple(Host(f"node{n}", f"node{n}") for n in range(plan.nodes))


def bind(plan: Plan, hosts: Sequence[Host] = (), taken: AbstractSet[tuple[str, int]] = frozenset()) -> Deployment:
    """Hosts by node, in order; `taken` are (address, port) pairs in use. Raises ConfigError when a range is too small."""
    hosts = hosts or node_names(plan)
    taken = taken | {(hosts[0].address, port) for address, port in taken if address == LOOPBACK}  # the routers' node
    sets = tuple(_bind_set(plan.config, s, hosts, taken) for s in plan.sets)
    return Deployment(plan, sets, client_of(plan.config, hosts[0].address, direct_hosts(hosts)))


def direct_hosts(hosts: Sequence[Host]) -> tuple[str, ...]:
    """What no process of a run may ask a proxy for: every node, by name and by address."""
    return tuple(dict.fromkeys(name for host in hosts for name in (host.address, host.name)))


def client_of(config: Config, address: str, direct: tuple[str, ...] = ()) -> Process:
    """The benchmark client, on the routers' node."""
    argv, env = (*config.runtime.python, str(CLIENT_SCRIPT)), {**config.cluster.env, **config.runtime.env}
    return Process("client", "client", "client", None, 0, address, (), None, argv, env, direct=direct)


def _bind_set(config: Config, instances: InstanceSet, hosts: Sequence[Host], taken: AbstractSet[tuple[str, int]]) -> BoundSet:
    http = _Ports("http", config.cluster.ports.http, taken)
    internal = _Ports("internal", config.cluster.ports.internal, taken)
    topology = instances.arms[0].topology
    engines: list[Process] = []
    for number, instance in enumerate(instances.instances):
        engines += _engines(config, instances, number, instance, hosts, http, internal)
    heads = [e for e in engines if e.port is not None]
    direct = direct_hosts(hosts)
    router_host = hosts[0].address if config.cluster.network.open_router else LOOPBACK
    router_ports = [http.take(hosts[0].address) for _ in range(2 * (topology.route + 1) if topology.prefill else 2)]
    arms = tuple(_bind_arm(config, arm, instances, heads, router_host, router_ports, direct) for arm in instances.arms)
    return BoundSet(instances, tuple(engines), arms)


def _engines(
    config: Config, instances: InstanceSet, number: int, instance: Instance, hosts: Sequence[Host], http: _Ports, internal: _Ports
) -> Iterator[Process]:
    topology = instances.arms[0].topology
    roles = {arm.roles[number] for arm in instances.arms}
    role = roles.pop() if len(roles) == 1 else "any"
    head = hosts[instance.parts[0].node].address
    port = http.take(head)
    rendezvous = internal.take(head) if len(instance.parts) > 1 else 0
    for n, part in enumerate(instance.parts):
        host, interface = hosts[part.node].address, hosts[part.node].interface
        # vLLM adds a rank's data-parallel index to the side channel's port
        side_channel = internal.take(host, instance.data_parallel) if topology.prefill else 0
        yield Process(
            name=f"engine{number}" + (f"-part{n}" if n else ""),
            kind="engine",
            role=role,
            group=instance.group,
            node=part.node,
            host=host,
            gpus=part.gpus,
            port=port if n == 0 else None,
            argv=commands.engine_argv(config, topology, instance, n, host=host, head=head, port=port, rendezvous=rendezvous),
            env=commands.engine_variables(config, topology, instance, n, host=host, interface=interface, side_channel=side_channel),
            metrics_url=f"http://{host}:{port}/metrics" if n == 0 else None,
            direct=direct_hosts(hosts),
        )


def _bind_arm(
    config: Config,
    arm: Arm,
    instances: InstanceSet,
    heads: Sequence[Process],
    host: str,
    ports: Sequence[int],
    direct: tuple[str, ...],
) -> BoundArm:
    urls = {n: str(head.url) for n, head in enumerate(heads)}
    roles = {head.name: role for head, role in zip(heads, arm.roles, strict=True)}
    topology, free = arm.topology, iter(ports)

    def router(name: str, group: int | None, **workers: Sequence[str]) -> Process:
        port, metrics = next(free), next(free)
        argv = commands.router_argv(config, topology.router, host=host, port=port, metrics_port=metrics, **workers)
        env = {**config.cluster.env, **config.runtime.env}
        return Process(name, "router", "router", group, 0, host, (), port, argv, env, f"http://{host}:{metrics}/metrics", direct)

    if not topology.router.enabled:
        return BoundArm(arm, roles, (), urls[0])
    if not topology.prefill:
        front = router("router", None, workers=list(urls.values()))
        return BoundArm(arm, roles, (front,), str(front.url))
    routers = []
    for group in range(topology.route):
        by_role: dict[str, list[str]] = {"prefill": [], "decode": []}
        for n, instance in enumerate(instances.instances):
            if instance.group == group:
                by_role[arm.roles[n]].append(urls[n])
        name = "router" if topology.route == 1 else f"router-g{group}"
        routers.append(router(name, group, prefill=by_role["prefill"], decode=by_role["decode"]))
    if topology.route > 1:
        routers.append(router("router", None, workers=[str(r.url) for r in routers]))
    return BoundArm(arm, roles, tuple(routers), str(routers[-1].url))
