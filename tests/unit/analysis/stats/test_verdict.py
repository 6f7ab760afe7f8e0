"""Arms compared in pairs, and the answer that comes of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.load.frame import load_runs
from analysis.stats import repeats
from analysis.stats.paired import Ratio, by_pair, ratio_of, ratio_text, times_text
from analysis.stats.verdict import EQUAL, THROUGHPUT, TOGETHER, TPOT, TTFT, UNDECIDED, decide, verdict
from pdslurm.records.measurement import Measurement
from tests.unit.analysis.records_made import record, write

Values = dict[str, list[float]]


def used(tmp_path: Path, arms: Values, lengths: tuple[int, int] = (512, 256), more: tuple[Measurement, ...] = ()) -> pd.DataFrame:
    """Judged valid records: one a repeat for each arm's values, all metrics the same number."""
    records = [record(arm, lengths, n, value=value) for arm, values in arms.items() for n, value in enumerate(values)]
    judged = repeats.judge(load_runs([write(tmp_path, [*records, *more])]))
    return judged[judged["use"] == "used"]


def ratio(used: pd.DataFrame, metric: str, first: str, second: str) -> Ratio:
    values = by_pair(used, metric)
    return ratio_of(values.get(first, {}), values.get(second, {}))


# --- pairs


def test_pairs_take_out_what_their_prompts_have_in_common(tmp_path: Path) -> None:
    """Repeats that differ by a factor of 4, and arms that always differ by a tenth."""
    frame = used(tmp_path, {"pd": [110.0, 220.0, 440.0], "route": [100.0, 200.0, 400.0]})
    found = ratio(frame, "mean_ttft_ms", "pd", "route")
    assert (found.value, found.low, found.high) == pytest.approx((1.1, 1.1, 1.1))
    assert found.is_apart
    assert found.inverse().value == pytest.approx(1 / 1.1)


def test_only_records_of_one_seed_are_a_pair(tmp_path: Path) -> None:
    """The second arm's repeat 1 was measured again, with another seed: what its prompts do to a number is not the other's."""
    retried = record("route", (512, 256), 1, value=100.0)
    retried = replace(retried, point={**retried.point, "seed": 1 + retried.point["seed"]})
    more = (record("route", (512, 256), 0, value=100.0), retried)
    frame = used(tmp_path, {"pd": [110.0, 130.0]}, more=more)
    found = ratio(frame, "mean_ttft_ms", "pd", "route")
    assert found.value == pytest.approx(1.1)
    assert found.pairs == 1


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        # logs 0, ln 2, 2 ln 2: mean ln 2, half 4.303 · ln 2 / √3
        ([1.0, 2.0, 4.0], [1.0, 1.0, 1.0], (2.0, 2 * 2 ** (-4.302652730 / math.sqrt(3)), 2 * 2 ** (4.302652730 / math.sqrt(3)), 3)),
        ([3.0, 3.0], [2.0, 2.0], (1.5, math.nan, math.nan, 2)),
        ([3.0, 3.0, 3.0, 3.0], [2.0], (1.5, math.nan, math.nan, 1)),
        ([0.0, 1.0, 1.0], [1.0, 1.0, 1.0], (math.nan, math.nan, math.nan, 0)),
    ],
)
def test_ratio(tmp_path: Path, one: list[float], other: list[float], expected: tuple[float, ...]) -> None:
    found = ratio(used(tmp_path, {"a": one, "b": other}), "mean_itl_ms", "a", "b")
    assert (found.value, found.low, found.high, found.pairs) == pytest.approx(expected, nan_ok=True)


def test_repeats_with_other_seeds_are_no_pairs(tmp_path: Path) -> None:
    moved = tuple(
        replace(made, point={**made.point, "seed": 7}) for made in (record("b", (512, 256), n, value=5.0) for n in range(3))
    )
    frame = used(tmp_path, {"a": [1.0, 1.0, 1.0]}, more=moved)
    assert ratio(frame, "mean_itl_ms", "a", "b").pairs == 0


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Ratio(2.6, 2.125, 3.2, 3), "2.6 [2.12, 3.2]"),
        (Ratio(0.5, 0.4, 0.6, 3), "0.5 [0.4, 0.6]"),
        (Ratio(1234.5, 0.001, 99999.0, 3), "1234 [0.001, 99999]"),
        (Ratio(1.5, math.nan, math.nan, 2), "1.5"),
        (Ratio(math.nan, math.nan, math.nan, 0), "?"),
    ],
)
def test_a_ratio_has_no_sign(found: Ratio, text: str) -> None:
    assert ratio_text(found) == text
    assert times_text(found) == (text if text == "?" else f"×{text.partition(' ')[0]}")


# --- the answer


def test_do_not_disaggregate(tmp_path: Path) -> None:
    """By throughput; by latencies, of which less is better, the same numbers say the contrary."""
    arms = {"pd_1p": [100.0, 101.0, 99.0], "pd_2p": [60.0, 61.0, 59.0], "route_2": [120.0, 121.0, 119.0], "dp": [80.0, 80.0, 80.0]}
    frame = used(tmp_path, arms)
    by = {d.measure: d for d in decide(frame)}
    assert (by[THROUGHPUT].pd_arm, by[THROUGHPUT].plain_arm, by[THROUGHPUT].outcome) == ("pd_1p", "route_2", TOGETHER)
    sentences = verdict(frame)
    assert sentences[0].startswith(
        "Do not disaggregate, by output tokens/s per GPU: of 1 workload, at 1 route_2 is better: "
        "pd_1p has 0.833 [0.83, 0.837] times the output tokens/s per GPU of route_2; pd_1p moved KV over unknown"
    )
    for words, text in zip(("mean TTFT", "mean TPOT"), sentences[1:3], strict=True):
        assert text.startswith(f"Disaggregate, by {words}: of 1 workload, at 1 pd_2p is better: pd_2p's {words} is 0.75 [")
        assert "] times dp's; pd_2p moved" in text
    assert not any("ITL" in text for text in sentences)
    assert sentences[-2].endswith("of 3 comparisons 0.1 would look so by chance between equal arms.")


def test_what_overlaps_is_not_distinguishable_and_two_repeats_tell_nothing(tmp_path: Path) -> None:
    noisy = {"pd_1p": [100.0, 140.0, 80.0], "route_2": [110.0, 90.0, 130.0]}
    (first, *_) = decide(used(tmp_path / "noisy", noisy))
    assert first.outcome == EQUAL
    (first, *_) = decide(used(tmp_path / "few", {arm: values[:2] for arm, values in noisy.items()}))
    assert first.outcome == UNDECIDED
    few = verdict(used(tmp_path / "few again", {arm: v[:2] for arm, v in noisy.items()}))
    assert few == ["Whether to disaggregate cannot be told: that takes 3 valid repeats of a workload on both kinds of arms."]


def test_it_depends_on_the_workload(tmp_path: Path) -> None:
    long = tuple(
        record(arm, (4096, 256), n, value=value) for arm, value in (("pd_1p", 150.0), ("route_2", 100.0)) for n in range(3)
    )
    frame = used(tmp_path, {"pd_1p": [100.0, 100.0, 100.0], "route_2": [110.0, 110.0, 110.0]}, more=long)
    sentence = verdict(frame)[0]
    assert sentence == (
        "It depends on the workload, by output tokens/s per GPU: of 2 workloads, at 1 pd_1p is better: "
        "pd_1p has 1.5 [1.5, 1.5] times the output tokens/s per GPU of route_2; at 1 route_2 is better: "
        "pd_1p has 0.909 [0.909, 0.909] times the output tokens/s per GPU of route_2; pd_1p moved KV over unknown."
    )
    assert [d.outcome for d in decide(frame) if d.measure == THROUGHPUT] == [TOGETHER, "disaggregate"]


def test_throughput_is_compared_per_gpu(tmp_path: Path) -> None:
    """Twice the GPUs for the same number is half as good."""
    records = tuple(
        replace(made, arm_info={"disaggregated": True, "gpus": 4}) for made in (record("pd_1p", (512, 256), n) for n in range(3))
    )
    (first, *_) = decide(used(tmp_path, {"route_2": [100.0] * 3}, more=records))
    assert first.ratio.value == pytest.approx(0.5)
    assert first.outcome == TOGETHER


def at_a_rate(arm: str, value: float, rate: float | None = 2.0, **changes: Any) -> list[Measurement]:
    return [record(arm, repeat=n, value=value, rate=rate, **changes) for n in range(3)]


def test_throughput_at_a_rate_judges_nobody_and_latencies_do(tmp_path: Path) -> None:
    frame = used(tmp_path, {}, more=(*at_a_rate("pd_1p", 150.0), *at_a_rate("route_2", 100.0)))
    found = decide(frame)
    assert [(d.measure, d.outcome) for d in found] == [(TTFT, TOGETHER), (TPOT, TOGETHER)]
    assert [d.ratio.value for d in found] == pytest.approx([1.5, 1.5])
    assert repeats.OFFERED in verdict(frame)
    assert repeats.OFFERED not in verdict(used(tmp_path / "at once", {"pd_1p": [1.0] * 3, "route_2": [2.0] * 3}))


def test_the_verdict_says_what_carried_kv_and_what_is_unverified(tmp_path: Path) -> None:
    way = {"peer": "intra-node", "lanes": ["cuda_ipc/cuda"], "how": "zero-copy"}
    over = {"transport": {"kinds": ["shm"], "engines": {"engine1": [way]}}}
    frame = used(tmp_path, {}, more=(*at_a_rate("pd_1p", 150.0, None, telemetry=over), *at_a_rate("route_2", 100.0, None)))
    frame = frame.assign(unverified=frame["arm"].map({"pd_1p": ("text",), "route_2": ()}))
    sentences = verdict(frame)
    assert [text.endswith("; pd_1p moved KV over cuda_ipc (shm).") for text in sentences] == [True, True, True, False, False]
    assert sentences[-1] == "Of the measurements behind this 3 unverified: text (3)."


def test_without_both_kinds_of_arms_there_is_no_answer(tmp_path: Path) -> None:
    assert verdict(used(tmp_path, {"route_2": [1.0] * 3, "dp": [2.0] * 3})) == []
