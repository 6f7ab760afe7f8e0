"""Judged records with goodput and rates in, two figures out: goodput by request rate, tokens/s by GPU against tokens/s by user."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.figures import axis
from analysis.figures.by_workload import Quantity, draw, rows_of
from analysis.figures.captions import bars_text, caption_of
from analysis.figures.figure_files import Drawing
from analysis.figures.panels import Panel, settings_titles
from analysis.figures.style import SCREEN, SeriesStyle, Style, canvas, handles_of, label_side, series_styles
from analysis.load.slo import Slo, slo_text
from analysis.stats import metrics, repeats
from analysis.stats.repeats import evenly_spaced

GOODPUT = Quantity("goodput", "goodput_per_s_gpu", "Goodput by GPU", "Goodput", "requests/s/GPU", "higher")
OF_PANEL = ("input_len", "output_len", "load")
FRONT: dict[str, Any] = {"color": "0.72", "linewidth": 3.5, "zorder": 1.5, "solid_joinstyle": "miter", "label": "Pareto front"}
USER, GPU = "Speed for a user (tokens/s, 1000 / mean TPOT)", "Output tokens/s/GPU"
SHORT_USER = "Tokens/s/user"
OFFERED_GPU = (
    "At a fixed request rate tokens/s by GPU are the load that was offered: an arm may serve more than its highest point shows"
)


def by_rate(judged: pd.DataFrame, found: Sequence[Panel], slo: Slo, style: Style = SCREEN) -> Drawing | None:
    """Requests within the SLO by second and GPU, by request rate; `judged` has goodput (metrics.with_goodput), `found` are its
    panels over request_rate. None where no goodput is known."""
    if not found or rows_of(found)["goodput_per_s_gpu"].isna().all():
        return None
    return draw(judged, GOODPUT, found, style, note=f"Good requests: {slo_text(slo)}")


def pareto(rated: pd.DataFrame, style: Style = SCREEN) -> Drawing | None:
    """Output tokens/s by GPU against tokens/s for a user, a point for each arm and setting, a panel for each pair of lengths and
    load; `rated`: judged records of metrics.with_rates. None where no panel has two points."""
    used = rated[rated["use"] == "used"]
    points = metrics.tradeoff(used)
    panels = [panel for _, panel in points.groupby(list(OF_PANEL)) if len(panel) > 1]
    if not panels:
        return None
    drawn = evenly_spaced(panels, style.settings)
    titles = settings_titles(
        pd.DataFrame([panel[list(OF_PANEL)].iloc[0] for panel in drawn]), style.title_for(len(drawn)), brief=not style.explains
    )
    rows = used.merge(pd.concat(drawn)[list(metrics.KEYS)], on=list(metrics.KEYS))
    counts = repeats.units(rows, metrics.KEYS)
    user = "Tokens/s for a user are 1000 / mean TPOT in ms"
    said = "The front joins the points that no other beats in both; a line joins an arm's points in the order of its load"
    offered = OFFERED_GPU if (rows["request_rate"] < math.inf).any() else ""
    caption = caption_of(rated, rows, bars_text(counts), user, offered, said, skipped=len(panels) - len(drawn))
    all_styles = series_styles(rated, style)
    shown = {label: line_style for label, line_style in all_styles.items() if label in set(rows["series"])}
    with mpl.rc_context(style.rc):
        handles = [*handles_of(shown), Line2D([], [], **FRONT)]
        heading = "Tokens/s by GPU and for a user: up and right is better"
        figure, axes = canvas(style, heading, handles, style.wrapped(caption, len(drawn)), panels=len(drawn), titles=titles)
        for i, (panel, ax) in enumerate(zip(drawn, axes, strict=True)):
            draw_tradeoff(ax, panel, shown)
            ax.set_title(titles[i], loc="left")
            if not style.explains:
                label_side(figure, style, GPU)
            elif i % 2 == 0:
                ax.set_ylabel(GPU)
            if style.explains or i + 2 >= len(drawn):
                ax.set_xlabel(USER if style.explains or len(drawn) == 1 else SHORT_USER)
        axis.set_plain_x(axes, style.y_ticks)
        for ax in axes:
            axis.set_y(ax, style.y_ticks, axis.top_of(axes))
    return style.drawing(figure, caption)


def draw_tradeoff(ax: Axes, panel: pd.DataFrame, shown: dict[str, SeriesStyle]) -> None:
    """The points of one pair of lengths, and the front over those that were measured, as a step: what lies left and below is no
    better in either."""
    measured = panel[~panel["series"].map(lambda label: shown[label].hollow)]
    best = metrics.front(panel if measured.empty else measured)
    ax.step([0, *best["mean_x"], best["mean_x"].iloc[-1]], [best["mean_y"].iloc[0], *best["mean_y"], 0], where="pre", **FRONT)
    # An arm's points differ in rate or in concurrency; those that differ in both, or in neither, are not joined.
    ordered_all = panel.sort_values(["request_rate", "max_concurrency", "num_prompts"])
    again = ordered_all.groupby(["series", "request_rate", "max_concurrency"]).cumcount()
    joined = ordered_all.assign(at=ordered_all["max_concurrency"].where(ordered_all["request_rate"] < math.inf, 0), again=again)
    for (label, _, _), ordered in joined.groupby(["series", "at", "again"]):
        line_style = shown[str(label)]
        ax.plot(ordered["mean_x"], ordered["mean_y"], label=str(label), **line_style.of_line(len(ordered)))
        known = ordered.dropna(subset=["low_x", "low_y"])
        ends = {end: (known[f"mean_{end}"] - known[f"low_{end}"], known[f"high_{end}"] - known[f"mean_{end}"]) for end in "xy"}
        bars = line_style.of_bars(len(ordered))
        ax.errorbar(known["mean_x"], known["mean_y"], xerr=ends["x"], yerr=ends["y"], fmt="none", **bars)
