"""From a topology to all ways to divide its instances between prefill and decode. Pure."""

from __future__ import annotations

from dataclasses import replace

from pdslurm.config import Config, Topology
from pdslurm.errors import ConfigError
from pdslurm.plan.placement import role_shapes


def with_splits(config: Config) -> Config:
    """The configuration with the arms that `splits` asks for. Raises ConfigError."""
    if not config.splits:
        return config
    if config.arms:
        raise ConfigError(["splits=true: makes arms of topology, and there are arms already; choose one of the two"])
    return replace(config, arms=split_topologies(config.topology, config.cluster.gpus_per_node))


def split_topologies(topology: Topology, gpus_per_node: int) -> dict[str, Topology]:
    """route_N and pd_1pMd … pd_Mp1d for the N instances that `topology` has room for, by name; each is `topology` but for route and
    prefill. Raises ConfigError where there is no room for two, or prefill and decode instances differ in size."""
    prefill, decode = role_shapes(replace(topology, route=1, prefill=1), gpus_per_node)
    total = topology.nodes * gpus_per_node
    count = total // prefill.gpus
    if prefill.gpus != decode.gpus:
        raise ConfigError(
            [f"splits=true: prefill instances of {prefill.gpus} GPUs and decode instances of {decode.gpus}; name the arms"]
        )
    if count < 2 or total % prefill.gpus:
        instances = f"{total} GPUs in instances of {prefill.gpus}"
        raise ConfigError(
            [f"splits=true: topology has {instances}; give it nodes, or smaller instances, for two or more whole ones"]
        )
    plain = {f"route_{count}": replace(topology, route=count, prefill=0, gpus=None)}
    return plain | {f"pd_{p}p{count - p}d": replace(topology, route=1, prefill=p) for p in range(1, count)}
