"""What makes a finished point invalid: one good point, and what is planted in it. The ids name the faults."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

import pytest

from pdslurm.measure.telemetry import ENGINE_COUNTERS
from pdslurm.records.good_requests import Requests
from pdslurm.records.measurement import REQUEST_COLUMNS, Check, metrics_of
from pdslurm.validity.checks import checks, reasons, unverified
from pdslurm.validity.conservation import statistics_of
from pdslurm.validity.demand import Demand
from pdslurm.validity.evidence import Evidence
from pdslurm.validity.load import steady_state

# 100 prompts of 512 tokens and 32 output tokens through 1 prefill and 2 decode instances, 4 requests a second for 25 s; the decode
# instances have two ranks with blocks of 16 tokens, in which a token takes 1,000 bytes.
DEMAND = Demand(
    num_prompts=100, input_len=512, output_len=32, request_rate=4.0, disaggregated=True, nixl=True, transport="rdma",
    kv_bytes_per_token=1000.0, kv_ranks=2, gpus=True, gpu_count=3.0,
    policies={"prefill": "round_robin", "decode": "round_robin", "both": "round_robin"},
)  # fmt: skip
SPANS = tuple((i / 4, i / 4 + 0.41) for i in range(100))
GPU = {"gpu": 0, "sm_mhz": 1980, "max_sm_mhz": 1980, "temperature_c": 60, "persistence": True, "clocks_held_by": ["idle"],
       "clocks_held_before": ["idle"], "slowed_s": {"SW thermal": 0.0, "HW thermal": 0.0, "HW power brake": 0.0}}  # fmt: skip
SAME = {"7": -0.1, "9": -3.0}
TEXT = {"dtype": "float32", "plain": "engine1", "problem": None, "plain_hits": 0, "transfers": 1, "rows": [
    {"prompt": "long", "tokens": 300, "position": 0, "forced": "7", "plain": SAME, "arm": SAME, "again": {"together": SAME},
     "changed": {"7": -2.0, "9": -0.2}}]}  # fmt: skip
# What else a planted fault may break: sums that agreed before.
LAWS = {"output_tokens", "requests_counted", "tokens_counted", "request_lines", "token_times", "duration", "summary", "counters"}


def lines(spans: Sequence[Sequence[float]], output_len: int = 32) -> dict[str, list[float]]:
    """Request lines with these begins and ends in s, each with its first token after 100 ms."""
    rows = [
        (begin - spans[0][0], 512.0, float(output_len), 100.0, (1000 * (end - begin) - 100) / (output_len - 1),
         (1000 * (end - begin) - 100) / (output_len - 1) + 0.001, 1000 * (end - begin), 1.0)
        for begin, end in spans
    ]  # fmt: skip
    return {name: list(column) for name, column in zip(REQUEST_COLUMNS, zip(*rows, strict=True), strict=True)}


def client_of(requests: Requests) -> dict[str, Any]:
    """The client's result on these requests, all of which were answered."""
    n, tokens = len(requests["ok"]), sum(requests["output_len"])
    duration = 0.84 + max(start + e2el / 1000 for start, e2el in zip(requests["start_s"], requests["e2el_ms"], strict=True))
    decode_s = sum(b - a for a, b in zip(requests["ttft_ms"], requests["e2el_ms"], strict=True)) / 1000
    told = {what: statistics_of(requests[f"{what}_ms"]) for what in ("ttft", "tpot", "e2el")}
    gaps = tokens - n
    return {
        "completed": n, "failed": 0, "asked": n, "total_input_tokens": 512 * n, "total_output_tokens": int(tokens),
        "ordered_output_tokens": int(tokens), "first_error": None, "duration": duration, "request_throughput": n / duration,
        "output_throughput": tokens / duration, "total_token_throughput": (512 * n + tokens) / duration,
        **{f"{name}_{what}_ms": value for what, values in told.items() for name, value in values.items()},
        "mean_itl_ms": 1000 * decode_s / gaps if gaps else 0.0, "decode_s": decode_s, "decode_tokens": gaps,
        "client_busy": 0.1, "loop_lag_ms": 0.2, "loop_lag_max_ms": 3.0, "loop_looks": 520, "sending_s": 25.001,
        "prompt_blocks": {"16": 32 * n, "32": 16 * n},
    }  # fmt: skip


def engine(role: str, requests: int, **counted: Any) -> dict[str, Any]:
    zero = dict.fromkeys(ENGINE_COUNTERS, 0.0)
    return {**zero, "role": role, "requests": requests, "block_size": 16, "cache_dtype": "auto", **counted}


def decode(requests: int) -> dict[str, Any]:
    tokens = {"prompt_tokens": 512.0 * requests, "generation_tokens": 32.0 * requests, "prefix_cache_queries": 512.0 * requests}
    return engine(
        "decode", requests, decode_time_s=0.31 * requests, nixl_transfers=2.0 * requests, nixl_bytes=512e3 * requests, **tokens
    )


def good() -> dict[str, Any]:
    """The telemetry of that point."""
    prefill = engine("prefill", 100, prefix_cache_queries=51_200.0, prompt_tokens=51_200.0, generation_tokens=100.0)
    return {
        "engines": {"engine0": prefill, "engine1": decode(50), "engine2": decode(50)},
        "router_requests": None,
        "transport": {"kinds": ["rdma"], "engines": {}},
        "gpus": {"node0": [copy.deepcopy(GPU)]},
        "text": TEXT,
        "ttft": {"prefill_ms": 60.0, "transfer_ms": 30.0, "sum_ms": 90.0},
    }


def evidence(
    client: dict[str, Any] | None = None,
    engines: dict[str, dict[str, Any]] | None = None,
    demand: dict[str, Any] | None = None,
    spans: Sequence[Sequence[float]] | None = SPANS,
    **telemetry: Any,
) -> Evidence:
    """The good point with changes. `engines` changes counters by engine, "*" those of all; `spans` makes other requests, of which
    the client tells the truth; None leaves their file out."""
    told = good() | telemetry
    for name, changes in (engines or {}).items():
        for each in told["engines"] if name == "*" else [name]:
            n = changes.get("requests") or 0.0
            served = {"prompt_tokens": 512.0 * n, "generation_tokens": 32.0 * n} if n and each != "engine0" else {}
            told["engines"][each] |= served | changes
    sums = {name: None if None in (each := [e[name] for e in told["engines"].values()]) else sum(each) for name in ENGINE_COUNTERS}
    requests = lines(spans or SPANS)
    for name in {"engine1", "engine2"} & set(told["engines"]):
        if "decode_time_s" not in {**(engines or {}).get("*", {}), **(engines or {}).get(name, {})}:
            told["engines"][name]["decode_time_s"] = client_of(requests)["decode_s"] / 2
    result = {**client_of(requests), **(client or {})}
    return Evidence(
        Demand(**{**vars(DEMAND), **(demand or {})}), result, metrics_of(result), {**told, "totals": sums},
        None if spans is None else requests, {"50": int(result["decode_tokens"] or 0)}, result["completed"], 60.0,
    )  # fmt: skip


def found(**changes: Any) -> dict[str, Check]:
    """The checks of `evidence`, by name."""
    return {check.name: check for check in checks(evidence(**changes))}


def test_a_good_point_passes_every_check_with_evidence() -> None:
    told = found()
    assert {name: check.said for name, check in told.items() if check.ok is not True} == {}
    assert all(check.said for check in told.values())
    assert unverified(told.values()) == ()


TCP = {"kinds": ["tcp"], "engines": {"engine1": [{"peer": "inter-node", "lanes": ["tcp/eth0"], "how": "zero-copy"}]}}
PILED_UP = [[i / 4, i / 4 + 0.4 + max(0, i - 20) * 0.2] for i in range(100)]  # from the 20th on 20 % less is served than arrives
HOT = {"node0": [GPU, {**GPU, "gpu": 1, "slowed_s": {"SW thermal": 0.0, "HW thermal": 5.2, "HW power brake": 0.0}}]}
HOT_NOW = {"node0": [{**GPU, "slowed_s": None, "clocks_held_by": ["HW slowdown", "SW thermal"], "sm_mhz": 1200}]}
AGAIN = "some prompts were computed again by the decode instance"
FAULTS = [  # planted, the check that has to catch it, what it says
    pytest.param({"client": {"completed": 99, "ordered_output_tokens": 3_168, "total_output_tokens": 3_168}},
                 "completed", "99 of 100 requests completed", id="a request failed"),
    pytest.param({"client": {"completed": 99, "total_output_tokens": 3_168, "ordered_output_tokens": 3_168,
                             "first_error": "Traceback …\n  File …\nTimeoutError: 30 s\n"}},
                 "completed", "99 of 100 requests completed; the first error: TimeoutError: 30 s", id="with its last line"),
    pytest.param({"client": {"completed": 101}, "engines": {"engine1": {"nixl_transfers": 102.0}}}, "completed",
                 "101 of 100 requests completed", id="more than were sent"),
    pytest.param({"client": {"total_output_tokens": 3_167}}, "output_tokens", "3167 output tokens instead of 3200",
                 id="answers too short"),
    pytest.param({"client": {"total_output_tokens": 3_233}}, "output_tokens", "3233 output tokens instead of 3200",
                 id="answers too long"),
    pytest.param({"client": {"total_output_tokens": None}}, "output_tokens", "0 output tokens instead of 3200",
                 id="no token count"),
    pytest.param({"engines": {"engine1": {"nixl_transfers": 98.0}}}, "nixl",
                 f"198 NIXL transfers for 100 requests on 2 ranks: {AGAIN}",
                 id="a missing transfer"),
    pytest.param({"engines": {"*": {"nixl_transfers": None}}}, "nixl",
                 "NIXL transfers unknown: an engine's /metrics has no vllm:nixl_bytes_transferred", id="transfers unknown"),
    pytest.param({"engines": {"engine2": {"nixl_failed_transfers": 1.0, "nixl_expired_requests": 2.0}}}, "nixl",
                 "nixl_failed_transfers = 1; nixl_expired_requests = 2", id="failed and expired transfers"),
    pytest.param({"engines": {"engine2": {"nixl_failed_notifications": 1.0}}}, "nixl", "nixl_failed_notifications = 1",
                 id="a failed notification"),
    pytest.param({"engines": {"engine0": {"nixl_late_notifications": 1.0}}}, "nixl", "nixl_late_notifications = 1",
                 id="KV read after it had expired"),
    pytest.param({"engines": {"engine1": {"nixl_bytes": 12.8e6}}}, "kv_bytes",
                 "38,400,000 bytes of KV moved instead of 51,200,000", id="half the bytes of an instance"),
    pytest.param({"engines": {"*": {"block_size": 32}}, "client": {"prompt_blocks": {"32": 1_700}}}, "kv_bytes",
                 "51,200,000 bytes of KV moved instead of 54,400,000", id="a block too few now and then"),
    pytest.param({"demand": {"kv_bytes_per_token": 500.0}}, "kv_bytes", "51,200,000 bytes of KV moved instead of 25,600,000",
                 id="bytes of another dtype"),
    pytest.param({"transport": TCP}, "transport",
                 "cluster.network.transport=rdma: engine1 fetched KV over tcp/eth0", id="TCP instead of RDMA"),
    pytest.param({"engines": {"engine0": {"prefix_cache_hits": 5_120.0}}}, "prefix_cache",
                 "prefix cache: 5120 of 102400 tokens hit; the point measures the cache", id="the prefix cache is measured"),
    pytest.param({"demand": {"prefix_hit_rate": 0.5}, "engines": {"engine0": {"prefix_cache_hits": 30_720.0}}}, "prefix_cache",
                 "prefix cache: 30720 of 51200 tokens hit; its prompts share 50% at most, the rest is of earlier points",
                 id="more hits than prompts share"),
    pytest.param({"engines": {"engine1": {"requests": 70}, "engine2": {"requests": 30}}}, "workers",
                 "decode instance engine1 had 70 requests; round_robin should give it 50 ± 5; "
                 "decode instance engine2 had 30 requests; round_robin should give it 50 ± 5", id="a lopsided router"),
    pytest.param({"demand": {"policies": {"decode": "consistent_hash"}}, "engines": {"engine1": {"requests": 80},
                 "engine2": {"requests": 20}}},
                 "workers", "decode instance engine1 had 80 requests; consistent_hash should give it 50 ± 25; "
                 "decode instance engine2 had 20 requests; consistent_hash should give it 50 ± 25",
                 id="a hash that does not spread"),
    pytest.param({"engines": {"engine1": {"generation_tokens": 800.0}, "engine2": {"generation_tokens": 2400.0}}}, "workers",
                 "decode instance engine1 had 800 generation tokens; its 50 requests should have 1,600 ± 16; "
                 "decode instance engine2 had 2,400 generation tokens; its 50 requests should have 1,600 ± 16",
                 id="half of an instance's tokens at the other"),
    pytest.param({"ttft": {"prefill_ms": 0.0, "transfer_ms": 30.0, "sum_ms": 90.0}}, "ttft_parts",
                 "its parts add up to 30.0 ms, the record says 90.0", id="a part of the TTFT left out"),
    pytest.param({"ttft": {"prefill_ms": -40.0, "transfer_ms": 130.0, "sum_ms": 90.0}}, "ttft_parts", "prefill took -40.0 ms",
                 id="a part of the TTFT below 0"),
    pytest.param({"engines": {"engine1": {"preemptions": 6.0}}}, "preemptions",
                 "6 preemptions in 100 requests: KV memory is too small, and prompts are computed again", id="a preemption storm"),
    pytest.param({"client": {"client_busy": 0.85}}, "client",
                 "the client used 0.85 of one core, more than 0.8: it was the bottleneck", id="a busy client"),
    pytest.param({"client": {"loop_lag_ms": 24.0}}, "client", "its event loop was 24.0 ms late, more than 20.0 ms",
                 id="a slow client"),
    pytest.param({"client": {"sending_s": 25.5}}, "client", "its last request went out 500.0 ms late, more than 255.0 ms",
                 id="requests sent late"),
    pytest.param({"client": {"decode_s": 62.0}}, "delivery",
                 "20.00 ms a token at the client, 10.00 in the engines: API servers, router or client held the tokens up",
                 id="tokens held up on their way"),
    pytest.param({"client": {"decode_s": 26.35}}, "delivery",
                 "8.50 ms a token at the client, 10.00 in the engines: client and engines do not measure by the same second",
                 id="a client's clock that runs slow"),
    pytest.param({"spans": PILED_UP}, "steady_state",
                 "the queue grows: 3 requests in flight after a quarter of sending, 36 at its end; "
                 "filling up and chance explain 15.7 of the difference; "
                 "sending took 24.8 s, less than 4 times a mean request of 6.72 s", id="a rate that is not held"),
    pytest.param({"spans": [[i / 4, i / 4 + 7] for i in range(100)]}, "steady_state",
                 "sending took 24.8 s, less than 4 times a mean request of 7 s", id="a window too short"),
    pytest.param({"spans": [[i / 3, i / 3 + 1] for i in range(100)], "demand": {"max_concurrency": 3}}, "steady_state",
                 "at 3 in flight it takes 3.03 requests/s, not 4", id="a concurrency that stands in the way"),
    pytest.param({"demand": {"request_rate": None, "max_concurrency": 32}}, "steady_state",
                 "100 requests in 3.12 rounds of 32, fewer than 4: its beginning and its end weigh too much",
                 id="a closed loop that hardly goes round"),
    pytest.param({"gpus": HOT}, "clocks", "node0: GPU 1 was slowed by HW thermal for 5.2 of 26 s", id="throttled clocks"),
    pytest.param({"gpus": HOT_NOW}, "clocks", "node0: GPU 0 was slowed by SW thermal at 1200 of 1980 MHz",
                 id="throttled clocks, uncounted"),
]  # fmt: skip


@pytest.mark.parametrize(("planted", "check", "said"), FAULTS)
def test_a_planted_fault_is_caught_by_its_check(planted: dict[str, Any], check: str, said: str) -> None:
    told = found(**planted)
    failing = {name: each.said for name, each in told.items() if each.ok is False}
    assert failing.get(check) == said
    assert set(failing) - {check} <= LAWS
    assert said in reasons(told.values())
    assert told[check].evidence


HARMLESS = [
    pytest.param({"client": {"prompt_blocks": {"16": 3_210}}, "engines": {"engine1": {"prompt_tokens": 25_610.0}}},
                 id="ten prompts that engine and client count differently by a token"),
    pytest.param({"engines": {"engine1": {"nixl_bytes": 25.8e6}}}, id="0.4 % more bytes"),
    pytest.param({"engines": {"engine1": {"prefix_cache_hits": 5_120.0, "nixl_bytes": 20.48e6},
                 "engine0": {"prefix_cache_hits": 25_600.0}},
                  "demand": {"prefix_hit_rate": 0.5}}, id="what a decode instance had cached is not moved"),
    pytest.param({"engines": {"engine0": {"prefix_cache_hits": 1_000.0}}}, id="1 % of the tokens hit"),
    pytest.param({"engines": {"engine0": {"prefix_cache_hits": 50_000.0}}, "demand": {"prefix_hit_rate": None}},
                 id="hits that nobody can foretell"),
    pytest.param({"engines": {"engine0": {"prefix_cache_hits": 10_240.0}}, "demand": {"prefix_hit_rate": 0.5}},
                 id="fewer hits than prompts share"),
    pytest.param({"engines": {"*": {"prefix_cache_hits": None, "prefix_cache_queries": None}}}, id="cache unknown"),
    pytest.param({"engines": {"*": {"prefix_cache_queries": 0.0}}}, id="cache off"),
    pytest.param({"engines": {"*": {"nixl_failed_transfers": None}}}, id="failures unknown"),
    pytest.param({"engines": {"engine1": {"requests": 55}, "engine2": {"requests": 45}}}, id="ten per cent off an equal share"),
    pytest.param({"demand": {"policies": {"decode": "random"}}, "engines": {"engine1": {"requests": 60},
                 "engine2": {"requests": 40}}},
                 id="chance"),
    pytest.param({"engines": {"engine1": {"preemptions": 5.0}}}, id="five preemptions"),
    pytest.param({"client": {"loop_lag_ms": 9.9}}, id="a late wake-up of a shared machine"),
    pytest.param({"client": {"loop_lag_ms": 60.0, "loop_looks": 19}}, id="a late wake-up or two in a point of a second"),
    pytest.param({"client": {"sending_s": 25.9}, "demand": {"max_concurrency": 50}},
                 id="a bound on concurrency holds requests back"),
    pytest.param({"client": {"decode_s": 38.0}, "demand": {"gpus": False}},
                 id="less than a fifth of a token's time between engine and client on a CPU"),
    pytest.param({"client": {"decode_s": 32.5}}, id="less than a twentieth on GPUs"),
    pytest.param({"client": {"decode_s": 15.0}, "demand": {"gpus": False}}, id="late first tokens on a CPU"),
    pytest.param({"ttft": {"queue_ms": -3.0, "prefill_ms": 60.0, "sum_ms": 57.0}}, id="a part of the TTFT hardly below 0"),
    pytest.param({"gpus": {"node0": [{**GPU, "clocks_held_by": ["power cap"]}]}}, id="a power cap"),
    pytest.param({"gpus": {"node0": [{**GPU, "clocks_held_before": ["HW thermal"]}]}}, id="hot before, not during"),
]  # fmt: skip


@pytest.mark.parametrize("changes", HARMLESS)
def test_what_is_no_fault(changes: dict[str, Any]) -> None:
    assert reasons(found(**changes).values()) == ()


UNKNOWN = [
    pytest.param({"demand": {"kv_bytes_per_token": None}}, "kv_bytes", "the model's KV size is unknown",
                 id="no configuration of the model"),
    pytest.param({"demand": {"kv_bytes_per_token": None, "kv_unknown": "layers of several kinds"}}, "kv_bytes",
                 "layers of several kinds",
                 id="an architecture that is not known"),
    pytest.param({"engines": {"engine1": {"block_size": 64}}}, "kv_bytes", "the engines do not tell one block size",
                 id="block sizes"),
    pytest.param({"engines": {"*": {"block_size": 48}}}, "kv_bytes",
                 "the client does not tell the prompts' lengths in blocks of 48",
                 id="an odd block size"),
    pytest.param({"engines": {"engine1": {"nixl_bytes": None}}}, "kv_bytes", "bytes moved are unknown", id="bytes"),
    pytest.param({"transport": {"kinds": None}, "demand": {"transport": "any"}}, "transport",
                 "the engines do not tell what they fetched KV over", id="transport"),
    pytest.param({"engines": {"engine1": {"requests": None}}}, "workers", "an instance does not tell how many requests it had",
                 id="workers"),
    pytest.param({"engines": {"*": {"preemptions": None}}}, "preemptions",
                 "an engine does not tell how many requests it threw out", id="preemptions"),
    pytest.param({"client": {"client_busy": None, "loop_lag_ms": None}}, "client",
                 "the client does not tell how busy and how late it was", id="client"),
    pytest.param({"engines": {"engine1": {"decode_time_s": None}}}, "delivery",
                 "client or engines do not tell the time of their tokens", id="decode time"),
    pytest.param({"spans": None}, "steady_state", "the file with a line for each request is not there", id="request lines"),
    pytest.param({"spans": None}, "request_lines", "the file with a line for each request is not there", id="lines"),
    pytest.param({"spans": None}, "summary", "the file with a line for each request is not there", id="summary"),
    pytest.param({"spans": None}, "latencies", "the file with a line for each request is not there", id="latencies"),
    pytest.param({"engines": {"engine0": {"requests": None}}}, "requests_counted",
                 "an engine does not tell how many requests it had", id="requests"),
    pytest.param({"engines": {"engine0": {"prompt_tokens": None}}}, "tokens_counted",
                 "an engine or the client does not tell its tokens", id="tokens"),
    pytest.param({"engines": {"*": {"prefix_cache_hits": None}}}, "prefix_cache",
                 "an engine does not tell its prefix cache's hits", id="hits"),
    pytest.param({"ttft": {}}, "outside_engines", "the engines do not tell all parts of the TTFT", id="parts of the TTFT"),
    pytest.param({"ttft": {}}, "ttft_parts", "the engines do not tell the parts of the TTFT", id="no part of the TTFT"),
    pytest.param({"client": {"duration": None}}, "duration", "the client does not tell how long it measured", id="duration"),
    pytest.param({"gpus": None}, "gpu_count", "nvidia-smi does not tell which GPUs the engines ran on", id="GPUs"),
    pytest.param({"gpus": {"node0": [GPU], "node1": []}}, "clocks", "nvidia-smi does not tell on node1",
                 id="a node that does not tell"),
    pytest.param({"gpus": None}, "clocks", "nvidia-smi does not tell", id="no nvidia-smi"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "check", "said"), UNKNOWN)
def test_what_cannot_be_known_is_unverified_and_invalid_only_where_strict(changes: dict[str, Any], check: str, said: str) -> None:
    told = found(**changes)
    assert (told[check].ok, told[check].said, told[check].unverified) == (None, said, True)
    assert reasons(told.values()) == ()
    assert f"not verified: {said}" in reasons(told.values(), strict=True)


FEW = {"engines": {"engine0": {"requests": 7, "prompt_tokens": 3584.0, "generation_tokens": 7.0}}}
NOT_ASKED = [
    pytest.param({"client": {"ordered_output_tokens": None}, "demand": {"output_len": 0}}, "output_tokens",
                 "no output length was ordered",
                 id="lengths as the data set has them"),
    pytest.param({"demand": {"request_rate": None}}, "steady_state", "100 requests at once: a burst has no steady state",
                 id="a burst"),
    pytest.param({"demand": {"even": False}}, "steady_state", "the load is not meant to be steady", id="a ramp"),
    pytest.param({"spans": [[i, i + 0.41] for i in range(7)], "demand": {"num_prompts": 7}, **FEW}, "steady_state",
                 "7 requests are too few to tell", id="few requests"),
    pytest.param({"gpus": {}, "demand": {"gpus": False}}, "clocks", "no GPU", id="a CPU"),
    pytest.param({"demand": {"stream": False}}, "delivery", "no token after the first, or none is seen", id="no stream"),
    pytest.param({"client": {"decode_tokens": 0}}, "delivery", "no token after the first, or none is seen", id="one token each"),
    pytest.param({"demand": {"prefix_hit_rate": None}}, "prefix_cache",
                 "nobody knows how much of this workload's prompts is shared", id="hits that nobody can foretell"),
    pytest.param({"demand": {"gpus": False, "request_rate": None}}, "outside_engines", "a burst on a CPU waits outside the engines",
                 id="a burst on a CPU"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "check", "said"), NOT_ASKED)
def test_a_question_that_does_not_apply_is_not_unverified(changes: dict[str, Any], check: str, said: str) -> None:
    told = found(**changes)[check]
    assert (told.ok, told.said, told.unverified) == (None, said, False)


def test_with_none_completed_only_that_is_said() -> None:
    """vLLM's benchmark exits with 0 then, and writes zeros everywhere."""
    nothing = dict.fromkeys(client_of(lines(SPANS)), 0)
    none = {name: [0.0, 0.0] if name in ("start_s", "ok") else [float("nan")] * 2 for name in REQUEST_COLUMNS}
    demand = Demand(**{**vars(DEMAND), "num_prompts": 2})
    told = checks(Evidence(demand, {**nothing, "asked": 2}, {}, {**good(), "totals": {}}, none, {}, 0))
    assert [check.name for check in told if check.ok is False] == ["completed"]


def test_without_disaggregation_transfers_do_not_count() -> None:
    both = {"prompt_tokens": 25_600.0, "generation_tokens": 1_600.0, "decode_time_s": 15.5}
    plain = {"engine0": engine("both", 50, **both), "engine1": engine("both", 50, nixl_failed_transfers=3.0, **both)}
    e = evidence(demand={"nixl": False, "disaggregated": False})
    told = checks(Evidence(e.demand, e.client, e.metrics, {**good(), "engines": plain}, e.requests, e.itl_bins, 100, 60.0))
    by_name = {check.name: check for check in told}
    assert [by_name[name].ok for name in ("nixl", "kv_bytes", "transport")] == [None, None, None]
    assert reasons(told) == ()
    assert unverified(told) == ()


def test_whether_a_rate_is_held_is_said_where_it_can_be_known() -> None:
    short = [[i / 4, i / 4 + 7] for i in range(100)]
    held = [found(spans=spans)["steady_state"].evidence["holds_rate"] for spans in (SPANS, PILED_UP, short)]
    assert held == [True, False, None]


@pytest.mark.parametrize(("load", "least", "most"), [(0.8, 0, 2), (1.5, 98, 100)])
def test_chance_seldom_looks_like_a_queue_that_grows(load: float, least: int, most: int) -> None:
    """256 Poisson arrivals at 8 servers, a hundred times: how often the point is thrown out."""
    thrown = 0
    for seed in range(100):
        chance, now, free, spans = random.Random(seed), 0.0, [0.0] * 8, []
        for _ in range(256):
            now += chance.expovariate(8 * load)
            first = free.index(min(free))
            free[first] = max(now, free[first]) + chance.uniform(0.7, 1.3)
            spans.append([now, free[first]])
        thrown += steady_state(spans, rate=8 * load, concurrency=None).ok is False
    assert least <= thrown <= most


def test_one_request_at_a_time_is_steady_however_few() -> None:
    alone = found(spans=[[i, i + 0.5] for i in range(9)], demand={"request_rate": None, "max_concurrency": 1})
    assert alone["steady_state"].ok
