"""A configuration that passed every check in; what those checks could not know, and who finds it out when, a sentence each, out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pdslurm.config import Config, Device, RuntimeKind, Transport, arms_of
from pdslurm.plan.model import model_shape

WITHOUT_CONTAINER = (RuntimeKind.bare, RuntimeKind.pyxis)  # with Pyxis it is Slurm that fetches the image


def unchecked(config: Config) -> tuple[str, ...]:
    """Only what is true of this configuration."""
    if config.attach:
        return ("what runs at the addresses under attach: pdslurm asks each of them before the first point",)
    return (*_model(config), *_gpus(config), *_engine(config), *_network(config), *_slurm(config), *_outcome(config))


def _model(config: Config) -> Iterator[str]:
    model, path = config.model, f"model.path={config.model.path}"
    try:
        shape = model_shape(model)
    except (KeyError, ValueError):  # a config.json of another form: as good as none
        shape = None
    if shape is None:
        yield f"the sizes of {model.name}, so memory, heads and context: vLLM finds out when its engines start"
    if model.make:
        return
    if (Path(model.path) / "config.json").is_file():
        yield f"{path}: the preflight looks on every node whether the folder and its weights are there"
    elif Path(model.path).is_absolute():
        yield f"{path}: there is no such folder on this machine; the preflight looks for it on every node"
    else:
        yield f"{path}: the engines look for this hub's name in their cache, or download it, when they start"
        if model.hf_config and shape:
            yield "model.hf_config: nobody compares these sizes with the config.json of the model"


def _gpus(config: Config) -> Iterator[str]:
    cluster = config.cluster
    if cluster.device is Device.cpu:
        return
    yield (
        f"cluster.gpu={cluster.gpu}, gpu_memory_gib={cluster.gpu_memory_gib:g}: nobody measured the GPUs; the preflight counts "
        "those that are free on every node, and vLLM finds out at its start whether their memory is enough"
    )


def _engine(config: Config) -> Iterator[str]:
    runtime = config.runtime
    if runtime.kind is RuntimeKind.pyxis:
        yield f"runtime.image={runtime.image}: srun fetches it on every node when the job has begun"
    elif runtime.kind not in WITHOUT_CONTAINER:
        yield f"runtime.image={runtime.image}: every node loads it, and says if it cannot, before the preflight"
    else:
        yield f"runtime.vllm={' '.join(runtime.vllm)}: the preflight looks on every node whether it is there"
    yield "whether this vLLM knows every option: the preflight on the first node asks it"
    if any(topology.moves_by_nixl for topology in arms_of(config).values()):
        yield f"NIXL and its back end {', '.join(config.cluster.kv_backends) or 'UCX'}: the preflight starts it on every node"
    yield "whether ports are free: the preflight takes free ones of cluster.ports on every node"


def _network(config: Config) -> Iterator[str]:
    network = config.cluster.network
    if config.cluster.one_host or max(topology.nodes for topology in arms_of(config).values()) < 2:
        return
    named = [f"cluster.network.{name}={value}" for name in ("interface", "cidr") if (value := getattr(network, name))]
    if named:
        yield f"{', '.join(named)}: every node looks for an address that fits before the preflight"
    else:
        yield (
            "which network the engines use: cluster.network names neither interface nor cidr, so it is the one that leads to the "
            "first node; nobody checks that it is the fast one"
        )
    if network.transport is Transport.any and any(topology.moves_by_nixl for topology in arms_of(config).values()):
        yield (
            "cluster.network.transport=any: nobody checks what the KV cache moves over between nodes; with rdma, efa or tcp "
            "every point is checked for it"
        )


def _slurm(config: Config) -> Iterator[str]:
    if not config.cluster.one_host:
        wanted = "partition, account and time" if config.cluster.device is Device.cpu else "partition, account, GPUs and time"
        yield f"cluster.slurm: sbatch says when the job is submitted whether it takes {wanted}"


def _outcome(config: Config) -> Iterator[str]:
    if config.workload.search.lowest is not None:
        lowest = f"workload.search.lowest={config.workload.search.lowest:g}"
        yield f"whether any arm meets slo={config.slo.name} at {lowest}: the first start shows it"
    yield (
        "time and cost: they are an estimate, good to a factor of 1.5 after a run of this cluster and model, and of 2 before; "
        "workload=smoke shows how long loading takes"
    )
