"""Plans: which arms share loaded instances, that all arms measure the same points, the printed forms, and the time it takes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from pdslurm import config as c
from pdslurm.errors import ConfigError
from pdslurm.plan.deployment import bind
from pdslurm.plan.estimate import ARM_S, BESIDE_S
from pdslurm.plan.outline import make_outline
from pdslurm.plan.plan import Plan, build_plan
from pdslurm.plan.render import dump_json, plan_json, plan_text
from tests.machine import unit_s
from tests.made import outlined

MakeConfig = Callable[..., c.Config]


def pd(prefill: int, **more: Any) -> c.Topology:
    return c.Topology(nodes=4, prefill=prefill, tensor_parallel=8, **more)


def plain(route: int, **more: Any) -> c.Topology:
    return c.Topology(nodes=4, route=route, tensor_parallel=8, **more)


def sharing(plan: Plan) -> dict[str, list[str]]:
    return {s.name: [arm.name for arm in s.arms] for s in plan.sets}


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        pytest.param(
            {"a": pd(1), "b": pd(2), "c": pd(3)}, {"shared-a-b-c": ["a", "b", "c"]}, id="P/D arms that differ in role alone share"
        ),
        pytest.param(
            {"dp": plain(1), "a": pd(1), "r4": plain(4), "b": pd(2)},
            {"dp": ["dp"], "shared-a-b": ["a", "b"], "r4": ["r4"]},
            id="plain arms run without a connector, on their own",
        ),
        pytest.param({"x": plain(4), "y": plain(4)}, {"x": ["x"], "y": ["y"]}, id="plain arms never share"),
        pytest.param(
            {"a": pd(1), "b": pd(2, router=c.Router(policy="random"))},
            {"shared-a-b": ["a", "b"]},
            id="a router is the arm's own matter",
        ),
        pytest.param(
            {"a": pd(1, kv=c.Kv(role=c.KvRole.by_role)), "b": pd(2, kv=c.Kv(role=c.KvRole.by_role))},
            {"a": ["a"], "b": ["b"]},
            id="producers and consumers are loaded as such",
        ),
        pytest.param({"a": pd(1), "b": pd(2, kv=c.Kv(connector="Other"))}, {"a": ["a"], "b": ["b"]}, id="another connector"),
        pytest.param(
            {"a": pd(1), "b": pd(2, kv=c.Kv(extra_config={"x": 1}))}, {"a": ["a"], "b": ["b"]}, id="another connector's setting"
        ),
        pytest.param({"a": pd(1), "b": pd(2, expert_parallel=True)}, {"a": ["a"], "b": ["b"]}, id="expert parallel"),
        pytest.param({"a": pd(1), "b": pd(2, extra_args=["--x"])}, {"a": ["a"], "b": ["b"]}, id="other arguments"),
        pytest.param(
            {"a": pd(1, as_prefill=c.Role(extra_args=["--x"])), "b": pd(2, as_prefill=c.Role(extra_args=["--x"]))},
            {"a": ["a"], "b": ["b"]},
            id="arguments by role: instance 1 is loaded differently",
        ),
        pytest.param(
            {"a": pd(1), "b": pd(1, as_decode=c.Role(tensor_parallel=4, gpus=8))},
            {"a": ["a"], "b": ["b"]},
            id="another TP for decode",
        ),
        pytest.param({"a": pd(1), "b": pd(1, route=2)}, {"a": ["a"], "b": ["b"]}, id="other groups"),
    ],
)
def test_which_arms_share_instances(make_config: MakeConfig, arms: dict[str, c.Topology], expected: dict[str, list[str]]) -> None:
    assert sharing(build_plan(make_config({"arms": arms}))) == expected


def test_roles_of_shared_instances_by_arm(make_config: MakeConfig) -> None:
    (shared,) = build_plan(make_config({"arms": {"a": pd(1), "b": pd(3)}})).sets
    assert {arm.name: arm.roles for arm in shared.arms} == {
        "a": ("prefill", "decode", "decode", "decode"),
        "b": ("prefill", "prefill", "prefill", "decode"),
    }
    assert (len(shared.instances), shared.gpu_count) == (4, 32)


def test_one_topology_is_one_arm_of_the_runs_name(make_config: MakeConfig) -> None:
    assert sharing(build_plan(make_config({"name": "mine"}))) == {"mine": ["mine"]}


def test_an_allocation_is_as_large_as_its_largest_arm(make_config: MakeConfig) -> None:
    arms = {"two": c.Topology(nodes=2, tensor_parallel=8), "four": plain(4)}
    plan = build_plan(make_config({"arms": arms, "cluster.load_s": 3600.0}))
    assert (plan.nodes, plan.gpus) == (4, 32)
    measure_s = sum(s.measure_s + s.warm_s for s in plan.sets)
    assert measure_s > 0
    assert plan.estimate_s == pytest.approx(2 * 3600 + measure_s)
    assert plan.estimate_gpu_hours == pytest.approx(32 * plan.estimate_s / 3600)


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ({"workload.num_prompts": 2000}, {"workload.num_prompts": 1000}),
        ({"workload.repeats": 2}, {"workload.repeats": 1}),
        ({"workload.starts": 2}, {"workload.repeats": 2}),
        ({"workload.sweeps": {"s": c.Sweep([4096], [32])}}, {"workload.sweeps": {"s": c.Sweep([128], [32])}}),
        ({"workload.sweeps": {"s": c.Sweep([128], [512])}}, {"workload.sweeps": {"s": c.Sweep([128], [32])}}),
        (
            {"workload.sweeps": {"s": c.Sweep([128], [32], max_concurrency=[1])}},
            {"workload.sweeps": {"s": c.Sweep([128], [32], max_concurrency=[8])}},
        ),
        (
            {"workload.sweeps": {"s": c.Sweep([128], [32], request_rate=[0.5])}},
            {"workload.sweeps": {"s": c.Sweep([128], [32], request_rate=[5.0])}},
        ),
        ({"topology.nodes": 1}, {"topology.nodes": 4, "workload.num_prompts": 10}),
    ],
    ids=["prompts", "repeats", "loads of the engines", "input", "output", "concurrency", "rate", "nodes"],
)
def test_the_estimate_grows_with_the_work(make_config: MakeConfig, more: dict[str, Any], less: dict[str, Any]) -> None:
    assert build_plan(make_config(more)).estimate_s > build_plan(make_config(less)).estimate_s


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({"workload.duration_s": 60.0, "workload.sweeps": {"s": c.Sweep([128], [32], max_concurrency=[4])}}, 60),
        ({"workload.duration_s": 60.0, "workload.ramp_up": c.RampUp(1, 8)}, 60),
        ({"workload.num_prompts": 90, "workload.sweeps": {"s": c.Sweep([128], [32], request_rate=[1.5])}}, 60),
    ],
)
def test_a_fixed_time_is_the_estimate(make_config: MakeConfig, changes: dict[str, Any], seconds: float) -> None:
    changes = {**changes, "cluster.load_s": 0.0, "workload.warmup_prompts": 0}
    assert build_plan(make_config(changes)).estimate_s == pytest.approx(seconds + 0.8 + BESIDE_S + ARM_S, abs=0.01)


def test_with_prefix_caching_no_arm_finds_another_s_prompts(make_config: MakeConfig) -> None:
    """P/D arms share instances, and all arms get the same prompts."""
    changes = {"arms": {"a": pd(1), "b": pd(2)}}
    assert [s.name for s in build_plan(make_config(changes)).sets] == ["shared-a-b"]
    assert [s.name for s in build_plan(make_config({**changes, "workload.prefix_caching": True})).sets] == ["a", "b"]


def test_a_rate_bounds_the_estimate_from_below(make_config: MakeConfig) -> None:
    slow = {"workload.sweeps": {"s": c.Sweep([128], [32], request_rate=[0.1])}, "cluster.load_s": 0.0}
    assert build_plan(make_config(slow)).estimate_s > 10 / 0.1


def test_every_arm_measures_the_same_points_with_the_same_seeds(make_config: MakeConfig) -> None:
    arms = {"dp": plain(1), "r4": plain(4), "a": pd(1), "b": pd(2)}
    sweeps = {"s": c.Sweep([128, 256], [32], request_rate=[2.0, None])}
    config = make_config({"arms": arms, "workload.sweeps": sweeps, "workload.repeats": 3})
    by_arm: dict[str, list[tuple[str, int, int]]] = {}
    for point in plan_json(bind(build_plan(config)), ())["points"]:
        by_arm.setdefault(point["arm"], []).append((point["id"], point["seed"], point["num_prompts"]))
    assert set(by_arm) == set(arms)
    assert len({tuple(listed) for listed in by_arm.values()}) == 1
    assert len(by_arm["dp"]) == len(set(by_arm["dp"])) == 2 * 2 * 3


def test_a_plan_is_made_of_a_right_configuration_alone(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"topology\.route=3"):
        build_plan(make_config({"topology.route": 3}))


def test_json_has_what_programs_rely_on(make_config: MakeConfig) -> None:
    deployment = bind(build_plan(make_config({"arms": {"a": pd(1), "b": pd(2), "dp": plain(1)}})))
    plan = json.loads(dump_json(outlined(deployment)))
    promised = {"name", "kind", "role", "group", "node", "gpus", "port", "argv", "env"}
    assert all(promised <= set(process) for process in plan["processes"])
    kinds = [(p["kind"], p["name"], p.get("arm") or p.get("set")) for p in plan["processes"]]
    assert kinds == [
        *[("engine", f"engine{n}", "shared-a-b") for n in range(4)],
        *[("router", "router", arm) for arm in ("a", "b")],
        ("engine", "engine0", "dp"),
        *[("engine", f"engine0-part{n}", "dp") for n in (1, 2, 3)],
        ("router", "router", "dp"),
        ("client", "client", None),
    ]
    engines = [p for p in plan["processes"] if p["kind"] == "engine"]
    assert [p["role"] for p in engines] == ["prefill", "any", "decode", "decode", "both", "both", "both", "both"]
    assert engines[1]["roles"] == {"a": "decode", "b": "prefill"}
    assert engines[5]["roles"] == {"dp": "both"}  # a headless part does what its instance does
    assert [p["node"] for p in engines] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert engines[0]["gpus"] == list(range(8))
    assert [p["port"] for p in engines[4:]] == [8000, None, None, None]
    first = plan["points"][0]
    assert {
        "arm",
        "id",
        "input_len",
        "output_len",
        "request_rate",
        "max_concurrency",
        "num_prompts",
        "repeat",
        "seed",
        "sweeps",
    } <= set(first)
    router = next(p for p in plan["processes"] if p["kind"] == "router" and p["arm"] == first["arm"])
    assert first["bench_args"][first["bench_args"].index("--base-url") + 1] == f"http://127.0.0.1:{router['port']}"
    assert plan["estimate"].keys() == {"seconds", "gpu_hours", "from"}
    assert (plan["nodes"], plan["gpus"]) == (4, 32)


def test_text_tells_a_person_what_would_run(make_config: MakeConfig) -> None:
    text = plan_text(make_outline(make_config({"arms": {"a": pd(1), "dp": plain(1)}})))
    summary = text.splitlines()[0]
    assert summary.startswith("test: v2-lite on 4 node(s) × 8 H100-80GB (cluster eights); 2 arm(s): a, dp; 1 points each; roughly ")
    assert summary.endswith("GPU-hours")
    assert "a: 4 instance(s) on 32 GPUs, loaded once" in text
    assert "dp: 1 instance(s) on 32 GPUs, loaded once" in text
    assert "arm a: 1 prefill, 3 decode; the client talks to http://127.0.0.1:8001" in text
    assert "  engine0-part3  both     group 0  node 3  GPU 0,1,2,3,4,5,6,7 headless" in text
    assert "i128-o32-rinf-cinf-rep0" in text


def test_text_of_a_large_plan_stays_short(make_config: MakeConfig) -> None:
    text = plan_text(make_outline(make_config({"topology.nodes": 256, "topology.route": 256})))
    assert "224 more of the same kind (launcher.format=json shows all)" in text
    assert "engine15 " in text
    assert "engine16 " not in text
    assert "engine255 " in text
    assert len(text) < 10_000


def test_text_speaks_of_cpu_slots_where_there_is_no_gpu(make_config: MakeConfig) -> None:
    text = plan_text(make_outline(make_config({"cluster.device": c.Device.cpu, "topology.route": 4})))
    assert "4 instance(s) on 32 CPU slots" in text
    assert "GPU" not in text


@pytest.mark.parametrize(
    "topology",
    [
        c.Topology(nodes=1024, tensor_parallel=8),
        c.Topology(nodes=1024, route=1024, tensor_parallel=8),
        c.Topology(nodes=1024, route=4096, tensor_parallel=2),
        c.Topology(nodes=1024, route=256, prefill=1, tensor_parallel=8),
        c.Topology(nodes=1024, prefill=256, tensor_parallel=8),
        c.Topology(nodes=1024, prefill=1, tensor_parallel=2, gpus=4096),
    ],
    ids=["DP over all", "route 1024", "route 4096", "256 groups of 1P3D", "256P768D", "1P1D of 4096 GPUs each"],
)
def test_a_plan_of_1024_nodes_takes_little_time(make_config: MakeConfig, topology: c.Topology) -> None:
    config = make_config({"topology": topology, "cluster.ports": c.Ports(c.PortRange(6000, 9999), c.PortRange(20000, 29999))})
    start = time.process_time()  # not wall time: other tests share the machine
    deployment = bind(build_plan(config))
    text = dump_json(outlined(deployment))
    plan_text(outlined(deployment))
    assert time.process_time() - start < 15 * unit_s()
    plan = json.loads(text)
    assert len({(p["node"], gpu) for p in plan["processes"] for gpu in p["gpus"]}) == 8192


# --- the warm-up


def test_every_arm_is_warmed_by_the_same_requests_whatever_its_instances(make_config: MakeConfig) -> None:
    """Whole at first, and by eight for each instance of the largest arm where only a router is new."""
    arms = {"few": c.Topology(nodes=1, tensor_parallel=8), "many": c.Topology(nodes=1, route=4, tensor_parallel=2)}
    plan = build_plan(make_config({"arms": arms, "workload.warmup_prompts": 64}))
    assert [load.num_prompts for load in plan.warm_up(0, whole=True)] == [64]
    assert [load.num_prompts for load in plan.warm_up(0, whole=False)] == [8 * 4]


def test_the_estimate_counts_the_warm_up_of_every_turn(make_config: MakeConfig) -> None:
    arms = {f"pd_{p}p": c.Topology(nodes=4, prefill=p, tensor_parallel=8) for p in (1, 2)}

    def warm_s(**more: Any) -> float:
        (one_set,) = build_plan(
            make_config({"arms": arms, "workload.repeats": 3, **{f"workload.{k}": v for k, v in more.items()}})
        ).sets
        return one_set.warm_s

    alone = warm_s(warmup_prompts=0, interleave=c.Interleave.none)
    assert alone == 2 * ARM_S, "the router and the first requests of each arm"
    once, each = warm_s(interleave=c.Interleave.none), warm_s(interleave=c.Interleave.arms)
    assert alone < once < each <= 3 * once + 1e-9
    assert warm_s(interleave=c.Interleave.none, starts=2) == pytest.approx(2 * once)
    assert warm_s(interleave=c.Interleave.arms, starts=2) == pytest.approx(2 * each)


def test_a_plan_counts_every_start(make_config: MakeConfig) -> None:
    one, three = (build_plan(make_config({"workload.starts": n, "workload.repeats": 2})) for n in (1, 3))
    assert [len(plan.sure_points) for plan in (one, three)] == [2, 6]
    assert three.estimate_s == pytest.approx(3 * one.estimate_s)
    assert "loaded 3 times" in plan_text(make_outline(three.config))


# --- what it can tell apart


def test_a_plan_says_what_its_starts_can_tell_apart(make_config: MakeConfig) -> None:
    arms = {"r4": plain(4), "a": pd(1), "b": pd(2), "c": pd(3)}
    outline = make_outline(make_config({"arms": arms, "workload.starts": 3, "workload.repeats": 1}))
    assert "What 3 starts can tell apart: if starts of an arm differ by 2 %, an arm that is 15 % better" in plan_text(outline)
    assert json.loads(dump_json(outline))["power"]["found"][0] == {"starts": 3, "start_sd": 0.02, "ratio": 1.149}
    alone = make_outline(make_config())
    assert "tell apart" not in plan_text(alone)
    assert json.loads(dump_json(alone))["power"] is None


@pytest.mark.parametrize(("duration_s", "searching", "is_said"), [(59.0, True, True), (60.0, True, False), (59.0, False, False)])
def test_a_plan_warns_of_a_search_with_short_points(
    make_config: MakeConfig, duration_s: float, searching: bool, is_said: bool
) -> None:
    search = c.Search(lowest=1.0 if searching else None)
    sweeps = {"s": c.Sweep([128], [32], max_concurrency=[4])}
    outline = make_outline(make_config({"workload.search": search, "workload.duration_s": duration_s, "workload.sweeps": sweeps,
                                        "slo": c.Slo(ttft_ms=500.0)}))  # fmt: skip
    said = "workload.duration_s=59 is below 60: a queue that begins empty flatters a short point"
    assert (f"caution: {said}" in plan_text(outline)) is is_said
    assert [text.startswith(said) for text in json.loads(dump_json(outline))["cautions"]] == [True] * is_said


@pytest.mark.parametrize(
    ("path", "is_said"),
    [("org/model", False), ("/raid/models/X", True)],
    ids=["a hub's name", "on the nodes"],
)
def test_a_plan_says_what_only_the_nodes_can_look_at(make_config: MakeConfig, path: str, is_said: bool) -> None:
    said = f"not checked here: model.path={path}: there is no such folder on this machine; the preflight looks for it on every node"
    assert (said in plan_text(make_outline(make_config({"model.path": path})))) is is_said
