"""Binding: hosts, ports and URLs of every process, and what happens where ports are taken or too few."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pdslurm import config as c
from pdslurm.errors import ConfigError
from pdslurm.plan.deployment import BoundSet, Deployment, Host, Process, bind
from pdslurm.plan.plan import build_plan

MakeConfig = Callable[..., c.Config]
ONE_HOST = {"cluster.one_host": True}


def bound(config: c.Config, **more: Any) -> BoundSet:
    return bind(build_plan(config), **more).sets[0]


def option(process: Process, name: str) -> str | None:
    return process.argv[process.argv.index(name) + 1] if name in process.argv else None


def ports(found: BoundSet) -> dict[str, list[Any]]:
    """All ports of a set by what they are for, `host:port`."""
    return {
        "http": [f"{e.host}:{e.port}" for e in found.engines],
        "side": [f"{e.host}:{p}" for e in found.engines if (p := e.env.get("VLLM_NIXL_SIDE_CHANNEL_PORT"))],
        "join": [p for e in found.engines if (p := option(e, "--data-parallel-rpc-port") or option(e, "--master-port"))],
        "router": [f"{r.host}:{r.port} {option(r, '--prometheus-port')}" for arm in found.arms for r in arm.routers],
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {"topology.route": 4},
            {"http": [f"node{n}:8000" for n in range(4)], "side": [], "join": [], "router": ["127.0.0.1:8001 8002"]},
            id="a node each: the same port on every node",
        ),
        pytest.param(
            {"topology.route": 4, **ONE_HOST},
            {"http": [f"127.0.0.1:{8000 + n}" for n in range(4)], "side": [], "join": [], "router": ["127.0.0.1:8004 8005"]},
            id="one host: a port each",
        ),
        pytest.param(
            {},
            {"http": ["node0:8000", "node1:None", "node2:None", "node3:None"], "side": [], "join": ["20000"] * 4,
             "router": ["127.0.0.1:8001 8002"]},
            id="DP over nodes meets at the head's port",
        ),
        pytest.param(
            {"topology.tensor_parallel": 16, "topology.route": 2},
            {"http": ["node0:8000", "node1:None", "node2:8000", "node3:None"], "side": [], "join": ["20000"] * 4,
             "router": ["127.0.0.1:8001 8002"]},
            id="TP over nodes meets at each head's port",
        ),
        pytest.param(
            {"topology.tensor_parallel": 16, "topology.route": 2, **ONE_HOST},
            {"http": ["127.0.0.1:8000", "127.0.0.1:None", "127.0.0.1:8001", "127.0.0.1:None"], "side": [],
             "join": ["20000", "20000", "20001", "20001"], "router": ["127.0.0.1:8002 8003"]},
            id="the same on one host",
        ),
        pytest.param(
            {"topology.prefill": 1, "topology.tensor_parallel": 2, **ONE_HOST},
            {"http": [f"127.0.0.1:{8000 + n}" for n in range(4)], "side": [f"127.0.0.1:{20000 + 4 * n}" for n in range(4)],
             "join": [], "router": ["127.0.0.1:8004 8005"]},
            id="a side channel for each of four DP ranks",
        ),
        pytest.param(
            {"topology.nodes": 2, "topology.route": 2, "topology.prefill": 1, "topology.tensor_parallel": 4},
            {"http": ["node0:8000", "node0:8001", "node1:8000", "node1:8001"],
             "side": ["node0:20000", "node0:20001", "node1:20000", "node1:20001"], "join": [],
             "router": ["127.0.0.1:8002 8003", "127.0.0.1:8004 8005", "127.0.0.1:8006 8007"]},
            id="two groups of 1P1D: a router each and one in front",
        ),
    ],
)  # fmt: skip
def test_ports(make_config: MakeConfig, changes: dict[str, Any], expected: dict[str, list[Any]]) -> None:
    assert ports(bound(make_config(changes))) == expected


@pytest.mark.parametrize(
    ("changes", "taken", "expected"),
    [
        pytest.param({}, [("node0", 8000)], {"http": "node0:8001", "router": "127.0.0.1:8002 8003"}, id="taken on the head"),
        pytest.param({}, [("node1", 8000)], {"http": "node0:8000", "router": "127.0.0.1:8001 8002"}, id="taken elsewhere"),
        pytest.param(
            {}, [("node0", 8001), ("node0", 8003)], {"http": "node0:8000", "router": "127.0.0.1:8002 8004"}, id="taken between"
        ),
        pytest.param({}, [("node0", 20000)], {"join": "20001"}, id="the meeting port"),
        pytest.param(
            {"topology.prefill": 1, "topology.tensor_parallel": 2},
            [("node0", 20002)],
            {"side": "node0:20003"},
            id="four side channels in a row, after the taken one",
        ),
    ],
)
def test_taken_ports_are_passed_over(
    make_config: MakeConfig, changes: dict[str, Any], taken: list[tuple[str, int]], expected: dict[str, str]
) -> None:
    found = ports(bound(make_config(changes), taken=frozenset(taken)))
    assert {kind: found[kind][0] for kind in expected} == expected


@pytest.mark.parametrize(
    ("changes", "taken", "expected"),
    [
        pytest.param(
            {"cluster.ports.http": c.PortRange(8000, 8004), "topology.route": 4, **ONE_HOST},
            (),
            "cluster.ports.http=8000-8004: too few free ports on 127.0.0.1 for this plan; widen the range",
            id="too small for engines and a router",
        ),
        pytest.param(
            {"cluster.ports.http": c.PortRange(8000, 8005), "topology.route": 4, **ONE_HOST},
            (("127.0.0.1", 8003),),
            "cluster.ports.http=8000-8005: too few free ports on 127.0.0.1 for this plan; widen the range",
            id="enough, were one not taken",
        ),
        pytest.param(
            {"cluster.ports.internal": c.PortRange(20000, 20014), "topology.prefill": 1, "topology.tensor_parallel": 2, **ONE_HOST},
            (),
            "cluster.ports.internal=20000-20014: too few free ports on 127.0.0.1 for this plan; widen the range",
            id="too small for the side channels",
        ),
    ],
)
def test_too_few_ports(make_config: MakeConfig, changes: dict[str, Any], taken: tuple[tuple[str, int], ...], expected: str) -> None:
    plan = build_plan(make_config(changes))
    with pytest.raises(ConfigError) as caught:
        bind(plan, taken=frozenset(taken))
    assert caught.value.problems == (expected,)


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster.ports.http": c.PortRange(8000, 8005), "topology.route": 4, **ONE_HOST},
        {"cluster.ports.internal": c.PortRange(20000, 20015), "topology.prefill": 1, "topology.tensor_parallel": 2, **ONE_HOST},
    ],
    ids=["http", "internal"],
)
def test_just_enough_ports(make_config: MakeConfig, changes: dict[str, Any]) -> None:
    assert bound(make_config(changes)).engines


def test_sets_run_one_after_another_on_the_same_ports(make_config: MakeConfig) -> None:
    arms = {"dp": c.Topology(nodes=4, tensor_parallel=8), "r4": c.Topology(nodes=4, route=4, tensor_parallel=8)}
    first, second = bind(build_plan(make_config({"arms": arms}))).sets
    assert first.engines[0].port == second.engines[0].port == 8000


def test_addresses_of_real_hosts_are_everywhere(make_config: MakeConfig) -> None:
    names = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]
    hosts = [Host(f"n{i}", address, f"ib{i}") for i, address in enumerate(names)]
    found = bound(make_config({"topology.prefill": 1}), hosts=hosts)
    assert [e.url for e in found.engines] == [f"http://{h}:8000" for h in names]
    assert [e.metrics_url for e in found.engines] == [f"http://{h}:8000/metrics" for h in names]
    assert [option(e, "--host") for e in found.engines] == names
    assert [e.env["VLLM_HOST_IP"] for e in found.engines] == names
    assert [e.env["VLLM_NIXL_SIDE_CHANNEL_HOST"] for e in found.engines] == names
    assert [e.env["GLOO_SOCKET_IFNAME"] for e in found.engines] == ["ib0", "ib1", "ib2", "ib3"]
    dp = bound(make_config({"cluster.env": {"NCCL_SOCKET_IFNAME": "=eth9"}}), hosts=hosts)
    assert [option(e, "--data-parallel-address") for e in dp.engines] == ["10.0.0.1"] * 4
    assert [(e.url, e.metrics_url) for e in dp.engines[1:]] == [(None, None)] * 3
    assert {e.env["NCCL_SOCKET_IFNAME"] for e in dp.engines} == {"=eth9"}, "what the site sets goes before"


@pytest.mark.parametrize(("is_open", "address"), [(False, "127.0.0.1"), (True, "10.0.0.1")])
def test_only_the_client_reaches_the_router_unless_configured_otherwise(
    make_config: MakeConfig, is_open: bool, address: str
) -> None:
    hosts = [Host(f"n{i}", f"10.0.0.{i}", "eth0") for i in range(1, 5)]
    plan = build_plan(make_config({"topology.prefill": 1, "cluster.network.open_router": is_open}))
    for taken, port in (((), 8001), ((("10.0.0.1", 8001),), 8002), (((address, 8001),), 8002)):
        (arm,) = bind(plan, hosts, frozenset(taken)).sets[0].arms
        (router,) = arm.routers
        assert (router.node, router.url, arm.base_url) == (0, f"http://{address}:{port}", f"http://{address}:{port}")
        assert router.metrics_url == f"http://{address}:{port + 1}/metrics"


def routing(deployment: Deployment) -> dict[str, dict[str, list[str]]]:
    """Per arm and router, which URLs it serves and how, nodes for short."""
    out: dict[str, dict[str, list[str]]] = {}
    for arm in (arm for s in deployment.sets for arm in s.arms):
        for router in arm.routers:
            words, how, urls = list(router.argv), "", []
            for word in words:
                how = word[2:] if word.startswith("--") else how
                if word.startswith("http://"):
                    urls.append(f"{how} {word.removeprefix('http://')}")
            out.setdefault(arm.arm.name, {})[router.name] = urls
    return out


def test_a_router_sends_each_arm_to_its_own_roles(make_config: MakeConfig) -> None:
    arms = {f"p{p}": c.Topology(nodes=4, prefill=p, tensor_parallel=8) for p in (1, 2)}
    deployment = bind(build_plan(make_config({"arms": {**arms, "dp": c.Topology(nodes=4, tensor_parallel=8)}})))
    assert routing(deployment) == {
        "p1": {"router": ["prefill node0:8000", "decode node1:8000", "decode node2:8000", "decode node3:8000"]},
        "p2": {"router": ["prefill node0:8000", "prefill node1:8000", "decode node2:8000", "decode node3:8000"]},
        "dp": {"router": ["worker-urls node0:8000"]},
    }
    shared = deployment.sets[0]
    assert [e.role for e in shared.engines] == ["prefill", "any", "decode", "decode"]
    assert shared.arms[1].engine_roles == {"engine0": "prefill", "engine1": "prefill", "engine2": "decode", "engine3": "decode"}
    assert {arm.base_url for arm in shared.arms} == {"http://127.0.0.1:8001"}


def test_groups_of_pd_have_a_router_each_and_one_in_front(make_config: MakeConfig) -> None:
    deployment = bind(build_plan(make_config({"topology.route": 2, "topology.prefill": 1})))
    assert routing(deployment) == {
        "test": {
            "router-g0": ["prefill node0:8000", "decode node1:8000"],
            "router-g1": ["prefill node2:8000", "decode node3:8000"],
            "router": ["worker-urls 127.0.0.1:8001", "worker-urls 127.0.0.1:8003"],
        }
    }
    (arm,) = deployment.sets[0].arms
    assert [r.group for r in arm.routers] == [0, 1, None]
    assert arm.base_url == arm.routers[-1].url == "http://127.0.0.1:8005"


def test_a_single_instance_may_go_without_a_router(make_config: MakeConfig) -> None:
    (arm,) = bound(make_config({"topology.router.enabled": False})).arms
    assert arm.routers == ()
    assert arm.base_url == "http://node0:8000"


def test_the_client_runs_in_the_engines_environment_on_the_first_node(make_config: MakeConfig) -> None:
    config = make_config({"cluster.env": {"A": "1", "B": "1"}, "runtime.env": {"B": "2"}, "runtime.python": ["/opt/python", "-u"]})
    client = bind(build_plan(config)).client
    assert (client.kind, client.node, client.host, client.port, client.gpus) == ("client", 0, "node0", None, ())
    assert client.argv[:2] == ("/opt/python", "-u")
    assert client.argv[2].endswith("/pdslurm/bench/client.py")
    assert client.env == {"A": "1", "B": "2"}
