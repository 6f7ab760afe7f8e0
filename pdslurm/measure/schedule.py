"""What a run measures next: which sets are loaded for which repeats, in which order arms take turns, which points are still open.

Decides from the records of the run's folder and from what is measured meanwhile; starts nothing."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from pdslurm.config import Interleave
from pdslurm.errors import ResultsError
from pdslurm.measure.tuning import Tuning
from pdslurm.plan.deployment import BoundArm, BoundSet
from pdslurm.plan.points import Point, RateSweep, rate_sweeps, saturated_points
from pdslurm.plan.rate_sweep import Known, highest_met, likely_rates, middle, next_rate
from pdslurm.plan.tasks import Task, Tasks
from pdslurm.records.good_requests import read_columns, slo_ratio
from pdslurm.records.measurement import TUNING, Measurement, is_overloaded, is_trial, is_unsteady
from pdslurm.records.run_folder import RunFolder
from pdslurm.records.split_ratio import SATURATED, Answers, Limits, served, suggested_prefill
from pdslurm.records.t_interval import relative_half_width

T = TypeVar("T")


@dataclass(frozen=True)
class Load:
    """A set that is loaded once, in one of workload.starts, and the repeats that it measures before it goes; or, to tune, the round
    whose trials it measures."""

    bound: BoundSet
    start: int
    repeats: tuple[int, ...]
    round: int | None = None

    @property
    def name(self) -> tuple[str, int, int | None]:
        """What tells it from the other loads of a run."""
        return self.bound.set.name, self.start, self.round


@dataclass(frozen=True)
class Turn:
    """An arm with its router up, once: it measures what is open of these repeats, or its trial of a round. The first of its arm in
    a load warms up whole."""

    arm: BoundArm
    repeats: tuple[int, ...]
    is_first: bool
    round: int | None = None


class Schedule:
    """Open tasks of a run. A task is done when its valid record exists, or a record which shows that its arm does not serve the
    rate: whoever tried such a rate until chance let it pass would measure chance. One that was tried in this run is not tried
    again."""

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
        self.overloaded: set[tuple[str, str]] = set()  # (arm, point) at which the queue only grew
        self.tuning = Tuning(plan, self.arms, self._representative)
        if self.workload.until.rel_ci is not None or self.is_searching or self.tuning.is_on:
            known = {(arm.arm.name, p.id, tasks.of(arm, p).key) for arm in self.arms for p in (*plan.trials, *plan.points)}
            for record in folder.records():
                if (record.arm, record.point["id"], record.key) in known and not (is_trial(record) and _tells_nothing(record)):
                    self._learn(record)
        self.trials_before = len(self.tuning.known)
        self.too_fast = {(record.arm, record.point["id"], record.key) for record in folder.records() if is_overloaded(record)}

    @property
    def is_searching(self) -> bool:
        return self.workload.search.lowest is not None

    # --- the order

    def loads(self) -> Iterator[Load]:
        """Which sets are loaded one after another, as far as that is known now: for the trials of a round that are left, then all
        of them once in every start, so that drift of the machine hits all alike. While trials are left nobody knows which settings
        will be compared, and the arms as they are configured stand for them."""
        if (number := self.tuning.round) is not None:
            yield from (Load(self._set_of(arm), 0, (), number) for arm in self.tuning.turns(number))
        for start in range(self.workload.starts):
            for bound in self._order_of(start):
                if any(self.tuning.is_compared(arm) for arm in bound.arms):
                    yield Load(bound, start, tuple(self.workload.repeats_of(start)))

    def open_loads(self, ran: Collection[tuple[str, int, int | None]]) -> list[Load]:
        """The loads that have something to measure, but for those of the names in `ran`."""
        return [load for load in self.loads() if load.name not in ran and self.load_has_open(load)]

    def continued(self, load: Load, ran: Collection[tuple[str, int, int | None]]) -> Load | None:
        """Where a round of trials has ended, the next round's load of the set that is loaded: it needs no new engines. None where
        it is not tried again, or other trials of its round come first."""
        trials = [each for each in self.open_loads(ran) if each.round is not None]
        if load.round is None or any(each.round == load.round for each in trials):
            return None
        return next((each for each in trials if each.bound is load.bound), None)

    def load_has_open(self, load: Load) -> bool:
        return any(self.has_open(arm, load.repeats, load.round) for arm in load.bound.arms)

    def _set_of(self, arm: BoundArm) -> BoundSet:
        return next(bound for bound in self.tasks.deployment.sets if arm in bound.arms)

    def _representative(self, alike: Sequence[BoundArm]) -> str:
        """The arm that is tuned for all of its kind: of P/D arms the one nearest to the ratio that saturated instances suggest,
        else the middle one."""
        which = next(iter(self.sweeps), None)
        suggested = self.suggested(which[0]) if which and alike[0].arm.topology.prefill else None
        if suggested is None:
            return alike[(len(alike) - 1) // 2].arm.name if alike[0].arm.topology.prefill else alike[0].arm.name
        return min(alike, key=lambda arm: abs(arm.arm.topology.prefill - suggested)).arm.name

    def _order_of(self, start: int) -> Sequence[BoundSet]:
        """The sets in an order of its own for each start, in the plan's where there is one start. A plain arm that suggests a ratio
        comes before the arms that depend on it."""
        sets = self.tasks.deployment.sets
        if self.workload.starts == 1:
            return sets
        shuffled = self._shuffled(sets, f"start {start}")
        return sorted(shuffled, key=_is_disaggregated) if self.saturated and start == 0 else shuffled

    def turns(self, load: Load) -> Iterator[Turn]:
        """The arms of a loaded set as they take turns."""
        bound, repeats = load.bound, load.repeats
        if load.round is not None:
            yield from (Turn(arm, (), True, load.round) for arm in bound.arms)
            return
        if self.workload.interleave is Interleave.none or len(bound.arms) == 1:
            yield from (Turn(arm, repeats, True) for arm in bound.arms)
            return
        warm: set[str] = set()
        for repeat in repeats:
            for arm in self._shuffled(bound.arms, repeat):
                if self.has_open(arm, (repeat,)):
                    yield Turn(arm, (repeat,), arm.arm.name not in warm)
                    warm.add(arm.arm.name)

    def _shuffled(self, items: Sequence[T], turn: int | str) -> list[T]:
        """An order of its own for each repeat or start, the same on every run."""
        return random.Random(f"{self.seed}/order/{turn}").sample(items, len(items))

    # --- what is open

    def is_done(self, arm: BoundArm, point: Point) -> bool:
        which = arm.arm.name, point.id
        if which not in self.finished:
            key = self.tasks.of(arm, point).key
            self.finished[which] = self.folder.is_done(*which, key) or (*which, key) in self.too_fast
        return self.finished[which]

    def open_tasks(self, arm: BoundArm, repeats: Sequence[int] | None = None, number: int | None = None) -> Iterator[Task]:
        """What this arm still has to measure, in its order; each task is decided on when it is asked for, so that one which became
        unnecessary is passed over. `number`: of the round whose trial is meant."""
        if number is not None:
            points = self._open_trials(arm, number)
        elif not self.tuning.is_compared(arm):
            return
        else:
            points = self._open_rates(arm, repeats) if self.is_searching else self._open_points(arm, repeats)
        yield from (self._task(arm, point) for point in points)

    def _open_trials(self, arm: BoundArm, number: int) -> Iterator[Point]:
        """The arm's trial; before the first of all the saturated points of the plain arm, which tell the rate of the trials."""
        is_first = number == 0 and not arm.arm.setting and not arm.arm.topology.prefill
        if is_first and self.tuning.rate is None:
            yield from self._open_saturated(arm)
            yield from (point for point in self._open_saturated(arm) if self.tried[arm.arm.name, point.id])  # what failed, again
            if self.tuning.rate is None and not any(self._open_saturated(arm)):  # they were tried, and told nothing
                self.tuning.take_middle_rate()
        if point := self.tuning.trial(arm, number):
            yield point

    def _open_saturated(self, arm: BoundArm) -> Iterator[Point]:
        if not arm.arm.topology.prefill and not arm.arm.setting:
            yield from (point for pair in self.saturated.values() for point in pair if self._is_open(arm, point))

    def _task(self, arm: BoundArm, point: Point) -> Task:
        """The point on the arm, with another seed for every invalid measurement that there is of it."""
        task = self.tasks.of(arm, point)
        return self.tasks.again(task, self.folder.tries(arm.arm.name, point.id, task.key))

    def _open_points(self, arm: BoundArm, repeats: Sequence[int] | None) -> Iterator[Point]:
        for point in self.points:
            if (repeats is None or point.repeat in repeats) and self._is_open(arm, point):
                yield point

    def _open_rates(self, arm: BoundArm, repeats: Sequence[int] | None) -> Iterator[Point]:
        """Sweep by sweep, each until all is known that the search asks for, or can be. A plain arm is saturated before."""
        if repeats is None or 0 in repeats:
            yield from self._open_saturated(arm)
        for (which, repeat), sweep in self.sweeps.items():
            while (repeats is None or repeat in repeats) and (point := self._next_rate(arm, which, repeat, sweep)):
                tries = self.tried[arm.arm.name, point.id]
                yield point
                if self.tried[arm.arm.name, point.id] == tries:  # whoever only asks whether there is one
                    break

    def likely_tasks(self, bound: BoundSet, repeats: Sequence[int]) -> Iterator[Task]:
        """Rates of a search that a loaded set may come to, likeliest first: around the highest at which some arm met the SLO, else
        around the middle, the first repeats before the later ones. Each once, and none where nothing is searched."""
        search, best = self.workload.search, self._best_met()
        candidates = []
        for (which, repeat), sweep in self.sweeps.items():
            is_known = best[which] >= 0
            around = best[which] if is_known else middle(len(sweep), search)
            likely = likely_rates(len(sweep), around, search, is_known=is_known) if repeat in repeats else {}
            candidates += [(far, repeat, n, sweep[n]) for n, far in likely.items()]
        for _, _, _, point in sorted(candidates, key=lambda each: each[:3]):
            if arm := next((arm for arm in bound.arms if self._is_open(arm, point)), None):
                yield self._task(arm, point)

    def may_follow(self, task: Task, repeats: Sequence[int]) -> Iterator[Task]:
        """Of a search: what its arm measures right after `task` if that meets the SLO, if it misses it, and if it is invalid."""
        if not self.is_searching or {SATURATED, TUNING} & set(task.point.sweeps):
            return
        arm, which = task.arm, (task.arm.arm.name, task.point.id)
        for met in (True, False):
            known, self.meets_slo = self.meets_slo, {**self.meets_slo, which: met}
            following = next(self.open_tasks(arm, repeats), None)
            self.meets_slo = known
            if following:
                yield following
        yield self.tasks.again(self.tasks.of(arm, task.point), self.folder.tries(*which, task.key) + 1)

    def _best_met(self) -> dict[RateSweep, int]:
        """The number of the highest rate at which any arm met the SLO in any repeat; -1 where none did."""
        best: dict[RateSweep, int] = {}
        for (which, _), sweep in self.sweeps.items():
            best[which] = max([best.get(which, -1), *(highest_met(self._outcomes(arm, sweep)) for arm in self.arms)])
        return best

    def _next_rate(self, arm: BoundArm, which: RateSweep, repeat: int, sweep: Sequence[Point]) -> Point | None:
        """The point at the rate to measure next; None where all is known, or does not matter."""
        if not self._is_near(arm, which) or (repeat >= self._judging_repeats and self._is_behind(arm, which)):
            return None
        search, name = self.workload.search, arm.arm.name
        outcomes = self._outcomes(arm, sweep)
        closed = {n for n, point in enumerate(sweep) if n not in outcomes and not self._is_open(arm, point)}
        overloaded = {n for n in outcomes if (name, sweep[n].id) in self.overloaded}
        earlier = (self._outcomes(arm, self.sweeps[which, before]) for before in reversed(range(repeat)))
        last = next((highest_met(known) for known in earlier if known), None)
        start = middle(len(sweep), search) if last is None else last
        n = next_rate(Known(outcomes, overloaded, closed), len(sweep), search=search, start=start, is_first=last is None)
        return None if n is None else sweep[n]

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
        """Whether the first start showed that others of its kind serve so much more that this arm cannot be the best of them; where
        there is one start, its first repeat."""
        share = self.workload.search.drop_below
        if share is None:
            return False
        kind = bool(arm.arm.topology.prefill)
        alike = [each for each in self.arms if bool(each.arm.topology.prefill) == kind]
        best = max(self._capacity_per_s(each, which) for each in alike)
        return self._capacity_per_s(arm, which) < share * best

    @property
    def _judging_repeats(self) -> int:
        """How many repeats decide which arms fall behind."""
        return self.workload.repeats if self.workload.starts > 1 else 1

    def _capacity_per_s(self, arm: BoundArm, which: RateSweep) -> float:
        """The mean of the repeats that decide, as far as they are known; 0 where none is."""
        sweeps = [self.sweeps[which, repeat] for repeat in range(self._judging_repeats)]
        known = [(sweep, highest_met(outcomes)) for sweep in sweeps if (outcomes := self._outcomes(arm, sweep))]
        return fmean([(sweep[n].request_rate or 0.0) if n >= 0 else 0.0 for sweep, n in known] or [0.0])

    def _outcomes(self, arm: BoundArm, sweep: Sequence[Point]) -> dict[int, bool]:
        known = ((n, self.meets_slo.get((arm.arm.name, point.id))) for n, point in enumerate(sweep))
        return {n: ok for n, ok in known if ok is not None}

    def has_open(self, arm: BoundArm, repeats: Sequence[int] | None = None, number: int | None = None) -> bool:
        return next(self.open_tasks(arm, repeats, number), None) is not None

    def _is_open(self, arm: BoundArm, point: Point) -> bool:
        return (
            self.tried[arm.arm.name, point.id] < self.tries
            and (point.repeat < self.workload.sure_repeats or not self._is_known(arm.arm.name, point))
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
        if self.workload.until.rel_ci is not None or self.is_searching or self.tuning.is_on:
            self._learn(record)

    def _learn(self, record: Measurement) -> None:
        if is_trial(record):
            self.tuning.learn(record)
            return
        if self.is_searching and self._shows_a_miss(record):
            self.meets_slo[record.arm, record.point["id"]] = False
            if is_overloaded(record):
                self.overloaded.add((record.arm, record.point["id"]))
            return
        if record.status != "done" or not record.valid:
            return
        if SATURATED in record.point.get("sweeps", ()):
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
        if instances and (rate := record.metrics.get("request_throughput_per_s")):
            self.answers[record.arm, record.point["id"]] = Answers(rate / instances, record.metrics.get("mean_tpot_ms"))
            if record.point["output_len"] > 1 and record.point["max_concurrency"] is None:
                self.tuning.saturated_per_s = rate

    def _shows_a_miss(self, record: Measurement) -> bool:
        """Whether a measurement that may be no number to show still says that the SLO is missed at its rate."""
        if is_overloaded(record):
            return True
        return is_unsteady(record) and SATURATED not in record.point.get("sweeps", ()) and self._meets_slo(record) is False

    def _meets_slo(self, record: Measurement) -> bool | None:
        """Whether the SLO's share of a measurement's requests was good, those left out that found a queue that began empty; None
        where it has none. Raises ResultsError where the file of a valid measurement is gone or cannot be read."""
        path = self.folder.beside_raw(record, "requests")
        try:
            columns = read_columns(path)
        except ResultsError:
            if record.valid:
                raise
            columns = None
        if columns is None and record.valid:
            raise ResultsError(f"{path}: not a file of requests (it is not there)")
        ratio = slo_ratio(columns, vars(self.slo), self.slo.share) if columns else None
        return None if ratio is None else ratio <= 1

    # --- counts

    def done(self) -> int:
        """Points of the plan that are done, those that only workload.until asked for too."""
        return sum(self.is_done(arm, point) for arm in self.arms for point in self.points) + self.trials_before

    def left(self) -> int:
        """Points and trials that are open as things stand; workload.until may ask for more, or fewer, later."""
        return sum(1 for arm in self.arms for _ in self.open_tasks(arm)) + self.tuning.left_count


def _tells_nothing(record: Measurement) -> bool:
    """Whether a trial of an earlier session is made again: it failed, or was invalid for another reason than its setting's
    speed."""
    return not (record.valid or is_overloaded(record) or is_unsteady(record))


def _is_disaggregated(bound: BoundSet) -> bool:
    return all(arm.arm.topology.prefill for arm in bound.arms)


def without_repeat(point_id: str) -> str:
    """What all repeats of a setting have in common."""
    return point_id.rpartition("-rep")[0]
