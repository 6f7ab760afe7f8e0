"""What saturated instances suggest, what measuring says to it, and what an arm costs at the rate it holds."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from analysis.stats.suggestion import cost_text, suggestion_text, suggestions


def saturated(prompts_per_s: float, answers_per_s: float, instances: int = 4) -> pd.DataFrame:
    """The two saturated points of a Route arm of so many instances, all of them together."""
    common = {"sweeps": ("saturated",), "disaggregated": False, "instances": float(instances), "input_len": 1024}
    return pd.DataFrame([
        {**common, "output_len": 1, "request_throughput_per_s": prompts_per_s},
        {**common, "output_len": 256, "request_throughput_per_s": answers_per_s},
        {**common, "sweeps": ("chat",), "output_len": 256, "request_throughput_per_s": 1.0},
    ])  # fmt: skip


def rates(**capacities: float) -> pd.DataFrame:
    return pd.DataFrame(
        [{"series": arm, "input_len": 1024, "output_len": 256, "disaggregated": arm.startswith("pd"), "gpus": 8.0,
          "capacity_per_s": value} for arm, value in capacities.items()]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("prompts", "answers", "best"),
    [
        (40.0, 10.0, "1P3D"),  # an instance: 10 prompts, 2.5 answers, so decode alone 3.3: 1 · 10 against 3 · 3.3
        (40.0, 20.0, "2P2D"),
        (40.0, 35.0, "3P1D"),
    ],
)
def test_the_balanced_ratio_is_suggested(prompts: float, answers: float, best: str) -> None:
    (found,) = suggestions(saturated(prompts, answers)).values()
    assert found.best.name == best
    assert found.route.value == pytest.approx(answers)


def test_nothing_is_suggested_where_whole_answers_came_as_fast_as_prompts() -> None:
    assert suggestions(saturated(10.0, 12.0)) == {}
    assert suggestions(saturated(10.0, 5.0, instances=1)) == {}


@pytest.mark.parametrize(
    ("capacities", "said"),
    [
        ({"pd_1p3d": 9.0, "pd_2p2d": 7.0, "route_4": 12.0}, "pd_1p3d holds most, which confirms it."),
        ({"pd_1p3d": 7.0, "pd_2p2d": 9.0}, "pd_2p2d holds most, which refutes it."),
        ({"pd_1p3d": 9.0, "pd_2p2d": 9.0}, "pd_1p3d and pd_2p2d hold most, which confirms it."),
        ({"pd_1p3d": 9.0}, "; pd_1p3d alone was measured."),
        ({"pd_1p3d": 0.0, "pd_2p2d": 0.0}, "; no arm with that ratio or beside it held a rate."),
    ],
)
def test_measuring_confirms_or_refutes_it(capacities: dict[str, float], said: str) -> None:
    (line,) = suggestion_text(saturated(40.0, 10.0), rates(**capacities))
    assert line.startswith("Saturated instances suggest 1P3D for 1024 tokens in and 256 out")
    assert line.endswith(said)


def test_costs_at_the_rate_that_is_held() -> None:
    """8 GPUs, 10 requests/s of 256 tokens: a million tokens in 391 s, 0.868 GPU-hours."""
    frame = rates(route_4=10.0, pd_1p3d=0.0)
    assert cost_text(frame, None, "") == ["GPU-hours for a million output tokens at 1024/256: route_4 0.868."]
    assert cost_text(frame, 2.5, "EUR") == ["GPU-hours for a million output tokens at 1024/256: route_4 0.868 (2.17 EUR)."]
    assert cost_text(frame.assign(capacity_per_s=0.0), 2.5, "EUR") == []
    assert math.isclose(8 / 3600 * 1e6 / 2560, 0.868, rel_tol=1e-3)
