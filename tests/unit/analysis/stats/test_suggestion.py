"""What saturated instances predict, what measuring says to it, and what an arm costs at its capacity."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.stats.bounds import within
from analysis.stats.inference import Arms, Score, exact
from analysis.stats.saturation import Saturated, suggest
from analysis.stats.suggestion import cost_text, judgement, misses, suggestion_text, suggestions
from pdslurm.records.split_ratio import Answers, Limits, served, suggested_prefill

NO_LIMITS = Limits()
SAID = "1024 tokens in, 256 out: "
NEITHER = "1P3D is neither confirmed nor refuted: pd_1p3d meets the SLO at"
TIMES = "times the requests/s per GPU of"
SPLITS = suggest(Saturated(within(10.0, 0.1), within(2.5, 0.1), 256), 4, limits=NO_LIMITS)  # 1P3D, whichever holds in the interval


def saturated(
    prompts_per_s: float,
    answers_per_s: float,
    instances: int = 4,
    tpot_ms: float = math.nan,
    few: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """The saturated points of a Route arm of so many instances, all of them together; `few`: requests/s and TPOT of the third."""
    common = {
        "sweeps": ("saturated",), "disaggregated": False, "instances": float(instances), "input_len": 1024,
        "max_concurrency": math.inf, "mean_tpot_ms": math.nan,
    }  # fmt: skip
    rows = [
        {**common, "output_len": 1, "request_throughput_per_s": prompts_per_s},
        {**common, "output_len": 256, "request_throughput_per_s": answers_per_s, "mean_tpot_ms": tpot_ms},
        {**common, "sweeps": ("chat",), "output_len": 256, "request_throughput_per_s": 1.0, "mean_tpot_ms": 1.0},
    ]
    third = {**common, "output_len": 256, "max_concurrency": 16.0}
    rows += [{**third, "request_throughput_per_s": few[0], "mean_tpot_ms": few[1]}] if few else []
    return pd.DataFrame(rows)


def rates(**capacities: float) -> pd.DataFrame:
    names = ["series", "input_len", "output_len", "disaggregated", "gpus", "capacity_per_s", "low_per_s", "high_per_s"]
    rows = [(arm, 1024, 256, arm.startswith("pd"), 8.0, value, 0.9 * value, 1.1 * value) for arm, value in capacities.items()]
    return pd.DataFrame(rows, columns=names)


def of(spread: float = 0.01, starts: int = 3, **capacities: float) -> dict[str, list[Score]]:
    """Scores of arms with these capacities, whose starts differ by this share; below 0: the lowest rate that missed the SLO."""
    found = {}
    for arm, per_s in capacities.items():
        score = exact(math.log(per_s)) if per_s > 0 else Score(math.nan, -math.inf, math.log(-per_s))
        steps = [n - (starts - 1) / 2 for n in range(starts)]
        found[arm] = [replace(score, value=score.value + n * spread, low=score.low + n * spread - 0.05) for n in steps]
    return found


@pytest.mark.parametrize(
    ("prompts", "answers", "best"),
    [
        (40.0, 10.0, "1P3D"),  # an instance: 10 prompts, 2.5 answers, so decode alone 3.3: 1 · 10 against 3 · 3.3
        (40.0, 20.0, "2P2D"),
        (40.0, 35.0, "3P1D"),
        (40.0, 41.0, "3P1D"),  # whole answers as fast as prompts: decode seems to cost nothing, as the driver has it
    ],
)
def test_the_balanced_ratio_is_suggested(prompts: float, answers: float, best: str) -> None:
    (found,) = suggestions(saturated(prompts, answers), NO_LIMITS).values()
    assert found.best is not None
    assert found.best.name == best
    assert not found.knows_tpot


def test_the_driver_and_the_analysis_suggest_the_same() -> None:
    draw = random.Random(5)
    several = set()
    for _ in range(100):
        prompts, count = draw.uniform(5, 400), draw.randint(2, 12)
        answers, few = prompts * draw.uniform(0.1, 1.05), (prompts * draw.uniform(0.02, 0.2), draw.uniform(4, 12))
        limits = Limits(0.9, draw.choice((None, 1500 * count / prompts)), draw.choice((None, 30.0)))
        (found,) = suggestions(saturated(prompts, answers, count, 60.0, few), limits).values()
        whole, third = Answers(answers / count, 60.0), Answers(few[0] / count, few[1])
        mine = suggested_prefill(count, served(prompts / count, whole, few=third, output_len=256, limits=limits))
        assert (found.best and found.best.prefill) == mine
        several.add(mine)
    assert len(several) > 5


def test_nothing_is_suggested_to_a_lone_instance_or_without_a_point() -> None:
    assert suggestions(saturated(10.0, 5.0, instances=1), NO_LIMITS) == {}
    assert suggestions(saturated(10.0, 5.0).iloc[1:], NO_LIMITS) == {}
    assert suggestions(saturated(10.0, math.nan), NO_LIMITS) == {}


def test_repeats_give_an_interval() -> None:
    frame = pd.concat([saturated(prompts, 10.0) for prompts in (36.0, 40.0, 44.0)])
    (found,) = suggestions(frame, NO_LIMITS).values()
    assert (found.prefill_per_s.low, found.prefill_per_s.high) == pytest.approx((10 - 2.484, 10 + 2.484), abs=1e-3)
    (line,) = suggestion_text(frame, rates())
    assert "predict 1P3D 10 [7.52, 11.2], 2P2D" in line


@pytest.mark.parametrize(
    ("few", "slo", "said"),
    [
        (None, {}, "without a bound on TTFT or TPOT saturated instances predict 1P3D 10, 2P2D 8.57, 3P1D 4.29 requests/s; "
         "1P3D is suggested. Prefill limits 1P3D, decode limits 2P2D and 3P1D."),
        (None, {"ttft_ms": 500.0}, "for TTFT ≤ 500 ms saturated instances predict 1P3D 7.4, 2P2D 8.57, 3P1D 4.29 requests/s; "
         "2P2D is suggested. Prefill limits 1P3D, decode limits 2P2D and 3P1D."),
        (None, {"ttft_ms": 300.0, "tpot_ms": 25.0}, "for TTFT ≤ 300 ms and TPOT ≤ 25 ms saturated instances predict 1P3D 5.32, "
         "2P2D 8.57, 3P1D 4.29 requests/s; 2P2D is suggested. Prefill limits 1P3D, decode limits 2P2D and 3P1D. No record shows "
         "the time per token with few requests in flight, so the prediction knows no TPOT."),
        (None, {"ttft_ms": 90.0}, "for TTFT ≤ 90 ms saturated instances predict 1P3D 0, 2P2D 0, 3P1D 0 requests/s; a prefill "
         "instance cannot meet the SLO."),
        # A batch of 46.08 takes 42 ms, one of 3.84 takes 8.5 ms: 5.455 ms and 0.793 for each; of 12.04 at most 8.34 in the mean.
        ((6.0, 10.0), {"tpot_ms": 15.0, "e2el_ms": 9000.0}, "for TPOT ≤ 15 ms saturated instances predict 1P3D 8.1, 2P2D 5.4, "
         "3P1D 2.7 requests/s; 1P3D is suggested. Decode limits 1P3D, 2P2D and 3P1D. The prediction leaves out E2E at most "
         "9000 ms."),
    ],
)  # fmt: skip
def test_what_is_predicted(few: tuple[float, float] | None, slo: dict[str, float], said: str) -> None:
    (line,) = suggestion_text(saturated(40.0, 12.0, tpot_ms=60.0, few=few), rates(), slo=slo, share=0.9)
    assert line.removeprefix(SAID).partition(" 2P2D was not")[0].partition(" 1P3D was not")[0] == said


def test_a_run_names_its_slo_itself(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("slo:\n  ttft_ms: 500.0\n  tpot_ms: null\n  share: 0.5\n", encoding="utf-8")
    (line,) = suggestion_text(saturated(40.0, 10.0).assign(folder=str(tmp_path)), rates())
    assert line.startswith(f"{SAID}for TTFT ≤ 500 ms saturated instances predict 1P3D 9.16,")


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        (of(pd_1p3d=9.0, pd_2p2d=7.0), f"1P3D is confirmed: pd_1p3d meets the SLO at 1.29 [1.26, 1.32] {TIMES} "
         "pd_2p2d, the best other split."),
        (of(pd_1p3d=9.0, pd_2p2d=7.0, pd_3p1d=-0.5), "1P3D is confirmed: pd_1p3d meets the SLO at 1.29 "),
        (of(pd_1p3d=7.0, pd_2p2d=9.0, pd_3p1d=7.0), "1P3D is refuted: pd_1p3d meets the SLO at 0.778 "),
        (of(spread=0.2, pd_1p3d=7.0, pd_2p2d=9.0), f"{NEITHER} 0.778 [0.494, 1.22] {TIMES} "
         "pd_2p2d, and the interval holds both."),
        (of(spread=0.001, pd_1p3d=9.0, pd_2p2d=9.0), f"{NEITHER} 1 [0.989, 1.01] {TIMES} "
         "pd_2p2d, and that is no difference that matters."),
        (of(starts=1, pd_1p3d=9.0, pd_2p2d=7.0), f"{NEITHER} 1.29 [1.22, 1.35] {TIMES} "
         "pd_2p2d, in the one start of each arm, and other starts may differ."),
        (of(pd_1p3d=9.0), "No other split than 1P3D was measured, so that nothing confirms or refutes it."),
        (of(pd_2p2d=9.0, pd_3p1d=9.0), "1P3D was not measured, so that nothing confirms or refutes it."),
        ({}, "1P3D was not measured, so that nothing confirms or refutes it."),
        (of(pd_1p3d=-0.5, pd_2p2d=-0.5),
         "No measured split meets the SLO, not even at the lowest rate, so that nothing confirms or refutes 1P3D."),
        # Two arms of one split: it is as good as the better of them.
        (of(pd_1p3d=9.0, pd_1p3d_tcp=5.0, pd_2p2d=7.0), "1P3D is confirmed: pd_1p3d meets the SLO at 1.29 "),
    ],
)  # fmt: skip
def test_only_intervals_confirm_or_refute_it(arms: Arms, said: str) -> None:
    assert judgement(SPLITS, arms).startswith(said)


def test_nothing_is_judged_where_nothing_is_suggested() -> None:
    alone = suggest(Saturated(within(10.0, 0.1), within(2.5, 0.1), 256), 2, limits=NO_LIMITS)
    assert judgement(alone, of(pd_1p1d=9.0)) == "Two instances have no other split than 1P1D."
    none = replace(SPLITS, best=None)
    assert judgement(none, of(pd_1p3d=9.0, pd_2p2d=7.0)) == ""


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (8.0, 9.7, None),  # 9.9 to 10.1 by prefill, 9.3 to 10.7 by decode: 9.3 to 10.1
        (9.0, math.inf, None),
        (7.0, 9.0, "The prediction for pd_1p3d, 10 [9.44, 10.1], lies above its measured interval [7, 9]."),
        (12.0, 15.04, "The prediction for pd_1p3d, 10 [9.44, 10.1], lies below its measured interval [12, 15]."),
    ],
)
def test_a_prediction_outside_what_was_measured_is_named(low: float, high: float, said: str | None) -> None:
    measured = {"pd_1p3d": (low, high), "route_4": (1.0, 2.0), "pd_4p4d": (1.0, 2.0)}
    assert list(misses(SPLITS, measured)) == ([said] if said else [])


def test_the_text_as_a_whole() -> None:
    arms = rates(route_4=20.0, pd_1p3d=9.0, pd_2p2d=7.0)
    starts = {(1024, 256): of(pd_1p3d=9.0, pd_2p2d=7.0), (512, 256): of(pd_1p3d=1.0, pd_2p2d=7.0)}
    (line,) = suggestion_text(saturated(40.0, 12.0), arms, starts=starts)
    assert line == (
        f"{SAID}without a bound on TTFT or TPOT saturated instances predict 1P3D 10, 2P2D 8.57, 3P1D 4.29 requests/s; 1P3D is "
        "suggested. Prefill limits 1P3D, decode limits 2P2D and 3P1D. 1P3D is confirmed: pd_1p3d meets the SLO at 1.29 [1.26, "
        f"1.32] {TIMES} pd_2p2d, the best other split. The prediction for pd_1p3d, 10, lies above its measured "
        "interval [8.1, 9.9]. The prediction for pd_2p2d, 8.57, lies above its measured interval [6.3, 7.7]."
    )
    (alone,) = suggestion_text(saturated(40.0, 12.0), rates())
    assert alone.endswith("1P3D was not measured, so that nothing confirms or refutes it.")


def test_costs_at_the_rate_that_is_held() -> None:
    """8 GPUs, 10 requests/s of 256 tokens: a million tokens in 391 s, 0.868 GPU-hours."""
    frame = rates(route_4=10.0, pd_1p3d=0.0)
    assert cost_text(frame, None, "") == ["GPU-hours for a million output tokens at 1024/256: route_4 0.868."]
    assert cost_text(frame, 2.5, "EUR") == ["GPU-hours for a million output tokens at 1024/256: route_4 0.868 (2.17 EUR)."]
    assert cost_text(frame.assign(capacity_per_s=0.0), 2.5, "EUR") == []
    assert math.isclose(8 / 3600 * 1e6 / 2560, 0.868, rel_tol=1e-3)
