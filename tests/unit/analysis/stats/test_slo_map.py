"""Sweeps of known capacity in, the map of SLOs and its sentences out."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

from analysis.load.slo import SHARE
from analysis.stats.capacity import RatePoint
from analysis.stats.inference import Comparison
from analysis.stats.slo_grid import PRESETS, Mark, grid, nice_numbers, own_mark
from analysis.stats.slo_map import NOTHING, _least, answer, answer_of_sweeps, answers, cell_of, mappable, slo_map, slo_maps
from analysis.stats.sweeps import Sweep
from analysis.stats.verdict import DISAGGREGATE, ONE_START, SAME, TOGETHER, UNDECIDED, decide_capacity
from pdslurm.errors import ResultsError
from tests.swept import sweeps

ROOT = Path(__file__).parents[4]
RATES = [2 * 1.2**n for n in range(18)]
FACTORS = np.random.default_rng(1).permutation(np.linspace(0.5, 1.5, 400))  # of the requests of every point
AT_90 = float(np.sort(FACTORS)[359])  # the quantile that `known` divides by, so that a bound is met exactly at the known rate


def known(series: str, ttft_per_s: float, tpot_per_s: float, *, starts: int = 3, gpus: float = 2.0) -> list[Sweep]:
    """90 % of the requests have a TTFT of 100 ms or less up to ttft_per_s, and a TPOT of 10 ms up to tpot_per_s; both grow with the
    square of the rate, so that interpolation is exact."""
    found = []
    for start, speed in enumerate((1.0, 1.005, 0.995)[:starts]):
        points = tuple(
            RatePoint(rate, made(100 * (rate / ttft_per_s / speed) ** 2, 10 * (rate / tpot_per_s / speed) ** 2)) for rate in RATES
        )
        found.append(Sweep(series, series.startswith("pd"), gpus, (128.0, 128.0, math.inf, "random"), start, points))
    return found


def made(ttft_ms: float, tpot_ms: float) -> dict[str, np.ndarray]:
    ttft, tpot = ttft_ms * FACTORS / AT_90, tpot_ms * FACTORS / AT_90
    count = len(FACTORS)
    return {
        "start_s": np.linspace(0, 600, count),
        "input_len": np.full(count, 128.0),
        "output_len": np.full(count, 128.0),
        "ttft_ms": ttft,
        "tpot_ms": tpot,
        "itl_max_ms": tpot,
        "e2el_ms": ttft + 127 * tpot,
        "ok": np.ones(count),
    }


def changed(sweep: Sweep, *, unsteady: bool = False, **columns: np.ndarray) -> Sweep:
    """The sweep with other columns of its requests, or with points that ended too early."""
    points = (RatePoint(point.rate_per_s, {**point.requests, **columns}, unsteady=unsteady) for point in sweep.points)
    return replace(sweep, points=tuple(points))


def both(starts: int = 3) -> list[Sweep]:
    """Under a bound on TTFT alone the P/D arm has half the capacity of the other, under one on TPOT alone twice."""
    return known("pd_1p1d", 10, 20, starts=starts) + known("route_2", 20, 10, starts=starts)


@pytest.mark.parametrize(
    ("ttft_ms", "tpot_ms", "outcome", "capacities"),
    [
        (100.0, 2.5, DISAGGREGATE, (10, 5)),
        (100.0, 4.9, DISAGGREGATE, (10, 7)),
        (25.0, 10.0, TOGETHER, (5, 10)),
        (100.0, 10.0, SAME, (10, 10)),
        (100.0, 90.0, TOGETHER, (10, 20)),
        (0.5, 10.0, NOTHING, None),
        (100.0, 0.05, NOTHING, None),
    ],
)
def test_known_capacities_give_the_known_map(
    ttft_ms: float, tpot_ms: float, outcome: str, capacities: tuple[float, float] | None
) -> None:
    cell = cell_of(both(), ttft_ms, tpot_ms, 0.9)
    assert (cell.outcome, cell.leaning) == (outcome, None)
    if capacities is None:
        assert cell.ratio is None
        assert {arm: known[1] for arm, known in cell.capacities.items()} == {"pd_1p1d": 0, "route_2": 0}
    else:
        assert cell.ratio
        assert cell.ratio.value == pytest.approx(capacities[0] / capacities[1], rel=1e-3)
        per_gpu = [known[0] for known in cell.capacities.values()]
        assert per_gpu == pytest.approx([capacities[0] / 2, capacities[1] / 2], rel=1e-3)
        assert all(low < value < high for value, low, high in cell.capacities.values())


@pytest.mark.parametrize(("tpot_ms", "leaning"), [(2.5, DISAGGREGATE), (90.0, TOGETHER), (10.0, None)])
def test_one_start_of_each_arm_leans_and_decides_nothing(tpot_ms: float, leaning: str | None) -> None:
    cell = cell_of(both(starts=1), 100.0, tpot_ms, 0.9)
    assert (cell.outcome, cell.leaning) == (ONE_START, leaning)


def test_a_cell_is_the_decision_under_its_slo() -> None:
    simulated = sweeps(duration_s=20)
    for bounds in ({"ttft_ms": 500.0, "tpot_ms": 11.0}, {"ttft_ms": 200.0, "tpot_ms": 25.0}):
        (decision,) = decide_capacity(simulated, bounds, 0.95)
        cell = cell_of(simulated, bounds["ttft_ms"], bounds["tpot_ms"], 0.95)
        assert (cell.ratio, cell.outcome) == (decision.ratio, decision.outcome)


def test_of_a_start_that_says_nothing_nobody_knows_whether_it_meets() -> None:
    """Every point of the P/D arm is unsteady and meets the SLO, so that no point says anything."""
    short = [changed(sweep, unsteady=True) for sweep in known("pd_1p1d", 1000, 1000)]
    cell = cell_of(short + known("route_2", 1, 1), 100.0, 10.0, 0.9)
    assert cell.outcome == UNDECIDED
    assert cell.capacities["pd_1p1d"][1:] == (0, math.inf)


def test_a_looser_bound_never_lowers_a_capacity_by_more_than_the_noise_of_interpolation() -> None:
    worst = 1.0
    for sweep in sweeps(duration_s=60):
        for name, fixed in (("tpot_ms", {"ttft_ms": 500.0}), ("ttft_ms", {"tpot_ms": 20.0})):
            bounds = np.geomspace(9, 40, 25) if name == "tpot_ms" else np.geomspace(150, 3000, 25)
            values = [sweep.capacity({**fixed, name: float(bound)}, 0.9).value for bound in bounds]
            known_ones = [value for value in values if not math.isnan(value)]
            assert len(known_ones) > 10
            worst = min(worst, *(b / a for a, b in pairwise(known_ones)))
    assert worst > 0.97


def test_the_answer_joins_neighbours_and_says_every_range() -> None:
    asked = slo_map(both(), 0.9, ttft_ms=[100, 0.5], tpot_ms=[0.05, 2.5, 4.9, 10, 40, 90])
    said = answer(asked, 100)
    assert said[0].startswith(
        "For TTFT ≤ 100 ms for 90 % of the requests: for TPOT bounds of 0.05 ms and less nothing meets it; for "
    )
    assert "; for a TPOT bound of 10 ms the two are the same within 5 % (pd_1p1d meets it at 1 [" in said[0]
    assert said[0].endswith(" times the requests/s per GPU of route_2).")
    assert "for TPOT bounds from 2.5 to 4.9 ms disaggregate (pd_1p1d meets it at 1.43 [" in said[0]
    assert " to 2 [" in said[0]
    assert "for TPOT bounds from 40 to 90 ms do not disaggregate (pd_1p1d meets it at 0.5 [" in said[0]
    assert said[1] == "Each of these is a 95 % statement by itself, and they stand on the same requests."
    assert answer(asked, 0.5) == ["For TTFT ≤ 0.5 ms for 90 % of the requests: for TPOT bounds of 90 ms and less nothing meets it."]
    with pytest.raises(ResultsError, match=r"ttft_ms=7: the map has no such bound; it has 0\.5, 100"):
        answer(asked, 7)


def test_ranges_that_do_not_touch_are_said_each() -> None:
    asked = slo_map(both(), 0.9, ttft_ms=[100], tpot_ms=[2.5, 10, 11])
    cells = dict(asked.cells)
    cells[100, 11] = cells[100, 2.5]
    (said, _) = answer(type(asked)(asked.load, 0.9, asked.ttft_ms, asked.tpot_ms, cells, False), 100)
    assert said.count("disaggregate (") == 2


def test_the_answer_of_one_start_says_so() -> None:
    said = " ".join(answer_of_sweeps(both(starts=1), 0.9, 100.0))
    assert "in the one start of each arm pd_1p1d is better (pd_1p1d meets it at" in said
    assert "in the one start of each arm route_2 is better" in said
    assert said.count("what other starts would show is not known (workload.starts=3 starts each arm three times).") == 1
    assert "for TPOT bounds" in said
    assert "disaggregate (" not in said


def test_other_shares_are_said_where_they_differ() -> None:
    maps = [slo_map(both(), share, ttft_ms=[0.5, 100], tpot_ms=[2.5, 10, 90]) for share in (0.9, 0.95)]
    alike = answers(maps[0], maps, 0.5)
    assert alike[1:] == ["For 95 % of the requests the outcome is the same at every TPOT bound."]
    few = slo_map(both(), 0.99, ttft_ms=[100], tpot_ms=[0.05, 10, 90])
    assert [text.split(":")[0] for text in answers(maps[0], [few], 100)][:2] == [
        "For TTFT ≤ 100 ms for 90 % of the requests", "For TTFT ≤ 100 ms for 99 % of the requests",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "first", "last", "fewest"),
    [(8.2, 14.0, 8.0, 16.0, 6), (85.0, 30_000.0, 50.0, 50_000.0, 6), (1.0, 1.0, 0.9, 1.1, 3), (0.011, 7e6, 0.01, 1e7, 9)],
)
def test_nice_numbers_enclose_the_range(low: float, high: float, first: float, last: float, fewest: int) -> None:
    found = nice_numbers(low, high)
    assert found[0] < low
    assert high < found[-1]
    assert fewest <= len(found) <= 20
    assert (found[0], found[-1]) == (first, last)
    assert list(found) == sorted(set(found))


def test_the_grid_has_the_marks_and_the_presets_within() -> None:
    rows, columns = grid(both(), 0.9, marked=[Mark("own", 7777, 1.234)], ttft_ms=[333])
    assert {7777, 333} <= set(rows)
    assert 1.234 in columns
    assert {mark.ttft_ms for mark in PRESETS if mark.tpot_ms <= columns[-2] and mark.ttft_ms <= rows[-2]} <= set(rows)
    assert all(b / a >= 1.02 for a, b in pairwise(rows))


def test_an_overloaded_point_does_not_widen_the_grid() -> None:
    """Its latencies only tell for how long a queue grew."""
    (first, *others) = both()
    late = RatePoint(99.0, made(1e6, 1e6), overloaded=True)
    assert grid([replace(first, points=(*first.points, late)), *others], 0.9) == grid([first, *others], 0.9)


def test_a_map_needs_both_kinds_and_answers_that_were_streamed() -> None:
    whole = [changed(sweep, ttft_ms=np.full(len(FACTORS), math.nan)) for sweep in both(starts=1)]
    assert mappable(known("pd_1p1d", 10, 20)) == {}
    assert slo_maps(whole, 0.9) == {}
    assert list(mappable(both())) == [(128.0, 128.0, math.inf, "random")]
    with pytest.raises(ResultsError, match="sweeps of 0 loads"):
        slo_map([], 0.9)


def test_the_presets_are_those_of_conf() -> None:
    files = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "conf/slo").glob("*.yaml"))]
    said = [(each["name"], each["ttft_ms"], each["tpot_ms"], each.get("share", SHARE)) for each in files if "ttft_ms" in each]
    assert said == [(mark.name, mark.ttft_ms, mark.tpot_ms, mark.share) for mark in PRESETS]


def test_the_runs_own_slo_is_a_mark_where_it_limits_both() -> None:
    assert own_mark({"ttft_ms": 500.0}, 0.9) == []
    assert [(m.ttft_ms, m.tpot_ms, m.share) for m in own_mark({"ttft_ms": 5.0, "tpot_ms": 2.0}, 0.99)] == [(5, 2, 0.99)]


def test_ratios_that_are_open_on_one_side_stand_in_the_order_of_the_end_that_is_said() -> None:
    said = [
        Comparison("pd", "route", value, low, high, ONE_START) for value, low, high in ((9.0, 1.2, math.inf), (2.0, 1.3, math.inf))
    ]
    assert [_least(ratio) for ratio in said] == [1.2, 1.3]
    assert _least(Comparison("pd", "route", math.nan, 0.0, 0.9, ONE_START)) == 0.9
    assert _least(Comparison("pd", "route", 0.8, 0.5, 0.9, ONE_START)) == 0.8
