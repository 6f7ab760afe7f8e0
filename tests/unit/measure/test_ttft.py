"""TTFT taken apart: the counters of real points, and of points whose engines do not tell all."""

from __future__ import annotations

from typing import Any

import pytest

from pdslurm.measure.telemetry import ENGINE_COUNTERS
from pdslurm.measure.ttft import breakdown, spans, starved_decode
from pdslurm.records.measurement import TTFT_PARTS, TTFT_SUMS


def engine(role: str, requests: float, **counted: float | None) -> dict[str, Any]:
    return {**dict.fromkeys(ENGINE_COUNTERS, 0.0), "role": role, "requests": requests, **counted}


# 16 requests of 64 tokens in and 128 out, one at a time, 1P1D of DeepSeek-V2-Lite at TP=2 each on four H200s (vLLM 0.24)
H200 = {
    "engine0": engine("prefill", 16, queue_time_s=0.000328, prefill_time_s=0.123958, ttft_s=0.172372),
    "engine1": engine(
        "decode", 16, queue_time_s=0.104120, prefill_time_s=0.067941, ttft_s=0.221554, decode_time_s=5.9,
        nixl_transfers=32, nixl_transfer_time_s=0.102461, nixl_post_time_s=0.023064,
    ),
}  # fmt: skip
ROUTE = {name: engine("both", 8, queue_time_s=0.4, prefill_time_s=0.8, ttft_s=1.6, http_s=4.1, e2e_s=4.0) for name in "ab"}


def rounded(values: dict[str, float | None]) -> list[float | None]:
    return [None if value is None else round(value, 2) for value in values.values()]


def test_parts_add_up_to_both_engines_spans() -> None:
    found = breakdown(H200, 29.12)
    assert tuple(found) == tuple(f"{part}_ms" for part in (*TTFT_PARTS, *TTFT_SUMS))
    assert rounded(found) == [3.01, 0.02, 7.75, 6.4, 3.2, 4.25, 24.62, 29.12, 4.5]
    assert found["sum_ms"] == pytest.approx(1e3 * (0.172372 + 0.221554) / 16), "prefill's span and decode's, nothing left over"


def test_an_arm_without_disaggregation_has_three_parts() -> None:
    assert rounded(breakdown(ROUTE, 120.0)) == [50.0, 50.0, 100.0, None, None, None, 200.0, 120.0, -80.0]


def test_spans_tell_the_scheduler_from_the_api_server_around_it() -> None:
    found = spans({**H200, **ROUTE})
    assert rounded(found["prefill"]) == [10.77, 0.02, 7.75, 3.01, 0.0, None]
    assert rounded(found["decode"]) == [13.85, 6.51, 4.25, 3.09, 0.0, 0.72], "the post is a part of the transfer"
    assert rounded(found["both"]) == [200.0, 50.0, 100.0, 50.0, 12.5, None]


@pytest.mark.parametrize(
    ("changes", "unknown"),
    [
        pytest.param({"engine0": {"ttft_s": None}}, {"api_server_ms", "sum_ms", "error_ms"}, id="the prefill instance's span"),
        pytest.param({"engine1": {"nixl_transfers": None}}, {"transfer_ms", "handover_ms", "sum_ms", "error_ms"}, id="transfers"),
        pytest.param({"engine1": {"nixl_transfers": 0.0}}, {"transfer_ms", "handover_ms", "sum_ms", "error_ms"}, id="no transfer"),
        pytest.param({"engine1": {"requests": None}}, {"handover_ms", "first_decode_ms", "sum_ms", "error_ms"}, id="requests"),
    ],
)
def test_what_is_unknown_makes_the_sum_unknown(changes: dict[str, dict[str, float | None]], unknown: set[str]) -> None:
    found = breakdown({name: {**counted, **changes.get(name, {})} for name, counted in H200.items()}, 29.12)
    assert {name for name, value in found.items() if value is None} == unknown


def test_a_client_that_does_not_stream_measures_no_ttft() -> None:
    found = breakdown(H200, None)
    assert (found["measured_ms"], found["error_ms"]) == (None, None)
    assert found["sum_ms"]


@pytest.mark.parametrize(
    ("waited_s", "decoded_s", "duration_s", "starved"),
    [
        # 256 prompts of 2048 tokens at once, 128 out, 1P3D on H200: ITL 4.2 ms beside 15 ms and more in the other arms
        pytest.param(620.0, 133.8, 6.68, True, id="seen on H200"),
        pytest.param(66.0, 165.1, 2.52, False, id="seen on H200 with 512 tokens"),
        pytest.param(0.5, 0.1, 6.68, False, id="nobody waits"),
        pytest.param(20.0, 20.1, 10.0, False, id="as many are decoded as wait"),
    ],
)
def test_decode_starves_where_more_wait_for_prefill_than_are_decoded(
    waited_s: float, decoded_s: float, duration_s: float, starved: bool
) -> None:
    decode = {f"engine{n}": engine("decode", 85, decode_time_s=decoded_s / 3) for n in (1, 2, 3)}
    found, evidence = starved_decode(
        {"engine0": engine("prefill", 256, ttft_s=waited_s + 9, prefill_time_s=9.0), **decode}, duration_s
    )
    assert found is starved
    assert evidence["waiting_for_prefill"] == pytest.approx(waited_s / duration_s)
    assert evidence["decoding_per_instance"] == pytest.approx(decoded_s / duration_s / 3)


@pytest.mark.parametrize(
    ("engines", "duration_s"), [(ROUTE, 1.0), (H200, None), ({**H200, "engine1": {**H200["engine1"], "decode_time_s": None}}, 1.0)]
)
def test_starving_is_unknown(engines: dict[str, Any], duration_s: float | None) -> None:
    assert starved_decode(engines, duration_s) == (None, {})
