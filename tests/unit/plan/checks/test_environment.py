"""cluster.env and runtime.env: for each variable that pdslurm sets itself the sentence that a user reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pdslurm.config import Config, Device, RuntimeKind
from pdslurm.plan.checks.configuration import problems
from pdslurm.plan.outline import make_outline

MakeConfig = Callable[..., Config]
OWN = "pdslurm sets it for each instance itself, from"
NIXL = {"topology.prefill": 3}


@pytest.mark.parametrize("field", ["cluster.env", "runtime.env"])
@pytest.mark.parametrize(
    ("name", "value", "changes", "source"),
    [
        ("VLLM_HOST_IP", "10.0.0.1", {}, "cluster.network"),
        ("TMPDIR", "/scratch", {}, "the TMPDIR that it runs with, such as one exported in cluster.slurm.setup"),
        ("CUDA_VISIBLE_DEVICES", "0,1", {}, "the GPUs that its place in the topology has"),
        ("VLLM_NIXL_SIDE_CHANNEL_HOST", "10.0.0.1", NIXL, "cluster.network"),
        ("VLLM_NIXL_SIDE_CHANNEL_PORT", "5600", NIXL, "cluster.ports.internal"),
    ],
)
def test_a_variable_that_pdslurm_sets(
    make_config: MakeConfig, field: str, name: str, value: str, changes: dict[str, Any], source: str
) -> None:
    found = list(problems(make_config({**changes, field: {name: value}})))
    assert found == [f"{field}.{name}={value}: {OWN} {source}; leave it out"]


@pytest.mark.parametrize(
    ("env", "changes"),
    [
        pytest.param({"UCX_TLS": "rc,cuda_copy", "NCCL_DEBUG": "INFO"}, NIXL, id="any other variable"),
        pytest.param({"CUDA_VISIBLE_DEVICES": ""}, {"cluster.device": Device.cpu}, id="no GPU for engines on the CPU"),
        pytest.param(
            {"TMPDIR": "/scratch"}, {"runtime.kind": RuntimeKind.docker, "runtime.image": "vllm:1"}, id="a container's own"
        ),
        pytest.param({"VLLM_NIXL_SIDE_CHANNEL_PORT": "5600"}, {}, id="no arm moves KV by NIXL"),
    ],
)
def test_what_is_left_alone_reaches_every_engine(make_config: MakeConfig, env: dict[str, str], changes: dict[str, Any]) -> None:
    config = make_config({**changes, "cluster.env": env})
    assert list(problems(config)) == []
    engines = [e for s in make_outline(config).deployment.sets for e in s.engines]
    assert engines
    assert all(engine.env.items() >= env.items() for engine in engines)
