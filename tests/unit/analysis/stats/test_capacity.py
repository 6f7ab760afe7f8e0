"""The highest rate at which an arm meets the SLO, from the requests of a few rates."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from analysis.stats.capacity import (
    AtRate,
    RatePoint,
    at_rate,
    autocorrelation_time,
    capacity,
    isotonic,
    judged,
    unseen_overload,
)
from pdslurm.records.good_requests import slo_ratio
from pdslurm.records.measurement import REQUEST_COLUMNS
from tests.served import Column, Server, requests_of

SLO = {"ttft_ms": 500.0, "tpot_ms": 30.0}
INF = math.inf


def at(ratios: Mapping[float, float], error: float = 0.0) -> list[AtRate]:
    return [AtRate(rate, ratio, error, 100, 50.0) for rate, ratio in ratios.items()]


@pytest.mark.parametrize(
    ("ratios", "value"),
    [
        ({1.0: 0.5, 2.0: 2.0}, math.sqrt(2)),  # half of the way, in logarithms
        ({4.0: 2.0, 1.0: 0.5, 2.0: 0.5}, 2 * math.sqrt(2)),
        ({1.0: 0.5, 2.0: 1e9}, math.sqrt(2)),  # a ratio above 2 says no more than 2
        ({1.0: 0.5, 2.0: 1.25, 3.0: 0.2, 4.0: 2.0}, 3 * (4 / 3) ** 0.5),  # 2 and 3 in the wrong order: 0.5 on average
        ({1.0: 0.5, 2.0: 1.0, 4.0: 2.0}, 2.0),
    ],
)
def test_the_capacity_lies_where_the_ratios_cross_1(ratios: Mapping[float, float], value: float) -> None:
    found = capacity(at(ratios))
    assert found.value == pytest.approx(value)
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize(
    ("ratios", "low", "high"),
    [
        ({1.0: 0.5, 2.0: 0.9}, 2.0, INF),
        ({1.0: 1.5, 2.0: 3.0}, 0.0, 1.0),
        ({8.0: 0.5}, 8.0, INF),
        ({}, 0.0, INF),
    ],
)
def test_without_a_crossing_there_are_bounds_and_no_value(ratios: Mapping[float, float], low: float, high: float) -> None:
    found = capacity(at(ratios))
    assert math.isnan(found.value)
    assert (found.low, found.high) == (low, high)


def test_an_uncertain_ratio_makes_an_uncertain_capacity() -> None:
    ratios = {1.0: 0.5, 2.0: 0.8, 3.0: 1.25, 4.0: 1.9}
    sure, unsure, lost = (capacity(at(ratios, error)) for error in (0.01, 0.1, 1.0))
    assert sure.value == unsure.value == lost.value
    assert lost.low < unsure.low < sure.low < sure.value < sure.high < unsure.high < lost.high
    assert (lost.low, lost.high) == (0.0, INF)


def test_repeats_at_one_rate_are_averaged() -> None:
    twice = [*at({1.0: 0.5, 2.0: 0.5}), *at({2.0: 2.0, 4.0: 2.0})]
    assert capacity(twice).value == pytest.approx(2.0)


def column(values: list[float]) -> Column:
    return np.array(values)


def point(ttft_ms: list[float], rate: float = 1.0, **flags: bool) -> RatePoint:
    many = len(ttft_ms)
    fixed = {"input_len": 8.0, "output_len": 8.0, "tpot_ms": 10.0, "itl_max_ms": 10.0, "ok": 1.0}
    columns = {name: column([value] * many) for name, value in fixed.items()}
    return RatePoint(
        rate, {**columns, "start_s": column(list(range(many))), "ttft_ms": column(ttft_ms), "e2el_ms": column(ttft_ms)}, **flags
    )


def test_a_point_that_was_overloaded_misses_and_one_that_was_over_too_soon_never_meets() -> None:
    good, bad = [100.0] * 20, [900.0] * 20
    plain, growing, short, late = (
        at_rate(each, SLO, 0.9)
        for each in (point(good), point(good, overloaded=True), point(good, unsteady=True), point(bad, unsteady=True))
    )
    assert plain is not None
    assert plain.ratio == pytest.approx(1 / 3)
    assert short is None
    assert late is not None
    assert late.ratio == pytest.approx(1.8)
    assert growing is not None
    assert growing.misses
    assert capacity([plain, AtRate(2.0, growing.ratio, 0.0, 20, 20.0, misses=True)]).value == pytest.approx(2.0)


def test_what_nothing_shows_is_not_known() -> None:
    assert at_rate(point([math.nan] * 5), SLO, 0.9) is None
    assert at_rate(point([]), SLO, 0.9) is None


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
def test_the_driver_and_the_analysis_find_the_same_ratio(share: float) -> None:
    requests = requests_of(Server(), 1.0, 14.0, 40.0, np.random.default_rng(3))
    requests["ok"][::37] = 0.0
    requests["tpot_ms"][5::41] = math.nan
    found = at_rate(RatePoint(14.0, judged(requests)), SLO, share)
    assert found is not None
    assert found.ratio == pytest.approx(slo_ratio({name: requests[name].tolist() for name in REQUEST_COLUMNS}, SLO, share))


def test_correlated_requests_are_worth_fewer() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=4000)
    slow = np.convolve(noise, np.ones(50), mode="valid")  # neighbours share 49 of 50: the correlations add up to 50
    assert autocorrelation_time(noise) == pytest.approx(1.0, abs=0.25)
    assert autocorrelation_time(slow) == pytest.approx(50, rel=0.4)
    assert autocorrelation_time(np.ones(10)) == 1.0


def test_isotonic_regression() -> None:
    assert isotonic([1.0, 3.0, 2.0, 4.0], [1, 1, 1, 1]) == [1.0, 2.5, 2.5, 4.0]
    assert isotonic([3.0, 1.0], [1, 3]) == [1.5, 1.5]
    assert isotonic([], []) == []


def test_how_much_overload_a_point_does_not_see() -> None:
    assert unseen_overload({"ttft_ms": 2000.0}, 0.9, 60.0) == pytest.approx(2 / 54)
    assert unseen_overload({"tpot_ms": 20.0}, 0.9, 60.0) == 0.0
    assert unseen_overload({"ttft_ms": 1e6}, 0.9, 1.0) == 0.5


def test_the_capacity_of_a_simulated_server_is_that_of_an_hour_and_lies_in_its_interval() -> None:
    """Points of 60 s around the crossing, against points of one hour: 100 seeds."""
    server, rng = Server(), np.random.default_rng(1)

    def measured(rates: list[float], duration_s: float) -> list[AtRate]:
        made = (RatePoint(rate, judged(requests_of(server, 1.0, rate, duration_s, rng))) for rate in rates)
        return [found for each in made if (found := at_rate(each, SLO, 0.9))]

    truth = capacity(measured([15 * 1.02**n for n in range(12)], 3600.0)).value
    found = [capacity(measured([truth * 1.057**n for n in (-8.4, -4.4, -1.4, -0.4, 0.6, 1.6, 4.6)], 60.0)) for _ in range(100)]
    errors = [math.log(each.value / truth) for each in found if not math.isnan(each.value)]
    assert len(errors) == 100
    assert abs(np.mean(errors)) < 0.025
    assert 0.02 < np.std(errors) < 0.06
    assert sum(each.low <= truth <= each.high for each in found) >= 88
