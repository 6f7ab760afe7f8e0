"""From a deployment to measurements: starts the instances of each set, then each arm's router, then runs the points; stops it all.

One loop, one thread of control. Whatever it waits for, `tick` looks every 0.1 s whether a process died, a signal came or a limit is
used up."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pdslurm.config import Limits
from pdslurm.errors import (
    AllocationEnding,
    Interrupted,
    LimitReached,
    NotReady,
    PdslurmError,
    PointFailed,
    ProcessDied,
    ResultsError,
)
from pdslurm.measure import transport, warm_up
from pdslurm.measure.bench_client import BenchClient
from pdslurm.measure.health import HealthWatch
from pdslurm.measure.meter import Meter
from pdslurm.measure.progress import Display, State
from pdslurm.measure.record import blank_record
from pdslurm.measure.schedule import Agenda, Turn
from pdslurm.node.processes import Processes, log_tail
from pdslurm.plan.commands import bench_args
from pdslurm.plan.deployment import BoundArm, BoundSet, Deployment, Process
from pdslurm.plan.keys import PointKeys
from pdslurm.plan.points import Point
from pdslurm.records.measurement import Measurement
from pdslurm.records.run_folder import RunFolder
from pdslurm.signals import SignalNote

T = TypeVar("T")
WARM_AGAIN = 8  # prompts for each engine when an arm's router is started again over engines that are warm


@dataclass
class Outcome:
    """How a run went: points measured now, done before, failed, invalid; and where the time went."""

    measured: int = 0
    skipped: int = 0
    failed: int = 0
    invalid: int = 0
    wall_s: float = 0.0
    measuring_s: float = 0.0


class Driver:
    """Carries out one deployment. `keys` and what is done already are known before anything starts."""

    def __init__(
        self,
        deployment: Deployment,
        folder: RunFolder,
        versions: Mapping[str, str | None],
        display: Display,
        processes: Processes,
        signals: SignalNote,
        api_key: str | None = None,
    ) -> None:
        self.deployment, self.folder, self.versions, self.display = deployment, folder, versions, display
        self.processes, self.signals, self.api_key = processes, signals, api_key
        self.config = deployment.plan.config
        self.state: State = display.state
        self.outcome = Outcome()
        self.agenda = Agenda(deployment, folder, PointKeys(deployment, versions))
        self.began = time.monotonic()
        self.watches: list[HealthWatch] = []  # of the engines and of the arm's routers
        self.client: BenchClient | None = None
        self.meter = Meter(self.config, folder, processes, wait_for=self._wait_for, tick=self.tick, progress=self._progress)

    # --- the run

    def run(self) -> Outcome:
        """Every load that still has something to measure. Raises PdslurmError; what was measured is on disk by then."""
        self.outcome.skipped = self.state.points_done = self.agenda.done()
        self.state.points_total = self.outcome.skipped + self.agenda.left()
        if self.outcome.skipped:
            self.say(f"{self.outcome.skipped} of {self.state.points_total} points are done already")
        loads = list(self.agenda.loads())
        with self.signals:
            try:
                for n, (bound, repeats) in enumerate(loads):
                    self.state.loads_left = sum(self._has_open(*load) for load in loads[n:])
                    if self._has_open(bound, repeats):
                        self._run_set(bound, repeats)
            finally:
                self.state.enter("stopping")
                self.outcome.wall_s = time.monotonic() - self.began
                self.event("stopping")
                if self.signals.received:
                    self.display.line("stopping; the same signal once more kills everything at once")
                self.processes.stop(list(self.processes.running))
                if self.processes.left_behind:
                    self.say(f"processes {self.processes.left_behind} are still there after KILL")
        return self.outcome

    def _has_open(self, bound: BoundSet, repeats: tuple[int, ...]) -> bool:
        return any(self.agenda.has_open(arm, repeats) for arm in bound.arms)

    def _run_set(self, bound: BoundSet, repeats: tuple[int, ...]) -> None:
        """Loads the instances once, then lets the arms of the set take turns."""
        began = time.monotonic()
        logs = self.folder.path / "logs" / bound.set.name
        self.state.enter("starting")
        self.state.instances = {e.name: "starting" for e in bound.engines}
        self.say(f"{bound.set.name}: starting {len(bound.engines)} engine process(es)")
        endpoints = {e.name: e.url for e in bound.engines if e.url}
        with self._watching(endpoints) as watch:
            for engine in bound.engines:
                self.processes.start(engine, fresh_log(logs, engine.name))
            self._start_client(bound, repeats)
            self._wait_ready(watch, list(endpoints), "engines", meanwhile=self._prepare_likely(bound, repeats))
            self.state.loaded(time.monotonic() - began)
            self.say(f"{bound.set.name}: {len(endpoints)} instance(s) ready after {self.state.load_s:.0f} s")
            for turn in self.agenda.turns(bound, repeats):
                if self.agenda.has_open(turn.arm, turn.repeats):
                    self._run_arm(bound, turn, logs)
            engines = [r for r in self.processes.running if r.process.kind == "engine"]
        self.processes.stop(engines)
        self.event("set stopped", set=bound.set.name)

    def _start_client(self, bound: BoundSet, repeats: tuple[int, ...]) -> None:
        """One client for the whole run; while engines load it makes the prompts of the set's points."""
        if self.client is None:
            self.client = BenchClient(self.processes, self.deployment.client, fresh_log(self.folder.path / "logs", "client"))
        surely = [repeat for repeat in repeats if repeat < self.config.workload.repeats]
        for point in dict.fromkeys(p for arm in bound.arms for p in self.agenda.open(arm, surely)):
            self.client.prepare(bench_args(self.config, point, bound.arms[0].base_url))

    def _prepare_likely(self, bound: BoundSet, repeats: tuple[int, ...]) -> Callable[[], None]:
        """Has the client make the prompts of one likely point of a search after the other, whenever it is idle: when engines are
        ready at most one of them is waited for."""
        likely = self.agenda.likely(bound, repeats)

        def one_more() -> None:
            if self.client and self.client.is_idle() and (point := next(likely, None)):
                self.client.prepare(bench_args(self.config, point, bound.arms[0].base_url))

        return one_more

    def _run_arm(self, bound: BoundSet, turn: Turn, logs: Path) -> None:
        """Router up, warm-up, points, router down. The engines stay."""
        assert self.client
        arm = turn.arm
        self.state.enter("starting the router of", arm.arm.name)
        urls = {r.name: r.url for r in arm.routers if r.url}
        engines = [e for e in bound.engines if e.name in arm.engine_roles]
        with self._watching(urls) as watch:
            for router in arm.routers:
                self.processes.start(router, fresh_log(logs, f"{arm.arm.name}-{router.name}"))
            if urls:
                self._wait_ready(watch, list(urls), "the router")
            self.state.enter("warming up", arm.arm.name)
            self._warm(arm, engines, whole=turn.is_first)
            for reason in transport.reasons(self.meter.transports(arm), self.config.cluster.network.transport.value):
                self.say(f"{arm.arm.name}: its points will be INVALID: {reason}")
            self.client.settle(self.tick, self.config.limits.point_s)
            self.event("arm ready", arm=arm.arm.name)
            for point in self.agenda.open(arm, turn.repeats):
                self._run_point(arm, engines, point)
        self.processes.stop([r for r in self.processes.running if r.process.kind == "router"])

    def _warm(self, arm: BoundArm, engines: Sequence[Process], *, whole: bool) -> None:
        """Every prefill × decode pair of each group, one request through the router, then the workload's warm-up prompts. `whole`
        is false for engines that have served this arm before: a few prompts for each will do."""
        timeout = self.config.limits.start_s
        ask = warm_up.Ask(self.config.model.name, self.api_key, timeout)
        if arm.arm.topology.moves_by_nixl:
            for group in range(arm.arm.topology.route):
                members = [e for e in engines if e.group == group]
                by_role = {
                    role: [str(e.url) for e in members if arm.engine_roles[e.name] == role] for role in ("prefill", "decode")
                }
                self._wait_for(lambda r=by_role: warm_up.warm_pairs(r["prefill"], r["decode"], ask))  # type: ignore[misc]
        self._wait_for(lambda: warm_up.complete(arm.base_url, ask, salt=0))
        prompts = self.config.workload.warmup_prompts
        if not whole:
            prompts = min(prompts, WARM_AGAIN * len(engines))
        if prompts:
            rehearsal = self.deployment.plan.points[0].rehearsal(prompts)
            assert self.client
            args = bench_args(self.config, rehearsal, arm.base_url)
            try:
                self.client.run(args, None, tick=self.tick, timeout_s=timeout, progress=lambda *_: None)
            except PointFailed as error:
                raise NotReady(f"{arm.arm.name}: the warm-up failed: {error}\n{log_tail(self.client.running.log)}") from error

    # --- one point

    def _run_point(self, arm: BoundArm, engines: Sequence[Process], point: Point) -> None:
        """Measures and records one point; its failure is recorded and the next one goes on, a dead process ends the run."""
        self.state.enter("measuring", arm.arm.name, point.id)
        self.state.requests_done, self.state.requests_total = 0, point.num_prompts
        began, started_at = time.monotonic(), datetime.now(UTC).isoformat(timespec="milliseconds")
        args = bench_args(self.config, point, arm.base_url)
        key = self.agenda.keys(arm, point)
        error: PdslurmError | None = None
        record = blank_record(self.folder, self.config, self.versions, arm, point, key, args, started_at)
        try:
            assert self.client
            record = self.meter.measure(self.client, record, arm, engines, point)
        except (AllocationEnding, Interrupted, LimitReached):
            raise
        except PdslurmError as caught:
            error = caught
            record = dataclasses.replace(record, error=str(caught), invalid_reasons=(gist(str(caught)),))
        wall = time.monotonic() - began
        self.folder.save(dataclasses.replace(record, wall_s=round(wall, 3)))
        self.agenda.saw(arm, point, record)
        self._account(record, wall)
        if isinstance(error, ResultsError | ProcessDied):
            raise error
        if isinstance(error, NotReady):
            self._after_timeout(error)

    def _account(self, record: Measurement, wall: float) -> None:
        """Counts a finished point and says how it went."""
        s, o = self.state, self.outcome
        s.points_done += 1
        s.points_total = s.points_done + self.agenda.left()
        s.requests_total = 0
        s.point_times_s.append(wall)
        o.measured += record.status == "done"
        o.failed += record.status == "failed"
        o.invalid += record.status == "done" and not record.valid
        o.measuring_s += record.metrics.get("duration_s") or 0.0
        done = f"{s.points_done}/{s.points_total} {record.arm} {record.point['id']}"
        if record.status == "failed":
            self.say(f"{done}: FAILED: {gist(record.error or 'unknown')}")
        else:
            m = record.metrics
            note = "" if record.valid else f"  INVALID: {'; '.join(record.invalid_reasons)}"
            tokens, ttft, itl = (_number(m.get(n)) for n in ("output_throughput_tok_s", "mean_ttft_ms", "mean_itl_ms"))
            self.say(f"{done}: {tokens} tok/s, TTFT {ttft} ms, ITL {itl} ms{note}")

    def _after_timeout(self, error: NotReady) -> None:
        """A point that never ended has requests in flight: a new client drops them. If the arm then completes none, it is stuck."""
        assert self.client
        self.say(f"{error}; starting a new client")
        self.client.stop()
        self.client = BenchClient(self.processes, self.deployment.client, fresh_log(self.folder.path / "logs", "client"))
        arm = next(a for a in self.agenda.arms() if a.arm.name == self.state.arm)
        ask = warm_up.Ask(self.config.model.name, self.api_key, min(60.0, self.config.limits.point_s))
        self._wait_for(lambda: warm_up.complete(arm.base_url, ask, salt=9))

    # --- watching

    def tick(self) -> None:
        """Raises ProcessDied, Interrupted or LimitReached; draws the display."""
        self.display.tick()
        if self.signals.received:
            raise Interrupted(f"stopped by {self.signals.name}; run the same command again to go on")
        self._check_limits(self.config.limits)
        try:
            self.processes.check()
            for name, what in [sick for watch in self.watches for sick in list(watch.sick.items())]:
                raise self.processes.died(name, what)
        except ProcessDied as error:
            self.state.instances[error.name.split()[0]] = "died"
            self.event("process died", name=error.name, cause=error.cause, node=error.node)
            raise

    @contextmanager
    def _watching(self, urls: Mapping[str, str]) -> Iterator[HealthWatch]:
        """A watch on endpoints that every tick looks at."""
        with HealthWatch(urls) as watch:
            self.watches.append(watch)
            try:
                yield watch
            finally:
                self.watches.remove(watch)

    def _check_limits(self, limits: Limits) -> None:
        hours = (time.monotonic() - self.began) / 3600
        if limits.wall_hours is not None and hours > limits.wall_hours:
            raise LimitReached(f"limits.wall_hours={limits.wall_hours:g} is used up; run the same command again to go on")
        gpu_hours = hours * self.deployment.plan.gpus
        budget = self.config.budget.gpu_hours
        if budget is not None and gpu_hours > budget:
            raise LimitReached(f"budget.gpu_hours={budget:g} is used up; run the same command again to go on")
        if limits.gpu_hours is not None and gpu_hours > limits.gpu_hours:
            raise LimitReached(f"limits.gpu_hours={limits.gpu_hours:g} is used up; run the same command again to go on")

    def _wait_ready(
        self, watch: HealthWatch, names: Sequence[str], what: str, *, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Until every endpoint answered 200 once, with `meanwhile` called all the time. Raises NotReady at the deadline, naming who
        is missing and where its log is."""
        deadline = time.monotonic() + self.config.limits.start_s
        while missing := [n for n in names if n not in watch.ready]:
            for name in names:
                self.state.instances[name] = "starting" if name in missing else "ready"
            if time.monotonic() > deadline:
                logs = "\n".join(f"  {n}: {self.processes.by_name(n).log}" for n in missing)
                tail = log_tail(self.processes.by_name(missing[0]).log)
                raise NotReady(f"{what} not ready within limits.start_s={self.config.limits.start_s:g} s:\n{logs}\n{tail}")
            meanwhile()
            self._pause(0.1)
        for name in names:
            self.state.instances[name] = "ready"

    def _pause(self, seconds: float) -> None:
        self.tick()
        time.sleep(seconds)

    def _wait_for(self, work: Callable[[], T]) -> T:
        """Runs something that blocks in a thread of its own, so that a death is noticed meanwhile."""
        result: Future[T] = Future()

        def carry_out() -> None:
            try:
                result.set_result(work())
            except BaseException as error:
                result.set_exception(error)

        threading.Thread(target=carry_out, daemon=True).start()
        while not result.done():
            self._pause(0.02)
        return result.result()

    def _progress(self, done: int, total: int) -> None:
        self.state.requests_done, self.state.requests_total = done, total

    # --- what is said

    def say(self, text: str) -> None:
        self.display.line(text)
        self.event(text, said=True)

    def event(self, what: str, **more: Any) -> None:
        """One line in events.jsonl. A full disk must not keep a run from stopping its engines: records report it, this does not."""
        entry = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": what, **more}
        with contextlib.suppress(OSError), (self.folder.path / "events.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")


def fresh_log(folder: Path, name: str) -> Path:
    """`name.log`, or `name.2.log` … when a run was resumed: no log is ever overwritten."""
    folder.mkdir(parents=True, exist_ok=True)
    numbered = (folder / (f"{name}.log" if n == 1 else f"{name}.{n}.log") for n in range(1, 10_000))
    return next(path for path in numbered if not path.exists())


def gist(text: str) -> str:
    """The one line of an error that says most: the last one of a traceback, else the first."""
    lines = text.strip().splitlines()
    return lines[-1 if lines[0].startswith("Traceback") else 0]


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.1f}"
