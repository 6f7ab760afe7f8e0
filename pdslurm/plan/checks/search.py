"""What is wrong in how a configuration asks for starts, repeats, rates, an SLO and a budget: a sentence for each problem. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pdslurm.config import Config, Search, Workload
from pdslurm.records.measurement import METRICS
from pdslurm.records.t_interval import MIN_REPEATS

LEAST_STEP = 1.01  # rates have three digits


def problems(config: Config) -> Iterator[str]:
    """Every problem with workload.starts, workload.until, workload.search, slo and budget."""
    yield from _starts(config.workload)
    yield from _until(config.workload)
    yield from _search(config.workload)
    yield from _slo(config)


def _starts(workload: Workload) -> Iterator[str]:
    if workload.starts < 1:
        yield f"workload.starts={workload.starts}: must be 1 or more"
    if workload.starts > 1 and workload.until.rel_ci is not None:
        yield (
            f"workload.starts={workload.starts} with workload.until.rel_ci={workload.until.rel_ci:g}: until adds repeats within a "
            "start; leave one of the two out"
        )


def _until(workload: Workload) -> Iterator[str]:
    until = workload.until
    if until.rel_ci is None:
        return
    if until.rel_ci <= 0:
        yield f"workload.until.rel_ci={until.rel_ci:g}: must be above 0, 0.05 for ±5 %; or null for workload.repeats alone"
    if workload.repeats < MIN_REPEATS:
        yield f"workload.repeats={workload.repeats}: workload.until needs {MIN_REPEATS} or more, for fewer give no interval"
    if until.max_repeats < workload.repeats:
        yield f"workload.until.max_repeats={until.max_repeats}: fewer than workload.repeats={workload.repeats}; use that or more"
    for name in until.metrics:
        if name not in METRICS:
            yield f"workload.until.metrics={name}: no such metric; use {', '.join(METRICS)}"
    if not until.metrics:
        yield "workload.until.metrics=[]: empty; name what has to be known, output_throughput_tok_s say"


def _search(workload: Workload) -> Iterator[str]:
    search = workload.search
    if search.lowest is None:
        return
    if search.lowest <= 0 or search.highest < search.lowest:
        yield f"workload.search.lowest={search.lowest:g}, highest={search.highest:g}: both above 0, and highest not below lowest"
    if search.step < LEAST_STEP:
        yield f"workload.search.step={search.step:g}: must be {LEAST_STEP} or more, for two rates to differ"
    yield from _fine_rates(search)
    for name, sweep in workload.sweeps.items():
        if sweep.request_rate != [None]:
            yield f"workload.sweeps.{name}.request_rate={sweep.request_rate}: workload.search finds rates; leave it out"
    if workload.until.rel_ci is not None:
        yield f"workload.until.rel_ci={workload.until.rel_ci:g}: a search takes workload.repeats; leave one of the two out"
    if workload.ramp_up:
        yield "workload.ramp_up: workload.search finds rates; leave one of the two out"
    if search.neighbours is not None and not all(all(s.input_len) and all(s.output_len) for s in workload.sweeps.values()):
        yield f"workload.search.neighbours={search.neighbours}: needs sweeps with input_len and output_len; use null for all ratios"
    if search.neighbours is not None and search.neighbours < 0:
        yield f"workload.search.neighbours={search.neighbours}: must be 0 or more, or null for all"
    if search.saturating_prompts < 1:
        yield f"workload.search.saturating_prompts={search.saturating_prompts}: must be 1 or more"
    if search.drop_below is not None and not 0 < search.drop_below < 1:
        yield f"workload.search.drop_below={search.drop_below:g}: must lie between 0 and 1, or null to drop none"


def _fine_rates(search: Search) -> Iterator[str]:
    """What is wrong with the rates around a capacity and the requests that each is given."""
    for name, least in (("fine", 1), ("beside", 0), ("beyond", 0)):
        if getattr(search, name) < least:
            yield f"workload.search.{name}={getattr(search, name)}: must be {least} or more"
    most = int(math.log(search.step) / math.log(LEAST_STEP)) if search.step >= LEAST_STEP else None
    if most is not None and search.fine > most:
        yield (
            f"workload.search.fine={search.fine}: divides search.step={search.step:g} into steps below {LEAST_STEP}, and rates "
            f"have three digits; use at most {most}"
        )
    if search.cover is not None and search.cover <= 1:
        yield f"workload.search.cover={search.cover:g}: must be above 1, or null for no more rates than the capacity needs"


def _slo(config: Config) -> Iterator[str]:
    slo = config.slo
    for name in ("ttft_ms", "tpot_ms", "e2el_ms"):
        value = getattr(slo, name)
        if value is not None and value <= 0:
            yield f"slo.{name}={value:g}: must be above 0, or null to demand nothing"
    if not 0 < slo.share <= 1:
        yield f"slo.share={slo.share:g}: must lie above 0 and be at most 1"
    if not 0 <= slo.smallest_difference < 1:
        yield f"slo.smallest_difference={slo.smallest_difference:g}: must be at least 0 and below 1, as 0.05 for 5 %"
    if slo.share == 1 and config.workload.search.lowest is not None:
        yield "slo.share=1: workload.search needs a share below 1, for the worst of more requests is worse; use 0.99 or less"
    if config.workload.search.lowest is not None and slo.demands_nothing:
        yield "slo=none: workload.search looks for the rate at which an SLO is kept; choose slo=chat or set slo.ttft_ms"
    for name in ("ttft_ms", "tpot_ms"):
        if config.workload.search.lowest is not None and not config.workload.stream and getattr(slo, name) is not None:
            yield f"slo.{name}={getattr(slo, name):g} with workload.stream=false: whole answers do not show it; limit slo.e2el_ms"
    for name in ("gpu_hours", "price_per_gpu_hour"):
        value = getattr(config.budget, name)
        if value is not None and value <= 0:
            yield f"budget.{name}={value:g}: must be above 0, or null for none"
