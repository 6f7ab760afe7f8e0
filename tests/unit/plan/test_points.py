"""Points: which settings are measured, in which order, with which seeds."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from pdslurm.config import PromptClass, Ramp, RampUp, Search, Sweep, Trace, Workload
from pdslurm.plan.points import (
    Point,
    expected_hit_rate,
    point_seed,
    points_of,
    ramp_requests,
    rate_sweeps,
    saturated_points,
    tried_again,
    typical_lengths,
    warm_ups,
)
from pdslurm.records.split_ratio import SATURATED

PANELS = Workload(
    name="two panels",
    num_prompts=1024,
    repeats=3,
    sweeps={"input": Sweep([512, 1024, 2048, 4096], [256]), "output": Sweep([512], [256, 512, 1024, 2048, 4096])},
)


def one(**changes: object) -> Point:
    point = Point(512, 256, None, None, 100, 0, 7, ("s",))
    return replace(point, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sweeps", "expected"),
    [
        pytest.param({"a": Sweep([1, 2], [3])}, {(1, 3, None, None): ("a",), (2, 3, None, None): ("a",)}, id="product"),
        pytest.param(
            {"a": Sweep([1], [3, 4]), "b": Sweep([1, 2], [3])},
            {(1, 3, None, None): ("a", "b"), (1, 4, None, None): ("a",), (2, 3, None, None): ("b",)},
            id="a setting of two sweeps is one point",
        ),
        pytest.param({"a": Sweep([1, 1], [3])}, {(1, 3, None, None): ("a",)}, id="a value given twice is one point of one sweep"),
        pytest.param(
            {"a": Sweep([1], [3], request_rate=[2.0, None], max_concurrency=[None, 4])},
            {(1, 3, 2.0, None): ("a",), (1, 3, 2.0, 4): ("a",), (1, 3, None, None): ("a",), (1, 3, None, 4): ("a",)},
            id="rates and concurrencies",
        ),
    ],
)
def test_settings_and_their_sweeps(sweeps: dict[str, Sweep], expected: dict[object, tuple[str, ...]]) -> None:
    found = points_of(Workload(name="w", num_prompts=10, repeats=1, sweeps=sweeps), seed=0)
    assert {p.setting: p.sweeps for p in found} == expected
    assert len(found) == len(expected)


def test_seed_004s_two_panels_share_their_corner() -> None:
    found = points_of(PANELS, seed=0)
    assert len(found) == 3 * 8
    assert [p.sweeps for p in found if p.setting == (512, 256, None, None)] == [("input", "output")] * 3


def test_every_point_and_repeat_has_a_seed_of_its_own() -> None:
    seeds = [p.seed for p in points_of(PANELS, seed=0)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= s < 2**31 for s in seeds)
    assert not set(seeds) & {p.seed for p in points_of(PANELS, seed=1)}


def test_a_seed_depends_on_its_own_setting_alone() -> None:
    """So that a point keeps its prompts, and a rerun its results, when the sweep around it grows."""
    more = replace(PANELS, sweeps={"new": Sweep([128], [16]), **PANELS.sweeps}, repeats=5)
    known = {(p.setting, p.repeat): p.seed for p in points_of(more, seed=0)}
    assert {(p.setting, p.repeat): p.seed for p in points_of(PANELS, seed=0)}.items() <= known.items()


@pytest.mark.parametrize(
    "other",
    [one(input_len=1024), one(output_len=128), one(request_rate=2.0), one(max_concurrency=4), one(num_prompts=50)],
    ids=["input_len", "output_len", "request_rate", "max_concurrency", "num_prompts"],
)
def test_what_a_seed_depends_on(other: Point) -> None:
    assert point_seed(0, other, 0) != point_seed(0, one(), 0)
    assert point_seed(0, other, 0) == point_seed(0, replace(other, sweeps=("t",), repeat=9, seed=9), 0)


def test_order_is_shuffled_within_each_repeat_the_same_way_each_time() -> None:
    found = points_of(PANELS, seed=0)
    assert found == points_of(PANELS, seed=0)
    assert [p.repeat for p in found] == [0] * 8 + [1] * 8 + [2] * 8
    rounds = [[p.setting for p in found if p.repeat == r] for r in range(3)]
    assert all(sorted(a, key=str) == sorted(b, key=str) for a, b in pairwise(rounds))
    assert all(a != b for a, b in pairwise(rounds))
    assert rounds[0] != [p.setting for p in points_of(PANELS, seed=1)][:8]


@pytest.mark.parametrize(
    ("per_concurrency", "concurrency", "expected"),
    [(None, 4, 256), (16, None, 256), (16, 1, 16), (16, 8, 128), (16, 16, 256), (16, 64, 256)],
)
def test_prompts_of_a_closed_loop(per_concurrency: int | None, concurrency: int | None, expected: int) -> None:
    sweep = Sweep([64], [128], max_concurrency=[concurrency])
    workload = Workload(name="w", num_prompts=256, prompts_per_concurrency=per_concurrency, repeats=1, sweeps={"s": sweep})
    assert [p.num_prompts for p in points_of(workload, seed=0)] == [expected]


@pytest.mark.parametrize(
    ("share", "duration_s", "beyond", "rate", "expected"),
    [
        pytest.param(0.9, 60.0, 10, 8.0, 480, id="as long as said at 90 %"),
        pytest.param(0.5, 60.0, 10, 8.0, 480, id="and below"),
        pytest.param(0.95, 60.0, 10, 8.0, 679, id="85 s at 95 %"),
        pytest.param(0.99, 60.0, 10, 8.0, 1518, id="190 s at 99 %"),
        pytest.param(0.9, 60.0, 10, 1.0, 100, id="ten beyond the quantile at 90 %"),
        pytest.param(0.99, 60.0, 10, 4.0, 1000, id="ten beyond it at 99 %"),
        pytest.param(0.9, 60.0, 0, 1.0, 60, id="none asked for"),
        pytest.param(0.9, None, 10, 8.0, 256, id="a fixed number"),
        pytest.param(0.99, None, 10, 8.0, 1000, id="a fixed number that is too small"),
    ],
)
def test_a_point_of_a_search_lasts_as_long_as_its_share_needs(
    share: float, duration_s: float | None, beyond: int, rate: float, expected: int
) -> None:
    search = Search(lowest=rate, highest=rate, beyond=beyond)
    workload = of(repeats=1, num_prompts=256, duration_s=duration_s, search=search, sweeps={"s": Sweep([64], [128])})
    assert [p.num_prompts for p in points_of(workload, 0, share=share)] == [expected]
    swept = replace(workload, search=Search(), sweeps={"s": Sweep([64], [128], request_rate=[rate])})
    assert points_of(swept, 0, share=share) == points_of(swept, 0), "without a search nothing depends on the share"


def test_repeats_count_through_the_starts_and_those_of_the_first_start_are_as_ever() -> None:
    once, thrice = points_of(PANELS, 0), points_of(replace(PANELS, starts=3), 0)
    assert thrice[: len(once)] == once
    assert {(p.start, p.repeat) for p in thrice} == {(n // 3, n) for n in range(9)}
    assert len({p.seed for p in thrice}) == len({(p.id) for p in thrice}) == len(thrice) == 3 * len(once)


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        (one(), "i512-o256-rinf-cinf-rep0"),
        (one(request_rate=2.0, repeat=2), "i512-o256-r2-cinf-rep2"),
        (one(request_rate=0.5, max_concurrency=16), "i512-o256-r0.5-c16-rep0"),
    ],
)
def test_id_is_fit_for_a_file_name(point: Point, expected: str) -> None:
    assert point.id == expected


# --- loads beside lengths and rates

SHORT, LONG = PromptClass(0.9, 125, 64, 0.6), PromptClass(0.1, 3000, 64)
CLOSED = Sweep(max_concurrency=[4])


def of(**changes: Any) -> Workload:
    """A workload of one point, with changes."""
    return replace(Workload(name="w", num_prompts=256, repeats=1, sweeps={"s": Sweep([512], [256])}), **changes)


@pytest.mark.parametrize(
    ("changes", "load", "name"),
    [
        ({}, "random", "i512-o256-rinf-cinf-rep0"),
        ({"sweeps": {"s": Sweep([512], [256], [2.0])}, "duration_s": 60.0}, "random", "i512-o256-r2-cinf-rep0"),
        ({"prefix_caching": True}, "random", "i512-o256-rinf-cinf-rep0"),
        ({"stream": False}, "random, not streamed", "i512-o256-rinf-cinf-not-streamed-rep0"),
        (
            {"sweeps": {"s": Sweep([64], [128], max_concurrency=[4])}, "duration_s": 60.0, "stream": False},
            "random, 60 s, not streamed",
            "i64-o128-rinf-c4-60-s-not-streamed-rep0",
        ),
        (
            {"sweeps": {"s": Sweep([512], [256], [2.0])}, "burstiness": 0.5},
            "random, burstiness 0.5",
            "i512-o256-r2-cinf-burstiness-0.5-rep0",
        ),
        ({"burstiness": 0.5}, "random", "i512-o256-rinf-cinf-rep0"),
        (
            {"ramp_up": RampUp(1, 8, Ramp.exponential), "burstiness": 2.0},
            "random, burstiness 2, exponential ramp 1 to 8 a s",
            "i512-o256-rinf-cinf-burstiness-2-exponential-ramp-1-to-8-a-s-rep0",
        ),
        ({"dataset": "sharegpt", "sweeps": {"s": Sweep()}}, "sharegpt", "rinf-cinf-sharegpt-rep0"),
        ({"dataset": "custom", "sweeps": {"s": Sweep([0], [64])}}, "custom", "o64-rinf-cinf-custom-rep0"),
        (
            {"dataset": "trace", "sweeps": {"s": CLOSED}, "trace": Trace(seconds=0.001), "duration_s": 600.0},
            "trace, 0.001 s a unit, 600 s",
            "rinf-c4-trace-0.001-s-a-unit-600-s-rep0",
        ),
        (
            {"dataset": "prefix_repetition", "prefix_len": 384, "num_prefixes": 16},
            "16 prefixes of 384",
            "i512-o256-rinf-cinf-16-prefixes-of-384-rep0",
        ),
        (
            {"dataset": "mix", "sweeps": {"s": Sweep(mix={"short": SHORT, "long": LONG})}},
            "mix of 90% 125/64 ±60%, 10% 3000/64",
            "rinf-cinf-mix-of-90-125-64-60-10-3000-64-rep0",
        ),
        (
            {"dataset": "mix", "sweeps": {"s": Sweep(mix={f"c{n}": PromptClass(0.25, 100 * n, 64) for n in (1, 2, 3, 4)})}},
            "mix of 25% 100/64, 25% 200/64, 25% 300/64, 25% 400/64",
            "rinf-cinf-mix-of-25-100-64-25-200-64-25-300-524c0c-rep0",
        ),
    ],
)
def test_a_load_in_words_and_in_a_name(changes: dict[str, Any], load: str, name: str) -> None:
    (point,) = points_of(of(**changes), seed=0)
    assert (point.load, point.id) == (load, name)
    assert re.fullmatch(r"[A-Za-z0-9.-]{1,100}", point.id)


def test_mixes_are_points_of_their_own() -> None:
    """Seed 002 asks for the same load with more and more long prompts."""
    shares = {f"long_{share:.0%}": share for share in (0.1, 0.2, 0.6)}
    sweeps = {
        n: Sweep(max_concurrency=[4, 8], mix={"short": replace(SHORT, share=1 - s), "long": replace(LONG, share=s)})
        for n, s in shares.items()
    }
    found = points_of(of(dataset="mix", sweeps={**sweeps, "again": sweeps["long_10%"]}, repeats=2), seed=0)
    assert len(found) == 12
    assert len({p.id for p in found}) == len({p.seed for p in found}) == 12
    assert {p.sweeps for p in found} == {("long_10%", "again"), ("long_20%",), ("long_60%",)}


@pytest.mark.parametrize(
    ("changes", "prompts", "duration_s"),
    [
        ({"duration_s": 60.0, "num_prompts": None, "sweeps": {"s": Sweep([1], [1], [2.5])}}, 150, None),
        ({"duration_s": 3.0, "num_prompts": None, "sweeps": {"s": Sweep([1], [1], [0.1])}}, 1, None),
        ({"duration_s": 10.0, "num_prompts": 7, "sweeps": {"s": Sweep([1], [1], [0.3])}}, 3, None),
        ({"duration_s": 60.0, "sweeps": {"s": Sweep([1], [1], max_concurrency=[4])}}, 256, 60.0),
        ({"duration_s": 60.0, "num_prompts": None, "ramp_up": RampUp(1, 1)}, 60, None),
        ({"duration_s": 60.0, "num_prompts": None, "ramp_up": RampUp(1, 8)}, 202, None),
        ({"dataset": "prefix_repetition", "prefix_len": 8, "num_prefixes": 10}, 260, None),
        ({"dataset": "trace", "sweeps": {"s": Sweep()}, "duration_s": 60.0}, 256, 60.0),
    ],
)
def test_requests_for_a_time(changes: dict[str, Any], prompts: int, duration_s: float | None) -> None:
    (point,) = points_of(of(**changes), seed=0)
    assert (point.num_prompts, point.duration_s) == (prompts, duration_s)


@pytest.mark.parametrize("shape", Ramp)
@pytest.mark.parametrize(("start", "end"), [(1, 8), (2, 3), (5, 5)])
def test_requests_of_a_ramp_take_the_time(shape: Ramp, start: int, end: int) -> None:
    """Against the sum of the mean gaps, with the rate that vLLM's client gives to each request."""
    n = round(ramp_requests(RampUp(start, end, shape), 1000.0))
    shares = [i / (n - 1) for i in range(n)]
    rates = [start + (end - start) * x if shape is Ramp.linear else start * (end / start) ** x for x in shares]
    assert sum(1 / rate for rate in rates) == pytest.approx(1000.0, rel=0.002)


def test_a_rate_sweep_has_one_concurrency() -> None:
    points = points_of(of(sweeps={"s": Sweep([64], [128], [1.0, 2.0], [4, None])}), seed=0)
    swept = rate_sweeps(points)
    assert {which for which, _ in swept} == {(64, 128, "random", 4), (64, 128, "random", None)}
    assert all([p.request_rate for p in sweep] == [1.0, 2.0] for sweep in swept.values())


def test_a_try_again_sends_something_else_and_stays_the_same_point() -> None:
    (point,) = points_of(of(repeats=1, sweeps={"s": Sweep([64], [128])}), seed=0)
    tries = [tried_again(point, n) for n in range(4)]
    assert tries[0] == point
    assert len({p.seed for p in tries}) == 4
    assert {p.id for p in tries} == {point.id}
    assert {replace(p, seed=0) for p in tries} == {replace(point, seed=0)}
    assert tried_again(point, 2) == tries[2], "the same on every run"


def test_a_warm_up_is_the_same_load_at_once_with_other_prompts() -> None:
    (point,) = points_of(of(duration_s=60.0, sweeps={"s": Sweep([64], [128], max_concurrency=[4])}), seed=0)
    before = point.warm_up(8)
    assert (before.num_prompts, before.duration_s, before.request_rate, before.paced) == (8, None, None, False)
    assert (before.input_len, before.max_concurrency, before.mix) == (point.input_len, 4, point.mix)
    assert before.seed not in {p.seed for p in points_of(of(repeats=50), seed=0)}


def test_a_warm_up_has_every_prompt_length_with_its_longest_answer() -> None:
    points = points_of(replace(PANELS), seed=0)
    loads = warm_ups(points, 1, 100)
    assert {p.input_len for p in loads} == {p.input_len for p in points}
    longest = {p.input_len: max(q.output_len for q in points if q.input_len == p.input_len) for p in points}
    assert {p.input_len: p.output_len for p in loads} == longest
    assert max(longest.values()) == 4096
    assert {p.num_prompts for p in loads} == {25}, "100 over four loads"
    assert not {p.seed for p in loads} & {p.seed for p in points}
    assert {p.seed for p in loads}.isdisjoint(p.seed for p in warm_ups(points, 2, 100)), "other prompts when a router starts again"
    assert warm_ups(points, 1, 0) == ()


def test_a_search_is_warmed_by_whole_answers_once_for_all_rates() -> None:
    search = Search(lowest=1.0, highest=8.0, neighbours=1)
    points = points_of(of(search=search, sweeps={"s": Sweep([64], [128])}), seed=0)
    assert (points[0].output_len, points[0].sweeps) == (1, (SATURATED,))
    (load,) = warm_ups(points, 0, 16)
    assert (load.output_len, load.num_prompts, load.request_rate) == (128, 16, None)


@pytest.mark.parametrize(
    ("prompts", "in_flight", "requests"),
    [(1024, 16, 64), (64, 16, 64), (40, 10, 40), (7, 1, 4), (1, 1, 4)],  # four rounds, or the loop is not steady
)
def test_a_search_saturates_with_prompts_with_answers_and_with_few_in_flight(prompts: int, in_flight: int, requests: int) -> None:
    search = Search(lowest=1.0, highest=8.0, neighbours=1, saturating_prompts=prompts)
    points = points_of(of(search=search, sweeps={"s": Sweep([64, 32], [128, 1])}), seed=0)
    found = saturated_points(points)
    assert list(found) == [(64, 128), (32, 128)]
    assert sum(SATURATED in point.sweeps for point in points) == 6
    for (inputs, outputs), three in found.items():
        loads = [(p.input_len, p.output_len, p.max_concurrency, p.num_prompts, p.request_rate) for p in three]
        assert loads == [
            (inputs, 1, None, prompts, None),
            (inputs, outputs, None, prompts, None),
            (inputs, outputs, in_flight, requests, None),
        ]
        assert len({p.seed for p in three}) == len({p.id for p in three}) == 3
    assert not saturated_points(points_of(of(search=Search(lowest=1.0), sweeps={"s": Sweep([64], [128])}), seed=0))


def test_a_closed_loop_is_warmed_at_its_most_in_flight() -> None:
    points = points_of(of(sweeps={"s": Sweep([64], [128], max_concurrency=[1, 8, 4])}), seed=0)
    assert [p.max_concurrency for p in warm_ups(points, 0, 16)] == [8]


def test_mixes_are_warmed_each() -> None:
    mixes = {str(n): Sweep(mix={"a": PromptClass(1.0, n, 8)}) for n in (64, 128)}
    points = points_of(of(dataset="mix", sweeps=mixes), seed=0)
    assert [p.mix[0][1] for p in warm_ups(points, 0, 16)] == [64, 128]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0.0),
        ({"prefix_caching": True}, 0.0),
        ({"prefix_caching": True, "prefix_hit_rate": 0.25}, 0.25),
        ({"prefix_caching": True, "dataset": "sharegpt", "sweeps": {"s": Sweep()}}, None),
        ({"prefix_caching": True, "dataset": "sharegpt", "sweeps": {"s": Sweep()}, "prefix_hit_rate": 0.5}, 0.5),
        ({"dataset": "prefix_repetition", "prefix_len": 384, "num_prefixes": 16}, 0.0),
        ({"prefix_caching": True, "dataset": "prefix_repetition", "prefix_len": 384, "num_prefixes": 16}, 15 / 16 * 384 / 512),
        ({"prefix_caching": True, "dataset": "prefix_repetition", "prefix_len": 384, "num_prefixes": 256}, 0.0),
        (
            {"prefix_caching": True, "dataset": "prefix_repetition", "prefix_len": 384, "num_prefixes": 16,
             "sweeps": {"s": Sweep([512, 1024], [64])}},
            15 / 16 * 384 / 512,
        ),
        ({"prefix_caching": True, "dataset": "prefix_repetition", "prefix_len": 384, "num_prefixes": 16, "prefix_hit_rate": 0.1},
         0.1),
    ],
)  # fmt: skip
def test_the_hit_rate_that_is_to_be_expected(changes: dict[str, Any], expected: float | None) -> None:
    assert expected_hit_rate(of(**changes)) == expected


def test_each_point_has_its_own_expected_hit_rate() -> None:
    workload = of(prefix_caching=True, dataset="prefix_repetition", prefix_len=384, num_prefixes=16,
                  sweeps={"s": Sweep([512, 1024], [64])})  # fmt: skip
    found = {p.input_len: expected_hit_rate(workload, p) for p in points_of(workload, seed=0)}
    assert found == {512: 15 / 16 * 384 / 512, 1024: 15 / 16 * 384 / 1024}


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        (one(), (512, 256)),
        (one(input_len=0, output_len=0), (256, 256)),
        (one(input_len=0, output_len=0, mix=((0.75, 100, 10, 0.5), (0.25, 500, 50, 0.0))), (200, 20)),
    ],
)
def test_lengths_for_an_estimate(point: Point, expected: tuple[float, float]) -> None:
    assert typical_lengths(point) == expected


def test_one_seed_for_all_is_the_runs_own() -> None:
    assert {point.seed for point in points_of(replace(PANELS, one_seed=True), 7)} == {7}
    assert len({point.seed for point in points_of(PANELS, 7)}) == 8 * PANELS.repeats
