"""What a plan's starts can tell apart: the numbers of the formula, and the sentence."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from analysis.stats.inference import BETTER, compare, exact
from pdslurm import config as c
from pdslurm.plan.power import FOUND, REPEAT_SD, Power, as_json, power_of, sentence

MakeConfig = Callable[..., c.Config]
PLAIN = {f"r{n}": c.Topology(nodes=4, route=n, tensor_parallel=8) for n in (1, 2, 4)}
PD = {f"p{n}": c.Topology(nodes=4, prefill=n, tensor_parallel=8) for n in (1, 2, 3)}


def test_the_ratio_that_is_found_in_four_of_five_runs() -> None:
    """Three P/D arms, one plain arm. For a P/D arm t(0.025/3, 8) = 3.016 pays for the choice among three, and it needs (3.016·√2 +
    0.8416·√2) / √3 · 1.22 = 3.84 standard deviations of 0.03606 or 0.05831. For the plain arm t(0.025, 8) = 2.306; the largest of
    three lies 0.869 above their mean, by Blom: it needs less."""
    found = [Power(3, *arms).ratio(3, sd) for arms in ((3, 1), (1, 3)) for sd in (0.02, 0.05)]
    assert found == pytest.approx([math.exp(3.84 * sd) for sd in (0.03606, 0.05831)] * 2, abs=0.002)


@pytest.mark.parametrize(
    ("starts", "arms", "others", "runs"),
    [(2, 1, 1, 1000), (2, 3, 3, 400), (3, 1, 1, 1000), (3, 3, 1, 600), (3, 7, 7, 200), (5, 1, 3, 600)],
)
def test_the_rule_of_the_answer_finds_it_so_often(starts: int, arms: int, others: int, runs: int) -> None:
    """The plan's promise, held against the code that decides, on normal scores."""
    rng = np.random.default_rng(1)
    sd = math.hypot(0.02, REPEAT_SD)
    shift = np.zeros(arms + others)
    shift[0] = math.log(Power(starts, arms, others).ratio(starts, 0.02))
    found = 0
    for _ in range(runs):
        scores = [[exact(value) for value in row] for row in rng.normal(shift[:, None], sd, (arms + others, starts))]
        answer = compare(
            {f"p{n}": row for n, row in enumerate(scores[:arms])}, {f"r{n}": row for n, row in enumerate(scores[arms:])}
        )
        found += answer is not None and answer.outcome == BETTER
    assert abs(found / runs - FOUND) < 0.03 + 3 * math.sqrt(FOUND * (1 - FOUND) / runs)


def test_more_starts_find_less_and_one_start_nothing() -> None:
    ratios = [Power(3, 3, 1).ratio(n, 0.02) for n in range(2, 20)]
    assert ratios == sorted(ratios, reverse=True)
    assert all(ratio > 1 for ratio in ratios)
    assert math.isnan(Power(1, 3, 1).ratio(1, 0.02))


@pytest.mark.parametrize(
    ("arms", "search", "expected"),
    [
        pytest.param({**PLAIN, **PD}, {}, (3, 3), id="every arm"),
        pytest.param({"r4": PLAIN["r4"], **PD}, {"lowest": 1.0, "neighbours": 0}, (1, 1), id="the suggested ratio alone"),
        pytest.param({"r4": PLAIN["r4"], **PD}, {"lowest": 1.0, "neighbours": 1}, (3, 1), id="with its neighbours"),
        pytest.param({"r4": PLAIN["r4"], **PD}, {"lowest": 1.0}, (3, 1), id="every ratio"),
        pytest.param({"r4": PLAIN["r4"], **PD}, {"neighbours": 0}, (3, 1), id="no search"),
        pytest.param(PLAIN, {}, None, id="no P/D"),
        pytest.param(PD, {}, None, id="P/D alone"),
    ],
)
def test_the_arms_that_count(
    make_config: MakeConfig, arms: dict[str, c.Topology], search: dict[str, float], expected: tuple[int, int] | None
) -> None:
    found = power_of(make_config({"arms": arms, "workload.search": c.Search(**search), "workload.starts": 2}))  # type: ignore[arg-type]
    assert (found and (found.pd_arms, found.plain_arms)) == expected
    assert found is None or found.starts == 2


@pytest.mark.parametrize(
    ("starts", "text"),
    [
        (1, "One start of each arm says nothing about other starts: workload.starts=3 is what an answer needs."),
        (
            3,
            "What 3 starts can tell apart: if starts of an arm differ by 2 %, an arm that is 15 % better is found in 4 of 5 such "
            "runs; if they differ by 5 %, 25 %. A fourth start: 11 % and 19 %.",
        ),
        (
            9,
            "What 9 starts can tell apart: if starts of an arm differ by 2 %, an arm that is 7 % better is found in 4 of 5 such "
            "runs; if they differ by 5 %, 11 %. With 10 starts: 6 % and 10 %.",
        ),
    ],
)
def test_the_sentence(starts: int, text: str) -> None:
    assert sentence(Power(starts, 3, 1)) == text


def test_json_has_these_starts_and_one_more() -> None:
    assert as_json(None) is None
    found = as_json(Power(1, 3, 1))
    assert found is not None
    assert [(each["starts"], each["start_sd"]) for each in found["found"]] == [(2, 0.02), (2, 0.05)]
    found = as_json(Power(3, 3, 1))
    assert found is not None
    assert [each["ratio"] for each in found["found"]] == [1.149, 1.251, 1.114, 1.191]
