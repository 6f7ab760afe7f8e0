"""From what nvidia-smi prints to the state of each GPU: its clocks, what holds them down, and what slowed it during a point.

`read_states` reads this node's GPUs before a point and after it; `states_during` joins the two."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pdslurm.node.gpus import number, query, rows

TIMEOUT_S = 10.0  # without the persistence daemon a driver wakes for seconds
STATE_FIELDS = ("index", "clocks.sm", "clocks.max.sm", "temperature.gpu", "persistence_mode", "clocks_throttle_reasons.active")
COUNTERS = {  # µs since the driver was loaded; older drivers do not know these fields
    "SW thermal": "clocks_event_reasons_counters.sw_thermal_slowdown",
    "HW thermal": "clocks_event_reasons_counters.hw_thermal_slowdown",
    "HW power brake": "clocks_event_reasons_counters.hw_power_brake_slowdown",
    "power cap": "clocks_event_reasons_counters.sw_power_cap",
}
# nvmlClocksEventReasons in NVIDIA's NVML reference; drivers since 535 take the old name of the field too
THROTTLE = {
    0x1: "idle", 0x2: "application clocks", 0x4: "power cap", 0x8: "HW slowdown", 0x10: "sync boost", 0x20: "SW thermal",
    0x40: "HW thermal", 0x80: "HW power brake", 0x100: "display clocks",
}  # fmt: skip


def parse_states(text: str, *, counters: bool = False) -> list[dict[str, Any]]:
    """STATE_FIELDS of every GPU as facts: MHz, °C, what holds the clocks down; with COUNTERS behind them also `slowed_us` by
    reason. Empty where a driver does not know all of them."""
    width = len(STATE_FIELDS)
    try:
        lines = list(rows(text, width + len(COUNTERS) * counters))
        states = [_state(*line[:width]) for line in lines]
    except ValueError:
        return []
    if not counters:
        return states
    slowed = [dict(zip(COUNTERS, map(number, line[width:]), strict=True)) for line in lines]
    return [{**state, "slowed_us": counted} for state, counted in zip(states, slowed, strict=True)]


def _state(index: str, clock: str, most: str, heat: str, persistence: str, mask: str) -> dict[str, Any]:
    return {
        "gpu": int(index), "sm_mhz": number(clock), "max_sm_mhz": number(most), "temperature_c": number(heat),
        "persistence": persistence == "Enabled", "clocks_held_by": throttle_reasons(mask),
    }  # fmt: skip


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
    """Of the GPUs with these numbers; of all where they are named in another way, as by UUID. Empty where nvidia-smi is not there,
    or does not answer."""
    text = _nvidia_smi((*STATE_FIELDS, *COUNTERS.values()))
    states = parse_states(text, counters=True) if text is not None else parse_states(_nvidia_smi(STATE_FIELDS) or "")
    numbers = set(wanted)
    return [state for state in states if str(state["gpu"]) in numbers] or states


def _nvidia_smi(fields: tuple[str, ...]) -> str | None:
    """None for what fails: a field that this driver does not know, too."""
    try:
        done = subprocess.run(query("gpu", fields), capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
