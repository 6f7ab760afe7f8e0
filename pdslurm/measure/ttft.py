"""From the engines' counters over a point to where its TTFT went, and whether its decode instances starved. Pure.

Each engine times its requests by its own clock. A mean is a sum over the point by requests (vLLM 0.32, v1/metrics/stats.py):
- `time_to_first_token_seconds` runs from `arrival_time`, which renderers/base.py `render_cmpl_async` takes before the prompt is
  tokenised, to the first token in the API server (`IterationStats.update_from_output`). The prefill instance of P/D is asked for
  one token, so there it is the whole request (`e2e_request_latency_seconds`).
- `request_queue_time_seconds` runs from QUEUED (scheduler.py `add_request`) to the first SCHEDULED. On a decode instance `schedule`
  leaves a request whose KV is still to come, as WAITING_FOR_REMOTE_KVS, before it records SCHEDULED: the queue time contains the
  transfer.
- `request_prefill_time_seconds` runs from SCHEDULED to the first token. On a decode instance all KV but the last prompt token's is
  there by then (scheduler.py `_update_waiting_for_remote_kv`): it is the first decode step.
- `nixl_xfer_time_seconds` runs from before the post to the poll that finds it done, one a step (nixl/base_worker.py
  `_pop_done_transfers`). NIXL counts both durations from one start (nixl_agent.cpp `updateRequestStats`), so that
  `nixl_post_time_seconds` is a part of it and not to be added.

So two spans are known as a whole, prefill instance's and decode instance's, and the parts share them out without a rest:
    API server + queue + prefill        = the first instance's span; queue is the scheduler's, and API server what is left: it
                                          tokenises, and is late where it has too much to do
    hand-over + transfer + first decode = the decode instance's span; hand-over is its API server, waiting for a place
                                          there, and waiting to be noticed after the transfer

What no engine sees is the client's and router's time and HTTP between them: `error_ms` = measured - sum, no part of any part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pdslurm.records.measurement import TTFT_PARTS
from pdslurm.validity.counters import total_of

Engines = Mapping[str, Mapping[str, Any]]


def breakdown(engines: Engines, measured_ms: float | None) -> dict[str, float | None]:
    """TTFT_PARTS and TTFT_SUMS in ms, means over requests; None where the arm has no such part or it is unknown. `engines`
    as in telemetry["engines"], `measured_ms` the client's mean TTFT."""
    decode, first = _of(engines, "decode"), _of(engines, "prefill") or _of(engines, "both")
    prefill = _mean(first, "prefill_time_s")
    queue = _mean(first, "queue_time_s")
    parts: dict[str, float | None] = {
        "api_server_ms": _minus(_span(first), queue, prefill),
        "queue_ms": queue,
        "prefill_ms": prefill,
    }
    if decode:
        transfer, step = _mean(decode, "nixl_transfer_time_s", per="nixl_transfers"), _mean(decode, "prefill_time_s")
        parts |= {"handover_ms": _minus(_span(decode), transfer, step), "transfer_ms": transfer, "first_decode_ms": step}
    total = None if None in parts.values() else sum(value for value in parts.values() if value is not None)
    return {
        **{f"{part}_ms": None for part in TTFT_PARTS}, **parts,
        "sum_ms": total, "measured_ms": measured_ms, "error_ms": _minus(measured_ms, total),
    }  # fmt: skip


def spans(engines: Engines) -> dict[str, dict[str, float | None]]:
    """What the breakdown is made from, by role: the scheduler's queue apart from the API server around it, the post within the
    transfer, and HTTP's own time around whole requests, which is beyond every part."""
    found = {}
    for role in dict.fromkeys(engine["role"] for engine in engines.values()):
        own = _of(engines, role)
        queue, prefill, span = _mean(own, "queue_time_s"), _mean(own, "prefill_time_s"), _span(own)
        found[role] = {
            "ttft_ms": span, "scheduler_queue_ms": queue, "prefill_ms": prefill, "api_server_ms": _minus(span, queue, prefill),
            "http_ms": _minus(_mean(own, "http_s"), _mean(own, "e2e_s")),
            "post_ms": _mean(own, "nixl_post_time_s", per="nixl_transfers"),
        }  # fmt: skip
    return found


def starved_decode(engines: Engines, duration_s: float | None) -> tuple[bool | None, dict[str, float | None]]:
    """Whether ITL is low because nothing arrives: on the average over the point more requests waited for prefill than were decoded,
    and at least one did. By Little's law the mean number of requests somewhere is the sum of their times there by the duration:
    waiting is the prefill instances' span less prefill itself, decoding the decode instances' time from first token to last. None
    where the arm has no decode instances or it is unknown."""
    prefill, decode = _of(engines, "prefill"), _of(engines, "decode")
    span, work = total_of(prefill, "ttft_s"), total_of(prefill, "prefill_time_s")
    decoding = total_of(decode, "decode_time_s")
    if not duration_s or span is None or work is None or decoding is None:
        return None, {}
    waiting = (span - work) / duration_s
    evidence: dict[str, float | None] = {
        "waiting_for_prefill": waiting,
        "decoding": decoding / duration_s,
        "decoding_per_instance": decoding / duration_s / len(decode),
    }
    return waiting >= 1 and waiting > decoding / duration_s, evidence


def _of(engines: Engines, role: str) -> list[Mapping[str, Any]]:
    return [engine for engine in engines.values() if engine["role"] == role]


def _span(engines: Iterable[Mapping[str, Any]]) -> float | None:
    return _mean(engines, "ttft_s")


def _mean(engines: Iterable[Mapping[str, Any]], counter: str, per: str = "requests") -> float | None:
    """Milliseconds; over ranks that fetch side by side the mean transfer, of which a request waits for the slowest."""
    own = list(engines)
    time_s, count = total_of(own, counter), total_of(own, per)
    return 1e3 * time_s / count if time_s is not None and count else None


def _minus(whole: float | None, *parts: float | None) -> float | None:
    if whole is None or None in parts:
        return None
    return whole - sum(part for part in parts if part is not None)
