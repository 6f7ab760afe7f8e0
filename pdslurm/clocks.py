"""This node's GPUs as nvidia-smi tells of them right now: clocks, heat, and how long what held the clocks down did so."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from typing import Any

from pdslurm import gpus

TIMEOUT_S = 10.0  # without the persistence daemon a driver wakes for seconds


def read(wanted: Iterable[str]) -> list[dict[str, Any]]:
    """Of the GPUs with these numbers; of all where they are named in another way, as by UUID. Empty where nvidia-smi is not there,
    or does not answer."""
    told = _ask((*gpus.STATE_FIELDS, *gpus.COUNTERS.values()))
    states = gpus.clocks_in(told) if told is not None else gpus.states_in(_ask(gpus.STATE_FIELDS) or "")
    numbers = set(wanted)
    return [state for state in states if str(state["gpu"]) in numbers] or states


def _ask(fields: tuple[str, ...]) -> str | None:
    """None for what fails: a field that this driver does not know, too."""
    try:
        done = subprocess.run(gpus.query("gpu", fields), capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
