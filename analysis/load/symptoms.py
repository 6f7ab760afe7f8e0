"""A record in, what its counters tell of where its arm may be held up out: numbers alone, no judgement (analysis.stats.diagnosis).

By Little's law the mean number of requests somewhere is the sum of their times there by the duration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pdslurm.records.measurement import BINS_PER_DECADE, Measurement
from pdslurm.records.split_ratio import SATURATED
from pdslurm.validity.counters import total_of

Engines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Busy:
    """How much each prefill instance works (analysis.stats.prefill_busy)."""

    share: float  # of the time
    waiting: float  # prompts, on the average
    prompt_ms: float  # for which one prompt keeps it at work

    @property
    def limit_per_s(self) -> float:
        """Prompts at which one instance works all the time."""
        return 1e3 / self.prompt_ms


@dataclass(frozen=True)
class Symptoms:
    """Times in ms; numbers of requests are means over the point and over the instances of a role; shares lie between 0 and 1. None
    is what the record does not tell, or what its arm does not have."""

    prefill: int  # instances of each role; both are 0 where every instance prefills and decodes
    decode: int
    block_size: int | None = None  # tokens of a block of KV cache
    descriptors: float | None = None  # that are posted for one handoff
    post_ms: float | None = None  # for which one handoff is posted
    posting: float | None = None  # share of the decode instances' time
    gaps: float | None = None  # between tokens, as long as a posting or longer, by the number of handoffs times answers in decoding
    preempted: float | None = None  # preemptions by requests
    preempting: tuple[str, ...] = ()  # roles that preempt
    fitting: int | None = None  # requests whose whole KV one of these instances holds
    memory_share: float | None = None  # gpu_memory_utilization
    queueing: float | None = None  # requests that wait to be scheduled for prefill
    prefilling: float | None = None  # requests in prefill
    prefilled_per_s: float | None = None  # prompts, by each instance that prefills
    busy: Busy | None = None  # no record tells it by itself, but several of one arm do
    decoding: float | None = None  # requests in decoding
    first_queue: float | None = None  # the queue for prefill, as a share of the TTFT
    token_budget: int | None = None  # max_num_batched_tokens of the instances that prefill
    starved: bool = False
    waiting_for_prefill: float | None = None  # over all instances
    decoding_in_all: float | None = None
    placing: float | None = None  # requests that wait for a place on a decode instance when their KV is no longer on its way
    place_share: float | None = None  # of the TTFT
    serving: float | None = None  # requests in an API server, before their first token
    server_share: float | None = None  # of what the engines saw of the TTFT
    scheduler_share: float | None = None  # that the schedulers' queues have of the same
    wrong: tuple[str, ...] = ()  # the checks that failed
    held_up: float | None = None  # share of a token's time at the client that the engine cores do not see
    client_token_ms: float | None = None
    engine_token_ms: float | None = None
    is_client_free: bool = False  # the check of the client is passed
    outside: float | None = None  # requests between the client and the API servers
    outside_share: float | None = None  # of the TTFT


def symptoms(record: Measurement) -> Symptoms | None:
    """None of a measurement that failed or calibrates: saturated instances queue on purpose."""
    duration = record.metrics.get("duration_s")
    if not duration or SATURATED in (record.point.get("sweeps") or ()):
        return None
    every = list((record.telemetry.get("engines") or {}).values())
    prefill, decode = _of(every, "prefill"), _of(every, "decode")
    first = prefill or _of(every, "both")
    return Symptoms(
        prefill=len(prefill),
        decode=len(decode),
        **_posting(record, decode, duration),
        **_preemptions(record, every),
        **_prefill(record, first, decode, duration),
        **_place(record, decode, duration),
        **_servers(record, first, decode, duration),
        **_checks(record),
    )


def _posting(record: Measurement, decode: Engines, duration: float) -> dict[str, Any]:
    transfers, post_s, descriptors = (total_of(decode, name) for name in ("nixl_transfers", "nixl_post_time_s", "nixl_descriptors"))
    handoffs, decoding_s = total_of(decode, "requests"), total_of(decode, "decode_time_s")
    if not transfers or post_s is None or descriptors is None or not handoffs or decoding_s is None:
        return {}
    post_ms = 1e3 * post_s / transfers  # ranks of one instance post side by side
    stopped = sum(engine["requests"] * engine["decode_time_s"] / duration for engine in decode)
    bins, usual = record.distributions.get("itl_ms"), record.metrics.get("p50_itl_ms")
    blocks = {engine.get("block_size") for engine in decode}
    # a posting that is shorter than most gaps leaves no gap that could be told from a decode step
    countable = bins and stopped and usual and post_ms > usual
    return {
        "block_size": blocks.pop() if len(blocks) == 1 else None,
        "descriptors": descriptors / transfers,
        "post_ms": post_ms,
        "posting": handoffs * post_ms / 1e3 / duration / len(decode),
        "gaps": gaps_from(bins or {}, post_ms) / stopped if countable else None,
    }


def gaps_from(bins: Mapping[str, int], least_ms: float) -> int:
    """How many gaps are surely `least_ms` long or longer."""
    first = math.ceil(BINS_PER_DECADE * math.log10(least_ms))
    return sum(tokens for number, tokens in bins.items() if int(number) >= first)


def _preemptions(record: Measurement, every: Engines) -> dict[str, Any]:
    thrown = total_of(every, "preemptions")
    if thrown is None or not record.completed:
        return {}
    told = record.telemetry.get("resolved") or {}
    facts = [told.get(name) or {} for name, e in (record.telemetry.get("engines") or {}).items() if e.get("preemptions")]
    tokens, share = _least(facts, "kv_tokens"), _least(facts, "memory_share")
    lengths = record.point.get("input_len") or 0, record.point.get("output_len") or 0
    return {
        "preempted": thrown / record.completed,
        "preempting": tuple(sorted({str(engine.get("role")) for engine in every if engine.get("preemptions")})),
        "fitting": int(tokens // sum(lengths)) if tokens and all(lengths) else None,
        "memory_share": share,
    }


def _prefill(record: Measurement, first: Engines, decode: Engines, duration: float) -> dict[str, Any]:
    told, starved = record.telemetry.get("resolved") or {}, record.telemetry.get("starved_decode") or {}
    names = [name for name, engine in (record.telemetry.get("engines") or {}).items() if engine in first]
    tokens = _least([told.get(name) or {} for name in names], "max_num_batched_tokens")
    return {
        "queueing": _number(first, "queue_time_s", duration),
        "prefilling": _number(first, "prefill_time_s", duration),
        "prefilled_per_s": _number(first, "requests", duration),
        "decoding": _number(decode, "decode_time_s", duration),
        "first_queue": _share(_mean_ms(first, "queue_time_s"), record.metrics.get("mean_ttft_ms")),
        "token_budget": int(tokens) if tokens else None,
        "starved": starved.get("starved") is True,
        "waiting_for_prefill": starved.get("waiting_for_prefill"),
        "decoding_in_all": starved.get("decoding"),
    }


def _place(record: Measurement, decode: Engines, duration: float) -> dict[str, Any]:
    """A decode instance's queue holds the transfer, too (pdslurm.measure.ttft)."""
    queue, transfer = _mean_ms(decode, "queue_time_s"), _mean_ms(decode, "nixl_transfer_time_s", per="nixl_transfers")
    requests = total_of(decode, "requests")
    if queue is None or transfer is None or not requests:
        return {}
    waiting = max(queue - transfer, 0.0)
    return {
        "placing": waiting / 1e3 * requests / duration / len(decode),
        "place_share": _share(waiting, record.metrics.get("mean_ttft_ms")),
    }


def _servers(record: Measurement, first: Engines, decode: Engines, duration: float) -> dict[str, Any]:
    """Of both sides of a handoff together."""
    spans = record.telemetry.get("ttft_spans") or {}
    roles = [spans.get(role) or {} for role in (("prefill", "decode") if decode else ("both",))]
    server, span, http = (_sum(role.get(name) for role in roles) for name in ("api_server_ms", "ttft_ms", "http_ms"))
    queue, requests = _sum(role.get("scheduler_queue_ms") for role in roles), total_of(first, "requests")
    parts = record.telemetry.get("ttft") or {}
    beyond, transfer = parts.get("error_ms"), (parts.get("transfer_ms") or 0.0) if decode else 0.0
    found: dict[str, Any] = {}
    if server is not None and span and queue is not None and requests:
        found |= {
            "serving": server / 1e3 * requests / duration / (len(first) + len(decode)),
            "server_share": server / span,
            "scheduler_share": max(queue - transfer, 0.0) / span,
        }
    if beyond is not None and http is not None and requests:
        router = max(beyond - http, 0.0)
        found |= {
            "outside": router / 1e3 * requests / duration,
            "outside_share": _share(router, record.metrics.get("mean_ttft_ms")),
        }
    return found


def _checks(record: Measurement) -> dict[str, Any]:
    checks = {check.name: check for check in record.checks}
    told = checks["delivery"].evidence if "delivery" in checks else {}
    client, engine = told.get("client_ms_a_token"), told.get("engine_ms_a_token")
    return {
        "wrong": tuple(name for name, check in checks.items() if check.ok is False),
        "held_up": (client - engine) / client if client and engine is not None else None,
        "client_token_ms": client,
        "engine_token_ms": engine,
        "is_client_free": "client" in checks and checks["client"].ok is True,
    }


def _of(engines: Iterable[Mapping[str, Any]], role: str) -> list[Mapping[str, Any]]:
    return [engine for engine in engines if engine.get("role") == role]


def _number(engines: Engines, counter: str, duration: float) -> float | None:
    total = total_of(engines, counter)
    return None if total is None else total / duration / len(engines)


def _mean_ms(engines: Engines, counter: str, per: str = "requests") -> float | None:
    total, count = total_of(engines, counter), total_of(engines, per)
    return 1e3 * total / count if total is not None and count else None


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _sum(values: Iterable[float | None]) -> float | None:
    every = list(values)
    known = [value for value in every if value is not None]
    return sum(known) if known and len(known) == len(every) else None


def _least(facts: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Of what all engines tell; None as soon as one does not."""
    try:
        values = [float(each[name]) for each in facts]
    except (KeyError, TypeError, ValueError):
        return None
    return min(values, default=None)
