"""What instances did over time in, seed 002's picture out, from measured data: a panel for each arm, lanes for each instance."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from analysis.figures.breakdown import PART_STYLE
from analysis.figures.captions import caption_of
from analysis.figures.figure_files import Drawing
from analysis.figures.panels import fixed_text
from analysis.figures.style import SCREEN, Style, canvas
from analysis.load.frame import SETTING

# From top to bottom within an instance. Colours as in the breakdown of the TTFT.
LANES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "waiting": ("waiting", "requests", {"facecolor": "0.85", "edgecolor": "0.3"}),
    "prefill_tok_s": ("prefill", "prompt tokens/s", {"facecolor": PART_STYLE["prefill"][1], "edgecolor": "0.2", "hatch": "/////"}),
    "kv_bytes_s": ("KV in", "B/s", {"facecolor": PART_STYLE["transfer"][1], "edgecolor": "white", "hatch": "\\\\\\\\\\"}),
    "decode_tok_s": ("decode", "tokens/s", {"facecolor": "#004488", "edgecolor": "#004488"}),
}
ARMS = 3
LANE, AROUND, FULL, APART = 0.17, 0.34, 0.86, 0.45  # inches: a lane, a panel beside its lanes; shares of a lane: its curve, the gap


def activity_over_time(
    judged: pd.DataFrame, records: pd.DataFrame, activity: pd.DataFrame, style: Style = SCREEN
) -> Drawing | None:
    """Prefills, transfers, decodes and waiting requests of each instance over time; `activity` (stats/timeline.py) of `records`,
    one of the judged for each arm at one setting. Each kind has one scale in the whole figure. None where there is nothing."""
    if activity.empty:
        return None
    tops = {name: float(activity[name].max()) for name in LANES if activity[name].max() > 0}
    lanes = {str(label): lanes_of(part, tops) for label, part in activity.groupby("series")}
    heights = [AROUND + LANE * (len(rows) + APART * (rows["engine"].nunique() - 1)) for rows in lanes.values()]
    setting = records.iloc[0]
    where = ", ".join(fixed_text(name, setting[name]) for name in SETTING if name != "load" or setting[name] != "random")
    repeats = ", ".join(f"{row.series} {row.repeat}" for row in records.itertuples())
    said = (
        f"One measurement of each arm ({where}; repeat: {repeats})",
        "The heights of all lanes of a kind have one scale, whose top is in the legend",
        "A prompt counts when its prefill ends, a transfer when it is done",
    )
    caption = caption_of(judged, records, *said)
    with mpl.rc_context(style.rc):
        heading = "What each instance did over time"
        figure, axes = canvas(
            style, heading, legend(tops), style.wrapped(caption, 2), panels=len(lanes), columns=1, heights=heights, wide=True
        )
        end = activity["end_s"].max()
        for ax, (label, rows) in zip(axes, lanes.items(), strict=True):
            draw_lanes(ax, activity[activity["series"] == label], rows, tops)
            ax.set_title(label, loc="left")
            ax.set_xlim(0, end)
            ax.tick_params(axis="x", labelbottom=ax is axes[-1])
        axes[-1].set_xlabel("Time since the first request (s)")
    return style.drawing(figure, caption)


def lanes_of(activity: pd.DataFrame, tops: dict[str, float]) -> pd.DataFrame:
    """A row for each lane of one arm, from the top: engine, role, what it shows, and its base (lanes upwards from 0). Lanes in
    which nothing ever happened are left out, but each instance keeps one."""
    rows = []
    for (engine, role), part in activity.groupby(["engine", "role"]):
        some = [name for name in LANES if name in tops and part[name].max() > 0] or [next(iter(tops), "waiting")]
        rows += [(engine, role, name) for name in some]
    lanes = pd.DataFrame(rows, columns=["engine", "role", "what"])
    gaps = (lanes["engine"] != lanes["engine"].shift(-1)).cumsum().shift(fill_value=0)
    down = pd.Series(range(1, len(lanes) + 1)) + APART * gaps
    return lanes.assign(base=down.max() - down)


def draw_lanes(ax: Axes, activity: pd.DataFrame, rows: pd.DataFrame, tops: dict[str, float]) -> None:
    """The lanes of one arm, named by instance."""
    for engine, what, base in zip(rows["engine"], rows["what"], rows["base"], strict=True):
        mine = activity[activity["engine"] == engine]
        values = mine[what].fillna(0.0) / tops.get(what, 1.0) * FULL + base
        edges = [*mine["start_s"], mine["end_s"].iloc[-1]]
        ax.stairs(values, edges, baseline=base, fill=True, linewidth=0.4, **LANES[what][2])
        ax.axhline(base, color="0.6", linewidth=0.4)
    instances = rows.groupby("engine").agg(
        low=("base", "min"), high=("base", "max"), role=("role", "first"), lanes=("base", "size")
    )
    names = [
        str(engine) if role == "both" else f"{engine}{' ' if lanes == 1 else chr(10)}{role}"
        for engine, role, lanes in zip(instances.index, instances["role"], instances["lanes"], strict=True)
    ]
    ax.set_yticks((instances["low"] + instances["high"] + 1) / 2, names)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_ylim(0, rows["base"].max() + 1)


def legend(tops: dict[str, float]) -> list[Artist]:
    """What each kind of lane is, and what its full height stands for."""
    shown = {name: lane for name, lane in LANES.items() if name in tops}
    return [
        Patch(**how, linewidth=0.4, label=f"{words} (to {amount(tops[name], unit)})") for name, (words, unit, how) in shown.items()
    ]


def amount(value: float, unit: str) -> str:
    """`3 requests`, `12.3k tokens/s`, `1.2 GB/s`: three digits, decimal prefixes."""
    for power, prefix in ((9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            scaled = f"{value / 10**power:.3g}"
            return f"{scaled} {prefix}{unit}" if unit == "B/s" else f"{scaled}{prefix} {unit}"
    return f"{value:.3g} {unit.removesuffix('s') if unit == 'requests' and value == 1 else unit}"
