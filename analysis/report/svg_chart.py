"""One panel of judged records in, one SVG out: means with intervals, a mark for each arm and setting that says all about itself.

Readable without a script: each mark has a title and leads to its measurements. report.js shows them on hover, focus, click."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.figures import axis
from analysis.figures.panels import ARMS, NAMES, Panel, fixed_text, title
from analysis.figures.style import COLOURS, SeriesStyle
from analysis.load.frame import SETTING
from analysis.report.markup import Markup, tag
from analysis.report.summary import number_text
from analysis.stats import repeats
from analysis.stats.metrics import KEYS

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 72, 14, 12, 44
DIGIT = 0.021  # of a tick's label, as a share of the x axis
SECONDS_FROM_MS = 2000.0


@dataclass(frozen=True)
class ChartMetric:
    """What a chart shows: a column of the frame, its words, the axis's name, its unit and which end is good."""

    metric: str
    heading: str
    axis: str
    unit: str
    better: str


CHART_METRICS = (
    ChartMetric("output_throughput_tok_s", "Output token throughput", "Output throughput", "tokens/s", "higher"),
    ChartMetric("mean_ttft_ms", "Mean time to first token (TTFT)", "Mean TTFT", "ms", "lower"),
    ChartMetric("mean_tpot_ms", "Mean time per output token (TPOT)", "Mean TPOT", "ms", "lower"),
    ChartMetric("mean_itl_ms", "Mean inter-token latency (ITL), the gap between two chunks", "Mean ITL", "ms", "lower"),
    ChartMetric("p99_ttft_ms", "99th percentile of TTFT", "p99 TTFT", "ms", "lower"),
    ChartMetric("p99_tpot_ms", "99th percentile of TPOT", "p99 TPOT", "ms", "lower"),
    ChartMetric("p99_itl_ms", "99th percentile of ITL, the gap between two chunks", "p99 ITL", "ms", "lower"),
    ChartMetric("mean_e2el_ms", "Mean end-to-end latency", "Mean latency", "ms", "lower"),
    ChartMetric("request_throughput_per_s", "Request throughput", "Request throughput", "requests/s", "higher"),
)


@dataclass(frozen=True)
class Group:
    """The repeats of one arm at one setting: where their rows stand on the page, and links to their files."""

    anchor: str
    links: tuple[tuple[str, str], ...]  # text, address


Key = tuple[Any, ...]  # series, then SETTING's values


def series_class(style: SeriesStyle) -> str:
    """The CSS class that holds a series' colour for light and dark pages."""
    return f"s{COLOURS.index(style.colour)}"


def chart(
    panel: Panel,
    among: Sequence[Panel],
    measure: ChartMetric,
    styles: Mapping[str, SeriesStyle],
    groups: Callable[[Key], Group | None],
) -> Markup:
    """A figure with its heading; all of `among` have one unit. `groups` finds what belongs to a mark."""
    used = panel.rows[panel.rows["use"] == "used"]
    means = repeats.aggregate(used, measure.metric, KEYS)
    starts = used.dropna(subset=[measure.metric]).groupby(list(KEYS))["start"].nunique()
    means["unit"] = ["start" if count > 1 else "repeat" for count in starts]
    labels = [label for label in styles if (panel.rows["series"] == label).any()]
    highest = float(pd.concat([means["mean"], means["high"]]).max()) if len(means) else 0.0
    top = max(float(each.rows.loc[each.rows["use"] == "used", measure.metric].max()) for each in among)
    factor, unit = (0.001, "s") if measure.unit == "ms" and top >= SECONDS_FROM_MS else (1.0, measure.unit)
    scale = Scale(panel, labels, highest * factor)
    heading = f"{measure.heading} ({unit}); {title(panel, among, 200)}"
    parts: list[object] = [tag("title", heading), *scale.frame(f"{measure.axis} ({unit})")]
    for label in labels:
        mine = means[means["series"] == label]
        parts.append(_series(mine, label, styles[label], scale, Drawn(panel, measure, factor, unit, groups)))
    if means.empty:
        parts.append(tag("text", "no valid measurement", x=WIDTH / 2, y=HEIGHT / 2, text_anchor="middle"))
    svg = tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="group", aria_label=heading, class_="chart")
    return tag("figure", tag("figcaption", title(panel, among, 200)), svg)


class Scale:
    """From values to places in the picture: log₂ (or a place for each arm) to the right, from zero upwards."""

    def __init__(self, panel: Panel, labels: Sequence[str], highest: float) -> None:
        self.x, self.labels = panel.x, list(labels)
        self.at = {} if panel.x == ARMS else axis.positions(panel.rows[panel.x])
        logs = [math.log2(place) for place in self.at.values()] or [0.0, max(len(labels) - 1.0, 0.0)]
        room = 0.07 * (logs[-1] - logs[0]) or 0.5
        self.low, self.high = logs[0] - room, logs[-1] + room
        self.step = nice_step(highest / 4) if highest > 0 else 0.25
        self.top = self.step * max(math.ceil(highest / self.step * 1.02), 1)

    def right(self, label: str, value: float) -> float:
        place = self.labels.index(label) if self.x == ARMS else math.log2(self.at[value])
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (place - self.low) / (self.high - self.low), 1)

    def up(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self.top, 1)

    def frame(self, name: str) -> list[Markup]:
        """Grid, ticks and the axes' names."""
        out = []
        for i in range(round(self.top / self.step) + 1):
            y = self.up(i * self.step)
            out.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
            out.append(tag("text", f"{i * self.step:,.10g}", x=LEFT - 6, y=y + 4, text_anchor="end"))
        for text, x in self._ticks():
            out.append(tag("text", text, x=x, y=HEIGHT - BOTTOM + 17, text_anchor="middle"))
        middle = (TOP + HEIGHT - BOTTOM) / 2
        out.append(tag("text", NAMES[self.x][1], x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 6, text_anchor="middle", class_="name"))
        out.append(tag("text", name, x=13, y=middle, text_anchor="middle", transform=f"rotate(-90 13 {middle})", class_="name"))
        return out

    def _ticks(self) -> list[tuple[str, float]]:
        if self.x == ARMS:
            fit = len(self.labels) * (max(map(len, self.labels), default=0) + 2) <= 50
            return [(label, self.right(label, 0)) for label in self.labels] if fit else []
        places = [self.right("", value) for value in self.at]
        texts = axis.fitting_labels(
            [axis.value_text(value) for value in self.at], [(x - LEFT) / (WIDTH - LEFT - RIGHT) for x in places], DIGIT
        )
        return [(text, x) for text, x in zip(texts, places, strict=True) if text]


def nice_step(rough: float) -> float:
    """1, 2, 2.5 or 5 times a power of ten, at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1.0, 2.0, 2.5, 5.0, 10.0) if step * power >= rough * 0.999)


@dataclass(frozen=True)
class Drawn:
    """What all marks of one chart share."""

    panel: Panel
    measure: ChartMetric
    factor: float
    unit: str
    groups: Callable[[Key], Group | None]


def _series(means: pd.DataFrame, label: str, style: SeriesStyle, scale: Scale, drawn: Drawn) -> Markup:
    """Line, bars and marks of one arm. The line breaks where the arm has no valid record of a setting that it was measured at."""
    places = {} if drawn.panel.x == ARMS else {row[drawn.panel.x]: row for row in means.to_dict("records")}
    rows = means.to_dict("records") if drawn.panel.x == ARMS else list(places.values())
    out: list[object] = []
    if drawn.panel.x != ARMS:
        measured = sorted(drawn.panel.rows.loc[drawn.panel.rows["series"] == label, drawn.panel.x].unique())
        runs: list[list[str]] = [[]]
        for x in measured:
            if x in places:
                runs[-1].append(f"{scale.right(label, x)},{scale.up(places[x]['mean'] * drawn.factor)}")
            else:
                runs.append([])
        out += [tag("polyline", points=" ".join(run), stroke_dasharray=dashes(style)) for run in runs if len(run) > 1]
    for row in rows:
        x = scale.right(label, row.get(drawn.panel.x, 0.0))
        out.append(_mark(row, label, style, x, scale, drawn))
    return tag("g", *out, class_=f"series {series_class(style)}{' hollow' if style.hollow else ''}", data_series=label)


def _mark(row: Mapping[Hashable, Any], label: str, style: SeriesStyle, x: float, scale: Scale, drawn: Drawn) -> Markup:
    factor, unit = drawn.factor, drawn.unit
    setting = ", ".join(fixed_text(name, row[name]) for name in SETTING)
    known = not math.isnan(row["low"])
    kind = "95 % interval of the mean" + (" within the one start" if row["unit"] == "repeat" else "")
    spread = (
        f"{kind}: {number_text(row['low'] * factor)} to {number_text(row['high'] * factor)} {unit}" if known else "spread unknown"
    )
    group = drawn.groups((label, *(row[name] for name in SETTING)))
    tip = {
        "arm": label, "setting": setting, "measure": drawn.measure.heading,
        "value": f"{number_text(row['mean'] * factor)} {unit}", "spread": spread,
        "n": repeats.plural(int(row["n"]), row["unit"]), "links": list(group.links) if group else [],
    }  # fmt: skip
    said = f"{tip['arm']}, {setting}: {tip['value']}; {spread}; {tip['n']}"
    y = scale.up(row["mean"] * factor)
    parts: list[object] = [tag("title", said)]
    if known:
        low, high = scale.up(row["low"] * factor), scale.up(row["high"] * factor)
        parts.append(tag("path", d=f"M{x} {low}V{high}M{x - 3} {low}h6M{x - 3} {high}h6", class_="bar"))
    parts.append(tag("circle", cx=x, cy=y, r=11, class_="hit"))
    parts.append(tag("path", d=SHAPES.get(style.marker, SHAPES["o"]), transform=f"translate({x} {y})", class_="mark"))
    data = json.dumps(tip, ensure_ascii=False)
    return tag("a", *parts, href=f"#{group.anchor}" if group else None, class_="point", aria_label=said, data_tip=data)


# matplotlib's markers as paths about the origin, of about equal area.
SHAPES = {
    "o": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z",
    "s": "M-4 -4h8v8h-8Z",
    "^": "M0 -5.4L5 4H-5Z",
    "v": "M0 5.4L5 -4H-5Z",
    "D": "M0 -5.6L5.6 0L0 5.6L-5.6 0Z",
    "P": "M-1.8 -5h3.6v3.2h3.2v3.6h-3.2v3.2h-3.6v-3.2h-3.2v-3.6h3.2Z",
    "X": "M-5 -2.6L-2.6 -5L0 -2.4L2.6 -5L5 -2.6L2.4 0L5 2.6L2.6 5L0 2.4L-2.6 5L-5 2.6L-2.4 0Z",
}


def dashes(style: SeriesStyle) -> str | None:
    """matplotlib's line styles as stroke-dasharray, in pixels."""
    if isinstance(style.dash, tuple):
        return " ".join(f"{1.8 * length:g}" for length in style.dash[1])
    return {"-.": "11 3 2 3", ":": "2 4", "--": "7 3"}.get(style.dash)


def swatch(label: str, style: SeriesStyle) -> Markup:
    """A legend entry that switches its arm on and off."""
    line = tag("line", x1=0, x2=44, y1=8, y2=8, stroke_dasharray=dashes(style))
    mark = tag("path", d=SHAPES.get(style.marker, SHAPES["o"]), transform="translate(22 8)", class_="mark")
    kind = f"series {series_class(style)}{' hollow' if style.hollow else ''}"
    svg = tag("svg", tag("g", line, mark, class_=kind), viewBox="0 0 44 16", width="44", height="16", aria_hidden="true")
    return tag("button", svg, " ", label, type="button", class_="swatch", data_series=label, aria_pressed="true")
