"""Whole runs on this machine with the real engine, NIXL, router and client: every topology that fits, and every way to end one."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pdslurm.node.ports import is_free
from pdslurm.validity.text import text
from tests import wrong_kv
from tests.integration.local_run import LocalRun, seconds

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
LOAD_S = 240.0  # up to three instances on two cores; 45 s when nothing else runs
BLOCK_BYTES = 128 * 1024  # 128 tokens of the tiny model: 2 (K, V) · 2 layers · 2 heads · 32 · 4 bytes a token
SMALL = (
    "workload.repeats=1",
    "workload.num_prompts=8",
    "workload.warmup_prompts=2",
    "workload.sweeps.input.input_len=[64,200]",
    "workload.sweeps.input.output_len=[8]",
    "workload.sweeps.output.output_len=[8,16]",
    "limits.stop_s=5",
)
ONE_ARM = ("experiment=custom", "launcher=local", "model=tiny", "workload=demo", *SMALL)
ROLES = (
    "experiment=demo",
    "~arms.route_2",
    "~arms.pd_1p1d",
    "+topology@arms.one_two=pd_1p3d",
    "arms.one_two.nodes=3",
    "+topology@arms.two_one=pd_2p2d",
    "arms.two_one.nodes=3",
    *SMALL,
)


@contextmanager
def start(folder: Path, *overrides: str) -> Iterator[LocalRun]:
    run = LocalRun(folder, *overrides)
    try:
        yield run
    finally:
        run.close()


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Somebody listens there: this test, or whoever does so already."""
    with contextlib.ExitStack() as stack:
        if is_free("127.0.0.1", port):
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


# --- Route 2 and 1P1D, with port 8000 taken by somebody else


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRun]:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    with taken(8000), start(folder, "experiment=demo", *SMALL) as run:
        assert run.wait(2 * LOAD_S) == 0, run.text
        yield run


def test_every_point_of_both_arms_is_valid_and_nothing_is_left(demo: LocalRun) -> None:
    records = demo.records()
    assert [(r.arm, r.status, r.valid, r.completed) for r in records] == [("pd_1p1d", "done", True, 8)] * 3 + [
        ("route_2", "done", True, 8)
    ] * 3
    for record in records:
        assert record.metrics["output_throughput_tok_s"], record.point
        assert (demo.folder / record.provenance["raw"]).is_file()
    assert demo.left() == []


def test_a_port_that_somebody_listens_on_is_passed_over(demo: LocalRun) -> None:
    ports = {p["port"] for p in demo.plan()["processes"] if p["port"]}
    assert 8000 not in ports
    assert all(8001 <= port <= 9999 for port in ports)


def test_the_router_goes_round_both_instances(demo: LocalRun) -> None:
    for record in demo.records("route_2"):
        assert {e["role"] for e in record.telemetry["engines"].values()} == {"both"}
        assert sorted(e["requests"] for e in record.telemetry["engines"].values()) == [4, 4]
        counted = record.telemetry["router_requests"].values()  # with the client's own /tokenize and /metrics
        assert len(counted) == 2
        assert min(counted) >= 4


def test_nixl_moved_every_prompt_in_whole_blocks(demo: LocalRun) -> None:
    for record in demo.records("pd_1p1d"):
        totals = record.telemetry["totals"]
        blocks = -(-record.point["input_len"] // 128)
        assert totals["nixl_transfers"] == 8
        assert totals["nixl_bytes"] == 8 * blocks * BLOCK_BYTES
        assert totals["nixl_failed_transfers"] == 0
    plain = {r.telemetry["totals"]["nixl_bytes"] for r in demo.records("route_2")}
    assert plain == {None}  # a plain arm carries no connector: its engines do not even have the counter


def test_the_text_of_the_pd_arm_is_the_plain_instances(demo: LocalRun) -> None:
    for record in demo.records("pd_1p1d"):
        check = text(record.telemetry["text"], disaggregated=True)
        assert check.ok, check.said
        assert check.evidence["proof"] >= 10
        assert record.telemetry["text"]["transfers"] >= check.evidence["rows"], "each answer of the arm came by NIXL"
    assert {record.telemetry["text"] for record in demo.records("route_2")} == {None}


def test_a_finished_run_is_not_run_again(demo: LocalRun) -> None:
    before = {r.key: r.started_at for r in demo.records()}
    with start(demo.folder, "experiment=demo", *SMALL) as again:
        assert again.wait(60) == 0
        assert time.time() - again.started_at < 10
        assert "6 of 6 points are done already" in again.text
        assert again.count("starting") == 0
        assert {r.key: r.started_at for r in again.records()} == before


# --- roles changed without reload, interrupted, resumed


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRun]:
    with start(tmp_path_factory.mktemp("runs") / "roles", *ROLES) as run:
        # which arm takes the first turn is drawn by the run's seed
        run.wait_until(lambda: all(map(run.records, ("one_two", "two_one"))), "a point of each arm", LOAD_S)
        run.popen.send_signal(signal.SIGINT)
        assert run.wait(60) == 130, run.text
        yield run


def test_one_load_serves_both_arms_with_roles_exchanged(interrupted: LocalRun) -> None:
    assert interrupted.count("ready after") == 1
    assert interrupted.count("arm ready") == 2
    for arm, roles in {"one_two": ["prefill", "decode", "decode"], "two_one": ["prefill", "prefill", "decode"]}.items():
        record = interrupted.records(arm)[0]
        assert record.valid
        engines = record.telemetry["engines"]
        assert [engines[f"engine{i}"]["role"] for i in range(3)] == roles
        received = [engines[f"engine{i}"]["nixl_transfers"] for i in range(3)]
        assert [bool(n) for n in received] == [role == "decode" for role in roles]
        assert sum(received) == 8


def test_an_interrupted_run_says_so_and_leaves_nothing(interrupted: LocalRun) -> None:
    assert "stopped by SIGINT; run the same command again to go on" in interrupted.text
    assert interrupted.state()["status"] == "stopped"
    assert interrupted.left() == []


def test_the_same_command_measures_only_what_is_missing(interrupted: LocalRun) -> None:
    before = {(r.arm, r.point["id"]): r.started_at for r in interrupted.records()}
    assert 4 <= len(before) < 6
    with start(interrupted.folder, *ROLES) as again:
        assert again.wait(2 * LOAD_S) == 0, again.text
        after = {(r.arm, r.point["id"]): r.started_at for r in again.records()}
        assert len(after) == len(again.records()) == 6
        assert {k: after[k] for k in before} == before
        assert f"{6 - len(before)} points measured, {len(before)} done before" in again.text
        assert again.left() == []


# --- wrong KV


def test_a_corrupted_transfer_is_caught(tmp_path: Path) -> None:
    """Two arms over the same two instances. Once the first has been asked for its text, the first block of all that the decode
    instance fetches is zeroed: the second arm answers 200 and its text is wrong."""
    wrong = tmp_path / "wrong"
    plugin = wrong_kv.install(tmp_path / "plugin")
    slow = (
        "workload.sweeps.input.input_len=[64]",
        "+workload.sweeps.output.request_rate=[1.0]",
        "workload.sweeps.output.output_len=[8]",
    )
    arms = ("~arms.route_2", "+topology@arms.again=pd_1p3d", "arms.again.nodes=2")
    hook = (f"+cluster.env.PYTHONPATH={plugin}", f"+cluster.env.WRONG_KV={wrong}")
    with start(tmp_path / "text", "experiment=demo", *arms, *SMALL, *slow, *hook) as run:
        run.wait_event("arm ready", LOAD_S)
        wrong.touch()
        assert run.wait(LOAD_S) == 0, run.text
        first = run.event("arm ready")["arm"]
        found = {(r.arm == first): text(r.telemetry["text"], disaggregated=True) for r in run.records()}
        assert {is_first: check.ok for is_first, check in found.items()} == {True: True, False: False}, found
        assert all(check.evidence["proof"] >= 10 for check in found.values())
        assert f"its points will be INVALID: {found[False].said}" in run.text
        assert {(r.status, r.completed) for r in run.records()} == {("done", 8)}
        assert run.left() == []


# --- one instance over two processes


def test_data_parallel_over_two_processes_and_a_point_that_fails(tmp_path: Path) -> None:
    """The router refuses bodies above 2,500 bytes: prompts of 64 tokens pass, those of 1,024 do not, and the others go on."""
    overrides = ("topology=dp", "topology.nodes=2", "workload.sweeps.input.input_len=[64,1024]")
    limit = 'topology.router.extra_args=[--max-payload-size,"2500"]'
    with start(tmp_path / "dp", *ONE_ARM, *overrides, limit) as run:
        assert run.wait(LOAD_S) == 0, run.text
        head, part = [p["argv"] for p in run.plan()["processes"] if p["kind"] == "engine"]
        assert head[head.index("--data-parallel-size") + 1] == "2"
        assert "--headless" in part
        assert "DP1" in (run.folder / "logs/custom/engine0-part1.log").read_text()
        states = {r.point["input_len"]: r.status for r in run.records()}
        assert states == {64: "done", 1024: "failed"}
        assert [r.valid for r in run.records() if r.point["input_len"] == 64] == [True, True]
        failed = next(r for r in run.records() if r.status == "failed")
        assert failed.metrics["mean_ttft_ms"] is None
        assert "0 of 8 requests completed" in failed.invalid_reasons[0]
        assert run.left() == []


def test_tensor_parallel_over_two_processes_as_over_two_nodes(tmp_path: Path) -> None:
    with start(tmp_path / "tp", *ONE_ARM, "topology=dp", "topology.nodes=2", "topology.tensor_parallel=2") as run:
        assert run.wait(LOAD_S) == 0, run.text
        ranks = [p["argv"] for p in run.plan()["processes"] if p["kind"] == "engine"]
        assert [argv[argv.index("--node-rank") + 1] for argv in ranks] == ["0", "1"]
        assert [(r.status, r.valid) for r in run.records()] == [("done", True)] * 3
        assert run.left() == []  # rank 1 outlives its head and a TERM


# --- deaths


# A killed EngineCore is noticed by its guard, by the health watch, or by the end of its API server, whichever is first.
CORE_DIED = r"(its process VLLM::EngineCore \(pid \d+\) ended|refuses connections|/health answers 503|exit code \d+)"


@pytest.mark.parametrize(("victim", "cause"), [("head", "(killed by SIGKILL|refuses connections)"), ("core", CORE_DIED)])
def test_a_killed_instance_is_noticed_within_two_seconds(tmp_path: Path, victim: str, cause: str) -> None:
    busy = ("~arms.route_2", "workload.num_prompts=256", "workload.sweeps.output.output_len=[128,256]")
    with start(tmp_path / "killed", "experiment=demo", *SMALL, *busy) as run:
        run.wait_until(lambda: len(run.records()) >= 1, "the first point", LOAD_S)
        pid = run.engine("engine1")
        if victim == "core":
            pid = engine_core(run, pid)
        time.sleep(0.5)  # into the next point
        killed_at = time.time()
        os.kill(pid, signal.SIGKILL)
        assert run.wait(60) == 4, run.text
        assert seconds(run.event("process died")) - killed_at < (
            2.0 if victim == "head" else 3.0
        )  # vLLM itself takes a second to see the latter
        assert re.search(rf"engine1 \(decode\) on 127\.0\.0\.1 died: {cause}\n", run.text)
        assert str(run.folder / "logs/pd_1p1d/engine1.log") in run.text
        assert 20 <= sum(line.startswith("  | ") for line in run.text.splitlines()) <= 41
        done = [r for r in run.records() if r.status == "done"]
        failed = [r for r in run.records() if r.status == "failed"]
        assert done  # valid or not: 256 prompts at once may hold up an API server on two cores
        assert len(failed) == 1
        assert "engine1 (decode)" in (failed[0].error or "")
        assert run.left() == []


def engine_core(run: LocalRun, head: int) -> int:
    """The EngineCore process below an engine's API server."""
    names = {pid: Path(f"/proc/{pid}/comm").read_text() for pid in run.living() if pid != head}
    of_head = [p for p, name in names.items() if name.startswith("VLLM::EngineCor") and os.getsid(p) == os.getsid(head)]
    assert len(of_head) == 1, names
    return of_head[0]


def test_an_engine_that_dies_at_its_start_shows_why(tmp_path: Path) -> None:
    with start(tmp_path / "start", *ONE_ARM, "topology=dp", "topology.nodes=1", 'topology.extra_args=[--max-num-seqs,"0"]') as run:
        assert run.wait(LOAD_S) == 4
        assert "engine0 (both) on 127.0.0.1 died: exit code" in run.text
        assert "max_num_seqs" in run.text  # vLLM's own words, from the end of the log
        assert run.left() == []


def test_an_unknown_option_is_refused_before_any_engine(tmp_path: Path) -> None:
    option = "topology.extra_args=[--max-num-sequences,4]"
    with start(tmp_path / "option", *ONE_ARM, "topology=dp", "topology.nodes=1", option) as run:
        assert run.wait(LOAD_S) == 3
        assert "knows no option --max-num-sequences" in run.text
        assert "did you mean --max-num-seqs?" in run.text
        assert run.events() == []


# --- other ends


def test_term_while_engines_start_ends_the_run(tmp_path: Path) -> None:
    with start(tmp_path / "term", *ONE_ARM, "topology=route_2", "topology.nodes=2") as run:
        run.wait_event("starting 2 engine process(es)", 60)
        time.sleep(8)  # into vLLM's own imports and forks
        run.popen.terminate()
        assert run.wait(40) == 130
        assert "stopped by SIGTERM" in run.text
        assert run.left() == []


def test_a_limit_of_wall_time_ends_a_run_with_what_it_has(tmp_path: Path) -> None:
    many = ("workload.num_prompts=512", "workload.sweeps.output.output_len=[256,300,310,320,330,340]", "workload.repeats=20")
    with start(tmp_path / "limit", *ONE_ARM, "topology=dp", "topology.nodes=1", *many, "limits.wall_hours=0.02") as run:
        assert run.wait(LOAD_S) == 6
        assert "limits.wall_hours=0.02 is used up (0.02" in run.text
        assert " h in this one); raise limits.wall_hours and run the same command again to go on" in run.text
        assert 72 <= time.time() - run.started_at < 150
        kept = run.records()
        assert kept
        assert run.state()["measured"] == len(kept)
        assert run.left() == []
