"""Judged records in, a figure of what the mean TTFT consists of out: a stacked bar for each arm, a panel for each setting."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures import axis
from analysis.figures.by_workload import scale
from analysis.figures.captions import bars_text, caption_of
from analysis.figures.distributions import shown_settings
from analysis.figures.figure_files import Drawing
from analysis.figures.panels import settings_titles
from analysis.figures.style import SCREEN, Style, canvas, series_styles
from analysis.load.frame import SETTING
from analysis.stats import metrics, repeats
from pdslurm.records.measurement import TTFT_SHARES, TTFT_UNSPLIT

# From light to dark in the order of a request's way, so that neighbours differ in grey print too; hatches tell them apart as well.
PART_STYLE = {
    TTFT_UNSPLIT: ("API server and queue", "#F0E442", "++"),
    "api_server": ("API server", "#FFF9C4", "oo"),
    "queue": ("scheduler queue", "#F0E442", ""),
    "prefill": ("prefill", "#E69F00", "////"),
    "handover": ("hand-over", "#FFFFFF", "...."),
    "transfer": ("KV transfer", "#AA3377", "\\\\\\\\"),
    "first_decode": ("first decode step", "#88CCEE", "----"),
}
REST = "router, HTTP, unknown"
REST_HOW: dict[str, Any] = {"facecolor": "none", "edgecolor": "0.35", "hatch": "xxxx", "linewidth": 0.8}
MEASURED_HOW: dict[str, Any] = {"color": "black", "marker": "|", "markersize": 9, "markeredgewidth": 1.6, "linestyle": "none"}
ROW, AROUND = 0.25, 0.62  # inches: of a bar, of a panel beside its bars
APART = 8.0  # one scale for all panels would leave a panel whose bars are so much shorter than another's unreadable
OWN_SCALES = "Each panel has a scale of its own, for their times differ too much for one"


def ttft_parts(judged: pd.DataFrame, style: Style = SCREEN) -> Drawing | None:
    """API server, scheduler queue, prefill, hand-over, transfer and first decode step, and what is left to the measured TTFT. None
    where no used record has its parts."""
    used = judged[judged["use"] == "used"]
    parts = metrics.parts(used)
    if parts.empty:
        return None
    drawn = shown_settings(parts, style)
    shown = parts.merge(drawn, on=list(SETTING))
    order = [label for label in series_styles(judged) if label in set(shown["series"])]
    over = int((shown["rest"] < 0).sum())
    more = (
        f"In {repeats.plural(over, 'bar')} the parts come to more than what was measured: hatched left of their end" if over else ""
    )
    below = int((shown[list(TTFT_SHARES)] < 0).any(axis=1).sum())
    wrong = f"In {repeats.plural(below, 'bar')} a part came out below 0, which no time can be: it lies left of 0" if below else ""
    old = "Older records do not tell the API server's time from the scheduler's queue" if shown[TTFT_UNSPLIT].any() else ""
    rows = used.merge(drawn, on=list(SETTING))
    highest = shown.groupby(list(SETTING))["mean"].max()
    is_own = bool(highest.max() > APART * highest.min())
    said = (bars_text(repeats.units(rows, ("series", *SETTING))), OWN_SCALES if is_own else "", more, wrong, old)
    caption = caption_of(judged, rows, *said, skipped=len(parts[list(SETTING)].drop_duplicates()) - len(drawn))
    factor, unit = scale(shown["mean"], "ms")
    with mpl.rc_context(style.rc):
        heading = "What the mean TTFT consists of: shorter is better"
        columns = 1 if max(map(len, order)) > (18 if style.explains else 8) else 2
        lines = style.wrapped(caption, min(columns, len(drawn)))
        heights = [AROUND + ROW * len(order)] * -(-len(drawn) // columns)
        room = style.title_for(min(columns, len(drawn))) - (max(map(len, order)) if columns == 1 else 0)
        titles = settings_titles(drawn, room, brief=not style.explains)
        figure, axes = canvas(
            style, heading, legend(shown), lines, panels=len(drawn), columns=columns, heights=heights, titles=titles
        )
        for i, (ax, (_, panel)) in enumerate(zip(axes, shown.groupby(list(SETTING)), strict=True)):
            draw_bars(ax, panel.set_index("series").reindex(order), factor)
            ax.set_title(titles[i], loc="left")
            ax.set_yticks(range(len(order)), order if i % columns == 0 else [""] * len(order))
            ax.invert_yaxis()
            ax.set_xlabel(f"Mean TTFT ({unit})")
        for together in [[ax] for ax in axes] if is_own else [axes]:
            axis.set_plain_x(together, style.y_ticks)
    return style.drawing(figure, caption)


def legend(shown: pd.DataFrame) -> list[Artist]:
    """An entry for each part that occurs."""
    present = [name for name in TTFT_SHARES if (shown[name] != 0).any()]
    patches: list[Artist] = [Patch(**_how(name), label=PART_STYLE[name][0]) for name in present]
    return [*patches, Patch(**REST_HOW, label=REST), Line2D([], [], **MEASURED_HOW, label="measured")]


def draw_bars(ax: Axes, panel: pd.DataFrame, factor: float) -> None:
    """A bar for each row of the panel, empty where the arm has no parts at this setting; the measured mean with its interval.
    Parts below 0 lie left of 0, one beside the other; the rest goes from the sum of all parts to the measured mean."""
    right, left = pd.Series(0.0, index=panel.index), pd.Series(0.0, index=panel.index)
    places = list(range(len(panel)))
    for name in TTFT_SHARES:
        width = (panel[name] * factor).fillna(0.0)
        ax.barh(places, width, left=right.where(width >= 0, left), height=0.62, **_how(name))
        right, left = right + width.clip(lower=0.0), left + width.clip(upper=0.0)
    ax.barh(places, panel["rest"] * factor, left=right + left, height=0.62, **REST_HOW)
    mean = panel["mean"] * factor
    known = panel["low"].notna().to_numpy()
    ends = ((panel["mean"] - panel["low"]) * factor, (panel["high"] - panel["mean"]) * factor)
    at = [place for place, is_known in zip(places, known, strict=True) if is_known]
    ax.errorbar(mean[known], at, xerr=[end[known] for end in ends], fmt="none", ecolor="black", elinewidth=1.0, capsize=2.5)
    ax.plot(mean, places, **MEASURED_HOW)


def _how(name: str) -> dict[str, Any]:
    _, colour, hatch = PART_STYLE[name]
    return {"facecolor": colour, "edgecolor": "0.15", "hatch": hatch, "linewidth": 0.5}
