"""Command lines: what each topology passes to vLLM, the router and the client, and that no argument is ever split or expanded."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pdslurm.config import Config, Device, Kv, KvRole, RampUp, Role, Router, Topology, Trace, Transport
from pdslurm.plan import commands
from pdslurm.plan.checks.workload import LENGTHS
from pdslurm.plan.deployment import bind
from pdslurm.plan.placement import place
from pdslurm.plan.plan import build_plan
from pdslurm.plan.points import Point
from pdslurm.plan.render import plan_text
from tests.made import outlined

MakeConfig = Callable[..., Config]
POINT = Point(512, 256, None, None, 1024, 0, 7, ("s",))
TRACE = {
    "path": "a.csv", "timestamp": "timestamp", "input_len": "input_length", "output_len": "output_length", "hash_ids": "hash_ids",
    "hash_tokens": 512, "seconds": 0.5, "timed": True,
}  # fmt: skip
AWKWARD = [
    "a b",
    "it's",
    'say "hi"',
    "$(touch pwned)",
    "`id`",
    "a;b|c&d>e",
    "line\nbreak",
    "*",
    "",
    "~",
    "{a,b}",
    "\\",
    "ü 🙂",
]


def engine(config: Config, instance: int = 0, part: int = 0) -> tuple[str, ...]:
    """The command of one part, on hosts a, b, c, …"""
    placed = place(config.topology, config.cluster)[instance]
    hosts = "abcdefgh"
    host, head = hosts[placed.parts[part].node], hosts[placed.parts[0].node]
    return commands.engine_argv(config, config.topology, placed, part, host=host, head=head, port=8000, rendezvous=20000)


def option(argv: tuple[str, ...], name: str) -> str | None:
    return argv[argv.index(name) + 1] if name in argv else None


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"enforce_eager": True}, ["--enforce-eager"]),
        ({"enable_prefix_caching": False}, ["--no-enable-prefix-caching"]),
        ({"seed": 0}, ["--seed", "0"]),
        ({"gpu_memory_utilization": 0.9}, ["--gpu-memory-utilization", "0.9"]),
        ({"quantization": None}, []),
        ({"compilation_config": {"level": 3, "sizes": [1, 2]}}, ["--compilation-config", '{"level": 3, "sizes": [1, 2]}']),
        ({"cudagraph_capture_sizes": [1, 2, 4]}, ["--cudagraph-capture-sizes", "1", "2", "4"]),
        ({"cudagraph_capture_sizes": []}, []),
        ({"chat_template": "a 'b' $(c)"}, ["--chat-template", "a 'b' $(c)"]),
        ({"b": 1, "a": 2}, ["--b", "1", "--a", "2"]),
    ],
)
def test_flags(args: dict[str, Any], expected: list[str]) -> None:
    assert commands.flags(args) == tuple(expected)


@pytest.mark.parametrize(
    ("changes", "role", "expected"),
    [
        pytest.param({}, "prefill", {"kv_connector": "NixlConnector", "kv_role": "kv_both"}, id="NIXL as it comes"),
        pytest.param(
            {"cluster.kv_backends": ["UCX"]},
            "decode",
            {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_connector_extra_config": {"backends": ["UCX"]}},
            id="UCX",
        ),
        pytest.param(
            {"cluster.kv_backends": ["LIBFABRIC"], "topology.kv": Kv(extra_config={"num_threads": 4})},
            "decode",
            {
                "kv_connector": "NixlConnector",
                "kv_role": "kv_both",
                "kv_connector_extra_config": {"num_threads": 4, "backends": ["LIBFABRIC"]},
            },
            id="LIBFABRIC beside extra configuration",
        ),
        pytest.param(
            {"cluster.kv_backends": ["LIBFABRIC"], "topology.kv": Kv(extra_config={"backends": ["UCX"]})},
            "decode",
            {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_connector_extra_config": {"backends": ["UCX"]}},
            id="the topology's own back end goes before the cluster's",
        ),
        pytest.param(
            {"cluster.kv_buffer_device": "cpu"},
            "prefill",
            {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cpu"},
            id="buffer on the CPU",
        ),
        pytest.param(
            {"cluster.kv_backends": ["UCX"], "topology.kv": Kv(connector="MooncakeConnector", extra_config={"x": [1]})},
            "prefill",
            {"kv_connector": "MooncakeConnector", "kv_role": "kv_both", "kv_connector_extra_config": {"x": [1]}},
            id="another connector by name gets no NIXL back end",
        ),
        pytest.param(
            {"topology.kv": Kv(role=KvRole.by_role)},
            "prefill",
            {"kv_connector": "NixlConnector", "kv_role": "kv_producer"},
            id="producer",
        ),
        pytest.param(
            {"topology.kv": Kv(role=KvRole.by_role)},
            "decode",
            {"kv_connector": "NixlConnector", "kv_role": "kv_consumer"},
            id="consumer",
        ),
    ],
)
def test_kv_transfer_config(make_config: MakeConfig, changes: dict[str, Any], role: str, expected: dict[str, Any]) -> None:
    config = make_config(changes)
    found = json.loads(commands.kv_transfer_config(config.topology.kv, config, role))
    assert found == {**expected, "kv_load_failure_policy": "fail"}


HEAD = ["vllm", "serve", "org/v2-lite", "--served-model-name", "v2-lite"]


@pytest.mark.parametrize(
    ("changes", "part", "expected"),
    [
        pytest.param(
            {"topology.route": 4},
            0,
            "--host a --port 8000 --dtype bfloat16 --tensor-parallel-size 8 --max-model-len 16384 --no-enable-prefix-caching",
            id="one node",
        ),
        pytest.param(
            {"topology.route": 4, "model.max_model_len": None},
            0,
            "--host a --port 8000 --dtype bfloat16 --tensor-parallel-size 8 --no-enable-prefix-caching",
            id="the model's own context",
        ),
        pytest.param(
            {"topology.route": 4, "topology.tensor_parallel": 2},
            0,
            "--host a --port 8000 --dtype bfloat16 --tensor-parallel-size 2 --max-model-len 16384 --data-parallel-size 4"
            " --no-enable-prefix-caching",
            id="DP inside a node needs no rendezvous",
        ),
        pytest.param(
            {"topology.tensor_parallel": 4},
            0,
            "--host a --port 8000 --dtype bfloat16 --tensor-parallel-size 4 --max-model-len 16384 --data-parallel-size 8"
            " --data-parallel-size-local 2 --data-parallel-address a --data-parallel-rpc-port 20000 --no-enable-prefix-caching",
            id="DP head",
        ),
        pytest.param(
            {"topology.tensor_parallel": 4},
            3,
            "--headless --dtype bfloat16 --tensor-parallel-size 4 --max-model-len 16384 --data-parallel-size 8"
            " --data-parallel-size-local 2 --data-parallel-address a --data-parallel-rpc-port 20000 --data-parallel-start-rank 6"
            " --no-enable-prefix-caching",
            id="last headless DP part",
        ),
        pytest.param(
            {"topology.route": 2, "topology.tensor_parallel": 16},
            0,
            "--host a --port 8000 --dtype bfloat16 --tensor-parallel-size 16 --max-model-len 16384"
            " --nnodes 2 --node-rank 0 --master-addr a --master-port 20000 --distributed-executor-backend mp"
            " --no-enable-prefix-caching",
            id="TP over two nodes, head",
        ),
        pytest.param(
            {"topology.pipeline_parallel": 4},
            2,
            "--headless --dtype bfloat16 --tensor-parallel-size 8 --max-model-len 16384 --pipeline-parallel-size 4"
            " --nnodes 4 --node-rank 2 --master-addr a --master-port 20000 --distributed-executor-backend mp"
            " --no-enable-prefix-caching",
            id="PP over four nodes, third part",
        ),
        pytest.param(
            {"topology.route": 4, "topology.tensor_parallel": 1, "topology.expert_parallel": True},
            0,
            "--host a --port 8000 --dtype bfloat16 --tensor-parallel-size 1 --max-model-len 16384 --data-parallel-size 8"
            " --enable-expert-parallel --no-enable-prefix-caching",
            id="expert parallel",
        ),
        pytest.param(
            {
                "topology.route": 4,
                "cluster.engine_args": {"enforce_eager": True, "max_num_seqs": 8},
                "model.engine_args": {"max_num_seqs": 16},
                "topology.extra_args": ["--seed", "3"],
            },
            0,
            "--host a --port 8000 --dtype bfloat16 --tensor-parallel-size 8 --max-model-len 16384"
            " --enforce-eager --no-enable-prefix-caching --max-num-seqs 16 --seed 3",
            id="the model's arguments go before the cluster's, extra_args come last",
        ),
    ],
)
def test_engine_argv(make_config: MakeConfig, changes: dict[str, Any], part: int, expected: str) -> None:
    assert engine(make_config(changes), part=part) == (*HEAD, *expected.split())


def test_disaggregated_instances_get_the_connector_and_their_roles_arguments(make_config: MakeConfig) -> None:
    changes = {
        "topology.prefill": 1,
        "topology.as_prefill": Role(extra_args=["--max-num-seqs", "4"]),
        "topology.kv": Kv(role=KvRole.by_role),
    }
    config = make_config(changes)
    roles = [json.loads(option(engine(config, n), "--kv-transfer-config") or "")["kv_role"] for n in range(4)]
    assert roles == ["kv_producer", "kv_consumer", "kv_consumer", "kv_consumer"]
    assert [option(engine(config, n), "--max-num-seqs") for n in range(4)] == ["4", None, None, None]


def test_plain_instances_carry_no_connector(make_config: MakeConfig) -> None:
    config = make_config({"topology.route": 4, "cluster.kv_backends": ["UCX"], "cluster.kv_buffer_device": "cpu"})
    assert "--kv-transfer-config" not in engine(config)
    instance = place(config.topology, config.cluster)[0]
    assert not [
        k
        for k in commands.engine_variables(config, config.topology, instance, 0, host="a", interface=None, side_channel=1)
        if "NIXL" in k
    ]


SIDE_CHANNEL = {"VLLM_NIXL_SIDE_CHANNEL_HOST": "h", "VLLM_NIXL_SIDE_CHANNEL_PORT": "20001"}


@pytest.mark.parametrize(
    ("changes", "instance", "expected"),
    [
        pytest.param(
            {"topology.route": 4}, 1, {"VLLM_HOST_IP": "h", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, id="a node's GPUs"
        ),
        pytest.param(
            {"topology.nodes": 1, "topology.route": 2, "topology.tensor_parallel": 4},
            1,
            {"VLLM_HOST_IP": "h", "CUDA_VISIBLE_DEVICES": "4,5,6,7"},
            id="the second half of a node",
        ),
        pytest.param(
            {"topology.route": 4, "cluster.one_host": True},
            1,
            {"VLLM_HOST_IP": "h", "CUDA_VISIBLE_DEVICES": "8,9,10,11,12,13,14,15"},
            id="one host numbers its GPUs through",
        ),
        pytest.param({"topology.route": 4, "cluster.device": Device.cpu}, 1, {"VLLM_HOST_IP": "h"}, id="CPU"),
        pytest.param(
            {"topology.route": 4, "cluster.device": Device.cpu, "cluster.env": {"A": "1", "B": "1"}, "runtime.env": {"B": "2"}},
            1,
            {"A": "1", "B": "2", "VLLM_HOST_IP": "h"},
            id="the runtime's environment goes before the cluster's",
        ),
        pytest.param(
            {"topology.prefill": 1, "cluster.device": Device.cpu},
            1,
            {"UCX_PROTO_INFO": "*ucp_get*", "VLLM_HOST_IP": "h", **SIDE_CHANNEL},
            id="NIXL's side channel",
        ),
        pytest.param(
            {
                "topology.prefill": 1,
                "cluster.device": Device.cpu,
                "cluster.kv_backends": ["LIBFABRIC"],
                "cluster.env": {"FI_LOG_PROV": ""},
            },
            1,
            {"FI_LOG_LEVEL": "info", "FI_LOG_PROV": "", "FI_LOG_SUBSYS": "core", "VLLM_HOST_IP": "h", **SIDE_CHANNEL},
            id="libfabric tells too, unless the cluster's environment says otherwise",
        ),
        pytest.param(
            {"topology.prefill": 1, "cluster.device": Device.cpu, "topology.kv": Kv(connector="MooncakeConnector")},
            1,
            {"VLLM_HOST_IP": "h"},
            id="another connector has no side channel of NIXL's",
        ),
    ],
)
def test_engine_variables(make_config: MakeConfig, changes: dict[str, Any], instance: int, expected: dict[str, str]) -> None:
    config = make_config(changes)
    placed = place(config.topology, config.cluster)[instance]
    assert commands.engine_variables(config, config.topology, placed, 0, host="h", interface=None, side_channel=20001) == expected


@pytest.mark.parametrize("transport", Transport)
def test_sockets_stay_on_the_chosen_interface(make_config: MakeConfig, transport: Transport) -> None:
    config = make_config({"cluster.network.transport": transport})
    ours = {"GLOO_SOCKET_IFNAME": "ib0", "NCCL_SOCKET_IFNAME": "ib0", "TP_SOCKET_IFNAME": "ib0"}
    ours |= {"UCX_NET_DEVICES": "ib0"} if transport is Transport.tcp else {}  # else UCX could not use mlx5_0
    placed = place(config.topology, config.cluster)[0]
    env = commands.engine_variables(config, config.topology, placed, 0, host="h", interface="ib0", side_channel=0)
    assert {k: v for k, v in env.items() if v == "ib0"} == ours


ENDING = (
    "--prometheus-host h --prometheus-port 9 --log-level warning --request-timeout-secs 3600"
    " --disable-retries --disable-circuit-breaker"
)


@pytest.mark.parametrize(
    ("router", "urls", "expected"),
    [
        pytest.param(Router(), {"workers": ["w1", "w2"]}, f"--policy round_robin --worker-urls w1 w2 {ENDING}", id="plain"),
        pytest.param(
            Router(prefill_policy="random"),
            {"workers": ["w1"]},
            f"--policy round_robin --worker-urls w1 {ENDING}",
            id="no P/D policy",
        ),
        pytest.param(
            Router(),
            {"prefill": ["p1"], "decode": ["d1", "d2"]},
            f"--policy round_robin --vllm-pd-disaggregation --prefill p1 --decode d1 --decode d2 {ENDING}",
            id="1P2D",
        ),
        pytest.param(
            Router(policy="random", prefill_policy="power_of_two", decode_policy="cache_aware", extra_args=["--queue-size", "5"]),
            {"prefill": ["p1", "p2"], "decode": ["d1"]},
            "--policy random --vllm-pd-disaggregation --prefill p1 --prefill p2 --decode d1"
            f" --prefill-policy power_of_two --decode-policy cache_aware {ENDING} --queue-size 5",
            id="2P1D with policies and extra arguments",
        ),
    ],
)
def test_router_argv(make_config: MakeConfig, router: Router, urls: dict[str, list[str]], expected: str) -> None:
    found = commands.router_argv(make_config(), router, host="h", port=8, metrics_port=9, **urls)
    assert found == ("vllm-router", "--host", "h", "--port", "8", *expected.split())


@pytest.mark.parametrize(
    ("changes", "point", "present", "absent"),
    [
        pytest.param(
            {},
            POINT,
            "--base-url http://x:1 --model org/v2-lite --served-model-name v2-lite --dataset-name random --random-input-len 512"
            " --random-output-len 256 --num-prompts 1024 --seed 7 --request-rate inf --ready-check-timeout-sec 0",
            "--max-concurrency --dataset-path --trust-remote-code --input-len",
            id="all at once",
        ),
        pytest.param(
            {"model.engine_args": {"trust_remote_code": True}},
            Point(1, 2, 0.5, 16, 3, 0, 7, ()),
            "--request-rate 0.5 --max-concurrency 16 --num-prompts 3 --random-input-len 1 --random-output-len 2",
            "",
            id="rate and bound",
        ),
        pytest.param(
            {"workload.burstiness": 0.5, "workload.extra_args": ["--top-p", "1"]},
            Point(512, 256, 2.0, None, 10, 0, 7, ()),
            "--request-rate 2 --burstiness 0.5 --top-p 1",
            "--ramp-up-strategy",
            id="bursts",
        ),
        pytest.param(
            {"workload.burstiness": 0.5}, POINT, "--request-rate inf", "--burstiness", id="no bursts where all are sent at once"
        ),
        pytest.param(
            {"workload.ramp_up": RampUp(2, 8)},
            POINT,
            "--ramp-up-strategy linear --ramp-up-start-rps 2 --ramp-up-end-rps 8",
            "--request-rate --burstiness",
            id="a ramp",
        ),
        pytest.param(
            {"workload.ramp_up": RampUp(2, 8)},
            POINT.warm_up(8),
            "--request-rate inf --num-prompts 8 --seed 6",
            "--ramp-up-strategy",
            id="a warm-up waits for nothing",
        ),
        pytest.param(
            {"workload.dataset": "sharegpt", "workload.dataset_path": "/data/a b.json"},
            replace(POINT, input_len=0, output_len=0),
            "--dataset-name sharegpt --dataset-path '/data/a b.json'",
            "--random-input-len --sharegpt-output-len",
            id="conversations",
        ),
        pytest.param(
            {"workload.dataset": "sharegpt", "workload.dataset_path": "a.json"},
            replace(POINT, input_len=0),
            "--dataset-name sharegpt --sharegpt-output-len 256",
            "--random-output-len",
            id="conversations with answers of one length",
        ),
        pytest.param(
            {"workload.dataset": "custom", "workload.dataset_path": "a.jsonl"},
            replace(POINT, input_len=0, output_len=0),
            "--dataset-name custom --dataset-path a.jsonl --custom-output-len -1",
            "--random-input-len",
            id="lines with their own output lengths",
        ),
        pytest.param(
            {"workload.dataset": "custom", "workload.dataset_path": "a.jsonl"},
            replace(POINT, input_len=0),
            "--custom-output-len 256",
            "",
            id="lines with one output length",
        ),
        pytest.param(
            {"workload.dataset": "prefix_repetition", "workload.prefix_len": 384, "workload.num_prefixes": 16},
            POINT,
            "--dataset-name prefix_repetition --prefix-repetition-prefix-len 384 --prefix-repetition-suffix-len 128"
            " --prefix-repetition-num-prefixes 16 --prefix-repetition-output-len 256",
            "--random-input-len",
            id="shared beginnings",
        ),
        pytest.param(
            {"workload.dataset": "prefix_repetition", "workload.prefix_len": 384, "workload.num_prefixes": 16},
            POINT.warm_up(8),
            "--prefix-repetition-num-prefixes 8",
            "",
            id="a warm-up of fewer prompts than beginnings",
        ),
        pytest.param(
            {"workload.dataset": "mix"},
            Point(0, 0, None, None, 10, 0, 7, (), mix=((0.75, 100, 10, 0.5), (0.25, 500, 50, 0.0))),
            "--dataset-name random --random-input-len 200 --random-output-len 20 --pdslurm-mix"
            " '[[0.75, 100, 10, 0.5], [0.25, 500, 50, 0.0]]'",
            "--dataset-path",
            id="a mix: by vLLM's client alone the mean of it",
        ),
        pytest.param(
            {"workload.dataset": "trace", "workload.dataset_path": "a.csv", "workload.trace": Trace(seconds=0.5)},
            Point(0, 0, None, None, 10, 0, 7, ()),
            "--dataset-name random --request-rate inf --pdslurm-trace " + shlex.quote(json.dumps(TRACE)),
            "--dataset-path --pdslurm-duration-s",
            id="a trace",
        ),
        pytest.param(
            {"workload.dataset": "trace", "workload.dataset_path": "a.csv", "workload.trace": Trace(seconds=0.5)},
            Point(0, 0, None, None, 10, 0, 7, ()).warm_up(4),
            "--num-prompts 4 --pdslurm-trace " + shlex.quote(json.dumps({**TRACE, "timed": False})),
            "",
            id="a trace's warm-up",
        ),
        pytest.param(
            {},
            replace(POINT, max_concurrency=4, duration_s=60.0),
            "--max-concurrency 4 --pdslurm-duration-s 60",
            "",
            id="a fixed time",
        ),
    ],
)
def test_bench_args(make_config: MakeConfig, changes: dict[str, Any], point: Point, present: str, absent: str) -> None:
    args = commands.bench_args(make_config(changes), point, "http://x:1")
    words = shlex.split(present)
    assert {name: option(args, name) for name in words[::2]} == dict(zip(words[::2], words[1::2], strict=True))
    assert not set(absent.split()) & set(args)
    assert ("--trust-remote-code" in args) == bool(changes.get("model.engine_args"))
    assert {"--save-detailed", "--ignore-eos"} <= set(args)


@pytest.mark.parametrize("awkward", AWKWARD)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.name", "{}"),
        ("model.path", "org/{}"),
        ("cluster.engine_args", {"chat_template": "{}"}),
        ("topology.extra_args", ["--chat-template", "{}"]),
        ("topology.router.extra_args", ["--log-dir", "{}"]),
        ("workload.extra_args", ["--header", "{}"]),
        ("cluster.env", {"X": "{}"}),
        ("runtime.vllm", ["vllm", "{}"]),
    ],
)
def test_awkward_text_stays_one_argument(make_config: MakeConfig, field: str, value: Any, awkward: str) -> None:
    """In argv as it is, and in the printed plan so that a shell reads it back."""
    value = json.loads(json.dumps(value).replace("{}", json.dumps(awkward)[1:-1]))
    deployment = bind(build_plan(make_config({"topology.route": 4, field: value})))
    config, text = deployment.plan.config, plan_text(outlined(deployment))
    engine, router = deployment.sets[0].engines[0], deployment.sets[0].arms[0].routers[0]
    bench = (
        *config.runtime.vllm,
        "bench",
        "serve",
        *commands.bench_args(config, deployment.plan.points[0], deployment.sets[0].arms[0].base_url),
    )
    for argv in (engine.argv, router.argv, bench):
        assert shlex.join(argv) in text
        assert tuple(shlex.split(shlex.join(argv))) == argv
    expected = f"org/{awkward}" if field == "model.path" else awkward
    where = {"topology.router.extra_args": router.argv, "workload.extra_args": bench, "cluster.env": tuple(engine.env.values())}
    assert expected in where.get(field, engine.argv)
    if field == "cluster.env":
        assert f"X={shlex.quote(awkward)} " in text


def test_every_option_that_is_set_is_guarded_against_being_set_twice(make_config: MakeConfig) -> None:
    """`checks` refuses these in extra_args; an option that the code below begins to set has to be added there."""
    shapes: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [0, 1]),
        ({"topology.pipeline_parallel": 4, "topology.expert_parallel": True}, [0, 1]),
        ({"topology.prefill": 1}, [0]),
    ]
    used = {a for changes, parts in shapes for part in parts for a in engine(make_config(changes), part=part) if a.startswith("--")}
    used = {a.replace("--no-", "--") for a in used}  # as the check reads them
    assert used - set(commands.OWN_FLAGS) == {"--distributed-executor-backend"}  # whose choice of `ray` is the user's
    config, urls = make_config(), {"host": "h", "port": 1, "metrics_port": 2}
    router = Router(prefill_policy="random", decode_policy="random")
    used = {a for a in commands.router_argv(config, router, workers=["w"], **urls) if a.startswith("--")}  # type: ignore[arg-type]
    used |= {a for a in commands.router_argv(config, router, prefill=["p"], decode=["d"], **urls) if a.startswith("--")}  # type: ignore[arg-type]
    assert used - set(commands.OWN_ROUTER_FLAGS) == {"--log-level", "--disable-retries", "--disable-circuit-breaker"}
    loads: list[tuple[dict[str, Any], Point]] = [({}, Point(1, 1, 1.0, 1, 1, 0, 0, (), duration_s=1.0))]
    loads += [({"workload.dataset": name}, POINT) for name in LENGTHS]
    loads += [({"workload.ramp_up": RampUp(1, 2), "workload.burstiness": 2.0, "workload.stream": False}, POINT)]
    used = {a for changes, p in loads for a in commands.bench_args(make_config(changes), p, "u") if re.match("--", a)}
    theirs = "--backend --endpoint --temperature --ignore-eos --percentile-metrics --metric-percentiles --save-detailed"
    assert used - set(commands.OWN_BENCH_FLAGS) == set(theirs.split())


@pytest.mark.parametrize("stream", [True, False])
def test_what_vllm_itself_takes(make_config: MakeConfig, stream: bool) -> None:
    """For a command to be run by hand: no option of pdslurm's client, nor its value."""
    config = make_config({"workload.dataset": "mix", "workload.stream": stream})
    point = Point(0, 0, None, 4, 10, 0, 7, (), duration_s=60.0, mix=((1.0, 100, 10, 0.0),))
    alone = commands.vllm_alone(commands.bench_args(config, point, "u"))
    assert not {a for a in alone if a.startswith(commands.OWN_BENCH_PREFIX) or a[0] == "["}
    assert (option(alone, "--random-input-len"), option(alone, "--max-concurrency"), alone[-1]) == ("100", "4", "--save-detailed")
    plain = commands.bench_args(make_config(), POINT, "u")
    assert commands.vllm_alone(plain) == plain


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "--no-enable-prefix-caching"),
        ({"workload.prefix_caching": True}, "--enable-prefix-caching"),
        ({"cluster.engine_args": {"max_num_seqs": 4, "enforce_eager": True}}, "--enforce-eager --no-enable-prefix-caching"),
    ],
)
@pytest.mark.parametrize("topology", [{"topology.route": 4}, {"topology.prefill": 1}, {}])
def test_every_engine_of_every_arm_is_told_of_prefix_caching(
    make_config: MakeConfig, topology: dict[str, Any], changes: dict[str, Any], expected: str
) -> None:
    deployment = bind(build_plan(make_config({**topology, **changes})))
    argvs = [engine.argv for bound in deployment.sets for engine in bound.engines]
    assert len(argvs) == 4
    assert all(f" {expected} " in f" {' '.join(argv)} " for argv in argvs)


def test_topology_of_one_instance_needs_no_rendezvous(make_config: MakeConfig) -> None:
    config = make_config({"topology": Topology(nodes=1, tensor_parallel=8)})
    assert not {"--data-parallel-size", "--nnodes", "--headless", "--master-port"} & set(engine(config))
