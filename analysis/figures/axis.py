"""Measured values in, the axes of a panel out: a logarithmic x axis with a tick at every measured value, a y axis from zero."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    StrMethodFormatter,
)

# A share of the axis: the space between two labels. A label without room is left out; its tick stays, unless
# there are more ticks than can be told apart.
SPACE = 0.02
MOST_TICKS = 24
SHORT_BELOW = 5  # ticks


def positions(values: Iterable[float]) -> dict[float, float]:
    """Where each value lies on the x axis: at itself; what has no bound (inf) one octave past the largest, and 0 (a length that
    is the data set's own) one before the smallest."""
    ordered = sorted(set(values))
    plain = [value for value in ordered if 0 < value < math.inf]
    before, beyond = (plain[0] / 2, 2 * plain[-1]) if plain else (0.5, 1.0)
    return {value: before if value <= 0 else value if math.isfinite(value) else beyond for value in ordered}


def value_text(value: float) -> str:
    """`512`, `64k` from 16 binary thousands on, `∞` for no bound, `own` for the data set's own length."""
    if math.isinf(value):
        return "∞"
    if value == 0:
        return "own"
    return f"{value / 1024:.0f}k" if value >= 16384 and value % 1024 == 0 else f"{value:g}"


def set_x(ax: Axes, at: Mapping[float, float], digit: float) -> None:
    """A log2 axis with ticks at `at` (value → position) and room at both ends. `digit`: a digit's width as a share of the axis."""
    ax.set_xscale("log", base=2)
    places = list(at.values())
    low, high = math.log2(places[0]), math.log2(places[-1])
    room = 0.07 * (high - low) or 0.5
    ax.set_xlim(2 ** (low - room), 2 ** (high + room))
    span = (high - low) + 2 * room
    shares = [(math.log2(place) - low + room) / span for place in places]
    texts = fitting_labels([value_text(value) for value in at], shares, digit)
    shown = [i for i, text in enumerate(texts) if text or len(texts) <= MOST_TICKS]
    ax.xaxis.set_major_locator(FixedLocator([places[i] for i in shown]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([texts[i] for i in shown])


def fitting_labels(texts: list[str], shares: list[float], digit: float) -> list[str]:
    """The labels, from the left, empty where one would run into the one before; `shares` are their places from 0 to 1."""
    out, end = [], -math.inf
    for text, share in zip(texts, shares, strict=True):
        half = len(text) * digit / 2
        fits = share - half >= end + SPACE
        out.append(text if fits else "")
        end = share + half if fits else end
    return out


def set_arms(ax: Axes, labels: list[str], characters: int) -> None:
    """An x axis with one place for each arm, named if the names fit into so many characters; the legend names them in any case."""
    ax.set_xlim(-0.5, len(labels) - 0.5)
    ax.set_xticks(range(len(labels)))
    fit = len(labels) * (max(map(len, labels)) + 2) <= characters
    ax.set_xticklabels(labels if fit else [""] * len(labels))


def top_of(axes: Iterable[Axes]) -> float:
    """The highest value that is drawn in any of the axes; 0 where nothing is."""
    return max((ax.dataLim.y1 for ax in axes if math.isfinite(ax.dataLim.y1)), default=0.0)


def set_y(ax: Axes, ticks: int, top: float) -> None:
    """From zero to `top`, with at most so many ticks and thousands set apart (as 10k where room for ticks is small)."""
    ax.set_ylim(0, 1.08 * top if top > 0 else 1)
    ax.yaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}") if ticks > SHORT_BELOW else FuncFormatter(short_text))
    _grid(ax)


def set_share_y(ax: Axes, ticks: int) -> None:
    """From 0 to 1, which is the whole."""
    ax.set_ylim(0, 1.03)
    ax.yaxis.set_major_locator(FixedLocator([0, 0.5, 1] if ticks <= SHORT_BELOW else [0, 0.2, 0.4, 0.6, 0.8, 1]))
    ax.yaxis.set_major_formatter(FuncFormatter(short_text))
    _grid(ax)


def set_plain_x(axes: Sequence[Axes], ticks: int) -> None:
    """The same for all of the axes: from zero, or from what lies below it, not logarithmic."""
    top = max((ax.dataLim.x1 for ax in axes if math.isfinite(ax.dataLim.x1)), default=0.0)
    low = min((ax.dataLim.x0 for ax in axes if math.isfinite(ax.dataLim.x0)), default=0.0)
    for ax in axes:
        ax.set_xlim(1.06 * low if low < 0 else 0, 1.06 * top if top > 0 else 1)
        _plain_ticks(ax, ticks)


def _plain_ticks(ax: Axes, ticks: int) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(min(ticks, 6), steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(short_text))


def set_log_x(ax: Axes, low: float, high: float, digit: float) -> None:
    """Logarithmic from low to high, labelled at 1, 2 and 5 of each decade, or fewer where labels would run into each other."""
    ax.set_xscale("log")
    if 0 < low < high < math.inf:
        ax.set_xlim(low, high)
    _log_ticks(ax.xaxis, low, high, most=round(1 / (5 * digit)))


def set_log_y(ax: Axes, low: float, high: float) -> None:
    """Logarithmic from below `low` to above `high`, labelled at the decades and, where they are few, between them."""
    ax.set_yscale("log", nonpositive="clip")
    if 0 < low <= high < math.inf:
        ax.set_ylim(low / 1.4, high * 1.4)
    _log_ticks(ax.yaxis, low, high, most=6)
    _grid(ax)


def _log_ticks(on: Axis, low: float, high: float, *, most: int) -> None:
    """As many labels as there may be, at the same places of each decade."""
    decades = math.log10(high / low) if 0 < low < high < math.inf else 1.0
    subs = next((some for some in ((1, 2, 5), (1, 3), (1,)) if len(some) * decades <= most), (1,))
    on.set_major_locator(LogLocator(10, subs=subs if decades >= 0.8 else (1, 2, 5), numticks=24))
    on.set_minor_formatter(NullFormatter())
    on.set_major_formatter(FuncFormatter(short_text))


def short_text(value: float, _: object = None) -> str:
    """`0.02`, `500`, `10k`."""
    return f"{value / 1000:,.10g}k" if abs(value) >= 10_000 else f"{value:,.10g}"


def _grid(ax: Axes) -> None:
    ax.grid(axis="y", color="0.88", linewidth=0.6)
    ax.set_axisbelow(True)
