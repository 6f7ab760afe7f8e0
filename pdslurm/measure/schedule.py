"""What a run measures next: which sets are loaded for which repeats, in which order arms take turns, which points are still open.

Decides from the records of the run's folder and from what is measured meanwhile; starts nothing."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pdslurm.config import Interleave
from pdslurm.plan.deployment import BoundArm, BoundSet
from pdslurm.plan.points import Point, RateSweep, rate_sweeps, saturated_points
from pdslurm.plan.rate_sweep import highest_met, next_rate
from pdslurm.plan.tasks import Task, Tasks
from pdslurm.records.good_requests import good_share, read_requests
from pdslurm.records.measurement import Measurement, is_overloaded, is_unsteady
from pdslurm.records.run_folder import RunFolder
from pdslurm.records.split_ratio import SATURATED, Answers, Limits, served, suggested_prefill
from pdslurm.records.t_interval import relative_half_width

T = TypeVar("T")


@dataclass(frozen=True)
class Turn:
    """An arm with its router up, once: it measures what is open of these repeats. The first of its arm in a load warms up whole."""

    arm: BoundArm
    repeats: tuple[int, ...]
    is_first: bool


class Schedule:
    """Open tasks of a run. A task is done when its valid record exists; one that was tried in this run is not tried again."""

    def __init__(self, tasks: Tasks, folder: RunFolder) -> None:
        self.tasks, self.folder, self.arms = tasks, folder, tasks.deployment.arms
        plan = tasks.deployment.plan
        self.points, self.workload, self.slo, self.seed = plan.points, plan.config.workload, plan.config.slo, plan.config.seed
        self.tried: Counter[tuple[str, str]] = Counter()
        self.tries = 2 if self.is_searching else 1  # a rate sweep goes no further than a rate that could not be measured
        self.finished: dict[tuple[str, str], bool] = {}  # this process alone measures here, so one look at the disk will do
        self.values: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.sweeps = rate_sweeps(plan.points) if self.is_searching else {}
        self.saturated = saturated_points(plan.points)
        self.answers: dict[tuple[str, str], Answers] = {}  # (arm, saturated point) → what one of its instances did
        self.meets_slo: dict[tuple[str, str], bool] = {}  # (arm, point) → whether it met the SLO there
        if self.workload.until.rel_ci is not None or self.is_searching:
            known = {(arm.arm.name, p.id, tasks.of(arm, p).key) for arm in self.arms for p in plan.points}
            for record in folder.records():
                if (record.arm, record.point["id"], record.key) in known:
                    self._learn(record)

    @property
    def is_searching(self) -> bool:
        return self.workload.search.lowest is not None

    # --- the order

    def loads(self) -> Iterator[tuple[BoundSet, tuple[int, ...]]]:
        """Which sets are loaded one after another, each with the repeats that it measures before it goes."""
        sets, repeats = self.tasks.deployment.sets, tuple(range(self.workload.most_repeats))
        if self.workload.interleave is not Interleave.sets or len(sets) == 1:
            yield from ((bound, repeats) for bound in sets)
            return
        for repeat in repeats:
            for bound in self._shuffled(sets, repeat):
                yield bound, (repeat,)

    def turns(self, bound: BoundSet, repeats: tuple[int, ...]) -> Iterator[Turn]:
        """The arms of a loaded set as they take turns."""
        if self.workload.interleave is Interleave.none or len(bound.arms) == 1:
            yield from (Turn(arm, repeats, True) for arm in bound.arms)
            return
        warm: set[str] = set()
        for repeat in repeats:
            for arm in self._shuffled(bound.arms, repeat):
                if self.has_open(arm, (repeat,)):
                    yield Turn(arm, (repeat,), arm.arm.name not in warm)
                    warm.add(arm.arm.name)

    def _shuffled(self, items: Sequence[T], repeat: int) -> list[T]:
        """An order of its own for each repeat, the same on every run."""
        return random.Random(f"{self.seed}/order/{repeat}").sample(items, len(items))

    # --- what is open

    def is_done(self, arm: BoundArm, point: Point) -> bool:
        which = arm.arm.name, point.id
        if which not in self.finished:
            self.finished[which] = self.folder.is_done(*which, self.tasks.of(arm, point).key)
        return self.finished[which]

    def open_tasks(self, arm: BoundArm, repeats: Sequence[int] | None = None) -> Iterator[Task]:
        """What this arm still has to measure, in its order; each task is decided on when it is asked for, so that one which became
        unnecessary is passed over."""
        points = self._open_rates(arm, repeats) if self.is_searching else self._open_points(arm, repeats)
        yield from (self._task(arm, point) for point in points)

    def _task(self, arm: BoundArm, point: Point) -> Task:
        """The point on the arm, with another seed for every invalid measurement that there is of it."""
        task = self.tasks.of(arm, point)
        return self.tasks.again(task, self.folder.tries(arm.arm.name, point.id, task.key))

    def _open_points(self, arm: BoundArm, repeats: Sequence[int] | None) -> Iterator[Point]:
        for point in self.points:
            if (repeats is None or point.repeat in repeats) and self._is_open(arm, point):
                yield point

    def _open_rates(self, arm: BoundArm, repeats: Sequence[int] | None) -> Iterator[Point]:
        """Sweep by sweep, each until its answer is known; a rate that failed or is invalid leaves its sweep where it is. A plain
        arm is saturated before."""
        if not arm.arm.topology.prefill and (repeats is None or 0 in repeats):
            yield from (point for pair in self.saturated.values() for point in pair if self._is_open(arm, point))
        for (which, repeat), sweep in self.sweeps.items():
            while (repeats is None or repeat in repeats) and (point := self._next_rate(arm, which, repeat, sweep)):
                tries = self.tried[arm.arm.name, point.id]
                yield point
                if self.tried[arm.arm.name, point.id] == tries:  # whoever only asks whether there is one
                    break

    def likely_tasks(self, bound: BoundSet, repeats: Sequence[int]) -> Iterator[Task]:
        """Rates of a search that a loaded set may come to, likeliest first: around the highest at which some arm met the SLO, else
        around the middle, the first repeats before the later ones. Each once, and none where nothing is searched."""
        around: dict[RateSweep, int] = {}
        for (which, _), sweep in self.sweeps.items():
            known = [highest_met(outcomes) for arm in self.arms if (outcomes := self._outcomes(arm, sweep))]
            around[which] = max([around.get(which, -1), *known])
        candidates = [
            (abs(n - (around[which] if around[which] >= 0 else len(sweep) // 2)), repeat, n, point)
            for (which, repeat), sweep in self.sweeps.items()
            if repeat in repeats
            for n, point in enumerate(sweep)
        ]
        for _, _, _, point in sorted(candidates, key=lambda each: each[:3]):
            if arm := next((arm for arm in bound.arms if self._is_open(arm, point)), None):
                yield self._task(arm, point)

    def _next_rate(self, arm: BoundArm, which: RateSweep, repeat: int, sweep: Sequence[Point]) -> Point | None:
        """The point at the rate to measure next; None where the answer is known, or does not matter."""
        if not self._is_near(arm, which) or (repeat and self._is_behind(arm, which)):
            return None
        outcomes = self._outcomes(arm, sweep)
        earlier = (self._outcomes(arm, self.sweeps[which, before]) for before in reversed(range(repeat)))
        start = next((highest_met(known) for known in earlier if known), len(sweep) // 2)
        n = next_rate(outcomes, len(sweep), start)
        return None if n is None or not self._is_open(arm, sweep[n]) else sweep[n]

    def _is_near(self, arm: BoundArm, which: RateSweep) -> bool:
        """Whether the arm's ratio is the one that saturated instances suggest, or near enough; true while nothing suggests one."""
        reach, prefill = self.workload.search.neighbours, arm.arm.topology.prefill
        if reach is None or not prefill or (suggested := self.suggested(which)) is None:
            return True
        return abs(prefill - suggested) <= reach

    def suggested(self, which: RateSweep) -> int | None:
        """Prefill instances of the ratio that the saturated points of the plain arm suggest under the SLO; None where they are not
        known, or no ratio meets the SLO by them."""
        plain = next((arm for arm in self.arms if not arm.arm.topology.prefill), None)
        saturated = self.saturated.get(which[:2])
        if plain is None or not saturated:
            return None
        prompts, whole, few = (self.answers.get((plain.arm.name, point.id)) for point in saturated)
        if prompts is None or whole is None:
            return None
        limits = Limits(self.slo.share, self.slo.ttft_ms, self.slo.tpot_ms)
        return suggested_prefill(
            plain.arm.topology.route, served(prompts.per_s, whole, few=few, output_len=which[1], limits=limits)
        )

    def _is_behind(self, arm: BoundArm, which: RateSweep) -> bool:
        """Whether the first repeat showed that others of its kind serve so much more that this arm cannot be the best of them."""
        share, sweep = self.workload.search.drop_below, self.sweeps[which, 0]
        if share is None:
            return False
        kind = bool(arm.arm.topology.prefill)
        alike = [each for each in self.arms if bool(each.arm.topology.prefill) == kind]
        best = max(self._capacity_per_s(each, sweep) for each in alike)
        return self._capacity_per_s(arm, sweep) < share * best

    def _capacity_per_s(self, arm: BoundArm, sweep: Sequence[Point]) -> float:
        n = highest_met(self._outcomes(arm, sweep))
        return (sweep[n].request_rate or 0.0) if n >= 0 else 0.0

    def _outcomes(self, arm: BoundArm, sweep: Sequence[Point]) -> dict[int, bool]:
        known = ((n, self.meets_slo.get((arm.arm.name, point.id))) for n, point in enumerate(sweep))
        return {n: ok for n, ok in known if ok is not None}

    def has_open(self, arm: BoundArm, repeats: Sequence[int] | None = None) -> bool:
        return next(self.open_tasks(arm, repeats), None) is not None

    def _is_open(self, arm: BoundArm, point: Point) -> bool:
        return (
            self.tried[arm.arm.name, point.id] < self.tries
            and (point.repeat < self.workload.repeats or not self._is_known(arm.arm.name, point))
            and not self.is_done(arm, point)
        )

    def _is_known(self, arm: str, point: Point) -> bool:
        """Whether workload.until is met: every metric that this arm knows at this setting is known well enough."""
        until = self.workload.until
        assert until.rel_ci is not None
        series = self.values[arm, without_repeat(point.id)]
        widths = [relative_half_width(series[metric]) for metric in until.metrics if series[metric]]
        return bool(widths) and all(width <= until.rel_ci for width in widths)

    def take(self, task: Task, record: Measurement) -> None:
        """The record of a task that was measured, or failed."""
        which = task.arm.arm.name, task.point.id
        self.tried[which] += 1
        self.finished[which] = record.status == "done" and record.valid
        if self.workload.until.rel_ci is not None or self.is_searching:
            self._learn(record)

    def _learn(self, record: Measurement) -> None:
        if self.is_searching and self._shows_a_miss(record):
            self.meets_slo[record.arm, record.point["id"]] = False
            return
        if record.status != "done" or not record.valid:
            return
        if SATURATED in record.point["sweeps"]:
            self._learn_saturated(record)
        elif self.is_searching and (met := self._meets_slo(record)) is not None:
            self.meets_slo[record.arm, record.point["id"]] = met
        setting = without_repeat(record.point["id"])
        for metric in self.workload.until.metrics:
            if (value := record.metrics.get(metric)) is not None:
                self.values[record.arm, setting][metric].append(value)

    def _learn_saturated(self, record: Measurement) -> None:
        """What one of the instances of a plain arm did; nothing where no request was answered."""
        instances = next((arm.arm.topology.route for arm in self.arms if arm.arm.name == record.arm), None)
        if instances and (rate := record.metrics["request_throughput_per_s"]):
            self.answers[record.arm, record.point["id"]] = Answers(rate / instances, record.metrics.get("mean_tpot_ms"))

    def _shows_a_miss(self, record: Measurement) -> bool:
        """Whether a measurement that may be no number to show still says that the SLO is missed at its rate."""
        if is_overloaded(record):
            return True
        return is_unsteady(record) and SATURATED not in record.point["sweeps"] and self._meets_slo(record) is False

    def _meets_slo(self, record: Measurement) -> bool | None:
        """Whether the SLO's share of a measurement's requests was good; None where it has none, or its file is gone."""
        path = self.folder.beside_raw(record, "requests")
        if not record.valid and not path.is_file():
            return None
        share = good_share(read_requests(path), vars(self.slo))
        return None if share is None else share >= self.slo.share

    # --- counts

    def done(self) -> int:
        """Points of the plan that are done, those beyond workload.repeats too."""
        return sum(self.is_done(arm, point) for arm in self.arms for point in self.points)

    def left(self) -> int:
        """Points that are open as things stand; workload.until may ask for more, or fewer, later."""
        return sum(1 for arm in self.arms for _ in self.open_tasks(arm))


def without_repeat(point_id: str) -> str:
    """What all repeats of a setting have in common."""
    return point_id.rpartition("-rep")[0]
