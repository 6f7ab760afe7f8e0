"""Arms compared by what their engines resolved: forced by the topology, a finding, or unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pdslurm.config import Config, Topology
from pdslurm.plan.deployment import Deployment, bind
from pdslurm.plan.fairness import DIFFERS, FORCED, SAME
from pdslurm.plan.plan import build_plan
from pdslurm.plan.what_ran import FACTS, FORCED_WHY, UNKNOWN, compare_told
from tests.unit.plan.test_fairness import pd, plain

MakeConfig = Callable[..., Config]
PLAIN = {"attention_backend": "FLASH_ATTN", "kv_tokens": "417536", "kv_blocks": "26096", "block_size": "16"}
Facts = Mapping[str, str]


def deployed(make_config: MakeConfig, **changes: Any) -> Deployment:
    arms: dict[str, Topology] = {"route": plain(), "pd": pd()}
    return bind(build_plan(make_config({"arms": arms, **changes})))


def judged(deployment: Deployment, route: Facts, *of_pd: Facts) -> dict[str, tuple[str, Mapping[str, str]]]:
    """Fact → verdict and words. `of_pd`: of one engine after the other, the last for all that are left."""
    told: dict[str, dict[str, Facts]] = {}
    for bound in deployment.sets:
        is_pd = bound.arms[0].arm.topology.prefill
        names = list(bound.arms[0].engine_roles)
        told[bound.set.name] = {n: of_pd[min(i, len(of_pd) - 1)] if is_pd else route for i, n in enumerate(names)}
    return {c.field.removeprefix("resolved "): (c.verdict, c.values) for c in compare_told(deployment, told)}


def test_what_a_topology_does_not_force_is_a_finding(make_config: MakeConfig) -> None:
    found = judged(deployed(make_config), PLAIN, {**PLAIN, "attention_backend": "FLASHINFER"})
    assert found["attention_backend"] == (DIFFERS, {"route": "FLASH_ATTN", "pd": "FLASHINFER"})
    assert found["block_size"][0] == SAME
    assert {fact for fact, (verdict, _) in found.items() if verdict == DIFFERS} == {"attention_backend"}
    assert set(found) == set(FACTS)


def test_what_is_not_told_is_unknown_and_never_equal(make_config: MakeConfig) -> None:
    found = judged(deployed(make_config), {"dtype": "bfloat16"}, {**PLAIN, "dtype": "bfloat16"})
    assert found["dtype"][0] == SAME
    assert found["attention_backend"] == (UNKNOWN, {"route": "unknown", "pd": "FLASH_ATTN"})
    assert found["max_num_seqs"] == (UNKNOWN, {"route": "unknown", "pd": "unknown"})


def test_engines_of_one_role_that_differ_are_a_finding(make_config: MakeConfig) -> None:
    found = judged(deployed(make_config), PLAIN, PLAIN, PLAIN, {**PLAIN, "attention_backend": "FLASHINFER"})
    assert found["attention_backend"][0] == DIFFERS
    assert "FLASHINFER" in found["attention_backend"][1]["pd"]


def test_the_layout_of_a_connector_is_forced_but_not_two_of_them(make_config: MakeConfig) -> None:
    layout = {**PLAIN, "kv_layout": "HND"}
    assert judged(deployed(make_config), {**PLAIN, "kv_layout": "NHD"}, layout)["kv_layout"][0] == FORCED
    assert judged(deployed(make_config), PLAIN, layout)["kv_layout"][0] == UNKNOWN
    assert judged(deployed(make_config), layout, layout, {**PLAIN, "kv_layout": "NHD"})["kv_layout"][0] == DIFFERS


@pytest.mark.parametrize(
    ("changed", "fact", "verdict"),
    [
        pytest.param({"kv_tokens": "417000"}, "kv_tokens", FORCED, id="profiled a little differently"),
        pytest.param({"kv_tokens": "300000"}, "kv_tokens", DIFFERS, id="something else held memory"),
        pytest.param({"kv_blocks": "3262", "block_size": "128"}, "kv_blocks", FORCED, id="larger blocks are fewer"),
        pytest.param({"kv_blocks": "3262"}, "kv_blocks", DIFFERS, id="fewer blocks of the same size"),
        pytest.param({"block_size": "128"}, "block_size", DIFFERS, id="larger blocks"),
    ],
)
def test_the_size_of_the_kv_cache(make_config: MakeConfig, changed: Facts, fact: str, verdict: str) -> None:
    assert judged(deployed(make_config), PLAIN, {**PLAIN, **changed})[fact][0] == verdict


def test_a_cache_follows_from_how_the_model_is_split(make_config: MakeConfig) -> None:
    deployment = deployed(make_config, arms={"route": plain(), "pd": pd(tensor_parallel=4)})
    assert judged(deployment, PLAIN, {**PLAIN, "kv_tokens": "100000"})["kv_tokens"][0] == FORCED


def test_a_set_that_has_not_run_is_not_compared(make_config: MakeConfig) -> None:
    deployment = deployed(make_config)
    first = deployment.sets[0]
    found = compare_told(deployment, {first.set.name: dict.fromkeys(first.arms[0].engine_roles, PLAIN)})
    assert {name for c in found for name in c.values} == {arm.arm.name for arm in first.arms}
    assert not any(c.verdict == DIFFERS for c in found)
    assert compare_told(deployment, {}) == ()


def test_an_option_that_is_explained_explains_what_becomes_of_it(make_config: MakeConfig) -> None:
    reasons = {"engine --block-size": "NIXL", "resolved attention_backend": "meant"}
    deployment = deployed(make_config, explained=reasons)
    told: dict[str, dict[str, Facts]] = {}
    for bound in deployment.sets:
        facts = dict.fromkeys(("block_size", "attention_backend", "dtype"), bound.set.name)
        told[bound.set.name] = dict.fromkeys(bound.arms[0].engine_roles, facts)
    explained = {c.field: c.explained for c in compare_told(deployment, told) if c.verdict == DIFFERS}
    assert explained == {"resolved block_size": "NIXL", "resolved attention_backend": "meant", "resolved dtype": None}


def test_what_may_be_forced_is_compared() -> None:
    assert set(FORCED_WHY) <= set(FACTS)
