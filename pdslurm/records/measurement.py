"""The one shape of a result, for each arm, point and repeat, and the names of what it holds; record_file.py reads one.

An unknown measurement is None, never 0."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 3  # 1 had no checks and no distributions, 2 no demand; such a record is read as one that has none
READABLE = (1, 2, SCHEMA_VERSION)
# What `vllm bench serve` reports, under our names with units. Each latency has mean, std, p50, p90, p95, p99.
LATENCIES = ("ttft", "tpot", "itl", "e2el")
STATISTICS = ("mean", "std", "p50", "p90", "p95", "p99")
THROUGHPUTS = {
    "request_throughput_per_s": "request_throughput",
    "output_throughput_tok_s": "output_throughput",
    "total_throughput_tok_s": "total_token_throughput",
    "duration_s": "duration",
}


# The columns of a record's `requests` file, a line for each request in the order of their start; ok is 1 or 0, unknown is empty.
# start_s counts from the first request of the point; tpot_ms is (e2el - ttft) / (output_len - 1).
REQUEST_COLUMNS = ("start_s", "input_len", "output_len", "ttft_ms", "tpot_ms", "itl_max_ms", "e2el_ms", "ok")
# The columns of its `timeline` file, a line for each look at an engine; t_s counts from the same moment, what is counted from the
# point's beginning.
TIMELINE_COLUMNS = ("t_s", "engine", "role", "running", "waiting", "prompt_tokens", "generation_tokens", "nixl_bytes")
# What telemetry["ttft"] takes the mean TTFT apart into, in the order in which a request goes through it; `queue_ms` there. Records
# without `api_server_ms` are older: their `queue_ms` holds the API server too, see ttft_shares.
TTFT_PARTS = ("api_server", "queue", "prefill", "handover", "transfer", "first_decode")
TTFT_UNSPLIT = "api_server_and_queue"
TTFT_SHARES = (TTFT_UNSPLIT, *TTFT_PARTS)
TTFT_SUMS = ("sum", "measured", "error")  # beside them: of all parts, the client's own TTFT, what the parts leave unexplained
TUNING = "tuning"  # the one sweep of a trial of `tune`: its records choose an arm's setting, and are no results of the comparison
SMOKE = "smoke"  # the workload that measures nothing, and its one sweep: its records show that an arm works, and are no results
BINS_PER_DECADE = 50  # of a distribution: bin i holds what lies from 10**(i/50) to 10**((i+1)/50), 4.7 % wide

METRICS = (*THROUGHPUTS, *(f"{stat}_{what}_ms" for what in LATENCIES for stat in STATISTICS))


@dataclass(frozen=True)
class Check:
    """One question that a measurement has to answer before it may be used. `ok` is None where the question does not apply to the
    arm or the load, or where the evidence for an answer is missing; in the second case `unverified` is true."""

    name: str
    ok: bool | None
    said: str  # what was found, in words; of a check that is not ok the reason why the measurement must not be used
    evidence: Mapping[str, Any] = field(default_factory=dict)
    unverified: bool = False  # the check is decisive for this arm and load, and the evidence that it needs is missing


@dataclass(frozen=True)
class Measurement:
    """One repeat of one point on one arm, done or failed. The fields are the keys of the JSON record."""

    key: str  # content key: a hash of everything that could change the number
    run: str
    arm: str
    source: str  # measured or simulated
    status: str  # done or failed
    valid: bool
    invalid_reasons: tuple[str, ...]
    point: Mapping[str, Any]  # input_len, output_len, request_rate, max_concurrency, num_prompts, repeat, seed, sweeps, id, …
    arm_info: Mapping[str, Any]  # disaggregated, gpus, instances, roles, nodes
    started_at: str  # ISO 8601, UTC
    wall_s: float  # of the whole point
    completed: int | None = None
    failed: int | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)  # see metrics_of
    telemetry: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)  # bench_args, versions key, raw file
    error: str | None = None
    checks: tuple[Check, ...] = ()
    demand: Mapping[str, Any] = field(default_factory=dict)  # what the point was to be: pdslurm.validity.demand.Demand as JSON
    distributions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # itl_ms: bin → tokens; see BINS_PER_DECADE
    schema_version: int = SCHEMA_VERSION


def metrics_of(client: Mapping[str, Any]) -> dict[str, float | None]:
    """Means and percentiles by our names (`mean_ttft_ms`, `p99_itl_ms`, `output_throughput_tok_s`, …) from the client's result.
    With no request completed every one of them is None, and so is a latency of zero (one output token has no ITL): the client
    writes zeros then."""
    none_done = not client.get("completed")
    values: dict[str, float | None] = {ours: client.get(theirs) for ours, theirs in THROUGHPUTS.items()}
    for what in LATENCIES:
        known = bool(client.get(f"mean_{what}_ms"))
        values |= {f"{stat}_{what}_ms": client.get(f"{stat}_{what}_ms") if known else None for stat in STATISTICS}
    return dict.fromkeys(values) if none_done else values


def ttft_shares(telemetry: Mapping[str, Any]) -> dict[str, float | None]:
    """telemetry["ttft"] with a value for each of TTFT_SHARES, by `queue_ms` and so on; empty where there is none. An older record's
    queue is split by what telemetry["ttft_spans"] has of the first instance; else it stays one part, TTFT_UNSPLIT."""
    parts: Mapping[str, float | None] = telemetry.get("ttft") or {}
    if not parts or "api_server_ms" in parts:
        return {f"{TTFT_UNSPLIT}_ms": None, **parts} if parts else {}
    spans = telemetry.get("ttft_spans") or {}
    first = spans.get("prefill") or spans.get("both") or {}
    server, queue = first.get("api_server_ms"), first.get("scheduler_queue_ms")
    if server is None or queue is None:
        return {**parts, f"{TTFT_UNSPLIT}_ms": parts.get("queue_ms"), "api_server_ms": None, "queue_ms": None}
    return {**parts, f"{TTFT_UNSPLIT}_ms": None, "api_server_ms": server, "queue_ms": queue}


def content_key(material: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(material, sort_keys=True, default=str).encode()).hexdigest()[:16]


def is_smoke(record: Measurement) -> bool:
    """Whether a measurement only shows that its arm works."""
    return tuple(record.point.get("sweeps") or ()) == (SMOKE,)


def is_trial(record: Measurement) -> bool:
    """Whether a measurement was made to choose a setting of its arm."""
    return tuple(record.point.get("sweeps") or ()) == (TUNING,)


def is_overloaded(record: Measurement) -> bool:
    """Whether the one thing wrong with a measurement is that more requests arrived than were served: no number to be shown, for it
    depends on how long one looks, but shows that the arm does not serve the rate."""
    wrong = [check for check in record.checks if check.ok is False]
    return record.status == "done" and bool(wrong) and all(check.evidence.get("holds_rate") is False for check in wrong)


def is_unsteady(record: Measurement) -> bool:
    """Whether the one thing wrong with a measurement is that it was over before a steady state was reached. Its queues began empty,
    so its latencies are below those of a longer one: an SLO that was missed there is missed, and one that was met says nothing."""
    wrong = [check.name for check in record.checks if check.ok is False]
    return record.status == "done" and wrong == ["steady_state"]
