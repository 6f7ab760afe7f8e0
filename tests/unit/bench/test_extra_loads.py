"""Loads of the benchmark client's own: exact lengths, the same from the same seed, and what counts. When requests are sent is in
tests/integration/test_sending.py."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest

from pdslurm.bench import extra_loads
from pdslurm.bench.request_trace import read_trace, seconds

TOKENS = numpy.arange(3, 1003)
BIMODAL = [[0.9, 125, 64, 0.6], [0.1, 3000, 32, 0.0]]
COLUMNS = {"timestamp": "timestamp", "input_len": "input_length", "output_len": "output_length", "hash_ids": "hash_ids"}


@dataclass
class Request:
    """As vLLM's SampleRequest, as far as it is used."""

    prompt: list[int]
    expected_output_len: int = 4
    request_id: str = "r0"
    pdslurm_at_s: float = 0.0


# --- prompts


@pytest.mark.parametrize(
    ("count", "of", "expected"),
    [
        (10, [0.9, 0.1], [9, 1]),
        (256, [0.9, 0.1], [230, 26]),
        (1, [0.9, 0.1], [1, 0]),
        (3, [1 / 3, 1 / 3, 1 / 3], [1, 1, 1]),
        (7, [0.5, 0.25, 0.25], [3, 2, 2]),
        (100, [1.0], [100]),
    ],
)
def test_shares(count: int, of: list[float], expected: list[int]) -> None:
    assert extra_loads.shares(count, of) == expected


def test_a_mix_has_exact_lengths_and_shares() -> None:
    made = list(extra_loads.mix(BIMODAL, 500, 7, TOKENS))
    assert Counter(output for _, output, _ in made) == {64: 450, 32: 50}
    assert {len(p) for p, output, _ in made if output == 32} == {3000}
    short = [len(p) for p, output, _ in made if output == 64]
    assert 50 <= min(short) < 55 < 195 < max(short) <= 200, "125 ± 60 %"
    assert abs(sum(short) / len(short) - 125) < 5
    assert {type(token) for token in made[0][0]} == {int}, "fit for JSON"
    assert all(3 <= token < 1003 for token in made[0][0])
    halves = [sum(output == 32 for _, output, _ in part) for part in (made[:250], made[250:])]
    assert min(halves) > 10, "long ones are spread, not at the end"


def test_a_mix_depends_on_its_seed_alone() -> None:
    first, again, other = (list(extra_loads.mix(BIMODAL, 100, seed, TOKENS)) for seed in (7, 7, 8))
    assert first == again
    assert [p for p, *_ in first] != [p for p, *_ in other]
    assert len({tuple(p) for p, *_ in first + other}) == 200, "no prompt twice"


def trace(tmp_path: Path, *rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(path), **COLUMNS, "hash_tokens": 16, "seconds": 0.001, "timed": True, **changes}


def row(at_ms: float, input_len: int, output_len: int = 5, *hash_ids: int | str) -> dict[str, Any]:
    more = {"hash_ids": list(hash_ids)} if hash_ids else {}
    return {"timestamp": at_ms, "input_length": input_len, "output_length": output_len, **more}


def test_a_trace_s_times_and_lengths(tmp_path: Path) -> None:
    told = trace(tmp_path, row(5000, 40), row(5250, 7, 0), row(5500, 3, 9), row(7000, 12))
    made = list(extra_loads.replayed(told, 2, 7, TOKENS))
    assert [(len(p), output, at) for p, output, at in made] == [(40, 5, 0.0), (3, 9, 0.5)], "one without output is left out"
    assert made == list(extra_loads.replayed(told, 2, 7, TOKENS))
    assert [p for p, *_ in made] != [p for p, *_ in extra_loads.replayed(told, 2, 8, TOKENS)], "the seed's prompts"
    fast = list(extra_loads.replayed({**told, "seconds": 0.0005}, 3, 7, TOKENS))
    assert [at for *_, at in fast] == [0.0, 0.25, 1.0]
    with pytest.raises(ValueError, match=r"trace.jsonl: 3 requests in the trace, 4 were asked for"):
        list(extra_loads.replayed(told, 4, 7, TOKENS))
    warm = list(extra_loads.replayed({**told, "timed": False}, 8, 7, TOKENS))
    assert [len(p) for p, *_ in warm] == [40, 3, 12, 40, 3, 12, 40, 3], "a warm-up may have more requests than the trace"
    assert warm[0][0] != warm[3][0]


def test_blocks_of_one_name_have_the_same_tokens(tmp_path: Path) -> None:
    told = trace(tmp_path, row(0, 40, 5, 1, 2), row(1, 40, 5, 1, "x"), row(2, 20, 5, 1, 2), row(3, 40))
    a, b, short, own = (p for p, *_ in extra_loads.replayed(told, 4, 7, TOKENS))
    assert (a[:16] == b[:16], a[16:32] == b[16:32], a[32:] == b[32:]) == (True, False, False)
    assert short == a[:20], "cut where the prompt ends"
    assert (len(a), own[:16] == a[:16]) == (40, False)
    other = next(p for p, *_ in extra_loads.replayed(told, 1, 8, TOKENS))
    assert other[:16] != a[:16], "another repeat finds nothing in the cache"


def test_blocks_in_a_table(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufefftimestamp,input_length,output_length,hash_ids\n0,3,1,7 x\n1,3,1,\n", encoding="utf-8")
    assert [row.hash_ids for row in read_trace({**COLUMNS, "path": path, "seconds": 1.0})] == [("7", "x"), ()]


def test_prompts_from_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"prompt": str(n), "output_tokens": n + 1}) + "\n" for n in range(20)) + "\n")
    first, again, other = (list(extra_loads.from_lines(path, -1, 20, seed)) for seed in (7, 7, 8))
    assert first == again != other
    assert sorted(first, key=lambda made: made[1]) == [(str(n), n + 1, 0.0) for n in range(20)], "text stays text"
    assert {output for _, output, _ in extra_loads.from_lines(path, 9, 20, 7)} == {9}
    long = Counter(text for text, *_ in extra_loads.from_lines(path, -1, 50, 7))
    assert (len(long), set(long.values())) == (20, {2, 3}), "each as often, to within one"
    path.write_text('{"prompt": "Who?"}\n')
    with pytest.raises(ValueError, match=r"a.jsonl: line 1: KeyError: 'output_tokens'"):
        list(extra_loads.from_lines(path, -1, 1, 7))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.5, 1.5),
        ("2", 2.0),
        ("1970-01-01 00:01:00", 60.0),
        ("1970-01-01 00:00:00.2500000", 0.25),
        ("1970-01-01T01:00:00+01:00", 0.0),
    ],
)
def test_moments(value: object, expected: float) -> None:
    assert seconds(value) == expected


# --- what came of it


def result(*requests: tuple[float, float, list[float], float, int], **more: Any) -> dict[str, Any]:
    """From (start, ttft, itls, latency, output tokens); an input of 10 tokens each."""
    columns = [list(column) for column in zip(*requests, strict=True)]
    names = ("start_times", "ttfts", "itls", "latencies", "output_lens")
    return {**dict(zip(names, columns, strict=True)), "input_lens": [10] * len(requests), "completed": 1, **more}


def test_a_fixed_time_counts_what_came_in_it() -> None:
    got = result(
        (100.0, 1.0, [1.0, 1.0], 3.0, 3),  # all within 4 s
        (101.0, 2.0, [0.5, 1.0], 3.5, 6),  # two of three chunks within, of two tokens each
        (103.0, 2.0, [1.0], 3.0, 2),  # begins after
        (103.5, 0.0, [], 0.0, 0),  # failed
        duration=6.0, request_throughput=0.5, output_throughput=1.8, total_token_throughput=9.0,
    )  # fmt: skip
    timed = extra_loads.within_duration(got, 4.0, streamed=True)
    assert (timed["duration"], timed["ended_within_duration"], timed["request_throughput"]) == (4.0, 1, 0.25)
    assert timed["output_throughput"] == (3 + 4) / 4
    assert timed["total_token_throughput"] == (3 + 4 + 2 * 10) / 4
    assert timed["until_last_answer"] == {
        "duration": 6.0, "request_throughput": 0.5, "output_throughput": 1.8, "total_token_throughput": 9.0,
    }  # fmt: skip
    whole = extra_loads.within_duration(got, 4.0, streamed=False)
    assert (whole["output_throughput"], whole["total_token_throughput"]) == (3 / 4, 13 / 4), "with the whole answer only"


def test_what_a_stream_alone_shows_is_unknown_without_one() -> None:
    latencies = {f"{s}_{what}_ms": 0.0 for what in ("ttft", "tpot", "itl", "e2el") for s in ("mean", "p99", "std", "median")}
    got = extra_loads.without_stream_metrics(result((0.0, 0.0, [], 2.0, 4), max_output_tokens_per_s=9.0, **latencies))
    assert {name for name in latencies if got[name] is not None} == {f"{s}_e2el_ms" for s in ("mean", "p99", "std", "median")}
    assert (got["ttfts"], got["itls"], got["max_output_tokens_per_s"], got["latencies"]) == ([None], [[]], None, [2.0])


def test_what_was_ordered() -> None:
    made = [Request([1], 5), Request([2], 7), Request([1], 9)]
    assert extra_loads.request_counts({"output_lens": [5, 0, 9]}, made) == {
        "asked": 3,
        "prompts_again": 1,
        "ordered_output_tokens": 14,
    }
    assert extra_loads.request_counts({"output_lens": [5]}, made) == {}, "unknown"


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (200, '{"choices": [{"text": "a"}], "usage": {"completion_tokens": 3, "prompt_tokens": 9}}', (True, 3, 9, "")),
        (503, "no", (False, 0, 8, "Service Unavailable")),
        (200, "<html>", (False, 0, 8, "JSONDecodeError: Expecting value: line 1 column 1 (char 0)")),
    ],
)
def test_a_whole_answer(monkeypatch: pytest.MonkeyPatch, status: int, text: str, expected: tuple[object, ...]) -> None:
    @dataclass
    class RequestFuncOutput:
        prompt_len: int
        start_time: float
        latency: float = 0.0
        ttft: float = 0.0
        generated_text: str = ""
        output_tokens: int = 0
        success: bool = False
        error: str = ""

    posted: list[dict[str, Any]] = []

    class Session:
        def post(self, **what: Any) -> Session:
            posted.append(what)
            return self

        async def __aenter__(self) -> SimpleNamespace:
            async def read() -> str:
                return text

            return SimpleNamespace(status=status, reason="Service Unavailable", text=read)

        async def __aexit__(self, *_: object) -> None:
            pass

    module = SimpleNamespace(RequestFuncOutput=RequestFuncOutput)
    for name in ("vllm", "vllm.benchmarks", "vllm.benchmarks.lib"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setitem(sys.modules, "vllm.benchmarks.lib.endpoint_request_func", module)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    given = SimpleNamespace(
        model="m", model_name="tiny", prompt=[1] * 8, prompt_len=8, output_len=3, logprobs=None, ignore_eos=True, request_id="r1",
        extra_body={"temperature": 0.0}, extra_headers=None, api_url="http://a/v1/completions",
    )  # fmt: skip
    bars = SimpleNamespace(n=0, update=lambda n: None)
    output = asyncio.run(extra_loads.whole_answer(given, Session(), bars))
    assert (output.success, output.output_tokens, output.prompt_len, output.error) == expected
    assert 0.0 < output.ttft == output.latency
    assert posted == [{
        "url": "http://a/v1/completions",
        "json": {"model": "tiny", "prompt": [1] * 8, "max_tokens": 3, "stream": False, "repetition_penalty": 1.0, "logprobs": None,
                 "ignore_eos": True, "temperature": 0.0},
        "headers": {"Authorization": "Bearer k", "x-request-id": "r1"},
    }]  # fmt: skip


def test_requests_of_a_load_keep_what_vllm_needs() -> None:
    """`replace` on a request that is sent again changes its id alone."""
    request = Request([1, 2], 9, "r3")
    assert replace(request, request_id="r3-1") == Request([1, 2], 9, "r3-1")
