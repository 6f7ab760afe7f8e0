"""How many instances should prefill, by what saturated instances do."""

from __future__ import annotations

import math

import pytest

from pdslurm.records.split_ratio import balanced_prefill, best_prefill, decode_rate


@pytest.mark.parametrize(
    ("ratio", "instances", "prefill"),
    [(3.2, 4, 3), (0.1, 4, 1), (1, 4, 2), (1, 5, 2), (0.001, 8, 1), (1000, 8, 7), (1, 2, 1), (0.34, 4, 1), (0.9, 4, 2)],
)
def test_best_prefill(ratio: float, instances: int, prefill: int) -> None:
    assert best_prefill(instances, 1.0, ratio) == prefill


@pytest.mark.parametrize(
    ("count", "prefill_per_s", "together_per_s", "prefill"),
    [
        (4, 10.0, 5.0, 2),  # decode 10: both sides alike
        (4, 10.0, 2.5, 1),  # decode 3.33
        (4, 10.0, 8.0, 3),  # decode 40
        (8, 10.0, 2.5, 2),
        (4, 10.0, 12.0, 3),  # answers whole faster than prompts alone: measured within noise, decode costs nothing
        (2, 1.0, 0.1, 1),
    ],
)
def test_balanced_prefill(count: int, prefill_per_s: float, together_per_s: float, prefill: int) -> None:
    assert balanced_prefill(count, prefill_per_s, together_per_s) == prefill


def test_decode_alone() -> None:
    assert decode_rate(10.0, 5.0) == pytest.approx(10.0)
    assert decode_rate(10.0, 12.0) == math.inf
