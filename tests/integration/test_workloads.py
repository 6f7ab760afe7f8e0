"""Every data set and every shape of load through the real client and a real `vllm serve` on the CPU, one instance for all of them.

It keeps a prefix cache: what hits it besides shared beginnings would show, for every point has prompts of its own."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pdslurm.bench import make_model
from pdslurm.config import Config, PromptClass, RampUp, Sweep, Trace
from pdslurm.measure import telemetry
from pdslurm.measure.bench_client import BenchClient
from pdslurm.measure.health import get_many
from pdslurm.node.ports import ReservedPorts
from pdslurm.node.preflight import bind_free
from pdslurm.node.processes import LocalProcesses
from pdslurm.plan.commands import bench_args
from pdslurm.plan.deployment import Process
from pdslurm.plan.plan import build_plan
from pdslurm.plan.points import Point, expected_hit_rate, points_of
from pdslurm.records.measurement import metrics_of
from tests.made import watch_over
from tests.unit.plan.test_golden import composed

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
LOAD_S = 240.0  # 30 s when nothing else runs
LATE_S = 0.15  # that a request may be sent late: two cores carry client and engine
ONE = ("cluster=laptop", "model=tiny", "workload=demo", "topology.nodes=1", "topology.router.enabled=false")


@dataclass(frozen=True)
class Measured:
    """A point that was run: the client's summary, its requests' lines, tokens asked of the prefix cache and found there."""

    config: Config
    point: Point
    result: Mapping[str, Any]
    requests: list[dict[str, float | None]]
    queries: float
    hits: float

    def column(self, name: str) -> list[float]:
        return [value for row in self.requests if (value := row[name]) is not None]


class Bench:
    """One engine, and one client that runs points against it."""

    def __init__(self, config: Config, processes: LocalProcesses, client: BenchClient, engine: Process, folder: Path) -> None:
        self.config, self.processes, self.client, self.engine, self.folder = config, processes, client, engine, folder
        self.count = 0

    def run(self, **workload: Any) -> Measured:
        """Measures the one point of a workload as the driver would."""
        base = replace(self.config.workload, num_prompts=8, repeats=1)
        config = replace(self.config, workload=replace(base, **workload), seed=self.config.seed)
        (point,) = build_plan(config).points
        self.count += 1
        file = self.folder / f"{self.count}.csv.gz"
        before = telemetry.scrape([self.engine])
        args = bench_args(config, point, str(self.engine.url))
        result = self.client.run(args, None, requests=file, timeout_s=120.0)
        counted = telemetry.counted(before, telemetry.scrape([self.engine]), {self.engine.name: "both"}, [])["totals"]
        with gzip.open(file, "rt") as lines:
            rows = [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(lines)]
        assert result["completed"] == len(rows) == result["asked"], result.get("first_error")
        return Measured(config, point, result, rows, counted["prefix_cache_queries"], counted["prefix_cache_hits"])


@pytest.fixture(scope="module")
def bench(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("workloads")
    config = composed("custom", *ONE, f"model.path={folder}/tiny", "workload.prefix_caching=true")
    config.runtime.vllm, config.runtime.python = [str(engine / "bin/vllm")], [str(engine / "bin/python")]
    maker = Path(make_model.__file__)
    subprocess.run(
        [engine / "bin/python", maker, folder / "tiny"],
        input=json.dumps(config.model.hf_config),
        text=True,
        check=True,
        timeout=120,
    )
    with ReservedPorts() as ports, LocalProcesses(stop_s=5.0) as processes:
        deployment = bind_free(build_plan(config), ports.reserve_free)
        (process,) = deployment.sets[0].engines
        processes.start(process, folder / "engine.log")
        client = BenchClient(watch_over(config, processes, folder), deployment.client, folder / "client.log")
        deadline = time.monotonic() + LOAD_S
        while get_many({"engine": f"{process.url}/health"}, timeout_s=2.0)["engine"] is None:
            processes.check()
            assert time.monotonic() < deadline, (folder / "engine.log").read_text()[-2000:]
            time.sleep(0.3)
        client.settle(LOAD_S)
        made = Bench(config, processes, client, process, folder)
        made.run(sweeps={"warm": Sweep([64], [8])})
        yield made
        client.stop()


def lines(path: Path, *values: object) -> str:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return str(path)


# --- data sets


def test_random_prompts(bench: Bench) -> None:
    got = bench.run(sweeps={"s": Sweep([300], [16])})
    assert got.column("output_len") == [16] * 8
    assert 8 < sum(got.result["itl_histogram"].values()) <= 8 * 15, "fewer where an engine that was busy sends tokens together"
    assert all(abs(n - 300) <= 6 for n in got.column("input_len")), "text is read again as a few tokens more or less"
    assert (got.hits, got.queries > 2300) == (0, True), "no prompt was there before"
    assert got.column("start_s") == sorted(got.column("start_s"))
    assert all(0 < t < e for t, e in zip(got.column("ttft_ms"), got.column("e2el_ms"), strict=True))
    assert max(got.column("itl_max_ms")) >= max(got.column("tpot_ms"))


def test_a_mix_has_exactly_its_lengths(bench: Bench) -> None:
    mix = {"short": PromptClass(0.75, 100, 8), "long": PromptClass(0.25, 900, 4)}
    got = bench.run(dataset="mix", num_prompts=12, sweeps={"s": Sweep(mix=mix)})
    assert Counter(zip(got.column("input_len"), got.column("output_len"), strict=True)) == {(100, 8): 9, (900, 4): 3}
    assert got.hits == 0
    again = bench.run(dataset="mix", num_prompts=12, sweeps={"s": Sweep(mix=mix)})
    assert again.column("input_len") == got.column("input_len"), "in the same order from the same seed"
    assert again.hits / again.queries > 0.5, "and they were the same prompts"


def test_shared_beginnings_hit_as_expected(bench: Bench) -> None:
    got = bench.run(
        dataset="prefix_repetition", prefix_len=256, num_prefixes=3, num_prompts=10, sweeps={"s": Sweep([320], [4], [None], [1])}
    )
    expected = expected_hit_rate(got.config.workload, got.point)
    assert expected is not None
    assert expected == pytest.approx(0.75 * 256 / 320)
    assert len(got.requests) == 12, "as many for each beginning"
    assert expected - 0.1 <= got.hits / got.queries <= expected + 0.01


def test_conversations(bench: Bench, tmp_path: Path) -> None:
    words = "the quick brown fox jumps over the lazy dog and runs on "
    talks = [{"conversations": [{"value": f"{n} {words * n}"}, {"value": f"{words * 2}{n}"}]} for n in range(1, 9)]
    (tmp_path / "talks.json").write_text(json.dumps([*talks, {"conversations": [{"value": "alone"}]}]))
    sharegpt = {"dataset": "sharegpt", "dataset_path": str(tmp_path / "talks.json"), "prefix_hit_rate": 0.5}
    own = bench.run(**sharegpt, sweeps={"s": Sweep()})
    assert sum(own.column("output_len")) == own.result["ordered_output_tokens"] == own.result["total_output_tokens"]
    assert len(set(own.column("input_len"))) == 8
    fixed = bench.run(**sharegpt, sweeps={"s": Sweep([0], [5])})
    assert fixed.column("output_len") == [5] * 8


def test_prompts_from_lines(bench: Bench, tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", *({"prompt": f"Say {'so ' * n}", "output_tokens": n + 2} for n in range(8)))
    custom = {"dataset": "custom", "dataset_path": path, "prefix_hit_rate": 0.5}
    own = bench.run(**custom, sweeps={"s": Sweep()})
    assert sorted(own.column("output_len")) == list(range(2, 10))
    assert own.result["prompts_again"] == 0
    few = bench.run(**custom, num_prompts=12, sweeps={"s": Sweep([0], [3])})
    assert (few.column("output_len"), few.result["prompts_again"]) == ([3] * 12, 4), "which is told"


def test_a_trace_at_its_times(bench: Bench, tmp_path: Path) -> None:
    at = [0, 0, 300, 700, 1000, 1900]
    rows = [{"t": 50_000 + t, "in": 20 + n, "out": 2 + n, "hash_ids": [9]} for n, t in enumerate(at)]
    trace = Trace("t", "in", "out", hash_tokens=16, seconds=0.001)
    replayed = {"dataset": "trace", "dataset_path": lines(tmp_path / "a.jsonl", *rows), "trace": trace, "prefix_hit_rate": 1.0}
    got = bench.run(**replayed, num_prompts=6, sweeps={"s": Sweep()})
    assert got.column("start_s") == pytest.approx([t / 1000 for t in at], abs=LATE_S)
    assert got.column("input_len") == [20 + n for n in range(6)]
    assert got.column("output_len") == [2 + n for n in range(6)]
    part = bench.run(**replayed, num_prompts=6, duration_s=0.9, sweeps={"s": Sweep()})
    assert (len(part.requests), part.point.id) == (4, "rinf-cinf-trace-0.001-s-a-unit-0.9-s-rep0")


# --- shapes


def test_arms_get_the_same_requests_at_the_same_times(bench: Bench) -> None:
    """The two ways to a random arrival: prompts made just before, and prompts that an earlier arm had already."""
    load: dict[str, Any] = {"num_prompts": 12, "burstiness": 0.5, "sweeps": {"s": Sweep([64], [4], [6.0])}}
    first, second = bench.run(**load), bench.run(**load)
    assert second.column("start_s") == pytest.approx(first.column("start_s"), abs=LATE_S)
    assert second.column("input_len") == first.column("input_len")
    gaps = [b - a for a, b in pairwise(first.column("start_s"))]
    assert max(gaps) > 2 * min(gaps), "at random"
    other = replace(bench.config, seed=1)
    (point,) = points_of(replace(other.workload, repeats=1, **load), 1)
    assert point.seed != first.point.seed


def test_a_rate_for_a_time(bench: Bench) -> None:
    got = bench.run(num_prompts=None, duration_s=2.0, sweeps={"s": Sweep([32], [4], [5.0])})
    assert len(got.requests) == 10
    assert 1.0 < got.column("start_s")[-1] < 2.0 + LATE_S


def test_a_ramp(bench: Bench) -> None:
    got = bench.run(num_prompts=24, burstiness=50.0, ramp_up=RampUp(4, 20), sweeps={"s": Sweep([32], [2])})
    starts = got.column("start_s")
    assert len(starts) == 24
    assert starts[8] > 2 * (starts[-1] - starts[-9]), "ever faster"
    assert got.result["ramp_up_end_rps"] == 20


def test_a_closed_loop_for_a_time(bench: Bench) -> None:
    got = bench.run(duration_s=2.5, num_prompts=6, sweeps={"s": Sweep([32], [6], [None], [3])})
    starts, took = got.column("start_s"), got.column("e2el_ms")
    assert 2.5 - max(took) / 1000 - LATE_S < starts[-1] < 2.5
    assert len(starts) > 6, "prompts begin anew"
    assert got.result["prompts_again"] >= len(starts) - 6, "vLLM's random prompts are not always different"
    ends = [s + t / 1000 for s, t in zip(starts, took, strict=True)]
    flying = [sum(s <= now < e for s, e in zip(starts, ends, strict=True)) for now in starts]
    assert max(flying) == 3
    metrics, ended = metrics_of(got.result), sum(e <= 2.5 for e in ends)
    assert metrics["duration_s"] == 2.5
    assert metrics["request_throughput_per_s"] == pytest.approx(ended / 2.5, abs=0.5), "what ended in the time"
    assert ended * 6 / 2.5 - 1 <= (metrics["output_throughput_tok_s"] or 0) <= len(starts) * 6 / 2.5
    assert got.result["until_last_answer"]["duration"] == pytest.approx(max(ends), abs=0.2)


def test_whole_answers_have_an_end_to_end_latency_alone(bench: Bench) -> None:
    got = bench.run(stream=False, sweeps={"s": Sweep([64], [10])})
    metrics = metrics_of(got.result)
    assert {name for name in metrics if name.endswith("_ms") and metrics[name] is not None} == {
        f"{stat}_e2el_ms" for stat in ("mean", "std", "p50", "p90", "p95", "p99")
    }
    assert got.column("output_len") == [10] * 8
    assert min(got.column("e2el_ms")) > 5
    assert (got.column("ttft_ms"), got.column("tpot_ms"), got.result["itl_histogram"]) == ([], [], {})
    assert metrics["output_throughput_tok_s"]
    streamed = bench.run(sweeps={"s": Sweep([64], [10])})
    assert streamed.column("ttft_ms") != [], "the next point streams again"
