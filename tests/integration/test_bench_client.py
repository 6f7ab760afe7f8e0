"""The benchmark client with a small stand-in for vLLM: what it keeps, what it says, and how the driver talks to it.

The stand-in has what the client takes from vLLM and nothing else; the real vLLM is in tests/integration."""

from __future__ import annotations

import argparse
import asyncio
import gzip
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pdslurm.bench import client as bench_client
from pdslurm.config import Config
from pdslurm.errors import NotReady, PointFailed, ProcessDied, UnknownEngine
from pdslurm.measure.bench_client import BenchClient
from pdslurm.measure.progress import State
from pdslurm.node.processes import LocalProcesses
from pdslurm.plan.deployment import Process
from pdslurm.records.measurement import REQUEST_COLUMNS
from tests.made import watch_over
from tests.stand_ins import write_vllm

SCRIPT = Path(bench_client.__file__)
ARGS = ["--model", "m", "--dataset-name", "random", "--seed", "7", "--num-prompts", "3", "--base-url", "http://a", "--ignore-eos"]
CLIENT_FACTS = {
    "began_s", "client_busy", "loop_lag_ms", "loop_lag_max_ms", "loop_looks", "sending_s", "decode_s", "decode_tokens",
    "prompt_blocks",
}  # fmt: skip


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the stand-in, importable here; what was imported of it is forgotten afterwards."""
    root = write_vllm(tmp_path / "stand-in")
    monkeypatch.syspath_prepend(str(root))
    yield root
    for name in [n for n in sys.modules if n.partition(".")[0] == "vllm"]:
        del sys.modules[name]


@pytest.fixture
def client(vllm: Path) -> bench_client.Client:
    return bench_client.Client(io.StringIO())


def said(client: bench_client.Client) -> list[dict[str, Any]]:
    events = client.events
    assert isinstance(events, io.StringIO)
    return [json.loads(line) for line in events.getvalue().splitlines()]


def run(client: bench_client.Client, *more: str, raw: Path | None = None, requests: Path | None = None) -> dict[str, Any]:
    files = {"raw": str(raw) if raw else None, "requests": str(requests) if requests else None}
    answer = bench_client.carry_out(client, {"do": "run", "args": [*ARGS, *more], **files})
    assert answer["event"] == "result"
    result: dict[str, Any] = answer["result"]
    return result


# --- one process


def test_a_point_s_summary_and_its_files(client: bench_client.Client, tmp_path: Path) -> None:
    raw = tmp_path / "raw" / "route_2" / "point.json.gz"
    result = run(client, "--random-output-len", "3", raw=raw, requests=raw.with_name("point.requests.csv.gz"))
    assert set(result) == {
        "completed", "total_output_tokens", "duration", "samples", "arrivals", "ignore_eos", "mean_ttft_ms", "mean_e2el_ms",
        "mean_itl_ms", "mean_tpot_ms", "p90_ttft_ms", "p90_tpot_ms", "request_throughput", "output_throughput",
        "total_token_throughput", "total_input_tokens", "client_wall_s", "client_cpu_s", "prompts_s", "first_error", "asked",
        "prompts_again", "ordered_output_tokens",
        "itl_histogram", *CLIENT_FACTS,
    }  # fmt: skip
    assert result["first_error"] == "boom"
    assert result["ignore_eos"] is True
    assert (result["asked"], result["prompts_again"], result["ordered_output_tokens"]) == (3, 0, 9)
    assert result["itl_histogram"] == {"58": 6}, "15 ms"
    with gzip.open(raw, "rt") as file:
        kept = json.load(file)
    assert (kept["ttfts"], kept["errors"], "generated_texts" in kept) == ([0.1] * 3, ["", "boom", ""], False)
    with gzip.open(raw.with_name("point.requests.csv.gz"), "rt") as file:
        assert file.read().splitlines()[:2] == [",".join(REQUEST_COLUMNS), "0.0,0,3,100.0,15.0,15.0,130.0,1"]
    assert sorted(p.name for p in raw.parent.iterdir()) == ["point.json.gz", "point.requests.csv.gz"]
    assert said(client)[-1] == {"event": "progress", "done": 3, "total": 3}


def test_what_it_tells_of_itself(client: bench_client.Client) -> None:
    lengths = ("--random-input-len", "100", "--random-output-len", "8")
    result = run(client, *lengths, "--request-rate", "4")
    assert set(result) >= CLIENT_FACTS
    assert result["sending_s"] == pytest.approx(0.75, abs=0.01)
    assert time.monotonic() - 10 < result["began_s"] < time.monotonic() + 1, "on the clock that the driver reads too"
    assert {size: result["prompt_blocks"][size] for size in ("16", "64", "128")} == {"16": 21, "64": 6, "128": 3}
    assert result["client_busy"] < 0.5
    assert (result["decode_s"], result["decode_tokens"]) == (pytest.approx(0.24), 21)
    assert result["ordered_output_tokens"] == 24
    assert run(client, *lengths, "--behave", "busy")["client_busy"] == pytest.approx(0.95)
    lost = run(client, *lengths, "--behave", "lose")
    assert lost["prompt_blocks"]["128"] == 2, "of what was answered"


def test_a_loop_that_is_held_up_is_felt_while_a_point_runs_and_only_then() -> None:
    async def work() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        time.sleep(0.3)  # prompts are made
        await asyncio.sleep(0.1)
        bar = bench_client.Progress(total=1)
        await asyncio.sleep(0.02)
        time.sleep(0.15)  # an answer takes long to read
        await asyncio.sleep(0.08)
        bar.close()
        time.sleep(0.3)  # percentiles are computed
        await asyncio.sleep(0.1)
        return {}

    asyncio.run(bench_client.with_lag_sampled(work()))
    assert 0.05 < max(bench_client.Progress.lags) < 0.25


def test_prompts_are_made_once(client: bench_client.Client, capsys: pytest.CaptureFixture[str]) -> None:
    """Arms send the same prompts, at other addresses and paces; and arrival times do not depend on when prompts were made."""
    assert bench_client.carry_out(client, {"do": "prepare", "args": ARGS}) == {"event": "prepared"}
    first = run(client)
    second = run(client, "--base-url", "http://b", "--max-concurrency", "2", "--request-rate", "3")
    assert capsys.readouterr().out.count("making samples") == 1
    assert (first["samples"], first["arrivals"]) == (second["samples"], second["arrivals"])
    run(client, "--seed", "8")
    run(client, "--num-prompts", "4")
    assert capsys.readouterr().out.count("making samples") == 2


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"base_url": "http://b", "host": "b", "port": 1, "ready_check_timeout_sec": 5}, True),
        ({"request_rate": 2.0, "max_concurrency": 4, "burstiness": 0.5}, True),
        ({"pdslurm_duration_s": 60.0, "pdslurm_no_stream": True, "ramp_up_strategy": "linear"}, True),
        ({"pdslurm_mix": [[1.0, 64, 8, 0.0]]}, False),
        ({"pdslurm_trace": {"path": "a"}}, False),
        ({"seed": 8}, False),
        ({"random_input_len": 65}, False),
        ({"num_prompts": 4}, False),
        ({"tokenizer": "other"}, False),
    ],
)
def test_what_prompts_depend_on(client: bench_client.Client, change: dict[str, Any], same: bool) -> None:
    base = client.parse(ARGS)
    changed = argparse.Namespace(**{**vars(base), **change})
    assert (bench_client.sample_key(base) == bench_client.sample_key(changed)) is same


def test_progress_is_told_five_times_a_second_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(bench_client.Progress, "events", io.StringIO(), raising=False)
    bar = bench_client.Progress(total=10)
    for _ in range(10):
        now[0] += 0.15
        bar.update()
    told = bench_client.Progress.events
    assert isinstance(told, io.StringIO)
    assert [json.loads(line)["done"] for line in told.getvalue().splitlines()] == [1, 3, 5, 7, 9, 10]


def test_a_chunk_that_ends_after_data_loses_no_message(vllm: Path) -> None:
    """What is mended in vLLM's client: it strips each network chunk, and with it the blank after `data:`."""
    from vllm.benchmarks.lib import endpoint_request_func as module

    def messages() -> list[str]:
        handler = module.StreamedResponseHandler()
        return [m for chunk in (b"data: ", b'{"a": 1}') for m in handler.add_chunk(chunk)]

    assert messages() == ['data:{"a": 1}'], "as in vLLM: no longer begins with `data: `"
    bench_client.mend_stream_parser()
    assert messages() == ['data: {"a": 1}']


def test_the_client_needs_nothing_but_its_neighbours() -> None:
    """In the engine's environment nothing of pdslurm is installed, and its folder must not stand in front of what vLLM imports."""
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[1], run_name='client');"
        "print(*sorted(m for m in sys.modules if m.startswith('pdslurm'))); print(*sys.path, sep='\\n')"
    )
    said = subprocess.run([sys.executable, "-I", "-S", "-c", code, SCRIPT], capture_output=True, text=True, check=True).stdout
    modules, *path = said.splitlines()
    assert modules.split() == [
        "pdslurm", "pdslurm.bench", "pdslurm.bench.extra_loads", "pdslurm.bench.prompt_maker", "pdslurm.bench.request_trace",
        "pdslurm.bench.result_files", "pdslurm.bench.seams",
        "pdslurm.errors", "pdslurm.records", "pdslurm.records.measurement", "pdslurm.records.whole_file",
    ]  # fmt: skip
    assert not set(map(str, SCRIPT.parents)) & set(path)


# --- the process and the driver's side of it


@pytest.fixture
def processes() -> Iterator[LocalProcesses]:
    with LocalProcesses(stop_s=1.0) as made:
        yield made


@pytest.fixture
def start(vllm: Path, processes: LocalProcesses, tmp_path: Path) -> Callable[[], BenchClient]:
    def begin() -> BenchClient:
        argv = (sys.executable, str(SCRIPT))
        process = Process("client", "client", "client", None, 0, "127.0.0.1", (), None, argv, {"PYTHONPATH": str(vllm)})
        return BenchClient(watch_over(Config(), processes, tmp_path), process, tmp_path / "client.log")

    return begin


def measure(client: BenchClient, *more: str, timeout_s: float = 20.0, raw: Path | None = None) -> tuple[dict[str, Any], int]:
    """The result and how many requests were reported as done."""
    state = State("test", 1)
    return client.run([*ARGS, *more], raw, timeout_s=timeout_s, state=state), state.requests_done


def test_one_client_for_many_points(start: Callable[[], BenchClient], tmp_path: Path) -> None:
    client = start()
    client.prepare(ARGS)
    client.prepare([*ARGS, "--num-prompts", "no number"])  # fails again, and is recorded, when it is run
    client.settle(20.0)
    result, done = measure(client, raw=tmp_path / "raw.json.gz")
    assert (result["completed"], done) == (3, 3)
    assert (tmp_path / "raw.json.gz").is_file()
    for behaviour, text in (("raise", "ValueError: no such data set"), ("exit", "SystemExit: 3")):
        with pytest.raises(PointFailed, match=f"the benchmark client failed: {text}; its log: {client.running.log}"):
            measure(client, "--behave", behaviour)
    with pytest.raises(PointFailed, match="SystemExit: 2"):
        measure(client, "--num-prompts", "no number")
    assert measure(client)[0]["completed"] == 3, "a bad point does not end the client"
    log = client.running.log.read_text()
    assert log.count("making samples 7 None") == 1, "prompts were made ahead, and what vLLM prints is in the log"
    assert "ValueError: no such data set" in log
    client.stop()
    assert client.watch.processes.running == []


def test_a_vllm_that_has_changed_is_refused_in_one_line(start: Callable[[], BenchClient], vllm: Path) -> None:
    serve = vllm / "vllm" / "benchmarks" / "serve.py"
    serve.write_text(serve.read_text().replace("request_rate, burstiness=1.0", "rate, burstiness=1.0"))
    line = "get_request has no parameter request_rate; this pdslurm knows vLLM 0.24 to 0.32"
    with pytest.raises(UnknownEngine, match=rf"vllm 0\.0.*: vllm\.benchmarks\.serve\.{line}$"):
        start().settle(20.0)


def test_the_real_vllm_is_as_the_client_knows_it(engine: Path) -> None:
    code = "from pdslurm.bench import seams; seams.check(seams.imported()); print('as known')"
    done = subprocess.run(
        [engine / "bin" / "python", "-c", code], capture_output=True, text=True, check=False, cwd=SCRIPT.parents[2]
    )
    assert done.stdout.splitlines()[-1:] == ["as known"], done.stderr


def test_a_result_without_what_is_measured_is_refused_at_the_first_point(start: Callable[[], BenchClient], vllm: Path) -> None:
    serve = vllm / "vllm" / "benchmarks" / "serve.py"
    serve.write_text(serve.read_text().replace('"start_times":', '"started":'))
    with pytest.raises(UnknownEngine, match="the result has no start_times; this pdslurm knows"):
        measure(start())


def test_a_hundred_points_can_be_asked_for_while_the_client_still_imports(start: Callable[[], BenchClient]) -> None:
    """A pipe holds 64 KiB; the driver must not wait in it."""
    client = start()
    began = time.monotonic()
    for _ in range(400):
        client.prepare([*ARGS, "--label", "x" * 1000])
    assert time.monotonic() - began < 0.2
    client.settle(20.0)
    assert client.owed == 0


def test_a_client_that_dies_is_noticed_at_once(start: Callable[[], BenchClient]) -> None:
    client = start()
    client.settle(20.0)
    began = time.monotonic()
    with pytest.raises(ProcessDied, match=r"client on 127\.0\.0\.1 died: exit code 7"):
        measure(client, "--behave", "die")
    assert time.monotonic() - began < 1.0


def test_a_client_that_hangs_meets_the_deadline_and_can_be_stopped(start: Callable[[], BenchClient]) -> None:
    client = start()
    client.settle(20.0)
    with pytest.raises(NotReady, match=f"the benchmark client gave no answer in time; its log: {client.running.log}"):
        measure(client, "--behave", "hang", timeout_s=0.5)
    began = time.monotonic()
    client.stop()
    assert time.monotonic() - began < 0.9


# --- prompts made beside


def makers(client: BenchClient) -> list[psutil.Process]:
    return psutil.Process(client.running.popen.pid).children()


def test_prompts_made_beside_are_those_that_the_client_makes(start: Callable[[], BenchClient]) -> None:
    client = start()
    client.prepare(ARGS)
    client.settle(20.0)
    beside, alone = measure(client)[0], measure(client, "--label", "asked for by nobody")[0]
    assert (beside["samples"], beside["arrivals"]) == (alone["samples"], alone["arrivals"])
    assert client.running.log.read_text().count("making samples") == 2


def test_another_arm_s_address_needs_no_other_prompts(start: Callable[[], BenchClient]) -> None:
    client = start()
    client.prepare(ARGS)
    client.prepare(["http://b" if word == "http://a" else word for word in ARGS])
    client.settle(20.0)
    measure(client)
    assert client.running.log.read_text().count("making samples") == 1


def test_prompts_are_made_while_a_point_is_measured_with_the_lowest_priority(
    start: Callable[[], BenchClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "client"
    monkeypatch.setenv("STAND_INS", str(tmp_path))
    client = start()
    told.write_text("hang")
    made: list[float] = []

    def meanwhile() -> None:
        if not made:
            client.prepare([*ARGS, "--label", "the next point"])
            made.append(time.monotonic())
        elif not client.owed:
            told.write_text("")

    client.settle(20.0)
    assert client.run(ARGS, None, timeout_s=20.0, meanwhile=meanwhile)["completed"] == 3
    measure(client, "--label", "the next point")
    assert client.running.log.read_text().count("making samples") == 2
    assert 19 in {process.nice() for process in makers(client)}
    assert os.SCHED_IDLE in {os.sched_getscheduler(process.pid) for process in makers(client)}


def test_where_whoever_makes_prompts_was_killed_the_client_makes_them(start: Callable[[], BenchClient]) -> None:
    client = start()
    client.settle(20.0)
    for process in makers(client):
        process.kill()
    for n in range(5):
        client.prepare([*ARGS, "--label", str(n)])
    client.settle(20.0)
    assert measure(client)[0]["completed"] == 3
    assert measure(client, "--label", "3")[0]["completed"] == 3


def test_the_processes_end_with_the_client(start: Callable[[], BenchClient]) -> None:
    client = start()
    client.settle(20.0)
    beside = makers(client)
    assert len(beside) == client.makers >= 1
    client.running.popen.kill()
    assert psutil.wait_procs(beside, timeout=5)[1] == []
