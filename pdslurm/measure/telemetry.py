"""From /metrics before and after a point to what the engines and the router counted during it. Pure but for `scrape`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from pdslurm.measure.health import ask_many
from pdslurm.plan.deployment import Process
from pdslurm.validity.counters import total_of

# Our name → the counter's names in vLLM versions we know, newest first. A name that no engine exposes gives None.
ENGINE_COUNTERS: Mapping[str, tuple[str, ...]] = {
    "nixl_bytes": ("vllm:nixl_bytes_transferred_sum",),
    "nixl_transfers": ("vllm:nixl_bytes_transferred_count",),
    "nixl_transfer_time_s": ("vllm:nixl_xfer_time_seconds_sum",),
    "nixl_post_time_s": ("vllm:nixl_post_time_seconds_sum",),
    "nixl_descriptors": ("vllm:nixl_num_descriptors_sum",),
    "nixl_failed_transfers": ("vllm:nixl_num_failed_transfers_total",),
    "nixl_failed_notifications": ("vllm:nixl_num_failed_notifications_total",),
    "nixl_expired_requests": ("vllm:nixl_num_kv_expired_reqs_total",),
    "nixl_late_notifications": ("vllm:nixl_num_notifications_after_expiry_total",),
    "prefix_cache_queries": ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
    "prefix_cache_hits": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
    "queue_time_s": ("vllm:request_queue_time_seconds_sum",),
    "prefill_time_s": ("vllm:request_prefill_time_seconds_sum",),
    "decode_time_s": ("vllm:request_decode_time_seconds_sum",),
    "ttft_s": ("vllm:time_to_first_token_seconds_sum",),
    "e2e_s": ("vllm:e2e_request_latency_seconds_sum",),
    "http_s": ("http_request_duration_highr_seconds_sum",),  # of all requests but /metrics, /health and their like
    "requests": ("vllm:request_success_total",),
    "prompt_tokens": ("vllm:prompt_tokens_total",),
    "generation_tokens": ("vllm:generation_tokens_total",),
    "preemptions": ("vllm:num_preemptions_total",),
}
SCRAPE_S = 10.0
COUNTED_WITHIN_S = 3.0  # an engine counts a transfer with a step's delay
ENGINE_INFO = "vllm:cache_config_info"  # a gauge that is always 1; its labels tell
ROUTER_WORKER_COUNTERS = ("vllm_router_processed_requests_total",)

ONLY_RISE = ("_total", "_sum", "_count")  # the ends of names of samples that only rise

LARGEST = 2.0**63  # no counter of an engine gets there

Sample = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]  # (name, sorted labels) → value


class Scrape(dict[str, Sample | None]):
    """What each process counted; None for one whose answer is of no use, and in `why` the reason."""

    def __init__(self, samples: Mapping[str, Sample | None], why: Mapping[str, str]) -> None:
        super().__init__(samples)
        self.why = dict(why)


def parse(text: str) -> Sample:
    """Counters, sums and counts of a Prometheus exposition, and ENGINE_INFO; buckets, gauges and creation times are left out.
    Raises ValueError for a text that is none, and for a counter that cannot be one."""
    try:
        return _parse(text)
    except Exception as error:  # the parser raises what comes, as KeyError and IndexError
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _parse(text: str) -> Sample:
    if text.lstrip().startswith(("<", "{", "[")):
        raise ValueError("HTML or JSON")
    kept: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in text_string_to_metric_families(text):
        if family.type not in ("counter", "histogram", "summary") and family.name != ENGINE_INFO:
            continue
        for sample in family.samples:
            if sample.name.endswith(ONLY_RISE) and not abs(sample.value) < LARGEST:  # NaN is not less either
                raise ValueError(f"{sample.name} is {sample.value:g}")
            if not sample.name.endswith(("_bucket", "_created")) and math.isfinite(sample.value):
                kept[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return kept


def difference(before: Sample, after: Sample) -> Sample:
    """What was counted in between. A counter that was not there before started at 0."""
    return {key: value - before.get(key, 0.0) for key, value in after.items()}


def has_fallen(before: Sample | None, after: Sample | None) -> bool:
    """Whether a counter is lower than it was: its process was started anew in between. A summary's quantiles rise and fall."""
    if before is None or after is None:
        return False
    return any(after.get(key, value) < value for key, value in before.items() if key[0].endswith(ONLY_RISE))


def total(sample: Sample, names: Iterable[str]) -> float | None:
    """The sum over labels of the first name that is exposed; None when none is."""
    for name in names:
        values = [v for (n, _), v in sample.items() if n == name]
        if values:
            return sum(values)
    return None


def scrape(processes: Iterable[Process], *, timeout_s: float = SCRAPE_S) -> Scrape:
    """/metrics of every process that has one, side by side. Raises nothing, whatever is answered."""
    urls = {p.name: p.metrics_url for p in processes if p.metrics_url}
    samples: dict[str, Sample | None] = {}
    why: dict[str, str] = {}
    for name, answer in ask_many(urls, timeout_s=timeout_s).items():
        samples[name], said = None, answer.why
        if answer.text is not None:
            try:
                samples[name] = parse(answer.text)
            except ValueError as error:
                said = f"/metrics answers with what is no text of Prometheus ({str(error)[:100]})"
        if samples[name] is None:
            why[name] = f"{name}: {said}"
    return Scrape(samples, why)


def counted(
    before: Mapping[str, Sample | None], after: Mapping[str, Sample | None], engines: Mapping[str, str], routers: Sequence[str]
) -> dict[str, Any]:
    """The telemetry of one point: totals by counter, the same for each engine, requests for each worker of the router.

    `engines` gives each engine's role. A total is None as soon as one engine's part of it is unknown; `no_counters` then says why,
    by process."""
    by_engine: dict[str, dict[str, Any]] = {}
    for name, role in engines.items():
        old, new = before.get(name), after.get(name)
        delta = None if old is None or new is None else difference(old, new)
        values = {ours: None if delta is None else total(delta, names) for ours, names in ENGINE_COUNTERS.items()}
        by_engine[name] = {"role": role, **values, **cache_facts(new or {})}
    totals = {ours: total_of(by_engine.values(), ours) for ours in ENGINE_COUNTERS}
    workers: dict[str, float] = {}
    for router in routers:
        old, new = before.get(router), after.get(router)
        if old is not None and new is not None:
            for (name, labels), value in difference(old, new).items():
                if name in ROUTER_WORKER_COUNTERS and value:
                    worker = dict(labels).get("worker", "")
                    workers[worker] = workers.get(worker, 0.0) + value
    restarted = [name for name in (*engines, *routers) if has_fallen(before.get(name), after.get(name))]
    why = {**_why(after), **_why(before)}
    no_counters = {name: why[name] for name in (*engines, *routers) if name in why}
    told = {"totals": totals, "engines": by_engine, "router_requests": workers or None, "restarted": restarted}
    return {**told, "no_counters": no_counters} if no_counters else told


def _why(scraped: Mapping[str, Sample | None]) -> Mapping[str, str]:
    return scraped.why if isinstance(scraped, Scrape) else {}


def cache_facts(sample: Sample) -> dict[str, Any]:
    """Block size in tokens and dtype of an engine's KV cache, as it tells them itself; None for what it does not tell."""
    labels = next((dict(labels) for (name, labels) in sample if name == ENGINE_INFO), {})
    block = labels.get("block_size", "")
    return {"block_size": int(block) if block.isdecimal() and len(block) < 10 else None, "cache_dtype": labels.get("cache_dtype")}
