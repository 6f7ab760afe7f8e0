"""How many starts and arms a plan has in; by how much an arm must be better for such a run to find it, out. Pure.

The rule of the verdict, beforehand: the spread of the starts is pooled over all arms, and the best of several arms has to pass a
threshold that is divided by their number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pdslurm.config import Config, arms_of
from pdslurm.records.t_interval import MIN_REPEATS, t_above

REPEAT_SD = 0.03  # of the capacities that one start of an arm shows, as a share of their mean
START_SDS = (0.02, 0.05)  # of the capacities of an arm's starts, as a share of their mean: small and large
ERROR = 0.025  # how often one side of two that are equal may be called better
FOUND = 0.8  # how often such a run finds an arm that is better by so much
ORDINALS = {2: "second", 3: "third", 4: "fourth", 5: "fifth", 6: "sixth"}


@dataclass(frozen=True)
class Power:
    """What starts of so many arms can tell apart; at least one arm is P/D and one plain."""

    starts: int
    pd_arms: int
    plain_arms: int

    def ratio(self, starts: int, start_sd: float) -> float:
        """How many times as high the better arm's capacity must be to be found in FOUND of the runs; NaN of one start."""
        if starts < 2:
            return math.nan
        freedom = (self.pd_arms + self.plain_arms) * (starts - 1)
        needed = t_above(ERROR / max(self.pd_arms, self.plain_arms), freedom) + t_above(1 - FOUND, freedom)
        return math.exp(needed * math.hypot(start_sd, REPEAT_SD) * math.sqrt(2 / starts))


def power_of(config: Config) -> Power | None:
    """None where nothing is compared: without P/D arms, or without plain ones. Of the P/D arms those count that are measured."""
    prefills = [topology.prefill for topology in arms_of(config).values()]
    pd_arms, search = sum(map(bool, prefills)), config.workload.search
    if not 0 < pd_arms < len(prefills):
        return None
    plain_arms = len(prefills) - pd_arms
    if search.lowest is not None and search.neighbours is not None:
        pd_arms = min(pd_arms, 2 * search.neighbours + 1)
    return Power(config.workload.starts, pd_arms, plain_arms)


def as_json(power: Power | None) -> dict[str, Any] | None:
    """`found`: for these starts, and one more, the ratio that is found in 4 of 5 runs, by the spread of an arm's starts."""
    if power is None:
        return None
    asked = [(starts, sd) for starts in (power.starts, power.starts + 1) if starts > 1 for sd in START_SDS]
    found = [{"starts": starts, "start_sd": sd, "ratio": round(power.ratio(starts, sd), 3)} for starts, sd in asked]
    return {"starts": power.starts, "pd_arms": power.pd_arms, "plain_arms": power.plain_arms, "found": found}


def sentence(power: Power) -> str:
    """For a person."""
    n = power.starts
    if n < 2:
        return f"One start of each arm says nothing about other starts: workload.starts={MIN_REPEATS} is what an answer needs."
    small, large = START_SDS
    now, more = ([_percent(power.ratio(starts, sd)) for sd in START_SDS] for starts in (n, n + 1))
    next_start = f"A {ORDINALS[n + 1]} start" if n + 1 in ORDINALS else f"With {n + 1} starts"
    return (
        f"What {n} starts can tell apart: if starts of an arm differ by {small:.0%}, an arm that is {now[0]} better is found in "
        f"4 of 5 such runs; if they differ by {large:.0%}, {now[1]}. {next_start}: {more[0]} and {more[1]}."
    ).replace("%", " %")


def _percent(ratio: float) -> str:
    return f"{ratio - 1:.0%}"
