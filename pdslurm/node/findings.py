"""From what was read on a node to what is wrong with it for a configuration: one line each that names the thing, its value, what is
allowed and what to do. Pure, but for the programs that are looked for."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pdslurm.config import Config, Device, RuntimeKind, Transport, arms_of
from pdslurm.node import gpu_states, gpus
from pdslurm.node.parallel_commands import CommandResult
from pdslurm.plan.commands import CONNECTORS
from pdslurm.records import command_line

GIB = 2**30
MEMLOCK_GIB = (
    16.0  # RDMA registers send and bounce buffers; on the CPU the KV cache itself, and then Slurm's usual unlimited is due
)
SHM_GIB_PER_GPU = 0.0625  # vLLM's queue to its workers and NCCL's; docker's own 64 MB for all of a node end in SIGBUS
CLOCK_S = 1.0  # events of different nodes stand in one order
RDMA_TRANSPORTS = frozenset(
    ["rc", "rc_v", "rc_x", "rc_verbs", "rc_mlx5", "dc", "dc_x", "dc_mlx5", "ud", "ud_v", "ud_x", "ud_verbs", "ud_mlx5", "ib"]
)  # of UCX
WEIGHT_FORMATS = (None, "auto", "safetensors", "pt")  # the values of --load-format that read weights from the model's folder


# --- what the configuration asks for


def nixl_backends(config: Config) -> tuple[str, ...]:
    """NIXL's back ends of all arms; empty where no arm moves KV by NIXL."""
    found: dict[str, None] = {}
    for topology in arms_of(config).values():
        if topology.moves_by_nixl:
            found |= dict.fromkeys(topology.kv.extra_config.get("backends") or config.cluster.kv_backends or ["UCX"])
    return tuple(found)


def kv_connectors(config: Config) -> tuple[str, ...]:
    """vLLM's names of the connectors of all arms."""
    names = (t.kv.connector for t in arms_of(config).values() if t.prefill)
    return tuple(dict.fromkeys(CONNECTORS.get(name, name) for name in names))


def rdma_fields(config: Config) -> list[str]:
    """The fields that ask for RDMA between engines, as `field=value`."""
    backends, env = nixl_backends(config), {**config.cluster.env, **config.runtime.env}
    if not backends:
        return []
    transport = config.cluster.network.transport
    found = [f"cluster.network.transport={transport.value}"] if transport in (Transport.rdma, Transport.efa) else []
    found += ["cluster.kv_backends=LIBFABRIC"] if "LIBFABRIC" in backends else []
    if tls := RDMA_TRANSPORTS & set(env.get("UCX_TLS", "").split(",")):
        found.append(f"UCX_TLS={','.join(sorted(tls))}")
    if any(device.startswith(("mlx", "rdma", "bnxt", "efa", "hns")) for device in env.get("UCX_NET_DEVICES", "").split(",")):
        found.append(f"UCX_NET_DEVICES={env['UCX_NET_DEVICES']}")
    return found


# --- what is wrong


def missing_programs(config: Config) -> Iterator[str]:
    """The commands of the engine's environment that are not on this node."""
    for name in ("vllm", "router", "python"):
        command = getattr(config.runtime, name)
        if not command:
            yield f"runtime.{name}: empty; give a command"
        elif shutil.which(command[0]) is None:
            yield f"runtime.{name}={command[0]}: no such program; run `make setup`, or set PDSLURM_ENGINE"


def gpu_findings(
    config: Config, needs: int, results: Mapping[str, CommandResult], owner: gpus.Owner, visible_devices: str | None
) -> tuple[list[str], dict[str, Any]]:
    """Enough GPUs for everything that the plan puts here, and nobody else on them."""
    cluster = config.cluster
    if cluster.device is not Device.cuda:
        return [], {}
    if "gpus" not in results:
        no_program = f"needs {needs} GPUs, and this machine has no nvidia-smi; without GPUs use cluster=laptop"
        return [f"cluster={cluster.name}: {no_program}"], {}
    if silent := next(nvidia_smi_findings(results), None):
        return [silent], {}
    try:
        there, apps = gpus.parse_gpus(results["gpus"].out), gpus.parse_processes(results["apps"].out)
    except ValueError as error:
        return [f"nvidia-smi: prints what pdslurm cannot read ({str(error)[:200]!r}); {gpus.OUT_OF_ORDER}"], {}
    chosen = gpus.select_gpus(there, needs, visible_devices)
    findings = list(gpus.busy_findings(chosen, apps, owner))
    findings += order_findings(config, there, visible_devices)
    if len(chosen) < needs:
        has = f"cluster={cluster.name}: needs {needs} GPUs, and this machine has {len(there)}"
        few = visible_devices is not None and len(there) >= needs
        findings.insert(0, gpus.too_few(needs, len(chosen), visible_devices) if few else has)
    states = gpu_states.parse_states(results["states"].out if results["states"].code == 0 else "")
    return findings, gpus.gpu_facts(there, chosen, states)


def nvidia_smi_findings(results: Mapping[str, CommandResult]) -> Iterator[str]:
    """nvidia-smi that does not answer, or fails. Its states are facts alone: an older driver may not know one of their fields."""
    for result in (results["gpus"], results["apps"]):
        if result.code is None:
            hangs = "the GPU driver of this node hangs; use another node and tell the administrator"
            yield f"nvidia-smi gave no answer within {result.limit_s:g} s; {hangs}"
        elif result.code:
            yield f"nvidia-smi: {result.why}; {gpus.OUT_OF_ORDER}"


def order_findings(config: Config, there: Sequence[gpus.Gpu], visible_devices: str | None) -> Iterator[str]:
    """GPUs of several kinds, which CUDA and nvidia-smi count in different orders."""
    kinds = list(dict.fromkeys(gpu.name for gpu in there))
    order = {**os.environ, **config.cluster.env, **config.runtime.env}.get("CUDA_DEVICE_ORDER")
    if len(kinds) > 1 and order != "PCI_BUS_ID" and not (visible_devices or "").startswith("GPU-"):
        yield (
            f"CUDA_DEVICE_ORDER={order or 'FASTEST_FIRST'}: this node has {' and '.join(kinds)}, and CUDA counts them in another "
            "order than nvidia-smi, by which pdslurm judges them; set CUDA_DEVICE_ORDER=PCI_BUS_ID in cluster.env"
        )


def engine_findings(config: Config, probe: Mapping[str, Any], result: CommandResult) -> Iterator[str]:
    """Whether the engine's environment has what the plan needs, and NIXL really works in it."""
    python = f"runtime.python={shlex.join(config.runtime.python)}"
    if "versions" not in probe:
        yield f"{python}: does not run ({result.why})"
        return
    if probe["versions"].get("vllm") is None:
        yield f"{python}: vLLM is not installed there; run `make setup`, or set PDSLURM_ENGINE"
    known = probe.get("connectors") or ()
    for name in kv_connectors(config):
        if known and name not in known:
            yield f"topology.kv.connector={name}: this vLLM has no such connector; use nixl or one of {', '.join(known)}"
    if backends := nixl_backends(config):
        nixl = probe.get("nixl") or {"error": f"NIXL took the process with it, {result.why}", "backends": {}, "plugins": []}
        if nixl["error"]:
            yield f"{python}: NIXL cannot be used there ({nixl['error']}); install nixl and nixl-cu12 or nixl-cu13 for its CUDA"
        for name in backends:
            yield from backend_findings(name, nixl["backends"].get(name) or {}, nixl["plugins"])


def router_findings(config: Config, result: CommandResult) -> Iterator[str]:
    """Whether the router's program runs at all; `result` is that of its --help."""
    if result.code != 0:
        yield f"runtime.router={shlex.join(config.runtime.router)}: does not run ({result.why})"


def backend_findings(name: str, backend: Mapping[str, Any], plugins: Sequence[str]) -> Iterator[str]:
    """A back end that does not start, or UCX without a network device or RDMA transport that it was told to use."""
    lines = backend.get("said", [])
    if backend.get("error"):
        known = "" if name in plugins else f"; this NIXL has {', '.join(plugins)}"
        yield f"cluster.kv_backends={name}: NIXL cannot start it: {'; '.join([*lines, backend['error']])}{known}"
        return
    for line in lines:
        named = set(line.partition(" not available")[0].replace("'", " ").replace(",", " ").split())
        if line.startswith("network device") or (line.startswith("transport") and named & RDMA_TRANSPORTS):
            yield f"cluster.kv_backends={name}: UCX would do without what it was told to use: {line}"


def fabric_findings(fields: Sequence[str], devices: Mapping[str, bool], config: Config) -> Iterator[str]:
    """RDMA's device files, as the engines will see them."""
    env, why = {**config.cluster.env, **config.runtime.env}, ", ".join(fields)
    verbs = [path for path in devices if "uverbs" in path]
    if not verbs:
        yield f"{why}: asks for RDMA, and there is no /dev/infiniband/uverbs*; load the driver (efa, mlx5_ib), or choose TCP"
    if "gdr_copy" in env.get("UCX_TLS", "") and "/dev/gdrdrv" not in devices:
        yield f"UCX_TLS={env['UCX_TLS']}: asks for GDRCopy, and there is no /dev/gdrdrv; load gdrdrv, or leave gdr_copy out"
    for path, may_open in devices.items():
        if not may_open:
            yield f"{path}: {why} asks for RDMA, and this user may not open it; give it mode 0666"


def memlock_findings(fields: Sequence[str], limits: Mapping[str, Any]) -> Iterator[str]:
    """The limit on locked memory, which RDMA needs to register buffers. CAP_IPC_LOCK passes over it."""
    if limits["memlock"] is None or limits["ipc_lock"] or limits["memlock"] >= MEMLOCK_GIB * GIB:
        return
    yield (
        f"memlock={limits['memlock'] // 1024} KiB (ulimit -l): {', '.join(fields)} asks for RDMA, which needs unlimited or at "
        f"least {MEMLOCK_GIB:g} GiB; set LimitMEMLOCK=infinity for slurmd and PropagateResourceLimitsExcept=MEMLOCK in slurm.conf"
    )


def shm_findings(shm_free: int | None, needs: int) -> Iterator[str]:
    """Space in /dev/shm for the queues between an engine's processes."""
    least = max(1, needs) * SHM_GIB_PER_GPU
    if shm_free is not None and shm_free < least * GIB:
        yield (
            f"/dev/shm: {shm_free / GIB:.2f} GiB free; engines of {needs} GPUs need {least:g}; remove what dead processes left "
            "there, or mount it larger"
        )


def port_findings(config: Config) -> Iterator[str]:
    """vLLM's own choice of ports: without VLLM_PORT the kernel gives each engine others."""
    outer = os.environ if config.runtime.kind is RuntimeKind.bare else {}  # a container gets none of these
    if port := {**outer, **config.cluster.env, **config.runtime.env}.get("VLLM_PORT"):
        yield (
            f"VLLM_PORT={port}: every engine would look for its own ports from there, and two that start together on one node may "
            "take the same; take VLLM_PORT out of the environment, and the kernel gives each its own"
        )


def model_findings(config: Config, model: Mapping[str, Any] | None) -> Iterator[str]:
    """The model as this node's engines will find it."""
    if not model:
        return
    path, where = config.model.path, f"model.path={config.model.path}"
    if not model["folder"]:
        if path.startswith(("/", ".", "~")) or config.model.make:
            yield f"{where}: no such folder on this node; it has to be there under this path on every node"
        elif model["offline"] and not model["cached"]:
            yield f"{where}: no folder on this node, nor in {model['cache']}, and HF_HUB_OFFLINE is set; download it first"
        return
    if model["error"]:
        yield f"{where}: config.json there cannot be read on this node ({model['error']})"
    if load_format(config) not in WEIGHT_FORMATS:
        return
    if not model["weights"]:
        yield f"{where}: no weights there (*.safetensors, *.bin, …); copy them, or use model.engine_args.load_format=dummy"
    for what, names in (("are not there", model["missing"]), ("cannot be read or are empty", model["unreadable"])):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            yield f"{where}: {', '.join(names[:3])}{more} {what} on this node; copy the model again"


def load_format(config: Config) -> str | None:
    """--load-format of the engines, None where vLLM decides."""
    value = {**config.cluster.engine_args, **config.model.engine_args}.get("load_format")
    for topology in arms_of(config).values():
        for option in command_line.options(topology.extra_args):
            if option.name.startswith("--load-format"):
                value = " ".join(option.values)
    return value


def clock_offset(sent: float, node_time: float, received: float) -> tuple[float, float]:
    """How far a node's clock is ahead of the driver's, at least and at most, in seconds: it said its time somewhere between."""
    return node_time - received, node_time - sent


def clock_findings(offset: tuple[float, float]) -> Iterator[str]:
    least, most = offset
    if least > CLOCK_S or most < -CLOCK_S:
        way, by = ("ahead of", least) if least > 0 else ("behind", -most)
        yield f"clock: at least {by:.1f} s {way} the driver's; {CLOCK_S:g} s is allowed, start chrony or ntpd there"


def differences(first: Mapping[str, Any], other: Mapping[str, Any], name: str) -> list[str]:
    """What is not as on the first node, whose name is given."""
    return [f"{what} is {other.get(what)}, on {name} {value}" for what, value in first.items() if other.get(what) != value]
