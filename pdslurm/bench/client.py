"""The long-lived benchmark client: JSON commands in by stdin, JSON events out by stdout, `vllm bench serve` in between.

Runs by itself in the engine's environment, which has nothing of pdslurm: of it the client takes only files that
need no more than it has. Importing vLLM costs 10-40 s; here it is paid once instead of once a point.

    {"do": "prepare", "args": [...]}                   make a point's prompts ahead, in a process beside (prompt_maker.py)
    {"do": "run", "args": [...], "raw": PATH.json.gz, "requests": PATH.csv.gz}  measure; both paths may be null

`args` are those of `vllm bench serve` and of extra_loads. Events: ready, with how many requests for prompts are worked on at once,
progress, prepared, result, error; and refused, by a vLLM that is not as it was."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import functools
import gc
import json
import os
import queue
import random
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TextIO

ROOT = str(Path(__file__).parents[2])
if not __package__:  # run by itself; afterwards nothing here may stand in front of what vLLM imports
    sys.path[:] = [ROOT, *(p for p in sys.path if p != str(Path(__file__).parent))]
from pdslurm.bench import extra_loads, result_files, seams  # noqa: E402
from pdslurm.bench.prompt_maker import PromptMakers, makers_for  # noqa: E402

if not __package__:
    sys.path.remove(ROOT)

PR_SET_PDEATHSIG = 1
LAG_EVERY_S = 0.05
BLOCK_SIZES = tuple(2**n for n in range(3, 13))  # tokens; that of an engine is only known to its driver
emitting = threading.Lock()
# Results with one value a request stay in the raw file; the texts are random tokens and are not kept.
PER_REQUEST = (
    "input_lens",
    "output_lens",
    "start_times",
    "ttfts",
    "itls",
    "latencies",
    "queue_times",
    "client_queue_times",
    "errors",
)


class Progress:
    """Stands in for tqdm inside vLLM's benchmark and reports at most five times a second. vLLM makes its bar right before the first
    request and closes it after the last, which is when this thread's time is taken."""

    events: TextIO
    began = ended = (0.0, 0.0)  # of the latest bar: the clock, and this thread's CPU time
    lags: list[float]  # while it was open: how late the event loop woke up, s

    def __init__(self, *_: Any, total: int | None = None, **__: Any) -> None:
        self.total, self.n, self.last = total or 0, 0, 0.0
        Progress.began, Progress.ended, Progress.lags = thread_time(), (0.0, 0.0), []

    def update(self, n: int = 1) -> None:
        self.n += n
        now = time.monotonic()
        if now - self.last > 0.2 or self.n == self.total:
            self.last = now
            emit(self.events, event="progress", done=self.n, total=max(self.total, self.n))  # a closed loop for a time goes on

    def close(self) -> None:
        Progress.ended = thread_time()


def mend_stream_parser() -> None:
    """vLLM's client strips every network chunk, so that one which ends after "data: " loses the blank, the next message no longer
    starts with "data: " and a good answer counts as failed (seen once in 240 requests through the router). Puts the blank back."""
    from vllm.benchmarks.lib.endpoint_request_func import StreamedResponseHandler as handler

    add_chunk = handler.add_chunk

    def mended(self: Any, chunk: bytes) -> Any:
        if self.buffer == "data:":
            self.buffer = "data: "
        return add_chunk(self, chunk)

    handler.add_chunk = mended


def emit(out: TextIO, **event: Any) -> None:
    """One line, also where threads tell at the same time."""
    with emitting:
        out.write(json.dumps(event, default=str) + "\n")
        out.flush()


class Client:
    """Parses arguments as `vllm bench serve` does and keeps prepared prompts by the arguments that they depend on."""

    def __init__(self, events: TextIO) -> None:
        """Raises SeamError where this vLLM has not what is taken from it."""
        seams.check(seams.imported())
        import numpy
        from vllm.benchmarks import serve
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        self.serve, self.numpy, self.events = serve, numpy, events
        self.parser = FlexibleArgumentParser()
        serve.add_cli_args(self.parser)
        extra_loads.add_arguments(self.parser)
        self.vllm_get_samples = serve.get_samples
        self.prepared: dict[str, Any] = {}
        self.latest: list[Any] = []  # the samples that were asked for last
        self.makers: PromptMakers | None = None
        self.asked: list[str] = []  # the arguments of the point that is measured
        self.prompts_s = 0.0  # how long it took to have its prompts
        mend_stream_parser()
        Progress.events = events
        serve.tqdm = Progress
        serve.get_samples = self.get_samples
        serve.get_tokenizer = functools.cache(serve.get_tokenizer)  # the same one for every point

    def parse(self, args: list[str]) -> argparse.Namespace:
        namespace: argparse.Namespace = self.parser.parse_args(args)
        return namespace

    def get_samples(self, args: argparse.Namespace, tokenizer: Any, **more: Any) -> Any:
        """vLLM's get_samples with a memory. Arms that send the same prompts share them. The random state afterwards is the same
        whether the prompts were made now or before, so that arrival times are too."""
        key, began = sample_key(args), time.monotonic()
        if key not in self.prepared and self.makers and (made := self.makers.take(self.asked)) is not None:
            self.prepared[key] = made
        if key not in self.prepared:
            random.seed(args.seed)
            self.numpy.random.seed(args.seed)
            own = extra_loads.own_requests(args, tokenizer)
            self.prepared[key] = self.vllm_get_samples(args, tokenizer, **more) if own is None else own
        random.seed(args.seed + 1)
        self.numpy.random.seed(args.seed + 1)
        self.latest = self.prepared[key]
        self.prompts_s = time.monotonic() - began
        return self.latest

    def prepare(self, args: argparse.Namespace) -> Any:
        """Does what main_async does before it asks for samples, and asks for them."""
        tokenizer = self.serve.get_tokenizer(
            args.tokenizer or args.model, tokenizer_mode=args.tokenizer_mode, trust_remote_code=args.trust_remote_code
        )
        return self.get_samples(args, tokenizer)

    def make_prompts(self, args: list[str]) -> Any:
        """A point's prompts, of which nothing stays in memory."""
        made = self.prepare(self.parse(args))
        self.prepared.clear()
        return made

    def run(self, args: argparse.Namespace, raw: str | None, requests: str | None = None) -> dict[str, Any]:
        """One point. Returns the summary without per-request data, which goes to `raw`, and a line of each to `requests`."""
        if args.dataset_name in ("random", "random-mm"):
            args.ignore_eos = True
        sending = extra_loads.Sending(args)
        cpu, start = cpu_s(), time.monotonic()
        with sending.in_place(self.serve):
            result: dict[str, Any] = asyncio.run(with_lag_sampled(self.serve.main_async(args)))
        seams.check_result(result)
        result["client_wall_s"], result["client_cpu_s"] = time.monotonic() - start, cpu_s() - cpu
        result["prompts_s"] = self.prompts_s
        gc.unfreeze()  # vLLM collects and freezes the heap at every point; a long-lived process would grow with each
        result.pop("generated_texts", None)
        result = result_files.with_latencies(result)
        own = client_facts(result)  # of all that was sent, also after a fixed time
        result = sending.outcome(result, self.latest)
        result["first_error"] = next((e for e in result.get("errors") or [] if e), None)
        if raw:
            result_files.write_result(Path(raw), result_files.to_microseconds(result))
        if requests:
            result_files.write_requests(Path(requests), result)
        summary = {k: v for k, v in result.items() if k not in PER_REQUEST}
        return {**summary, **own, "itl_histogram": result_files.itl_histogram(result)}


def sample_key(args: argparse.Namespace) -> str:
    """The arguments that prompts depend on: all but where they are sent and how fast."""
    where = {"base_url", "host", "port", "request_id_prefix", "ready_check_timeout_sec"}
    pace = {"request_rate", "max_concurrency", "burstiness", "self_timed", "pdslurm_duration_s", "pdslurm_no_stream"}
    pace |= {"ramp_up_strategy", "ramp_up_start_rps", "ramp_up_end_rps"}
    return repr([(k, v) for k, v in sorted(vars(args).items()) if k not in where | pace])


async def with_lag_sampled(work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Does `work` and notes how late the event loop wakes up meanwhile: so late is everything that it sends and times."""

    async def sample_lag() -> None:
        while True:
            due = time.perf_counter() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            if Progress.began[0] < due - LAG_EVERY_S and not Progress.ended[0]:
                Progress.lags.append(time.perf_counter() - due)

    sampling = asyncio.create_task(sample_lag())
    try:
        return await work
    finally:
        sampling.cancel()


def client_facts(result: dict[str, Any]) -> dict[str, Any]:
    """What the checks of a point ask about the client itself and cannot tell from the summary: this thread's share of a core, how
    late its event loop was, when requests went out and came back, what the prompts fill in KV blocks of any size. Times count from
    the first request; `began_s` is that moment on this host's monotonic clock."""
    starts, ends = result.get("start_times") or [], result.get("latencies") or []
    lens = result.get("output_lens") or []
    good = [i for i, n in enumerate(lens) if n]
    firsts = result.get("ttfts") or []
    first, (began, cpu), (ended, cpu_then) = min(starts, default=None), Progress.began, Progress.ended
    prompts = [result["input_lens"][i] for i in good] if "input_lens" in result else []
    lags = Progress.lags if ended else []
    return {
        "began_s": first,
        "client_busy": (cpu_then - cpu) / (ended - began) if ended > began else None,
        "loop_lag_ms": 1e3 * sum(lags) / len(lags) if lags else None,
        "loop_lag_max_ms": 1e3 * max(lags) if lags else None,
        "loop_looks": len(lags),
        "sending_s": max(starts) - began if starts and ended else None,
        "decode_s": sum(ends[i] - firsts[i] for i in good) if None not in (firsts or [None]) and ends else None,
        "decode_tokens": sum(lens[i] - 1 for i in good),
        "prompt_blocks": {str(size): sum(-(-n // size) for n in prompts) for size in BLOCK_SIZES} if prompts else None,
    }


def thread_time() -> tuple[float, float]:
    """The clock that vLLM's benchmark uses, and the CPU time of this thread, which runs its event loop."""
    return time.perf_counter(), time.thread_time()


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def carry_out(client: Client, command: dict[str, Any]) -> dict[str, Any]:
    """Carries out one command."""
    args, client.asked = client.parse(command["args"]), command["args"]
    if command["do"] == "prepare":
        client.prepare(args)
        return {"event": "prepared"}
    return {"event": "result", "result": client.run(args, command.get("raw"), command.get("requests"))}


def take_commands(makers: PromptMakers, runs: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    """A thread: prompts are asked for while a point is measured, too; None when stdin ends."""
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "prepare":
            makers.ask(command["args"])
        else:
            runs.put(command)
    runs.put(None)


def main() -> None:
    """Serves commands until stdin ends. What vLLM prints goes to stderr, which is the client's log."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # stdin's end is seen only after a point
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        client = Client(events)
    except seams.SeamError as error:
        emit(events, event="refused", error=str(error))
        sys.stdin.read()  # whoever started this process is to read the line, not to find that it died
        return
    count = makers_for(len(os.sched_getaffinity(0)))
    makers = PromptMakers(count, client.make_prompts, lambda: emit(events, event="prepared"))
    client.makers = makers
    emit(events, event="ready", pid=os.getpid(), makers=count)
    runs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=take_commands, args=(makers, runs), name="commands", daemon=True).start()
    serve(client, runs, events)


def serve(client: Client, runs: queue.SimpleQueue[dict[str, Any] | None], events: TextIO) -> None:
    """Measures one point after the other."""
    while command := runs.get():
        try:
            emit(events, **carry_out(client, command))
        except seams.SeamError as error:
            emit(events, event="refused", error=str(error))
        except (Exception, SystemExit) as error:  # argparse exits on a bad argument; the client must outlive a bad point
            traceback.print_exc()
            emit(events, event="error", error=f"{type(error).__name__}: {error}")
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    main()
