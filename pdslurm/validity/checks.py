"""From a point's evidence to the checks that it has to pass before it may be used, each with its evidence. Pure.

docs/validity.md lists every check with its bound and the reason for it. A check is ok, not ok (the point is invalid), or neither:
its question does not apply, or the point is unverified because what would answer it is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from pdslurm.records.measurement import Check
from pdslurm.validity import conservation, delivery, load, serving, shares
from pdslurm.validity.evidence import Evidence
from pdslurm.validity.text import text


def right_text(e: Evidence) -> Check:
    """`text` of what the arm was asked after its load."""
    return text(e.telemetry.get("text"), e.demand.disaggregated)


CHECKS: tuple[Callable[[Evidence], Check], ...] = (
    conservation.completed,
    conservation.output_tokens,
    conservation.requests_counted,
    conservation.tokens_counted,
    conservation.request_lines,
    conservation.latencies,
    conservation.token_times,
    conservation.duration,
    conservation.summary,
    conservation.counters,
    serving.nixl,
    serving.kv_bytes,
    serving.transport,
    serving.prefix_cache,
    shares.workers,
    serving.preemptions,
    load.client_process,
    delivery.delivery,
    delivery.outside_engines,
    delivery.ttft_parts,
    load.steady,
    serving.clocks,
    serving.gpu_count,
    right_text,
)


# Their bounds are about means over many requests; the few short ones of workload=smoke can miss them by chance.
OF_MANY = ("client", "delivery", "outside_engines", "steady_state")


def checks(evidence: Evidence) -> tuple[Check, ...]:
    """Every check of a point, in the order of CHECKS."""
    made = tuple(check(evidence) for check in CHECKS)
    return tuple(_not_judged(check) for check in made) if evidence.is_smoke else made


def _not_judged(check: Check) -> Check:
    if check.name not in OF_MANY or check.ok is not False:
        return check
    return replace(check, ok=None, unverified=False, said=f"not judged of so few requests: {check.said}")


def reasons(found: Iterable[Check], *, strict: bool = False) -> tuple[str, ...]:
    """Why the point must not be used; empty means valid. `strict`: what cannot be verified is a reason, too."""
    return tuple(
        check.said if check.ok is False else f"not verified: {check.said}"
        for check in found
        if check.ok is False or (strict and check.unverified)
    )


def unverified(found: Iterable[Check]) -> tuple[str, ...]:
    """The names of the decisive checks whose evidence is missing."""
    return tuple(check.name for check in found if check.unverified)
