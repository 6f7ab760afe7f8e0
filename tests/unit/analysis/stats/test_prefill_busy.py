"""Planted and published records at several rates in, how much their prefill instances are said to work out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.load.frame import load_runs
from analysis.load.symptoms import Busy, Symptoms
from analysis.stats import repeats
from analysis.stats.diagnosis import diagnoses
from analysis.stats.prefill_busy import alone, with_busy
from pdslurm.records.measurement import Measurement
from tests.unit.analysis.stats.test_diagnosis import DURATION, PUBLISHED, frame_of, made

H100X2 = PUBLISHED / "h100x2"
LIMIT = "prefill at its limit"


def in_queue(share: float) -> float:
    """The mean number of requests in an M/D/1 queue whose server works for this share of the time."""
    return share + share**2 / (2 * (1 - share))


def at(share: float, prompt_ms: float = 50.0, **more: Any) -> Measurement:
    """1P1D whose prefill instance works for `share` of the time; all that is there is in prefill, and nothing in the queue."""
    prompts = round(share * DURATION * 1e3 / prompt_ms)
    prefill_s = in_queue(share) * DURATION
    prefill = {"requests": float(prompts), "queue_time_s": 0.0, "prefill_time_s": prefill_s, "ttft_s": prefill_s + 10.0}
    decode = {"requests": float(prompts), "nixl_transfers": float(prompts)}
    given = {"rate": prompts / DURATION, "prompts": prompts, "ttft": 1e3 * (prefill_s + 60.0) / prompts, **more}
    return made(changes={"prefill": prefill, "decode": decode}, **given)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75, 0.95])
def test_the_queue_tells_how_much_its_server_works(share: float) -> None:
    found = alone(Symptoms(1, 1, queueing=0.3 * in_queue(share), prefilling=0.7 * in_queue(share), prefilled_per_s=20 * share))
    assert found
    assert (found.share, found.waiting, found.prompt_ms) == pytest.approx((share, in_queue(share) - share, 50.0))
    assert found.limit_per_s == pytest.approx(20.0)


def test_an_instance_that_prefills_for_most_of_the_time_is_at_its_limit(tmp_path: Path) -> None:
    (only,) = diagnoses(frame_of(tmp_path, at(0.4), at(0.74), at(0.76)))
    assert (only.ailment, only.option) == (LIMIT, "")
    assert only.where == "at 15.2 requests/s (1 of 3 measurements)"
    for part in ("works for about 76 % of the time", "is full at 20 requests/s", "for 50 ms", "1.2 prompts wait"):
        assert part in only.evidence
    assert only.cure == "One more prefill instance (2P1D) may cure it"


HEALTHY: dict[str, list[Measurement]] = {
    "works for 74 % of the time": [at(0.4), at(0.74)],
    "was measured at one rate": [at(0.9)],
    "was measured at no rate that is much lower": [at(0.65), at(0.9)],
    "takes several prompts in one step": [at(0.4, 50.0), at(0.9, 40.0)],
    "takes longer for a prompt the more there are": [at(0.4, 40.0), at(0.9, 50.0)],
}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_an_arm_that(tmp_path: Path, name: str) -> None:
    assert diagnoses(frame_of(tmp_path, *HEALTHY[name])) == []


def told(rows: pd.DataFrame) -> list[Busy | None]:
    return [symptoms.busy for symptoms in with_busy(rows)["symptoms"]]


@pytest.mark.parametrize(
    ("change", "known"),
    [({}, True), ({"load": "random, burstiness 0.5"}, False), ({"max_concurrency": 64.0}, False)],
)
def test_arrivals_are_to_be_random(tmp_path: Path, change: dict[str, Any], known: bool) -> None:
    rows = frame_of(tmp_path, at(0.4), at(0.9)).sort_values("request_rate").assign(**change)
    low, high = told(rows)
    assert low is None
    assert (high is not None) is known


def test_another_load_bears_nothing_out(tmp_path: Path) -> None:
    rows = frame_of(tmp_path, at(0.4), at(0.9)).sort_values("request_rate")
    assert told(rows.assign(input_len=[1024, 2048])) == [None, None]


@pytest.mark.parametrize(("run", "points"), [("should_i", 7), ("block_size", 23)])
def test_published_prompts_took_as_long_at_every_rate(run: str, points: int) -> None:
    """Two saturated instances prefilled 512 prompts of the same length in 12.6 s, which is 49 ms for each."""
    judged = repeats.judge(load_runs([H100X2 / run]))
    separate = judged[(judged["use"] == "used") & judged["arm"].str.startswith("pd")]
    found = [alone(symptoms) for symptoms in separate["symptoms"]]
    assert len(found) == points
    assert all(each and 0.9 * 49 < each.prompt_ms < 1.1 * 49 for each in found)


@pytest.mark.parametrize(
    ("run", "arm", "starts", "share", "limit"),
    [
        ("should_i", "pd_1p1d", 1, "83", "20.9"),
        ("block_size", "pd_1p1d", 3, "91 to 93", "19.6 to 20"),
        ("block_size", "pd_1p1d_block_128", 3, "91 to 92", "19.9 to 20.2"),
    ],
)
def test_published_prefill_at_its_limit(run: str, arm: str, starts: int, share: str, limit: str) -> None:
    """At the next rate, 23.3 requests/s, the queue of each of these arms grew, while 19.1 to 19.7 requests/s were served."""
    judged = repeats.judge(load_runs([H100X2 / run]))
    (only,) = (each for each in diagnoses(judged) if each.arm == arm and each.ailment == LIMIT)
    assert only.where.startswith(f"at 18.6 requests/s ({starts} of ")
    assert f"about {share} % of the time and is full at {limit} requests/s" in only.evidence
    assert not [each for each in diagnoses(judged) if each.arm == "route_2"]
