"""From each GPU's state before and after a point to what slowed it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

FAULTS = ("SW thermal", "HW thermal", "HW power brake")  # a power cap is how a GPU under full load runs
MAX_SLOWED = 0.01  # of a point's time


def slowdowns(states: Sequence[Mapping[str, Any]], duration_s: float | None) -> Iterator[str]:
    """One line for each GPU that heat or its power supply slowed, from what `states_during` gave. Where the driver counts no
    time, what held the clocks before or after tells, which misses what came and went in between."""
    for state in states:
        counted, held = state.get("slowed_s"), {*(state.get("clocks_held_before") or ()), *(state.get("clocks_held_by") or ())}
        for reason in FAULTS:
            slowed = (counted or {}).get(reason)
            if slowed is not None and duration_s and slowed > MAX_SLOWED * duration_s:
                yield f"GPU {state['gpu']} was slowed by {reason} for {slowed:.2g} of {duration_s:.3g} s"
            elif slowed is None and reason in held:
                at = f" at {state['sm_mhz']} of {state['max_sm_mhz']} MHz" if state.get("sm_mhz") else ""
                yield f"GPU {state['gpu']} was slowed by {reason}{at}"
