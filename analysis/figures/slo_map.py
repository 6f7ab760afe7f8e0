"""Maps of SLOs in, a figure out: a panel for each share of the requests, a field for each pair of bounds on TTFT and TPOT.

A field's colour says which kind of arm has the larger capacity per GPU under that SLO, and its number how many times as large the
P/D arm's is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from analysis.figures import crossover
from analysis.figures.captions import caption_of
from analysis.figures.figure_files import Drawing
from analysis.figures.style import SCREEN, Style, canvas
from analysis.load.slo import Slo
from analysis.stats.inference import INTEREST, Comparison
from analysis.stats.repeats import evenly_spaced
from analysis.stats.slo_grid import PRESETS, Mark, own_mark, shares_with
from analysis.stats.slo_map import NOTHING, Cell, SloMap, mappable, slo_map
from analysis.stats.sweeps import LOAD, Load, Sweep
from analysis.stats.verdict import DISAGGREGATE, ONE_START, SAME, SAME_WITHIN, TOGETHER, UNDECIDED, with_interest

Kind = tuple[str, str | None]  # a cell's outcome and leaning
PALE: Mapping[Kind, dict[str, Any]] = {
    (ONE_START, DISAGGREGATE): {"facecolor": "#A6CEE3", "hatch": "\\\\\\"},
    (ONE_START, TOGETHER): {"facecolor": "#FBEBCB", "hatch": "..."},
    (NOTHING, None): {"facecolor": "#BDBDBD", "hatch": "xxxx"},
}
FIELDS: Mapping[Kind, dict[str, Any]] = {
    **{(outcome, None): crossover.FIELDS[outcome] for outcome in (DISAGGREGATE, TOGETHER, SAME, UNDECIDED)},
    (ONE_START, DISAGGREGATE): PALE[ONE_START, DISAGGREGATE],
    (ONE_START, TOGETHER): PALE[ONE_START, TOGETHER],
    (ONE_START, None): crossover.FIELDS[ONE_START],
    (NOTHING, None): PALE[NOTHING, None],
}
WORDS: Mapping[Kind, str] = {
    (DISAGGREGATE, None): "P/D is better",
    (TOGETHER, None): "P/D is worse",
    (SAME, None): SAME_WITHIN,
    (UNDECIDED, None): "cannot be told",
    (ONE_START, DISAGGREGATE): "P/D is better in the one start of each arm",
    (ONE_START, TOGETHER): "P/D is worse in the one start of each arm",
    (ONE_START, None): "one start of each arm does not tell",
    (NOTHING, None): "no arm meets the SLO",
}
ROW = {True: 0.19, False: 0.155}  # inches of a row of fields; on screen?
AROUND = {True: 0.62, False: 0.55}  # inches of a panel beside them
MOST_LOADS = 2
LEAST_FIELD = 0.36  # inches: a field that is narrower has no number
NUMBER_SIZE, LETTER_SIZE = 6.5, 6.0
SIDE = 0.75  # inches beside the fields of a panel
SAID = (
    "Each field is an SLO, and its number the capacity of the best arm with separate prefill and decode instances as a multiple of "
    "that of the best arm without, in requests/s per GPU; ≤ and ≥ stand where only a bound of it is known. Each field is a 95 % "
    "statement by itself. The fields of a panel stand on the same requests"
)


def of_sweeps(
    judged: pd.DataFrame,
    sweeps: Sequence[Sweep],
    slo: Slo | None,
    share: float,
    style: Style = SCREEN,
    *,
    interest: float = INTEREST,
) -> Drawing | None:
    """The maps of the loads that have one, for each share; of very many loads some. `slo` is marked. None without any."""
    loads = mappable(sweeps)
    drawn = evenly_spaced(list(loads), MOST_LOADS if style.explains else 1)
    own = own_mark(slo or {}, share)
    found = [slo_map(loads[load], each, marked=own, interest=interest) for load in drawn for each in shares_with(share)]
    return draw(judged, found, [*own, *PRESETS], style, skipped=len(loads) - len(drawn))


def draw(
    judged: pd.DataFrame, maps: Sequence[SloMap], marks: Sequence[Mark] = (), style: Style = SCREEN, *, skipped: int = 0
) -> Drawing | None:
    """A panel for each map: of one load or several, each for one share of the requests or several. None without any."""
    if not maps:
        return None
    shown = [kind for kind in FIELDS if any(kind_of(cell) == kind for one in maps for cell in one.cells.values())]
    lettered = letters([mark for mark in marks if any(is_on(mark, one) for one in maps)])
    words = {kind: with_interest(WORDS[kind], interest_of(maps)) for kind in shown}
    handles: list[Artist] = [Patch(**FIELDS[kind], edgecolor="0.3", label=label) for kind, label in words.items()]
    handles += [Patch(facecolor="none", edgecolor="black", linewidth=1.6, label=text) for text in legend_texts(lettered)]
    caption = caption_of(judged, rows_of(judged, [one.load for one in maps]), SAID, skipped=skipped)
    with mpl.rc_context(style.rc):
        heights = [AROUND[style.explains] + ROW[style.explains] * len(one.ttft_ms) for one in maps]
        lines = style.wrapped(caption, 2)
        heading = "Whether to disaggregate, by the SLO"
        figure, axes = canvas(style, heading, handles, lines, panels=len(maps), columns=1, heights=heights, wide=True)
        for ax, one in zip(axes, maps, strict=True):
            draw_map(ax, one, style)
            draw_marks(ax, one, lettered)
            ax.set_title(title_of(one, maps), loc="left")
    return style.drawing(figure, caption)


def kind_of(cell: Cell) -> Kind:
    return cell.outcome, cell.leaning


def interest_of(maps: Sequence[SloMap]) -> float:
    """The smallest difference that the maps' cells were judged by."""
    return next((cell.ratio.interest for one in maps for cell in one.cells.values() if cell.ratio), INTEREST)


def rows_of(judged: pd.DataFrame, loads: Sequence[Load]) -> pd.DataFrame:
    """The records at the rates of some loads."""
    wanted = pd.DataFrame(loads, columns=list(LOAD)).drop_duplicates()
    return judged[judged["request_rate"] < float("inf")].merge(wanted, on=list(LOAD))


def title_of(one: SloMap, among: Sequence[SloMap]) -> str:
    """`90 % of the requests within the SLO`, and the load where the maps are of several."""
    share = f"{100 * one.share:g} % of the requests within both bounds"
    return share if len({each.load for each in among}) == 1 else f"{share}: {load_text(one.load)}"


def load_text(load: Load) -> str:
    """`input 1024 tokens, output 256 tokens`, or the load's own words; with the bound on requests in flight where there is one."""
    inputs, outputs, in_flight, name = load
    what = f"input {inputs:g} tokens, output {outputs:g} tokens" if name == "random" else name
    return f"{what}, at most {in_flight:g} in flight" if in_flight < float("inf") else what


def draw_map(ax: Axes, one: SloMap, style: Style) -> None:
    """A field for each cell, the tightest bounds left and below."""
    numbered = (style.width - SIDE) / len(one.tpot_ms) >= LEAST_FIELD
    for (ttft_ms, tpot_ms), cell in one.cells.items():
        x, y = one.tpot_ms.index(tpot_ms), one.ttft_ms.index(ttft_ms)
        how = FIELDS[kind_of(cell)]
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, **how, edgecolor="0.45", linewidth=0.4))
        if numbered and cell.ratio:
            box = {"facecolor": how["facecolor"], "edgecolor": "none", "pad": 0.6} if how["hatch"] else None
            colour = "white" if cell.outcome == DISAGGREGATE else "black"
            text = number_text(cell.ratio)
            ax.text(x, y, text, ha="center", va="center_baseline", color=colour, fontsize=NUMBER_SIZE, bbox=box)
    ax.set_xlim(-0.5, len(one.tpot_ms) - 0.5)
    ax.set_ylim(-0.5, len(one.ttft_ms) - 0.5)
    ax.set_xticks(range(len(one.tpot_ms)), [f"{bound:g}" for bound in one.tpot_ms])
    ax.set_yticks(range(len(one.ttft_ms)), [f"{bound:g}" for bound in one.ttft_ms])
    ax.tick_params(length=0, labelsize=7)
    ax.set_xlabel("Bound on TPOT (ms)")
    ax.set_ylabel("Bound on TTFT (ms)")


def number_text(ratio: Comparison) -> str:
    """`×1.6`, `≥ 1.6` and `≤ 1.6` where only one bound is known; empty where none is."""
    low, high = ratio.low > 0, ratio.high < float("inf")
    if low and high:
        return f"×{_short(ratio.value)}"
    return f"≥ {_short(ratio.low)}" if low else f"≤ {_short(ratio.high)}" if high else ""


def _short(value: float) -> str:
    """`0.72`, `1.6`, `12`; more digits where a number would round to 1, which means equality."""
    short = f"{value:.2f}" if value < 0.995 else f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
    return f"{value:.3g}" if short == "1.0" else short


def is_on(mark: Mark, one: SloMap) -> bool:
    """Whether a map has a field for an SLO."""
    return mark.share == one.share and (mark.ttft_ms, mark.tpot_ms) in one.cells


def letters(marks: Sequence[Mark]) -> dict[Mark, str]:
    """a, b, c and so on; SLOs with the same bounds and share have one letter."""
    alike: dict[tuple[float, float, float], str] = {}
    for mark in marks:
        alike.setdefault((mark.ttft_ms, mark.tpot_ms, mark.share), "abcdefghijklmnopqrstuvwxyz"[len(alike) % 26])
    return {mark: alike[mark.ttft_ms, mark.tpot_ms, mark.share] for mark in marks}


def legend_texts(lettered: Mapping[Mark, str]) -> list[str]:
    """`a: this run, code (500, 25 ms)` for each letter."""
    texts = []
    for letter in sorted(set(lettered.values())):
        mine = [mark for mark, own in lettered.items() if own == letter]
        texts.append(f"{letter}: {', '.join(mark.name for mark in mine)} ({mine[0].ttft_ms:g}, {mine[0].tpot_ms:g} ms)")
    return texts


def draw_marks(ax: Axes, one: SloMap, lettered: Mapping[Mark, str]) -> None:
    """A thick frame and a letter at each SLO that has a name."""
    for place, letter in {(m.tpot_ms, m.ttft_ms): letter for m, letter in lettered.items() if is_on(m, one)}.items():
        x, y = one.tpot_ms.index(place[0]), one.ttft_ms.index(place[1])
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.6, zorder=3))
        box = {"facecolor": "white", "edgecolor": "black", "linewidth": 0.5, "pad": 0.8}
        ax.text(x - 0.46, y + 0.42, letter, ha="left", va="top", fontsize=LETTER_SIZE, bbox=box, zorder=4)
