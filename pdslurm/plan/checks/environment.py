"""From cluster.env and runtime.env to the variables in them that pdslurm sets for each instance itself: one sentence each. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pdslurm.config import Config, Device, RuntimeKind, arms_of


def problems(config: Config) -> Iterator[str]:
    """Every variable whose value would be lost, for pdslurm/plan/commands.py gives each instance another."""
    own = own_variables(config)
    for field, env in (("cluster.env", config.cluster.env), ("runtime.env", config.runtime.env)):
        for name, value in env.items():
            if name in own:
                yield f"{field}.{name}={value}: pdslurm sets it for each instance itself, from {own[name]}; leave it out"


def own_variables(config: Config) -> dict[str, str]:
    """Each variable that engines of this configuration get from pdslurm, and what decides it."""
    own = {"VLLM_HOST_IP": "cluster.network"}
    if config.runtime.kind is RuntimeKind.bare:
        own["TMPDIR"] = "the TMPDIR that it runs with, such as one exported in cluster.slurm.setup"
    if config.cluster.device is Device.cuda:
        own["CUDA_VISIBLE_DEVICES"] = "the GPUs that its place in the topology has"
    if any(topology.moves_by_nixl for topology in arms_of(config).values()):
        own |= {"VLLM_NIXL_SIDE_CHANNEL_HOST": "cluster.network", "VLLM_NIXL_SIDE_CHANNEL_PORT": "cluster.ports.internal"}
    return own
