"""From what nvidia-smi prints to each GPU: its name, limits and NUMA node, its clocks, and what slowed it during a point.

`read_states` reads this node's GPUs before a point and after it; `states_during` joins the two."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pdslurm.node.gpus import number, query, rows
from pdslurm.node.parallel_commands import output_of

TIMEOUT_S = 10.0  # without the persistence daemon a driver wakes for seconds
STATE_FIELDS = ("index", "clocks.sm", "clocks.max.sm", "temperature.gpu", "persistence_mode", "clocks_throttle_reasons.active")
COUNTERS = {  # µs since the driver was loaded; older drivers do not know these fields
    "SW thermal": "clocks_event_reasons_counters.sw_thermal_slowdown",
    "HW thermal": "clocks_event_reasons_counters.hw_thermal_slowdown",
    "HW power brake": "clocks_event_reasons_counters.hw_power_brake_slowdown",
    "power cap": "clocks_event_reasons_counters.sw_power_cap",
}
FACT_FIELDS = ("name", "power.limit", "driver_version", "pci.bus_id", "uuid")  # of the GPU itself
UNKNOWN_FIELD = re.compile(r'Field "([^"]+)" is not a valid field to query')
# nvmlClocksEventReasons in NVIDIA's NVML reference; drivers since 535 take the old name of the field too
THROTTLE = {
    0x1: "idle", 0x2: "application clocks", 0x4: "power cap", 0x8: "HW slowdown", 0x10: "sync boost", 0x20: "SW thermal",
    0x40: "HW thermal", 0x80: "HW power brake", 0x100: "display clocks",
}  # fmt: skip


def parse_states(text: str, fields: Sequence[str] = STATE_FIELDS) -> list[dict[str, Any]]:
    """Those fields of every GPU as facts: MHz, °C, what holds the clocks down, `slowed_us` by reason. One of STATE_FIELDS that
    was not asked for is None, another one is left out. Empty for what is no such output."""
    try:
        return [_state(dict(zip(fields, line, strict=True))) for line in rows(text, len(fields))]
    except (KeyError, ValueError):
        return []


def _state(said: Mapping[str, str]) -> dict[str, Any]:
    state: dict[str, Any] = {
        "gpu": int(said["index"]), "sm_mhz": number(said.get("clocks.sm", "")), "max_sm_mhz": number(said.get("clocks.max.sm", "")),
        "temperature_c": number(said.get("temperature.gpu", "")),
        "persistence": said["persistence_mode"] == "Enabled" if "persistence_mode" in said else None,
        "clocks_held_by": throttle_reasons(said.get("clocks_throttle_reasons.active", "")),
    }  # fmt: skip
    counted = {name: number(said[field]) for name, field in COUNTERS.items() if field in said}
    return state | ({"slowed_us": counted} if counted else {})


def parse_facts(text: str, fields: Sequence[str]) -> dict[int, dict[str, Any]]:
    """GPU → its `name`, `power_limit_w`, `driver`, `bus_id` and `uuid`, as far as they are told. A line that has not as many fields
    is another program's."""
    found: dict[int, dict[str, Any]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        said = dict(zip(fields, cells, strict=False))
        is_gpu = said.get("uuid", "GPU-").startswith(("GPU-", "["))
        if len(cells) == len(fields) and said.get("index", "").isdigit() and is_gpu:
            facts = {"name": text_of(said.get("name")), "power_limit_w": watts(said.get("power.limit")),
                     "driver": text_of(said.get("driver_version")), "bus_id": text_of(said.get("pci.bus_id")),
                     "uuid": text_of(said.get("uuid"))}  # fmt: skip
            found[int(said["index"])] = {name: value for name, value in facts.items() if value is not None}
    return found


def text_of(said: str | None) -> str | None:
    """None for [N/A], [Not Supported] and their like."""
    return said if said and not said.startswith("[") else None


def watts(said: str | None) -> float | None:
    """None for what is no number."""
    try:
        return float(said or "")
    except ValueError:
        return None


def parse_numa(text: str) -> dict[int, dict[str, str]]:
    """GPU → its `numa` node and the `cpus` near it, as far as `nvidia-smi topo -m` tells them. Columns are parted by tabs."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).split("\t") for line in text.splitlines()]
    heading = next(([cell.strip() for cell in line] for line in lines if any("NUMA Affinity" in cell for cell in line)), [])
    found: dict[int, dict[str, str]] = {}
    for line in lines:
        if match := re.fullmatch(r"GPU(\d+)", line[0].strip()):
            cells = dict(zip(heading, (cell.strip() for cell in line), strict=False))
            facts = {"numa": cells.get("NUMA Affinity"), "cpus": cells.get("CPU Affinity")}
            found[int(match[1])] = {name: value for name, value in facts.items() if value and value != "N/A"}
    return found


def throttle_reasons(mask: str) -> list[str] | None:
    """`0x0000000000000005` → [idle, power cap]; None when it is no number."""
    try:
        bits = int(mask, 16)
    except ValueError:
        return None
    unknown = bits & ~sum(THROTTLE)
    return [name for bit, name in THROTTLE.items() if bits & bit] + ([hex(unknown)] if unknown else [])


def states_during(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
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


# What follows reads this node's GPUs.


def read_states(wanted: Iterable[str]) -> list[dict[str, Any]]:
    """Of the GPUs with these names, numbers or UUIDs that may be cut; of all where none of them has such a name. Empty where
    nvidia-smi is not there, or does not answer. A field that this driver does not know takes nothing from the others."""
    text, fields = query_known((*STATE_FIELDS, *COUNTERS.values()), _nvidia_smi)
    states = parse_states(text, fields) or parse_states(_nvidia_smi(STATE_FIELDS))
    if states:
        facts, numa = parse_facts(*query_known(("index", *FACT_FIELDS), _nvidia_smi)), _numa()
        states = [state | facts.get(state["gpu"], {}) | numa.get(state["gpu"], {}) for state in states]
    names = tuple(wanted)
    uuids = tuple(name for name in names if name.startswith("GPU-"))
    return [state for state in states if str(state["gpu"]) in names or state.get("uuid", "").startswith(uuids)] or states


_unknown: set[str] = set()  # fields that this node's driver does not know: asked for once


def query_known(fields: Sequence[str], ask: Callable[[Sequence[str]], str]) -> tuple[str, tuple[str, ...]]:
    """What `ask` prints for the fields that the driver knows, and which these are. nvidia-smi refuses a query as a whole, and names
    one field that it does not know."""
    while True:
        known = tuple(field for field in fields if field not in _unknown)
        text = ask(known)
        refused = UNKNOWN_FIELD.search(text)
        if not refused or refused[1] not in known:
            return text, known
        _unknown.add(refused[1])


@functools.cache
def _numa() -> dict[int, dict[str, str]]:
    """Which does not change while this process lives."""
    return parse_numa(_output(("nvidia-smi", "topo", "-m")))


def _nvidia_smi(fields: Sequence[str]) -> str:
    return _output(query("gpu", fields))


def _output(command: Sequence[str]) -> str:
    """Empty for what fails, but for the words that name a field that this driver does not know."""
    try:
        done = output_of(command, TIMEOUT_S)
    except OSError:
        return ""
    return done.out if done.code == 0 or UNKNOWN_FIELD.search(done.out) else ""
