"""Loaded records in, a table of the headline numbers out, as LaTeX (booktabs) or as text: a row for each setting and arm.

The text above the rows says what a figure's caption says. What never varies is no column but stands in that text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import pandas as pd

from analysis.figures.by_workload import by_gpu, require_used
from analysis.figures.captions import caption_of
from analysis.figures.panels import NAMES, set_apart, told_apart_by
from analysis.load import slo
from analysis.load.frame import SETTING
from analysis.report.columns import aligned
from analysis.report.summary import spread_text
from analysis.stats import repeats

KEYS = ("series", *SETTING)
COLUMNS = {
    "output_tok_s_per_gpu": "Output tokens/s/GPU",
    "mean_ttft_ms": "Mean TTFT (ms)",
    "mean_tpot_ms": "Mean TPOT (ms)",
    "p99_ttft_ms": "p99 TTFT (ms)",
}
OTHER_NAMES = {"num_prompts": "Prompts", "load": "Load"}
IN_BRACKETS = "in brackets the 95 % t interval of the mean over {units}, from 3 {units} on"
COMMENT_WIDTH = 100
ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "∞": r"$\infty$", "≤": r"$\leq$", "×": r"$\times$",
    "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
Rows = list[list[str]]


def to_latex(frame: pd.DataFrame) -> str:
    """A `tabular` with booktabs' rules, under comments with what the reader must know. Raises ResultsError where no record is
    valid."""
    said, heading, rows, left = table_of(frame)
    comments = textwrap.wrap(f"{said} Needs \\usepackage{{booktabs}}.", COMMENT_WIDTH, break_long_words=False)
    columns = "".join("l" if i == left else "r" for i in range(len(heading)))
    body = [f"{' & '.join(map(escaped, row))} \\\\" for row in rows]
    lines = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", f"{' & '.join(map(escaped, heading))} \\\\", "\\midrule"]
    lines += [*with_space(rows, body, left), "\\bottomrule", "\\end{tabular}"]
    return "\n".join([*(f"% {line}" for line in comments), *lines, ""])


def to_text(frame: pd.DataFrame) -> str:
    """The same rows in columns of equal width, under the same words. Raises ResultsError where no record is valid."""
    said, heading, rows, left = table_of(frame)
    return "\n".join([*textwrap.wrap(said, COMMENT_WIDTH, break_long_words=False), "", *aligned([heading, *rows], left=left), ""])


def table_of(frame: pd.DataFrame) -> tuple[str, list[str], Rows, int]:
    """What is said above, the columns' names, the rows, and how many columns stand before the arm."""
    bounds = slo.of_runs(sorted(frame["folder"].unique()))
    judged = set_apart(by_gpu(repeats.judge(frame))).assign(slo=slo.slo_text(bounds) if bounds else "")
    require_used(judged)
    used = judged[judged["use"] == "used"]
    varied = told_apart_by(used[list(SETTING)])
    units = repeats.units(used, KEYS)
    counts = units.rename("n").reset_index()
    table = counts.sort_values([*varied, "series"], kind="stable")
    for metric in COLUMNS:
        table = table.merge(cells_of(used, metric), how="left", on=list(KEYS))
    heading = [
        *(OTHER_NAMES[name] if name in OTHER_NAMES else NAMES[name][1] for name in varied),
        "Arm",
        repeats.plurals(units).capitalize(),
    ]
    shown = table[[*varied, "series", "n", *COLUMNS]]
    rows = [[cell_text(cell) for cell in row] for row in shown.itertuples(index=False)]
    return said_of(judged, used, units), [*heading, *COLUMNS.values()], rows, len(varied)


def cells_of(used: pd.DataFrame, metric: str) -> pd.DataFrame:
    """KEYS and, under the metric's name, `84.4 [80.1, 88.7]` or the mean alone where there are fewer than three repeats."""
    means = repeats.aggregate(used, metric, KEYS)
    means[metric] = [spread_text(*row) for row in means[["mean", "low", "high"]].itertuples(index=False)]
    return means[[*KEYS, metric]]


def said_of(judged: pd.DataFrame, used: pd.DataFrame, counts: pd.Series[int]) -> str:
    """The caption: what the numbers are, and what a figure's caption says, which names the settings that all rows share."""
    is_offered = len(repeats.telling(used, "output_tok_s_per_gpu")) < len(used)
    return caption_of(
        judged,
        used,
        f"Mean of {repeats.repeats_text(counts)}; {IN_BRACKETS.format(units=repeats.plurals(counts))}",
        repeats.OFFERED.rstrip(".") if is_offered else "",
    )


def cell_text(cell: object) -> str:
    """`∞` for no bound, `-` for what is not known, numbers without needless digits."""
    if isinstance(cell, str):
        return cell
    assert isinstance(cell, int | float)
    return "-" if math.isnan(cell) else "∞" if math.isinf(cell) else f"{cell:.10g}"


def with_space(rows: Rows, body: Sequence[str], left: int) -> list[str]:
    """The lines of the rows with a gap before each new setting, where settings have several rows."""
    settings = [row[:left] for row in rows]
    is_grouped = len({tuple(setting) for setting in settings}) < len(rows) and left > 0
    out: list[str] = []
    for i, line in enumerate(body):
        out += ["\\addlinespace"] if is_grouped and i and settings[i] != settings[i - 1] else []
        out.append(line)
    return out


def escaped(text: str) -> str:
    """The text with every character that LaTeX would take for a command written out."""
    return "".join(ESCAPES.get(character, character) for character in text)
