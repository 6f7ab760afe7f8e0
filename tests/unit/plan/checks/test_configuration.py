"""Checks: for each mistake the one sentence that a user reads, word for word; and nothing for what is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdslurm import config as c
from pdslurm.errors import ConfigError
from pdslurm.plan.checks.configuration import check, problems
from pdslurm.records.measurement import METRICS

MakeConfig = Callable[..., c.Config]
SEED_000 = {
    "cluster.gpus_per_node": 4,
    "cluster.gpu": "RTX3090-24GB",
    "cluster.gpu_memory_gib": 24,
    "cluster.engine_args": {"gpu_memory_utilization": 0.97},
    "topology.nodes": 1,
    "topology.tensor_parallel": 4,
    "model.max_model_len": 4096,
}
GQA = {
    "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 28, "num_key_value_heads": 4, "head_dim": 128,
    "intermediate_size": 14336, "vocab_size": 32000, "max_position_embeddings": 32768,
}  # fmt: skip


def ports(http: tuple[int, int], internal: tuple[int, int] = (20000, 25999)) -> c.Ports:
    return c.Ports(c.PortRange(*http), c.PortRange(*internal))


def sweep(*lengths: int, **more: Any) -> dict[str, c.Sweep]:
    return {"s": c.Sweep([lengths[0]], [lengths[1]], **more)}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="one DP group of 4 nodes"),
        pytest.param({"topology.route": 4}, id="route 4"),
        pytest.param({"topology.prefill": 3}, id="3P1D"),
        pytest.param({**SEED_000}, id="seed 000's TP=4 on 24 GB"),
        pytest.param({**SEED_000, "topology.prefill": 1, "topology.tensor_parallel": 2}, id="seed 000's TP=2 + TP=2 on 24 GB"),
        pytest.param({"workload.sweeps": sweep(16383, 1)}, id="prompt and output fill the context"),
        pytest.param({"cluster.ports": ports((8000, 8999), (9000, 9999))}, id="port ranges side by side"),
        pytest.param({"cluster.ports": ports((61000, 65535))}, id="ports above the kernel's own"),
        pytest.param({"model.hf_config": {}, "topology.tensor_parallel": 8, "topology.route": 4}, id="a model of unknown size"),
        pytest.param({"topology.router.enabled": False}, id="one plain instance without a router"),
        pytest.param(
            {"topology.prefill": 1, "topology.as_decode": c.Role(tensor_parallel=4, gpus=8)}, id="NIXL joins TP 8 and TP 4"
        ),
        pytest.param({"workload.search": c.Search(lowest=2.0, step=1.05), "slo": c.Slo(ttft_ms=9.0)}, id="as fine as digits allow"),
        pytest.param({"slo": c.Slo(ttft_ms=9.0, share=1.0)}, id="every request, where no rate is searched"),
        pytest.param({"workload.starts": 3}, id="three starts"),
        pytest.param({"topology.extra_args": ["--max-num-seqs", "256", "--distributed-executor-backend=ray"]}, id="passed through"),
    ],
)
def test_right_configurations_pass(make_config: MakeConfig, changes: dict[str, Any]) -> None:
    assert list(problems(make_config(changes))) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # The model and its parallel degrees
        pytest.param(
            {**SEED_000, "topology.tensor_parallel": 3},
            [
                "topology.tensor_parallel=3: an instance of 4 GPUs cannot be divided into replicas of 3; use 1, 2 or 4",
                "topology.tensor_parallel=3: v2-lite has 16 attention heads; use 1, 2, 4, 8 or 16",
            ],
            id="seed 000: TP=3 of 16 heads on 4 GPUs",
        ),
        pytest.param(
            {**SEED_000, "cluster.gpus_per_node": 3, "topology.tensor_parallel": 3},
            ["topology.tensor_parallel=3: v2-lite has 16 attention heads; use 1, 2, 4, 8 or 16"],
            id="TP=3 of 16 heads on 3 GPUs",
        ),
        pytest.param(
            {"topology.nodes": 1, "cluster.gpus_per_node": 7, "topology.tensor_parallel": 7, "model.hf_config": GQA},
            ["topology.tensor_parallel=7: v2-lite has 28 attention heads and 4 KV heads; use 1, 2, 4 or 28"],
            id="KV heads neither cut nor copied evenly",
        ),
        pytest.param(
            {**SEED_000, "topology.route": 4, "topology.tensor_parallel": 1},
            [
                "topology.tensor_parallel=1: v2-lite needs 30.9 GiB on each GPU (weights 29.3, KV cache of one request of "
                "4096 tokens 0.1, overhead 1.5), and 23.3 GiB are there (RTX3090-24GB has 24, of which "
                "gpu_memory_utilization=0.97); use a larger tensor_parallel or a smaller model.max_model_len"
            ],
            id="seed 000: TP=1 on 24 GB",
        ),
        pytest.param(
            {
                **SEED_000,
                "topology.prefill": 1,
                "topology.tensor_parallel": 2,
                "topology.as_decode": c.Role(tensor_parallel=1, gpus=1),
            },
            [
                "topology.as_decode.tensor_parallel=1: v2-lite needs 30.9 GiB on each GPU (weights 29.3, KV cache of one request "
                "of 4096 tokens 0.1, overhead 1.5), and 23.3 GiB are there (RTX3090-24GB has 24, of which "
                "gpu_memory_utilization=0.97); use a larger tensor_parallel or a smaller model.max_model_len"
            ],
            id="only decode does not fit",
        ),
        pytest.param(
            {"model.hf_config": {**GQA, "max_position_embeddings": 1000000}, "model.max_model_len": 1000000, "topology.route": 8,
             "topology.tensor_parallel": 4, "cluster.engine_args": {"gpu_memory_utilization": 0.5}, "cluster.gpu_memory_gib": 30},
            [
                "topology.tensor_parallel=4: v2-lite needs 20.0 GiB on each GPU (weights 3.2, KV cache of one request of 1000000 "
                "tokens 15.3, overhead 1.5), and 15.0 GiB are there (H100-80GB has 30, of which gpu_memory_utilization=0.5); "
                "use a larger tensor_parallel or a smaller model.max_model_len"
            ],
            id="the KV cache of one request does not fit",
        ),
        pytest.param(
            {"topology.pipeline_parallel": 32, "topology.tensor_parallel": 1},
            ["topology.pipeline_parallel=32: v2-lite has 27 layers; use at most that"],
            id="more stages than layers",
        ),
        pytest.param(
            {"topology.prefill": 1, "topology.as_decode": c.Role(tensor_parallel=3, gpus=24), "model.hf_config": {}},
            [
                "topology.as_decode.tensor_parallel=3: replicas would straddle nodes of 8 GPUs; use 1, 2, 4 or 8",
                "topology.as_decode.tensor_parallel=3: NIXL joins it to prefill's 8 only where one divides the other",
            ],
            id="TP degrees that NIXL cannot join",
        ),
        # Nodes, groups and instances
        pytest.param(
            {"topology.route": 3},
            ["topology.route=3: 4 nodes cannot be divided into 3 groups; use one of 1, 2 or 4, or a multiple of 4"],
            id="nodes not divisible by route",
        ),
        pytest.param(
            {"topology.nodes": 1, "topology.route": 3, "topology.tensor_parallel": 1},
            ["topology.route=3: 3 groups a node do not divide its 8 GPUs; use 1, 2, 4 or 8"],
            id="a node's GPUs not divisible by its groups",
        ),
        pytest.param(
            {"topology.nodes": 2, "topology.route": 6, "topology.tensor_parallel": 1},
            ["topology.route=6: 3 groups a node do not divide its 8 GPUs; use 2, 4, 8 or 16"],
            id="the same on two nodes",
        ),
        pytest.param(
            {"topology.prefill": 4},
            [
                "topology.prefill=4: no decode instance left: a group has 32 GPUs, 4 prefill instances take 32 of them and a "
                "decode instance needs 8; use 1 to 3"
            ],
            id="no decode left",
        ),
        pytest.param(
            {"topology.nodes": 1, "topology.prefill": 1},
            [
                "topology.prefill=1: no decode instance left: a group has 8 GPUs, 1 prefill instances take 8 of them and a decode "
                "instance needs 8; use more GPUs, or smaller instances (topology.gpus, tensor_parallel)"
            ],
            id="no room for P and D at all",
        ),
        pytest.param(
            {"topology.nodes": 1, "topology.tensor_parallel": 16},
            ["topology.tensor_parallel=16: needs 16 GPUs, more than 1 node(s) of 8 GPUs, 8 in all; use at most 8"],
            id="more GPUs than a node has",
        ),
        pytest.param(
            {"topology.route": 4, "topology.tensor_parallel": 8, "topology.pipeline_parallel": 2},
            ["topology.tensor_parallel=8 × pipeline_parallel=2: needs 16 GPUs, more than a group of 8 GPUs; use at most 8"],
            id="more GPUs than a group has",
        ),
        pytest.param(
            {"topology.prefill": 1, "topology.gpus": 40},
            ["topology.gpus=40: more than the 32 GPUs of a group; use at most 32"],
            id="an instance larger than its group",
        ),
        pytest.param(
            {"topology.nodes": 1, "cluster.gpus_per_node": 6, "topology.tensor_parallel": 4},
            ["topology.tensor_parallel=4: an instance of 6 GPUs cannot be divided into replicas of 4; use 1, 2, 3 or 6"],
            id="a node not divisible by TP",
        ),
        pytest.param(
            {"topology.nodes": 3, "topology.tensor_parallel": 3, "model.hf_config": {}},
            ["topology.tensor_parallel=3: replicas would straddle nodes of 8 GPUs; use 1, 2, 4 or 8"],
            id="DP ranks across the border of nodes",
        ),
        pytest.param(
            {"topology.nodes": 3, "topology.prefill": 1, "topology.tensor_parallel": 4, "topology.gpus": 12},
            [
                "topology.gpus=12: an instance would take a node of 8 GPUs only in part; use a multiple of 8",
            ],
            id="an instance of a node and a half",
        ),
        pytest.param(
            {"topology.nodes": 3, "topology.prefill": 1, "topology.tensor_parallel": 2, "topology.gpus": 6},
            ["topology.gpus=6: an instance of 6 GPUs would straddle two nodes of 8; choose gpus per instance that divide 8"],
            id="instances of six on nodes of eight",
        ),
        pytest.param(
            {"topology.tensor_parallel": 16},
            [
                "topology.tensor_parallel=16: a replica is larger than a node of 8 GPUs, and data parallel over such replicas is "
                "not supported; use route=2 to make each replica an instance"
            ],
            id="DP over replicas larger than a node",
        ),
        pytest.param(
            {"topology.nodes": 8, "topology.prefill": 1, "topology.tensor_parallel": 16, "topology.gpus": 32},
            [
                "topology.tensor_parallel=16: a replica is larger than a node of 8 GPUs, and data parallel over such replicas is "
                "not supported; use gpus=16 to make each replica an instance"
            ],
            id="the same as P/D",
        ),
        pytest.param(
            {"topology.nodes": 1, "topology.prefill": 1, "topology.tensor_parallel": 1, "topology.as_prefill": c.Role(gpus=3),
             "topology.as_decode": c.Role(gpus=2)},
            ["topology.prefill=1: leaves 1 GPUs of each group idle; choose gpus per instance that divide 8"],
            id="an idle GPU",
        ),
        pytest.param(
            {"topology.gpus": 4},
            ["topology.gpus=4: sizes P/D instances, and prefill=0; a plain instance takes its group's 32 GPUs"],
            id="gpus without P/D",
        ),
        pytest.param(
            {"topology.router.enabled": False, "topology.route": 4},
            ["topology.router.enabled=false: several instances need a router; only a single plain instance goes without"],
            id="several instances without a router",
        ),
        pytest.param(
            {"topology.prefill": 1, "topology.kv.connector": ""},
            ["topology.kv.connector=: empty; use nixl or a connector of vLLM by its class name"],
            id="no connector",
        ),
        pytest.param(
            {"topology.nodes": 0, "topology.route": -1, "topology.gpus": 0, "topology.as_decode": c.Role(tensor_parallel=-2)},
            [
                "topology.nodes=0: must be 1 or more",
                "topology.route=-1: must be 1 or more",
                "topology.gpus=0: must be 1 or more",
                "topology.as_decode.tensor_parallel=-2: must be 1 or more",
            ],
            id="numbers that nothing can have",
        ),
        pytest.param(
            {"launcher.kind": c.LauncherKind.local},
            [
                "topology.nodes=4: launcher=local has this machine alone, and cluster=eights means separate nodes; "
                "use cluster=laptop or a cluster with one_host: true"
            ],
            id="several nodes on this machine",
        ),
        pytest.param(
            {
                "topology.extra_args": ["--tensor-parallel-size=4", "-dp", "2"],
                "topology.as_prefill": c.Role(extra_args=["--kv_transfer_config", "{}"]),
                "topology.as_decode": c.Role(extra_args=["--no-enable-expert-parallel"]),
                "topology.router.extra_args": ["--policy", "random"],
            },
            [
                "topology.extra_args=--tensor-parallel-size=4: pdslurm sets --tensor-parallel-size itself; "
                "use the configuration's topology.tensor_parallel",
                "topology.extra_args=-dp: pdslurm sets -dp itself; use the configuration's topology.gpus",
                "topology.as_prefill.extra_args=--kv_transfer_config: pdslurm sets --kv_transfer_config itself; "
                "use the configuration's topology.kv",
                "topology.as_decode.extra_args=--no-enable-expert-parallel: pdslurm sets --no-enable-expert-parallel itself; "
                "use the configuration's topology.expert_parallel",
                "topology.router.extra_args=--policy: pdslurm sets --policy itself; use the configuration's topology.router.policy",
            ],
            id="options that are set elsewhere",
        ),
        # Cluster
        pytest.param(
            {"cluster.gpus_per_node": 0, "cluster.gpu_memory_gib": 0, "cluster.kv_backends": ["UCX", "GDS"],
             "cluster.engine_args": {"data_parallel_size": 2}},
            [
                "cluster.gpus_per_node=0: must be 1 or more",
                "cluster.gpu_memory_gib=0: must be above 0",
                "cluster.kv_backends=GDS: use UCX or LIBFABRIC",
                "cluster.engine_args=--data_parallel_size: pdslurm sets --data_parallel_size itself; "
                "use the configuration's topology.gpus",
            ],
            id="cluster",
        ),
        pytest.param(
            {"cluster.ports": ports((8000, 21000))},
            ["cluster.ports.http=8000-21000: overlaps cluster.ports.internal=20000-25999; use ranges apart from each other"],
            id="port ranges overlap",
        ),
        pytest.param(
            {"cluster.ports": ports((15000, 20000))},
            ["cluster.ports.http=15000-20000: overlaps cluster.ports.internal=20000-25999; use ranges apart from each other"],
            id="port ranges share their one's last port",
        ),
        pytest.param(
            {"cluster.ports": ports((25999, 26999))},
            ["cluster.ports.http=25999-26999: overlaps cluster.ports.internal=20000-25999; use ranges apart from each other"],
            id="port ranges share the other's last port",
        ),
        pytest.param(
            {"cluster.ports": ports((20000, 25999))},
            ["cluster.ports.http=20000-25999: overlaps cluster.ports.internal=20000-25999; use ranges apart from each other"],
            id="port ranges are the same",
        ),
        pytest.param(
            {"cluster.ports": ports((9000, 8000))},
            ["cluster.ports.http=9000-8000: first must not be above last, both within 1024-65535"],
            id="a port range backwards",
        ),
        pytest.param(
            {"cluster.ports": ports((80, 8000))},
            ["cluster.ports.http=80-8000: first must not be above last, both within 1024-65535"],
            id="privileged ports",
        ),
        pytest.param(
            {"cluster.ports": ports((30000, 33000))},
            [
                "cluster.ports.http=30000-33000: overlaps 32768-60999, from which Linux gives ports to outgoing connections; "
                "use a range below 32768"
            ],
            id="ports that the kernel gives away",
        ),
        # Model
        pytest.param(
            {"model.dtype": "int3"},
            ["model.dtype=int3: use one of bfloat16, float16, half, float32, float, fp8"],
            id="dtype",
        ),
        pytest.param(
            {"model.make": True, "model.hf_config": {}},
            ["model.make=true: needs model.hf_config, from which the model's folder is made"],
            id="nothing to make a model from",
        ),
        pytest.param(
            {"model.hf_config": {"num_hidden_layers": 2}},
            ["model.hf_config: the key 'hidden_size' is missing in the model's config.json; copy it from the model's own"],
            id="sizes missing",
        ),
        pytest.param(
            {"model.max_model_len": 163841},
            ["model.max_model_len=163841: v2-lite has a context of 163840 tokens; use at most that"],
            id="longer than the model's context",
        ),
        pytest.param(
            {"model.engine_args": {"tensor_parallel_size": 2}},
            [
                "model.engine_args=--tensor_parallel_size: pdslurm sets --tensor_parallel_size itself; "
                "use the configuration's topology.tensor_parallel"
            ],
            id="a degree among the engine's arguments",
        ),
        # Workload
        pytest.param(
            {"workload.sweeps": sweep(16000, 512)},
            [
                "workload.sweeps.s: input_len=16000 plus output_len=512 is 16512 tokens, longer than the model's context of 16384; "
                "shorten the sweep or raise model.max_model_len"
            ],
            id="prompt plus output longer than the context",
        ),
        pytest.param(
            {"workload.sweeps": sweep(163840, 1), "model.max_model_len": None},
            [
                "workload.sweeps.s: input_len=163840 plus output_len=1 is 163841 tokens, longer than the model's context of "
                "163840; shorten the sweep or raise model.max_model_len"
            ],
            id="longer than the model's own context",
        ),
        pytest.param(
            {"workload.sweeps": sweep(0, -1, request_rate=[0.0, None], max_concurrency=[0])},
            [
                "workload.sweeps.s.input_len=0: must be above 0",
                "workload.sweeps.s.output_len=-1: must be above 0",
                "workload.sweeps.s.request_rate=0.0: must be above 0",
                "workload.sweeps.s.max_concurrency=0: must be above 0",
            ],
            id="sweep values",
        ),
        pytest.param(
            {"workload.sweeps": {"s": c.Sweep([], [1])}},
            ["workload.sweeps.s.input_len: empty; give at least one value"],
            id="an empty list",
        ),
        pytest.param(
            {"workload.sweeps": {}},
            ["workload.sweeps: empty; give at least one sweep of input_len and output_len"],
            id="no sweep",
        ),
        pytest.param(
            {"workload.num_prompts": 0, "workload.repeats": 0, "workload.prompts_per_concurrency": 0,
             "workload.warmup_prompts": -1},
            [
                "workload.num_prompts=0: must be 1 or more",
                "workload.prompts_per_concurrency=0: must be 1 or more",
                "workload.repeats=0: must be 1 or more",
                "workload.warmup_prompts=-1: must be 0 or more",
            ],
            id="workload numbers",
        ),
        pytest.param(
            {"workload.until": c.Until(rel_ci=0.0, max_repeats=1, metrics=["speed"]), "workload.repeats": 2},
            [
                "workload.until.rel_ci=0: must be above 0, 0.05 for ±5 %; or null for workload.repeats alone",
                "workload.repeats=2: workload.until needs 3 or more, for fewer give no interval",
                "workload.until.max_repeats=1: fewer than workload.repeats=2; use that or more",
                f"workload.until.metrics=speed: no such metric; use {', '.join(METRICS)}",
            ],
            id="until",
        ),
        pytest.param(
            {"workload.until": c.Until(rel_ci=0.1, metrics=[]), "workload.repeats": 3},
            ["workload.until.metrics=[]: empty; name what has to be known, output_throughput_tok_s say"],
            id="until what",
        ),
        pytest.param({"workload.starts": 0}, ["workload.starts=0: must be 1 or more"], id="no start"),
        pytest.param(
            {"workload.starts": 3, "workload.repeats": 3, "workload.until": c.Until(rel_ci=0.05)},
            ["workload.starts=3 with workload.until.rel_ci=0.05: until adds repeats within a start; leave one of the two out"],
            id="until in several starts",
        ),
        pytest.param(
            {"workload.search": c.Search(lowest=2.0, fine=0, beside=-1, beyond=-1, cover=1.0), "slo": c.Slo(ttft_ms=9, share=1.0)},
            [
                "workload.search.fine=0: must be 1 or more",
                "workload.search.beside=-1: must be 0 or more",
                "workload.search.beyond=-1: must be 0 or more",
                "workload.search.cover=1: must be above 1, or null for no more rates than the capacity needs",
                "slo.share=1: workload.search needs a share below 1, for the worst of more requests is worse; use 0.99 or less",
            ],
            id="the rates around a capacity",
        ),
        pytest.param(
            {"workload.search": c.Search(lowest=2.0, step=1.05, fine=5), "slo": c.Slo(ttft_ms=9.0)},
            [
                "workload.search.fine=5: divides search.step=1.05 into steps below 1.01, and rates have three digits; use at most 4"
            ],
            id="rates finer than their digits",
        ),
        pytest.param(
            {"workload.search": c.Search(lowest=4.0, highest=2.0, step=1.0, neighbours=-1, saturating_prompts=0, drop_below=1.5),
             "workload.sweeps": {"s": c.Sweep([128], [32], request_rate=[2.0])},
             "workload.until": c.Until(rel_ci=0.1), "workload.repeats": 3},
            [
                "workload.search.lowest=4, highest=2: both above 0, and highest not below lowest",
                "workload.search.step=1: must be 1.01 or more, for two rates to differ",
                "workload.sweeps.s.request_rate=[2.0]: workload.search finds rates; leave it out",
                "workload.until.rel_ci=0.1: a search takes workload.repeats; leave one of the two out",
                "workload.search.neighbours=-1: must be 0 or more, or null for all",
                "workload.search.saturating_prompts=0: must be 1 or more",
                "workload.search.drop_below=1.5: must lie between 0 and 1, or null to drop none",
                "slo=none: workload.search looks for the rate at which an SLO is kept; choose slo=chat or set slo.ttft_ms",
            ],
            id="search",
        ),
        pytest.param(
            {"workload.search": c.Search(lowest=2.0, highest=4.0, neighbours=None), "workload.stream": False,
             "workload.sweeps": {"s": c.Sweep([128], [32])}, "slo": c.Slo(tpot_ms=50.0, e2el_ms=900.0)},
            ["slo.tpot_ms=50 with workload.stream=false: whole answers do not show it; limit slo.e2el_ms"],
            id="an SLO on what whole answers do not show",
        ),
        pytest.param(
            {"slo": c.Slo(ttft_ms=0.0, share=1.1, smallest_difference=1.0),
             "budget": c.Budget(gpu_hours=0.0, price_per_gpu_hour=-1.0)},
            [
                "slo.ttft_ms=0: must be above 0, or null to demand nothing",
                "slo.share=1.1: must lie above 0 and be at most 1",
                "slo.smallest_difference=1: must be at least 0 and below 1, as 0.05 for 5 %",
                "budget.gpu_hours=0: must be above 0, or null for none",
                "budget.price_per_gpu_hour=-1: must be above 0, or null for none",
            ],
            id="slo and budget",
        ),
        pytest.param(
            {"slo": c.Slo(smallest_difference=-0.01)},
            ["slo.smallest_difference=-0.01: must be at least 0 and below 1, as 0.05 for 5 %"],
            id="a difference below 0",
        ),
        pytest.param(
            {"workload.extra_args": ["--seed=0", "--burstiness", "2"]},
            [
                "workload.extra_args=--seed=0: pdslurm sets --seed itself; use the configuration's seed",
                "workload.extra_args=--burstiness: pdslurm sets --burstiness itself; use the configuration's workload.burstiness",
            ],
            id="one seed for all points",
        ),
        pytest.param(
            {"cluster.engine_args": {"enable_prefix_caching": False}, "topology.extra_args": ["--no-enable-prefix-caching"]},
            [
                "cluster.engine_args=--enable_prefix_caching: pdslurm sets --enable_prefix_caching itself; "
                "use the configuration's workload.prefix_caching",
                "topology.extra_args=--no-enable-prefix-caching: pdslurm sets --no-enable-prefix-caching itself; "
                "use the configuration's workload.prefix_caching",
            ],
            id="prefix caching is the workload's",
        ),
        # Run
        pytest.param(
            {"limits.start_s": 0.0, "limits.gpu_hours": -1.0},
            ["limits.start_s=0.0: must be above 0", "limits.gpu_hours=-1.0: must be above 0"],
            id="limits",
        ),
        pytest.param(
            {"telemetry_every_s": 0.05},
            ["telemetry_every_s=0.05: must be 0.1 or more: every look costs the engines time; null: none"],
            id="a timeline too fine",
        ),
        pytest.param(
            {"name": "a/../b"},
            ["name=a/../b: names a folder; use up to 64 letters, digits, '.', '_' and '-'"],
            id="a name that is a path",
        ),
    ],
)  # fmt: skip
def test_each_mistake(make_config: MakeConfig, changes: dict[str, Any], expected: list[str]) -> None:
    config = make_config(changes)
    assert list(dict.fromkeys(problems(config))) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("{tmp}/empty", ["model.path={tmp}/empty: the folder has no config.json; give a folder of a Hugging Face model"]),
        (
            "{tmp}/none",
            ["model.path={tmp}/none: no such folder; give a folder with config.json, or a hub's name such as org/model"],
        ),
        (
            "models/of/mine",
            ["model.path=models/of/mine: no such folder; give a folder with config.json, or a hub's name such as org/model"],
        ),
        ("./mine", ["model.path=./mine: no such folder; give a folder with config.json, or a hub's name such as org/model"]),
        ("org/model", []),
        ("gpt2", []),
        (
            "{tmp}/broken",
            [
                "model.path={tmp}/broken: config.json there is not JSON "
                "(Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"
            ],
        ),
    ],
)
def test_model_folders(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, expected: list[str]
) -> None:
    """On the machine that the engines run on."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{broken")
    here = {"launcher.kind": c.LauncherKind.local, "cluster.one_host": True}
    config = make_config({"model.path": path.format(tmp=tmp_path), **here})
    assert list(problems(config)) == [e.replace("{tmp}", str(tmp_path)) for e in expected]


@pytest.mark.parametrize(
    ("kind", "path", "is_problem"),
    [
        (c.LauncherKind.plan, "/raid/models/X", False),
        (c.LauncherKind.script, "/raid/models/X", False),
        (c.LauncherKind.slurm, "/raid/models/X", False),
        (c.LauncherKind.allocation, "/raid/models/X", False),
        (c.LauncherKind.local, "/raid/models/X", True),
        (c.LauncherKind.slurm, "raid/models/X", True),
        (c.LauncherKind.slurm, "{tmp}", True),  # it is there, and no model
    ],
)
def test_a_model_on_the_nodes_own_disks(
    make_config: MakeConfig, tmp_path: Path, kind: c.LauncherKind, path: str, is_problem: bool
) -> None:
    config = make_config({"model.path": path.format(tmp=tmp_path), "launcher.kind": kind, "cluster.one_host": True})
    assert [text.partition("=")[0] for text in problems(config)] == ["model.path"] * is_problem


def test_a_models_folder_goes_before_the_configured_sizes(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 8, "vocab_size": 8,'
        ' "max_position_embeddings": 64}'
    )
    found = "\n".join(problems(make_config({"model.path": str(tmp_path)})))
    assert "tensor_parallel=8: v2-lite has 3 attention heads; use 1 or 3" in found
    assert "v2-lite has a context of 64 tokens" in found


def test_a_folder_that_is_to_be_made_does_not_count(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"from": "an earlier run"}')
    assert list(problems(make_config({"model.path": str(tmp_path), "model.make": True}))) == []


def test_all_problems_at_once_each_once(make_config: MakeConfig) -> None:
    three, bad = c.Topology(nodes=4, route=3, tensor_parallel=8), c.Topology(nodes=4, tensor_parallel=8, prefill=4)
    config = make_config({
        "workload.num_prompts": 0,
        "cluster.ports": ports((8000, 21000)),
        "model.path": "no/such/folder",
        "arms": {"fine": c.Topology(nodes=4, tensor_parallel=8), "three": three, "all p": bad},
        "topology": c.Topology(nodes=0, tensor_parallel=0),  # arms take its place
    })  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert [p.split(":")[0] for p in caught.value.problems] == [
        "model.path=no/such/folder",
        "cluster.ports.http=8000-21000",
        "workload.num_prompts=0",
        "arms.all p=all p",
        "arms.three.route=3",
        "arms.all p.prefill=4",
    ]
    assert str(caught.value).startswith("6 problems in the configuration; nothing was started\n  - model.path=")


def test_a_problem_of_both_roles_is_told_once(make_config: MakeConfig) -> None:
    config = make_config({"topology.prefill": 1, "cluster.gpu_memory_gib": 3})
    assert len(list(problems(config))) == 2
    with pytest.raises(ConfigError, match=r"^1 problem in"):
        check(config)
