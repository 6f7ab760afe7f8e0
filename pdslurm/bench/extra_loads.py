"""Loads that vLLM's benchmark lacks: a point's arguments in; its requests at their times, and what was really sent, out.

A mix of prompts of exact lengths, a trace with its arrival times, prompts from lines of a file, a closed loop for a fixed time,
answers that are not streamed. Part of the benchmark client, so it runs in the engine's environment; numpy and vLLM are imported
only where prompts are made. What it takes from vLLM: `get_request`, which its benchmark asks for the next request, and
ASYNC_REQUEST_FUNCS, which send one."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import math
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pdslurm.bench.request_trace import json_lines, read_trace

STREAMED = ("ttft", "tpot", "itl")  # latencies that only a stream shows
FAILED_ROUNDS = 3  # a closed loop for a time ends when so many rounds of requests failed: it would only send faster


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the client understands beside the options of `vllm bench serve`."""
    parser.add_argument("--pdslurm-mix", type=json.loads, help="[[share, input, output, spread of the input], ...]")
    parser.add_argument("--pdslurm-trace", type=json.loads, help="path, columns, seconds of a unit, hash_tokens, timed")
    parser.add_argument("--pdslurm-duration-s", type=float, help="send for this time: closed loop, or the trace's beginning")
    parser.add_argument("--pdslurm-no-stream", action="store_true", help="ask for whole answers")


# --- prompts


def own_requests(args: argparse.Namespace, tokenizer: Any) -> list[Any] | None:
    """vLLM's SampleRequests of a mix, a trace or a file of prompts; None for a data set of vLLM's own. They depend on the seed
    alone."""
    if args.pdslurm_mix or args.pdslurm_trace:
        import numpy

        tokens = numpy.array(sorted(set(range(tokenizer.vocab_size)) - set(tokenizer.all_special_ids)))
        if args.pdslurm_mix:
            return _requests(args, mix(args.pdslurm_mix, args.num_prompts, args.seed, tokens), len)
        return _requests(args, replayed(args.pdslurm_trace, args.num_prompts, args.seed, tokens), len)
    if args.dataset_name == "custom":  # vLLM's own needs pandas, which its engines do without, and takes "42" for a number
        made = from_lines(Path(args.dataset_path), args.custom_output_len, args.num_prompts, args.seed)
        return _requests(args, made, lambda text: len(tokenizer(text).input_ids))
    return None


def _requests(args: argparse.Namespace, made: Iterable[tuple[Any, int, float]], length: Callable[[Any], int]) -> list[Any]:
    from vllm.benchmarks.datasets import SampleRequest

    requests, prefix = [], getattr(args, "request_id_prefix", "")
    for n, (prompt, output_len, at_s) in enumerate(made):
        request = SampleRequest(prompt=prompt, prompt_len=length(prompt), expected_output_len=output_len, request_id=f"{prefix}{n}")
        request.pdslurm_at_s = at_s
        requests.append(request)
    return requests


def from_lines(path: Path, output_len: int, count: int, seed: int) -> Iterator[tuple[str, int, float]]:
    """(text, output tokens, 0) of `count` lines of a .jsonl file in an order that is shuffled by the seed; anew, in another order,
    when all were there. An `output_len` below 1 leaves each line its own. Raises ValueError naming line and key."""
    rows = []
    for line, row in json_lines(path):
        try:
            rows.append((str(row["prompt"]), output_len if output_len > 0 else int(row["output_tokens"]), 0.0))
        except (KeyError, TypeError, ValueError) as bad:
            raise ValueError(f"{path}: line {line}: {type(bad).__name__}: {bad}") from None
    rng, order = random.Random(seed), list[tuple[str, int, float]]()
    while rows and len(order) < count:
        order += rng.sample(rows, len(rows))
    yield from order[:count]


def mix(classes: Sequence[Sequence[float]], count: int, seed: int, tokens: Any) -> Iterator[tuple[list[int], int, float]]:
    """(token ids, output tokens, 0) of `count` requests. Every class has its share to within one request, in an order that is
    shuffled by the seed. Prompts are token ids, since text made of random tokens is not always as long again when it is read."""
    import numpy

    rng = numpy.random.default_rng([seed, 0])
    kinds = numpy.repeat(numpy.arange(len(classes)), shares(count, [share for share, *_ in classes]))
    for kind in rng.permutation(kinds):
        _, input_len, output_len, spread = classes[kind]
        most = math.floor(input_len * spread)
        length = int(input_len) + int(rng.integers(-most, most + 1))
        yield tokens[rng.integers(len(tokens), size=length)].tolist(), int(output_len), 0.0


def shares(count: int, of: Sequence[float]) -> list[int]:
    """Whole numbers that add up to `count`, each less than one from its share; those cut off most are rounded up."""
    exact = [count * share / sum(of) for share in of]
    whole = [math.floor(x) for x in exact]
    by_rest = sorted(range(len(of)), key=lambda i: whole[i] - exact[i])
    for i in by_rest[: count - sum(whole)]:
        whole[i] += 1
    return whole


def replayed(trace: Mapping[str, Any], count: int, seed: int, tokens: Any) -> Iterator[tuple[list[int], int, float]]:
    """(token ids, output tokens, arrival in s) of the trace's first `count` requests. Blocks of one name have equal tokens, which
    depend on name and seed; the rest of a prompt is its own. Raises ValueError when there are fewer rows."""
    import numpy

    found = 0
    rows = read_trace(trace)  # a warm-up takes them again and again
    for n, row in enumerate(itertools.islice(rows if trace["timed"] else itertools.cycle(rows), count)):
        found += 1
        sizes = [trace["hash_tokens"]] * len(row.hash_ids)
        blocks = [numpy.random.default_rng([seed, 1, _number(name)]) for name in row.hash_ids]
        parts = [tokens[rng.integers(len(tokens), size=size)] for rng, size in zip(blocks, sizes, strict=True)]
        rest = max(0, row.input_len - sum(sizes))
        parts += [tokens[numpy.random.default_rng([seed, 2, n]).integers(len(tokens), size=rest)]]
        yield numpy.concatenate(parts)[: row.input_len].tolist(), row.output_len, row.at_s
    if found < count:
        raise ValueError(f"{trace['path']}: {found} requests in the trace, {count} were asked for; lower workload.num_prompts")


def _number(name: Any) -> int:
    return name if isinstance(name, int) and name >= 0 else int.from_bytes(str(name).encode(), "big")


# --- sending


class Sending:
    """How one point is sent: in place of what vLLM's benchmark would do, where the load asks for it and nowhere else."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.duration_s: float | None = args.pdslurm_duration_s
        self.stream = not args.pdslurm_no_stream
        self.by_trace = bool(args.pdslurm_trace and args.pdslurm_trace["timed"])
        self.slots: asyncio.Semaphore | None = None
        self.concurrency: int = args.max_concurrency or 1
        self.backend: str = args.backend
        self.failed_in_a_row = 0
        self.sent: list[Any] = []

    @property
    def is_ours(self) -> bool:
        return bool(self.duration_s) or self.by_trace or not self.stream

    @contextlib.contextmanager
    def in_place(self, serve: Any) -> Iterator[None]:
        """Puts itself into the module vllm.benchmarks.serve for one point."""
        if not self.is_ours:
            yield
            return
        self.next_of_vllm, self.send_of_vllm = serve.get_request, serve.ASYNC_REQUEST_FUNCS[self.backend]
        serve.get_request, serve.ASYNC_REQUEST_FUNCS[self.backend] = self.requests, self.send
        try:
            yield
        finally:
            serve.get_request, serve.ASYNC_REQUEST_FUNCS[self.backend] = self.next_of_vllm, self.send_of_vllm

    async def requests(self, made: Sequence[Any], *pace: Any, **more: Any) -> AsyncIterator[tuple[Any, float]]:
        """The requests, each when it is due, and the rate that holds then (0: none); `pace` is vLLM's rate, burstiness and ramp."""
        if self.by_trace:
            coming = self._by_trace(made)
        elif self.duration_s:
            coming = self._closed_loop(made, self.duration_s)
        else:
            coming = self.next_of_vllm(made, *pace, **more)
        async for request, rate in coming:
            self.sent.append(request)
            yield request, rate

    async def _by_trace(self, made: Sequence[Any]) -> AsyncIterator[tuple[Any, float]]:
        began = time.perf_counter()
        for request in made:
            if self.duration_s and request.pdslurm_at_s >= self.duration_s:
                return
            await asyncio.sleep(max(0.0, began + request.pdslurm_at_s - time.perf_counter()))
            yield request, 0.0

    async def _closed_loop(self, made: Sequence[Any], duration_s: float) -> AsyncIterator[tuple[Any, float]]:
        """One request for every answer until the time is over; prompts begin anew, under other ids, when all were sent."""
        self.slots = asyncio.Semaphore(self.concurrency)
        end = time.perf_counter() + duration_s
        for n in itertools.count():
            try:
                await asyncio.wait_for(self.slots.acquire(), max(0.0, end - time.perf_counter()))
            except asyncio.TimeoutError:  # noqa: UP041  # another class before Python 3.11
                return
            if time.perf_counter() >= end or self.failed_in_a_row >= FAILED_ROUNDS * self.concurrency:
                return
            request, again = made[n % len(made)], n // len(made)
            yield replace(request, request_id=f"{request.request_id}-{again}") if again else request, 0.0

    async def send(self, request_func_input: Any, session: Any, pbar: Any = None) -> Any:
        """Sends one request as vLLM does or without a stream, and frees its place."""
        how = self.send_of_vllm if self.stream else whole_answer
        try:
            output = await how(request_func_input=request_func_input, session=session, pbar=pbar)
            self.failed_in_a_row = 0 if output.success else self.failed_in_a_row + 1
            return output
        finally:
            if self.slots:
                self.slots.release()

    def outcome(self, result: dict[str, Any], made: Sequence[Any]) -> dict[str, Any]:
        """vLLM's result with what was asked, with null for what was not seen, and with what a fixed time means."""
        result = {**result, **request_counts(result, self.sent if self.is_ours else made)}
        if self.duration_s and result.get("completed"):
            result = within_duration(result, self.duration_s, streamed=self.stream)
        return result if self.stream else without_stream_metrics(result)


async def whole_answer(request_func_input: Any, session: Any, pbar: Any = None) -> Any:
    """One completion without a stream, as one of vLLM's ASYNC_REQUEST_FUNCS: its latency ends with the answer's last byte."""
    from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput

    given = request_func_input
    body = {"model": given.model_name or given.model, "prompt": given.prompt, "max_tokens": given.output_len, "stream": False}
    body |= {"repetition_penalty": 1.0, "logprobs": given.logprobs, **({"ignore_eos": True} if given.ignore_eos else {})}
    body |= given.extra_body or {}
    key = os.environ.get("OPENAI_API_KEY")
    headers = {**({"Authorization": f"Bearer {key}"} if key else {}), **(given.extra_headers or {})}
    headers |= {"x-request-id": given.request_id} if given.request_id else {}
    output = RequestFuncOutput(prompt_len=given.prompt_len, start_time=time.perf_counter())
    try:
        async with session.post(url=given.api_url, json=body, headers=headers) as response:
            text = await response.text()
            output.latency = output.ttft = time.perf_counter() - output.start_time  # nobody sees a token before the last
            if response.status == 200:
                answer = json.loads(text)
                output.generated_text = answer["choices"][0].get("text") or ""
                output.output_tokens = answer["usage"]["completion_tokens"]
                output.prompt_len = answer["usage"].get("prompt_tokens", given.prompt_len)
                output.success = True
            else:
                output.error = response.reason or f"HTTP {response.status}"
    except Exception as error:  # one request's failure is a result
        output.error = f"{type(error).__name__}: {error}"
    if pbar:
        pbar.update(1)
    return output


# --- what came of it


def request_counts(result: Mapping[str, Any], sent: Sequence[Any]) -> dict[str, Any]:
    """How many requests there were, how many had a prompt that was there before, and how many tokens the completed ones were to
    have; {} where the result has no lengths."""
    lengths: Sequence[int] = result.get("output_lens") or ()
    if not sent or len(lengths) != len(sent):
        return {}
    different = {hash(p if isinstance(p, str) else tuple(p)) for p in (request.prompt for request in sent)}
    ordered = sum(request.expected_output_len or 0 for request, got in zip(sent, lengths, strict=True) if got)
    return {"asked": len(sent), "prompts_again": len(sent) - len(different), "ordered_output_tokens": ordered}


def within_duration(result: Mapping[str, Any], duration_s: float, *, streamed: bool) -> dict[str, Any]:
    """Throughputs of the fixed time alone: what ended, and which tokens came, within it. Without a stream the tokens of a request
    count when it ended. Latencies stay those of all requests, for those still in flight at the end are the longest.
    vLLM's own throughputs, which include the time until the last answer, are under `until_last_answer`."""
    start = min(result["start_times"])
    ended = tokens = prompts = 0.0
    columns = ("start_times", "ttfts", "itls", "latencies", "output_lens", "input_lens")
    for began, ttft, itls, e2el, got, input_len in zip(*(result[name] for name in columns), strict=True):
        left = start + duration_s - began
        if not got:
            continue
        ended += e2el <= left
        share = _share_within(ttft, itls, left) if streamed else float(e2el <= left)
        tokens += got * share
        prompts += input_len * (share > 0)
    names = ("duration", "request_throughput", "output_throughput", "total_token_throughput")
    values = (duration_s, ended / duration_s, tokens / duration_s, (tokens + prompts) / duration_s)
    theirs = {name: result.get(name) for name in names}
    return {**result, **dict(zip(names, values, strict=True)), "until_last_answer": theirs, "ended_within_duration": int(ended)}


def _share_within(ttft: float, itls: Iterable[float], left: float) -> float:
    """The share of a request's chunks that came within `left` seconds of its start."""
    times = list(itertools.accumulate(itls, initial=ttft))
    return sum(t <= left for t in times) / len(times)


def without_stream_metrics(result: Mapping[str, Any]) -> dict[str, Any]:
    """Null for whatever only a stream shows."""
    values = dict(result)
    for name in result:
        if name.endswith(tuple(f"_{what}_ms" for what in STREAMED)) or name in ("max_output_tokens_per_s", "request_goodput"):
            values[name] = None
    return {**values, "ttfts": [None] * len(result["ttfts"]), "itls": [[] for _ in result["itls"]]}
