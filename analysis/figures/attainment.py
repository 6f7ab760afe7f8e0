"""Rate sweeps and an SLO in, a figure out: the share of requests within the SLO against the request rate per GPU, and below it the
capacity of each arm. A panel for each load, a line for each start of an arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from analysis.figures.captions import caption_of
from analysis.figures.figure_files import Drawing
from analysis.figures.panels import title_lines
from analysis.figures.slo_map import load_text, rows_of
from analysis.figures.style import SCREEN, SeriesStyle, Style, canvas, handles_of, series_styles
from analysis.load.slo import Slo, slo_text
from analysis.stats.capacity import RatePoint
from analysis.stats.repeats import evenly_spaced
from analysis.stats.sweeps import ArmCapacity, Sweep, arm_capacities, by_load
from pdslurm.records.good_requests import worst_ratio

MOST_LOADS = 4
STEP = 9.0  # per cent of the y axis between two arms' capacities, below 0 %
LEAST_GAP = 0.1  # of the x axis between two labels
ROOM = 1.25  # the x axis goes so many times beyond the lowest and the highest rate
LINE_WIDTH, MARKER_SIZE = 0.9, 3.5
GOAL: dict[str, Any] = {"color": "0.35", "linewidth": 0.9, "linestyle": (0, (2, 2))}
HOLLOW: dict[str, Any] = {"linestyle": "none", "marker": "o", "markerfacecolor": "white", "markeredgecolor": "0.3"}
BAR: dict[str, Any] = {"color": "0.3", "linewidth": 2.6, "marker": "|", "markersize": 7, "markeredgewidth": 1.2}
SAID = (
    "A line joins the rates of one start of an arm, through the mean of the measurements at each. A hollow mark is a measurement "
    "at which more requests arrived than were served, or which ended before it was steady: it is invalid, and no line goes through "
    "it. Below 0 % a mark is the capacity of one start, and a bar the 95 % interval of the arm's capacity (of its one start, where "
    "it has one). An arrow is an end that is not known, because no rate beyond it was measured"
)


@dataclass(frozen=True)
class Attained:
    """One measurement: its rate per GPU, the share of its judged requests within the SLO in per cent, and whether it is valid."""

    rate: float
    share: float
    valid: bool


def attainment(judged: pd.DataFrame, sweeps: Sequence[Sweep], slo: Slo, share: float, style: Style = SCREEN) -> Drawing | None:
    """A panel for each load whose rates were swept; of very many loads some. None without any."""
    loads = by_load(sweeps)
    if not loads:
        return None
    drawn = evenly_spaced(list(loads), MOST_LOADS)
    swept = {sweep.series for load in drawn for sweep in loads[load]}
    shown = {label: line for label, line in series_styles(judged, style).items() if label in swept}
    asked = f"SLO: {slo_text(slo)}, for {100 * share:g} % of the requests"
    caption = caption_of(judged, rows_of(judged, drawn), asked, SAID, skipped=len(loads) - len(drawn))
    columns = min(2 if style.explains else 1, len(drawn))
    heights = [1.2 * style.height + 0.1 * len(shown)] * -(-len(drawn) // columns)
    with mpl.rc_context(style.rc):
        handles: list[Artist] = [*handles_of(shown), *more_handles(share)]
        lines = style.wrapped(caption, columns)
        heading = "Requests within the SLO, by request rate per GPU"
        figure, axes = canvas(style, heading, handles, lines, panels=len(drawn), columns=columns, heights=heights)
        for ax, load in zip(axes, drawn, strict=True):
            draw_load(ax, loads[load], shown, slo, share)
            ax.set_title(title_lines(load_text(load).split(", "), style.title_for(columns)), loc="left")
    return style.drawing(figure, caption)


def more_handles(share: float) -> list[Artist]:
    """What the legend says beside the arms."""
    return [
        Line2D([], [], label=f"the SLO's share, {100 * share:g} %", **GOAL),
        Line2D([], [], label="overloaded or not steady", markersize=MARKER_SIZE, **HOLLOW),
        Line2D([], [], label="capacity: 95 % interval", **BAR),
    ]


def attained(sweep: Sweep, slo: Slo) -> list[Attained]:
    """The measurements of one start of an arm that have judged requests, from the lowest rate on."""
    found = [_attained(point, sweep.gpus, slo) for point in sweep.points if len(point.requests["ok"])]
    return sorted(found, key=lambda each: each.rate)


def _attained(point: RatePoint, gpus: float, slo: Slo) -> Attained:
    within = worst_ratio(point.requests, slo, np.fmax) <= 1
    return Attained(point.rate_per_s / gpus, 100 * float(np.mean(within)), not (point.overloaded or point.unsteady))


def draw_load(ax: Axes, sweeps: Sequence[Sweep], shown: Mapping[str, SeriesStyle], slo: Slo, share: float) -> None:
    """One panel: lines and marks above 0 %, capacities below."""
    rates = [point.rate_per_s / sweep.gpus for sweep in sweeps for point in sweep.points]
    low, high = min(rates) / ROOM, max(rates) * ROOM
    capacities = {each.series: each for each in arm_capacities(sweeps, slo, share)}
    arms = [label for label in shown if label in capacities]
    ax.axhline(100 * share, **GOAL)
    ax.axhline(0, color="0.6", linewidth=0.6)
    for n, label in enumerate(arms):
        for sweep in (sweep for sweep in sweeps if sweep.series == label):
            draw_start(ax, attained(sweep, slo), label, shown[label])
        draw_capacity(ax, capacities[label], -STEP * (n + 1), shown[label], low, high)
    set_axes(ax, sorted(set(rates)), low, high, -STEP * (len(arms) + 1))


def draw_start(ax: Axes, found: Sequence[Attained], label: str, line: SeriesStyle) -> None:
    """One start of an arm: a line through the mean at each rate, a mark for each measurement."""
    at: dict[float, list[float]] = {}
    for each in found:
        if each.valid:
            at.setdefault(each.rate, []).append(each.share)
    how: dict[str, Any] = {"color": line.colour, "linestyle": line.dash, "linewidth": LINE_WIDTH * line.size}
    ax.plot(list(at), [sum(shares) / len(shares) for shares in at.values()], label=label, **how)
    for valid in (True, False):
        mine = [each for each in found if each.valid is valid]
        face = line.colour if valid else "white"
        marks: dict[str, Any] = {"marker": line.marker, "markersize": MARKER_SIZE * line.size, "markerfacecolor": face}
        rates, shares = [each.rate for each in mine], [each.share for each in mine]
        ax.plot(rates, shares, linestyle="none", markeredgecolor=line.colour, markeredgewidth=0.7, zorder=3, **marks)


def draw_capacity(ax: Axes, known: ArmCapacity, y: float, line: SeriesStyle, low: float, high: float) -> None:
    """The arm's interval as a bar with an arrow at an open end, and a mark for each start where its capacity is known."""
    _, lower, upper = known.per_gpu
    ends = [max(lower, low), min(upper, high)]
    ax.plot(ends, [y, y], color=line.colour, linewidth=2.6 * line.size, alpha=0.45, solid_capstyle="butt")
    for end, is_open, arrow in zip(ends, (lower < low, upper > high), "<>", strict=True):
        ax.plot([end], [y], marker=arrow if is_open else "|", color=line.colour, markersize=6 * line.size, clip_on=False)
    values = [start.value / known.gpus for start in known.starts if not math.isnan(start.value)]
    marks: dict[str, Any] = {"marker": line.marker, "markersize": MARKER_SIZE * line.size, "markerfacecolor": line.colour}
    ax.plot(values, [y] * len(values), linestyle="none", markeredgecolor="black", markeredgewidth=0.4, zorder=3, **marks)


def set_axes(ax: Axes, rates: Sequence[float], low: float, high: float, bottom: float) -> None:
    """Rates on a logarithmic axis, labelled where a label has room; shares from 0 to 100 %."""
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.set_ylim(bottom, 104)
    ax.xaxis.set_major_locator(FixedLocator(labelled(rates, low, high)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(FuncFormatter(rate_text))
    ax.set_yticks(range(0, 101, 20))
    ax.set_xlabel("Request rate (requests/s/GPU)")
    ax.set_ylabel("Requests within the SLO (%)")


def rate_text(value: float, _: object = None) -> str:
    """`2.75`, `11.9`."""
    return f"{value:.3g}"


def labelled(rates: Sequence[float], low: float, high: float) -> list[float]:
    """The rates whose labels have room, from the lowest on."""
    kept: list[float] = []
    for rate in rates:
        if not kept or math.log(rate / kept[-1]) >= LEAST_GAP * math.log(high / low):
            kept.append(rate)
    return kept
