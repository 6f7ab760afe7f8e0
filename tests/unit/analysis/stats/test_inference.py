"""How surely one kind of arm is better than another, from a few starts of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest

from analysis.stats.inference import (
    BETTER,
    INTEREST,
    LEAST_SD,
    ONE_START,
    SAME,
    UNDECIDED,
    WORSE,
    Comparison,
    Score,
    compare,
    exact,
    interval,
    of_repeats,
    ratio_text,
    spreads,
    times_text,
)
from pdslurm.records.t_interval import t_above

INF = math.inf
Values = Mapping[str, Sequence[float]]


def arms(values: Values) -> dict[str, list[Score]]:
    return {name: [exact(math.log(value)) for value in some] for name, some in values.items()}


def compared(first: Values, second: Values) -> Comparison:
    found = compare(arms(first), arms(second))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ([10.0, 10.2, 9.8], [8.0, 8.1, 7.9], BETTER),
        ([8.0, 8.1, 7.9], [10.0, 10.2, 9.8], WORSE),
        ([10.0, 12.0, 8.0], [9.0, 11.0, 8.5], UNDECIDED),
        ([10.0, 10.05, 9.95], [10.0, 10.02, 9.98], SAME),
        ([10.2, 10.2, 10.2], [10.0, 10.0, 10.0], SAME),
        ([20.0], [10.0], ONE_START),
        ([20.0, 20.1, 19.9], [10.0], BETTER),
    ],
)
def test_what_starts_say(first: list[float], second: list[float], outcome: str) -> None:
    found = compared({"pd": first}, {"route": second})
    assert found.outcome == outcome
    assert found.low < found.high or outcome == ONE_START


def test_two_arms_are_compared_by_welchs_test() -> None:
    """Logarithms of a variance of 0.01 each: 4 degrees of freedom, t(0.025, 4) = 2.776."""
    found = compared({"a": [math.exp(x) for x in (0.9, 1.0, 1.1)]}, {"b": [math.exp(x) for x in (-0.1, 0.0, 0.1)]})
    half = 2.7764 * math.sqrt(0.02 / 3)
    assert [math.log(end) for end in (found.value, found.low, found.high)] == pytest.approx([1.0, 1.0 - half, 1.0 + half], abs=1e-4)


def test_welchs_degrees_of_freedom_may_lie_between_whole_numbers() -> None:
    """Variances 0.01 and 0.04: (0.05)² / (0.01²/2 + 0.04²/2) = 2.941 degrees of freedom."""
    found = compared({"a": [math.exp(x) for x in (0.9, 1.0, 1.1)]}, {"b": [math.exp(x) for x in (-0.2, 0.0, 0.2)]})
    assert math.log(found.low) == pytest.approx(1.0 - t_above(0.025, 2.941) * math.sqrt(0.05 / 3))


def test_alike_arms_pool_their_spread_and_pay_for_the_choice_of_the_best() -> None:
    """Three P/D arms of equal spread and one other: 8 degrees of freedom, a third of the level at the lower end."""
    spread = (-0.02, 0.0, 0.02)
    first = {f"pd{n}": [math.exp(n / 10 + x) for x in spread] for n in range(3)}
    found = compared(first, {"route": [math.exp(x) for x in spread]})
    se = 0.02 * math.sqrt(2 / 3)
    assert found.first == "pd2"
    assert math.log(found.low) == pytest.approx(0.2 - t_above(0.025 / 3, 8) * se)
    assert math.log(found.high) == pytest.approx(0.2 + t_above(0.025, 8) * se)


def test_an_arm_that_is_much_noisier_keeps_its_own_spread() -> None:
    quiet = {f"a{n}": [1.0, 1.01, 0.99] for n in range(4)}
    known = spreads(arms({**quiet, "noisy": [1.0, 2.0, 0.5]}))
    assert not known["noisy"].pooled
    assert known["noisy"].freedom == 2
    assert known["a0"].pooled
    assert known["a0"].freedom == 8
    assert known["a0"].variance < 0.001 < known["noisy"].variance


def test_an_arm_with_one_lucky_start_does_not_beat_arms_with_three() -> None:
    lucky = {"lucky": [10.5], "steady": [10.0, 10.3, 9.7]}
    found = compared(lucky, {"route": [9.9, 10.2, 9.6]})
    assert found.first == "steady"
    assert found.outcome == UNDECIDED


def test_the_choice_among_many_equal_arms_is_paid_for() -> None:
    """The best of seven equal arms is above the only other by luck: two standard errors of its difference."""
    spread = (-0.03, 0.0, 0.03)
    many = {f"pd{n}": [math.exp(x + (0.05 if n == 3 else 0.0)) for x in spread] for n in range(7)}
    route = {"route": [math.exp(x) for x in spread]}
    assert compared(many, route).outcome == UNDECIDED
    alone = compared({"pd3": many["pd3"]}, route)
    assert alone.first == "pd3"


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        (Score(math.nan, math.log(40), INF), exact(math.log(32)), 1.1, INF),  # never missed
        (Score(math.nan, -INF, math.log(2)), exact(math.log(32)), 0.0, 0.0625),  # never met
        (Score(math.nan, math.log(40), INF), Score(math.nan, math.log(40), INF), 0.0, INF),  # both at the highest rate
        (Score(math.nan, math.log(10), math.log(12.5)), Score(math.nan, math.log(10), math.log(12.5)), 0.8, 1.25),
    ],
)
def test_a_censored_end_leaves_the_interval_open(first: Score, second: Score, low: float, high: float) -> None:
    """Three equal starts of each arm: spread is added to what the bounds leave."""
    found = compare({"a": [first] * 3}, {"b": [second] * 3})
    assert found is not None
    if low:
        assert low / 1.6 < found.low < low * 1.13
    else:
        assert found.low == 0.0
    if high < INF:
        assert high < found.high < 1.6 * high
    else:
        assert found.high == INF
    if low or high < INF:
        assert found.low <= found.value <= found.high
    else:
        assert math.isnan(found.value)


def test_where_every_start_is_censored_a_spread_is_assumed() -> None:
    (known,) = spreads({"a": [Score(math.nan, 1.0, INF)] * 3}).values()
    assert math.sqrt(known.variance) == pytest.approx(0.1)


def test_equal_starts_have_no_interval_of_zero_width() -> None:
    found = compared({"a": [23.3] * 3}, {"b": [18.6] * 3})
    half = t_above(0.025, 4) * LEAST_SD * math.sqrt(2 / 3)
    assert (found.low, found.high) == pytest.approx((23.3 / 18.6 * math.exp(-half), 23.3 / 18.6 * math.exp(half)))
    mean, low, high = interval("a", spreads(arms({"a": [2.0] * 3})), arms({"a": [2.0] * 3})["a"])
    assert low < mean < high


def test_what_may_be_too_large_is_allowed_for_however_many_starts_there_are() -> None:
    flattered = [Score(0.0, -0.1, 0.1, unseen=0.2)] * 3
    found = compare({"a": flattered}, {"b": [exact(0.0)] * 3})
    assert found is not None
    assert found.low < math.exp(-0.2)


def test_one_start_s_repeats_bound_that_start_alone() -> None:
    assert of_repeats([1.0]) == Score(1.0, -INF, INF)
    assert of_repeats([1.0, 3.0]) == Score(2.0, -INF, INF)
    many = of_repeats([1.0, 2.0, 3.0])
    assert (many.value, many.low, many.high) == pytest.approx((2.0, 2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))
    equal = of_repeats([1.0, 1.0, 1.0])
    assert equal.low < 1.0 < equal.high


def test_a_difference_that_is_sure_but_matters_to_nobody_is_the_same() -> None:
    found = compared({"a": [10.2, 10.201, 10.199]}, {"b": [10.0, 10.001, 9.999]})
    assert found.low > 1.0
    assert found.high < 1 + INTEREST
    assert found.outcome == SAME


def test_without_arms_of_one_kind_nothing_is_compared() -> None:
    assert compare({}, arms({"a": [1.0]})) is None


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (2.6, 2.125, 3.2, "2.6 [2.12, 3.2]"),
        (1234.5, 0.001, 99999.0, "1234 [0.001, 99999]"),
        (1.5, 1.2, INF, "1.2 or more"),
        (1.5, 0.0, 1.7, "1.7 or less"),
        (1.5, 0.0, INF, "1.5"),
    ],
)
def test_a_ratio_has_no_sign(value: float, low: float, high: float, text: str) -> None:
    found = Comparison("a", "b", value, low, high, UNDECIDED)
    assert ratio_text(found) == text
    assert times_text(found).startswith("×1" if value < 2 or value > 1000 else "×2.6")
    assert found.inverse().inverse().value == pytest.approx(value)


def test_of_two_arms_that_met_the_slo_at_every_rate_no_ratio_is_known() -> None:
    above = Score(math.nan, 3.0, INF)
    for starts in (1, 3):
        found = compare({"pd": [above] * starts}, {"route": [above] * starts})
        assert found is not None
        assert ratio_text(found) == "an unknown number of"
    known = compare({"pd": [above] * 3}, {"route": [exact(1.0)] * 3})
    assert known is not None
    assert ratio_text(known).endswith("or more")
