"""What a point's checks compare with, out of the configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pdslurm.config import Config, Device, RampUp, Transport
from pdslurm.measure.meter import demand_of, transfers_due
from pdslurm.plan.deployment import BoundArm
from pdslurm.plan.plan import Arm
from pdslurm.plan.points import points_of
from pdslurm.plan.tasks import Task

MakeConfig = Callable[..., Config]


def the_task(config: Config) -> Task:
    """Of one point and one arm, without the checks of the whole configuration."""
    arm = BoundArm(Arm("test", config.topology, ("both",)), {}, (), "http://127.0.0.1:8000")
    (point,) = points_of(config.workload, 0)
    return Task(arm, point, "0123456789abcdef", ())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, {"num_prompts": 10, "output_len": 32, "nixl": False, "prefix_hit_rate": 0.0, "gpus": True,
                     "even": True},
                     id="a plain arm"),
        pytest.param({"workload.dataset": "sharegpt", "workload.prefix_caching": True}, {"prefix_hit_rate": None},
                     id="prompts that share who knows what"),
        pytest.param({"workload.dataset": "trace"}, {"even": False}, id="a trace"),
        pytest.param({"workload.ramp_up": RampUp(1, 4), "workload.duration_s": 10.0}, {"even": False}, id="a ramp"),
        pytest.param({"cluster.device": Device.cpu}, {"gpus": False}, id="a CPU"),
        pytest.param({"topology.prefill": 1, "cluster.network.transport": Transport.efa}, {"nixl": True, "transport": "efa"},
                     id="P/D"),
        pytest.param({"topology.router.policy": "power_of_two", "topology.router.decode_policy": "round_robin"},
                     {"policies": {"both": "power_of_two", "prefill": "power_of_two", "decode": "round_robin"}},
                     id="policies by role"),
    ],
)  # fmt: skip
def test_demand(make_config: MakeConfig, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    config = make_config(changes)
    found = vars(demand_of(config, the_task(config), {}, {}))
    assert {name: found[name] for name in expected} == expected


def test_the_kv_size_is_the_decode_instances(make_config: MakeConfig) -> None:
    config = make_config({"topology.prefill": 1})
    engines = {"engine0": {"role": "prefill", "cache_dtype": "fp8"}, "engine1": {"role": "decode", "cache_dtype": "auto"}}
    found = demand_of(config, the_task(config), {}, engines)
    assert (found.kv_ranks, found.kv_bytes_per_token, found.kv_unknown) == (8, 8 * 27 * 576 * 2, "")


def test_the_kv_size_of_a_dtype_that_is_not_known(make_config: MakeConfig) -> None:
    config = make_config({"topology.prefill": 1})
    found = demand_of(config, the_task(config), {}, {"engine1": {"role": "decode", "cache_dtype": "fp8_ds_mla"}})
    assert (found.kv_bytes_per_token, found.kv_unknown) == (None, "the cache's dtype fp8_ds_mla is unknown")


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({"topology.tensor_parallel": 1}, 10),
        ({"topology.tensor_parallel": 8}, 80),
        ({"topology.tensor_parallel": 2, "topology.pipeline_parallel": 2}, 40),
        ({"topology.tensor_parallel": 8, "topology.as_decode.tensor_parallel": 2}, 20),
    ],
)
def test_every_rank_of_a_decode_instance_makes_a_transfer(make_config: MakeConfig, changes: dict[str, Any], due: int) -> None:
    config = make_config({"topology.prefill": 1, **changes})
    assert transfers_due(config, config.topology, 10) == due
