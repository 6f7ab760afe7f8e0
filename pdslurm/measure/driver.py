"""From a run's tasks to measurements: starts the instances of each set, then each arm's router, then runs the points; stops it all.

One loop, one thread of control. Whatever it waits for, the watch looks every 0.1 s whether a process died, a signal came or a limit
is used up."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pdslurm.errors import (
    AllocationEnding,
    Interrupted,
    LimitReached,
    NotReady,
    PdslurmError,
    PointFailed,
    ProcessDied,
    ResultsError,
    UnknownEngine,
)
from pdslurm.measure import text_check, warm_up
from pdslurm.measure.bench_client import BenchClient
from pdslurm.measure.health import HealthPoll
from pdslurm.measure.journal import Journal
from pdslurm.measure.meter import Meter
from pdslurm.measure.progress import Display
from pdslurm.measure.prompts_ahead import PromptsAhead
from pdslurm.measure.record import blank_record
from pdslurm.measure.resume import raw_files, set_broken_aside
from pdslurm.measure.schedule import Load, Schedule, Turn
from pdslurm.measure.watch import Watch
from pdslurm.measure.what_ran import WhatRan
from pdslurm.node.process_logs import log_tail
from pdslurm.node.processes import Processes
from pdslurm.plan.deployment import BoundArm, BoundSet, Process
from pdslurm.plan.tasks import Task, Tasks
from pdslurm.records.gpu_time import PROMPTS, measuring_s
from pdslurm.records.measurement import Measurement
from pdslurm.records.run_folder import RAW_ENDS, RunFolder
from pdslurm.signals import SignalNote
from pdslurm.validity.kv_path import mismatches
from pdslurm.validity.text import text


@dataclass
class Outcome:
    """How a run went: points measured now, done before, failed, invalid; and where the time went."""

    measured: int = 0
    skipped: int = 0
    failed: int = 0
    invalid: int = 0
    valid_in_folder: int = 0  # measurements of this run and of earlier ones in its folder that are valid …
    tried_in_folder: int = 0  # … of all that were tried there
    wall_s: float = 0.0
    loads_s: float = 0.0  # of every load, until its engines were ready
    ready_s: float = 0.0  # of every load, from ready engines to the end of its last point
    measuring_s: float = 0.0  # of every point, from its first request to its last answer


class Driver:
    """Carries out the tasks of one run. What is done already is known before anything starts."""

    def __init__(
        self,
        tasks: Tasks,
        folder: RunFolder,
        display: Display,
        processes: Processes,
        signals: SignalNote,
        api_key: str | None = None,
    ) -> None:
        self.tasks, self.folder, self.processes, self.signals, self.api_key = tasks, folder, processes, signals, api_key
        plan = tasks.deployment.plan
        self.config, self.points, self.state = plan.config, plan.points, display.state
        self.outcome = Outcome()
        self.journal = Journal(display, folder.path)
        self.watch = Watch(self.config, plan.gpus, processes, signals, self.journal)
        self._look_over()
        self.schedule = Schedule(tasks, folder)
        self.meter = Meter(self.config, folder, self.watch)
        self.what_ran = WhatRan(tasks.deployment, folder, self.watch, self.journal)
        self.client: BenchClient | None = None
        self.ran: list[Load] = []  # of this session
        self.last_point = 0.0  # when this load's last point ended, or else its engines were ready
        self.warm_up: dict[str, Any] = {}  # what the arm whose turn it is was warmed by, as its records have it
        self.engines: dict[str, Any] = {}  # which load of a set runs now, as its records have it

    def _look_over(self) -> None:
        """Sets aside what earlier sessions, or who copied the folder, left broken, before anybody asks what is done."""
        files = raw_files(self.folder, self.watch.usage.before, searching=self.config.workload.search.lowest is not None)
        self.watch.usage.without = tuple(what for what in RAW_ENDS if what not in files.present)
        arms = self.tasks.deployment.arms
        plan = self.tasks.deployment.plan
        tasks = (self.tasks.of(arm, point) for arm in arms for point in (*plan.trials, *plan.points))
        planned = {self.folder.record_path(task.arm.arm.name, task.point.id, task.key) for task in tasks}
        for sentence in set_broken_aside(files, planned):
            self.journal.say(sentence)

    # --- the run

    def run(self) -> Outcome:
        """Every load that still has something to measure. Raises PdslurmError; what was measured is on disk by then."""
        self.outcome.skipped = self.state.points_done = self.schedule.done()
        self.state.points_total = self.outcome.skipped + self.schedule.left()
        if self.outcome.skipped:
            self.journal.say(f"{self.outcome.skipped} of {self.state.points_total} points are done already")
        with self.signals:
            try:
                while loads := self.schedule.open_loads(self._names_ran):
                    self.state.loads_left = len(loads)
                    self.watch.tick()  # what earlier sessions used up starts no engine
                    self._run_load(loads[0])
            finally:
                self.state.enter("stopping")
                self.outcome.wall_s = self.watch.usage.now().seconds
                self.watch.usage.end()
                self.outcome.valid_in_folder, self.outcome.tried_in_folder = self.folder.valid_of_tried()
                self.journal.event("stopping")
                if self.signals.received:
                    self.journal.display.line("stopping; the same signal once more kills everything at once")
                self.processes.stop(list(self.processes.running))
                if self.processes.left_behind:
                    self.journal.say(f"processes {self.processes.left_behind} are still there after KILL")
        return self.outcome

    @property
    def _names_ran(self) -> set[tuple[str, int, int | None]]:
        return {load.name for load in self.ran}

    def _run_load(self, load: Load) -> None:
        """Carries out one load. A setting that is only tried may fail: its trial is recorded as failed, and the next load goes
        on."""
        self.ran.append(load)
        try:
            self._run_set(load)
        except (ProcessDied, NotReady) as error:
            load = self.ran[-1]
            is_tried = load.round is not None and any(arm.arm.setting for arm in load.bound.arms)
            if not is_tried or (isinstance(error, ProcessDied) and error.name == "client"):
                raise
            self._fail_trials(load, error)
            self.processes.stop([r for r in self.processes.running if r.process.kind != "client"])

    def _fail_trials(self, load: Load, error: PdslurmError) -> None:
        self.journal.say(f"{load.bound.set.name}: {main_line(str(error))}; this setting is not tried again in this session")
        for arm in load.bound.arms:
            for task in list(self.schedule.open_tasks(arm, (), load.round)):
                record = blank_record(self.folder, self.config, self.tasks.versions, task, _now(), engines=self.engines)
                record = dataclasses.replace(record, error=str(error), invalid_reasons=(main_line(str(error)),))
                self.folder.save(record)
                self.schedule.take(task, record)
                self._account(record, 0.0)

    def _run_set(self, load: Load) -> None:
        """Loads the instances once, then lets the arms of the set take turns."""
        began, bound = time.monotonic(), load.bound
        logs = self.folder.path / "logs" / bound.set.name
        self.state.enter("starting")
        self.state.instances = {e.name: "starting" for e in bound.engines}
        self.journal.say(f"{bound.set.name}: starting {len(bound.engines)} engine process(es){self._start_words(load)}")
        endpoints = {e.name: e.url for e in bound.engines if e.url}
        with self.watch.polling(endpoints) as poll:
            for engine in bound.engines:
                self.processes.start(engine, fresh_log(logs, engine.name))
            self.client = self.client or self._new_client()
            self.ahead = PromptsAhead(self.schedule, load)
            self.ahead.begin(self.client)
            self._wait_ready(poll, list(endpoints), "engines", meanwhile=self.ahead.likely(self.client))
            self.state.loaded(time.monotonic() - began)
            self.outcome.loads_s += self.state.load_s
            self.last_point = time.monotonic()
            self.engines = {"set": bound.set.name, "start": load.start, "ready_at": _now()}
            self.engines |= {} if load.round is None else {"round": load.round}
            ready = f"{bound.set.name}: {len(endpoints)} instance(s) ready after {self.state.load_s:.0f} s"
            self.journal.say(ready, set=bound.set.name, start=load.start, load_s=round(self.state.load_s, 3))
            with self.journal.timed("what the engines resolved"):
                self.meter.resolved = self.what_ran.read(bound)
            self._take_turns(load, logs)
            while later := self.schedule.continued(load, self._names_ran):
                self.ran.append(later)
                self.journal.say(f"{bound.set.name} stays{self._start_words(later)}")
                load, self.ahead, self.engines = later, PromptsAhead(self.schedule, later), {**self.engines, "round": later.round}
                self.ahead.begin(self.client)
                self._take_turns(load, logs)
            engines = [r for r in self.processes.running if r.process.kind == "engine"]
        self.processes.stop(engines)
        self.journal.event("set stopped", set=bound.set.name)

    def _take_turns(self, load: Load, logs: Path) -> None:
        for turn in self.schedule.turns(load):
            if self.schedule.has_open(turn.arm, turn.repeats, turn.round):
                self._run_arm(load.bound, turn, logs)

    def _start_words(self, load: Load) -> str:
        starts = self.config.workload.starts
        if load.round is not None:
            return f", to try its setting in round {load.round + 1}"
        return f", start {load.start + 1} of {starts}" if starts > 1 else ""

    def _new_client(self) -> BenchClient:
        return BenchClient(self.watch, self.tasks.deployment.client, fresh_log(self.folder.path / "logs", "client"))

    def _run_arm(self, bound: BoundSet, turn: Turn, logs: Path) -> None:
        """Router up, warm-up, points, router down. The engines stay."""
        assert self.client
        arm = turn.arm
        self.state.enter("starting the router of", arm.arm.name)
        urls = {r.name: r.url for r in arm.routers if r.url}
        engines = [e for e in bound.engines if e.name in arm.engine_roles]
        with self.watch.polling(urls) as poll:
            with self.journal.timed("router start"):
                for router in arm.routers:
                    self.processes.start(router, fresh_log(logs, f"{arm.arm.name}-{router.name}"))
                if urls:
                    self._wait_ready(poll, list(urls), "the router")
            self.state.enter("warming up", arm.arm.name)
            with self.journal.timed("warm-up"):
                self._warm(bound, turn, engines)
            for reason in mismatches(self.meter.transports(arm), self.config.cluster.network.transport.value):
                self.journal.say(f"{arm.arm.name}: its points will be INVALID: {reason}")
            with self.journal.timed(PROMPTS):
                self.ahead.settle(self.client, self.config.limits.point_s)
            if turn.is_first and arm.arm.topology.prefill:
                with self.journal.timed("text check"):
                    self._ask_for_text(arm, engines)
            self.journal.event("arm ready", arm=arm.arm.name)
            for task in self.schedule.open_tasks(arm, turn.repeats, turn.round):
                self._run_task(task, engines)
        with self.journal.timed("router stop"):
            self.processes.stop([r for r in self.processes.running if r.process.kind == "router"])

    def _warm(self, bound: BoundSet, turn: Turn, engines: Sequence[Process]) -> None:
        """Every pair of a prefill and a decode rank of each group, one request through the router, then the plan's warm-up, which
        is the same for every arm; notes it for the records."""
        arm, started_at = turn.arm, _now()
        timeout = self.config.limits.start_s
        how = warm_up.RequestOptions(self.config.model.name, self.api_key, timeout)
        ranks = {f"engine{n}": instance.data_parallel for n, instance in enumerate(bound.set.instances)}
        if arm.arm.topology.moves_by_nixl:
            for group in range(arm.arm.topology.route):
                members = [e for e in engines if e.group == group]
                prefill, decode = (
                    [warm_up.Instance(str(e.url), ranks.get(e.name, 1)) for e in members if arm.engine_roles[e.name] == role]
                    for role in ("prefill", "decode")
                )
                _, placing = self.watch.wait(lambda p=prefill, d=decode: warm_up.warm_pairs(p, d, how))  # type: ignore[misc]
                for url in placing:
                    self.journal.say(f"{url} takes no {warm_up.RANK_HEADER}, so its pairs of ranks are warmed by chance")
        self.watch.wait(lambda: warm_up.complete(arm.base_url, how, salt=0))
        assert self.client
        sent = []
        for load in self.tasks.deployment.plan.warm_up(min(turn.repeats, default=0), whole=turn.is_first):
            try:
                result = self.client.run(self.tasks.deployment.bench_args(arm, load), None, timeout_s=timeout)
            except PointFailed as error:
                raise NotReady(f"{arm.arm.name}: the warm-up failed: {error}\n{log_tail(self.client.running.log)}") from error
            sent.append(warm_up.sent_json(load, result.get("completed")))
        self.warm_up = {"started_at": started_at, "whole": turn.is_first, "sent": sent}

    def _ask_for_text(self, arm: BoundArm, engines: Sequence[Process]) -> None:
        """Compares what the arm answers with a plain instance's answers; every record of this load gets the evidence."""
        self.state.enter("comparing the text of", arm.arm.name)
        how = warm_up.RequestOptions(self.config.model.name, self.api_key, self.config.limits.start_s)
        seed = f"{self.config.seed}/{arm.arm.name}/{time.time_ns()}"  # a prompt that an earlier load was asked could lie in a cache
        found = self.watch.wait(lambda: text_check.evidence(self.config, arm, engines, how, seed))
        self.meter.text[arm.arm.name] = found
        check = text(found, disaggregated=True)
        if check.ok is not True:
            self.journal.say(f"{arm.arm.name}: its points will be {'unverified' if check.unverified else 'INVALID'}: {check.said}")

    # --- one point

    def _run_task(self, task: Task, engines: Sequence[Process]) -> None:
        """Measures and records one point; its failure is recorded and the next one goes on, a dead process ends the run."""
        self.state.enter("measuring", task.arm.arm.name, task.point.id)
        self.state.requests_done, self.state.requests_total = 0, task.point.num_prompts
        began, started_at = time.monotonic(), _now()
        error: PdslurmError | None = None
        versions = self.tasks.versions
        record = blank_record(self.folder, self.config, versions, task, started_at, self.warm_up, engines=self.engines)
        try:
            assert self.client
            meanwhile = self.ahead.during(self.client, task)
            record = self.meter.measure(self.client, record, task, engines, meanwhile=meanwhile)
        except (AllocationEnding, Interrupted, LimitReached):
            raise
        except PdslurmError as caught:
            error = caught
            record = dataclasses.replace(record, error=str(caught), invalid_reasons=(main_line(str(caught)),))
        wall = time.monotonic() - began
        self.folder.save(dataclasses.replace(record, wall_s=round(wall, 3)))
        self.schedule.take(task, record)
        self._account(record, wall)
        if isinstance(error, ResultsError | ProcessDied | UnknownEngine):
            raise error
        if isinstance(error, NotReady):
            self._after_timeout(error)

    def _account(self, record: Measurement, wall: float) -> None:
        """Counts a finished point and says how it went."""
        s, o = self.state, self.outcome
        s.points_done += 1
        s.points_total = s.points_done + self.schedule.left()
        s.requests_total = 0
        s.point_times_s.append(wall)
        o.measured += record.status == "done"
        o.failed += record.status == "failed"
        o.invalid += record.status == "done" and not record.valid
        o.measuring_s += measuring_s(record)
        now = time.monotonic()
        o.ready_s, self.last_point = o.ready_s + now - self.last_point, now
        done = f"{s.points_done}/{s.points_total} {record.arm} {record.point['id']}"
        if record.status == "failed":
            self.journal.say(f"{done}: FAILED: {main_line(record.error or 'unknown')}")
        else:
            m = record.metrics
            note = "" if record.valid else f"  INVALID: {'; '.join(record.invalid_reasons)}"
            names = ("output_throughput_tok_s", "mean_ttft_ms", "mean_tpot_ms", "mean_itl_ms")
            tokens, ttft, tpot, itl = (_number(m.get(name)) for name in names)
            self.journal.say(f"{done}: {tokens} tok/s, TTFT {ttft} ms, TPOT {tpot} ms, ITL {itl} ms{note}")

    def _after_timeout(self, error: NotReady) -> None:
        """A point that never ended has requests in flight: a new client drops them. If the arm then completes none, it is stuck."""
        assert self.client
        self.journal.say(f"{error}; starting a new client")
        self.client.stop()
        self.client = self._new_client()
        arm = next(a for a in self.schedule.arms if a.arm.name == self.state.arm)
        how = warm_up.RequestOptions(self.config.model.name, self.api_key, min(60.0, self.config.limits.point_s))
        self.watch.wait(lambda: warm_up.complete(arm.base_url, how, salt=9))

    # --- waiting

    def _wait_ready(
        self, poll: HealthPoll, names: Sequence[str], what: str, *, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Until every endpoint answered 200 once, with `meanwhile` called all the time. Raises NotReady at the deadline, naming who
        is missing and where its log is."""
        deadline = self.watch.deadline(self.config.limits.start_s)
        while missing := [n for n in names if n not in poll.ready]:
            for name in names:
                self.state.instances[name] = "starting" if name in missing else "ready"
            if deadline.is_over:
                logs = "\n".join(f"  {n}: {self.processes.by_name(n).log}" for n in missing)
                tail = log_tail(self.processes.by_name(missing[0]).log)
                raise NotReady(f"{what} not ready within limits.start_s={self.config.limits.start_s:g} s:\n{logs}\n{tail}")
            meanwhile()
            self.watch.pause()
        for name in names:
            self.state.instances[name] = "ready"


def fresh_log(folder: Path, name: str) -> Path:
    """`name.log`, or `name.2.log` … when a run was resumed: no log is ever overwritten."""
    folder.mkdir(parents=True, exist_ok=True)
    numbered = (folder / (f"{name}.log" if n == 1 else f"{name}.{n}.log") for n in range(1, 10_000))
    return next(path for path in numbered if not path.exists())


def main_line(text: str) -> str:
    """The one line of an error that says most: the last one of a traceback, else the first."""
    lines = text.strip().splitlines()
    return lines[-1 if lines[0].startswith("Traceback") else 0]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.1f}"
