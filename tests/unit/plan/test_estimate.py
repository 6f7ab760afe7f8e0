"""Earlier runs in, a plan's estimate out; and estimates against what published runs took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pdslurm import config as c
from pdslurm.plan.estimate import BESIDE_S, Estimator, arm_shape
from pdslurm.plan.outline import make_outline
from pdslurm.plan.plan import build_plan
from pdslurm.plan.render import opening
from pdslurm.records.earlier_runs import NO_RUNS, ArmShape, EarlierRuns, LoadSeen, PointTime, earlier_runs
from pdslurm.records.gpu_time import loads_of, set_times
from pdslurm.records.run_folder import RunFolder

MakeConfig = Callable[..., c.Config]
RESULTS = Path(__file__).parents[3] / "results"
ONE = ArmShape(("both",), 8.0)
SEEN = PointTime(ONE, 128, 32, None, None, 10, None, "random", 7.0)


def earlier(*loads_s: float, points: tuple[PointTime, ...] = (), beside_s: tuple[float, ...] = ()) -> EarlierRuns:
    return EarlierRuns(("runs/x",), tuple(LoadSeen(ONE, s) for s in loads_s), points, beside_s)


def changes(**more: Any) -> dict[str, Any]:
    return {"topology.nodes": 1, "topology.tensor_parallel": 8, "workload.num_prompts": 10, "workload.warmup_prompts": 0,
            "workload.sweeps": {"s": c.Sweep([128], [32])}, **more}  # fmt: skip


def test_loads_take_what_earlier_ones_took(make_config: MakeConfig) -> None:
    config = make_config(changes(**{"workload.starts": 2}))
    assert build_plan(config).sets[0].load_s == 2 * config.cluster.load_s
    assert build_plan(config, earlier(50.0, 60.0, 500.0)).sets[0].load_s == 2 * 60.0


@pytest.mark.parametrize(
    ("arm", "seconds"),
    [
        (ArmShape(("both", "both"), 8.0), 61.0),  # as large instances in another arm
        (ArmShape(("both",), 4.0), 180.0),  # smaller ones tell nothing
    ],
)
def test_a_load_of_another_arm_tells_as_much_as_its_instances_are_alike(
    make_config: MakeConfig, arm: ArmShape, seconds: float
) -> None:
    seen = EarlierRuns(("runs/x",), (LoadSeen(arm, 61.0),))
    assert Estimator(make_config(changes()), seen).load_s(ONE) == seconds


def test_a_point_that_was_measured_takes_what_it_took(make_config: MakeConfig) -> None:
    config = make_config(changes())
    known = build_plan(
        config, earlier(points=(SEEN, replace(SEEN, measuring_s=9.0), replace(SEEN, measuring_s=8.0)), beside_s=(2.0,))
    )
    assert known.sets[0].measure_s == 8.0 + 2.0


def test_work_is_scaled_by_what_other_points_of_the_arm_took(make_config: MakeConfig) -> None:
    config = make_config(changes())
    plain = build_plan(config).sets[0].measure_s - BESIDE_S
    other = replace(SEEN, input_len=256)
    computed = build_plan(make_config(changes(**{"workload.sweeps": {"s": c.Sweep([256], [32])}}))).sets[0].measure_s - BESIDE_S
    slow = earlier(points=(replace(other, measuring_s=3 * computed),))
    assert build_plan(config, slow).sets[0].measure_s - BESIDE_S == pytest.approx(3 * plain)
    paced = earlier(points=(replace(other, request_rate=0.1, measuring_s=100.0),))
    assert build_plan(config, paced).sets[0].measure_s - BESIDE_S == pytest.approx(plain), "that was the arrivals' time"


def test_the_plan_says_where_its_estimate_comes_from(make_config: MakeConfig) -> None:
    config = make_config(changes())
    assert "estimate: a load takes 180 s (by cluster.load_s), a point 3.0 s beside its measuring" in opening(make_outline(config))
    said = opening(make_outline(config, earlier(60.0, 62.0, points=(SEEN,), beside_s=(1.0,))))
    assert (
        "estimate: a load takes 61 s (as in 2 earlier), a point 1.0 s beside its measuring (as in 1 earlier); from runs/x" in said
    )


def published(folder: Path, **search: Any) -> tuple[c.Config, float]:
    """The configuration of a run of before, and how many seconds its loads and points took. `search`: what it did not know yet."""
    values: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    values["splits"] = False
    values["workload"]["search"] |= search
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(c.Config), values))
    assert isinstance(config, c.Config)
    return config, sum(each.load_s + each.ready_s for each in set_times(loads_of(RunFolder(folder))))


def test_the_search_on_two_h100_takes_what_was_estimated() -> None:
    """Its plan of then said 58 min for 15."""
    config, truth_s = published(RESULTS / "h100x2" / "should_i", fine=1, beside=0, cover=None, beyond=0)
    assert 14 * 60 < truth_s < 17 * 60
    assert 1 / 1.5 < build_plan(config).estimate_s / truth_s < 1.5
    seen = earlier_runs(RESULTS / "h100x2", "h100x2", "llama-3.1-8b")
    assert seen != NO_RUNS
    assert 1 / 1.5 < build_plan(config, seen).estimate_s / truth_s < 1.5


def test_points_all_at_once_on_four_h200_take_what_was_estimated() -> None:
    """Five points from 6 to 32 s, by the cluster's numbers alone."""
    seen = earlier_runs(RESULTS / "h200x4", "h200x4", "deepseek-v2-lite")
    assert len(seen.points) == 5
    folder = RESULTS / "h200x4" / "tokenizer_trial"
    values: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    for name in ("enable_prefix_caching", "no_enable_prefix_caching"):
        values["cluster"]["engine_args"].pop(name, None)
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(c.Config), {**values, "splits": False}))
    assert isinstance(config, c.Config)
    (instances,) = build_plan(config).sets
    roles = instances.arms[0].roles
    measured = {(each.input_len, each.output_len): each.measuring_s for each in seen.points}
    planned = {(p.input_len, p.output_len): p for p in build_plan(config).points}
    estimate = Estimator(config)
    total_s = sum(estimate.point_s(planned[lengths], roles, instances.instances) for lengths in measured)
    assert arm_shape(roles, instances.instances) == seen.points[0].arm
    assert 1 / 1.5 < total_s / (sum(measured.values()) + sum(seen.beside_s)) < 1.5
