"""When the benchmark client sends: a closed loop for a time and a trace, in real time, with a stand-in for vLLM's benchmark."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from pdslurm.bench import extra_loads
from pdslurm.bench.extra_loads import Sending
from tests.unit.bench.test_extra_loads import Request


@dataclass
class Output:
    success: bool = True


@dataclass
class Serve:
    """As the module vllm.benchmarks.serve, as far as it is used; a request takes `takes_s`."""

    takes_s: float = 0.02
    success: bool = True
    flying: int = 0
    most: int = 0
    at: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ASYNC_REQUEST_FUNCS = {"vllm": self.send}

    async def get_request(self, made: list[Request], *_: Any) -> AsyncIterator[tuple[Request, float]]:
        for request in made:
            yield request, 7.0

    async def send(self, request_func_input: Request, session: Any, pbar: Any = None) -> Output:
        self.flying += 1
        self.most = max(self.most, self.flying)
        self.at.append((asyncio.get_running_loop().time(), request_func_input.request_id))
        await asyncio.sleep(self.takes_s)
        self.flying -= 1
        return Output(self.success)

    async def benchmark(self, made: list[Request]) -> list[Output]:
        """As vLLM's goes about it: a task for each request that it gets."""
        send = self.ASYNC_REQUEST_FUNCS["vllm"]
        tasks = [asyncio.create_task(send(r, None)) async for r, _ in self.get_request(made, float("inf"), 1.0)]
        return await asyncio.gather(*tasks)


def arguments(**changes: Any) -> argparse.Namespace:
    base = {"pdslurm_mix": None, "pdslurm_trace": None, "pdslurm_duration_s": None, "pdslurm_no_stream": False}
    return argparse.Namespace(**{**base, "max_concurrency": None, "backend": "vllm", **changes})


def sent(serve: Serve, made: list[Request], **changes: Any) -> Sending:
    sending = Sending(arguments(**changes))
    before = serve.get_request, dict(serve.ASYNC_REQUEST_FUNCS)
    with sending.in_place(serve):
        asyncio.run(serve.benchmark(made))
    assert (serve.get_request, serve.ASYNC_REQUEST_FUNCS) == before, "the next point is vLLM's own again"
    return sending


def test_a_load_of_vllm_s_own_is_left_alone() -> None:
    sending, serve = Sending(arguments(max_concurrency=4)), Serve()
    before = serve.get_request, serve.ASYNC_REQUEST_FUNCS["vllm"]
    with sending.in_place(serve):
        assert (serve.get_request, serve.ASYNC_REQUEST_FUNCS["vllm"]) == before
    assert not sending.is_ours


def test_a_closed_loop_for_a_time() -> None:
    serve, made = Serve(), [Request([n], request_id=f"r{n}") for n in range(5)]
    sending = sent(serve, made, pdslurm_duration_s=0.2, max_concurrency=3)
    span = serve.at[-1][0] - serve.at[0][0]
    assert 0.1 < span < 0.2, "nothing is sent after the time"
    assert serve.most == 3
    assert 5 < len(sending.sent) == len(serve.at) <= 33
    assert [r.request_id for r in sending.sent][:7] == ["r0", "r1", "r2", "r3", "r4", "r0-1", "r1-1"], "and then anew"
    counts = extra_loads.request_counts({"output_lens": [4] * len(sending.sent)}, sending.sent)
    assert counts["prompts_again"] == counts["asked"] - 5


def test_a_closed_loop_that_only_fails_does_not_go_on() -> None:
    serve = Serve(takes_s=0.0, success=False)
    sending = sent(serve, [Request([0])], pdslurm_duration_s=20.0, max_concurrency=2)
    assert len(sending.sent) <= 8


def test_a_trace_is_sent_at_its_times() -> None:
    serve, at = Serve(), [0.0, 0.05, 0.05, 0.12]
    made = [Request([n], pdslurm_at_s=t) for n, t in enumerate(at)]
    sent(serve, made, pdslurm_trace={"timed": True})
    assert [when - serve.at[0][0] for when, _ in serve.at] == pytest.approx(at, abs=0.04)
    short = sent(Serve(), made, pdslurm_trace={"timed": True}, pdslurm_duration_s=0.1)
    assert short.sent == made[:3]
    fast = Serve()
    assert not sent(fast, made, pdslurm_trace={"timed": False}).is_ours, "a warm-up waits for nothing"
    assert fast.at[-1][0] - fast.at[0][0] < 0.04
