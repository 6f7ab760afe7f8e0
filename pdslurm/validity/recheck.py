"""A record and its request file in; the record as today's rules judge it out. Pure."""

from __future__ import annotations

from dataclasses import replace

from pdslurm.records.good_requests import Requests
from pdslurm.records.measurement import Check, Measurement
from pdslurm.validity.checks import checks, reasons
from pdslurm.validity.evidence import evidence_of


def recheck(record: Measurement, requests: Requests | None) -> Measurement:
    """The record with every check made anew. What failed when it was stored and cannot be asked again stays failed: a record whose
    evidence is gone does not become valid by that. A record that failed, or that was not measured, is returned as it is."""
    if record.status != "done" or record.source != "measured":
        return record
    evidence = evidence_of(record, requests)
    made = checks(evidence)
    stored = {check.name: check for check in record.checks if check.ok is False}
    names = {check.name for check in made}
    kept = tuple(stored[check.name] if check.unverified and check.name in stored else check for check in made)
    kept += tuple(check for name, check in stored.items() if name not in names)
    if not record.valid and not stored and not any(check.unverified is False and check.ok is False for check in kept):
        kept += tuple(Check("stored", False, said) for said in record.invalid_reasons or ("no reason is stored",))
    return with_checks(record, kept, strict=evidence.demand.strict)


def with_checks(record: Measurement, found: tuple[Check, ...], *, strict: bool) -> Measurement:
    """The record with these checks and the verdict that follows from them."""
    wrong = reasons(found, strict=strict)
    return replace(record, valid=not wrong, invalid_reasons=wrong, checks=found)


def disagreement(stored: Measurement, today: Measurement) -> str:
    """How today's verdict differs from the one in the file, in words; empty where they agree."""
    if stored.valid == today.valid:
        return ""
    if today.valid:
        return f"stored as invalid ({'; '.join(stored.invalid_reasons)}), valid by today's rules"
    return f"stored as valid, invalid by today's rules: {'; '.join(today.invalid_reasons)}"
