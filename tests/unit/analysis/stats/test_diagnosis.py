"""Planted and published records in, what their arms are said to suffer from out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.load.frame import load_runs
from analysis.load.symptoms import gaps_from
from analysis.report.html_page import page_html
from analysis.report.summary import summary
from analysis.stats import repeats
from analysis.stats.diagnosis import Diagnosis, diagnoses, where
from pdslurm.measure.ttft import breakdown, spans, starved_decode
from pdslurm.records.measurement import METRICS, Measurement, metrics_of
from tests.unit.analysis.records_made import record, write
from tests.unit.analysis.report.test_tuning import TRIALS

PUBLISHED = Path(__file__).parents[4] / "results"
DURATION, REQUESTS, RATE = 100.0, 1000, 10.0
FIRST = {"requests": 1000.0, "queue_time_s": 5.0, "prefill_time_s": 60.0, "ttft_s": 90.0, "e2e_s": 90.0, "http_s": 93.0}
PLAIN = {**FIRST, "role": "both", "preemptions": 0.0, "decode_time_s": 1000.0, "e2e_s": 1090.0, "http_s": 1093.0, "block_size": 16}
PREFILL = {**FIRST, "role": "prefill", "preemptions": 0.0, "decode_time_s": 0.0, "block_size": 16}
DECODE = {
    "role": "decode", "requests": 1000.0, "preemptions": 0.0, "queue_time_s": 15.0, "prefill_time_s": 10.0, "ttft_s": 45.0,
    "decode_time_s": 1000.0, "e2e_s": 1045.0, "http_s": 1048.0, "nixl_transfers": 1000.0, "nixl_transfer_time_s": 10.0,
    "nixl_post_time_s": 3.0, "nixl_descriptors": 1000 * 1024.0, "block_size": 128,
}  # fmt: skip
POSTING = {"nixl_post_time_s": 26.0, "nixl_transfer_time_s": 40.0, "queue_time_s": 45.0, "ttft_s": 75.0, "block_size": 16}
POSTING |= {"nixl_descriptors": 1000 * 8192.0}
STOPS = int(REQUESTS * 1000.0 / DURATION)  # handoffs times answers in decoding


def bins(long_gaps: int = 0) -> dict[str, int]:
    """Gaps of 8 ms, and `long_gaps` of 34 ms."""
    return {"45": REQUESTS * 127 - long_gaps, "76": long_gaps}


def made(
    arm: str = "pd_1p1d",
    *,
    changes: dict[str, dict[str, Any]] | None = None,
    engines: dict[str, dict[str, Any]] | None = None,
    gaps: int = 0,
    ttft: float = 150.0,
    step: float = 8.0,
    rate: float | None = RATE,
    resolved: dict[str, str] | None = None,
    **fields: Any,
) -> Measurement:
    """A record of an arm that suffers from nothing, but for the `changes` of its engines, by role."""
    own = engines or ({"e0": PREFILL, "e1": DECODE} if arm.startswith("pd") else {"e0": PLAIN})
    own = {name: {**engine, **(changes or {}).get(engine["role"], {})} for name, engine in own.items()}
    starved, evidence = starved_decode(own, DURATION)
    telemetry = {
        "engines": own,
        "ttft": breakdown(own, ttft),
        "ttft_spans": spans(own),
        "starved_decode": {"starved": starved, **evidence},
        "resolved": dict.fromkeys(own, resolved or {}),
    }
    metrics = dict.fromkeys(METRICS, 100.0) | {"duration_s": DURATION, "mean_ttft_ms": ttft, "p50_itl_ms": step}
    given = {"metrics": metrics, "telemetry": telemetry, "distributions": {"itl_ms": bins(gaps)}}
    return record(arm, (2048, 128), rate=rate, **{"prompts": REQUESTS, **given, **fields})


def frame_of(folder: Path, *records: Measurement) -> pd.DataFrame:
    judged = repeats.judge(load_runs([write(folder, records)]))
    assert set(judged["use"]) == {"used"}, judged["invalid_reasons"]
    return judged


def found(folder: Path, *records: Measurement) -> list[Diagnosis]:
    return diagnoses(frame_of(folder, *records))


def test_nothing_is_said_where_nothing_is_wrong(tmp_path: Path) -> None:
    assert found(tmp_path, made("route_2"), made("pd_1p1d"), made("pd_burst", rate=None)) == []


def test_nothing_is_said_where_nothing_is_told(tmp_path: Path) -> None:
    assert found(tmp_path, record("route_2"), record("pd_1p1d"), made("pd_none", telemetry={"engines": {"e0": {}}})) == []


ILL: dict[str, tuple[Measurement, str, tuple[str, ...], str]] = {
    "posting": (
        made(changes={"decode": POSTING}, gaps=STOPS),
        "the posting of transfers",
        ("26 % of its time", "8,192 descriptors", "26 ms", "1.00 times", "1,024 descriptors"),
        "topology.extra_args=[--block-size,128]",
    ),
    "posting large blocks": (
        made(changes={"decode": {**POSTING, "block_size": 128}}, gaps=STOPS),
        "the posting of transfers",
        ("More decode instances",),
        "",
    ),
    "posting on two decode instances, each of which stops its own answers": (
        made(
            engines={"e0": {**PREFILL, "requests": 2000.0}, "e1": DECODE, "e2": DECODE},
            changes={"decode": POSTING},
            prompts=2000,
            gaps=2 * STOPS,
        ),
        "the posting of transfers",
        ("26 % of its time", "1.00 times"),
        "topology.extra_args=[--block-size,128]",
    ),
    "preemptions": (
        made("route_2", changes={"both": {"preemptions": 12.0}}, resolved={"kv_tokens": "217600", "memory_share": "0.85"}),
        "preemptions",
        ("its instances", "1.2 preemptions per 100 requests", "gpu_memory_utilization above 0.85"),
        "topology.extra_args=[--max-num-seqs,100]",
    ),
    "preemptions of an older record": (
        made(changes={"decode": {"preemptions": 30.0}}),
        "preemptions",
        ("its decode instances", "3 preemptions per 100 requests", "more KV memory may"),
        "topology.extra_args with a lower --max-num-seqs",
    ),
    "prefill": (
        made(changes={"prefill": {"queue_time_s": 400.0, "prefill_time_s": 150.0, "ttft_s": 580.0}}, ttft=640.0),
        "prefill at its limit",
        ("1.5 requests are in prefill", "4 more wait", "62 % of the TTFT", "One more prefill instance (2P1D)"),
        "topology.as_prefill.extra_args=[--max-num-batched-tokens,16384]",
    ),
    "prefill with a known budget and two decode instances": (
        made(
            engines={"e0": PREFILL, "e1": DECODE, "e2": DECODE},
            changes={
                "prefill": {"requests": 2000.0, "queue_time_s": 800.0, "prefill_time_s": 150.0, "ttft_s": 1000.0},
            },
            ttft=600.0,
            prompts=2000,
            resolved={"max_num_batched_tokens": "16384"},
        ),
        "prefill at its limit",
        ("The ratio 2P1D",),
        "topology.as_prefill.extra_args=[--max-num-batched-tokens,32768]",
    ),
    "starved decode": (
        made(changes={"prefill": {"queue_time_s": 1500.0, "ttft_s": 1600.0}}, ttft=1700.0, rate=None),
        "starved decode",
        ("15.4 requests wait for prefill", "10 are decoded", "without a request rate (1 of 1 measurement)"),
        "",
    ),
    "starved decode at a rate": (
        made(changes={"prefill": {"queue_time_s": 1500.0, "prefill_time_s": 150.0, "ttft_s": 1700.0}}, ttft=1800.0),
        "starved decode",
        ("15.5 requests wait for prefill", "at 10 requests/s (1 of 1 measurement)"),
        "",
    ),
    "decode": (
        made(changes={"decode": {"queue_time_s": 210.0, "ttft_s": 240.0}}, ttft=350.0),
        "decode at its limit",
        ("2 requests wait", "57 % of the TTFT", "One more decode instance (1P2D)"),
        "",
    ),
    "API server": (
        made("route_2", changes={"both": {"ttft_s": 300.0}}, ttft=330.0),
        "an API server at its limit",
        ("78 % of the TTFT that the engines see", "2.35 requests", "2 % in the queues"),
        "topology.extra_args=[--api-server-count,2]",
    ),
    "router": (
        made("route_2", ttft=293.0),
        "a router at its limit",
        ("68 % of the TTFT passes between", "2 requests"),
        "another topology.router.policy",
    ),
}


@pytest.mark.parametrize("name", ILL)
def test_each_ailment_is_named_with_its_numbers_and_cure(tmp_path: Path, name: str) -> None:
    planted, ailment, words, option = ILL[name]
    (only,) = found(tmp_path, planted)
    assert (only.arm, only.ailment, only.option) == (planted.arm, ailment, option)
    for part in (*words, option):
        assert part in only.sentence


QUEUE = {"queue_time_s": 400.0, "prefill_time_s": 150.0, "ttft_s": 580.0}
PLACING = {"queue_time_s": 130.0, "ttft_s": 160.0}
HEALTHY: dict[str, Measurement] = {
    "posts for 4.9 % of the time": made(
        changes={"decode": {**POSTING, "nixl_post_time_s": 4.9}}, step=4.0, distributions={"itl_ms": {"30": 117_000, "76": STOPS}}
    ),
    "posts as long as a decode step, with 100 answers in decoding": made(
        changes={"decode": {**POSTING, "nixl_post_time_s": 7.9, "decode_time_s": 1e4, "e2e_s": 10075.0, "http_s": 10078.0}}
    ),
    "has fewer than half the gaps": made(changes={"decode": POSTING}, gaps=STOPS // 2 - 1),
    "has gaps from other causes": made(changes={"decode": POSTING}, gaps=STOPS * 3 // 2 + 1),
    "has no histogram": made(changes={"decode": POSTING}, gaps=STOPS, distributions={}),
    "has 9 preemptions in 1,000 requests": made("route_2", changes={"both": {"preemptions": 9.0}}),
    "waits for a place in a burst": made(changes={"decode": {"queue_time_s": 210.0, "ttft_s": 240.0}}, ttft=350.0, rate=None),
    "prefills in a burst": made(changes={"prefill": QUEUE}, ttft=640.0, rate=None),
    "is calibrated": made(changes={"prefill": QUEUE, "decode": {"preemptions": 40.0}}, ttft=640.0, sweeps=("saturated",)),
    "has less than one request in the queue": made(
        changes={"prefill": {**QUEUE, "queue_time_s": 99.0, "ttft_s": 280.0}}, ttft=340.0
    ),
    "seldom waits for a place": made(changes={"decode": {"queue_time_s": 109.0, "ttft_s": 139.0}}, ttft=240.0),
    "has a queue as long as its API server": made(
        "route_2", changes={"both": {"queue_time_s": 130.0, "ttft_s": 400.0}}, ttft=430.0
    ),
    "has less than one request in its API server": made(
        "route_2", changes={"both": {"prefill_time_s": 5.0, "ttft_s": 109.0}}, ttft=130.0
    ),
    "queues for prefill for 22 % of its TTFT": made(
        changes={"prefill": {"queue_time_s": 250.0, "prefill_time_s": 800.0, "ttft_s": 1080.0}}, ttft=1140.0
    ),
    "has less than one request in prefill": made(
        changes={"prefill": {"queue_time_s": 400.0, "prefill_time_s": 99.0, "ttft_s": 529.0}}, ttft=590.0
    ),
    "has requests that wait for decode, too": made(changes={"prefill": QUEUE, "decode": PLACING}, ttft=760.0),
    "waits for a place for 24 % of its TTFT": made(
        changes={"prefill": {"prefill_time_s": 300.0, "ttft_s": 330.0}, "decode": PLACING}, ttft=505.0
    ),
    "decodes more than waits for prefill": made(
        changes={"prefill": {"queue_time_s": 800.0, "ttft_s": 950.0}}, rate=None, ttft=990.0
    ),
    "spends 49 % of its TTFT in the API server": made(
        "route_2", changes={"both": {"prefill_time_s": 200.0, "ttft_s": 400.0}}, ttft=410.0
    ),
    "passes 19 % of its TTFT outside": made("route_2", changes={"both": {"prefill_time_s": 400.0, "ttft_s": 430.0}}, ttft=534.0),
    "has less than one request in the router": made("route_2", ttft=192.0),
    "waits outside in a burst": made("route_2", ttft=900.0, rate=None),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_an_arm_that(tmp_path: Path, name: str) -> None:
    assert found(tmp_path, HEALTHY[name]) == []


def test_an_invalid_record_shows_nothing(tmp_path: Path) -> None:
    judged = frame_of(tmp_path, made(changes={"decode": POSTING}, gaps=STOPS))
    assert diagnoses(judged)
    assert diagnoses(judged.assign(use="invalid")) == []
    assert diagnoses(judged.assign(source="simulated")) == []


THROWN = made("route_2", changes={"both": {"preemptions": 80.0}})
CLIENT = {"completed": REQUESTS, "duration": DURATION, "mean_ttft_ms": 150.0, "decode_s": 1300.0, "decode_tokens": 127_000}
CLIENT |= {"total_output_tokens": 128_000}
LATE = made(
    "route_2",
    changes={"both": {"generation_tokens": 128_000.0}},
    metrics=metrics_of(CLIENT),
    provenance={"client": CLIENT},
    wall_s=DURATION + 1,
)
HELD_UP = "10.2 ms at the client and 7.87 ms in the engine cores, so that 23 % of its time passes in API servers"


@pytest.mark.parametrize(
    ("ill", "check", "ailment", "words"),
    [
        (THROWN, "preemptions", "preemptions", "8 preemptions per 100 requests"),
        (
            LATE,
            "delivery",
            "tokens that are held up behind the engine cores",
            f"{HELD_UP}, router or client",
        ),
        (
            replace(LATE, provenance={"client": {**CLIENT, "client_busy": 0.2}}),
            "delivery",
            "tokens that are held up behind the engine cores",
            f"{HELD_UP} or router",
        ),
    ],
)
def test_what_makes_a_measurement_invalid_is_named(tmp_path: Path, ill: Measurement, check: str, ailment: str, words: str) -> None:
    judged = repeats.judge(load_runs([write(tmp_path / "ill", [ill])]))
    assert [(use, symptoms.wrong) for use, symptoms in zip(judged["use"], judged["symptoms"], strict=True)] == [
        ("invalid", (check,))
    ]
    (only,) = diagnoses(judged)
    assert only.ailment == ailment
    assert words in only.evidence
    lost = replace(ill, completed=REQUESTS - 1, failed=1)
    assert diagnoses(repeats.judge(load_runs([write(tmp_path / "lost", [lost])]))) == []


def test_the_published_tokenizer_that_held_tokens_up() -> None:
    """On this visit a made tokenizer kept the API servers busy."""
    (only,) = diagnoses(repeats.judge(load_runs([PUBLISHED / "h200x4" / "tokenizer_trial"])))
    assert (only.arm, only.ailment) == ("route_4", "tokens that are held up behind the engine cores")
    assert only.where.startswith("without a request rate for 512/256, 512/512, 512/1024, ")
    assert "46 to 59 % of its time" in only.evidence


@pytest.mark.parametrize(
    ("ill", "words"),
    [
        (2, "at 5 requests/s for 1/32, 2/32 tokens (2 of 8 measurements)"),
        (8, "at 5 requests/s for 1/32, 2/32, 3/32, 4/32, 5/32, 6/32 tokens and 2 pairs more (8 of 8 measurements)"),
    ],
)
def test_the_lengths_at_which_an_arm_suffers_are_named_where_it_has_several(ill: int, words: str) -> None:
    rows = pd.DataFrame({"request_rate": 5.0, "input_len": range(1, 9), "output_len": 32})
    assert where(rows.head(ill), rows) == words


def test_gaps_are_counted_from_the_first_whole_bin() -> None:
    """Bin 70 begins at 25.12 ms."""
    assert gaps_from({"69": 4, "70": 2, "71": 1}, 25.1) == 3
    assert gaps_from({"69": 4, "70": 2, "71": 1}, 25.2) == 1


def test_the_published_posting_is_found() -> None:
    judged = repeats.judge(load_runs([PUBLISHED / "h100x2" / "should_i"]))
    only, prefill = diagnoses(judged)
    assert (only.arm, only.ailment) == ("pd_1p1d", "the posting of transfers")
    assert (prefill.arm, prefill.ailment) == ("pd_1p1d", "prefill at its limit")
    assert only.where == "at 9.54 to 18.6 requests/s (7 of 7 measurements)"
    assert "23 to 46 % of its time posting 8,192 descriptors" in only.evidence
    said = " ".join(summary(load_runs([PUBLISHED / "h100x2" / "should_i"])).split())
    assert only.sentence in said
    doubt = "This answer may turn: pd_1p1d suffers from the posting of transfers, which"
    assert f"{doubt} {only.option} may cure." in said
    assert said.index(doubt) < said.index(only.sentence)
    route = judged[(judged["arm"] == "route_2") & (judged["request_rate"] == 9.54)]
    assert len(route) == 1
    assert diagnoses(route) == []


def test_the_api_server_of_a_demo_on_two_cores(tmp_path: Path) -> None:
    """The engines' counters of a burst of 256 requests that experiment=demo sent to route_2 on two cores, 64 tokens in, 32 out."""
    counters = ("queue_time_s", "prefill_time_s", "decode_time_s", "ttft_s", "e2e_s", "http_s")
    counted = {"e0": (2.684, 9.820, 61.03, 83.23, 149.4, 161.2), "e1": (1.920, 7.491, 55.72, 23.24, 77.79, 80.92)}
    alike = {"role": "both", "requests": 128.0, "preemptions": 0.0}
    own = {name: {**alike, **dict(zip(counters, values, strict=True))} for name, values in counted.items()}
    burst = made("route_2", engines=own, ttft=1021.4, rate=None, prompts=256)
    burst = replace(burst, metrics={**burst.metrics, "duration_s": 2.007})
    (only,) = found(tmp_path, burst)
    assert only.ailment == "an API server at its limit"
    assert "79 % of the TTFT that the engines see passes in their API servers" in only.evidence


def test_the_report_has_the_section_only_where_something_is_wrong(tmp_path: Path) -> None:
    ill, well = frame_of(tmp_path / "ill", ILL["API server"][0]), frame_of(tmp_path / "well", made("route_2"))
    heading = "What each arm suffers from</h2>"
    assert heading in page_html(ill.drop(columns=["use", "series"]), tmp_path / "ill.html")
    assert heading not in page_html(well.drop(columns=["use", "series"]), tmp_path / "well.html")


@pytest.mark.parametrize(
    ("slower", "block_size", "trials", "doubted"),
    [("pd_1p1d", 16, [], True), ("route_2", 16, [], False), ("pd_1p1d", 16, TRIALS, False), ("pd_1p1d", 128, [], False)],
)
def test_an_answer_is_in_doubt_where_an_option_may_cure_the_arm_that_loses_and_none_was_tried(
    tmp_path: Path, slower: str, block_size: int, trials: list[Measurement], doubted: bool
) -> None:
    def measured(arm: str, start: int, **more: Any) -> Measurement:
        it = made(arm, rate=None, **more)
        tokens = (1000.0 if arm == slower else 2000.0) + start
        latency = (2.0 if arm == slower else 1.0) * 100.0 + start
        values = {"output_throughput_tok_s": tokens, "mean_tpot_ms": latency}
        return record(
            arm, (2048, 128), start, rate=None, prompts=REQUESTS, start=start, value=tokens,
            metrics=dict(it.metrics) | values | {"mean_ttft_ms": latency}, telemetry=it.telemetry, distributions=it.distributions,
        )  # fmt: skip

    every = [measured("pd_1p1d", i, changes={"decode": {**POSTING, "block_size": block_size}}, gaps=STOPS) for i in range(3)]
    every += [measured("route_2", i) for i in range(3)]
    frame = load_runs([write(tmp_path, [*trials, *every])])
    said = " ".join(summary(frame).split())
    assert "pd_1p1d suffers from the posting of transfers" in said
    assert ("This answer may turn: pd_1p1d suffers from the posting" in said) is doubted
