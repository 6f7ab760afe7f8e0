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
    """A figure with two cells in a row; `more`: entries of the legend beside the series'. Cells of one quantity have one y axis,
    and cells over one dimension one x axis, so that they can be compared."""
    side = len({cell.label for cell in cells}) == 1 and not style.explains
    with mpl.rc_context(style.rc):
        handles = [*handles_of(styles), *more]
        titles, lines = [cell.title for cell in cells], style.wrapped(caption, len(cells))
        figure, axes = canvas(style, heading, handles, lines, panels=len(cells), titles=titles)
        for i, (cell, ax) in enumerate(zip(cells, axes, strict=True)):
            same_x = [other.panel for other in cells if other.panel.x == cell.panel.x]
            draw_cell(ax, cell, styles, same_x)
            set_same_x(ax, cell.panel.x, styles, same_x, style, len(cells))
            ax.set_title(cell.title, loc="left")
            if side:
                label_side(figure, style, cell.label)
            elif i % 2 == 0 or cell.label != cells[i - 1].label:
                ax.set_ylabel(cell.label)
            repeated = i + 2 < len(cells) and cells[i + 2].panel.x == cell.panel.x
            if style.explains or not repeated:
                ax.set_xlabel(NAMES[cell.panel.x][1 if style.explains else 2])
        for cell, ax in zip(cells, axes, strict=True):
            same_y = [(other, there) for other, there in zip(cells, axes, strict=True) if other.label == cell.label]
            set_same_y(ax, cell, same_y, style)
    return style.drawing(figure, caption)


def labels_of(panels: Sequence[Panel], styles: Mapping[str, SeriesStyle]) -> list[str]:
    """The series of some panels, in the order of their styles."""
    return [label for label in styles if any((panel.rows["series"] == label).any() for panel in panels)]


def places_of(panels: Sequence[Panel]) -> dict[float, float]:
    """Where the values of the panels' common x lie on its axis."""
    return axis.positions(value for panel in panels for value in panel.rows[panel.x])


def draw_cell(ax: Axes, cell: Cell, styles: Mapping[str, SeriesStyle], same_x: Sequence[Panel]) -> None:
    """The lines of one panel. A line breaks where its arm was to be measured and has no valid record. `same_x`: the panels that
    share the x axis."""
    panel, means = cell.panel, cell.means
    order = labels_of(same_x, styles)
    at = {} if panel.x == ARMS else places_of(same_x)
    for reference in cell.references:
        draw_reference(ax, reference, panel.x, at, cell.factor)
    for label in labels_of([panel], styles):
        mine = means[means["series"] == label]
        if panel.x == ARMS:
            draw_series(ax, [order.index(label)], mine, cell.factor, label, styles[label])
        else:
            xs = sorted(panel.rows.loc[panel.rows["series"] == label, panel.x].unique())
            draw_series(ax, [at[x] for x in xs], mine.set_index(panel.x).reindex(xs), cell.factor, label, styles[label])
    if means.empty:
        ax.text(0.5, 0.5, "no valid measurement", transform=ax.transAxes, ha="center", color="0.4")


def set_same_x(ax: Axes, x: str, styles: Mapping[str, SeriesStyle], same_x: Sequence[Panel], style: Style, cells: int) -> None:
    """The x axis over all that is drawn in the panels that share it."""
    if x == ARMS:
        axis.set_arms(ax, labels_of(same_x, styles), style.title_for(cells) + 6)
    else:
        axis.set_x(ax, places_of(same_x), style.digit[cells > 1])


def set_same_y(ax: Axes, cell: Cell, same_y: Sequence[tuple[Cell, Axes]], style: Style) -> None:
    """The y axis over all that is drawn in the cells that share it."""
    if not cell.log:
        axis.set_y(ax, style.y_ticks, axis.top_of(there for _, there in same_y))
        return
    drawn = pd.concat([points for other, _ in same_y for points in (other.means, *(line.points for line in other.references))])
    tops = drawn["high"].fillna(drawn["mean"])
    axis.set_log_y(ax, cell.factor * drawn["mean"].min(), cell.factor * tops.max())


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
