"""A schedule in, the points whose prompts the client is asked for out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from pdslurm import config as c
from pdslurm.measure.bench_client import BenchClient
from pdslurm.measure.prompts_ahead import PromptsAhead
from pdslurm.measure.schedule import Schedule
from pdslurm.plan.splits import with_splits
from pdslurm.records.run_folder import RunFolder
from tests.made import tasks_of

MakeConfig = Callable[..., c.Config]
SEARCH = c.Search(lowest=1.0, highest=32.0, step=2.0, fine=1, beside=0)


class Asked:
    """In place of a client: notes what it is asked for, and has room for so many more."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.rates: list[str] = []
        self.room = 0
        self.settled = False

    def prepare(self, args: Sequence[str]) -> None:
        self.seeds.append(int(args[args.index("--seed") + 1]))
        self.rates.append(args[args.index("--request-rate") + 1] if "--request-rate" in args else "inf")
        self.room -= 1

    def has_room(self) -> bool:
        return self.room > 0

    def settle(self, timeout_s: float) -> None:
        self.settled = True


@pytest.fixture
def ahead(make_config: MakeConfig, tmp_path: Path) -> Callable[[dict[str, Any]], PromptsAhead]:
    def make(changes: dict[str, Any]) -> PromptsAhead:
        schedule = Schedule(tasks_of(with_splits(make_config(changes))), RunFolder(tmp_path))
        return PromptsAhead(schedule, next(schedule.loads()))

    return make


def as_client(asked: Asked) -> BenchClient:
    return cast("BenchClient", asked)


def test_warm_ups_come_first_then_points_in_their_order_each_once(ahead: Callable[[dict[str, Any]], PromptsAhead]) -> None:
    arms = {f"pd_{p}p": c.Topology(nodes=4, prefill=p, tensor_parallel=8) for p in (1, 2)}
    made, asked = ahead({"arms": arms, "workload.sweeps": {"s": c.Sweep([64, 128], [32])}, "workload.interleave": "none"}), Asked()
    made.begin(as_client(asked))
    plan = made.schedule.tasks.deployment.plan
    warm_ups = [load.seed for load in plan.warm_up(0, whole=True)]
    assert asked.seeds == [*warm_ups, *(point.seed for point in plan.points)]
    made.begin(as_client(asked))
    assert len(asked.seeds) == len(warm_ups) + len(plan.points)


def test_while_a_point_of_a_search_is_measured_what_may_follow_it_comes_first(
    ahead: Callable[[dict[str, Any]], PromptsAhead],
) -> None:
    made, asked = ahead({"splits": True, "slo": c.Slo(ttft_ms=100.0), "workload.search": SEARCH}), Asked()
    arm = made.load.bound.arms[0]
    task = next(made.schedule.open_tasks(arm))
    ask = made.during(as_client(asked), task)
    ask()
    assert asked.rates == [], "no room"
    asked.room = 4
    for _ in range(6):
        ask()
    assert task.point.request_rate == 8.0
    assert asked.rates[:3] == ["16", "4", "8"]
    assert len(asked.rates) == 4


def test_where_engines_compute_on_the_cpu_nothing_is_made_while_a_point_is_measured(
    ahead: Callable[[dict[str, Any]], PromptsAhead],
) -> None:
    changes = {"slo": c.Slo(ttft_ms=100.0), "workload.search": SEARCH}
    for device, settles in ((c.Device.cpu, True), (c.Device.cuda, False)):
        made, asked = ahead({**changes, "cluster.device": device}), Asked()
        asked.room = 1
        made.during(as_client(asked), next(made.schedule.open_tasks(made.load.bound.arms[0])))()
        made.settle(as_client(asked), 1.0)
        assert (asked.rates == [], asked.settled) == (settles, settles)
