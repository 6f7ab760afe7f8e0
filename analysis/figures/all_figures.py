"""Loaded records in, every figure that their data allow out, one after another, and a line for each that they do not.

The files behind the records (requests, timelines) are read here, no more of them than the figures show."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.figures import activity, attainment, breakdown, crossover, distributions, goodput, latency, panels, slo_map
from analysis.figures.by_workload import MAX_PANELS, QUANTITIES, by_gpu, draw, require_used
from analysis.figures.figure_files import Drawing
from analysis.figures.style import SCREEN, Style
from analysis.load import request_files
from analysis.load.frame import SETTING
from analysis.load.slo import EXAMPLE, SHARE, Slo, slo_text
from analysis.stats import metrics, repeats, timeline
from analysis.stats.repeats import evenly_spaced
from analysis.stats.sweeps import interest_of, slo_of, sweeps_of
from pdslurm.records.measurement import BINS_PER_DECADE

FILES = "request files (raw/ARM/*.requests.csv.gz) of valid records"
NEEDS = {
    "latency_concurrency": "valid points at two or more values of max_concurrency",
    "ttft_floor": "valid points at two or more input lengths, and an arm of one instance measured at them with max_concurrency 1 "
    "(the floor) or P/D arms whose KV transfers were counted",
    "goodput": f"valid points at two or more request rates with their {FILES}",
    "attainment": f"an SLO, and two or more request rates of one arm with their {FILES}",
    "slo_map": f"two or more request rates of both kinds of arms, with their {FILES} that show TTFT and TPOT",
    "pareto": "two valid points of the same lengths and load, with TPOT, throughput and the arm's GPUs",
    "cdf_ttft": f"{FILES}, with answers streamed",
    "cdf_e2el": FILES,
    "cdf_itl": "valid records with the distribution of ITL (schema_version 2, answers streamed)",
    "ttft_breakdown": 'valid records with the parts of the TTFT (telemetry["ttft"])',
    "crossover": "two settings or more at which both an arm with separate prefill and decode instances and one without are valid",
    "timeline": "timeline files (raw/ARM/*.timeline.csv.gz) of valid records; telemetry_every_s=0.5 has a run write them",
}
NO_SLO = f"an SLO: --slo {EXAMPLE}, or slo in the runs' config.yaml"
WORDS = {"ttft": "TTFT", "e2el": "E2E latency", "itl": "ITL"}


def drawings(frame: pd.DataFrame, style: Style = SCREEN, slo: Slo | None = None) -> Iterator[tuple[str, Drawing | str]]:
    """The name of each figure with the figure, or with what it needs and the records do not have. Raises ResultsError when no
    record is fit to be drawn, or a file behind a record cannot be read."""
    judged = panels.set_apart(by_gpu(repeats.judge(frame))).assign(slo=slo_text(slo) if slo else "")
    require_used(judged)
    interest = interest_of(judged)
    found = panels.panels(judged)
    for quantity in QUANTITIES:
        yield quantity.file, draw(judged, quantity, found, style)
    reduced = request_files.reduce(judged.loc[records_to_read(judged, style, slo)], slo)
    concurrency = panels.over(judged, "max_concurrency")
    yield _or_needs("latency_concurrency", latency.of_concurrency(judged, reduced, concurrency, style))
    yield _or_needs("ttft_floor", latency.over_floor(judged, panels.over(judged, "input_len"), style))
    good = metrics.with_goodput(judged, reduced)
    yield _or_needs("goodput", goodput.by_rate(good, rate_panels(good), slo, style)) if slo else ("goodput", NO_SLO)
    sweeps, share = sweeps_of(judged), (slo_of(judged) or ({}, SHARE))[1]
    yield _or_needs("attainment", attainment.attainment(judged, sweeps, slo, share, style) if slo else None)
    yield _or_needs("slo_map", slo_map.of_sweeps(judged, sweeps, slo, share, style, interest=interest))
    yield _or_needs("pareto", goodput.pareto(metrics.with_rates(judged), style))
    for what in ("ttft", "e2el"):
        settings = len(with_requests(judged, what)[list(SETTING)].drop_duplicates())
        drawing = distributions.cdf(judged, reduced[f"{what}_bins"], request_files.FINE, WORDS[what], style, settings=settings)
        yield _or_needs(f"cdf_{what}", drawing)
    yield _or_needs(
        "cdf_itl", distributions.cdf(judged, judged["itl_bins"], BINS_PER_DECADE, WORDS["itl"], style, note=repeats.ITL_IS)
    )
    yield _or_needs("ttft_breakdown", breakdown.ttft_parts(judged, style))
    yield _or_needs("crossover", crossover.crossover(judged, style, interest=interest))
    recorded = timeline.records_to_show(judged, activity.ARMS)
    yield _or_needs("timeline", activity.activity_over_time(judged, recorded, timeline.activity(recorded), style))


def _or_needs(name: str, drawing: Drawing | None) -> tuple[str, Drawing | str]:
    return name, drawing or NEEDS[name]


def rate_panels(judged: pd.DataFrame) -> tuple[panels.Panel, ...]:
    """The panels over request rates; a load without a rate has no place on that axis."""
    return panels.over(judged[judged["request_rate"] < float("inf")], "request_rate")


def with_requests(judged: pd.DataFrame, what: str) -> pd.DataFrame:
    """The used records that have a file of requests and know this latency."""
    return judged[(judged["use"] == "used") & judged["requests_file"].notna() & judged[f"p50_{what}_ms"].notna()]


def records_to_read(judged: pd.DataFrame, style: Style, slo: Slo | None) -> pd.Index:
    """The records whose requests the figures show: some settings' distributions, the panels over concurrency and, with an SLO,
    those over the request rate."""
    used = judged[judged["use"] == "used"]
    over = evenly_spaced(panels.over(judged, "max_concurrency"), latency.SETTINGS)
    over += evenly_spaced(rate_panels(judged), MAX_PANELS) if slo else []
    parts = [panel.rows.index for panel in over]
    for what in ("ttft", "e2el"):
        have = with_requests(judged, what)
        if len(have):
            shown = distributions.shown_settings(have, style)
            parts.append(have.reset_index().merge(shown, on=list(SETTING)).set_index("index").index)
    return used.index[used.index.isin(sorted(set().union(*parts)))]
