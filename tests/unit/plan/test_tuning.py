"""Which settings are tried, in which rounds, and which of them are the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import pytest

from pdslurm import config as c
from pdslurm.errors import ConfigError
from pdslurm.launchers.run_path import run_path
from pdslurm.plan.fairness import differences
from pdslurm.plan.outline import make_outline
from pdslurm.plan.plan import build_plan
from pdslurm.plan.render import plan_text
from pdslurm.plan.splits import with_splits
from pdslurm.plan.tuning import Latencies, Setting, best, best_first, rounds, settings, variants
from tests.made import keys_of

MakeConfig = Callable[..., c.Config]
BLOCK: Setting = (("block_size", 128),)
CHUNK: Setting = (("max_num_batched_tokens", 2048),)
TUNED = {
    "splits": True,
    "tune": c.Tune(
        settings=3,
        rate=4.0,
        plain={"max_num_batched_tokens": [2048, 4096]},
        disaggregated={"block_size": [128], "prefill.max_num_batched_tokens": [16384]},
    ),
}


def tuned(make_config: MakeConfig, **changes: Any) -> c.Config:
    return with_splits(make_config({**deepcopy(TUNED), **{f"tune.{name}": value for name, value in changes.items()}}))


# --- which settings


def test_first_the_arm_as_it_is_then_one_change_at_a_time_then_two() -> None:
    found = list(settings({"a": [1, 2], "b": [3]}, seed=0))
    assert found[:4] == [(), (("a", 1),), (("a", 2),), (("b", 3),)]
    assert sorted(found[4:]) == [(("a", 1), ("b", 3)), (("a", 2), ("b", 3))]
    orders = {tuple(settings({"a": [1, 2, 3], "b": [3, 4]}, seed=seed)) for seed in range(9)}
    assert len(orders) > 1, "two changes at a time come in an order of the seed's own"


def test_every_arm_of_a_kind_gets_every_setting_of_it(make_config: MakeConfig) -> None:
    found = variants(tuned(make_config))
    assert list(found)[:3] == ["route_4", "route_4-max-num-batched-tokens-2048", "route_4-max-num-batched-tokens-4096"]
    assert {each.arm for each in found.values()} == {"route_4", "pd_1p3d", "pd_2p2d", "pd_3p1d"}
    assert found["pd_1p3d-block-size-128"].topology.extra_args == ["--block-size", "128"]
    chunk = found["pd_1p3d-prefill.max-num-batched-tokens-16384"].topology
    assert (chunk.extra_args, chunk.as_prefill.extra_args) == ([], ["--max-num-batched-tokens", "16384"])
    assert chunk.as_decode.extra_args == []


def test_ratios_share_the_instances_of_a_setting_unless_it_is_one_roles(make_config: MakeConfig) -> None:
    sets = build_plan(tuned(make_config)).sets
    assert [len(each.arms) for each in sets] == [1, 1, 1, 3, 3, 1, 1, 1]


def test_a_larger_tp_makes_fewer_and_larger_plain_instances_of_the_same_gpus(make_config: MakeConfig) -> None:
    config = make_config(
        {
            "topology": c.Topology(nodes=1, route=4, tensor_parallel=2),
            "tune": c.Tune(settings=2, rate=1.0, plain={"tensor_parallel": [8]}),
        }
    )
    _, larger = variants(config).values()
    assert (larger.topology.route, larger.topology.tensor_parallel) == (1, 8)
    assert [each.gpu_count for each in build_plan(config).sets] == [8, 8]


def test_an_arm_as_it_is_configured_keeps_its_name_and_its_keys(make_config: MakeConfig) -> None:
    """Who tunes later goes on with what was measured before."""
    alone, both = keys_of(tuned(make_config, settings=1)), keys_of(tuned(make_config))
    assert {name: both[name] for name in alone} == alone
    assert run_path(tuned(make_config, settings=1)) != run_path(tuned(make_config))


def test_what_tuning_changes_is_no_unfairness(make_config: MakeConfig) -> None:
    assert differences(make_outline(tuned(make_config)).compared) == ()


def test_the_plan_says_what_is_tried(make_config: MakeConfig) -> None:
    text = plan_text(make_outline(tuned(make_config)))
    assert "tuned at 4 requests/s: 3 settings for 20 s, then 2 for 40 s; the best for TPOT and the best for TTFT" in text
    assert "  plain: as configured; max_num_batched_tokens=2048; max_num_batched_tokens=4096\n" in text
    assert "tuned at" not in plan_text(make_outline(tuned(make_config, settings=1)))


# --- the trials


@pytest.mark.parametrize(("count", "found"), [(1, ()), (2, (2,)), (3, (3, 2)), (6, (6, 3, 2)), (8, (8, 4, 2)), (9, (9, 5, 3, 2))])
def test_each_round_tries_half_of_the_last_until_two_are_left(count: int, found: tuple[int, ...]) -> None:
    assert rounds(c.Tune(settings=count)) == found
    assert rounds(c.Tune(settings=count, rounds=1)) == found[:1]
    assert rounds(c.Tune(settings=count, rounds=9)) == found


def test_trials_have_seeds_of_their_own_and_last_longer_each_round(make_config: MakeConfig) -> None:
    plan = build_plan(tuned(make_config))
    assert [(trial.repeat, trial.request_rate, trial.num_prompts) for trial in plan.trials] == [(0, 4.0, 80), (1, 4.0, 160)]
    assert len({point.seed for point in (*plan.trials, *plan.points)}) == len(plan.trials) + len(plan.points)
    assert {trial.sweeps for trial in plan.trials} == {("tuning",)}


def ms(tpot: float, ttft: float) -> Latencies:
    return Latencies(tpot, ttft)


@pytest.mark.parametrize(
    ("known", "found"),
    [
        ({(): ms(20, 100), BLOCK: ms(9, 90)}, [BLOCK]),
        ({(): ms(20, 100), BLOCK: ms(9, 200)}, [BLOCK, ()]),
        ({(): ms(9.2, 100), BLOCK: ms(9, 99)}, [()]),  # as good as the best, and listed before it
        ({(): ms(math.inf, math.inf), BLOCK: ms(9, 99)}, [BLOCK]),
        ({(): ms(math.inf, math.inf), BLOCK: ms(math.inf, math.inf)}, [()]),
    ],
)
def test_the_best_for_tpot_and_the_best_for_ttft(known: Mapping[Setting, Latencies], found: list[Setting]) -> None:
    assert best(known) == found


def test_a_round_keeps_the_best_by_tpot_and_by_ttft_in_turn() -> None:
    known = {(): ms(10, 40), BLOCK: ms(20, 30), CHUNK: ms(30, 20), (*BLOCK, *CHUNK): ms(40, 10)}
    assert best_first(known, keep=2) == [(), (*BLOCK, *CHUNK)]
    assert best_first(known, keep=3) == [(), (*BLOCK, *CHUNK), BLOCK]


# --- what is refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": 0}, "tune.settings=0: must be 1 or more; 1 tunes no arm"),
        ({"settings": 4}, "tune.settings=4: tune.plain has options for 3 setting(s), and every kind of arm is tried with equally"),
        ({"plain": {}}, "tune.settings=3: tune.plain has options for 1 setting(s)"),
        ({"rate": None}, "tune.rate=null: is taken from the saturated plain arm"),
        ({"rate": -1.0}, "tune.rate=-1: must be above 0"),
        ({"rounds": 0}, "tune.rounds=0: must be 1 or more; tune.settings=1 leaves tuning out"),
        ({"duration_s": 0.0}, "tune.duration_s=0: must be above 0"),
        ({"plain": {"prefill.block_size": [16, 32]}}, "tune.plain.prefill.block_size: begins with prefill"),
        ({"plain": {"dtype": ["a", "b"]}}, "tune.plain.dtype: pdslurm sets --dtype from model.dtype, which is not tuned"),
        ({"plain": {"block_size": 16}}, "tune.plain.block_size=16: must be a list of the values to try"),
        ({"plain": {"block_size": []}}, "tune.plain.block_size=[]: must be a list of the values to try"),
        ({"plain": {"block_size": [16, 16]}}, "tune.plain.block_size=[16, 16]: names a value twice"),
        ({"plain": {"block_size": [[16], 32]}}, "tune.plain.block_size=[16]: a value must be one number, text, true or false"),
        ({"plain": {"tensor_parallel": ["x", 2]}}, "tune.plain.tensor_parallel=x: must be a whole number"),
        ({"plain": {"tensor_parallel": [4, 3]}}, "arms.route_4 with tensor_parallel=3: "),
    ],
)
def test_bad_input_is_named(make_config: MakeConfig, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_plan(tuned(make_config, **changes))
    assert said in str(error.value)


def test_engines_that_run_already_are_not_tuned(make_config: MakeConfig) -> None:
    config = make_config({**TUNED, "splits": False, "attach": {"test": c.Endpoint("http://127.0.0.1:1")}})
    assert list(variants(config)) == ["test"]
