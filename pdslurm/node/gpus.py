"""From what nvidia-smi prints to a node's GPUs, who uses them, and what is wrong with that. Pure."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STATES_TIMEOUT_S = 10.0  # without the persistence daemon a driver wakes for seconds
MEMORY_FREE = 0.02  # of a GPU's memory may be in use before it counts as busy: an idle driver keeps up to 1 % for itself
GPU_FIELDS = ("index", "uuid", "name", "memory.total", "memory.used", "driver_version", "mig.mode.current")
STATE_FIELDS = ("index", "clocks.sm", "clocks.max.sm", "temperature.gpu", "persistence_mode", "clocks_throttle_reasons.active")
COUNTERS = {  # µs since the driver was loaded; older drivers do not know these fields
    "SW thermal": "clocks_event_reasons_counters.sw_thermal_slowdown",
    "HW thermal": "clocks_event_reasons_counters.hw_thermal_slowdown",
    "HW power brake": "clocks_event_reasons_counters.hw_power_brake_slowdown",
    "power cap": "clocks_event_reasons_counters.sw_power_cap",
}
FAULTS = ("SW thermal", "HW thermal", "HW power brake")  # a power cap is how a GPU under full load runs, on every arm alike
MAX_SLOWED = 0.01  # of a point's time
APP_FIELDS = ("gpu_uuid", "pid", "used_memory", "process_name")  # the name last: it may contain commas
# nvmlClocksEventReasons in NVIDIA's NVML reference; drivers since 535 take the old name of the field too
THROTTLE = {
    0x1: "idle", 0x2: "application clocks", 0x4: "power cap", 0x8: "HW slowdown", 0x10: "sync boost", 0x20: "SW thermal",
    0x40: "HW thermal", 0x80: "HW power brake", 0x100: "display clocks",
}  # fmt: skip


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


def gpus_in(text: str) -> tuple[Gpu, ...]:
    """GPU_FIELDS of every GPU. Raises ValueError for what is no such output."""
    rows = _rows(text, len(GPU_FIELDS))
    return tuple(
        Gpu(int(index), uuid, name, _number(total), _number(used), driver, mig == "Enabled")
        for index, uuid, name, total, used, driver, mig in rows
    )


def processes_in(text: str) -> tuple[GpuProcess, ...]:
    """APP_FIELDS of every process that computes on a GPU."""
    return tuple(GpuProcess(uuid, int(pid), _number(used), name) for uuid, pid, used, name in _rows(text, len(APP_FIELDS)))


def states_in(text: str) -> list[dict[str, Any]]:
    """STATE_FIELDS of every GPU as facts: MHz, °C, what holds the clocks down. Empty where a driver does not know all of them."""
    try:
        return [
            {
                "gpu": int(index), "sm_mhz": _number(clock), "max_sm_mhz": _number(most), "temperature_c": _number(heat),
                "persistence": persistence == "Enabled", "clocks_held_by": throttle_reasons(mask),
            }
            for index, clock, most, heat, persistence, mask in _rows(text, len(STATE_FIELDS))
        ]  # fmt: skip
    except ValueError:
        return []


def clocks_in(text: str) -> list[dict[str, Any]]:
    """STATE_FIELDS and then COUNTERS of every GPU: states with `slowed_us` by reason. Empty where a driver does not know all."""
    try:
        rows = list(_rows(text, len(STATE_FIELDS) + len(COUNTERS)))
    except ValueError:
        return []
    states = states_in("\n".join(", ".join(row[: len(STATE_FIELDS)]) for row in rows))
    counted = [dict(zip(COUNTERS, map(_number, row[len(STATE_FIELDS) :]), strict=True)) for row in rows]
    return [{**state, "slowed_us": slowed} for state, slowed in zip(states, counted, strict=True)] if states else []


def during(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each GPU that was read twice: the state after a point, what held its clocks before, and `slowed_s` by reason
    during it, None where the driver does not count."""
    old = {state["gpu"]: state for state in before}
    return [
        {**state, "clocks_held_before": old[state["gpu"]]["clocks_held_by"], "slowed_s": _slowed_s(old[state["gpu"]], state)}
        for state in after
        if state["gpu"] in old
    ]


def _slowed_s(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float] | None:
    counted = [(name, before["slowed_us"].get(name), after["slowed_us"].get(name)) for name in after.get("slowed_us") or {}]
    known = {name: (now - then) / 1e6 for name, then, now in counted if then is not None and now is not None}
    return known or None


def throttled(states: Sequence[Mapping[str, Any]], duration_s: float | None) -> Iterator[str]:
    """One line for each GPU that heat or its power supply slowed, from what `during` gave. Where the driver counts no time, what
    held the clocks before or after tells, which misses what came and went in between."""
    for state in states:
        counted, held = state["slowed_s"], {*(state["clocks_held_before"] or ()), *(state["clocks_held_by"] or ())}
        for reason in FAULTS:
            slowed = (counted or {}).get(reason)
            if slowed is not None and duration_s and slowed > MAX_SLOWED * duration_s:
                yield f"GPU {state['gpu']} was slowed by {reason} for {slowed:.2g} of {duration_s:.3g} s"
            elif slowed is None and reason in held:
                at = f" at {state['sm_mhz']} of {state['max_sm_mhz']} MHz" if state["sm_mhz"] else ""
                yield f"GPU {state['gpu']} was slowed by {reason}{at}"


def chosen(gpus: Sequence[Gpu], needs: int, given: str | None) -> list[Gpu]:
    """The GPUs that engines will use: the first of those that CUDA_VISIBLE_DEVICES names, else the first there are."""
    names = given.split(",") if given else [str(n) for n in range(needs)]
    return [gpu for gpu in gpus if {str(gpu.index), gpu.uuid} & set(names[:needs])]


def throttle_reasons(mask: str) -> list[str] | None:
    """`0x0000000000000005` → [idle, power cap]; None when it is no number."""
    try:
        bits = int(mask, 16)
    except ValueError:
        return None
    unknown = bits & ~sum(THROTTLE)
    return [name for bit, name in THROTTLE.items() if bits & bit] + ([hex(unknown)] if unknown else [])


def _rows(text: str, width: int) -> Iterator[list[str]]:
    """Lines of CSV; what is too much belongs to the last field. Raises ValueError for a line with less: an error in words."""
    for line in filter(None, map(str.strip, text.splitlines())):
        if line == "No running processes found":
            continue
        row = [field.strip() for field in line.split(",", width - 1)]
        if len(row) < width:
            raise ValueError(line)
        yield row


def _number(text: str) -> int | None:
    """None for [N/A], [Not Supported], [Insufficient Permissions] and their like."""
    return int(text) if text.isdigit() else None


def busy(gpus: Sequence[Gpu], processes: Sequence[GpuProcess], owner: Owner) -> Iterator[str]:
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


def facts(gpus: Sequence[Gpu], states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For nodes.json."""
    drivers = sorted({gpu.driver for gpu in gpus})
    return {"driver": ", ".join(drivers) or None, "gpu_names": [gpu.name for gpu in gpus], "gpu_states": list(states)}


# What follows asks this node.


def read_states(wanted: Iterable[str]) -> list[dict[str, Any]]:
    """Of the GPUs with these numbers; of all where they are named in another way, as by UUID. Empty where nvidia-smi is not there,
    or does not answer."""
    told = _ask_nvidia_smi((*STATE_FIELDS, *COUNTERS.values()))
    states = clocks_in(told) if told is not None else states_in(_ask_nvidia_smi(STATE_FIELDS) or "")
    numbers = set(wanted)
    return [state for state in states if str(state["gpu"]) in numbers] or states


def _ask_nvidia_smi(fields: tuple[str, ...]) -> str | None:
    """None for what fails: a field that this driver does not know, too."""
    try:
        done = subprocess.run(query("gpu", fields), capture_output=True, text=True, timeout=STATES_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
