"""From two clocks, the client's and the engines', to whether tokens reached the client as the engines made them. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pdslurm.records.measurement import TTFT_PARTS, Check
from pdslurm.validity.answer import judged, missing, not_asked
from pdslurm.validity.counters import total_of
from pdslurm.validity.evidence import NO_CLIENT, Evidence

MAX_APART = 0.05  # of the client's time for a token may client and engine cores differ on GPUs, either way
APART_FLOOR_MS = 0.25  # below this it is the event loops' own pace
MAX_APART_CPU, APART_FLOOR_CPU_MS = 0.2, 1.0  # where engines, router and client share a few cores
MAX_OUTSIDE, OUTSIDE_FLOOR_MS = 0.25, 50.0  # of the mean TTFT may pass outside the engines on GPUs; of 21 points up to 10 %
MAX_OUTSIDE_CPU, OUTSIDE_FLOOR_CPU_MS = 0.6, 150.0  # on two cores at a rate up to 46 %
OTHER_SECONDS = "client and engines do not measure by the same second"
ROUNDED, ROUNDED_MS = 1e-3, 0.01  # of a sum of rounded times
MAX_NEGATIVE, NEGATIVE_FLOOR_MS = 0.05, 5.0  # a part of the TTFT is a difference of sums, and may be so much below 0


def delivery(e: Evidence) -> Check:
    """Milliseconds a token as the client saw them against those of the engine cores: from first token to last over the tokens after
    the first, and `vllm:request_decode_time_seconds` over the same. Between the two are API server, router and client. A client
    that sees tokens come faster than they are made has a wrong clock; on a CPU a first token that reaches it late does the same, so
    that only GPUs are judged by it."""
    spent, tokens = _decoding(e)
    seen = 1e3 * spent / tokens if spent and tokens else None
    made = _engine_ms_a_token(e.of_role("both", "decode"))
    evidence = {"client_ms_a_token": seen, "engine_ms_a_token": made, "client_busy": e.client.get("client_busy")}
    if not e.demand.stream or e.demand.output_len == 1 or tokens == 0:
        return not_asked("delivery", "no token after the first, or none is seen", evidence)
    if seen is None or made is None:
        return missing(
            "delivery", e.unless_told("client or engines do not tell the time of their tokens") if e.client else NO_CLIENT, evidence
        )
    between = seen - made
    most, floor = (MAX_APART, APART_FLOOR_MS) if e.demand.gpus else (MAX_APART_CPU, APART_FLOOR_CPU_MS)
    wrong = (abs(between) if e.demand.gpus else between) > max(floor, most * seen)
    why = (
        "API servers, router or client held the tokens up"
        if between > 0
        else "client and engines do not measure by the same second"
    )
    said = f"{seen:.2f} ms a token at the client, {made:.2f} in the engines"
    return Check("delivery", not wrong, f"{said}: {why}" if wrong else said, evidence)


def _decoding(e: Evidence) -> tuple[float | None, float | None]:
    """Seconds from first token to last and tokens after the first, over the requests that were answered: as the client added them
    up or, of an older client, from its means."""
    if e.client.get("decode_tokens") is not None:
        return e.client.get("decode_s") if e.client.get("mean_ttft_ms") else None, e.client["decode_tokens"]
    ttft, e2el, tokens = e.client.get("mean_ttft_ms"), e.client.get("mean_e2el_ms"), e.client.get("total_output_tokens")
    if not ttft or not e2el or tokens is None:
        return None, None
    return e.completed * (e2el - ttft) / 1000, tokens - e.completed


def _engine_ms_a_token(engines: Sequence[Mapping[str, Any]]) -> float | None:
    time_s, tokens, requests = (total_of(engines, name) for name in ("decode_time_s", "generation_tokens", "requests"))
    if time_s is None or tokens is None or requests is None or tokens <= requests:
        return None
    return 1e3 * time_s / (tokens - requests)


def outside_engines(e: Evidence) -> Check:
    """What the mean TTFT has beyond all that the engines saw of it: client, router, and HTTP between them. A burst on a CPU waits
    for an API server to accept it, where no engine sees it."""
    measured, parts = e.client.get("mean_ttft_ms"), e.telemetry.get("ttft") or {}
    known = parts.get("sum_ms")
    outside = None if not measured or known is None else measured - known
    evidence = {"measured_ms": measured, "in_engines_ms": known, "outside_ms": outside}
    if not e.demand.stream:
        return not_asked("outside_engines", "no first token is seen", evidence)
    if outside is None or measured is None:
        return missing(
            "outside_engines", e.unless_told("the engines do not tell all parts of the TTFT") if e.client else NO_CLIENT, evidence
        )
    if e.demand.is_burst and not e.demand.gpus:
        return not_asked("outside_engines", "a burst on a CPU waits outside the engines", evidence)
    most, floor = (MAX_OUTSIDE, OUTSIDE_FLOOR_MS) if e.demand.gpus else (MAX_OUTSIDE_CPU, OUTSIDE_FLOOR_CPU_MS)
    wrong = []
    if outside > max(floor, most * measured):
        wrong.append(
            f"{outside:.0f} of {measured:.0f} ms until the first token passed outside the engines: in router, HTTP or client"
        )
    if outside < -max(NEGATIVE_FLOOR_MS, MAX_NEGATIVE * measured):
        wrong.append(f"the engines saw {known:.0f} ms of TTFT, the client {measured:.0f}: {OTHER_SECONDS}")
    return judged("outside_engines", wrong, f"{outside:.1f} of {measured:.1f} ms of TTFT passed outside the engines", evidence)


def ttft_parts(e: Evidence) -> Check:
    """No part of the TTFT takes less than no time, and the parts are the sum."""
    told, measured = e.telemetry.get("ttft") or {}, e.client.get("mean_ttft_ms") or 0.0
    parts = {name: told[f"{name}_ms"] for name in TTFT_PARTS if told.get(f"{name}_ms") is not None}
    if not e.demand.stream:
        return not_asked("ttft_parts", "no first token is seen")
    if not parts:
        return missing("ttft_parts", e.unless_told("the engines do not tell the parts of the TTFT"))
    wrong = [f"{name} took {ms:.1f} ms" for name, ms in parts.items() if ms < -max(NEGATIVE_FLOOR_MS, MAX_NEGATIVE * measured)]
    total = told.get("sum_ms")
    if total is not None and abs(math.fsum(parts.values()) - total) > ROUNDED * abs(total) + ROUNDED_MS:
        wrong.append(f"its parts add up to {math.fsum(parts.values()):.1f} ms, the record says {total:.1f}")
    return judged("ttft_parts", wrong, "no part of the TTFT is below 0", parts)
