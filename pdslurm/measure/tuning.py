"""Which setting of each kind of arm is tried next, and which are compared in the end, from what the trials measured so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from pdslurm.plan.deployment import BoundArm
from pdslurm.plan.plan import Plan
from pdslurm.plan.points import Point
from pdslurm.plan.tuning import KINDS, OF_SATURATED, Latencies, Setting, best, best_first, is_tuned, kind_of, rounds
from pdslurm.records.measurement import Measurement, is_overloaded, is_unsteady

FAILED = Latencies(math.inf, math.inf)


class Tuning:
    """The trials of a run. Everything follows from their records, so that a run that goes on decides as before."""

    def __init__(self, plan: Plan, arms: Sequence[BoundArm], representative: Callable[[Sequence[BoundArm]], str]) -> None:
        """`representative`: from the arms of a kind as they are configured to the name of the one that is tried for all of them."""
        self.is_on, self.tune, self.arms = is_tuned(plan.config), plan.config.tune, arms
        self.representative = representative
        self.trials = {(point.request_rate, point.repeat): point for point in plan.trials}
        self.rounds = rounds(self.tune) if self.is_on else ()
        self.known: dict[tuple[str, int], Latencies] = {}  # (arm, round) → what its trial measured
        self.saturated_per_s: float | None = None  # requests/s of the plain arm
        self.kinds = [kind for kind in KINDS if any(kind_of(arm.arm.topology) == kind for arm in arms)]

    def learn(self, record: Measurement) -> None:
        """What a trial measured. One that failed, or did not serve its rate, is the worst."""
        usable = record.status == "done" and (record.valid or is_unsteady(record)) and not is_overloaded(record)
        tpot, ttft = (record.metrics.get(f"p90_{what}_ms") for what in ("tpot", "ttft"))
        told = Latencies(_or_inf(tpot), _or_inf(ttft)) if usable else FAILED
        self.known[record.arm, record.point["repeat"]] = told

    @property
    def rate(self) -> float | None:
        """Requests/s of every trial; None while the plain arm has not told."""
        if self.tune.rate:
            return self.tune.rate
        if self.saturated_per_s is None:
            return None
        rates = sorted({rate for rate, _ in self.trials if rate})
        return max([rate for rate in rates if rate <= OF_SATURATED * self.saturated_per_s], default=rates[0])

    @property
    def is_over(self) -> bool:
        return all(not self.left(kind, number) for kind in self.kinds for number in range(len(self.rounds)))

    @property
    def round(self) -> int | None:
        """The first round that lacks a trial; None where none does."""
        return next((n for n in range(len(self.rounds)) if any(self.left(kind, n) for kind in self.kinds)), None)

    def left(self, kind: str, number: int) -> list[BoundArm]:
        """The arms of a kind whose trial of a round is not known yet."""
        return [arm for arm in self.tried(kind, number) if (arm.arm.name, number) not in self.known]

    def tried(self, kind: str, number: int) -> list[BoundArm]:
        """The arms of a kind that a round tries, as far as the rounds before are known."""
        mine = {arm.arm.setting: arm for arm in self._of_representative(kind)}
        kept: Sequence[Setting] = list(mine)[: self.rounds[0]]
        for before in range(number):
            if any((mine[setting].arm.name, before) not in self.known for setting in kept):
                return []  # nobody knows yet
            kept = best_first(self._of_round(mine, kept, before), keep=self.rounds[before + 1])
        return [mine[setting] for setting in kept]

    def _of_round(self, mine: dict[Setting, BoundArm], kept: Sequence[Setting], number: int) -> dict[Setting, Latencies]:
        in_order = [setting for setting in mine if setting in kept]  # as they were listed, whatever the round's order
        return {setting: self.known[mine[setting].arm.name, number] for setting in in_order}

    def _of_representative(self, kind: str) -> list[BoundArm]:
        alike = [arm for arm in self.arms if kind_of(arm.arm.topology) == kind]
        name = self.representative([arm for arm in alike if not arm.arm.setting])
        return [arm for arm in alike if arm.arm.base == name]

    def is_compared(self, arm: BoundArm) -> bool:
        """Whether the arm's setting is one of those that its kind is compared with; while that is not known, the configured one."""
        return arm.arm.setting in self.chosen(kind_of(arm.arm.topology))

    def chosen(self, kind: str) -> list[Setting]:
        """The best settings of a kind; the arm as it is configured while trials are left."""
        if not self.is_on or not self.is_over:
            return [()]
        last = len(self.rounds) - 1
        tried = self.tried(kind, last)
        mine = {arm.arm.setting: arm for arm in self._of_representative(kind)}
        return best(self._of_round(mine, [arm.arm.setting for arm in tried], last))

    def trial(self, arm: BoundArm, number: int) -> Point | None:
        """The open trial of an arm in a round."""
        kind, rate = kind_of(arm.arm.topology), self.rate
        is_left = any(each.arm.name == arm.arm.name for each in self.left(kind, number))
        return self.trials[rate, number] if is_left and rate is not None else None

    def turns(self, number: int) -> Iterator[BoundArm]:
        """The arms of a round whose trial is left, the kinds in turn."""
        by_kind = [self.tried(kind, number) for kind in self.kinds]
        for n in range(max(map(len, by_kind), default=0)):
            yield from (arms[n] for arms in by_kind if n < len(arms) and (arms[n].arm.name, number) not in self.known)

    @property
    def left_count(self) -> int:
        """Trials of all rounds that are not known yet."""
        return sum(self.rounds) * len(self.kinds) - len(self.known)

    def take_middle_rate(self) -> None:
        """Chooses the rate where the plain arm could not be saturated."""
        rates = sorted({rate for rate, _ in self.trials if rate})
        self.saturated_per_s = rates[len(rates) // 2] / OF_SATURATED


def _or_inf(value: float | None) -> float:
    return math.inf if value is None else value
