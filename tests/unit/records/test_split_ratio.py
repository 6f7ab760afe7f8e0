"""How many instances should prefill, by what saturated instances do and by what the SLO demands."""

from __future__ import annotations

import math
import random

import pytest

from pdslurm.records.split_ratio import (
    Answers,
    Limits,
    Served,
    best_prefill,
    decode_rate,
    decode_within,
    knows_tpot,
    prefill_within,
    served,
    suggested_prefill,
)

WHOLE, FEW = Answers(25.0, 40.0), Answers(12.5, 8.0)  # of an instance that prefills 100 requests/s; 32 output tokens


@pytest.mark.parametrize(
    ("ratio", "instances", "prefill"),
    [(3.2, 4, 3), (0.1, 4, 1), (1, 4, 2), (1, 5, 2), (0.001, 8, 1), (1000, 8, 7), (1, 2, 1), (0.34, 4, 1), (0.9, 4, 2)],
)
def test_best_prefill(ratio: float, instances: int, prefill: int) -> None:
    assert best_prefill(instances, 1.0, ratio) == prefill


def test_where_prefill_serves_nothing_the_most_instances_prefill() -> None:
    assert [best_prefill(8, rate, 1.0) for rate in (0.0, 1e-9, 1e9)] == [7, 7, 1]


@pytest.mark.parametrize(
    ("count", "one", "prefill"),
    [
        (4, Served(10.0, 10.0), 2),
        (4, Served(10.0, 3.3), 1),
        (4, Served(10.0, 40.0), 3),
        (4, Served(10.0, math.inf), 3),
        (2, Served(1.0, 0.1), 1),
        (4, Served(0.0, 10.0), None),
        (4, Served(10.0, 0.0), None),
        (1, Served(10.0, 10.0), None),
    ],
)
def test_suggested_prefill(count: int, one: Served, prefill: int | None) -> None:
    assert suggested_prefill(count, one) == prefill


def test_decode_alone() -> None:
    assert decode_rate(10.0, 5.0) == pytest.approx(10.0)
    assert decode_rate(10.0, 12.0) == math.inf, "whole answers as fast as prompts, within noise: decode costs nothing"


@pytest.mark.parametrize(
    ("limits", "per_s"),
    [
        (Limits(0.9), 10.0),
        (Limits(0.9, ttft_ms=100.0), 0.0),  # the prefill alone takes 100 ms
        (Limits(0.9, ttft_ms=100.001), 0.0),
        (Limits(0.9, ttft_ms=300.0), 11.513 / (math.e**1.1513 - 1)),  # ln 10 / 0.2 s: 5.33
        (Limits(0.9, ttft_ms=1100.0), 2.3026 / (math.e**0.23026 - 1)),  # 8.89, where M/M/1 says 10 - 2.30 / 1.1 = 7.91
        (Limits(0.5, ttft_ms=1100.0), 0.6931 / (math.e**0.06931 - 1)),  # 9.66
        (Limits(1.0, ttft_ms=1100.0), 6.9078 / (math.e**0.69078 - 1)),  # as a share of 0.999: 6.93
        (Limits(0.9, ttft_ms=1e9), 10.0),
    ],
)
def test_prefill_within_a_ttft(limits: Limits, per_s: float) -> None:
    assert prefill_within(10.0, limits) == pytest.approx(per_s, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(
    ("whole", "few", "limits", "per_s"),
    [
        # A batch of 32 takes 40 · (1 - 0.25) = 30 ms, one of 3.2 takes 8 · (1 - 0.125) = 7 ms: 4.444 ms, and 0.7986 for each.
        (WHOLE, FEW, Limits(0.9), 33.333),
        (WHOLE, FEW, Limits(0.9, tpot_ms=1000.0), 33.333),  # no larger batch than the one that was measured
        (WHOLE, FEW, Limits(0.5, tpot_ms=30.0), 33.333),
        (WHOLE, FEW, Limits(0.5, tpot_ms=20.0), 30.436),  # 19.48 in a batch: 19.48 / (32 · 0.02)
        (WHOLE, FEW, Limits(0.9, tpot_ms=20.0), 28.324),  # 14.59, for 14.59 + 1.2816 · 3.819 = 19.48; a step takes 16.1 ms
        (WHOLE, FEW, Limits(0.9, tpot_ms=6.0), 4.923),  # 0.801 in the mean of 1.948 at most; a step takes 5.08 ms
        (WHOLE, FEW, Limits(0.9, tpot_ms=5.0), 0.0),  # a request alone takes 5.243 ms
        (WHOLE, None, Limits(0.9, tpot_ms=5.0), 33.333),  # of an old record: it knows no TPOT
        (Answers(25.0), FEW, Limits(0.9, tpot_ms=5.0), 33.333),
        (WHOLE, Answers(12.5), Limits(0.9, tpot_ms=5.0), 33.333),
        (Answers(120.0, 40.0), FEW, Limits(0.9, tpot_ms=5.0), math.inf),
    ],
)
def test_decode_within_a_tpot(whole: Answers, few: Answers | None, limits: Limits, per_s: float) -> None:
    assert decode_within(whole, few, prompts_per_s=100.0, output_len=32, limits=limits) == pytest.approx(per_s, rel=1e-3)


@pytest.mark.parametrize(
    ("whole", "few", "tpot_ms", "per_s"),
    [
        (WHOLE, Answers(12.5, 1e3), 30.0, 33.333),  # few in flight are slower than many: every step takes 30 ms …
        (WHOLE, Answers(12.5, 1e3), 29.9, 0.0),
        (WHOLE, Answers(20.0, 1.0), 15.0, 33.333),  # a line through 0.8 ms and 30 ms crosses 0 below 0: 0.9375 ms for each
        (WHOLE, Answers(0.1, 5.0), 1e3, 33.333),  # less than one in flight in the mean counts as one
    ],
)
def test_noise_leaves_a_line_that_goes_through_the_larger_batch(whole: Answers, few: Answers, tpot_ms: float, per_s: float) -> None:
    assert decode_within(whole, few, prompts_per_s=100.0, output_len=32, limits=Limits(0.9, tpot_ms=tpot_ms)) == pytest.approx(
        per_s, rel=1e-3
    )


@pytest.mark.parametrize(
    ("whole", "few", "known"),
    [(WHOLE, FEW, True), (WHOLE, None, False), (Answers(25.0), FEW, False), (WHOLE, Answers(12.5), False)],
)
def test_two_points_with_a_time_per_token_are_needed(whole: Answers, few: Answers | None, known: bool) -> None:
    assert knows_tpot(whole, few) is known


def test_a_tighter_ttft_gives_prefill_no_less_and_a_tighter_tpot_decode_no_less() -> None:
    """Of random instances; an SLO that no split meets ends the row."""
    draw = random.Random(4)
    seen = {"ttft_ms": 0, "tpot_ms": 0}
    for _ in range(300):
        prompts, count, output_len = draw.uniform(2, 200), draw.randint(2, 16), draw.choice((16, 128, 1024))
        whole = Answers(prompts * draw.uniform(0.05, 0.98), draw.uniform(10, 200))
        few = Answers(prompts * draw.uniform(0.01, 0.9), draw.uniform(3, 60))
        share = draw.choice((0.5, 0.9, 0.99, 1.0))
        for bound, grows in (("ttft_ms", 1), ("tpot_ms", -1)):
            other = {"ttft_ms": 2e4, "tpot_ms": 1e3}
            limits = [Limits(share, **{**other, bound: 2e4 / 1.3**n}) for n in range(40)]
            rows = [
                suggested_prefill(count, served(prompts, whole, few=few, output_len=output_len, limits=each)) for each in limits
            ]
            known = [row for row in rows if row is not None]
            assert rows[len(known) :] == [None] * (len(rows) - len(known)), (bound, rows)
            assert known == sorted(known, reverse=grows < 0), (bound, rows)
            seen[bound] += len(set(known)) > 1
    assert min(seen.values()) > 30, "bounds that move nothing show nothing"
