"""Judged records and the distributions of their latencies in, a figure of distribution functions (CDF) out."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.figures import axis
from analysis.figures.captions import OF_PERCENTILE, bars_text, caption_of
from analysis.figures.figure_files import Drawing
from analysis.figures.panels import settings_titles
from analysis.figures.style import SCREEN, SeriesStyle, Style, canvas, handles_of, series_styles
from analysis.load.frame import SETTING
from analysis.stats import metrics
from analysis.stats.repeats import evenly_spaced, units
from pdslurm.records.t_interval import MIN_REPEATS

MARKED = (0.50, 0.95, 0.99)
TAIL = 1.5  # how far past the last mark the axis goes at least


def shown_settings(used: pd.DataFrame, style: Style) -> pd.DataFrame:
    """The settings that a figure with a panel for each of them shows: a row of SETTING each, in their order."""
    settings = used[list(SETTING)].drop_duplicates().sort_values(list(SETTING))
    return pd.DataFrame(evenly_spaced(list(settings.itertuples(index=False)), style.settings), columns=list(SETTING))


def cdf(
    judged: pd.DataFrame, bins: pd.Series, per_decade: int, what: str, style: Style = SCREEN, *, settings: int = 0, note: str = ""
) -> Drawing | None:
    """The CDF of one latency (`what`: its words), a panel for each setting, a line for each arm over all its repeats. `bins` is a
    column of distributions at the judged records' index; `settings`: how many there are, where only those of `shown_settings` have
    been read; `note`: what the caption says of the latency. None where no used record has one."""
    known = bins.reindex(judged.index).notna()
    if not (known & (judged["use"] == "used")).any():
        return None
    used = judged[known & (judged["use"] == "used")].assign(bins=bins)
    drawn = shown_settings(used, style)
    settings = settings or len(used[list(SETTING)].drop_duplicates())
    rows = used.reset_index().merge(drawn, on=list(SETTING)).set_index("index")
    counts = units(rows, ("series", *SETTING))
    said = bars_text(counts, "Markers: median, 95th and 99th percentile of all values", OF_PERCENTILE)
    caption = caption_of(judged, rows, said, note, skipped=settings - len(drawn))
    shown = {label: line_style for label, line_style in series_styles(judged, style).items() if label in set(rows["series"])}
    with mpl.rc_context(style.rc):
        heading = f"Distribution of {what}: left is better"
        titles = settings_titles(drawn, style.title_for(len(drawn)), brief=not style.explains)
        lines = style.wrapped(caption, len(drawn))
        figure, axes = canvas(style, heading, handles_of(shown), lines, panels=len(drawn), titles=titles)
        ends = []
        for i, (ax, (_, part)) in enumerate(zip(axes, rows.groupby(list(SETTING)), strict=True)):
            ends += draw_functions(ax, part, per_decade, shown)
            ax.set_title(titles[i], loc="left")
            if i % 2 == 0:
                ax.set_ylabel("Share at most so large" if style.explains else "Share")
            if style.explains or i + 2 >= len(drawn):
                ax.set_xlabel(f"{what} (ms)")
        for ax in axes:
            axis.set_log_x(ax, min(low for low, _ in ends), max(high for _, high in ends), style.digit[len(drawn) > 1])
            axis.set_share_y(ax, style.y_ticks)
    return style.drawing(figure, caption)


def draw_functions(ax: Axes, rows: pd.DataFrame, per_decade: int, shown: dict[str, SeriesStyle]) -> list[tuple[float, float]]:
    """One line for each series, marked at its percentiles, with bars from three starts or repeats on. Returns where each line
    begins, at the first per cent of its values, and ends."""
    ends = []
    for label, mine in rows.groupby("series"):
        line_style, of_units = shown[str(label)], metrics.by_start(mine["bins"], mine["start"])
        is_spread_known = len(of_units) >= MIN_REPEATS
        line = metrics.cdf(of_units, per_decade)
        how = line_style.of_line()
        ax.plot(line["ms"], line["share"], label=str(label), **{**how, "marker": None})
        marks = np.array([metrics.quantile(of_units, per_decade, q) for q in MARKED])
        if is_spread_known:
            around = (marks[:, 0] - marks[:, 1], marks[:, 2] - marks[:, 0])
            ax.errorbar(marks[:, 0], MARKED, xerr=around, fmt="none", **line_style.of_bars())
        ax.plot(marks[:, 0], MARKED, **{**how, "linestyle": "none"})
        first = line["ms"][line["share"] >= 0.01].iloc[0]
        ends.append((min(first, marks[0, 0] / TAIL), max(marks[-1, 0], marks[-1, 2] if is_spread_known else 0.0) * TAIL))
    return ends
