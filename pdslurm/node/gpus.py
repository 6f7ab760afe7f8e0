"""From what nvidia-smi prints to a node's GPUs, who uses them and what is wrong with that. Pure.

Their clocks and what slowed them are pdslurm/node/gpu_states.py's."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pdslurm.errors import PreflightError

MEMORY_FREE = 0.02  # of a GPU's memory may be in use before it counts as busy: an idle driver keeps up to 1 % for itself
GPU_FIELDS = ("index", "uuid", "name", "memory.total", "memory.used", "driver_version", "mig.mode.current")
APP_FIELDS = ("gpu_uuid", "pid", "used_memory", "process_name")  # the name last: it may contain commas
NAMES = (re.compile(r"\d+"), re.compile(r"GPU-[0-9A-Za-z-]+"))  # how CUDA_VISIBLE_DEVICES names whole GPUs; not both in one value
OUT_OF_ORDER = "the driver or a GPU is out of order, use another node and tell the administrator"
ILL = re.compile(r"\[(GPU is lost|.*reset.*|.*error.*)\]|^(ERR!|GPU is lost|Unknown Error)$", re.IGNORECASE)  # in place of a fact


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
    ill: str = ""  # what nvidia-smi says in place of a fact where the GPU does not answer


@dataclass(frozen=True)
class GpuProcess:
    """A process that has a context on a GPU."""

    uuid: str
    pid: int | None  # None: nvidia-smi does not tell
    used_mib: int | None
    name: str


Owner = Callable[[int], str | None]  # of a process by its pid; None where it cannot be seen from here


def query(kind: str, fields: Sequence[str]) -> tuple[str, ...]:
    """The command whose output the functions below read; kind: gpu or compute-apps."""
    return "nvidia-smi", f"--query-{kind}={','.join(fields)}", "--format=csv,noheader,nounits"


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """GPU_FIELDS of every GPU. Raises ValueError, with the line, for what is no such output."""
    return tuple(
        Gpu(_index(index, row), uuid, name, number(total), number(used), driver, mig == "Enabled", _illness(row))
        for row in rows(text, len(GPU_FIELDS))
        for index, uuid, name, total, used, driver, mig in [row]
    )


def _index(text: str, row: Sequence[str]) -> int:
    if not text.isdecimal():
        raise ValueError(", ".join(row))
    return int(text)


def _illness(row: Sequence[str]) -> str:
    """`[GPU is lost]`, `[Unknown Error]`, `ERR!` and their like; [N/A] and what a user may not see are no illness."""
    return next((field for field in row if ILL.search(field)), "")


def parse_processes(text: str) -> tuple[GpuProcess, ...]:
    """APP_FIELDS of every process that computes on a GPU."""
    return tuple(
        GpuProcess(row[0], None if row[1] == "[N/A]" else _index(row[1], row), number(row[2]), row[3])
        for row in rows(text, len(APP_FIELDS))
        if row[1].isdecimal() or not _illness(row)  # a GPU that is ill is told by parse_gpus
    )


def visible_names(visible_devices: str | None) -> list[str] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES names, as CUDA reads it: it stops at the first word that is no GPU's, and takes none where
    one stands twice. None where the variable is not set: all GPUs count.

    >>> visible_names("4, 5,-1,6"), visible_names("GPU-ab12"), visible_names(""), visible_names(None)
    (['4', '5'], ['GPU-ab12'], [], None)
    """
    if visible_devices is None:
        return None
    words = [word.strip() for word in visible_devices.split(",")]
    form = next((form for form in NAMES if form.fullmatch(words[0])), None)
    names = list(itertools.takewhile(form.fullmatch, words)) if form else []
    return names if len(set(names)) == len(names) else []


def visible_gpus(planned: Sequence[int], visible_devices: str | None) -> list[str]:
    """The names of the GPUs that the plan counts from 0: those that CUDA_VISIBLE_DEVICES leaves to this process are meant. Raises
    PreflightError where it leaves too few: another GPU may be somebody else's.

    >>> visible_gpus([0, 1], "4,5,6,7"), visible_gpus([2, 3], None)
    (['4', '5'], ['2', '3'])
    """
    names = visible_names(visible_devices)
    if names is None:
        return [str(gpu) for gpu in planned]
    if max(planned, default=-1) >= len(names):
        raise PreflightError([too_few(max(planned) + 1, len(names), visible_devices)])
    return [names[gpu] for gpu in planned]


def too_few(needs: int, left: int, visible_devices: str | None) -> str:
    """The finding for a CUDA_VISIBLE_DEVICES that leaves fewer GPUs than the plan needs."""
    parts = " (MIG names a part of a GPU, and engines take whole GPUs)" if "MIG-" in (visible_devices or "") else ""
    return (
        f"CUDA_VISIBLE_DEVICES={visible_devices}: leaves {left or 'no'} GPU{'s' if left > 1 else ''} of this node{parts}, and the "
        f"plan needs {needs} here; name {needs} by number or UUID, each once, or plan for fewer"
    )


def select_gpus(gpus: Sequence[Gpu], needs: int, visible_devices: str | None) -> list[Gpu]:
    """The GPUs that engines will use, in their order: the first of those that CUDA_VISIBLE_DEVICES names, else the first there are.
    CUDA stops at a name that is no GPU's here, or more than one's."""
    names = visible_names(visible_devices)
    if names is None:
        return list(gpus[:needs])
    found = []
    for name in names:
        here = [gpu for gpu in gpus if name == str(gpu.index) or gpu.uuid.startswith(name)]
        if len(here) != 1 or here[0] in found:
            break
        found += here
    return found[:needs]


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
        if gpu.ill:
            yield f"GPU {gpu.index}: nvidia-smi says {gpu.ill} of it; {OUT_OF_ORDER}"
        here = [p for p in processes if p.uuid == gpu.uuid]
        for p in here:
            holds = f"holds {_gib(p.used_mib)} GiB of it" if p.used_mib is not None else "uses it"
            user = owner(p.pid) if p.pid is not None else None
            known = "of a pid that nvidia-smi does not tell" if p.pid is None else f"pid {p.pid}"
            whose = f"{known}, of {user}" if user else f"{known}, whose owner cannot be seen from here"
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


def gpu_facts(there: Sequence[Gpu], used: Sequence[Gpu], states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For nodes.json: the node's GPUs, and the numbers of those that are this run's."""
    return {
        "driver": ", ".join(sorted({gpu.driver for gpu in there})) or None,
        "gpus_used": [gpu.index for gpu in used],
        "gpu_names": [gpu.name for gpu in there],
        "gpu_states": list(states),
    }
