"""From what nvidia-smi prints to a node's GPUs, who uses them and what is wrong with that. Pure.

Their clocks and what slowed them are pdslurm/node/gpu_states.py's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MEMORY_FREE = 0.02  # of a GPU's memory may be in use before it counts as busy: an idle driver keeps up to 1 % for itself
GPU_FIELDS = ("index", "uuid", "name", "memory.total", "memory.used", "driver_version", "mig.mode.current")
APP_FIELDS = ("gpu_uuid", "pid", "used_memory", "process_name")  # the name last: it may contain commas


@dataclass(frozen=True)
class Gpu:
    """Memory in MiB; None where the driver does not tell."""

    index: int
    uuid: str
    name: str
    total_mib: int | None
    used_mib: int | None
    driver: str
    mig: bool


@dataclass(frozen=True)
class GpuProcess:
    """A process that has a context on a GPU."""

    uuid: str
    pid: int
    used_mib: int | None
    name: str


Owner = Callable[[int], str | None]  # of a process by its pid; None where it cannot be seen from here


def query(kind: str, fields: Sequence[str]) -> tuple[str, ...]:
    """The command whose output the functions below read; kind: gpu or compute-apps."""
    return "nvidia-smi", f"--query-{kind}={','.join(fields)}", "--format=csv,noheader,nounits"


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """GPU_FIELDS of every GPU. Raises ValueError for what is no such output."""
    return tuple(
        Gpu(int(index), uuid, name, number(total), number(used), driver, mig == "Enabled")
        for index, uuid, name, total, used, driver, mig in rows(text, len(GPU_FIELDS))
    )


def parse_processes(text: str) -> tuple[GpuProcess, ...]:
    """APP_FIELDS of every process that computes on a GPU."""
    return tuple(GpuProcess(uuid, int(pid), number(used), name) for uuid, pid, used, name in rows(text, len(APP_FIELDS)))


def select_gpus(gpus: Sequence[Gpu], needs: int, visible_devices: str | None) -> list[Gpu]:
    """The GPUs that engines will use: the first of those that CUDA_VISIBLE_DEVICES names, else the first there are."""
    names = visible_devices.split(",") if visible_devices else [str(n) for n in range(needs)]
    return [gpu for gpu in gpus if {str(gpu.index), gpu.uuid} & set(names[:needs])]


def rows(text: str, width: int) -> Iterator[list[str]]:
    """Lines of CSV; what is too much belongs to the last field. Raises ValueError for a line with less: an error in words."""
    for line in filter(None, map(str.strip, text.splitlines())):
        if line == "No running processes found":
            continue
        row = [field.strip() for field in line.split(",", width - 1)]
        if len(row) < width:
            raise ValueError(line)
        yield row


def number(text: str) -> int | None:
    """None for [N/A], [Not Supported], [Insufficient Permissions] and their like."""
    return int(text) if text.isdigit() else None


def busy_findings(gpus: Sequence[Gpu], processes: Sequence[GpuProcess], owner: Owner) -> Iterator[str]:
    """One line for each process on one of these GPUs, or for memory in use by nobody to be seen."""
    for gpu in gpus:
        here = [p for p in processes if p.uuid == gpu.uuid]
        for p in here:
            holds = f"holds {_gib(p.used_mib)} GiB of it" if p.used_mib is not None else "uses it"
            user = owner(p.pid)
            whose = f"pid {p.pid}, of {user}" if user else f"pid {p.pid}, whose owner cannot be seen from here"
            yield f"GPU {gpu.index} is busy: {p.name} ({whose}) {holds}; end it, or use another node"
        if not here and gpu.used_mib and gpu.total_mib and gpu.used_mib > MEMORY_FREE * gpu.total_mib:
            yield (
                f"GPU {gpu.index} is busy: {_gib(gpu.used_mib)} of {_gib(gpu.total_mib)} GiB are in use by no process that can be "
                "seen from here (a container's, or one that died a moment ago); find it on the host, or use another node"
            )
        if gpu.mig:
            yield f"GPU {gpu.index}: MIG is on, and engines take whole GPUs; `nvidia-smi -i {gpu.index} -mig 0` turns it off"


def _gib(mib: int | None) -> str:
    return "?" if mib is None else f"{mib / 1024:.1f}"


def gpu_facts(gpus: Sequence[Gpu], states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For nodes.json."""
    drivers = sorted({gpu.driver for gpu in gpus})
    return {"driver": ", ".join(drivers) or None, "gpu_names": [gpu.name for gpu in gpus], "gpu_states": list(states)}
