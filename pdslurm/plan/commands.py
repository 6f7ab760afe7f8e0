"""From instances, hosts and ports to command lines and environments: `vllm serve`, `vllm-router`, `vllm bench serve`. Pure.

A command is a tuple of arguments and never passes through a shell; `shlex.join` makes it readable at the edge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pdslurm.config import Config, Device, Kv, KvRole, Router, Topology, Transport, Workload
from pdslurm.plan.placement import Instance
from pdslurm.plan.points import Point, typical_lengths
from pdslurm.records.command_line import options

# Set for engines so that they log what their KV moves over; no number changes by it, so that these stand in no content key.
# NixlConnector reads (ucp_get).
UCX_LOGGING = {"UCX_PROTO_INFO": "*ucp_get*"}
LIBFABRIC_LOGGING = {"FI_LOG_LEVEL": "info", "FI_LOG_PROV": "core", "FI_LOG_SUBSYS": "core"}
TRANSPORT_LOGGING = frozenset({*UCX_LOGGING, *LIBFABRIC_LOGGING})
CONNECTORS = {"nixl": "NixlConnector"}
KV_ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}
# The options set below and the fields that decide them: given again in extra_args they would win over the plan.
OWN_FLAGS = {
    "--host": "cluster", "--port": "cluster.ports", "--model": "model.path", "--served-model-name": "model.name",
    "--tensor-parallel-size": "topology.tensor_parallel", "-tp": "topology.tensor_parallel",
    "--pipeline-parallel-size": "topology.pipeline_parallel", "-pp": "topology.pipeline_parallel",
    "--data-parallel-size": "topology.gpus", "-dp": "topology.gpus", "--data-parallel-size-local": "topology.gpus",
    "-dpl": "topology.gpus", "--data-parallel-address": "topology.nodes", "-dpa": "topology.nodes",
    "--data-parallel-rpc-port": "cluster.ports", "-dpp": "cluster.ports", "--data-parallel-start-rank": "topology.nodes",
    "-dpr": "topology.nodes", "--headless": "topology.nodes", "--nnodes": "topology.nodes", "-n": "topology.nodes",
    "--node-rank": "topology.nodes", "-r": "topology.nodes", "--master-addr": "topology.nodes", "--master-port": "cluster.ports",
    "--kv-transfer-config": "topology.kv", "--enable-expert-parallel": "topology.expert_parallel",
    "-ep": "topology.expert_parallel", "--max-model-len": "model.max_model_len", "--dtype": "model.dtype",
    "--enable-prefix-caching": "workload.prefix_caching",
}  # fmt: skip
ROUTER_TIMEOUT = "--request-timeout-secs"
OWN_ROUTER_FLAGS = {
    "--host": "cluster", "--port": "cluster.ports", "--prometheus-host": "cluster", "--prometheus-port": "cluster.ports",
    "--worker-urls": "topology.route", "--vllm-pd-disaggregation": "topology.prefill", "--prefill": "topology.prefill",
    "--decode": "topology.prefill", "--policy": "topology.router.policy", "--prefill-policy": "topology.router.prefill_policy",
    "--decode-policy": "topology.router.decode_policy", ROUTER_TIMEOUT: "limits.point_s",
}  # fmt: skip
OWN_BENCH_FLAGS = {
    "--base-url": "topology.router", "--host": "cluster", "--port": "cluster.ports", "--model": "model.path",
    "--served-model-name": "model.name", "--dataset-name": "workload.dataset", "--dataset-path": "workload.dataset_path",
    "--random-input-len": "workload.sweeps", "--random-output-len": "workload.sweeps", "--input-len": "workload.sweeps",
    "--output-len": "workload.sweeps", "--sharegpt-output-len": "workload.sweeps", "--custom-output-len": "workload.sweeps",
    "--prefix-repetition-prefix-len": "workload.prefix_len", "--prefix-repetition-suffix-len": "workload.prefix_len",
    "--prefix-repetition-num-prefixes": "workload.num_prefixes", "--prefix-repetition-output-len": "workload.sweeps",
    "--request-rate": "workload.sweeps", "--max-concurrency": "workload.sweeps", "--burstiness": "workload.burstiness",
    "--ramp-up-strategy": "workload.ramp_up", "--ramp-up-start-rps": "workload.ramp_up", "--ramp-up-end-rps": "workload.ramp_up",
    "--num-prompts": "workload.num_prompts", "--seed": "seed", "--ready-check-timeout-sec": "workload.warmup_prompts",
    "--pdslurm-mix": "workload.sweeps", "--pdslurm-trace": "workload.trace", "--pdslurm-duration-s": "workload.duration_s",
    "--pdslurm-no-stream": "workload.stream", "--skip-chat-template": "workload.dataset",
}  # fmt: skip
OWN_BENCH_PREFIX = "--pdslurm-"  # what `vllm bench serve` itself does not know, and pdslurm's client does


def flags(args: Mapping[str, Any]) -> tuple[str, ...]:
    """`{"enforce_eager": True, "seed": 3, "swap": None, "x": {...}}` → `--enforce-eager --seed 3 --x '{...}'`; False gives
    `--no-…`, a list one argument an item, as vLLM's own configuration file has it; None and an empty list give nothing."""
    out: list[str] = []
    for name, value in args.items():
        flag = name.replace("_", "-")
        if value is True:
            out.append(f"--{flag}")
        elif value is False:
            out.append(f"--no-{flag}")
        elif isinstance(value, list):
            out += [f"--{flag}", *map(str, value)] if value else []
        elif isinstance(value, dict):
            out += [f"--{flag}", json.dumps(value)]
        elif value is not None:
            out += [f"--{flag}", str(value)]
    return tuple(out)


def kv_transfer_config(kv: Kv, config: Config, role: str) -> str:
    """The JSON of `--kv-transfer-config`. A failed KV load is an error: else the decode instance would quietly compute the
    prompt again."""
    value: dict[str, Any] = {
        "kv_connector": CONNECTORS.get(kv.connector, kv.connector),
        "kv_role": "kv_both" if kv.role is KvRole.both else KV_ROLES[role],
        "kv_load_failure_policy": "fail",
    }
    if config.cluster.kv_buffer_device:
        value["kv_buffer_device"] = config.cluster.kv_buffer_device
    extra = dict(kv.extra_config)
    if kv.connector == "nixl" and config.cluster.kv_backends:
        extra.setdefault("backends", list(config.cluster.kv_backends))
    if extra:
        value["kv_connector_extra_config"] = extra
    return json.dumps(value)


def engine_argv(
    config: Config, topology: Topology, instance: Instance, part: int, *, host: str, head: str, port: int, rendezvous: int
) -> tuple[str, ...]:
    """The `vllm serve` of one part of an instance.

    `host` is this part's address, `head` the first part's; `port` serves HTTP (first part only); `rendezvous` is
    the head's port for data-parallel RPC or multi-node start, unused where the instance has one part."""
    tp, pp, dp = instance.tensor_parallel, instance.pipeline_parallel, instance.data_parallel
    argv = [*config.runtime.vllm, "serve", config.model.path, "--served-model-name", config.model.name]
    if part == 0:
        argv += ["--host", host, "--port", str(port)]
    else:
        argv += ["--headless"]
    argv += ["--dtype", config.model.dtype, "--tensor-parallel-size", str(tp)]
    if config.model.max_model_len:
        argv += ["--max-model-len", str(config.model.max_model_len)]
    if pp > 1:
        argv += ["--pipeline-parallel-size", str(pp)]
    if dp > 1:
        argv += ["--data-parallel-size", str(dp)]
        if len(instance.parts) > 1:
            sizes = [len(p.gpus) // (tp * pp) for p in instance.parts]
            argv += ["--data-parallel-size-local", str(sizes[part]), "--data-parallel-address", head]
            argv += ["--data-parallel-rpc-port", str(rendezvous)]
            argv += ["--data-parallel-start-rank", str(sum(sizes[:part]))] if part else []
    elif instance.spans_nodes:
        argv += ["--nnodes", str(len(instance.parts)), "--node-rank", str(part), "--master-addr", head]
        argv += ["--master-port", str(rendezvous), "--distributed-executor-backend", "mp"]
    if topology.expert_parallel:
        argv += ["--enable-expert-parallel"]
    argv += flags(engine_args(config))
    if topology.prefill:
        argv += ["--kv-transfer-config", kv_transfer_config(topology.kv, config, instance.role)]
    return (*argv, *instance.extra_args)


def engine_args(config: Config) -> dict[str, Any]:
    """What the cluster and the model ask of every engine, and whether it keeps a prefix cache, which is the workload's choice in
    every arm alike. The order is part of a point's key: eager execution has always stood first."""
    given = {**config.cluster.engine_args, **config.model.engine_args}
    first = {name: given.pop(name) for name in ("enforce_eager",) if name in given}
    return {**first, "enable_prefix_caching": config.workload.prefix_caching, **given}


def engine_variables(
    config: Config, topology: Topology, instance: Instance, part: int, *, host: str, interface: str | None, side_channel: int
) -> dict[str, str]:
    """What an engine's process needs in its environment beside its parent's. `interface`: the one that has the address `host`."""
    own = {
        **(interface_env(config, interface) if interface else {}),
        **(transport_logging(config) if topology.moves_by_nixl else {}),
    }
    env = {**own, **config.cluster.env, **config.runtime.env, "VLLM_HOST_IP": host}
    if config.cluster.device is Device.cuda:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, instance.parts[part].gpus))
    if topology.moves_by_nixl:
        env |= {"VLLM_NIXL_SIDE_CHANNEL_HOST": host, "VLLM_NIXL_SIDE_CHANNEL_PORT": str(side_channel)}
    return env


def interface_env(config: Config, interface: str) -> dict[str, str]:
    """Where GLOO and NCCL rendezvous, and UCX where it has to use TCP: else each takes the interface that it likes, such as a
    container bridge. Among fabrics UCX and LIBFABRIC choose the one nearest to the GPU, which one name for all would spoil."""
    env = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface, "TP_SOCKET_IFNAME": interface}
    return env | ({"UCX_NET_DEVICES": interface} if config.cluster.network.transport is Transport.tcp else {})


def transport_logging(config: Config) -> dict[str, str]:
    """What makes engines log which transport their KV moves over; pdslurm/measure/transport.py reads it."""
    backends = config.cluster.kv_backends or ["UCX"]
    return {**(UCX_LOGGING if "UCX" in backends else {}), **(LIBFABRIC_LOGGING if "LIBFABRIC" in backends else {})}


def router_argv(
    config: Config,
    router: Router,
    *,
    host: str,
    port: int,
    metrics_port: int,
    workers: Sequence[str] = (),
    prefill: Sequence[str] = (),
    decode: Sequence[str] = (),
) -> tuple[str, ...]:
    """`vllm-router` over plain `workers`, or over `prefill` and `decode` instances. Retries and the circuit breaker are
    off: a benchmark has to see a failure, not its repair."""
    argv = [*config.runtime.router, "--host", host, "--port", str(port), "--policy", router.policy]
    if prefill:
        argv += ["--vllm-pd-disaggregation"]
        argv += [arg for url in prefill for arg in ("--prefill", url)]
        argv += [arg for url in decode for arg in ("--decode", url)]
        argv += ["--prefill-policy", router.prefill_policy] if router.prefill_policy else []
        argv += ["--decode-policy", router.decode_policy] if router.decode_policy else []
    else:
        argv += ["--worker-urls", *workers]
    argv += ["--prometheus-host", host, "--prometheus-port", str(metrics_port), "--log-level", "warning"]
    argv += [ROUTER_TIMEOUT, str(int(config.limits.point_s)), "--disable-retries", "--disable-circuit-breaker"]
    return (*argv, *router.extra_args)


def bench_args(config: Config, point: Point, base_url: str) -> tuple[str, ...]:
    """The arguments of `vllm bench serve` for one point, and of pdslurm's client around it (OWN_BENCH_PREFIX).
    `--ready-check-timeout-sec 0`: any other value sends the first prompt once before measuring, which warms the cache and the
    counters."""
    w, model = config.workload, config.model
    args = ["--backend", "vllm", "--base-url", base_url, "--endpoint", "/v1/completions"]
    args += ["--model", model.path, "--served-model-name", model.name, *dataset_args(w, point)]
    args += ["--num-prompts", str(point.num_prompts), "--seed", str(point.seed), "--temperature", "0", "--ignore-eos"]
    args += arrival_args(w, point)
    args += ["--ready-check-timeout-sec", "0", "--percentile-metrics", "ttft,tpot,itl,e2el"]
    args += ["--metric-percentiles", "50,90,95,99", "--save-detailed"]
    if model.engine_args.get("trust_remote_code"):
        args += ["--trust-remote-code"]
    args += [] if w.stream else ["--pdslurm-no-stream"]
    return (*args, *w.extra_args)


def with_base_url(args: Sequence[str], base_url: str) -> tuple[str, ...]:
    """`bench_args` of the same point at another address."""
    at = args.index("--base-url") + 1
    return (*args[:at], base_url, *args[at + 1 :])


def dataset_args(w: Workload, point: Point) -> list[str]:
    """Which prompts. vLLM's client has no mix, and its own traces have prompts that change from process to process and are empty
    without hash_ids: for both it is told of random prompts of about that size, which pdslurm's client replaces."""
    file = ["--dataset-path", str(w.dataset_path)] if w.dataset_path else []
    if w.dataset == "sharegpt":
        fixed = ["--sharegpt-output-len", str(point.output_len)] if point.output_len else []
        return ["--dataset-name", "sharegpt", *file, *fixed]
    if w.dataset == "custom":  # -1: each line's output_tokens
        return ["--dataset-name", "custom", *file, "--custom-output-len", str(point.output_len or -1), "--skip-chat-template"]
    if w.dataset == "prefix_repetition":
        shared, different = w.prefix_len or 0, min(w.num_prefixes or 1, point.num_prompts)
        lengths = {"prefix-len": shared, "suffix-len": point.input_len - shared, "num-prefixes": different}
        lengths |= {"output-len": point.output_len}
        options = [word for name, value in lengths.items() for word in (f"--prefix-repetition-{name}", str(value))]
        return ["--dataset-name", "prefix_repetition", *options]
    mean_input, mean_output = (str(round(n)) for n in typical_lengths(point))
    args = ["--dataset-name", "random", "--random-input-len", mean_input, "--random-output-len", mean_output]
    if w.dataset == "mix":
        args += ["--pdslurm-mix", json.dumps(point.mix)]
    if w.dataset == "trace":
        args += ["--pdslurm-trace", json.dumps({"path": w.dataset_path, **asdict(w.trace), "timed": point.paced})]
    return args


def arrival_args(w: Workload, point: Point) -> list[str]:
    """When they are sent."""
    ramp = w.ramp_up if point.paced else None
    if ramp:  # vLLM's client refuses a rate beside it
        args = ["--ramp-up-strategy", ramp.shape.value, "--ramp-up-start-rps", str(ramp.start_per_s)]
        args += ["--ramp-up-end-rps", str(ramp.end_per_s)]
    else:
        args = ["--request-rate", "inf" if point.request_rate is None else f"{point.request_rate:g}"]
    args += ["--burstiness", f"{w.burstiness:g}"] if (ramp or point.request_rate) and w.burstiness != 1 else []
    args += ["--max-concurrency", str(point.max_concurrency)] if point.max_concurrency else []
    return args + (["--pdslurm-duration-s", f"{point.duration_s:g}"] if point.duration_s else [])


def vllm_alone(args: Sequence[str]) -> tuple[str, ...]:
    """`bench_args` as `vllm bench serve` itself takes them: prompts of about the same size, and no end by the clock."""
    theirs = (option.words for option in options(args) if not option.name.startswith(OWN_BENCH_PREFIX))
    return tuple(word for words in theirs for word in words)
