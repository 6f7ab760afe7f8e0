"""Judged records in, a map out: where separate prefill and decode instances are better, where they are not, and where nobody can
tell; a panel for each measure, a field for each setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from analysis.figures.axis import value_text
from analysis.figures.captions import caption_of
from analysis.figures.figure_files import Drawing
from analysis.figures.panels import NAMES
from analysis.figures.style import SCREEN, Style, canvas
from analysis.load.frame import SETTING
from analysis.stats.inference import INTEREST, times_text
from analysis.stats.repeats import comparable, evenly_spaced
from analysis.stats.verdict import (
    DISAGGREGATE,
    ONE_START,
    SAME,
    SAME_WITHIN,
    TOGETHER,
    UNDECIDED,
    Decision,
    decide,
    with_interest,
)

AXES = ("input_len", "output_len", "request_rate", "max_concurrency")
# Light and dark in grey print too; hatches and the signs in the fields tell them apart as well.
FIELDS: Mapping[str, dict[str, Any]] = {
    DISAGGREGATE: {"facecolor": "#0072B2", "hatch": ""},
    TOGETHER: {"facecolor": "#F0C36D", "hatch": ""},
    SAME: {"facecolor": "#FFFFFF", "hatch": "////"},
    UNDECIDED: {"facecolor": "#FFFFFF", "hatch": ""},
    ONE_START: {"facecolor": "#DDDDDD", "hatch": ""},
}
WORDS = {
    DISAGGREGATE: "P/D is better",
    TOGETHER: "P/D is worse",
    SAME: SAME_WITHIN,
    UNDECIDED: "cannot be told",
    ONE_START: "one start of each arm: cannot be told",
}
MOST_ROWS = 24
ROW, AROUND = 0.36, 0.75  # inches: of a row of fields, of a panel beside them
Place = tuple[float, ...]


def crossover(judged: pd.DataFrame, style: Style = SCREEN, *, interest: float = INTEREST) -> Drawing | None:
    """The best P/D arm's number as a multiple of the best other arm's, at every setting that both kinds have. None for fewer than
    two. `interest`: the smallest difference that matters."""
    used = comparable(judged[judged["use"] == "used"])
    decisions = decide(used.dropna(subset=["disaggregated"]), interest=interest)
    settings = pd.DataFrame([d.setting for d in decisions]).drop_duplicates()
    if len(settings) < 2:
        return None
    varied = [name for name in AXES if settings[name].nunique() > 1] or ["load"]
    across, down = varied[0], [name for name in (*varied[1:], "load") if settings[name].nunique() > 1 and name != varied[0]]
    xs = sorted(settings[across].unique())
    ys = sorted({_place(d, down) for d in decisions}, key=str if "load" in down else None)
    every, ys = len(ys), evenly_spaced(ys, MOST_ROWS)
    decisions = tuple(d for d in decisions if _place(d, down) in ys)
    measures = list(dict.fromkeys(d.measure for d in decisions))
    shown = [answer for answer in FIELDS if any(d.outcome == answer for d in decisions)]
    labels = {answer: with_interest(WORDS[answer], interest) for answer in shown}
    handles: list[Artist] = [Patch(**FIELDS[answer], edgecolor="0.3", label=label) for answer, label in labels.items()]
    said = (
        "Each field: the number of the best arm with separate prefill and decode instances as a multiple of the best without, the "
        "ratio of their means over starts. Above ×1 P/D has more: better of a throughput, worse of a latency; better or worse is "
        "said where the 95 % interval over starts excludes ×1"
    )
    rows = used.merge(settings, on=list(SETTING))
    caption = caption_of(judged, rows, said, f"{every - len(ys)} more rows are not drawn" if every > len(ys) else "")
    with mpl.rc_context(style.rc):
        heading = "Where disaggregation pays"
        columns = 1 if len(xs) > 5 or not style.explains else 2
        lines = style.wrapped(caption, min(columns, len(measures)))
        heights = [AROUND + ROW * len(ys)] * -(-len(measures) // columns)
        figure, axes = canvas(style, heading, handles, lines, panels=len(measures), columns=columns, heights=heights)
        for ax, measure in zip(axes, measures, strict=True):
            ax.set_title(f"{measure.words[0].upper()}{measure.words[1:]}: {measure.better} is better", loc="left")
            draw_fields(ax, [d for d in decisions if d.measure == measure], across, down, xs, ys)
            words = {name: NAMES[name][1 if style.explains else 2] if name in NAMES else name for name in (across, *down)}
            ax.set_xlabel(words[across])
            ax.set_ylabel(" ·\n".join(words[name] for name in down))
    return style.drawing(figure, caption)


def _place(decision: Decision, names: Sequence[str]) -> Place:
    return tuple(decision.setting[name] for name in names)


def draw_fields(
    ax: Axes, decisions: Sequence[Decision], across: str, down: Sequence[str], xs: Sequence[float], ys: Sequence[Place]
) -> None:
    """A rectangle for each decision, with the ratio. Of several at one place the first is drawn."""
    filled = set()
    for decision in decisions:
        x, y = xs.index(decision.setting[across]), ys.index(_place(decision, down))
        if (x, y) in filled:
            continue
        filled.add((x, y))
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, **FIELDS[decision.outcome], edgecolor="0.3", linewidth=0.6))
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0} if decision.outcome == SAME else None
        colour = "white" if decision.outcome == DISAGGREGATE else "black"
        ax.text(x, y, times_text(decision.ratio), ha="center", va="center", color=colour, fontsize=8, bbox=box)
    ax.set_xlim(-0.5, len(xs) - 0.5)
    ax.set_ylim(-0.5, len(ys) - 0.5)
    ax.set_xticks(range(len(xs)), [_words(x) for x in xs])
    ax.set_yticks(range(len(ys)), [" · ".join(_words(each) for each in y) for y in ys])
    ax.tick_params(length=0)


def _words(value: object) -> str:
    return value_text(value) if isinstance(value, int | float) else str(value)
