"""workload=smoke takes the place of what every experiment says of its workload, and asks for the shortest job."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdslurm.launchers.run_path import run_path
from pdslurm.plan.outline import make_outline
from pdslurm.plan.plan import build_plan
from pdslurm.plan.render import opening
from pdslurm.slurm.jobs import time_min
from tests.unit.plan.test_golden import EXPERIMENTS, composed


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_one_short_point_of_every_arm(experiment: str) -> None:
    config = composed(experiment, "workload=smoke")
    plan = build_plan(config)
    assert [(p.num_prompts, p.input_len, p.output_len, p.max_concurrency, p.sweeps) for p in plan.points] == [
        (8, 128, 16, 2, ("smoke",))
    ]
    assert {arm.name for s in plan.sets for arm in s.arms} == set(composed(experiment).arms or {config.name})
    assert time_min(plan, config.cluster.slurm) <= 30
    assert plan.estimate_s <= len(plan.sets) * (config.cluster.load_s + 60)
    assert run_path(config) != run_path(composed(experiment)), "its records lie apart"


def test_a_model_of_any_size_and_the_command_line_s_own_values() -> None:
    config = composed("pd_1p3d", "workload=smoke", "model=tiny", "cluster=cpu_nodes", "workload.num_prompts=16",
                      "workload.sweeps.smoke.max_concurrency=[4]")  # fmt: skip
    assert [(p.num_prompts, p.max_concurrency) for p in build_plan(config).points] == [(16, 4)]
    assert "caution: workload=smoke measures nothing; it shows whether every arm works" in opening(make_outline(config))


@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_values_in_a_dictionary_of_the_command_line_count_too(sign: str) -> None:
    config = composed("demo", "workload=smoke", f"{sign}workload={{num_prompts: 16, sweeps: {{smoke: {{max_concurrency: [4]}}}}}}")
    assert [(p.num_prompts, p.input_len, p.max_concurrency) for p in build_plan(config).points] == [(16, 128, 4)]
    config = composed("demo", "workload=smoke", "workload.num_prompts=16", f"{sign}workload={{num_prompts: 4, duration_s: 5}}")
    assert (config.workload.num_prompts, config.workload.duration_s) == (4, 5.0), "the last one counts, as in Hydra"
