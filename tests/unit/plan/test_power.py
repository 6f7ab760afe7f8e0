"""What a plan's starts can tell apart: the numbers of the formula, and the sentence."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from pdslurm import config as c
from pdslurm.plan.power import Power, as_json, power_of, sentence

MakeConfig = Callable[..., c.Config]
PLAIN = {f"r{n}": c.Topology(nodes=4, route=n, tensor_parallel=8) for n in (1, 2, 4)}
PD = {f"p{n}": c.Topology(nodes=4, prefill=n, tensor_parallel=8) for n in (1, 2, 3)}


@pytest.mark.parametrize(
    ("power", "starts", "start_sd", "ratio"),
    [
        (Power(3, 3, 1), 3, 0.02, 1.1222),  # t(0.025/3, 8) = 3.0158 and t(0.2, 8) = 0.8889
        (Power(3, 3, 1), 3, 0.05, 1.2043),
        (Power(3, 3, 1), 4, 0.02, 1.0977),
        (Power(3, 1, 3), 3, 0.02, 1.1222),  # whichever side has more
        (Power(2, 1, 1), 2, 0.02, 1.2133),  # t(0.025, 2) = 4.3027 and t(0.2, 2) = 1.0607, times s = 0.03606
    ],
)
def test_the_ratio_that_is_found_in_four_of_five_runs(power: Power, starts: int, start_sd: float, ratio: float) -> None:
    assert power.ratio(starts, start_sd) == pytest.approx(ratio, abs=0.0006)


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
            "What 3 starts can tell apart: if starts of an arm differ by 2 %, an arm that is 12 % better is found in 4 of 5 such "
            "runs; if they differ by 5 %, 20 %. A fourth start: 10 % and 16 %.",
        ),
        (
            9,
            "What 9 starts can tell apart: if starts of an arm differ by 2 %, an arm that is 6 % better is found in 4 of 5 such "
            "runs; if they differ by 5 %, 10 %. With 10 starts: 6 % and 9 %.",
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
    assert [each["ratio"] for each in found["found"]] == [1.122, 1.204, 1.098, 1.163]
