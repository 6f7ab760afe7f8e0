"""Loaded records in, seed 004's four figures, TPOT's and throughput by GPU out: a panel for each thing that the workload varied, a
line an arm.

No file is read. Nothing is computed here but mean and spread over repeats and a quotient; what was left out and what the bars are
stands in the caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.figures.captions import bars_text, caption_of
from analysis.figures.figure_files import Drawing
from analysis.figures.line_charts import Cell, draw_cells
from analysis.figures.panels import Panel, title
from analysis.figures.style import SCREEN, Style, series_styles
from analysis.load.frame import SETTING
from analysis.stats import repeats
from analysis.stats.repeats import evenly_spaced
from pdslurm.errors import ResultsError


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
    Quantity("throughput_per_gpu", "output_tok_s_per_gpu", "Output throughput by GPU", "Output", "tokens/s/GPU", "higher"),
    Quantity("request_throughput", "request_throughput_per_s", "Request throughput", "Request throughput", "requests/s", "higher"),
    Quantity("ttft", "mean_ttft_ms", "Mean time to first token (TTFT)", "Mean TTFT", "ms", "lower"),
    Quantity("tpot", "mean_tpot_ms", "Mean time per output token (TPOT)", "Mean TPOT", "ms", "lower"),
    Quantity("itl", "mean_itl_ms", "Mean ITL, the gap between two chunks", "Mean ITL", "ms", "lower", repeats.ITL_IS),
)
MAX_PANELS = 6  # three rows: what fits on a page with its caption
SECONDS_FROM_MS = 2000.0


def require_used(judged: pd.DataFrame) -> None:
    """Raises ResultsError, with the commonest reason, when all records are failed or invalid."""
    if (judged["use"] == "used").any():
        return
    reasons = repeats.reasons(judged)
    why = f"; most often: {next(iter(reasons))}" if reasons else ""
    raise ResultsError(f"nothing to draw: {repeats.left_out_text(judged)}{why}. `python -m analysis table RUN` lists them")


def by_gpu(judged: pd.DataFrame) -> pd.DataFrame:
    """The judged records with `output_tok_s_per_gpu`, which QUANTITIES show."""
    return judged.assign(output_tok_s_per_gpu=judged["output_throughput_tok_s"] / judged["gpus"])


def draw(judged: pd.DataFrame, quantity: Quantity, found: Sequence[Panel], style: Style = SCREEN, note: str = "") -> Drawing:
    """One figure of one quantity, from judged records (repeats.judge, by_gpu) and their panels; `note` opens the caption. Where a
    throughput was offered rather than reached, the heading ranks nothing."""
    drawn = evenly_spaced(found, MAX_PANELS)
    used = judged[judged["use"] == "used"]
    factor, unit = scale(used[quantity.metric], quantity.unit)
    label = f"{quantity.axis} ({unit})"
    titles = [title(panel, found, style.title_for(len(drawn)), brief=not style.explains) for panel in drawn]
    cells = [Cell(panel, means(panel, quantity.metric), said, label, factor) for panel, said in zip(drawn, titles, strict=True)]
    shown = rows_of(drawn)
    mine = shown[shown["use"] == "used"]
    counts = repeats.units(mine.dropna(subset=[quantity.metric]), ("series", *SETTING))
    unknown = int(mine[quantity.metric].isna().sum())
    is_offered = len(repeats.telling(mine, quantity.metric)) < len(mine)
    caption = caption_of(
        judged,
        shown,
        note or quantity.note,
        repeats.OFFERED.rstrip(".") if is_offered else "",
        bars_text(counts) if len(counts) else "",
        after=f"{unknown} valid without this number" if unknown else "",
        skipped=len(found) - len(drawn),
    )
    heading = quantity.heading if is_offered else f"{quantity.heading}: {quantity.better} is better"
    return draw_cells(style, heading, series_styles(judged, style), cells, caption)


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
