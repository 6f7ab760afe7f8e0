"""Sweeps of known capacities in; what the report's panel of SLOs and its table of capacities hold out."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import numpy as np
import pytest

from analysis.figures.slo_map import FIELDS
from analysis.report import slo_panel
from analysis.report.capacity_table import capacity_tables, of_start, within
from analysis.report.html_page import HERE
from analysis.report.markup import Markup
from analysis.report.slo_panel import BETWEEN, KINDS, ORDER, Panel, kind_of, mark_of, panel_of, sentence, slo_panels
from analysis.stats.capacity import Capacity, RatePoint
from analysis.stats.inference import Comparison, digits
from analysis.stats.slo_map import NOTHING, Cell, cell_of
from analysis.stats.sweeps import Load, Sweep
from analysis.stats.verdict import DISAGGREGATE, ONE_START, SAME, TOGETHER, UNDECIDED

EVIL = '<script>alert("{pd}|")</script>'
LOAD: Load = (2048.0, 128.0, math.inf, "random")
KNOWN = ({"ttft_ms": 500.0, "tpot_ms": 20.0}, 0.9)
SPEEDS = (1.0, 1.01, 0.99)  # of an arm's starts
# At these requests/s an arm's TTFT is 500 ms, and its TPOT is 20 ms; both latencies grow in proportion to the rate.
ARMS = {"route_2": (10.0, 8.0), "pd_1p1d": (6.0, 12.0)}


def point(rate: float, at_500_ms: float, at_20_ms: float) -> RatePoint:
    """Many requests over hours, all alike, so that a queue that nobody saw plays no part."""
    alike = {"ttft_ms": 500 * rate / at_500_ms, "tpot_ms": 20 * rate / at_20_ms, "itl_max_ms": 1.0, "e2el_ms": 1.0, "ok": 1.0}
    columns = {name: np.full(200, value) for name, value in {**alike, "input_len": 2048.0, "output_len": 128.0}.items()}
    return RatePoint(rate, {**columns, "start_s": np.linspace(0, 1e7, 200)})


def swept(*, starts: int = 3, arms: dict[str, tuple[float, float]] | None = None, load: Load = LOAD) -> list[Sweep]:
    """A sweep of each arm and start over two GPUs, from 2 to 16 requests/s."""
    return [
        Sweep(
            name,
            name.startswith("pd"),
            2.0,
            load,
            n,
            tuple(point(rate, *(speed * at for at in both)) for rate in (2.0, 4.0, 8.0, 16.0)),
        )
        for name, both in (ARMS if arms is None else arms).items()
        for n, speed in enumerate(SPEEDS[:starts])
    ]


@cache
def made() -> tuple[Panel, Markup | None]:
    return panel_of(swept(), KNOWN), slo_panels(swept(), KNOWN)


class Read(HTMLParser):
    """Elements with their attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    def having(self, **attributes: str) -> list[dict[str, str]]:
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}
        return [found for _, found in self.elements if wanted.items() <= found.items()]


def read(found: Markup | None) -> Read:
    assert found
    return Read(found)


def cell(outcome: str, leaning: str | None = None, ratio: tuple[float, float, float] | None = (1.6, 1.3, 2.1)) -> Cell:
    compared = Comparison("pd_1p3d", "route_4", *ratio, outcome) if ratio else None
    return Cell(500.0, 12.0, 0.95, outcome, leaning, compared, {"pd_1p3d": (2.0, 1.0, 3.0), "route_4": (1.0, 0.0, math.inf)})


MEETS = "pd_1p3d meets it at 1.6 [1.3, 2.1] times the requests/s per GPU of route_4"
CELLS = [
    (cell(DISAGGREGATE), "pd", "×1.6", f"disaggregate: {MEETS}."),
    (cell(DISAGGREGATE, ratio=(1.6, 1.3, math.inf)), "pd", "≥1.3", "at 1.3 or more times"),
    (cell(TOGETHER, ratio=(0.6, 0.0, 0.7)), "plain", "≤0.7", "do not disaggregate: pd_1p3d meets it at 0.7 or less times"),
    (cell(TOGETHER, ratio=(0.996, 0.99, 0.999)), "plain", "×0.996", "at 0.996 [0.99, 0.999] times"),
    (cell(SAME, ratio=(1.0, 0.98, 1.02)), "same", "×1", "it makes no difference of 5 %: pd_1p3d meets it at 1 [0.98, 1.02] times"),
    (cell(UNDECIDED), "open", "?", f"it cannot be told: {MEETS}."),
    (cell(UNDECIDED, ratio=(1.6, 0.0, math.inf)), "open", "?", "the measured rates bound the ratio on neither side."),
    (cell(ONE_START, ratio=(1.6, 0.0, math.inf)), "open", "?", "the measured rates bound the ratio on neither side."),
    (cell(UNDECIDED, ratio=None), "open", "?", "the measured rates bound the ratio on neither side."),
    (cell(ONE_START, DISAGGREGATE), "pd1", "×1.6", f"in the one start of each arm pd_1p3d is better: {MEETS}; what other starts"),
    (cell(ONE_START, TOGETHER), "plain1", "×1.6", f"in the one start of each arm route_4 is better: {MEETS}; what other starts"),
    (cell(ONE_START), "one", "?", f"the one start of each arm does not tell the two apart: {MEETS}."),
    (cell(NOTHING, ratio=None), "nothing", "–", "nothing meets it: each arm misses it at the lowest rate of its measurements."),
]


@pytest.mark.parametrize(("asked", "style", "mark", "says"), CELLS)
def test_each_kind_of_field_has_a_style_a_mark_and_a_sentence(asked: Cell, style: str, mark: str, says: str) -> None:
    assert (kind_of(asked).style, mark_of(asked)) == (style, mark)
    said = sentence(asked)
    assert said.startswith("For TTFT ≤ 500 ms and TPOT ≤ 12 ms for 95 % of the requests: ")
    assert says in said
    assert "{" not in said


def test_the_kinds_of_fields_look_different_and_have_the_colours_of_the_figure() -> None:
    style = (HERE / "report.css").read_text()
    rules = dict(re.findall(r"\.f-(\w+) \{ (.*?;) \}", style))
    assert set(rules) == {kind.style for kind in ORDER}
    assert len(set(rules.values())) == len(rules)
    for kind, how in FIELDS.items():
        assert f"--f: {how['facecolor']};" in rules[KINDS[kind].style], kind


def test_a_field_for_each_bound_says_which_arm_is_better() -> None:
    """Under a loose bound on TPOT the plain arm is better, under a tight one the P/D arm is."""
    panel, found = made()[0], read(made()[1])
    asked = panel.shown
    fields = [each for each in found.having(type="button") if each.get("class", "").startswith("field")]
    assert len(fields) == len(asked.ttft_ms) * len(asked.tpot_ms)
    (own,) = (each for each in fields if " own" in each["class"])
    assert own["aria-current"] == "true"
    assert own["aria-label"] == "P/D is worse, ×0.75, this run"
    assert (
        "For TTFT ≤ 500 ms and TPOT ≤ 20 ms for 90 % of the requests: do not disaggregate: pd_1p1d meets it at 0.75 [" in found.text
    )
    assert asked.cells[500.0, asked.tpot_ms[-1]].outcome == TOGETHER
    tight = next(tpot_ms for tpot_ms in asked.tpot_ms if tpot_ms >= 5)
    assert asked.cells[asked.ttft_ms[-1], tight].outcome == DISAGGREGATE
    assert [each["aria-pressed"] for each in found.having(class_="share")] == ["true", "false", "false"]
    assert found.having(class_="controls", hidden="")


def test_the_page_carries_every_cell_for_each_share() -> None:
    panel, page = made()
    (box,) = read(page).having(class_="which")
    data = json.loads(box["data-map"])
    assert list(data["cells"]) == ["90", "95", "99"]
    assert data["bounds"][data["chosen"]] == ["500", "20"]
    assert data["bounds"][0] == [f"{panel.shown.ttft_ms[-1]:g}", f"{panel.shown.tpot_ms[0]:g}"], "the loosest TTFT is on top"
    kind, mark, first, second, ratio, *capacities = data["cells"]["90"][data["chosen"]].split(BETWEEN)
    assert (data["kinds"][int(kind)]["style"], mark) == ("plain", "×0.75")
    assert (data["arms"][int(first)], data["arms"][int(second)]) == ("pd_1p1d", "route_2")
    assert ratio.startswith("0.75 [")
    assert [each.split(" ")[0] for each in capacities] == ["3", "4"], "6 and 8 requests/s over two GPUs"
    assert len(box["data-map"]) < 60_000


def test_a_preset_outside_of_the_fields_has_its_own_answer() -> None:
    panel, page = made()
    (box,) = read(page).having(class_="which")
    presets = json.loads(box["data-map"])["presets"]
    outside = [n for n, (_, known) in enumerate(panel.presets) if (known.ttft_ms, known.tpot_ms) not in panel.shown.cells]
    assert outside
    for n in outside:
        mark, known = panel.presets[n]
        assert known == cell_of(swept(), mark.ttft_ms, mark.tpot_ms, mark.share)
        assert presets[n][:3] == [f"{mark.ttft_ms:g}", f"{mark.tpot_ms:g}", f"{100 * mark.share:g}"]


@pytest.mark.parametrize("known", [None, ({"ttft_ms": 500.0}, 0.8), ({"e2el_ms": 5000.0}, 0.9)])
def test_without_an_slo_of_both_bounds_a_field_that_says_something_is_chosen(known: tuple[dict[str, float], float] | None) -> None:
    panel = panel_of(swept(), known)
    assert panel.own is None
    assert panel.chosen.outcome != NOTHING
    assert panel.share == (known[1] if known else 0.9)
    found = read(slo_panels(swept(), known))
    assert ("The run's SLO also limits e2el_ms; the fields do not." in found.text) == bool(known and "e2el_ms" in known[0])
    assert not [each for each in found.having(type="button") if " own" in each.get("class", "")]


def test_one_start_of_each_arm_is_pale() -> None:
    found = read(slo_panels(swept(starts=1), KNOWN))
    styles = {each["class"].split()[1] for each in found.having(type="button") if each.get("class", "").startswith("field")}
    assert {"f-plain1", "f-pd1"} <= styles
    assert not {"f-plain", "f-pd"} & styles
    assert "what other starts of the arms would show is not known" in found.text


def test_sweeps_of_one_kind_have_no_panel() -> None:
    assert slo_panels(swept(arms={"route_2": (10.0, 8.0)}), KNOWN) is None
    assert slo_panels([], KNOWN) is None


def test_answers_of_one_token_have_no_panel() -> None:
    alone = [replace(p, requests={**p.requests, "output_len": np.ones(200)}) for each in swept() for p in each.points]
    assert slo_panels([replace(each, points=tuple(alone)) for each in swept()], KNOWN) is None


def test_many_loads_are_counted_and_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slo_panel, "MOST_PANELS", 2)
    loads = [(float(n), 128.0, math.inf, "random") for n in range(1, 5)]
    found = read(slo_panels([each for load in loads for each in swept(starts=1, load=load)], KNOWN))
    assert len(found.having(class_="which")) == 2
    assert "2 more loads without a panel" in found.text


def test_an_arm_cannot_bring_its_own_markup() -> None:
    evil = swept(arms={EVIL: (10.0, 8.0), "pd_1p1d": (6.0, 12.0)})
    for page in (slo_panels(evil, KNOWN), capacity_tables(evil, KNOWN)):
        assert page
        assert "<script" not in page
        assert EVIL in Read(page).text
    (box,) = read(slo_panels(evil, KNOWN)).having(class_="which")
    assert EVIL in json.loads(box["data-map"])["arms"]


def test_a_row_for_each_arm_has_its_capacity_and_that_of_each_start() -> None:
    text = re.sub(r"\s+", " ", read(capacity_tables(swept(), KNOWN)).text)
    assert "Capacity under the SLO: TTFT at most 500 ms, TPOT at most 20 ms, for 90 % of the requests; input 2048 tokens" in text
    assert re.search(r"route_2 2 8 \[7\.\d+, 8\.\d+\] 4 \[3\.\d+, 4\.\d+\] 8 \[.*\] 8\.08 \[.*\] 7\.92 \[.*\] 200 ", text)
    assert re.search(r"pd_1p1d 2 6 \[", text)
    assert capacity_tables(swept(), None) is None
    assert capacity_tables([], KNOWN) is None


def test_each_load_has_a_table_of_its_own() -> None:
    loads = [swept(load=(length, 128.0, math.inf, "random")) for length in (1024.0, 2048.0)]
    found = read(capacity_tables([*loads[0], *loads[1]], KNOWN))
    assert [name for name, _ in found.elements].count("table") == 2
    assert found.text.count("; input 1024 tokens, output 128 tokens, no bound in flight, random") == 1


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ((7.6, 5.4, 8.56), "7.6 [5.4, 8.56]"),
        ((5.4, 5.4, math.inf), "5.4 or more"),
        ((8.6, 0.0, 8.6), "8.6 or less"),
        ((0.0, 0.0, math.inf), "not known"),
    ],
)
def test_a_capacity_says_what_is_known_of_it(known: tuple[float, float, float], text: str) -> None:
    assert within(*known) == text
    assert of_start(Capacity(*known)) == text


def test_a_start_without_a_value_says_its_bounds() -> None:
    assert of_start(Capacity(math.nan, 4.0, 8.0)) == "from 4 to 8"
    assert [digits(999.4), digits(1234.5)] == ["999", "1234"]
