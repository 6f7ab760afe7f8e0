"""Panels and the means that their lines go through in, a figure of axes with lines, markers and bars out. Nothing is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from analysis.figures import axis
from analysis.figures.figure_files import Drawing
from analysis.figures.panels import ARMS, NAMES, Panel
from analysis.figures.style import SeriesStyle, Style, canvas, handles_of, label_side


@dataclass(frozen=True, eq=False)
class Reference:
    """A line beside those of the series: a bound, or a part of the whole."""

    points: pd.DataFrame  # the panel's x, mean and, where bars are wanted, low and high
    line: Mapping[str, Any]  # of Axes.plot
    bars: Mapping[str, Any] = field(default_factory=dict)  # of Axes.errorbar


@dataclass(frozen=True, eq=False)
class Cell:
    """One pair of axes: a panel, and the mean, low and high of each series at each of its x."""

    panel: Panel
    means: pd.DataFrame
    title: str
    label: str  # of the y axis
    factor: float = 1.0  # what values are multiplied with
    references: tuple[Reference, ...] = ()
    log: bool = False


def draw_cells(
    style: Style,
    heading: str,
    styles: Mapping[str, SeriesStyle],
    cells: Sequence[Cell],
    caption: str,
    *,
    more: Sequence[Artist] = (),
) -> Drawing:
    """A figure with two cells in a row; `more`: entries of the legend beside the series'."""
    side = len({cell.label for cell in cells}) == 1 and not style.explains
    with mpl.rc_context(style.rc):
        handles = [*handles_of(styles), *more]
        figure, axes = canvas(style, heading, handles, style.wrapped(caption, len(cells)), panels=len(cells))
        for i, (cell, ax) in enumerate(zip(cells, axes, strict=True)):
            draw_cell(ax, cell, styles, style, len(cells))
            ax.set_title(cell.title, loc="left")
            if side:
                label_side(figure, cell.label)
            elif i % 2 == 0 or cell.label != cells[i - 1].label:
                ax.set_ylabel(cell.label)
            repeated = i + 2 < len(cells) and cells[i + 2].panel.x == cell.panel.x
            if style.explains or not repeated:
                ax.set_xlabel(NAMES[cell.panel.x][1 if style.explains else 2])
    return style.drawing(figure, caption)


def draw_cell(ax: Axes, cell: Cell, styles: Mapping[str, SeriesStyle], style: Style, cells: int) -> None:
    """The lines of one panel. A line breaks where its arm was to be measured and has no valid record."""
    panel, means = cell.panel, cell.means
    labels = [label for label in styles if (panel.rows["series"] == label).any()]
    at: dict[float, float] = {} if panel.x == ARMS else axis.positions(panel.rows[panel.x])
    for reference in cell.references:
        draw_reference(ax, reference, panel.x, at, cell.factor)
    for i, label in enumerate(labels):
        mine = means[means["series"] == label]
        if panel.x == ARMS:
            draw_series(ax, [i], mine, cell.factor, label, styles[label])
        else:
            xs = sorted(panel.rows.loc[panel.rows["series"] == label, panel.x].unique())
            draw_series(ax, [at[x] for x in xs], mine.set_index(panel.x).reindex(xs), cell.factor, label, styles[label])
    if panel.x == ARMS:
        axis.set_arms(ax, labels, style.title_for(cells) + 6)
    else:
        axis.set_x(ax, at, style.digit[cells > 1])
    if cell.log:
        drawn = pd.concat([means, *(reference.points for reference in cell.references)])
        tops = drawn["high"].fillna(drawn["mean"])
        axis.set_log_y(ax, cell.factor * drawn["mean"].min(), cell.factor * tops.max())
    else:
        axis.set_y(ax, style.y_ticks)
    if means.empty:
        ax.text(0.5, 0.5, "no valid measurement", transform=ax.transAxes, ha="center", color="0.4")


def draw_series(ax: Axes, xs: Sequence[float], means: pd.DataFrame, factor: float, label: str, line_style: SeriesStyle) -> None:
    """A line with markers at the means, and bars from low to high where they are known."""
    if means.empty:
        return
    scaled = means[["mean", "low", "high"]] * factor
    ax.plot(xs, scaled["mean"], label=label, **line_style.of_line(len(xs)))
    draw_bars(ax, xs, scaled, line_style.of_bars(len(xs)))


def draw_bars(ax: Axes, xs: Sequence[float], scaled: pd.DataFrame, how: Mapping[str, Any]) -> None:
    """Bars from low to high where they are known."""
    known = scaled["low"].notna().to_numpy()
    mean, low, high = (scaled[name].to_numpy()[known] for name in ("mean", "low", "high"))
    places = [x for x, is_known in zip(xs, known, strict=True) if is_known]
    ax.errorbar(places, mean, yerr=(mean - low, high - mean), fmt="none", **how)


def draw_reference(ax: Axes, reference: Reference, x: str, at: Mapping[float, float], factor: float) -> None:
    """A reference at those of its points that the panel's axis has."""
    points = reference.points[reference.points[x].isin(list(at))].sort_values(x)
    places = [at[value] for value in points[x]]
    ax.plot(places, points["mean"] * factor, **reference.line)
    if reference.bars:
        draw_bars(ax, places, points[["mean", "low", "high"]] * factor, reference.bars)
