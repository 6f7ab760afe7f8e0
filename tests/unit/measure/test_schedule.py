"""What a run measures next, from records in a folder: nothing is started."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdslurm import config as c
from pdslurm.errors import ResultsError
from pdslurm.measure.schedule import Schedule
from pdslurm.plan.deployment import BoundArm, BoundSet
from pdslurm.plan.estimate import measured_share
from pdslurm.plan.points import Point, point_json
from pdslurm.plan.splits import with_splits
from pdslurm.records.measurement import REQUEST_COLUMNS, Check, Measurement
from pdslurm.records.run_folder import RunFolder
from pdslurm.records.split_ratio import Answers
from tests.made import tasks_of

MakeConfig = Callable[..., c.Config]
PD = {f"pd_{p}p": c.Topology(nodes=4, prefill=p, tensor_parallel=8) for p in (1, 2, 3)}
PLAIN = {f"route_{r}": c.Topology(nodes=4, route=r, tensor_parallel=8) for r in (2, 4)}
UNTIL = {"workload.repeats": 3, "workload.until": c.Until(rel_ci=0.05, max_repeats=6)}


@pytest.fixture
def schedule(make_config: MakeConfig, tmp_path: Path) -> Callable[..., Schedule]:
    """schedule({"workload.repeats": 2}): of a new process over the same folder."""

    def make(changes: dict[str, Any] | None = None, versions: dict[str, str] | None = None) -> Schedule:
        return Schedule(tasks_of(with_splits(make_config(changes)), versions), RunFolder(tmp_path))

    return make


def measured(schedule: Schedule, point: Point, value: float = 1.0, arm: int = 0, **changes: Any) -> None:
    """The driver's part: a record in the folder, and the schedule told."""
    bound = schedule.arms[arm]
    record = Measurement(
        key=schedule.tasks.of(bound, point).key, run="r", arm=bound.arm.name, source="measured", status="done", valid=True,
        invalid_reasons=(), point=point_json(point), arm_info={}, started_at="", wall_s=1.0,
        metrics={"output_throughput_tok_s": value, "mean_ttft_ms": 7.0, "mean_itl_ms": None},
    )  # fmt: skip
    record = replace(record, **changes)
    schedule.folder.save(record)
    schedule.take(schedule.tasks.of(bound, point), record)


def run(schedule: Schedule, values: list[float], arm: int = 0) -> list[int]:
    """Measures one setting as long as it is open; the repeats that were measured."""
    repeats = []
    for point, value in zip(open_points(schedule, schedule.arms[arm]), values, strict=False):
        measured(schedule, point, value, arm)
        repeats.append(point.repeat)
    return repeats


def open_points(schedule: Schedule, arm: BoundArm, repeats: Sequence[int] | None = None) -> Iterator[Point]:
    return (task.point for task in schedule.open_tasks(arm, repeats))


def likely_points(schedule: Schedule, bound: BoundSet, repeats: Sequence[int]) -> Iterator[Point]:
    return (task.point for task in schedule.likely_tasks(bound, repeats))


# --- what is open


def test_points_are_open_until_a_valid_record_exists(schedule: Callable[..., Schedule]) -> None:
    first = schedule({"workload.repeats": 3})
    points = first.tasks.deployment.plan.points
    measured(first, points[0])
    measured(first, points[1], valid=False, invalid_reasons=("x",))
    assert list(open_points(first, first.arms[0])) == [points[2]], "what failed is not tried again at once"
    again = schedule({"workload.repeats": 3})
    assert [(p.id, p.seed == q.seed) for p, q in zip(open_points(again, again.arms[0]), points[1:], strict=True)] == [
        (points[1].id, False),
        (points[2].id, True),
    ]
    assert (again.done(), again.left()) == (1, 2)


def test_an_invalid_point_is_measured_again_with_another_seed_under_its_key(schedule: Callable[..., Schedule]) -> None:
    seeds = []
    for tries in range(3):
        now = schedule({"workload.repeats": 1})
        arm, other = now.arms[0], now.arms[-1]
        (task,) = now.open_tasks(arm)
        seeds.append(task.point.seed)
        assert task.args[task.args.index("--seed") + 1] == str(task.point.seed)
        assert task.key == now.tasks.of(arm, now.points[0]).key
        assert now.tasks.again(now.tasks.of(other, now.points[0]), tries).point.seed == task.point.seed, "the same in every arm"
        measured(now, now.points[0], valid=False, invalid_reasons=("x",))
    assert len(set(seeds)) == 3
    assert seeds[0] == now.points[0].seed


def test_a_rate_that_the_arm_does_not_serve_is_not_tried_until_chance_lets_it_pass(schedule: Callable[..., Schedule]) -> None:
    grows = Check("load", False, "the queue grows", {"holds_rate": False})
    first = schedule({"workload.repeats": 2})
    measured(first, first.points[0], valid=False, invalid_reasons=(grows.said,), checks=(grows,))
    again = schedule({"workload.repeats": 2})
    assert list(open_points(again, again.arms[0])) == [first.points[1]]
    assert (again.done(), again.left()) == (1, 1)


def test_where_one_seed_is_asked_for_a_retry_has_it_too(schedule: Callable[..., Schedule]) -> None:
    first = schedule({"workload.repeats": 1, "workload.one_seed": True})
    measured(first, first.points[0], valid=False, invalid_reasons=("x",))
    again = schedule({"workload.repeats": 1, "workload.one_seed": True})
    assert [task.point.seed for task in again.open_tasks(again.arms[0])] == [first.seed]


def test_a_folder_counts_what_is_valid_of_what_was_tried(schedule: Callable[..., Schedule]) -> None:
    now = schedule({"workload.repeats": 2})
    assert now.folder.valid_of_tried() == (0, 0)
    measured(now, now.points[0], valid=False, invalid_reasons=("x",))
    measured(now, now.points[0], valid=False, invalid_reasons=("x",))
    measured(now, now.points[0])
    measured(now, now.points[1], status="failed", valid=False)
    assert now.folder.valid_of_tried() == (1, 4)


@pytest.mark.parametrize(
    ("values", "repeats"),
    [
        ([100.0, 100.0, 100.0, 0.0], [0, 1, 2]),
        ([100.0, 102.0, 101.0, 0.0], [0, 1, 2]),  # ±2.5 %
        ([100.0, 110.0, 105.0, 104.0, 105.0, 106.0, 0.0], [0, 1, 2, 3, 4]),  # ±12, ±6.3, ±4.2 %
        ([100.0, 200.0] * 5, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_until(schedule: Callable[..., Schedule], values: list[float], repeats: list[int]) -> None:
    assert run(schedule(UNTIL), values) == repeats


def test_until_goes_on_where_an_earlier_run_ended(schedule: Callable[..., Schedule]) -> None:
    assert run(schedule(UNTIL), [100.0, 110.0, 105.0]) == [0, 1, 2]
    assert run(schedule(UNTIL), [104.0, 105.0, 0.0]) == [3, 4]
    assert run(schedule(UNTIL), [0.0]) == []


def test_until_counts_valid_repeats_of_its_own_arm_and_versions(schedule: Callable[..., Schedule]) -> None:
    changes = {**UNTIL, "arms": PLAIN}
    first = schedule(changes)
    points = first.tasks.deployment.plan.points
    for point in points[:3]:
        measured(first, point, 100.0, valid=point.repeat < 2, invalid_reasons=() if point.repeat < 2 else ("x",))
    assert [p.repeat for p in open_points(first, first.arms[0])] == [3, 4, 5], "two valid repeats are no interval"
    assert [p.repeat for p in open_points(first, first.arms[1])] == [0, 1, 2, 3, 4, 5]
    measured(first, points[3], 100.0)
    assert not first.has_open(first.arms[0])
    other = schedule(changes, {"vllm": "other"})
    assert [p.repeat for p in open_points(other, other.arms[0])] == [0, 1, 2, 3, 4, 5]


def test_without_until_there_are_no_more_repeats_than_configured(schedule: Callable[..., Schedule]) -> None:
    assert run(schedule({"workload.repeats": 2, "workload.until": c.Until(max_repeats=9)}), [1.0, 5.0, 9.0]) == [0, 1]


# --- the order


def order(schedule: Schedule) -> list[tuple[str, tuple[int, ...]]]:
    """(arm, repeats) as they take turns, whole warm-ups marked; `|` where a set is loaded."""
    found: list[tuple[str, tuple[int, ...]]] = []
    for load in schedule.loads():
        found.append(("|", ()))
        turns = schedule.turns(load)
        found += [(turn.arm.arm.name + "*" * turn.is_first, turn.repeats) for turn in turns]
    return found


def test_arms_that_share_instances_take_turns_in_a_new_order_each_repeat(schedule: Callable[..., Schedule]) -> None:
    made = schedule({"arms": {**PD, "route_2": PLAIN["route_2"]}, "workload.repeats": 4})
    assert order(made)[-2:] == [("|", ()), ("route_2*", (0, 1, 2, 3))]
    turns = order(made)[1:-2]
    assert [repeats for _, repeats in turns] == [(r,) for r in range(4) for _ in range(3)]
    rounds = [[name.rstrip("*") for name, _ in turns[i : i + 3]] for i in range(0, 12, 3)]
    assert all(sorted(names) == sorted(PD) for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1
    assert [name.endswith("*") for name, _ in turns] == [True] * 3 + [False] * 9
    assert order(schedule({"arms": {**PD, "route_2": PLAIN["route_2"]}, "workload.repeats": 4})) == order(made)


def test_every_start_loads_every_set_in_an_order_of_its_own(schedule: Callable[..., Schedule]) -> None:
    made = schedule({"arms": PLAIN, "workload.starts": 6, "workload.repeats": 2})
    turns = [turn for turn in order(made) if turn[0] != "|"]
    assert order(made).count(("|", ())) == 12
    assert [repeats for _, repeats in turns] == [(2 * start, 2 * start + 1) for start in range(6) for _ in range(2)]
    assert [load.start for load in made.loads()] == [start for start in range(6) for _ in range(2)]
    firsts = {turns[i][0] for i in range(0, 12, 2)}
    assert firsts == {"route_2*", "route_4*"}
    assert [turns[i][0] != turns[i + 1][0] for i in range(0, 12, 2)] == [True] * 6


def test_in_every_start_arms_that_share_instances_take_turns_and_warm_up_whole_once(schedule: Callable[..., Schedule]) -> None:
    made = schedule({"arms": PD, "workload.starts": 2, "workload.repeats": 2})
    found = order(made)
    assert [n for n, (name, _) in enumerate(found) if name == "|"] == [0, 7]
    for begin, repeats in ((1, (0, 1)), (8, (2, 3))):
        assert [turn[1] for turn in found[begin : begin + 6]] == [(r,) for r in repeats for _ in range(3)]
        assert [turn[0].endswith("*") for turn in found[begin : begin + 6]] == [True] * 3 + [False] * 3


def test_points_say_their_start_and_those_of_one_start_are_as_ever(schedule: Callable[..., Schedule]) -> None:
    """Whoever adds starts later goes on: what was measured is the first start."""
    once = schedule({"workload.repeats": 2})
    for point in once.points:
        measured(once, point)
    more = schedule({"workload.repeats": 2, "workload.starts": 3})
    assert [(p.start, p.repeat) for p in more.points] == [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)]
    assert more.points[:2] == once.points
    assert [p.repeat for p in open_points(more, more.arms[0])] == [2, 3, 4, 5]
    assert point_json(more.points[-1])["start"] == 2
    assert len({p.seed for p in more.points}) == 6


def test_an_arm_keeps_its_router_where_nothing_takes_turns(schedule: Callable[..., Schedule]) -> None:
    made = schedule({"arms": PD, "workload.repeats": 2, "workload.interleave": c.Interleave.none})
    assert order(made) == [("|", ()), *((f"{name}*", (0, 1)) for name in PD)]


def test_a_turn_with_nothing_open_is_left_out(schedule: Callable[..., Schedule]) -> None:
    made = schedule({"arms": PD, "workload.repeats": 2})
    for point in made.tasks.deployment.plan.points:
        measured(made, point, arm=1)
    assert {name.rstrip("*") for name, _ in order(made)[1:]} == {"pd_1p", "pd_3p"}


# --- the search for the highest rate


SEARCH = {
    "splits": True, "workload.repeats": 3, "slo": c.Slo(ttft_ms=100.0),
    "workload.search": c.Search(lowest=1.0, highest=32.0, step=2.0, fine=1, beside=0),
}  # fmt: skip
SATURATED_PLAIN = Answers(400.0), Answers(100.0, 40.0), Answers(50.0, 8.0)  # prompts alone, whole answers, with few in flight
LONG_PROMPTS = Answers(120.0), Answers(100.0, 100.0), Answers(50.0, 8.0)


def sweep_all(
    schedule: Schedule, capacity: dict[str, float], saturated: tuple[Answers, Answers, Answers] = SATURATED_PLAIN
) -> list[tuple[str, int, str]]:
    """Lets every arm measure what is open, the plain one first; an arm meets the SLO up to the rates in `capacity`. What
    was measured, in order: (arm, repeat, rate). `saturated`: what all plain instances do together."""
    done = []
    for load in schedule.loads():
        for turn in schedule.turns(load):
            name = turn.arm.arm.name
            for point in open_points(schedule, turn.arm, turn.repeats):
                rate = point.request_rate
                flight = f"{point.max_concurrency} in flight" if point.max_concurrency else "all at once"
                known = saturated[(point.output_len > 1) + bool(point.max_concurrency)] if rate is None else Answers(rate)
                ttft_ms = 50.0 if rate and rate <= capacity[name] else 500.0
                answered(schedule, turn.arm, point, known.per_s, ttft_ms, tpot_ms=known.tpot_ms)
                done.append((name, point.repeat, f"{rate:g}" if rate else f"{flight}, {point.output_len} out"))
    return done


def answered(
    schedule: Schedule,
    arm: BoundArm,
    point: Point,
    speed: float,
    ttft_ms: float,
    checks: tuple[Check, ...] = (),
    *,
    tpot_ms: float | None = None,
) -> None:
    key = schedule.tasks.of(arm, point).key
    raw = schedule.folder.raw_name(arm.arm.name, point.id, key)
    requests = schedule.folder.path / f"{raw}.requests.csv.gz"
    requests.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(REQUEST_COLUMNS), *[f"{n},128,32,{ttft_ms},9,9,400,1" for n in range(10)]]
    requests.write_bytes(gzip.compress("\n".join(lines).encode()))
    record = Measurement(
        key=key, run="r", arm=arm.arm.name, source="measured", status="done", valid=not checks, checks=checks,
        invalid_reasons=tuple(check.said for check in checks), point=point_json(point), arm_info={}, started_at="", wall_s=1.0,
        metrics={"request_throughput_per_s": speed, "mean_tpot_ms": tpot_ms},
        provenance={"raw": f"{raw}.json.gz"},
    )  # fmt: skip
    schedule.folder.save(record)
    schedule.take(schedule.tasks.of(arm, point), record)


def searching(schedule: Callable[..., Schedule], **search: Any) -> Schedule:
    return schedule({**SEARCH, "workload.search": replace(SEARCH["workload.search"], **search)})  # type: ignore[type-var]


def test_each_arm_sweeps_until_its_rate_is_known_and_begins_there_again(schedule: Callable[..., Schedule]) -> None:
    done = sweep_all(searching(schedule), {"route_4": 8.0, "pd_1p3d": 4.0, "pd_2p2d": 32.0, "pd_3p1d": 0.5})
    rates = {(arm, repeat): [rate for a, r, rate in done if (a, r) == (arm, repeat)] for arm, repeat, _ in done}
    assert rates["route_4", 0] == ["8", "16"]
    assert rates["route_4", 1] == rates["route_4", 2] == ["8", "16"]
    assert rates["pd_1p3d", 0] == ["8", "4"]
    assert rates["pd_1p3d", 1] == ["4", "8"]
    assert rates["pd_2p2d", 0] == ["8", "16", "32"]
    assert rates["pd_2p2d", 2] == ["32"]
    assert rates["pd_3p1d", 0] == ["8", "4", "2", "1"]
    assert rates["pd_3p1d", 1] == ["1"]
    assert sweep_all(searching(schedule), {}) == [], "all is in the folder"


def test_only_the_ratio_that_saturated_instances_suggest_and_its_neighbours_are_measured(schedule: Callable[..., Schedule]) -> None:
    """An instance prefills 100 requests/s, 88 of them within 100 ms, and answers 25: decode alone does 33, so that 1P3D serves 88 a
    second, and 2P2D 67."""
    capacity = dict.fromkeys(("route_4", "pd_1p3d", "pd_2p2d", "pd_3p1d"), 4.0)
    done = sweep_all(searching(schedule, neighbours=1), capacity)
    loads = ["all at once, 1 out", "all at once, 32 out", "16 in flight, 32 out"]
    assert done[:3] == [("route_4", 0, load) for load in loads]
    assert {arm for arm, _, _ in done} == {"route_4", "pd_1p3d", "pd_2p2d"}
    assert {arm for arm, _, _ in sweep_all(searching(schedule, neighbours=0), capacity)} == set()


@pytest.mark.parametrize(
    ("slo", "saturated", "prefill"),
    [
        (c.Slo(ttft_ms=100.0), SATURATED_PLAIN, 1),  # an instance prefills 88 and decodes 33 requests/s
        (c.Slo(ttft_ms=20.0), SATURATED_PLAIN, 2),  # 26 and 33: 2P2D serves 51, 1P3D 26
        (c.Slo(ttft_ms=9.0), SATURATED_PLAIN, None),  # a prompt alone takes 10 ms
        (c.Slo(ttft_ms=9999.0), LONG_PROMPTS, 3),  # 30 and 150
        (c.Slo(tpot_ms=20.0), LONG_PROMPTS, 3),  # a step takes 4.2 ms and 0.16 for each request: at the largest batch 17 ms
        (c.Slo(tpot_ms=6.0), LONG_PROMPTS, 2),  # 30 and 46
        (c.Slo(tpot_ms=4.4), LONG_PROMPTS, 1),  # 30 and 4
        (c.Slo(tpot_ms=4.3), LONG_PROMPTS, None),  # one request alone takes 4.32 ms
        (c.Slo(tpot_ms=6.0), (*LONG_PROMPTS[:2], Answers(50.0)), 3),  # the TPOT of few in flight is not known
    ],
)
def test_the_suggested_ratio_knows_the_slo(
    schedule: Callable[..., Schedule], slo: c.Slo, saturated: tuple[Answers, Answers, Answers], prefill: int | None
) -> None:
    made = schedule({**SEARCH, "slo": slo, "workload.search": replace(SEARCH["workload.search"], neighbours=1)})  # type: ignore[type-var]
    sweep_all(made, dict.fromkeys(("route_4", "pd_1p3d", "pd_2p2d", "pd_3p1d"), 4.0), saturated)
    (which,) = {which for which, _ in made.sweeps}
    assert made.suggested(which) == prefill


def test_an_arm_that_fell_behind_is_not_repeated(schedule: Callable[..., Schedule]) -> None:
    done = sweep_all(searching(schedule, drop_below=0.6), {"route_4": 1.0, "pd_1p3d": 16.0, "pd_2p2d": 8.0, "pd_3p1d": 32.0})
    repeats = {arm: {repeat for a, repeat, _ in done if a == arm} for arm, _, _ in done}
    assert repeats == {"route_4": {0, 1, 2}, "pd_1p3d": {0}, "pd_2p2d": {0}, "pd_3p1d": {0, 1, 2}}


def in_starts(schedule: Callable[..., Schedule], starts: int, repeats: int = 1, **search: Any) -> Schedule:
    found = replace(SEARCH["workload.search"], **search)  # type: ignore[type-var]
    return schedule({**SEARCH, "workload.search": found, "workload.starts": starts, "workload.repeats": repeats})


def test_an_arm_that_fell_behind_in_the_first_start_is_measured_in_no_other(schedule: Callable[..., Schedule]) -> None:
    capacity = {"route_4": 1.0, "pd_1p3d": 16.0, "pd_2p2d": 8.0, "pd_3p1d": 32.0}
    done = sweep_all(in_starts(schedule, 3, 2, drop_below=0.6), capacity)
    repeats = {arm: {repeat for a, repeat, _ in done if a == arm} for arm, _, _ in done}
    assert repeats == {"route_4": set(range(6)), "pd_1p3d": {0, 1}, "pd_2p2d": {0, 1}, "pd_3p1d": set(range(6))}


def test_a_set_whose_arms_all_fell_behind_is_not_loaded_again(schedule: Callable[..., Schedule]) -> None:
    made = schedule({**SEARCH, "splits": False, "arms": PLAIN, "workload.starts": 2, "workload.repeats": 1,
                     "workload.search": replace(SEARCH["workload.search"], drop_below=0.6)})  # type: ignore[type-var] # fmt: skip
    sweep_all(made, {"route_2": 2.0, "route_4": 32.0})
    starts = {(record.arm, record.point["start"]) for record in made.folder.records()}
    assert starts == {("route_2", 0), ("route_4", 0), ("route_4", 1)}
    assert not any(made.has_open(arm) for arm in made.arms)


def test_a_later_start_begins_at_the_last_answer_by_fine_strides(schedule: Callable[..., Schedule]) -> None:
    made = in_starts(schedule, 2, fine=2)
    arm = made.arms[0]
    rates: dict[int, list[float | None]] = {0: [], 1: []}
    for start, capacity in ((0, 9.0), (1, 12.0)):
        for point in open_points(made, arm, [start]):
            rates[start].append(point.request_rate)
            answered(made, arm, point, 1.0, 50.0 if (point.request_rate or 0) <= capacity else 500.0)
    assert rates[0] == [8.0, 16.0, 11.3], "√2 apart, found by steps of 2"
    assert rates[1] == [8.0, 11.3, 16.0]


def test_the_plain_arm_that_suggests_a_ratio_is_loaded_first(schedule: Callable[..., Schedule]) -> None:
    """Whatever the seed's order: without it no ratio would be left out."""
    for seed in range(6):
        made = schedule({**SEARCH, "workload.starts": 3, "workload.repeats": 1, "seed": seed,
                         "workload.search": replace(SEARCH["workload.search"], neighbours=1)})  # type: ignore[type-var] # fmt: skip
        assert next(made.loads()).bound.arms[0].arm.name == "route_4"
    orders = {
        tuple(load.bound.arms[0].arm.name for load in schedule({**SEARCH, "workload.starts": 2, "seed": seed}).loads())[2:]
        for seed in range(6)
    }
    assert len(orders) == 2, "later starts have either order"


def test_what_covers_other_slos_is_measured_up_to_an_overload(schedule: Callable[..., Schedule]) -> None:
    made = in_starts(schedule, 1, highest=1024.0, cover=16.0)
    arm = made.arms[0]
    grows = (Check("steady_state", False, "the queue grows", {"holds_rate": False}),)
    rates = []
    for point in open_points(made, arm, [0]):
        rate = point.request_rate or 0.0
        rates.append(rate)
        answered(made, arm, point, 1.0, 50.0 if rate <= 32 else 500.0, grows if rate >= 256 else ())
    assert rates == [32.0, 64.0, 16.0, 128.0, 4.0, 256.0]
    again = in_starts(schedule, 1, highest=1024.0, cover=16.0)
    assert not again.has_open(again.arms[0], [0]), "an overload is known from the folder too"


def test_an_invalid_point_leaves_the_rest_of_its_sweep(schedule: Callable[..., Schedule]) -> None:
    made = in_starts(schedule, 1, highest=1024.0, cover=16.0)
    arm = made.arms[0]
    rates = []
    for point in open_points(made, arm, [0]):
        rate = point.request_rate or 0.0
        rates.append(rate)
        if rate == 16.0:
            measured(made, point, valid=False, invalid_reasons=("x",))
        else:
            answered(made, arm, point, 1.0, 50.0 if rate <= 32 else 500.0)
    assert rates == [32.0, 64.0, 16.0, 16.0, 128.0, 4.0, 256.0, 512.0, 1020.0], "to the highest: nothing was overloaded"


def test_the_requests_of_an_empty_queue_do_not_decide_whether_a_rate_meets_the_slo(schedule: Callable[..., Schedule]) -> None:
    """Six of ten requests are good, of which the first four found the queue empty: two of the six that count."""
    made = searching(schedule)
    arm, slo = made.arms[0], made.slo
    answered(made, arm, next(open_points(made, arm, [0])), 1.0, 50.0)
    record = next(iter(made.folder.records()))
    path = made.folder.beside_raw(record, "requests")
    lines = [",".join(REQUEST_COLUMNS), *[f"{n},128,32,{50 if n < 6 else 500},9,9,2000,1" for n in range(10)]]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert slo.ttft_ms == 100.0
    made.slo = replace(slo, share=0.4)
    assert made._meets_slo(record) is False
    made.slo = replace(slo, share=0.3)
    assert made._meets_slo(record) is True
    for harm in (
        lambda: path.write_bytes(path.read_bytes()[:-9]),
        lambda: path.write_bytes(b"\x1f\x8b\x08" + bytes(90)),
        path.unlink,
    ):
        harm()
        with pytest.raises(ResultsError, match="requests"):
            made._meets_slo(record)
        assert made._meets_slo(replace(record, valid=False)) is None


def test_a_rate_that_is_invalid_leaves_its_sweep_and_the_others_go_on(schedule: Callable[..., Schedule]) -> None:
    made = searching(schedule)
    arm = made.arms[0]
    first = next(open_points(made, arm))
    for _ in range(2):
        assert [p.repeat for p in open_points(made, arm)] == [0, 1, 2]
        measured(made, first, valid=False, invalid_reasons=("x",))
    assert [p.repeat for p in open_points(made, arm)] == [1, 2]


def test_a_repeat_begins_where_the_last_one_that_knows_ended(schedule: Callable[..., Schedule]) -> None:
    made = searching(schedule)
    arm = made.arms[0]
    for point in open_points(made, arm, [0]):
        answered(made, arm, point, 1.0, 50.0 if (point.request_rate or 0) <= 2 else 500.0)
    for _ in range(2):
        measured(made, next(open_points(made, arm, [1])), valid=False, invalid_reasons=("x",))
    assert next(open_points(made, arm, [2])).request_rate == 2.0


def test_a_rate_at_which_the_queue_grows_is_missed_though_its_measurement_is_invalid(schedule: Callable[..., Schedule]) -> None:
    made = searching(schedule)
    arm = made.arms[0]
    grows = Check("steady_state", False, "the queue grows", {"holds_rate": False})
    late = Check("client", False, "late", {})
    rates = []
    for point in open_points(made, arm, [0]):
        rates.append(point.request_rate)
        checks = (grows,) if len(rates) == 1 else (grows, late)
        measured(made, point, valid=False, invalid_reasons=("x",), checks=checks)
    assert rates == [8.0, 4.0, 4.0, 2.0, 2.0, 1.0, 1.0], "one that is invalid for another reason too says nothing"
    assert [p.request_rate for p in open_points(searching(schedule), arm, [0])] == [4.0]


def test_a_rate_that_missed_the_slo_before_it_was_steady_is_missed(schedule: Callable[..., Schedule]) -> None:
    made = searching(schedule)
    arm = made.arms[0]
    short = (Check("steady_state", False, "sending was too short", {"holds_rate": None}),)
    rates = []
    for point in open_points(made, arm, [0]):
        rates.append(point.request_rate)
        answered(made, arm, point, 1.0, 500.0 if len(rates) == 1 else 50.0, short)
    assert rates == [8.0, 4.0, 4.0, 2.0, 2.0, 1.0, 1.0], "missed: no more; met: nobody knows, and it is tried once more"
    assert [p.request_rate for p in open_points(searching(schedule), arm, [0])] == [4.0]


def test_prompts_are_made_ahead_for_the_rates_around_an_arm_s_highest(schedule: Callable[..., Schedule]) -> None:
    made = searching(schedule)
    first, second = made.tasks.deployment.sets[:2]
    rates = [(p.repeat, p.request_rate) for p in likely_points(made, first, (0, 1))]
    assert rates[:4] == [(0, 8.0), (1, 8.0), (0, 4.0), (0, 16.0)], "nothing is known: from the middle outwards"
    assert len(rates) == len(set(rates)) == 2 * len(made.sweeps[next(iter(made.sweeps))])
    for point in open_points(made, first.arms[0], [0]):
        answered(made, first.arms[0], point, 1.0, 50.0 if (point.request_rate or 0) <= 2 else 500.0)
    assert [p.request_rate for p in likely_points(made, second, (0,))][:3] == [2.0, 1.0, 4.0]
    assert 2.0 not in [p.request_rate for p in likely_points(made, first, (0,))], "measured"
    assert not list(likely_points(schedule({"workload.repeats": 3}), first, (0,)))


def test_prompts_are_made_for_what_may_follow_a_point(schedule: Callable[..., Schedule]) -> None:
    made = searching(schedule)
    arm = made.tasks.deployment.sets[0].arms[0]
    tasks = made.open_tasks(arm, (0,))
    while (task := next(tasks)).point.request_rate is None:
        answered(made, arm, task.point, 400.0, 50.0, tpot_ms=40.0)
    assert task.point.request_rate == 8.0
    known = dict(made.meets_slo)
    met, missed, again = made.may_follow(task, (0,))
    assert (met.point.request_rate, missed.point.request_rate, again.point.request_rate) == (16.0, 4.0, 8.0)
    assert again.point.seed != task.point.seed, "as it is sent should it be invalid"
    assert made.meets_slo == known, "nothing was learned"
    answered(made, arm, task.point, 8.0, 50.0)
    assert next(tasks).point == met.point
    assert not list(schedule({"workload.repeats": 3}).may_follow(task, (0,))), "nothing is searched"


def test_what_a_plan_with_a_search_costs_is_what_a_search_takes(schedule: Callable[..., Schedule]) -> None:
    made = in_starts(schedule, 3, neighbours=1, highest=1024.0, fine=4, beside=1, cover=4.0)
    done = sweep_all(made, dict.fromkeys(("route_4", "pd_1p3d", "pd_2p2d", "pd_3p1d"), 60.0))
    plan = made.tasks.deployment.plan
    assert len(plan.points) == 3 + 3 * 41
    mine = sum(arm == "route_4" for arm, _, _ in done)
    assert mine / 1.5 <= len(plan.sure_points) <= 1.5 * mine
    topologies = [arm.arm.topology for arm in made.arms]
    arms = sum(measured_share(topology, topologies, made.workload.search) for topology in topologies)
    assert len(done) / 1.5 <= arms * len(plan.sure_points) <= 1.5 * len(done)


@pytest.mark.parametrize(
    ("arms", "reach", "shares"),
    [(3, 1, {0: 1.0, 1: 7 / 9, 3: 7 / 9}), (7, 1, {0: 1.0, 4: 19 / 49}), (7, 0, {4: 1 / 7}), (3, None, {0: 1.0, 2: 1.0})],
)
def test_of_the_ratios_those_near_the_suggested_one_cost(arms: int, reach: int | None, shares: dict[int, float]) -> None:
    topologies = [c.Topology(nodes=8, route=1 if p else 8, prefill=p) for p in range(arms + 1)]
    search = c.Search(lowest=1.0, neighbours=reach)
    assert {p: measured_share(topologies[p], topologies, search) for p in shares} == pytest.approx(shares)
