"""Loaded records in, seed 004's four figures and TPOT's out: a panel for each thing that the workload varied, a line an arm.

No file is read. Nothing is computed here but mean and spread over repeats; what was left out and what the bars are stands in the
caption."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pandas as pd

from analysis.figures.figure_files import Drawing
from analysis.figures.line_charts import Cell, draw_cells
from analysis.figures.panels import Panel, fixed_text, title
from analysis.figures.style import SCREEN, Style, series_styles
from analysis.load.frame import SETTING
from analysis.stats import repeats
from analysis.stats.repeats import evenly_spaced
from pdslurm.errors import ResultsError

T = TypeVar("T")


@dataclass(frozen=True)
class Quantity:
    """What a figure shows: a column of the frame, its words, its unit and which end is good."""

    file: str
    metric: str
    heading: str
    axis: str
    unit: str
    better: str
    note: str = ""  # what its caption says of it


QUANTITIES = (
    Quantity("throughput", "output_throughput_tok_s", "Output token throughput", "Output throughput", "tokens/s", "higher"),
    Quantity("request_throughput", "request_throughput_per_s", "Request throughput", "Request throughput", "requests/s", "higher"),
    Quantity("ttft", "mean_ttft_ms", "Mean time to first token (TTFT)", "Mean TTFT", "ms", "lower"),
    Quantity("tpot", "mean_tpot_ms", "Mean time per output token (TPOT)", "Mean TPOT", "ms", "lower"),
    Quantity("itl", "mean_itl_ms", "Mean ITL, the gap between two chunks", "Mean ITL", "ms", "lower", repeats.ITL_IS),
)
MAX_PANELS = 6  # three rows: what fits on a page with its caption
SECONDS_FROM_MS = 2000.0
PACED = ("trace", "ramp")  # in the words of a load: without a request rate its requests still are not sent all at once
BARS = {
    "interval": "95 % t interval of the mean (3 repeats or more)",
    "range": "smallest to largest (2 repeats)",
    "none": "no bar (1 repeat)",
}


def require_used(judged: pd.DataFrame) -> None:
    """Raises ResultsError, with the commonest reason, when all records are failed or invalid."""
    if (judged["use"] == "used").any():
        return
    reasons = repeats.reasons(judged)
    why = f"; most often: {next(iter(reasons))}" if reasons else ""
    raise ResultsError(f"nothing to draw: {repeats.left_out_text(judged)}{why}. `python -m analysis table RUN` lists them")


def draw(judged: pd.DataFrame, quantity: Quantity, found: Sequence[Panel], style: Style = SCREEN, note: str = "") -> Drawing:
    """One figure of one quantity, from judged records (repeats.judge) and their panels; `note` opens the caption."""
    drawn = evenly_spaced(found, MAX_PANELS)
    used = judged[judged["use"] == "used"]
    factor, unit = scale(used[quantity.metric], quantity.unit)
    label = f"{quantity.axis} ({unit})"
    titles = [title(panel, found, style.title_for(len(drawn)), brief=not style.explains) for panel in drawn]
    cells = [Cell(panel, means(panel, quantity.metric), said, label, factor) for panel, said in zip(drawn, titles, strict=True)]
    shown = rows_of(drawn)
    counts = repeats.aggregate(shown[shown["use"] == "used"], quantity.metric, ("series", *SETTING))["n"]
    unknown = int(shown.loc[shown["use"] == "used", quantity.metric].isna().sum())
    caption = caption_of(
        judged,
        shown,
        note or quantity.note,
        bars_text(counts) if len(counts) else "",
        after=f"{unknown} valid without this number" if unknown else "",
        skipped=len(found) - len(drawn),
    )
    return draw_cells(style, f"{quantity.heading}: {quantity.better} is better", series_styles(judged, style), cells, caption)


def means(panel: Panel, metric: str) -> pd.DataFrame:
    """Series, the panel's x, n, mean, low and high of its used records."""
    return repeats.aggregate(panel.rows[panel.rows["use"] == "used"], metric, list(dict.fromkeys(("series", panel.x))))


def rows_of(drawn: Sequence[Panel]) -> pd.DataFrame:
    """The records of some panels, once each."""
    rows = pd.concat([panel.rows for panel in drawn])
    return rows[~rows.index.duplicated()]


def scale(values: pd.Series[float], unit: str) -> tuple[float, str]:
    """What values are multiplied with, and the unit that then stands on the axis."""
    return (0.001, "s") if unit == "ms" and values.max() >= SECONDS_FROM_MS else (1.0, unit)


def caption_of(judged: pd.DataFrame, rows: pd.DataFrame, *sentences: str, after: str = "", skipped: int = 0) -> str:
    """What a reader must know beside the drawing of `rows`: whether a run was withdrawn, sentences of its own, then
    load, how many of the tries are valid, and cautions."""
    cautions = repeats.cautions(judged)
    said: Iterable[str] = (
        repeats.withdrawn_text(judged),
        *sentences,
        load_text(rows),
        repeats.left_out_text(judged),
        after,
        f"{skipped} more panels are not drawn; choose with --only, or give fewer runs" if skipped else "",
        "Cautions: " + "; ".join(cautions) if cautions else "",
    )
    return " ".join(f"{sentence}." for sentence in said if sentence)


def bars_text(counts: pd.Series[int], what: str = "Mean") -> str:
    """What a marker and a bar are, for the numbers of repeats that occur."""
    kinds = dict.fromkeys(repeats.kind(int(n)) for n in sorted(counts.unique(), reverse=True))
    if list(kinds) == ["none"]:
        return "1 repeat per point, so its spread is not known and no bars are drawn"
    return f"{what} of {repeats.repeats_text(counts)}; bars: " + ", ".join(BARS[kind] for kind in kinds)


def load_text(rows: pd.DataFrame) -> str:
    """The load that all panels share: how many requests there are, how they arrive, how many are in flight."""
    low, high = rows["num_prompts"].min(), rows["num_prompts"].max()
    prompts = f"{low} prompts a measurement" if low == high else f"{low} to {high} prompts a measurement"
    loads = rows["load"].unique()
    words = f"load: {loads[0]}" if len(loads) == 1 and loads[0] != "random" else ""
    bounds = ["request_rate", "max_concurrency"]
    if (rows[bounds] == float("inf")).all(axis=None):
        paced = any(word in load for load in loads for word in PACED)
        return ", ".join(filter(None, [prompts, words, "" if paced else "all sent at once"]))
    shared = [fixed_text(name, rows[name].iloc[0]) for name in bounds if rows[name].nunique() == 1]
    return ", ".join(filter(None, [prompts, words, *shared]))
