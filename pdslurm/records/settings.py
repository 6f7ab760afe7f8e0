"""A setting of an arm, as trials and the comparison's records have it, and the two kinds of arms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

PLAIN, DISAGGREGATED = "plain", "disaggregated"


def setting_text(setting: Iterable[tuple[str, Any]]) -> str:
    """`block_size=128, prefill.max_num_batched_tokens=16384`; `as configured` where nothing is changed."""
    return ", ".join(f"{option}={value}" for option, value in setting) or "as configured"
