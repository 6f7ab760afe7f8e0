"""What saturated instances predict, what measuring says to it, and what an arm costs at its capacity."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.load.frame import load_runs
from analysis.report.summary import summary
from analysis.stats.bounds import within
from analysis.stats.capacity import Capacity
from analysis.stats.inference import interval, spreads
from analysis.stats.saturation import Saturated, suggest
from analysis.stats.suggestion import arms_of, cost_text, judgement, misses, suggestion_text, suggestions
from analysis.stats.sweeps import ArmCapacity, Load, arm_capacities, as_frame, as_score, load_text
from pdslurm.records.run_folder import RunFolder
from pdslurm.records.split_ratio import Answers, Limits, served, suggested_prefill
from tests.served import Server
from tests.swept import PLAIN, Swept, sweeps, write_run
from tests.unit.analysis.records_made import record

NO_LIMITS = Limits()
SAID = "1024 tokens in, 256 out: "
GPUS = 8.0
LOAD: Load = (1024.0, 256.0, math.inf, "random")
ONE_RATE = 2.0  # the lowest rate that was measured, of all GPUs
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


def start_of(per_s: float) -> Capacity:
    """One start with a capacity known within 2 %; 0: it misses the SLO at the lowest rate; NaN: nothing is known of it."""
    if math.isnan(per_s):
        return Capacity(math.nan, 0.0, math.inf)
    return Capacity(per_s, 0.98 * per_s, 1.02 * per_s) if per_s else Capacity(math.nan, 0.0, ONE_RATE)


def arms(starts: Mapping[str, Sequence[float]], load: Load = LOAD) -> list[ArmCapacity]:
    """Arms by the requests/s of all their GPUs in each start, as arm_capacities has them."""
    scores = {name: [as_score(start_of(per_s), GPUS) for per_s in some] for name, some in starts.items()}
    spread = spreads(scores)
    found = []
    for name, some in starts.items():
        value, low, high = (math.inf if end == math.inf else GPUS * math.exp(end) for end in interval(name, spread, scores[name]))
        capacities = tuple(map(start_of, some))
        found.append(ArmCapacity(name, load, GPUS, name.startswith("pd"), value, low, high, capacities, 50.0, 200.0))
    return found


def rates(**capacities: float) -> pd.DataFrame:
    """A table of capacities; 0: the arm misses the SLO at the lowest rate."""
    return as_frame(arms({arm: [per_s] for arm, per_s in capacities.items()}))


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
    (line,) = suggestion_text(frame, [], slo={}, share=0.9)
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
    (line,) = suggestion_text(saturated(40.0, 12.0, tpot_ms=60.0, few=few), [], slo=slo, share=0.9)
    assert line.removeprefix(SAID).partition(" 2P2D was not")[0].partition(" 1P3D was not")[0] == said


AT_2P2D = "meets the SLO at 1.29 [1.27, 1.3] times the requests/s per GPU of pd_2p2d"
NEITHER = "1P3D is neither confirmed nor refuted"


@pytest.mark.parametrize(
    ("starts", "said"),
    [
        ({"pd_1p3d": [9.0, 9.05, 8.95], "pd_2p2d": [7.0, 7.04, 6.96]}, "1P3D is confirmed: pd_1p3d " + AT_2P2D + "."),
        ({"pd_1p3d": [7.0, 7.04, 6.96], "pd_2p2d": [9.0, 9.05, 8.95]},
         "1P3D is refuted: pd_1p3d meets the SLO at 0.778 [0.768, 0.788] times the requests/s per GPU of pd_2p2d."),
        ({"pd_1p3d": [9.0, 9.05, 8.95], "pd_2p2d": [9.1, 9.05, 9.15]},
         f"{NEITHER}: pd_1p3d and pd_2p2d are the same within 5 %, for pd_1p3d meets the SLO at 0.989 [0.977, 1] times the "
         "requests/s per GPU of pd_2p2d."),
        ({"pd_1p3d": [9.0, 10.0, 8.0], "pd_2p2d": [8.5, 9.5, 7.5]},
         f"{NEITHER}: pd_1p3d meets the SLO at 1.06 [0.816, 1.38] times the requests/s per GPU of pd_2p2d, an interval that "
         "contains 1."),
        # One start of each arm, in which they differ by much more than that start's own bounds, or by less.
        ({"pd_1p3d": [9.0], "pd_2p2d": [7.0]},
         f"{NEITHER} by one start of each arm: in that start pd_1p3d is better, for pd_1p3d meets the SLO at 1.29 [1.24, 1.34] "
         "times the requests/s per GPU of pd_2p2d; other starts may differ (workload.starts=3 starts each arm three times)."),
        ({"pd_1p3d": [7.0], "pd_2p2d": [9.0], "pd_3p1d": [0.0]},
         f"{NEITHER} by one start of each arm: in that start pd_2p2d is better, for pd_1p3d meets the SLO at 0.778 [0.747, 0.81] "
         "times the requests/s per GPU of pd_2p2d; other starts may differ (workload.starts=3 starts each arm three times)."),
        ({"pd_1p3d": [9.0], "pd_2p2d": [8.9]},
         f"{NEITHER} by one start of each arm: in that start the two cannot be told apart, for pd_1p3d meets the SLO at 1.01 "
         "[0.972, 1.05] times the requests/s per GPU of pd_2p2d; other starts may differ (workload.starts=3 starts each arm three "
         "times)."),
        # Arms without a capacity.
        ({"pd_1p3d": [9.0, 9.05, 8.95], "pd_2p2d": [0.0, 0.0, 0.0]},
         "1P3D is confirmed: pd_1p3d meets the SLO at 4.44 or more times the requests/s per GPU of pd_2p2d."),
        ({"pd_1p3d": [0.0, 0.0, 0.0], "pd_2p2d": [9.0, 9.05, 8.95]},
         "1P3D is refuted: pd_1p3d meets the SLO at 0.225 or less times the requests/s per GPU of pd_2p2d."),
        ({"pd_1p3d": [math.nan] * 3, "pd_2p2d": [9.0, 9.05, 8.95]},
         f"{NEITHER}: the measured rates bound the ratio of the capacities of pd_1p3d and pd_2p2d on neither side."),
        ({"pd_1p3d": [0.0, 0.0, 0.0], "pd_2p2d": [0.0, 0.0, 0.0]},
         "No measured split meets the SLO, not even at the lowest rate, so that nothing confirms or refutes 1P3D."),
        # Arms that nothing can be compared with.
        ({"pd_1p3d": [9.0] * 3}, "No other split than 1P3D was measured, so that nothing confirms or refutes it."),
        ({"pd_1p3d": [9.0] * 3, "pd_1p1d": [1.0] * 3, "pd_4p4d": [99.0] * 3, "route_4": [50.0] * 3},
         "No other split than 1P3D was measured, so that nothing confirms or refutes it."),
        ({"pd_2p2d": [9.0] * 3, "pd_3p1d": [9.0] * 3}, "1P3D was not measured, so that nothing confirms or refutes it."),
        ({}, "1P3D was not measured, so that nothing confirms or refutes it."),
        # Two arms of one ratio: it is as good as the better of them.
        ({"pd_1p3d": [5.0, 5.03, 4.97], "pd_1p3d_tcp": [9.0, 9.05, 8.95], "pd_2p2d": [7.0, 7.04, 6.96]},
         "1P3D is confirmed: pd_1p3d_tcp meets the SLO at 1.29 [1.27, 1.3] times the requests/s per GPU of pd_2p2d; the interval "
         "over starts is corrected for the choice of the best of 2 arms."),
    ],
)  # fmt: skip
def test_only_intervals_over_starts_confirm_or_refute_it(starts: dict[str, list[float]], said: str) -> None:
    assert judgement(SPLITS, arms_of(SPLITS, arms(starts))) == said


def test_a_choice_among_more_arms_needs_a_larger_difference() -> None:
    """Of several equal arms one looks good by luck."""
    mine, other = [9.0, 9.3, 8.7], [8.25, 8.5, 8.0]
    alone = arms_of(SPLITS, arms({"pd_1p3d": mine, "pd_2p2d": other, "pd_2p2d_b": other}))
    assert judgement(SPLITS, alone).startswith("1P3D is confirmed: ")
    one = float(judgement(SPLITS, alone).partition("[")[2].partition(",")[0])
    two = arms({"pd_1p3d": mine, "pd_1p3d_b": mine, "pd_2p2d": other, "pd_2p2d_b": other})
    assert judgement(SPLITS, two).endswith("is corrected for the choice of the best of 2 and of 2 arms.")
    assert float(judgement(SPLITS, two).partition("[")[2].partition(",")[0]) < one


@pytest.mark.parametrize(
    ("interest", "said"),
    [(0.02, "1P3D is confirmed: "), (0.1, f"{NEITHER}: pd_1p3d and pd_2p2d are the same within 10 %, for pd_1p3d meets ")],
)
def test_a_difference_that_matters_to_nobody_confirms_nothing(interest: float, said: str) -> None:
    found = arms({"pd_1p3d": [9.0, 9.02, 8.98], "pd_2p2d": [8.7, 8.72, 8.68]})
    assert judgement(SPLITS, found, interest=interest).startswith(said)


def test_nothing_is_judged_where_nothing_is_suggested() -> None:
    alone = suggest(Saturated(within(10.0, 0.1), within(2.5, 0.1), 256), 2, limits=NO_LIMITS)
    assert judgement(alone, arms({"pd_1p1d": [9.0] * 3})) == "Two instances have no other split than 1P1D."
    none = replace(SPLITS, best=None)
    assert judgement(none, arms({"pd_1p3d": [9.0] * 3, "pd_2p2d": [7.0] * 3})) == ""


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (8.0, 9.7, None),  # 9.9 to 10.1 by prefill, 9.3 to 10.7 by decode: 9.3 to 10.1
        (9.0, math.inf, None),
        (7.0, 9.0, "above its measured capacity, 8 [7, 9] requests/s in 1 start."),
        (12.0, 15.04, "below its measured capacity, 13.5 [12, 15] requests/s in 1 start."),
        (12.0, math.inf, "below its measured capacity, 12 or more requests/s in 1 start."),
        (0.0, 2.0, "above its measured capacity, 2 or less requests/s in 1 start."),
    ],
)
def test_a_prediction_outside_what_was_measured_is_named(low: float, high: float, said: str | None) -> None:
    made = arms({"pd_1p3d": [9.0], "route_4": [1.0], "pd_4p4d": [1.0]})
    changed = [replace(arm, value=(low + high) / 2, low=low, high=high) for arm in made]
    found = list(misses(SPLITS, arms_of(SPLITS, changed)))
    assert found == ([f"The prediction for pd_1p3d, 10 [9.44, 10.1], lies {said}"] if said else [])


def test_the_text_as_a_whole() -> None:
    measured = arms({"route_4": [20.0] * 3, "pd_1p3d": [10.0, 10.05, 9.95], "pd_2p2d": [7.0, 7.04, 6.96]})
    frame = saturated(40.0, 12.0)
    (line,) = suggestion_text(frame, measured, slo={}, share=0.9)
    said = (
        "without a bound on TTFT or TPOT saturated instances predict 1P3D 10, 2P2D 8.57, 3P1D 4.29 requests/s; 1P3D is suggested. "
        "Prefill limits 1P3D, decode limits 2P2D and 3P1D."
    )
    confirmed = "1P3D is confirmed: pd_1p3d meets the SLO at 1.43 [1.41, 1.45] times the requests/s per GPU of pd_2p2d."
    missed = "The prediction for pd_2p2d, 8.57, lies above its measured capacity, 7 [6.94, 7.06] requests/s in 3 starts."
    assert line == f"{SAID}{said} {confirmed} {missed}"
    (alone,) = suggestion_text(frame, arms({"pd_1p3d": [9.0]}, (512.0, 256.0, math.inf, "random")), slo={}, share=0.9)
    assert alone == f"{SAID}{said} 1P3D was not measured, so that nothing confirms or refutes it."


def test_each_load_is_judged_by_its_own_arms() -> None:
    """The same lengths with few requests in flight are another load: there 2P2D is better."""
    bound: Load = (1024.0, 256.0, 16.0, "random")
    good, poor = [9.0, 9.05, 8.95], [7.0, 7.04, 6.96]
    measured = [*arms({"pd_1p3d": good, "pd_2p2d": poor}), *arms({"pd_1p3d": poor, "pd_2p2d": good}, bound)]
    first, second = suggestion_text(saturated(40.0, 12.0), measured, slo={}, share=0.9)
    assert first.startswith(f"{SAID}without a bound")
    assert "1P3D is confirmed: " in first
    assert second.startswith("1024 tokens in, 256 out, at most 16 in flight: without a bound")
    assert "1P3D is refuted: " in second


@pytest.mark.parametrize(
    ("load", "text"),
    [
        (LOAD, "1024 tokens in, 256 out"),
        ((1024.0, 256.0, 16.0, "random, burstiness 0.5"), "1024 tokens in, 256 out, burstiness 0.5, at most 16 in flight"),
        ((0.0, 0.0, math.inf, "sharegpt"), "sharegpt"),
    ],
)
def test_a_load_in_words(load: Load, text: str) -> None:
    assert load_text(load) == text


# --- simulated servers: the P/D arms serve 1 / 0.07 = 14.3 and 1 / 0.1 = 10 requests/s of all four GPUs at most


ONE, TWO = (Swept(f"pd_{n}p{4 - n}d", Server(prefill_s, per_answer_s=5e-5), prefill=n) for n, prefill_s in ((1, 0.1), (2, 0.07)))
SLO = {"ttft_ms": 500.0, "tpot_ms": 25.0}


def lengths(frame: pd.DataFrame) -> pd.DataFrame:
    """The saturated points as points of the lengths that the simulated servers get."""
    return frame.assign(input_len=128, output_len=frame["output_len"].map({1: 1, 256: 128}))


@pytest.mark.parametrize(
    ("answers", "suggested", "said"),
    [
        (44.0, "2P2D", "2P2D is confirmed: pd_2p2d meets the SLO at 1."),
        (20.0, "1P3D", "1P3D is refuted: pd_1p3d meets the SLO at 0.6"),
    ],
)
def test_simulated_servers_confirm_and_refute(answers: float, suggested: str, said: str) -> None:
    measured = arm_capacities(sweeps((PLAIN, ONE, TWO), duration_s=120), SLO, 0.9)
    (line,) = suggestion_text(lengths(saturated(88.0, answers)), measured, slo=SLO, share=0.9)
    assert f"; {suggested} is suggested." in line
    assert said in line
    once = [replace(arm, starts=arm.starts[:1]) for arm in measured]
    (alone,) = suggestion_text(lengths(saturated(88.0, answers)), once, slo=SLO, share=0.9)
    assert f"{suggested} is neither confirmed nor refuted by one start of each arm: in that start pd_2p2d is better" in alone


def test_the_prediction_and_what_is_measured_have_one_unit() -> None:
    """Instances of 7 prompts/s and of so many answers that prefill limits 2P2D: 14 requests/s of all GPUs, as pd_2p2d serves. A
    prediction for each instance or a capacity for each GPU would miss by four times."""
    measured = arm_capacities(sweeps((PLAIN, TWO), duration_s=120), {"e2el_ms": 5000.0}, 0.9)
    (arm,) = (arm for arm in measured if arm.disaggregated)
    assert arm.gpus == 4
    assert 12 < arm.low < 14 < arm.high < 16
    (line,) = suggestion_text(lengths(saturated(28.0, 16.0)), measured, slo={}, share=0.9)
    assert "predict 1P3D 7, 2P2D 14, 3P1D 9.33 requests/s; 2P2D is suggested." in line
    assert "The prediction for" not in line
    (wrong,) = suggestion_text(lengths(saturated(28.0, 16.0)), [replace(arm, value=3.5, low=3.3, high=3.7)], slo={}, share=0.9)
    assert "The prediction for pd_2p2d, 14, lies above its measured capacity, 3.5 [3.3, 3.7] requests/s in 3 starts." in wrong


def test_the_summary_of_a_run_says_it(tmp_path: Path) -> None:
    """Three starts of simulated servers and the plain arm's saturated points, as a run has them; the SLO is the run's own."""
    folder = write_run(tmp_path, arms=(PLAIN, ONE, TWO), rates=(5.0, 8.0, 11.0, 14.0, 18.0))
    for n, (outputs, per_s) in enumerate(((1, 88.0), (128, 44.0))):
        made = record("route_4", (128, outputs), n, value=per_s, sweeps=("saturated",), prompts=1024)
        RunFolder(folder).save(replace(made, arm_info={"disaggregated": False, "gpus": 4, "instances": 4}))
    said = " ".join(summary(load_runs([folder])).split())
    assert "128 tokens in, 128 out: for TTFT ≤ 500 ms and TPOT ≤ 25 ms saturated instances predict 1P3D " in said
    assert "; 2P2D is suggested." in said
    assert "2P2D is confirmed: pd_2p2d meets the SLO at 1." in said


def test_costs_at_the_rate_that_is_held() -> None:
    """8 GPUs, 10 requests/s of 256 tokens: a million tokens in 391 s, 0.868 GPU-hours."""
    frame = rates(route_4=10.0, pd_1p3d=0.0)
    assert cost_text(frame, None, "") == ["GPU-hours for a million output tokens at 1024/256: route_4 0.868."]
    assert cost_text(frame, 2.5, "EUR") == ["GPU-hours for a million output tokens at 1024/256: route_4 0.868 (2.17 EUR)."]
    assert cost_text(rates(pd_1p3d=0.0), 2.5, "EUR") == [], "the lowest rate, which it misses, is no capacity"
    assert math.isclose(8 / 3600 * 1e6 / 2560, 0.868, rel_tol=1e-3)
