"""Judged records in, two figures out: latency against concurrency (seed 000), TTFT by input length over its floor (seed 003)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.lines import Line2D

from analysis.figures.by_workload import MAX_PANELS, means, rows_of, scale
from analysis.figures.captions import OF_PERCENTILE, bars_text, caption_of
from analysis.figures.figure_files import Drawing
from analysis.figures.line_charts import Cell, Reference, draw_cells
from analysis.figures.panels import Panel, title
from analysis.figures.style import SCREEN, SeriesStyle, Style, series_styles
from analysis.load.request_files import FINE
from analysis.stats import metrics
from analysis.stats.repeats import evenly_spaced, units

LATENCIES = {"ttft": "TTFT", "e2el": "E2E latency"}
SHARES = {"p50": (0.50, "Median"), "p95": (0.95, "95th percentile")}
SETTINGS = 2  # by concurrency, each of them in four panels
FLOOR = {"color": "0.72", "linewidth": 4.0, "zorder": 1.5, "solid_capstyle": "round"}
FLOOR_BARS = {"ecolor": "0.5", "elinewidth": 1.0, "capsize": 2.5, "zorder": 1.6}
FLOOR_LABEL = "floor: {}"
TRANSFER_LABEL = "KV transfer, {}"


def of_concurrency(judged: pd.DataFrame, reduced: pd.DataFrame, found: Sequence[Panel], style: Style = SCREEN) -> Drawing | None:
    """Median and 95th percentile of TTFT and E2E by concurrency; `found`: panels over max_concurrency. None where no such latency
    is known. TTFT is left out where answers were not streamed."""
    used = judged[judged["use"] == "used"]
    known = [what for what in LATENCIES if used[f"p50_{what}_ms"].notna().any()]
    if not found or not known:
        return None
    drawn = evenly_spaced(found, SETTINGS)
    pooled = has_requests(rows_of(drawn), reduced, known)
    characters, brief = style.title_for(2), not style.explains
    cells = []
    for panel in drawn:
        for share, (q, words) in SHARES.items():
            for what in known:
                factor, unit = scale(used[f"p50_{what}_ms"], "ms")
                name = LATENCIES[what]
                mine = panel.rows[panel.rows["use"] == "used"]
                by = ["series", panel.x]
                points = (
                    metrics.percentiles(mine, reduced[f"{what}_bins"], FINE, q, by)
                    if pooled
                    else means(panel, f"{share}_{what}_ms")
                )
                cells.append(Cell(panel, points, title(panel, found, characters, words, brief=brief), f"{name} ({unit})", factor))
    counts = units(used.loc[used.index.intersection(rows_of(drawn).index)], metrics.KEYS)
    bars = (
        bars_text(counts, "Percentile over all requests", OF_PERCENTILE) if pooled else bars_text(counts, "Mean of the percentile")
    )
    caption = caption_of(judged, rows_of(drawn), bars, skipped=len(found) - len(drawn))
    return draw_cells(style, "Latency against concurrency: lower is better", series_styles(judged, style), cells, caption)


def has_requests(rows: pd.DataFrame, reduced: pd.DataFrame, known: Sequence[str]) -> bool:
    """Whether each used record of the rows has its requests' latencies."""
    bins = reduced[[f"{what}_bins" for what in known]].reindex(rows.index[rows["use"] == "used"])
    return not bins.isna().any(axis=None)


def over_floor(judged: pd.DataFrame, found: Sequence[Panel], style: Style = SCREEN) -> Drawing | None:
    """Mean TTFT by input length, with the floor under it and the mean time of a KV transfer beside it, on a logarithmic axis;
    `found`: panels over input_len. None where there is neither a floor nor a transfer to show."""
    used = judged[judged["use"] == "used"]
    if not found or used["mean_ttft_ms"].isna().all():
        return None
    floors, all_styles = metrics.floors(used), series_styles(judged, style)
    drawn = evenly_spaced(found, MAX_PANELS)
    references = [references_of(panel, floors, all_styles) for panel in drawn]
    if not any(references):
        return None
    titles = [title(panel, found, style.title_for(len(drawn)), brief=not style.explains) for panel in drawn]
    cells = [
        Cell(panel, means(panel, "mean_ttft_ms"), said, "Mean TTFT (ms)", references=tuple(lines), log=True)
        for panel, said, lines in zip(drawn, titles, references, strict=True)
    ]
    more = {str(line.line["label"]): Line2D([], [], **line.line) for lines in references for line in lines}
    shown = rows_of(drawn)
    counts = units(shown[shown["use"] == "used"], metrics.KEYS)
    of_floor = (
        "Floor: the mean TTFT of one instance alone with one request in flight, which no transfer makes less" if len(floors) else ""
    )
    caption = caption_of(judged, rows_of(drawn), bars_text(counts), of_floor, skipped=len(found) - len(drawn))
    return draw_cells(style, "TTFT by input length: lower is better", all_styles, cells, caption, more=list(more.values()))


def references_of(panel: Panel, floors: pd.DataFrame, all_styles: dict[str, SeriesStyle]) -> list[Reference]:
    """The floors that fit to a panel, and the transfers of its series."""
    fixed = dict(panel.fixed)
    lines = []
    chosen = metrics.floor_for(floors, fixed["output_len"], fixed["load"])
    for label, points in chosen.groupby("series"):
        if points["input_len"].isin(panel.rows["input_len"]).sum() > 1:
            lines.append(Reference(points, {**FLOOR, "label": FLOOR_LABEL.format(label)}, FLOOR_BARS))
    transfers = means(panel, "transfer_ms")
    for label, points in transfers[transfers["mean"] > 0].groupby("series"):
        line_style = all_styles[str(label)]
        how = {
            "color": line_style.colour,
            "marker": line_style.marker,
            "markersize": 3.5,
            "linewidth": 0.8,
            "linestyle": (0, (1, 1.2)),
        }
        lines.append(
            Reference(points, {**how, "label": TRANSFER_LABEL.format(label), "markerfacecolor": "white"}, line_style.of_bars())
        )
    return lines
