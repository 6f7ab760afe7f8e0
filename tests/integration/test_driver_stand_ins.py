"""The driver's decisions with stand-ins for every program, a second each: what ends a run, what fails a point and goes on."""

from __future__ import annotations

import csv
import functools
import gzip
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pdslurm import config as c
from pdslurm.errors import Interrupted, LimitReached, NotReady, PdslurmError, ProcessDied, ResultsError
from pdslurm.launchers.run import write_provenance
from pdslurm.measure.driver import Driver, Outcome
from pdslurm.measure.health import Answer, HealthPoll
from pdslurm.measure.progress import Display, State
from pdslurm.measure.what_ran import write_fairness
from pdslurm.node.engine_env import EngineEnv
from pdslurm.node.node_check import check_node
from pdslurm.node.ports import ReservedPorts
from pdslurm.node.preflight import bind_free
from pdslurm.node.processes import LocalProcesses
from pdslurm.plan.fairness import compare
from pdslurm.plan.outline import make_outline
from pdslurm.plan.tasks import Tasks
from pdslurm.records.gpu_time import loads_of, set_times
from pdslurm.records.run_folder import RunFolder
from pdslurm.signals import SignalNote
from pdslurm.validity.text import text
from tests.stand_ins import SERVER, write_vllm

MakeConfig = Callable[..., c.Config]
Make = Callable[..., Driver]


@pytest.fixture
def driver(tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """driver({"limits.point_s": 1}, engine="falls-ill", client="hang:128"): Route 2 over points of 64, 128 and 256 tokens."""
    monkeypatch.setattr("pdslurm.measure.watch.HealthPoll", functools.partial(HealthPoll, interval_s=0.05))
    monkeypatch.setattr("pdslurm.measure.telemetry.COUNTED_WITHIN_S", 0.3)  # stand-ins count before they answer
    server = tmp_path / "server.py"
    server.write_text(SERVER)
    made: list[Driver] = []
    started: list[LocalProcesses] = []
    ports = ReservedPorts()

    def make(changes: dict[str, Any] | None = None, **behave: str) -> Driver:
        sweeps = {"all": c.Sweep([64, 128, 256], [32])}
        config = make_config({
            "cluster.one_host": True, "cluster.gpus_per_node": 1, "cluster.device": c.Device.cpu, "topology.nodes": 2,
            "topology.tensor_parallel": 1, "topology.route": 2, "workload.sweeps": sweeps, "workload.warmup_prompts": 0,
            "workload.num_prompts": 4, "limits.start_s": 20.0, "limits.point_s": 10.0, "limits.stop_s": 1.0, **(changes or {}),
        })  # fmt: skip
        config.runtime.vllm = config.runtime.router = [sys.executable, "-S", str(server)]
        config.runtime.python = [sys.executable]
        config.runtime.env = {"PYTHONPATH": str(write_vllm(tmp_path / "stand-in"))}
        if "STAND_INS" in os.environ:
            config.runtime.env["STAND_INS"] = os.environ["STAND_INS"]
        for field, where in (("engine", config.topology), ("router", config.topology.router), ("client", config.workload)):
            if field in behave:
                where.extra_args = ["--behave", behave[field]]
        outline = make_outline(config)
        display = Display(State("test", len(outline.plan.points)), Console(file=(tmp_path / "said").open("a"), width=200))
        signals = SignalNote()
        started.append(LocalProcesses(stop_s=config.limits.stop_s, hurry=lambda: signals.hurry))
        tasks = Tasks(bind_free(outline.plan, ports.reserve_free), outline.deployment, {})
        made.append(Driver(tasks, RunFolder(tmp_path / "run"), display, started[-1], signals))
        made[-1].folder.path.mkdir(exist_ok=True)
        return made[-1]

    with ports:
        yield make
    for each in made:
        each.journal.display.console.file.close()
    for processes in started:
        assert processes.running == []
        processes.temp.rmdir()


def ending(made: Driver, error: type[PdslurmError]) -> str:
    """The text of the error that ends the run."""
    with pytest.raises(error) as caught:
        made.run()
    return str(caught.value)


def states(made: Driver) -> dict[int, str]:
    """Input length → done or failed."""
    return {r.point["input_len"]: r.status for r in made.folder.records()}


def events(made: Driver) -> list[str]:
    return [json.loads(line)["event"] for line in (made.folder.path / "events.jsonl").read_text().splitlines()]


def logs(made: Driver) -> list[str]:
    return sorted(str(p.relative_to(made.folder.path / "logs")) for p in made.folder.path.glob("logs/**/*.log"))


def test_a_run_and_its_rerun(driver: Make) -> None:
    first = driver()
    outcome = first.run()
    assert (outcome.measured, outcome.skipped, outcome.failed, outcome.invalid) == (3, 0, 0, 0)
    assert states(first) == {64: "done", 128: "done", 256: "done"}
    assert logs(first) == ["client.log", "test/engine0.log", "test/engine1.log", "test/test-router.log"]
    again = driver()
    outcome = again.run()
    assert (outcome.measured, outcome.skipped) == (0, 3)
    assert logs(again) == logs(first), "nothing was started"


def test_a_resumed_run_loads_only_sets_with_something_open_each_once(driver: Make) -> None:
    """Two sets in two starts; one point of one set's second start is lost."""
    arms = {"pair": c.Topology(nodes=2, route=2, tensor_parallel=1), "one": c.Topology(nodes=1, route=1, tensor_parallel=1)}
    changes = {"arms": arms, "workload.starts": 2, "workload.sweeps": {"all": c.Sweep([64, 128], [32])}}
    first = driver(changes)
    first.run()
    loads = [load.bound.set.name for load in first.schedule.loads()]
    assert started(first) == loads
    assert sorted(loads) == ["one", "one", "pair", "pair"], "a start is a load of its own, also after one of the same set"
    (lost,) = (r for r in first.folder.records() if (r.arm, r.point["start"], r.point["input_len"]) == ("pair", 1, 128))
    first.folder.record_path(lost.arm, lost.point["id"], lost.key).unlink()
    again = driver(changes)
    assert again.run().measured == 1
    assert started(again) == [*loads, "pair"]
    assert driver(changes).run().measured == 0
    assert started(again) == [*loads, "pair"], "nothing was loaded where nothing was open"
    assert [(each.set, each.loads) for each in set_times(loads_of(again.folder))] == [
        (name, [*loads, "pair"].count(name)) for name in dict.fromkeys(loads)
    ]


def started(made: Driver) -> list[str]:
    """The sets that were loaded, in order."""
    return [event.partition(": starting ")[0] for event in events(made) if ": starting " in event]


def test_a_run_says_what_its_time_went_to(driver: Make) -> None:
    made = driver()
    outcome = made.run()
    (each,) = set_times(loads_of(made.folder))
    assert each.load_s == pytest.approx(outcome.loads_s, abs=0.01)
    assert each.ready_s == pytest.approx(outcome.ready_s, abs=0.1)
    assert each.measuring_s == pytest.approx(outcome.measuring_s)
    assert {"warm-up", "router start", "counters"} <= each.rest.keys()


def test_every_start_loads_the_engines_again_and_its_records_say_so(driver: Make) -> None:
    made = driver({"workload.starts": 2, "workload.repeats": 2, "workload.sweeps": {"all": c.Sweep([64], [32])}})
    outcome = made.run()
    records = sorted(made.folder.records(), key=lambda record: record.point["repeat"])
    assert (outcome.measured, outcome.failed, outcome.invalid) == (4, 0, 0)
    assert [(r.point["start"], r.point["repeat"]) for r in records] == [(0, 0), (0, 1), (1, 2), (1, 3)]
    engines = [record.provenance["engines"] for record in records]
    assert [(each["set"], each["start"]) for each in engines] == [("test", 0), ("test", 0), ("test", 1), ("test", 1)]
    ready = [datetime.fromisoformat(each["ready_at"]) for each in engines]
    assert ready[0] == ready[1] < ready[2] == ready[3]
    assert all(at <= datetime.fromisoformat(r.started_at) for at, r in zip(ready, records, strict=True))
    assert [name for name in logs(made) if "engine0" in name] == ["test/engine0.2.log", "test/engine0.log"]
    said = Path(made.journal.display.console.file.name).read_text()
    assert "starting 2 engine process(es), start 2 of 2" in said
    again = driver({"workload.starts": 2, "workload.repeats": 2, "workload.sweeps": {"all": c.Sweep([64], [32])}})
    assert again.run().skipped == 4


def test_every_record_says_what_its_arm_was_warmed_by(driver: Make) -> None:
    made = driver({"workload.warmup_prompts": 5})
    made.run()
    warm = [record.provenance["warm_up"] for record in made.folder.records()]
    assert len(warm) == 3
    assert all(each == warm[0] for each in warm)
    assert warm[0]["whole"] is True
    sent = [(load["input_len"], load["output_len"], load["num_prompts"], load["completed"]) for load in warm[0]["sent"]]
    assert sent == [(64, 32, 2, 2), (128, 32, 2, 2), (256, 32, 2, 2)]
    seeds = {load["seed"] for load in warm[0]["sent"]}
    assert len(seeds) == 3
    assert seeds.isdisjoint(record.point["seed"] for record in made.folder.records())


@pytest.mark.parametrize(
    ("lane", "kinds", "reason"),
    [
        pytest.param("rc_mlx5/mlx5_0:1", ["rdma"], None, id="as asked"),
        pytest.param("tcp/eth0", ["tcp"], "engine1 fetched KV over tcp/eth0", id="TCP"),
        pytest.param(None, None, "the log of engine1 does not tell what it fetched KV over", id="unknown"),
    ],
)
def test_the_transport_is_recorded_and_must_be_the_one_that_is_asked(
    driver: Make, lane: str | None, kinds: list[str] | None, reason: str | None
) -> None:
    table = (
        "| a inter-node cfg#1 |",
        "| remote memory read by ucp_get*(multi) into host memory from host |",
        f"| 0..inf | zero-copy | {lane} |",
    )
    say = "\n".join(f"[1.0] [n2:56:0]   {row}" for row in table) if lane else "nothing"
    made = driver({
        "topology.route": 1, "topology.prefill": 1, "cluster.network.transport": c.Transport.rdma,
        "topology.extra_args": ["--say", say],
    })  # fmt: skip
    made.run()
    for record in made.folder.records():
        assert record.telemetry["transport"]["kinds"] == kinds
        assert list(record.telemetry["transport"]["engines"]) == ["engine1"], "the one that fetches"
        said = [text for text in record.invalid_reasons if "transport" in text]
        assert said == ([f"cluster.network.transport=rdma: {reason}"] if reason else [])
    assert (f"test: its points will be INVALID: cluster.network.transport=rdma: {reason}" in events(made)) is bool(reason)


def test_what_engines_resolved_is_in_every_record_and_compared(driver: Make, tmp_path: Path) -> None:
    """As a set becomes ready; what it told stays when a session starts that loads nothing."""
    say = "\n".join(f"Using {name} attention backend out of potential backends: ['A']." for name in ("FLASH_ATTN", "TRITON_ATTN"))
    made = driver({"topology.extra_args": ["--say", say]})
    made.run()
    for record in made.folder.records():
        said = {"attention_backend": "FLASH_ATTN, TRITON_ATTN"}
        assert record.telemetry["resolved"] == {"engine0": said, "engine1": said}
    written = json.loads((made.folder.path / "fairness.json").read_text())
    assert written["same"]["resolved attention_backend"] == "FLASH_ATTN, TRITON_ATTN"
    assert {"field": "resolved max_num_seqs", "values": {"test": "unknown"}} in written["unknown"]
    again = driver({"topology.extra_args": ["--say", say]})
    write_fairness(again.folder, again.tasks.deployment, compare(again.tasks.deployment))
    assert json.loads((made.folder.path / "fairness.json").read_text()) == written


def test_a_rerun_measures_invalid_points_again_and_keeps_both(
    driver: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_INS", str(tmp_path))
    (tmp_path / "client").write_text("lose:128")
    assert vars(driver().run()) | {"wall_s": 0, "loads_s": 0, "ready_s": 0, "measuring_s": 0} == vars(
        Outcome(measured=3, invalid=1, valid_in_folder=2, tried_in_folder=3)
    )
    (tmp_path / "client").unlink()
    outcome = driver().run()
    assert (outcome.measured, outcome.skipped, outcome.invalid) == (1, 2, 0)
    assert (outcome.valid_in_folder, outcome.tried_in_folder) == (3, 4)
    both = [r for r in driver().folder.records() if r.point["input_len"] == 128]
    assert [r.invalid_reasons[:1] for r in both] == [("3 of 4 requests completed; the first error: boom",), ()]
    assert [r.provenance["tries"] for r in both] == [1, 2]
    assert both[0].key == both[1].key
    seeds = [str(r.point["seed"]) for r in both]
    assert seeds[0] != seeds[1], "a try again sends other prompts"
    assert [r.provenance["bench_args"][r.provenance["bench_args"].index("--seed") + 1] for r in both] == seeds
    raws = [json.loads(gzip.decompress((driver().folder.path / r.provenance["raw"]).read_bytes()))["completed"] for r in both]
    assert raws == [3, 4]


def test_a_setting_is_repeated_until_it_is_known(driver: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time to first token of one length is drawn anew each time; the others are the same at once."""
    monkeypatch.setenv("STAND_INS", str(tmp_path))
    (tmp_path / "client").write_text("noisy:128")
    until = c.Until(rel_ci=0.01, max_repeats=5, metrics=["mean_ttft_ms"])
    made = driver({"workload.repeats": 3, "workload.until": until})
    outcome = made.run()
    assert Counter(r.point["input_len"] for r in made.folder.records()) == {64: 3, 128: 5, 256: 3}
    assert outcome.measured == made.state.points_total == made.state.points_done == 11


KV = 8 * 16 * 31_104  # bytes of a prompt of 128 tokens: 8 blocks of 16 tokens, 27 layers of 576 values of 2 bytes each
PREFILL = {
    "vllm:request_success_total": 4, "vllm:prompt_tokens_total": 512, "vllm:generation_tokens_total": 4,
    "vllm:prefix_cache_queries_total": 512, "vllm:prefix_cache_hits_total": 0,
    "vllm:nixl_bytes_transferred_sum": 0, "vllm:nixl_bytes_transferred_count": 0, "vllm:num_preemptions_total": 0,
}  # fmt: skip
DECODE = {
    **PREFILL, "vllm:nixl_bytes_transferred_sum": 4 * KV, "vllm:nixl_bytes_transferred_count": 4,
    "vllm:generation_tokens_total": 128, "vllm:request_decode_time_seconds_sum": 1.24,
}  # fmt: skip


def served(n: int) -> dict[str, int]:
    """What an instance of its own counts for n requests of 128 and 32 tokens."""
    tokens = {"vllm:prompt_tokens_total": 128 * n, "vllm:generation_tokens_total": 32 * n}
    return {**PREFILL, "vllm:request_success_total": n, **tokens}


NVIDIA_SMI = """#!/bin/sh
slowed=$(cat $STAND_INS/points 2>/dev/null | wc -c)
for gpu in 0 1; do echo "$gpu, 1980, 1980, 60, Enabled, 0x0000000000000001, 0, ${slowed}00000, 0, 0"; done
"""


@pytest.mark.parametrize(
    ("check", "planted"),
    [
        pytest.param(None, {}, id="nothing"),
        pytest.param("completed", {"client": "lose"}, id="a lost request"),
        pytest.param("output_tokens", {"client": "short", "also": ["tokens_counted", "request_lines"]}, id="short answers"),
        pytest.param("requests_counted", {"decode": {"vllm:request_success_total": 5}}, id="somebody else's request"),
        pytest.param("tokens_counted", {"decode": {"vllm:prompt_tokens_total": 256}}, id="prompts cut"),
        pytest.param("nixl", {"decode": {"vllm:nixl_bytes_transferred_count": 3}}, id="a missing transfer"),
        pytest.param("nixl", {"decode": {"vllm:nixl_num_failed_transfers_total": 1}}, id="a failed transfer"),
        pytest.param("nixl", {"prefill": {"vllm:nixl_num_kv_expired_reqs_total": 1}}, id="an expired request"),
        pytest.param("kv_bytes", {"decode": {"vllm:nixl_bytes_transferred_sum": 3 * KV}}, id="wrong bytes"),
        pytest.param("prefix_cache", {"prefill": {"vllm:prefix_cache_hits_total": 64}}, id="prefix-cache hits"),
        pytest.param("workers", {"prompts": 100, "workers": [served(20), served(80)]}, id="a lopsided router"),
        pytest.param("preemptions", {"decode": {"vllm:num_preemptions_total": 1}}, id="a preemption storm"),
        pytest.param("client", {"client": "busy", "rate": 4.0}, id="a busy client"),
        pytest.param("client", {"client": "late", "rate": 4.0}, id="late sends"),
        pytest.param("delivery", {"client": "hold-up"}, id="tokens held up"),
        pytest.param("steady_state", {"client": "pile-up", "rate": 10.0, "prompts": 100}, id="a growing queue"),
        pytest.param("clocks", {"gpus": True}, id="throttled clocks"),
    ],
)
def test_a_planted_fault_is_caught(
    driver: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: str | None, planted: dict[str, Any]
) -> None:
    """One point of four prompts in a 1P1D arm (Route 2 for the router's fault), where everything is good but what is planted."""
    monkeypatch.setenv("STAND_INS", str(tmp_path))
    if "gpus" in planted:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "nvidia-smi").write_text(NVIDIA_SMI)
        (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    few = planted.get("prompts", 4) / 4
    counted = {
        role: ["--counts", json.dumps({name: few * n for name, n in {**counts, **planted.get(role, {})}.items()})]
        for role, counts in (("prefill", PREFILL), ("decode", DECODE))
    }
    roles = {f"topology.as_{role}": c.Role(extra_args=counts) for role, counts in counted.items()}
    pd = {"topology.route": 1, "topology.prefill": 1, **roles}
    sweep = c.Sweep([128], [32], [planted.get("rate")])
    made = driver({
        "workload.sweeps": {"one": sweep}, "workload.num_prompts": planted.get("prompts", 4),
        "cluster.device": c.Device.cuda if "gpus" in planted else c.Device.cpu,
        **({"topology.extra_args": ["--counts", json.dumps(planted["workers"])]} if "workers" in planted else pd),
    }, **({"client": planted["client"]} if "client" in planted else {}))  # fmt: skip
    made.run()
    (record,) = made.folder.records()
    failed = {each.name: each.said for each in record.checks if each.ok is False}
    print(f"{check or 'nothing'}: {failed}")
    assert set(failed) == ({check, *planted.get("also", [])} if check else set())
    assert record.valid is (not failed)
    assert record.invalid_reasons == tuple(failed.values())


@pytest.mark.parametrize(
    ("router", "ok", "said"),
    [
        pytest.param(None, True, "36 answers are the plain instance's within 0.05", id="right"),
        pytest.param("wrong-kv", False, "the text is wrong: prompt short of 13 tokens, position 0: token ", id="wrong KV"),
        pytest.param("no-logprobs", None, "the answer has no log-probabilities by token id", id="a router that tells nothing"),
    ],
)
def test_the_text_of_a_pd_arm_is_compared_with_a_plain_instance(
    driver: Make, router: str | None, ok: bool | None, said: str
) -> None:
    made = driver({"topology.route": 1, "topology.prefill": 1}, **({"router": router} if router else {}))
    made.run()
    evidence = [record.telemetry["text"] for record in made.folder.records()]
    assert evidence == [evidence[0]] * 3, "one load, one check"
    check = text(evidence[0], disaggregated=True)
    assert (check.ok, check.unverified) == (ok, ok is None)
    assert said in check.said
    assert any("its points will be" in event and said in event for event in events(made)) is (ok is not True)
    assert len(json.dumps(evidence[0])) < 20_000


@pytest.mark.parametrize("every_s", [None, 0.1])
def test_a_timeline_where_it_is_asked_for(
    driver: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: float | None
) -> None:
    monkeypatch.setenv("STAND_INS", str(tmp_path))
    counts = ["--counts", json.dumps({"vllm:prompt_tokens_total": 512, "vllm:num_requests_running_total": 9})]
    made = driver({"telemetry_every_s": every_s, "workload.sweeps": {"one": c.Sweep([128], [32])}, "topology.extra_args": counts})
    made.run()
    (record,) = made.folder.records()
    path = made.folder.beside_raw(record, "timeline")
    assert path.exists() is bool(every_s)
    if every_s:
        with gzip.open(path, "rt", newline="") as file:
            looks = list(csv.DictReader(file))
        assert {look["engine"] for look in looks} == {"engine0", "engine1"}
        assert {look["role"] for look in looks} == {"both"}
        assert looks[0]["prompt_tokens"] == "0"
        assert float(looks[0]["t_s"]) < 0, "the first look is before the first request"


def test_a_point_that_never_ends_gets_a_new_client_and_the_others_go_on(driver: Make) -> None:
    made = driver({"limits.point_s": 1.5}, client="hang:128")
    outcome = made.run()
    assert (outcome.measured, outcome.failed) == (2, 1)
    assert states(made) == {64: "done", 128: "failed", 256: "done"}
    assert logs(made)[:2] == ["client.2.log", "client.log"]
    (failed,) = [r for r in made.folder.records() if r.status == "failed"]
    assert "the benchmark client gave no answer in time" in (failed.error or "")


def test_a_point_that_fails_does_not_stop_the_others(driver: Make) -> None:
    made = driver(client="raise:64,refused:128")
    outcome = made.run()
    assert (outcome.measured, outcome.failed) == (1, 2)
    errors = {r.point["input_len"]: r.error for r in made.folder.records() if r.status == "failed"}
    assert "the benchmark client failed: ValueError: no such data set" in (errors[64] or "")
    assert errors[128] == "boom", "the first request's error, where none completed"
    assert not any(r.valid or any(r.metrics.values()) for r in made.folder.records() if r.status == "failed")
    assert states(made)[256] == "done"


@pytest.mark.parametrize(
    ("behave", "error", "text"),
    [
        pytest.param({"engine": "die"}, ProcessDied, ".log\n  | ValueError: --max-num-seqs", id="an engine that cannot start"),
        pytest.param({"engine": "never-ready"}, NotReady, "engines not ready within limits.start_s=1 s:\n  engine0: LOGS/test/eng",
                     id="engines never ready"),
        pytest.param({"engine": "falls-ill", "client": "hang"}, ProcessDied, " (both) on 127.0.0.1 died: /health answers 503",
                     id="an engine that falls ill"),
        pytest.param({"router": "falls-ill", "client": "hang"}, ProcessDied, "router on 127.0.0.1 died: /health answers 503",
                     id="a router that falls ill"),
        pytest.param({"router": "useless"}, NotReady, " answers 500 to a request of 200 tokens", id="a router that serves nothing"),
        pytest.param({"router": "useless-soon", "client": "hang"}, NotReady, " answers 500 to a request of 200 tokens",
                     id="a point after which nothing works"),
        pytest.param({"client": "die:128"}, ProcessDied, "client on 127.0.0.1 died: exit code 7", id="a client that dies"),
    ],
)  # fmt: skip
def test_what_ends_a_run(driver: Make, behave: dict[str, str], error: type[PdslurmError], text: str) -> None:
    start_s = 1.0 if "never-ready" in behave.values() else 20.0
    made = driver({"limits.start_s": start_s, "limits.point_s": 1.5}, **behave)
    assert text.replace("LOGS", f"{made.folder.path}/logs") in ending(made, error)
    assert events(made)[-1] == "stopping"


def test_a_setting_whose_engines_do_not_start_ends_no_run(driver: Make) -> None:
    tune = c.Tune(settings=3, rate=4.0, duration_s=1.0, plain={"behave": ["die", "stubborn"]})
    made = driver({"tune": tune, "workload.sweeps": {"all": c.Sweep([64], [32])}})
    outcome = made.run()
    records = {(r.arm, r.point["sweeps"][0], r.point["repeat"]): r for r in made.folder.records()}
    failed = records["test-behave-die", "tuning", 0]
    assert (failed.status, failed.arm_info["setting"]) == ("failed", {"behave": "die"})
    assert "ValueError: --max-num-seqs" in (failed.error or "")
    assert sorted(key for key in records if key[1] == "tuning") == [
        ("test", "tuning", 0), ("test", "tuning", 1), ("test-behave-die", "tuning", 0),
        ("test-behave-stubborn", "tuning", 0), ("test-behave-stubborn", "tuning", 1),
    ]  # fmt: skip
    assert [key for key in records if key[1] != "tuning"] == [("test", "all", 0)], "no setting is better than the arm as it is"
    assert (outcome.measured, outcome.failed) == (5, 1)
    assert started(made) == ["test", "test-behave-die", "test-behave-stubborn", "test", "test"], "the set of the last trial stays"
    assert any("test-behave-stubborn stays, to try its setting in round 2" in event for event in events(made))


def test_a_limit_ends_a_run_with_what_it_has_and_another_limit_goes_on(driver: Make) -> None:
    made = driver(client="hang:256")
    made.watch.usage.began -= 3600 * 2 - 1.5  # as if it had begun 2 hours ago, all but 1.5 s
    made.config.limits.gpu_hours = 4.0  # two GPUs
    assert ending(made, LimitReached) == (
        "limits.gpu_hours=4 is used up (4 GPU-hours in this one); raise limits.gpu_hours and run the same command again to go on, "
        f"or read what was measured: python -m analysis summary {made.folder.path}"
    )
    kept = states(made)
    assert set(kept.values()) <= {"done"}, "the point that was running leaves no record"
    again = driver({"limits.wall_hours": 1.0}, client="hang:256")
    arm, points = made.tasks.deployment.arms[0], made.points
    assert [again.tasks.of(arm, point).key for point in points] == [made.tasks.of(arm, point).key for point in points]


def test_what_earlier_sessions_used_up_starts_no_engine(driver: Make) -> None:
    first = driver(client="hang:256")
    first.watch.usage.began -= 3600
    first.config.limits.wall_hours = 1.0
    assert ending(first, LimitReached).startswith("limits.wall_hours=1 is used up (1 h in this one); ")
    before = logs(first)
    again = driver({"limits.wall_hours": 1.0})
    assert ending(again, LimitReached).startswith(
        "limits.wall_hours=1 is used up (1 h in 1 earlier session, 0 h in this one); raise "
    )
    assert logs(again) == before
    raised = driver({"limits.wall_hours": 1.1, "limits.session_hours": 0.1})
    assert raised.run().failed == 0
    assert raised.schedule.left() == 0
    done = driver({"limits.wall_hours": 1.0})
    assert done.run().measured == 0, "what is done needs no hour"


@pytest.mark.parametrize(("times", "stop_s", "low", "high"), [(1, 0.5, 0.5, 2.0), (2, 5.0, 0.0, 2.0)])
def test_a_signal_ends_a_run_and_a_second_one_at_once(driver: Make, times: int, stop_s: float, low: float, high: float) -> None:
    made = driver({"limits.stop_s": stop_s}, engine="stubborn", client="hang:128")
    sent: list[float] = []

    def interrupt() -> None:
        while not made.state.point.startswith("i128"):
            time.sleep(0.01)
        for _ in range(times):
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)

    threading.Thread(target=interrupt).start()
    assert ending(made, Interrupted) == "stopped by SIGINT; run the same command again to go on"
    took = time.monotonic() - sent[0]
    assert low <= took < high
    assert 128 not in states(made)
    assert "the same signal once more kills everything at once" in Path(made.journal.display.console.file.name).read_text()


def test_a_copy_of_a_run_that_was_cut_anywhere_goes_on_and_keeps_what_is_whole(driver: Make) -> None:
    """The host went away while its folder was copied: each file is whole, or ends anywhere."""
    first = driver()
    first.run()
    run = first.folder.path
    pristine = run.with_name("pristine")
    run.rename(pristine)
    again = 0
    for seed in range(3):
        shutil.copytree(pristine, run)
        cut = cut_anywhere(run, random.Random(seed))
        before = {r.point["input_len"]: r for r in RunFolder(pristine).records()}
        harmed = {length for length in before if any(f"/i{length}-" in str(path) for path in cut)}
        resumed = driver()
        outcome = resumed.run()
        after = {r.point["input_len"]: r for r in resumed.folder.records() if r.valid}
        assert (outcome.skipped, outcome.measured, outcome.failed) == (3 - len(harmed), len(harmed), 0), (seed, cut)
        assert {length for length in before if after[length].started_at != before[length].started_at} == harmed
        lines = (run / "events.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["event"] == "stopping"
        aside = sorted(path.name for path in run.glob("points/*/*.broken"))
        assert len(aside) == len(harmed) == sum("pdslurm set it aside as" in line for line in lines)
        again += len(harmed)
        shutil.rmtree(run)
    assert 0 < again < 9, "some were harmed and some were not"


def cut_anywhere(run: Path, chance: random.Random) -> list[Path]:
    """Cuts a third of the files at a random place, and leaves what was being written beside one."""
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and path.stat().st_size and "logs" not in path.parts]
    cut = [path for path in files if chance.random() < 0.33]
    for path in cut:
        path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])
    (next(run.glob("points/*")) / ".x.json.123.tmp").write_text("{")
    return [path.relative_to(run) for path in cut if path.parts[-3] in ("points", "raw")]


def test_a_disk_that_is_full_ends_a_run(driver: Make) -> None:
    made = driver()
    (made.folder.path / "points").write_text("in the way")
    assert "Not a directory; free space or fix permissions, then run again" in ending(made, ResultsError)


def test_a_search_climbs_and_has_prompts_made_while_engines_load(driver: Make, tmp_path: Path) -> None:
    sweeps = {"all": c.Sweep([64], [32])}
    search = c.Search(lowest=0.1, highest=6.4, step=2.0, fine=1, beside=0, beyond=0)
    changes = {"workload.sweeps": sweeps, "workload.search": search, "workload.duration_s": 1.0, "workload.repeats": 2}
    made = driver({**changes, "slo": c.Slo(ttft_ms=500.0)})
    waited: list[float] = []
    ready = made._wait_ready

    def slowly(poll: HealthPoll, names: Sequence[str], what: str, *, meanwhile: Callable[[], None] = lambda: None) -> None:
        """As if engines took two seconds to load."""
        ready(poll, names, what, meanwhile=meanwhile)
        began = time.monotonic()
        while what == "engines" and time.monotonic() - began < 2:
            meanwhile()
            made.watch.pause(0.02)
        waited.append(time.monotonic() - began)

    made._wait_ready = slowly  # type: ignore[method-assign]
    outcome = made.run()
    rates = [(r.point["repeat"], r.point["request_rate"]) for r in made.folder.records()]
    assert (outcome.failed, outcome.invalid, len(waited)) == (0, 0, 2), [r.invalid_reasons for r in made.folder.records()]
    assert sorted(rates) == [(0, 0.8), (0, 1.6), (0, 3.2), (0, 6.4), (1, 6.4)], "every rate meets the SLO: up to the highest"
    log = (made.folder.path / "logs" / "client.log").read_text()
    assert log.count("making samples") == 2 * 7, "every rate of both repeats was made once, and none again when it was measured"


def test_no_file_of_a_run_has_a_token_of_its_environment(
    driver: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "hf_of-nobody-else"
    monkeypatch.setenv("HF_TOKEN", secret)
    monkeypatch.setenv("https_proxy", f"http://me:{secret}@127.0.0.1:9")
    monkeypatch.setattr(sys, "argv", ["pdslurm", f"+runtime.env.HF_TOKEN={secret}", f"--hf-token={secret}", "--hf-token", secret])
    made = driver()
    report = check_node(made.config, 1, EngineEnv(made.config.runtime), run_dir=made.folder.path)
    assert "https_proxy=http://***@127.0.0.1:9 is set" in report.facts["proxy"]
    write_provenance(made.folder, made.tasks, made.what_ran.compared, report.facts)
    made.run()
    files = [path for path in made.folder.path.rglob("*") if path.is_file()]
    texts = {path: gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in files}
    assert {"config.yaml", "plan.json", "versions.json", "events.jsonl", "engine0.log"} <= {path.name for path in files}
    assert [path for path, content in texts.items() if secret.encode() in content] == []
    assert "+runtime.env.HF_TOKEN=***" in (made.folder.path / "versions.json").read_text()
    assert secret not in "".join(capsys.readouterr())


@pytest.mark.parametrize("strict", [False, True])
def test_metrics_that_are_a_page_leave_a_record_that_says_so(driver: Make, monkeypatch: pytest.MonkeyPatch, strict: bool) -> None:
    page = Answer("<html>Log in</html>")
    monkeypatch.setattr("pdslurm.measure.telemetry.ask_many", lambda urls, **_: dict.fromkeys(urls, page))
    made = driver({"strict": strict})
    made.run()
    records = list(made.folder.records())
    assert states(made) == {64: "done", 128: "done", 256: "done"}
    said = "engine1: /metrics answers with what is no text of Prometheus"
    for record in records:
        assert record.telemetry["no_counters"]["engine1"].startswith(said)
        assert {"requests_counted", "counters"} <= {check.name for check in record.checks if check.unverified}
        assert any(said in reason for reason in record.invalid_reasons) is strict


def test_a_fault_of_pdslurm_s_own_fails_one_point_and_is_recorded(driver: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: Any) -> None:
        raise KeyError("what nobody thought of")

    monkeypatch.setattr("pdslurm.measure.telemetry.counted", fault)
    made = driver({"workload.sweeps": {"all": c.Sweep([64], [32])}})
    made.run()
    (record,) = made.folder.records()
    assert record.status == "failed"
    assert "KeyError: 'what nobody thought of'" in (record.error or "")
