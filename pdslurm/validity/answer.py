"""The ways in which a check can end, so that every check says them alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pdslurm.records.measurement import Check


def judged(name: str, wrong: Sequence[str], fine: str, evidence: Mapping[str, Any]) -> Check:
    """Not ok with everything that is wrong in words, ok with `fine` where nothing is."""
    return Check(name, not wrong, "; ".join(wrong) or fine, evidence)


def not_asked(name: str, why: str, evidence: Mapping[str, Any] | None = None) -> Check:
    """The question does not apply to this arm or load."""
    return Check(name, None, why, evidence or {})


def missing(name: str, why: str, evidence: Mapping[str, Any] | None = None) -> Check:
    """The question is decisive here, and what would answer it is not known."""
    return Check(name, None, why, evidence or {}, unverified=True)
