"""Which points' prompts the benchmark client makes before they are needed: while engines load, and while a point is measured.

Its processes for that run where a core is idle (pdslurm/bench/prompt_maker.py). Where engines compute on the CPU no core is theirs,
and nothing is made while a point is measured."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from pdslurm.config import Device
from pdslurm.measure.bench_client import BenchClient
from pdslurm.measure.schedule import Load, Schedule
from pdslurm.plan.points import Point
from pdslurm.plan.tasks import Task


class PromptsAhead:
    """Of one load of a set."""

    def __init__(self, schedule: Schedule, load: Load) -> None:
        self.schedule, self.load = schedule, load
        self.asked: set[Point] = set()  # every arm sends the same prompts
        self.while_measuring = schedule.tasks.deployment.plan.config.cluster.device is not Device.cpu

    def begin(self, client: BenchClient) -> None:
        """Asks for what is needed in any case: the warm-ups, then the points that are open whatever comes out before, in the order
        in which they are measured."""
        deployment, repeats = self.schedule.tasks.deployment, self.load.repeats
        for turn in self.schedule.turns(self.load):
            for warm_up in deployment.plan.warm_up(min(turn.repeats, default=0), whole=turn.is_first):
                self._ask(client, Task(turn.arm, warm_up, "", deployment.bench_args(turn.arm, warm_up)))
        surely = [repeat for repeat in repeats if repeat < self.schedule.workload.sure_repeats]
        for arm in self.load.bound.arms:
            for task in self.schedule.open_tasks(arm, surely, self.load.round):
                self._ask(client, task)

    def likely(self, client: BenchClient) -> Callable[[], None]:
        """Asks for the prompts of one likely point of a search after the other, as long as there is room, whenever it is called."""
        return self._one_more(client, self.schedule.likely_tasks(self.load.bound, self.load.repeats))

    def during(self, client: BenchClient, task: Task) -> Callable[[], None]:
        """The same while a point of a search is measured: first what may come right after it."""
        if not self.while_measuring:
            return lambda: None
        following = self.schedule.may_follow(task, self.load.repeats)
        return self._one_more(client, itertools.chain(following, self.schedule.likely_tasks(self.load.bound, self.load.repeats)))

    def settle(self, client: BenchClient, timeout_s: float) -> None:
        """Before an arm's first point: where nothing is made while a point is measured, all that was asked for has to be there."""
        if not self.while_measuring:
            client.settle(timeout_s)

    def _one_more(self, client: BenchClient, tasks: Iterator[Task]) -> Callable[[], None]:
        new = (task for task in tasks if task.point not in self.asked)

        def ask() -> None:
            if client.has_room() and (task := next(new, None)):
                self._ask(client, task)

        return ask

    def _ask(self, client: BenchClient, task: Task) -> None:
        if task.point not in self.asked:
            self.asked.add(task.point)
            client.prepare(task.args)
