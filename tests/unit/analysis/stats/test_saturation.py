"""The P:D ratio and the cost: sums done by hand, a search over all splits, and draws from the intervals."""

from __future__ import annotations

import random

import pytest

from analysis.stats.bounds import Bounded, exact, within
from analysis.stats.cost import cost, gpu_hours
from analysis.stats.saturation import Saturated, in_turn, suggest


def rates(a: float, b: float, *, error: float = 0.0) -> Saturated:
    """An instance pair of a and b requests/s, each ± error of itself, at 1000 tokens in and 100 out."""
    return Saturated(within(1000 * a, 1000 * a * error), within(100 * b, 100 * b * error), 1000, 100)


@pytest.mark.parametrize(
    ("prefill_tok_s", "decode_tok_s", "lengths", "per_s", "ratio"),
    [
        (50_000, 10_000, (4096, 256), (12.207, 39.06), 3.2),  # a long prompt wants three prefill instances for each decode
        (50_000, 10_000, (512, 1024), (97.66, 9.766), 0.1),
        (40_000, 5_000, (1000, 125), (40, 40), 1),
    ],
)
def test_rates_and_ratio(
    prefill_tok_s: float, decode_tok_s: float, lengths: tuple[int, int], per_s: tuple[float, float], ratio: float
) -> None:
    one = Saturated(exact(prefill_tok_s), exact(decode_tok_s), *lengths)
    assert (one.prefill_per_s.value, one.decode_per_s.value) == pytest.approx(per_s, rel=1e-3)
    assert one.prefill_for_a_decode.value == pytest.approx(ratio)


def test_splits_of_four_by_hand() -> None:
    found = suggest(rates(10, 30), 4)  # one prefill instance feeds a third of a decode instance
    assert [(s.name, s.per_s.value, s.bound) for s in found.splits] == [
        ("1P3D", 10, "prefill"),
        ("2P2D", 20, "prefill"),
        ("3P1D", 30, "prefill or decode"),
    ]
    assert found.best.name == "3P1D"
    assert found.route.value == pytest.approx(4 * 300 / 40)  # 30: where the split comes out whole, P/D serves what Route N does


def test_route_as_measured_takes_the_place_of_the_estimate() -> None:
    found = suggest(rates(10, 30), 4, colocated_per_s=within(6, 0.5))
    assert found.route == Bounded(24, 22, 26)
    assert suggest(rates(10, 30), 4).route == exact(30)


def test_no_split_serves_more_than_route_in_turn() -> None:
    draw = random.Random(1)
    for _ in range(200):
        found = suggest(rates(draw.uniform(1, 100), draw.uniform(1, 100)), draw.randint(2, 16))
        assert found.best.per_s.value == max(s.per_s.value for s in found.splits)
        assert found.best.per_s.value <= found.route.value * (1 + 1e-9)


def test_bounds_and_candidates_hold_whatever_the_true_rates_are() -> None:
    draw = random.Random(2)
    for _ in range(60):
        one = rates(draw.uniform(1, 100), draw.uniform(1, 100), error=draw.uniform(0, 0.3))
        found = suggest(one, draw.randint(2, 12))
        assert found.best in found.candidates
        for _ in range(10):
            a, b = (draw.uniform(i.low, i.high) for i in (one.prefill_per_s, one.decode_per_s))
            true = suggest(rates(a, b), len(found.splits) + 1)
            assert true.best.name in {s.name for s in found.candidates}
            assert all(
                s.per_s.low * (1 - 1e-9) <= t.per_s.value <= s.per_s.high * (1 + 1e-9)
                for s, t in zip(found.splits, true.splits, strict=True)
            )
            assert found.route.low * (1 - 1e-9) <= true.route.value <= found.route.high * (1 + 1e-9)


def test_wider_intervals_leave_more_open() -> None:
    sure, unsure = suggest(rates(10, 13), 8), suggest(rates(10, 13, error=0.2), 8)
    assert [s.name for s in sure.candidates] == ["4P4D"]
    assert [s.name for s in unsure.candidates] == ["4P4D", "5P3D"]  # the ratio may be 0.87 to 1.95
    assert (sure.best.bound, unsure.best.bound) == ("prefill", "prefill or decode")


def test_in_turn_counts_each_error_once() -> None:
    found = in_turn(within(10, 1), within(30, 3))
    assert (found.value, found.low, found.high) == pytest.approx((7.5, 6.75, 8.25))  # 10 % in, 10 % out


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match=r"decode_tok_s: may be -1 by its interval"):
        Saturated(exact(10.0), Bounded(3, -1, 4), 512, 256)
    with pytest.raises(ValueError, match=r"input_len=0: must be above 0"):
        Saturated(exact(10.0), exact(10.0), 0, 256)
    with pytest.raises(ValueError, match=r"instances=1: P/D needs two"):
        suggest(rates(1, 1), 1)


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
