"""Which trials a run makes and which settings it compares, from records in a folder: nothing is started."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from pdslurm import config as c
from pdslurm.measure.schedule import Load, Schedule
from pdslurm.plan.points import Point, point_json
from pdslurm.plan.splits import with_splits
from pdslurm.records.measurement import Check, Measurement, is_trial
from pdslurm.records.run_folder import RunFolder
from tests.made import tasks_of

MakeConfig = Callable[..., c.Config]
Outcome = tuple[float, float] | str  # p90 of TPOT and TTFT in ms, or what is wrong with the trial
CHUNK, BLOCK = "max-num-batched-tokens", "block-size"
TUNED = {
    "arms": {"plain": c.Topology(nodes=4, route=4, tensor_parallel=8), "pd": c.Topology(nodes=4, prefill=1, tensor_parallel=8)},
    "workload.starts": 2,
    "tune": c.Tune(
        settings=4,
        rate=4.0,
        plain={"max_num_batched_tokens": [2048, 4096, 16384]},
        disaggregated={"block_size": [32, 64, 128]},
    ),
}
TRIALS: Mapping[str, Outcome] = {
    "plain": (20.0, 100.0),
    f"plain-{CHUNK}-2048": (15.0, 200.0),
    f"plain-{CHUNK}-4096": (18.0, 150.0),
    f"plain-{CHUNK}-16384": (30.0, 90.0),
    "pd": (18.0, 500.0),
    f"pd-{BLOCK}-32": (14.0, 450.0),
    f"pd-{BLOCK}-64": (11.0, 420.0),
    f"pd-{BLOCK}-128": (9.0, 400.0),
}


@pytest.fixture
def schedule(make_config: MakeConfig, tmp_path: Path) -> Callable[..., Schedule]:
    """schedule({"tune.settings": 2}): of a new process over the same folder."""

    def make(changes: dict[str, Any] | None = None) -> Schedule:
        config = with_splits(make_config({**deepcopy(TUNED), **(changes or {})}))
        return Schedule(tasks_of(config), RunFolder(tmp_path))

    return make


def saved(schedule: Schedule, arm: str, point: Point, outcome: Outcome = (9.0, 9.0)) -> None:
    bound = next(each for each in schedule.arms if each.arm.name == arm)
    per_s = 400.0 if point.output_len == 1 else 20.0
    tpot, ttft = (None, None) if isinstance(outcome, str) else outcome
    checks = (Check("load", False, outcome, {"holds_rate": False}),) if outcome == "overloaded" else ()
    record = Measurement(
        key=schedule.tasks.of(bound, point).key, run="r", arm=arm, source="measured", valid=not isinstance(outcome, str),
        status="failed" if outcome == "failed" else "done", invalid_reasons=(), checks=checks, point=point_json(point),
        arm_info={}, started_at="", wall_s=1.0,
        metrics={"p90_tpot_ms": tpot, "p90_ttft_ms": ttft, "request_throughput_per_s": per_s},
    )  # fmt: skip
    schedule.folder.save(record)
    schedule.take(schedule.tasks.of(bound, point), record)


def loads(schedule: Schedule, trials: Mapping[str, Outcome], most: int = 99) -> Iterator[tuple[Load, list[tuple[str, Point]]]]:
    """The driver's part: every load, with what was measured in it, at most so many of them."""
    ran: set[tuple[str, int, int | None]] = set()
    while (some := schedule.open_loads(ran)) and len(ran) < most:
        load, done = some[0], []
        ran.add(load.name)
        for turn in schedule.turns(load):
            for task in schedule.open_tasks(turn.arm, turn.repeats, turn.round):
                name = turn.arm.arm.name
                saved(schedule, name, task.point, trials[name] if "tuning" in task.point.sweeps else (9.0, 9.0))
                done.append((name, task.point))
        yield load, done


def rounds(schedule: Schedule, trials: Mapping[str, Outcome], most: int = 99) -> tuple[list[list[str]], set[str]]:
    """The arms that each round tried, and those that were compared."""
    tried: list[list[str]] = [[], [], []]
    compared = set()
    for load, done in loads(schedule, trials, most):
        if load.round is not None:
            tried[load.round] += [name for name, point in done if "tuning" in point.sweeps]
        else:
            compared |= {name for name, _ in done}
    return tried, compared


def test_kinds_take_turns_and_the_better_half_is_tried_again_for_longer(schedule: Callable[..., Schedule]) -> None:
    tried, compared = rounds(schedule(), TRIALS)
    assert tried[0] == [name for pair in zip(list(TRIALS)[:4], list(TRIALS)[4:], strict=True) for name in pair]
    assert sorted(tried[1]) == [f"pd-{BLOCK}-128", f"pd-{BLOCK}-64", f"plain-{CHUNK}-16384", f"plain-{CHUNK}-2048"]
    assert tried[2] == []
    assert compared == {f"plain-{CHUNK}-2048", f"plain-{CHUNK}-16384", f"pd-{BLOCK}-128"}


def test_where_loading_is_dear_one_round_decides(schedule: Callable[..., Schedule]) -> None:
    tried, compared = rounds(schedule({"tune.rounds": 1}), TRIALS)
    assert (len(tried[0]), tried[1]) == (8, [])
    assert compared == {f"plain-{CHUNK}-2048", f"plain-{CHUNK}-16384", f"pd-{BLOCK}-128"}


def test_every_start_loads_what_is_compared_and_nothing_else(schedule: Callable[..., Schedule]) -> None:
    found = [load.name for load, _ in loads(schedule(), TRIALS)]
    assert [name for _, _, number in found for name in [number] if number is not None] == [0] * 8 + [1] * 4
    assert sorted(name for name, start, number in found if number is None and start == 1) == [
        f"pd-{BLOCK}-128",
        f"plain-{CHUNK}-16384",
        f"plain-{CHUNK}-2048",
    ]


@pytest.mark.parametrize("most", [0, 1, 5, 8, 9, 12])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(schedule: Callable[..., Schedule], most: int) -> None:
    before = schedule()
    first, _ = rounds(before, TRIALS, most)
    now = schedule()
    assert now.done() == sum(map(len, first))
    second, compared = rounds(now, TRIALS)
    assert sorted(first[0] + second[0]) == sorted(TRIALS)
    assert len(first[1] + second[1]) == 4
    assert compared == {f"plain-{CHUNK}-2048", f"plain-{CHUNK}-16384", f"pd-{BLOCK}-128"}
    assert schedule().left() == 0


@pytest.mark.parametrize("wrong", ["failed", "overloaded"])
def test_a_setting_that_failed_or_did_not_serve_the_rate_is_the_worst(schedule: Callable[..., Schedule], wrong: str) -> None:
    tried, compared = rounds(schedule(), {**TRIALS, f"pd-{BLOCK}-128": wrong})
    assert f"pd-{BLOCK}-128" not in tried[1]
    assert f"pd-{BLOCK}-64" in compared


def test_the_next_session_tries_again_what_failed_but_not_what_was_too_slow(schedule: Callable[..., Schedule]) -> None:
    rounds(schedule(), {**TRIALS, "pd": "overloaded", f"pd-{BLOCK}-128": "failed"}, most=8)
    tried, _ = rounds(schedule(), TRIALS)
    assert tried[0] == [f"pd-{BLOCK}-128"]


def test_where_no_setting_works_the_arm_is_compared_as_it_is(schedule: Callable[..., Schedule]) -> None:
    _, compared = rounds(schedule(), dict.fromkeys(TRIALS, "overloaded"))
    assert compared == {"plain", "pd"}


def test_without_tuning_nothing_changes(schedule: Callable[..., Schedule]) -> None:
    tried, compared = rounds(schedule({"tune": c.Tune()}), TRIALS)
    assert tried == [[], [], []]
    assert compared == {"plain", "pd"}


# --- with a search


SEARCHED = {
    "arms": {}, "splits": True, "slo": c.Slo(ttft_ms=100.0), "workload.starts": 1, "tune.rate": None, "tune.settings": 2,
    "workload.search": c.Search(lowest=1.0, highest=32.0, step=2.0, fine=2, beside=0, neighbours=1),
}  # fmt: skip


def test_the_plain_arm_tells_the_rate_of_all_trials(schedule: Callable[..., Schedule]) -> None:
    """20 requests/s when saturated, so that the coarse rate below 10 is taken."""
    now = schedule(SEARCHED)
    prepared = [task.point.sweeps for task in now.open_tasks(now.arms[0], (), 0)]
    assert prepared == [("saturated",)] * 3, "whoever makes their prompts before decides on no rate"
    (first, done), (_, second) = loads(now, {arm.arm.name: (9.0, 9.0) for arm in now.arms}, 2)
    assert first.name == ("route_4", 0, 0)
    assert [(point.sweeps, point.request_rate) for _, point in done] == [(("saturated",), None)] * 3 + [(("tuning",), 8.0)]
    assert [point.request_rate for _, point in second] == [8.0]


def test_where_the_plain_arm_cannot_be_saturated_the_middle_rate_is_taken(schedule: Callable[..., Schedule]) -> None:
    now = schedule(SEARCHED)
    plain = now.arms[0]
    rates = []
    for task in now.open_tasks(plain, (), 0):
        saved(now, plain.arm.name, task.point, "failed")
        rates.append(task.point.request_rate)
    assert rates == [None] * 6 + [8.0], "each of the three is tried twice"


def test_only_the_ratio_that_saturated_instances_suggest_is_tuned(schedule: Callable[..., Schedule]) -> None:
    now = schedule(SEARCHED)
    found = loads(now, {arm.arm.name: (9.0, 9.0) for arm in now.arms}, 4)
    tried = [name for _, done in found for name, point in done if "tuning" in point.sweeps]
    assert tried == ["route_4", "pd_1p3d", f"route_4-{CHUNK}-2048", f"pd_1p3d-{BLOCK}-32"]
    assert now.suggested(next(iter(now.sweeps))[0]) == 1


def test_a_trial_is_known_by_its_record(schedule: Callable[..., Schedule]) -> None:
    now = schedule()
    rounds(now, TRIALS)
    assert sum(is_trial(record) for record in now.folder.records()) == 12
