"""The predicted splits and the cost: sums done by hand, and draws from the intervals."""

from __future__ import annotations

import random

import pytest

from analysis.stats.bounds import Bounded, exact, of_repeats, over, within
from analysis.stats.cost import cost, gpu_hours
from analysis.stats.saturation import Saturated, suggest
from pdslurm.records.split_ratio import Limits

NO_LIMITS = Limits()


def rates(a: float, b: float, *, error: float = 0.0) -> Saturated:
    """An instance that prefills a requests/s and decodes b where it does nothing else, each ± error of itself."""
    return Saturated(within(a, a * error), within(a * b / (a + b), a * b / (a + b) * error), 100)


@pytest.mark.parametrize(
    ("limits", "per_s"),
    [
        (NO_LIMITS, (100.0, 33.333)),
        (Limits(0.9, ttft_ms=20.0), (25.584, 33.333)),  # ln 10 / 10 ms = 230; 230 / (10 - 1)
        (Limits(0.9, ttft_ms=10.0), (0.0, 33.333)),
        (Limits(0.9, tpot_ms=20.0), (100.0, 28.324)),  # tests/unit/records/test_split_ratio.py has the sum
        (Limits(0.9, tpot_ms=5.0), (100.0, 0.0)),
    ],
)
def test_rates_within_an_slo(limits: Limits, per_s: tuple[float, float]) -> None:
    one = Saturated(exact(100.0), exact(25.0), 32, exact(40.0), exact(12.5), exact(8.0))
    assert one.knows_tpot
    found = suggest(one, 4, limits=limits)
    assert (found.prefill_per_s.value, found.decode_per_s.value) == pytest.approx(per_s, rel=1e-3)
    assert (found.best is None) == (0.0 in per_s)
    assert found.knows_tpot


def test_without_the_third_point_decode_knows_no_tpot() -> None:
    one = Saturated(exact(100.0), exact(25.0), 32, exact(40.0))
    found = suggest(one, 4, limits=Limits(0.9, tpot_ms=5.0))
    assert not found.knows_tpot
    assert found.decode_per_s.value == pytest.approx(33.333, rel=1e-3)


def test_splits_of_four_by_hand() -> None:
    found = suggest(rates(10, 30), 4, limits=NO_LIMITS)  # one prefill instance feeds a third of a decode instance
    assert [s.name for s in found.splits] == ["1P3D", "2P2D", "3P1D"]
    assert [s.per_s.value for s in found.splits] == pytest.approx([10, 20, 30])
    assert [s.bound for s in found.splits[:2]] == ["prefill", "prefill"]
    assert found.best is not None
    assert found.best.name == "3P1D"


def test_bounds_and_candidates_hold_whatever_the_true_numbers_are() -> None:
    draw = random.Random(2)
    several = 0
    for _ in range(60):
        mu, share, error = draw.uniform(2, 100), draw.uniform(0.1, 0.8), draw.uniform(0, 0.2)
        whole, few = mu * share, mu * share * draw.uniform(0.1, 0.8)
        values = [mu, whole, draw.uniform(20, 80), few, draw.uniform(5, 15)]
        limits = Limits(0.9, draw.choice((None, 4000 / mu)), draw.choice((None, 25.0)))
        one = saturated([within(value, value * error) for value in values])
        found = suggest(one, draw.randint(2, 12), limits=limits)
        if found.best is None:
            continue
        assert found.best in found.candidates
        several += len(found.candidates) > 1
        for _ in range(10):
            drawn = [draw.uniform(value * (1 - error), value * (1 + error)) for value in values]
            true = suggest(saturated([exact(value) for value in drawn]), len(found.splits) + 1, limits=limits)
            if true.best is None:
                continue
            assert true.best.name in {s.name for s in found.candidates}
            assert all(
                s.per_s.low * (1 - 1e-9) <= t.per_s.value <= s.per_s.high * (1 + 1e-9)
                for s, t in zip(found.splits, true.splits, strict=True)
            )
    assert several > 10


def saturated(each: list[Bounded]) -> Saturated:
    return Saturated(each[0], each[1], 100, *each[2:])


def test_wider_intervals_leave_more_open() -> None:
    sure, unsure = (suggest(rates(10, 13, error=error), 8, limits=NO_LIMITS) for error in (0.0, 0.1))
    assert [s.name for s in sure.candidates] == ["4P4D"]
    assert [s.name for s in unsure.candidates] == ["4P4D", "5P3D"]  # an instance may decode 0.86 to 2.2 times what it prefills
    assert sure.best is not None
    assert unsure.best is not None
    assert (sure.best.bound, unsure.best.bound) == ("prefill", "prefill or decode")


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match=r"whole_per_s: may be -1 by its interval"):
        Saturated(exact(10.0), Bounded(3, -1, 4), 256)
    with pytest.raises(ValueError, match=r"output_len=0: must be above 0"):
        Saturated(exact(10.0), exact(5.0), 0)
    with pytest.raises(ValueError, match=r"instances=1: P/D needs two"):
        suggest(rates(1, 1), 1, limits=NO_LIMITS)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([5.0], 5.0, 5.0),
        ([4.0, 6.0], 4.0, 6.0),
        ([4.0, 5.0, 6.0], 5 - 2.484, 5 + 2.484),  # t 4.303, divided by the root of 3
        ([1.0, 5.0, 9.0], 0.5, 14.937),  # the interval goes below 0
    ],
)
def test_the_interval_of_repeats(values: list[float], low: float, high: float) -> None:
    found = of_repeats(values)
    assert (found.low, found.value, found.high) == pytest.approx((low, sum(values) / len(values), high), abs=1e-3)


def test_an_interval_over_all_corners() -> None:
    assert over(lambda a, b: a - b, Bounded(3, 2, 5), Bounded(1, 0, 2)) == Bounded(2, 0, 5)
    assert over(lambda a: -a, Bounded(3, 2, 5)) == Bounded(-3, -5, -2)
    with pytest.raises(ValueError, match="no repeats"):
        of_repeats([])


def test_cost() -> None:
    found = cost(8, within(10_000, 1_000), price_per_gpu_hour=3.0)
    assert found.gpu_hours_per_million.value == pytest.approx(8 * 100 / 3600)  # a million tokens take 100 s
    assert found.price_per_million is not None
    assert found.price_per_million.value == pytest.approx(8 * 100 / 3600 * 3)
    assert (found.price_per_million.low, found.price_per_million.high) == pytest.approx((8 / 11 / 36 * 3 * 10, 8 / 9 / 36 * 3 * 10))
    assert cost(8, exact(10_000.0)).price_per_million is None
    assert gpu_hours(32, 450.0).value == pytest.approx(4)
    assert gpu_hours(2, within(3600, 360)) == Bounded(2, 1.8, 2.2)


@pytest.mark.parametrize(
    ("gpus", "rate", "price", "named"),
    [
        (0, exact(1.0), None, "gpus=0"),
        (1, within(1, 1), None, "tokens_per_s: may be 0"),
        (1, exact(1.0), -2.0, "price_per_gpu_hour=-2"),
    ],
)
def test_cost_names_what_is_wrong(gpus: int, rate: Bounded, price: float | None, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        cost(gpus, rate, price_per_gpu_hour=price)
