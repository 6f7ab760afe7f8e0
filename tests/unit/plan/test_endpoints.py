"""launcher=attach: what its configuration must say, and the deployment made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pdslurm.config import Config, Endpoint, LauncherKind, Topology
from pdslurm.errors import ConfigError
from pdslurm.plan.endpoints import attached_deployment
from pdslurm.plan.outline import make_outline
from pdslurm.plan.plan import build_plan
from pdslurm.plan.render import dump_json, plan_text
from tests.made import keys_of

MakeConfig = Callable[..., Config]
ROUTER, P, D = "http://front:8000", "http://p:8100", "http://d:8200"
PD = Topology(nodes=2, prefill=1, tensor_parallel=8)
ROUTE = Topology(nodes=2, route=2, tensor_parallel=8)
KIND: Mapping[str, Any] = {"launcher.kind": LauncherKind.attach}


def both_arms(**changes: Any) -> dict[str, Any]:
    where = {
        "pd": Endpoint(ROUTER, prefill=[P], decode=[D], router_metrics="http://front:29000/metrics"),
        "route": Endpoint("http://other:8000", both=["http://a:1", "http://b:2"]),
    }
    return {**KIND, "arms": {"pd": PD, "route": ROUTE}, "attach": where | changes}


def test_the_deployment_starts_nothing_but_the_client(make_config: MakeConfig) -> None:
    deployment = make_outline(make_config(both_arms())).deployment
    pd, route = deployment.sets
    assert [(e.role, e.url, e.metrics_url, e.argv) for e in pd.engines] == [
        ("prefill", P, f"{P}/metrics", ()),
        ("decode", D, f"{D}/metrics", ()),
    ]
    assert (pd.arms[0].base_url, pd.arms[0].routers[0].metrics_url) == (ROUTER, "http://front:29000/metrics")
    assert pd.arms[0].routers[0].url is None  # its health is nobody's business here
    assert [e.url for e in route.engines] == ["http://a:1", "http://b:2"]
    assert route.arms[0].routers == ()
    assert deployment.client.argv[-1].endswith("bench/client.py")


def test_arms_that_share_instances_elsewhere_are_apart_here(make_config: MakeConfig) -> None:
    """1P2D and 2P1D: one set of loaded instances where pdslurm starts them, two deployments of somebody else's here."""
    one_two, two_one = Topology(nodes=3, prefill=1, tensor_parallel=8), Topology(nodes=3, prefill=2, tensor_parallel=8)
    where = {
        "a": Endpoint(ROUTER, prefill=[P], decode=[D, "http://e:1"]),
        "b": Endpoint(ROUTER, prefill=[P, D], decode=["http://e:1"]),
    }
    plan = build_plan(make_config({**KIND, "arms": {"a": one_two, "b": two_one}, "attach": where}))
    assert len(plan.sets) == 1
    sets = attached_deployment(plan).sets
    assert [(s.set.name, [e.role for e in s.engines]) for s in sets] == [
        ("a", ["prefill", "decode", "decode"]),
        ("b", ["prefill", "prefill", "decode"]),
    ]


def test_other_endpoints_are_other_measurements(make_config: MakeConfig) -> None:
    def keys(**changes: Any) -> dict[tuple[str, str], str]:
        return keys_of(make_config(both_arms(**changes)), {"vllm": "1"})

    moved = Endpoint("http://other:8000", both=["http://a:1", "http://c:3"])
    assert keys() == keys()
    differing = {arm for (arm, point), key in keys().items() if keys(route=moved)[arm, point] != key}
    assert differing == {"route"}
    tp4 = {"pd": Topology(nodes=2, prefill=1, tensor_parallel=4), "route": Topology(nodes=2, route=2, tensor_parallel=4)}
    smaller = make_config({**both_arms(), "cluster.gpus_per_node": 4, "arms": tp4})
    assert not set(keys_of(smaller, {"vllm": "1"}).values()) & set(keys().values())


def test_only_what_is_known_is_compared(make_config: MakeConfig) -> None:
    outline = make_outline(make_config(both_arms()))
    assert {c.field: c.verdict for c in outline.compared} == {
        "gpus": "same",
        "tensor_parallel": "same",
        "load": "same",
        "instances": "forced",
    }
    assert f"runs already at {P}" in plan_text(outline)
    assert P.rpartition(":")[2] in dump_json(outline)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            both_arms(route=Endpoint(ROUTER, both=[P, P])),
            "attach.route: http://p:8100 is named 2 times; each engine has an address",
        ),
        (
            both_arms(pd=Endpoint("http://a..b:80", prefill=[P], decode=[D])),
            "attach.pd.url=http://a..b:80: must be http://HOST:PORT",
        ),
        (
            both_arms(pd=Endpoint("http://a:99999", prefill=[P], decode=[D])),
            "attach.pd.url=http://a:99999: must be http://HOST:PORT",
        ),
        ({**KIND}, "attach.test: missing; say where it runs: '+attach={test: {url: http://HOST:PORT, both: [http://HOST:PORT]}}'"),
        (
            both_arms() | {"workload.starts": 3},
            "workload.starts=3: attach measures engines that run already",
        ),
        (both_arms(third=Endpoint(ROUTER)), "attach.third: no such arm; use pd, route"),
        (both_arms(pd=Endpoint("front:8000", prefill=[P], decode=[D])), "attach.pd.url=front:8000: must be http://HOST:PORT"),
        (both_arms(pd=Endpoint(ROUTER, prefill=[P], decode=[D + "/v1"])), "attach.pd.decode=http://d:8200/v1: must be http://HOST"),
        (both_arms(pd=Endpoint(ROUTER, prefill=[P])), "attach.pd.decode: 0 addresses, where the topology has 1 such instances"),
        (
            both_arms(pd=Endpoint(ROUTER, ["http://e:1"], [P], [D])),
            "attach.pd.both: 1 addresses, where the topology has 0 such instances",
        ),
        (
            both_arms() | {"launcher.kind": LauncherKind.slurm},
            "launcher=slurm: starts engines itself, and attach says",
        ),
        (
            both_arms(route=Endpoint(ROUTER, both=[P, D], router_metrics="front")),
            "attach.route.router_metrics=front: must be http://HOST:PORT/metrics, or null",
        ),
    ],
)
def test_what_cannot_be_attached_to(make_config: MakeConfig, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_plan(make_config(changes))
    assert len(caught.value.problems) == 1
    assert says in caught.value.problems[0]
