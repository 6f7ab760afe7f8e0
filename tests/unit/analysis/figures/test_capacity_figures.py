"""Sweeps in, what is read back from the figures of a capacity out: the map of SLOs, and the share within the SLO by rate."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from analysis.figures.attainment import attainment, labelled
from analysis.figures.figure_files import Drawing, lay_out
from analysis.figures.slo_map import FIELDS, WORDS, draw, kind_of, number_text, of_sweeps
from analysis.figures.style import PAPER, SCREEN, STYLES, Style
from analysis.load.frame import load_runs
from analysis.stats import repeats
from analysis.stats.inference import Comparison
from analysis.stats.slo_grid import Mark
from analysis.stats.slo_map import slo_map
from analysis.stats.sweeps import Sweep, arm_capacities, sweeps_of
from analysis.stats.verdict import with_interest
from tests.swept import write_run

SLO = {"ttft_ms": 500.0, "tpot_ms": 25.0}
RATES = (3.0, 7.0, 11.0, 16.0, 24.0)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return repeats.judge(load_runs([write_run(tmp_path_factory.mktemp("swept"), starts=2, rates=RATES, duration_s=15)]))


@pytest.fixture(scope="module")
def sweeps(judged: pd.DataFrame) -> tuple[Sweep, ...]:
    return sweeps_of(judged)


def axes(drawing: Drawing | None) -> list[Axes]:
    assert drawing
    return drawing.figure.axes


def legend(drawing: Drawing | None) -> list[str]:
    assert drawing
    return [text.get_text() for text in drawing.figure.legends[0].texts]


def fields(ax: Axes) -> dict[tuple[float, float], Rectangle]:
    """The filled fields by their place."""
    found = (patch for patch in ax.patches if isinstance(patch, Rectangle) and patch.get_fill())
    return {(patch.get_x() + 0.5, patch.get_y() + 0.5): patch for patch in found}


def test_a_panel_is_a_share_and_a_field_an_slo(judged: pd.DataFrame, sweeps: tuple[Sweep, ...]) -> None:
    asked = slo_map(sweeps, 0.9, ttft_ms=[1, 200, 1000], tpot_ms=[9, 12, 25])
    made = draw(judged, [asked, replace(asked, share=0.95)], [Mark("own", 200, 25, 0.9), Mark("other", 200, 25, 0.95)])
    first, second = axes(made)
    assert [ax.get_title("left") for ax in (first, second)] == [f"{n} % of the requests within both bounds" for n in (90, 95)]
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["9", "12", "25"]
    assert [tick.get_text() for tick in first.get_yticklabels()] == ["1", "200", "1000"]
    drawn = fields(first)
    assert len(drawn) == 9
    for (ttft_ms, tpot_ms), cell in asked.cells.items():
        field = drawn[asked.tpot_ms.index(tpot_ms), asked.ttft_ms.index(ttft_ms)]
        assert to_hex(field.get_facecolor()).upper() == FIELDS[kind_of(cell)]["facecolor"]
        assert (field.get_hatch() or "") == FIELDS[kind_of(cell)]["hatch"]
    numbers = {text.get_position(): text.get_text() for text in first.texts}
    assert numbers[2, 2] == number_text(asked.cells[1000, 25].ratio)  # type: ignore[arg-type]
    assert [text.get_text() for text in first.texts if text.get_text().isalpha()] == ["a"]
    assert [text.get_text() for text in second.texts if text.get_text().isalpha()] == ["b"]
    assert legend(made)[-2:] == ["a: own (200, 25 ms)", "b: other (200, 25 ms)"]
    shown = {with_interest(WORDS[kind_of(cell)], 0.05) for cell in asked.cells.values()}
    assert set(legend(made)[:-2]) == shown


def test_fields_of_every_kind_differ_in_grey_or_hatch() -> None:
    seen = set()
    for how in FIELDS.values():
        red, green, blue = (int(how["facecolor"][n : n + 2], 16) for n in (1, 3, 5))
        seen.add((round((0.3 * red + 0.59 * green + 0.11 * blue) / 16), how["hatch"]))
    assert len(seen) == len(FIELDS) == len(WORDS)


@pytest.mark.parametrize(
    ("ratio", "text"),
    [((1.62, 1.2, 2.0), "×1.6"), ((0.716, 0.5, 0.9), "×0.72"), ((14.2, 10, 20), "×14"), ((1, 0.0, 1.31), "≤ 1.3"),
     ((3, 2.44, math.inf), "≥ 2.4"), ((1, 0.0, math.inf), "")],
)  # fmt: skip
def test_numbers_in_fields(ratio: tuple[float, float, float], text: str) -> None:
    assert number_text(Comparison("a", "b", *ratio, "better")) == text


@pytest.mark.parametrize("style", STYLES.values(), ids=list(STYLES))
def test_the_figures_can_be_written_and_nothing_leaves_them(judged: pd.DataFrame, sweeps: tuple[Sweep, ...], style: Style) -> None:
    for made in (of_sweeps(judged, sweeps, SLO, 0.9, style), attainment(judged, sweeps, SLO, 0.9, style)):
        assert made
        assert "Cautions: made-up numbers" in made.caption
        assert pickle.dumps(made)
        lay_out(made.figure)
        edges = made.figure.bbox.padded(1)
        boxes = [
            *(box for ax in axes(made) if (box := ax.get_tightbbox())),
            *(each.get_window_extent() for each in made.figure.legends),
        ]
        assert all(edges.x0 <= box.x0 and box.x1 <= edges.x1 and edges.y0 <= box.y0 and box.y1 <= edges.y1 for box in boxes)
    assert len(axes(of_sweeps(judged, sweeps, SLO, 0.9, style))) == 3
    assert len(axes(of_sweeps(judged, sweeps, SLO, 0.8, style))) == 4


def test_a_narrow_field_has_no_number(judged: pd.DataFrame, sweeps: tuple[Sweep, ...]) -> None:
    asked = slo_map(sweeps, 0.9, ttft_ms=[1000], tpot_ms=list(range(9, 25)))
    assert [len(axes(draw(judged, [asked], [], style))[0].texts) for style in (SCREEN, PAPER)] == [16, 0]


def test_lines_are_starts_and_hollow_marks_are_invalid(judged: pd.DataFrame, sweeps: tuple[Sweep, ...]) -> None:
    made = attainment(judged, sweeps, SLO, 0.9)
    (ax,) = axes(made)
    named = [line for line in ax.lines if line.get_label() in ("pd_2p2d", "route_4")]
    assert [line.get_label() for line in named] == ["pd_2p2d", "pd_2p2d", "route_4", "route_4"]
    for line, sweep in zip(named, sweeps, strict=True):
        valid = sorted((p for p in sweep.points if not (p.overloaded or p.unsteady)), key=lambda point: point.rate_per_s)
        within = [(p.requests["ttft_ms"] <= 500) & (p.requests["tpot_ms"] <= 25) for p in valid]
        assert list(np.asarray(line.get_xdata())) == [point.rate_per_s / 4 for point in valid]
        assert list(np.asarray(line.get_ydata())) == pytest.approx([100 * one.mean() for one in within])
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    shown = sorted(float(x) for line in hollow for x in np.asarray(line.get_xdata()))
    assert shown == sorted(p.rate_per_s / 4 for s in sweeps for p in s.points if p.overloaded or p.unsteady)
    assert shown
    assert [line for line in ax.lines if list(np.asarray(line.get_ydata())) == [90, 90]]
    assert "the SLO's share, 90 %" in legend(made)


def test_capacities_lie_below_0_with_their_intervals(judged: pd.DataFrame, sweeps: tuple[Sweep, ...]) -> None:
    (ax,) = axes(attainment(judged, sweeps, SLO, 0.9))
    for n, known in enumerate(arm_capacities(sweeps, SLO, 0.9)):
        mine = [
            line for line in ax.lines if len(np.asarray(line.get_ydata())) and set(np.asarray(line.get_ydata())) == {-9.0 * (n + 1)}
        ]
        bar, *ends, marks = mine
        assert list(np.asarray(bar.get_xdata())) == pytest.approx(known.per_gpu[1:])
        assert [end.get_marker() for end in ends] == ["|", "|"]
        assert list(np.asarray(marks.get_xdata())) == pytest.approx([start.value / 4 for start in known.starts])


def test_an_end_beyond_which_no_rate_was_measured_is_an_arrow(judged: pd.DataFrame, sweeps: tuple[Sweep, ...]) -> None:
    """Every point meets an SLO of a minute, and none one of a microsecond."""
    low = [replace(s, points=tuple(p for p in s.points if not p.overloaded)) for s in sweeps]
    for slo, arrow in (({"ttft_ms": 60_000.0}, ">"), ({"ttft_ms": 0.001}, "<")):
        (ax,) = axes(attainment(judged, low, slo, 0.9))
        assert [line.get_marker() for line in ax.lines if line.get_marker() in ("<", ">")] == [arrow] * 2


def test_labels_of_rates_have_room() -> None:
    assert labelled([1, 1.1, 2, 4, 4.2, 8], 0.8, 10) == [1, 2, 4, 8]


def test_without_sweeps_there_is_nothing_to_draw(judged: pd.DataFrame, sweeps: tuple[Sweep, ...]) -> None:
    assert attainment(judged, (), SLO, 0.9) is None
    assert of_sweeps(judged, [sweep for sweep in sweeps if sweep.disaggregated], SLO, 0.9) is None
