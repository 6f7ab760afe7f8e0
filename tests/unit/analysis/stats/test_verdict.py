"""Arms compared over their starts, and the answer that comes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.load.frame import load_runs
from analysis.stats import repeats
from analysis.stats.verdict import DISAGGREGATE, ONE_START, SAME, THROUGHPUT, TOGETHER, TPOT, TTFT, UNDECIDED, decide, verdict
from pdslurm.records.measurement import Measurement
from tests.unit.analysis.records_made import record, write

Values = dict[str, list[float]]


def used(tmp_path: Path, arms: Values, lengths: tuple[int, int] = (512, 256), more: tuple[Measurement, ...] = ()) -> pd.DataFrame:
    """Judged valid records: one a start for each arm's values, all metrics the same number."""
    records = [record(arm, lengths, n, value=value, start=n) for arm, values in arms.items() for n, value in enumerate(values)]
    judged = repeats.judge(load_runs([write(tmp_path, [*records, *more])]))
    return judged[judged["use"] == "used"]


def test_do_not_disaggregate(tmp_path: Path) -> None:
    """By throughput; by latencies, of which less is better, the same numbers say the contrary."""
    arms = {"pd_1p": [100.0, 101.0, 99.0], "pd_2p": [60.0, 61.0, 59.0], "route_2": [120.0, 121.0, 119.0], "dp": [80.0, 80.0, 80.0]}
    frame = used(tmp_path, arms)
    by = {d.measure: d for d in decide(frame)}
    assert (by[THROUGHPUT].pd_arm, by[THROUGHPUT].plain_arm, by[THROUGHPUT].outcome) == ("pd_1p", "route_2", TOGETHER)
    sentences = verdict(frame)
    assert sentences[0].startswith(
        "Do not disaggregate, by output tokens/s per GPU: of 1 workload, at 1 route_2 is better: "
        "pd_1p has 0.833 [0.814, 0.853] times the output tokens/s per GPU of route_2; pd_1p moved KV over unknown"
    )
    for words, text in zip(("mean TTFT", "mean TPOT"), sentences[1:3], strict=True):
        assert text.startswith(f"Disaggregate, by {words}: of 1 workload, at 1 pd_2p is better: pd_2p's {words} is 0.75 [")
        assert "] times dp's; pd_2p moved" in text
    assert not any("ITL" in text for text in sentences)
    assert sentences[-2].endswith("of 3 comparisons 0.1 would look so by chance between equal arms.")


def test_what_overlaps_cannot_be_told_apart_and_one_start_tells_nothing_of_others(tmp_path: Path) -> None:
    noisy = {"pd_1p": [100.0, 140.0, 80.0], "route_2": [110.0, 90.0, 130.0]}
    (first, *_) = decide(used(tmp_path / "noisy", noisy))
    assert first.outcome == UNDECIDED
    assert verdict(used(tmp_path / "again", noisy))[0].startswith(
        "Whether to disaggregate cannot be told, by output tokens/s per GPU: of 1 workload, at 1 the two cannot be told apart: "
    )
    one = used(tmp_path / "one", {"pd_1p": [100.0], "route_2": [200.0]})
    (first, *_) = decide(one)
    assert (first.outcome, first.leaning) == (ONE_START, None), "one repeat has no spread"
    repeated = tuple(record(arm, repeat=n, value=v + n) for arm, v in (("pd_1p", 100.0), ("route_2", 200.0)) for n in range(3))
    (first, *_) = decide(used(tmp_path / "repeated", {}, more=repeated))
    assert (first.outcome, first.leaning) == (ONE_START, TOGETHER)
    assert verdict(used(tmp_path / "said", {}, more=repeated))[0].startswith(
        "Whether to disaggregate cannot be told from one start of each arm, by output tokens/s per GPU: of 1 workload, in the one "
        "start of each arm route_2 is better at 1: pd_1p has 0.502 [0.484, 0.521] times the output tokens/s per GPU of route_2; "
        "what other starts would show is not known"
    )


def test_the_same_within_5_percent_is_an_answer(tmp_path: Path) -> None:
    (first, *_) = decide(used(tmp_path, {"pd_1p": [100.0, 100.5, 99.5], "route_2": [101.0, 101.5, 100.5]}))
    assert first.outcome == SAME
    assert verdict(used(tmp_path / "said", {"pd_1p": [100.0] * 3, "route_2": [100.0] * 3}))[0].startswith("It makes no difference")


def test_it_depends_on_the_workload(tmp_path: Path) -> None:
    long = tuple(
        record(arm, (4096, 256), n, value=value, start=n) for arm, value in (("pd_1p", 150.0), ("route_2", 100.0)) for n in range(3)
    )
    frame = used(tmp_path, {"pd_1p": [100.0, 100.0, 100.0], "route_2": [110.0, 110.0, 110.0]}, more=long)
    sentence = verdict(frame)[0]
    assert sentence == (
        "It depends on the workload, by output tokens/s per GPU: of 2 workloads, at 1 pd_1p is better: "
        "pd_1p has 1.5 [1.48, 1.52] times the output tokens/s per GPU of route_2; at 1 route_2 is better: "
        "pd_1p has 0.909 [0.899, 0.919] times the output tokens/s per GPU of route_2; pd_1p moved KV over unknown."
    )
    assert [d.outcome for d in decide(frame) if d.measure == THROUGHPUT] == [TOGETHER, DISAGGREGATE]


def test_throughput_is_compared_per_gpu(tmp_path: Path) -> None:
    """Twice the GPUs for the same number is half as good."""
    records = tuple(
        replace(made, arm_info={"disaggregated": True, "gpus": 4})
        for made in (record("pd_1p", (512, 256), n, start=n) for n in range(3))
    )
    (first, *_) = decide(used(tmp_path, {"route_2": [100.0] * 3}, more=records))
    assert first.ratio.value == pytest.approx(0.5)
    assert first.outcome == TOGETHER


def at_a_rate(arm: str, value: float, rate: float | None = 2.0, **changes: Any) -> list[Measurement]:
    return [record(arm, repeat=n, start=n, value=value, rate=rate, **changes) for n in range(3)]


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
