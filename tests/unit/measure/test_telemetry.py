"""Counters out of what vLLM 0.32 and vllm-router 0.1.17 really expose, their differences, and what is unknown stays None."""

from __future__ import annotations

from typing import Any

import pytest

from pdslurm.measure.telemetry import ENGINE_COUNTERS, counted, difference, has_fallen, parse, scrape, total
from pdslurm.plan.deployment import Process

ENGINE = """\
# HELP python_gc_objects_collected_total Objects collected during gc
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total{{generation="0"}} 12345.0
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="tiny"}} 2.0
# HELP vllm:nixl_xfer_time_seconds Histogram of transfer duration for NIXL KV Cache transfers.
# TYPE vllm:nixl_xfer_time_seconds histogram
vllm:nixl_xfer_time_seconds_bucket{{engine="0",le="0.005",model_name="tiny"}} {transfers}
vllm:nixl_xfer_time_seconds_bucket{{engine="0",le="+Inf",model_name="tiny"}} {transfers}
vllm:nixl_xfer_time_seconds_count{{engine="0",model_name="tiny"}} {transfers}
vllm:nixl_xfer_time_seconds_sum{{engine="0",model_name="tiny"}} 0.015601
# HELP vllm:nixl_xfer_time_seconds_created Histogram of transfer duration for NIXL KV Cache transfers.
# TYPE vllm:nixl_xfer_time_seconds_created gauge
vllm:nixl_xfer_time_seconds_created{{engine="0",model_name="tiny"}} 1.795240323815427e+09
# HELP vllm:nixl_bytes_transferred Histogram of bytes transferred per NIXL KV Cache transfers.
# TYPE vllm:nixl_bytes_transferred histogram
vllm:nixl_bytes_transferred_bucket{{engine="0",le="1.048576e+06",model_name="tiny"}} {transfers}
vllm:nixl_bytes_transferred_bucket{{engine="0",le="+Inf",model_name="tiny"}} {transfers}
vllm:nixl_bytes_transferred_count{{engine="0",model_name="tiny"}} {transfers}
vllm:nixl_bytes_transferred_sum{{engine="0",model_name="tiny"}} {bytes}
# HELP vllm:nixl_num_failed_transfers_total Number of failed transfers. NOTE: KV expiry is tracked in \\"x\\".
# TYPE vllm:nixl_num_failed_transfers_total counter
vllm:nixl_num_failed_transfers_total{{engine="0",model_name="tiny"}} 0.0
# HELP vllm:request_success_total Count of successfully processed requests.
# TYPE vllm:request_success_total counter
vllm:request_success_total{{engine="0",finished_reason="stop",model_name="tiny"}} 1.0
vllm:request_success_total{{engine="0",finished_reason="length",model_name="tiny"}} {done}
vllm:request_success_total{{engine="0",finished_reason="abort",model_name="tiny"}} 0.0
# HELP vllm:request_success_created Count of successfully processed requests.
# TYPE vllm:request_success_created gauge
vllm:request_success_created{{engine="0",finished_reason="length",model_name="tiny"}} 1.7952403238163228e+09
"""
# of an instance with data parallelism: one engine label a rank
RANK = """\
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{{engine="0",model_name="tiny"}} {0}
vllm:prompt_tokens_total{{engine="1",model_name="tiny"}} {1}
"""
ROUTER = """\
# TYPE vllm_router_pd_requests_total counter
vllm_router_pd_requests_total{{route="/v1/completions"}} 9

# TYPE vllm_router_processed_requests_total counter
vllm_router_processed_requests_total{{worker="http://127.0.0.1:8001"}} {0}
vllm_router_processed_requests_total{{worker="http://127.0.0.1:8000"}} {1}

# TYPE vllm_router_worker_health gauge
vllm_router_worker_health{{worker="http://127.0.0.1:8001"}} 1

# TYPE vllm_router_pd_decode_pending_seconds summary
vllm_router_pd_decode_pending_seconds{{quantile="0.5"}} 0.028675848767548185
vllm_router_pd_decode_pending_seconds_sum 0.401334693
vllm_router_pd_decode_pending_seconds_count 9

"""


def engine(transfers: float = 2.0, moved: float = 262144.0, done: float = 2.0) -> str:
    return ENGINE.format(transfers=transfers, bytes=moved, done=done)


def test_parse_keeps_what_counts() -> None:
    found = parse(engine())
    assert {name for name, _ in found} == {
        "python_gc_objects_collected_total",
        "vllm:nixl_xfer_time_seconds_count",
        "vllm:nixl_xfer_time_seconds_sum",
        "vllm:nixl_bytes_transferred_count",
        "vllm:nixl_bytes_transferred_sum",
        "vllm:nixl_num_failed_transfers_total",
        "vllm:request_success_total",
    }
    labels = (("engine", "0"), ("model_name", "tiny"))
    assert found["vllm:nixl_bytes_transferred_sum", labels] == 262144.0
    assert found["vllm:nixl_num_failed_transfers_total", labels] == 0.0


def test_parse_a_router() -> None:
    found = parse(ROUTER.format(12, 11))
    assert found["vllm_router_processed_requests_total", (("worker", "http://127.0.0.1:8000"),)] == 11
    assert found["vllm_router_pd_decode_pending_seconds_sum", ()] == pytest.approx(0.401, abs=1e-3)
    assert not any("health" in name for name, _ in found)


def test_parse_nothing() -> None:
    assert parse("") == {}


def test_difference_and_total() -> None:
    delta = difference(parse(engine(2, 262144, 2)), parse(engine(6, 1835008, 6)))
    assert total(delta, ["vllm:nixl_bytes_transferred_sum"]) == 1572864
    assert total(delta, ["vllm:request_success_total"]) == 4, "summed over the reasons; those that did not move add nothing"
    assert total(delta, ["vllm:nixl_num_failed_transfers_total"]) == 0, "known to be none"
    assert total(delta, ["vllm:gone_total"]) is None, "unknown is not none"
    assert total(delta, ["vllm:gone_total", "vllm:request_success_total"]) == 4, "an older name"
    assert total(delta, []) is None


def test_a_counter_that_was_not_there_before_began_at_zero() -> None:
    assert total(difference({}, parse(ROUTER.format(3, 4))), ["vllm_router_processed_requests_total"]) == 7


@pytest.mark.parametrize(
    ("name", "before", "after", "fell"),
    [
        ("vllm:prompt_tokens_total", 5.0, 5.0, False),
        ("vllm:prompt_tokens_total", 5.0, 0.0, True),
        ("vllm:e2e_request_latency_seconds_sum", 5.0, 4.9, True),
        ("vllm_router_request_duration_seconds", 5.0, 4.9, False),
        ("vllm:prompt_tokens_total", 5.0, None, False),
    ],
    ids=["nothing happened", "a counter", "a sum", "a summary's quantile", "one that is not told any more"],
)
def test_a_counter_that_fell_says_that_its_process_was_started_anew(
    name: str, before: float, after: float | None, fell: bool
) -> None:
    key = (name, (("engine", "0"),))
    assert has_fallen({key: before}, {} if after is None else {key: after}) is fell
    told = counted({"e": {key: before}}, {"e": {} if after is None else {key: after}}, {"e": "both"}, [])
    assert told["restarted"] == (["e"] if fell else [])


def test_ranks_of_one_instance_are_summed() -> None:
    delta = difference(parse(RANK.format(10, 20)), parse(RANK.format(110, 220)))
    assert total(delta, ["vllm:prompt_tokens_total"]) == 300


# --- the counted


def found(**more: Any) -> dict[str, Any]:
    """Two engines and a router before and after four requests."""
    before = {"engine0": parse(engine(0, 0, 1)), "engine1": parse(engine(2, 262144, 2)), "router": parse(ROUTER.format(5, 5))}
    after = {"engine0": parse(engine(0, 0, 5)), "engine1": parse(engine(6, 1835008, 6)), "router": parse(ROUTER.format(9, 10))}
    roles = {"engine0": "prefill", "engine1": "decode"}
    return counted({**before, **more.get("before", {})}, {**after, **more.get("after", {})}, roles, ["router"])


def test_report() -> None:
    told = found()
    assert told["engines"]["engine0"]["role"] == "prefill"
    assert told["engines"]["engine0"]["nixl_bytes"] == 0
    assert told["engines"]["engine1"]["role"] == "decode"
    assert told["engines"]["engine1"]["nixl_bytes"] == 1572864
    assert {k: v for k, v in told["totals"].items() if v is not None} == {
        "nixl_bytes": 1572864, "nixl_transfers": 4, "nixl_transfer_time_s": 0, "nixl_failed_transfers": 0, "requests": 8,
    }  # fmt: skip
    assert set(told["totals"]) == set(ENGINE_COUNTERS)
    assert told["router_requests"] == {"http://127.0.0.1:8001": 4, "http://127.0.0.1:8000": 5}


@pytest.mark.parametrize(("when", "what"), [("before", None), ("after", None)])
def test_an_engine_that_did_not_answer_makes_the_totals_unknown(when: str, what: None) -> None:
    told = found(**{when: {"engine1": what}})
    assert set(told["totals"].values()) == {None}
    assert set(told["engines"]["engine1"].values()) == {"decode", None}
    assert told["engines"]["engine0"]["requests"] == 4, "what is known of the other one stays"


def test_a_counter_that_one_engine_lacks_makes_its_total_unknown() -> None:
    told = found(after={"engine0": parse(RANK.format(1, 2))})
    assert told["engines"]["engine0"]["nixl_bytes"] is None
    assert told["engines"]["engine1"]["nixl_bytes"] == 1572864
    assert told["totals"]["nixl_bytes"] is None


def test_an_engine_tells_of_its_cache() -> None:
    info = '# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{block_size="128",cache_dtype="auto",engine="0"} 1.0\n'
    told = found(after={"engine1": parse(engine(6, 1835008, 6) + info)})
    assert (told["engines"]["engine1"]["block_size"], told["engines"]["engine1"]["cache_dtype"]) == (128, "auto")
    assert told["engines"]["engine0"]["block_size"] is None
    unsaid = found(after={"engine1": parse(info.replace("128", "None"))})["engines"]["engine1"]
    assert unsaid["block_size"] is None


@pytest.mark.parametrize("changes", [{"before": {"router": None}}, {"after": {"router": None}}, {"after": {"router": {}}}])
def test_router_requests_unknown(changes: dict[str, Any]) -> None:
    assert found(**changes)["router_requests"] is None


def test_without_engines_nothing_is_known() -> None:
    told = counted({}, {}, {}, [])
    assert set(told["totals"].values()) == {None}
    assert told["router_requests"] is None


def test_scrape_asks_only_what_has_metrics_and_does_not_fail() -> None:
    def process(name: str, url: str | None) -> Process:
        return Process(name, "engine", "both", None, 0, "127.0.0.1", (), None, (), {}, metrics_url=url)

    found = scrape([process("dead", "http://127.0.0.1:9/metrics"), process("headless", None)], timeout_s=1.0)
    assert found == {"dead": None}
