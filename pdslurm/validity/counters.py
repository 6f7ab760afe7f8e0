"""Engines' counters over a point in; their sums over several engines out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def total_of(engines: Iterable[Mapping[str, Any]], counter: str) -> float | None:
    """The sum over the engines; None if there are none or any value is missing."""
    values = [engine.get(counter) for engine in engines]
    known = [v for v in values if v is not None]
    return sum(known) if known and len(known) == len(values) else None
