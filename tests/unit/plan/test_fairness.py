"""Arms that differ in one thing: whether it is found, named with each arm's value, and told from what a topology forces."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdslurm import config as c
from pdslurm.errors import ConfigError
from pdslurm.launchers.run import write_provenance
from pdslurm.launchers.run_path import run_path
from pdslurm.plan.checks.configuration import EXPLAINABLE
from pdslurm.plan.deployment import bind
from pdslurm.plan.fairness import WHY, as_json, compare, differences, effective_options
from pdslurm.plan.outline import make_outline
from pdslurm.plan.plan import build_plan
from pdslurm.plan.render import dump_json, opening, plan_text
from pdslurm.records.run_folder import RunFolder
from tests.made import tasks_of
from tests.unit.plan.test_golden import EXPERIMENTS, composed

MakeConfig = Callable[..., c.Config]


def plain(route: int = 4, **more: Any) -> c.Topology:
    return c.Topology(nodes=4, route=route, **{"tensor_parallel": 8, **more})


def pd(prefill: int = 1, **more: Any) -> c.Topology:
    return c.Topology(nodes=4, prefill=prefill, **{"tensor_parallel": 8, **more})


def found(config: c.Config) -> dict[str, dict[str, str]]:
    return {f.field: dict(f.values) for f in differences(compare(bind(build_plan(config))))}


def forced(config: c.Config) -> set[str]:
    return {f.field for f in compare(bind(build_plan(config))) if f.verdict == "forced"}


UNFAIR = [
    ({"a": plain(), "b": c.Topology(nodes=2, route=2, tensor_parallel=8)}, "gpus", {"a": "32", "b": "16"}),
    ({"a": plain(), "b": plain(extra_args=["--gpu-memory-utilization", "0.5"])}, "memory_share", {"b": "0.5"}),
    (
        {"a": plain(), "b": pd(extra_args=["--gpu_memory_utilization=0.5"])},
        "memory_share",
        {"a": "the engine's default", "b": "0.5"},
    ),
    (
        {"a": plain(), "b": pd(router=c.Router(policy="consistent_hash"))},
        "router_policy",
        {"a": "round_robin", "b": "consistent_hash"},
    ),
    (
        {"a": plain(), "b": pd(router=c.Router(prefill_policy="random"))},
        "router_policy",
        {"b": "prefill: random, decode: round_robin"},
    ),
    ({"a": plain(), "b": plain(1, router=c.Router(enabled=False))}, "router", {"a": "vllm-router", "b": "none"}),
    ({"a": plain(), "b": plain(1)}, "expert_parallel", {"a": "off", "b": "off under DP=4"}),
    ({"a": plain(), "b": plain(1, expert_parallel=True)}, "expert_parallel", {"a": "off", "b": "on"}),
    ({"a": plain(), "b": plain(1, extra_args=["--api-server-count", "1"])}, "api_servers", {"b": "0.25 for each model replica"}),
    ({"a": plain(), "b": plain(tensor_parallel=4)}, "tensor_parallel", {"a": "8", "b": "4"}),
    ({"a": pd(), "b": pd(as_decode=c.Role(tensor_parallel=4, gpus=8))}, "tensor_parallel", {"b": "prefill: 8, decode: 4"}),
    ({"a": pd(), "b": pd(kv=c.Kv(role=c.KvRole.by_role))}, "kv_connector", {}),
    (
        {"a": plain(), "b": pd(as_decode=c.Role(extra_args=["--max-num-seqs", "64"]))},
        "engine --max-num-seqs",
        {"a": "not given", "b": "prefill: not given, decode: 64"},
    ),
    ({"a": plain(), "b": pd(extra_args=["--enforce-eager"])}, "engine --enforce-eager", {"a": "not given", "b": "on"}),
    ({"a": plain(), "b": pd(router=c.Router(extra_args=["--cache-threshold", "0.5"]))}, "router --cache-threshold", {"b": "0.5"}),
]


@pytest.mark.parametrize(("arms", "field", "values"), UNFAIR, ids=[f"{n}-{case[1]}" for n, case in enumerate(UNFAIR)])
def test_what_is_not_forced_is_found(
    make_config: MakeConfig, arms: dict[str, c.Topology], field: str, values: dict[str, str]
) -> None:
    by_field = found(make_config({"arms": arms}))
    assert field in by_field, by_field
    assert values.items() <= by_field[field].items()


@pytest.mark.parametrize(
    ("given", "value"),
    [(("--enable-prefix-caching",), "on"), ((), "the engine's default"), (("--no-enable-prefix-caching",), None)],
)
def test_a_prefix_cache_of_one_arm_alone_is_found(make_config: MakeConfig, given: tuple[str, ...], value: str | None) -> None:
    """The configuration has one word on it for all arms; should an engine be told otherwise, its command line tells."""
    deployment = bind(build_plan(make_config({"arms": {"a": plain(), "b": plain()}})))
    first, second = deployment.sets
    words = [tuple(w for w in e.argv if not w.endswith("enable-prefix-caching")) + given for e in second.engines]
    engines = tuple(replace(e, argv=argv) for e, argv in zip(second.engines, words, strict=True))
    compared = compare(replace(deployment, sets=(first, replace(second, engines=engines))))
    assert {f.field: dict(f.values) for f in differences(compared)} == ({"prefix_cache": {"a": "off", "b": value}} if value else {})


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        ({"a": plain(), "b": plain()}, set()),
        ({"a": plain(), "b": pd(1), "c": pd(2)}, {"instances", "kv_connector"}),
        ({"a": pd(1), "b": pd(1, route=2)}, {"instances", "router_hops"}),
        # one TP=8 instance against P and D of TP=4 on the same node: neither has eight GPUs
        (
            {"a": c.Topology(nodes=1, tensor_parallel=8), "b": c.Topology(nodes=1, prefill=1, tensor_parallel=4)},
            {"instances", "kv_connector", "tensor_parallel"},
        ),
    ],
    ids=["equal", "P/D against route", "P/D in two groups", "TP as large as fits"],
)
def test_what_a_topology_forces_is_no_finding(make_config: MakeConfig, arms: dict[str, c.Topology], expected: set[str]) -> None:
    config = make_config({"arms": arms})
    assert (found(config), forced(config)) == ({}, expected)


def test_a_dense_model_needs_no_expert_parallel(make_config: MakeConfig, hf_configs: dict[str, Any]) -> None:
    arms = {"a": plain(), "b": plain(1)}
    assert found(make_config({"arms": arms, "model.hf_config": dict(hf_configs["llama_3_1_8b"])})) == {}


def test_one_arm_has_nothing_to_differ_from(make_config: MakeConfig) -> None:
    outline = make_outline(make_config())
    assert "fairness" not in plan_text(outline)
    fairness = json.loads(dump_json(outline))["fairness"]
    assert (fairness["differs"], fairness["forced"]) == ([], [])
    assert fairness["same"]["instances"] == "1 both"


def test_seed_004_as_published_is_flagged() -> None:
    by_field = found(composed("seed_004_as_published"))
    assert by_field == {
        "expert_parallel": {
            "dp_baseline": "off under DP=4", "route_2": "off under DP=2", "route_4": "off", "pd_1p3d": "off", "pd_2p2d": "off",
        },
        "router": {"dp_baseline": "none", **dict.fromkeys(("route_2", "route_4", "pd_1p3d", "pd_2p2d"), "vllm-router")},
        "router_policy": {
            "dp_baseline": "no router", "route_2": "round_robin", "route_4": "round_robin",
            "pd_1p3d": "consistent_hash", "pd_2p2d": "consistent_hash",
        },
    }  # fmt: skip


@pytest.mark.parametrize("experiment", [e for e in EXPERIMENTS if e != "seed_004_as_published"])
def test_no_experiment_has_a_difference_without_a_reason(experiment: str) -> None:
    deployment = bind(build_plan(composed(experiment)))
    compared = compare(deployment)
    assert [f.field for f in differences(compared) if not f.explained] == []
    assert set(deployment.plan.config.explained) == {f.field for f in differences(compared)}


def test_the_text_names_each_difference_or_its_explanation(make_config: MakeConfig) -> None:
    arms = {"a": plain(), "b": pd(router=c.Router(policy="random"))}
    text = opening(make_outline(make_config({"arms": arms})))
    assert "fairness: 1 difference between the arms that their topologies do not force" in text
    assert "  router_policy: round_robin (a); random (b)" in text
    assert f"UNEXPLAINED: {WHY['router_policy']}" in text
    explained = {"router_policy": "random is what is tried", "dtype": "an old reason"}
    text = plan_text(make_outline(make_config({"arms": arms, "explained": explained})))
    assert "      explained: random is what is tried" in text
    assert "UNEXPLAINED" not in text
    assert "  explained.dtype: the arms do not differ in it; leave it out" in text
    assert "  the same in every arm: gpus 32, model org/v2-lite, dtype bfloat16" in text


def test_the_run_folder_has_the_same_as_the_plan(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config({"arms": {"a": plain(), "b": pd(extra_args=["--enforce-eager"])}})
    outline, tasks = make_outline(config), tasks_of(config)
    write_provenance(RunFolder(tmp_path), tasks, outline.compared)
    written = json.loads((tmp_path / "fairness.json").read_text())
    assert written == json.loads(dump_json(outline))["fairness"] == as_json(compare(tasks.deployment))
    assert written["differs"] == [
        {
            "field": "engine --enforce-eager", "values": {"a": "not given", "b": "on"},
            "why": "an option of the engines that only some arms have, or with another value", "explained": None,
        }
    ]  # fmt: skip
    assert written["same"]["gpus"] == "32"


@pytest.mark.parametrize(
    ("explained", "message"),
    [
        ({"policy": "because"}, r"explained\.policy: nothing that arms are compared by; use gpus, "),
        ({"router_policy": " "}, r"explained\.router_policy: is empty"),
    ],
)
def test_an_explanation_names_what_is_compared(make_config: MakeConfig, explained: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_plan(make_config({"explained": explained}))
    build_plan(make_config({"explained": {"engine --x": "y", "env OMP_NUM_THREADS": "z"}}))


def test_every_named_comparison_can_be_explained_and_has_a_reason() -> None:
    assert set(WHY) == set(EXPLAINABLE)


def test_an_explanation_does_not_change_which_folder_a_run_resumes_in(make_config: MakeConfig) -> None:
    assert run_path(make_config()) == run_path(make_config({"explained": {"gpus": "meant"}}))


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("vllm", "serve", "m", "--a", "1", "--b"), {"--a": "1", "--b": "on"}),
        (("--no-a", "--b_c=2"), {"--a": "off", "--b-c": "2"}),
        (("--a", "1", "--a", "2"), {"--a": "2"}),
        (("--list", "x", "y", "-O3", "--n", "-1"), {"--list": "x y", "-O3": "on", "--n": "-1"}),
        (("--kv", '{"a": "--b"}'), {"--kv": '{"a": "--b"}'}),
    ],
)
def test_options_are_read_as_argparse_has_them(argv: tuple[str, ...], expected: dict[str, str]) -> None:
    assert effective_options(argv) == expected
