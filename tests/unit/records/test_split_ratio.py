"""How many instances should prefill, by what saturated instances do and by what the SLO demands."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

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
        (WHOLE, FEW, Limits(0.9, tpot_ms=5.243), 0.33164 / (32 * 0.0047093) if False else 1.2436 * 1000 / 1000),
        (WHOLE, FEW, Limits(0.9, tpot_ms=5.0), 0.0),  # a request alone takes 5.243 ms
        (WHOLE, None, Limits(0.9, tpot_ms=5.0), 33.333),  # of an old record: it knows no TPOT
        (Answers(25.0), FEW, Limits(0.9, tpot_ms=5.0), 33.333),
        (WHOLE, Answers(12.5), Limits(0.9, tpot_ms=5.0), 33.333),
        (Answers(120.0, 40.0), FEW, Limits(0.9, tpot_ms=5.0), math.inf),
    ],
)
def test_decode_within_a_tpot(whole: Answers, few: Answers | None, limits: Limits, per_s: float) -> None:
    assert decode_within(100.0, whole, few, 32, limits) == pytest.approx(per_s, rel=1e-3)
