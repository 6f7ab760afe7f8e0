"""Rate sweeps and the run's SLO in; a panel for each load out that answers for every SLO: a field for each bound on TTFT and TPOT.

A field's numbers and the sentence that report.js makes of them stand in the page as JSON, in one attribute a panel. Without a
script the panel shows the fields of the run's own share, and the answer for the run's own bound on TTFT as text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from analysis.figures.slo_map import WORDS
from analysis.load.slo import SHARE, Slo
from analysis.report.capacity_table import load_text, within
from analysis.report.markup import Markup, join, tag
from analysis.stats.inference import INTEREST, Comparison, ratio_text
from analysis.stats.repeats import plural
from analysis.stats.slo_grid import OWN, PRESETS, Mark, grid, own_mark, shares_with
from analysis.stats.slo_map import NOTHING, Cell, SloMap, answers, cell_of, mappable, slo_map
from analysis.stats.sweeps import Sweep
from analysis.stats.verdict import DISAGGREGATE, ONE_START, SAME, TOGETHER, UNDECIDED, with_interest

MOST_PANELS = 6  # loads; a page with many would be large
RATIO = "{pd} meets it at {ratio} times the requests/s per GPU of {plain}"
OTHERS = "what other starts of the arms would show is not known"
SENTENCE = "For TTFT ≤ {ttft} ms and TPOT ≤ {tpot} ms for {share} % of the requests: {words}."
BETWEEN = "|"  # of the parts of a cell in the page's JSON


@dataclass(frozen=True)
class Kind:
    """What fields of one outcome have in common: the class of their colour in report.css, the legend's words, the sentence."""

    style: str
    legend: str
    says: str
    mark: str = ""  # in the field, instead of the ratio


KINDS: Mapping[tuple[str, str | None], Kind] = {
    key: Kind(style, WORDS[key], says, mark)
    for key, style, says, mark in (
        ((DISAGGREGATE, None), "pd", f"disaggregate: {RATIO}", ""),
        ((TOGETHER, None), "plain", f"do not disaggregate: {RATIO}", ""),
        ((SAME, None), "same", f"it makes no difference of {{within}}: {RATIO}", ""),
        ((UNDECIDED, None), "open", f"it cannot be told: {RATIO}", "?"),
        ((ONE_START, DISAGGREGATE), "pd1", f"in the one start of each arm {{pd}} is better: {RATIO}; {OTHERS}", ""),
        ((ONE_START, TOGETHER), "plain1", f"in the one start of each arm {{plain}} is better: {RATIO}; {OTHERS}", ""),
        ((ONE_START, None), "one", f"the one start of each arm does not tell the two apart: {RATIO}", "?"),
        ((NOTHING, None), "nothing", "nothing meets it: each arm misses it at the lowest rate of its measurements", "–"),
    )
}
UNKNOWN = Kind("open", WORDS[UNDECIDED, None], "it cannot be told: the measured rates bound the ratio on neither side", mark="?")
ORDER = (*KINDS.values(), UNKNOWN)


def kind_of(cell: Cell) -> Kind:
    """The kind of a cell; one whose ratio is open on both sides has no ratio to say."""
    if cell.outcome != NOTHING and (cell.ratio is None or (cell.ratio.low <= 0 and cell.ratio.high == math.inf)):
        return UNKNOWN
    return KINDS[cell.outcome, cell.leaning]


def mark_of(cell: Cell) -> str:
    """What stands in a field: `×1.6`, `≥1.6` or `≤1.6` where one side is open, `?`, `–`."""
    kind = kind_of(cell)
    if kind.mark or not cell.ratio:
        return kind.mark
    low, value, high = cell.ratio.low, cell.ratio.value, cell.ratio.high
    if low <= 0 or high == math.inf:
        return f"≤{_two(high)}" if low <= 0 else f"≥{_two(low)}"
    return f"×{_two(value)}"


def _two(value: float) -> str:
    """Two digits; more where a number would round to 1, which means equality."""
    short = f"{value:.2g}" if value < 99.5 else f"{value:.0f}"
    return f"{value:.3g}" if short == "1" else short


def sentence(cell: Cell) -> str:
    """`For TTFT ≤ 500 ms and TPOT ≤ 12 ms for 95 % of the requests: disaggregate: pd_1p3d meets it at 1.6 [1.3, 2.1] times …`"""
    says = with_interest(kind_of(cell).says, cell.ratio.interest if cell.ratio else INTEREST)
    words = says.format(**_arms(cell.ratio))
    return SENTENCE.format(ttft=f"{cell.ttft_ms:g}", tpot=f"{cell.tpot_ms:g}", share=f"{100 * cell.share:g}", words=words)


def _arms(ratio: Comparison | None) -> dict[str, str]:
    if ratio is None:
        return {"pd": "", "plain": "", "ratio": ""}
    return {"pd": ratio.first, "plain": ratio.second, "ratio": ratio_text(ratio)}


def slo_panels(sweeps: Sequence[Sweep], known: tuple[Slo, float] | None, *, interest: float = INTEREST) -> Markup | None:
    """A panel for each load whose rates were swept on both kinds of arms, the first one open; None where there is none. `interest`:
    the smallest difference that matters."""
    loads = mappable(sweeps)
    if not loads:
        return None
    said = [
        (load_text(load), _panel(panel_of(mine, known, interest=interest))) for load, mine in islice(loads.items(), MOST_PANELS)
    ]
    first = [tag("h3", said[0][0]), said[0][1]]
    more = [tag("details", tag("summary", words), panel) for words, panel in said[1:]]
    left = f"{plural(len(loads) - MOST_PANELS, 'more load')} without a panel: python -m analysis slo-map answers for each."
    return join([*_intro(known), *first, *more, tag("p", left, class_="soft") if len(loads) > MOST_PANELS else None])


def _intro(known: tuple[Slo, float] | None) -> list[Markup]:
    """What a field is, and what the map leaves out of the run's own SLO."""
    text = (
        "Each field is one SLO, a bound on TTFT and one on TPOT. Its number is the capacity per GPU of the best arm with separate "
        "prefill and decode instances as a multiple of that of the best other arm. Each field is a 95 % statement by itself, and "
        "all fields stand on the same requests."
    )
    ignored = [name for name in (known[0] if known else {}) if name not in ("ttft_ms", "tpot_ms")]
    left = f"The run's SLO also limits {' and '.join(ignored)}; the fields do not." if ignored else None
    return [tag("p", text, class_="soft"), *([tag("p", left, class_="caution")] if left else [])]


@dataclass(frozen=True)
class Panel:
    """One load: its map for each share, the run's own SLO, and the presets with their cells, whether the grid has them or not."""

    maps: Mapping[float, SloMap]
    share: float  # the one that is drawn without a script
    own: Mark | None
    presets: tuple[tuple[Mark, Cell], ...]
    interest: float = INTEREST

    @property
    def shown(self) -> SloMap:
        return self.maps[self.share]

    @property
    def arms(self) -> list[str]:
        return sorted({arm for cell in self.shown.cells.values() for arm in cell.capacities})

    @property
    def chosen(self) -> Cell:
        """The run's own SLO; without one, the middle one of the fields that say something."""
        if self.own:
            return self.shown.cells[self.own.ttft_ms, self.own.tpot_ms]
        cells = list(self.shown.cells.values())
        known = [cell for cell in cells if cell.outcome != NOTHING] or cells
        return known[len(known) // 2]


def panel_of(sweeps: Sequence[Sweep], known: tuple[Slo, float] | None, *, interest: float = INTEREST) -> Panel:
    """Of the sweeps of one load that has a map (`mappable`)."""
    bounds, share = known or ({}, SHARE)
    own = own_mark(bounds, share)
    rows, columns = grid(sweeps, share, marked=own)
    maps = {each: slo_map(sweeps, each, ttft_ms=rows, tpot_ms=columns, interest=interest) for each in shares_with(share)}

    def cell(mark: Mark) -> Cell:
        drawn = maps[mark.share].cells.get((mark.ttft_ms, mark.tpot_ms))
        return drawn or cell_of(sweeps, mark.ttft_ms, mark.tpot_ms, mark.share, interest=interest)

    return Panel(maps, share, own[0] if own else None, tuple((mark, cell(mark)) for mark in (*own, *PRESETS)), interest)


def _panel(panel: Panel) -> Markup:
    data = json.dumps(as_data(panel), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    row = (tag("p", text) for text in answers(panel.shown, list(panel.maps.values()), panel.chosen.ttft_ms))
    parts = [_controls(panel), _says(panel), _table(panel), _legend(panel), tag("div", *row, class_="row")]
    return tag("div", *parts, class_="which", data_map=data)


def as_data(panel: Panel) -> dict[str, object]:
    """What report.js needs: a string of parts for each cell, TTFT bounds from the largest on, as the table has them."""
    asked = panel.shown
    rows = [(ttft_ms, tpot_ms) for ttft_ms in reversed(asked.ttft_ms) for tpot_ms in asked.tpot_ms]
    return {
        "sentence": SENTENCE,
        "kinds": [
            {
                "style": kind.style,
                "legend": with_interest(kind.legend, panel.interest),
                "says": with_interest(kind.says, panel.interest),
            }
            for kind in ORDER
        ],
        "arms": panel.arms,
        "bounds": [[f"{ttft_ms:g}", f"{tpot_ms:g}"] for ttft_ms, tpot_ms in rows],
        "columns": len(asked.tpot_ms),
        "cells": {f"{100 * share:g}": [packed(each.cells[at], panel.arms) for at in rows] for share, each in panel.maps.items()},
        "share": f"{100 * panel.share:g}",
        "chosen": rows.index((panel.chosen.ttft_ms, panel.chosen.tpot_ms)),
        "presets": [
            [f"{cell.ttft_ms:g}", f"{cell.tpot_ms:g}", f"{100 * m.share:g}", packed(cell, panel.arms)] for m, cell in panel.presets
        ],
    }


def packed(cell: Cell, arms: Sequence[str]) -> str:
    """A cell in one string: kind, mark, ratio, places of the two arms in `arms`, then each arm's capacity in words."""
    ratio = cell.ratio
    pair = [str(arms.index(ratio.first)), str(arms.index(ratio.second)), ratio_text(ratio)] if ratio else ["", "", ""]
    return BETWEEN.join([str(ORDER.index(kind_of(cell))), mark_of(cell), *pair, *(within(*cell.capacities[arm]) for arm in arms)])


def _controls(panel: Panel) -> Markup:
    """Buttons for the shares and a list of presets; the script shows them, for without it they do nothing."""
    shares = [f"{100 * share:g}" for share in panel.maps]
    buttons = [
        tag(
            "button",
            f"{share} %",
            type="button",
            class_="share",
            data_share=share,
            aria_pressed=str(share == f"{100 * panel.share:g}").lower(),
        )
        for share in shares
    ]
    options = [tag("option", "choose an SLO by name", value="")]
    options += [tag("option", _preset_text(mark), value=str(n)) for n, (mark, _) in enumerate(panel.presets)]
    group = tag("span", "Share of the requests: ", *buttons, role="group", aria_label="Share of the requests")
    return tag("div", group, tag("label", "Preset: ", tag("select", *options)), class_="controls", hidden=True)


def _preset_text(mark: Mark) -> str:
    return f"{mark.name}: TTFT ≤ {mark.ttft_ms:g} ms, TPOT ≤ {mark.tpot_ms:g} ms, {100 * mark.share:g} %"


def _says(panel: Panel) -> Markup:
    """The chosen field in words. report.js writes the same for every field that is pointed at."""
    cell = panel.chosen
    each = (tag("li", f"{arm}: {within(*cell.capacities[arm])} requests/s per GPU") for arm in panel.arms)
    return tag("div", tag("p", sentence(cell)), tag("ul", *each), class_="says", role="status", aria_live="polite")


def _table(panel: Panel) -> Markup:
    """A row for each bound on TTFT, the loosest on top, and a column for each bound on TPOT."""
    asked = panel.shown
    presets = {(mark.ttft_ms, mark.tpot_ms): mark.name for mark, _ in reversed(panel.presets)}
    head = tag("tr", tag("th", "TTFT ≤ (ms)", scope="col"), *(tag("th", f"{tpot_ms:g}", scope="col") for tpot_ms in asked.tpot_ms))
    rows = []
    for ttft_ms in reversed(asked.ttft_ms):
        fields = (tag("td", _field(asked.cells[ttft_ms, tpot], panel, presets.get((ttft_ms, tpot)))) for tpot in asked.tpot_ms)
        rows.append(tag("tr", tag("th", f"{ttft_ms:g}", scope="row"), *fields))
    over = tag("tr", tag("td", ""), tag("th", "TPOT ≤ (ms)", colspan=len(asked.tpot_ms), scope="colgroup"))
    words = "The answer by bounds on TTFT (rows) and TPOT (columns)"
    inner = tag("table", tag("caption", words, class_="hide"), tag("thead", over, head), tag("tbody", *rows), class_="map")
    return tag("div", inner, class_="scroll", role="region", aria_label=words)


def _field(cell: Cell, panel: Panel, preset: str | None) -> Markup:
    kind, mark = kind_of(cell), mark_of(cell)
    known = None if preset is None else "own" if preset == OWN else "preset"
    now = "true" if cell is panel.chosen else None
    label = f"{with_interest(kind.legend, panel.interest)}, {mark}{f', {preset}' if preset else ''}"
    box = f"field f-{kind.style}{f' {known}' if known else ''}"
    return tag("button", mark, type="button", class_=box, tabindex="-1", aria_label=label, aria_current=now, data_preset=preset)


def _legend(panel: Panel) -> Markup:
    """The kinds that some share shows, each once, and what a frame means."""
    shown = {kind_of(cell).style for each in panel.maps.values() for cell in each.cells.values()}
    kinds = [kind for kind in KINDS.values() if kind.style in shown]
    items = [
        tag("li", tag("span", kind.mark, class_=f"field f-{kind.style}", aria_hidden="true"), " ", words)
        for kind, words in ((kind, with_interest(kind.legend, panel.interest)) for kind in kinds)
    ]
    inside = {mark.name for mark, cell in panel.presets if (cell.ttft_ms, cell.tpot_ms) in panel.shown.cells}
    frames = [("own", "the run's own SLO", OWN in inside), ("preset", "another preset", bool(inside - {OWN}))]
    items += [tag("li", tag("span", class_=f"field {name}", aria_hidden="true"), " ", words) for name, words, has in frames if has]
    return tag("ul", *items, class_="kinds")
