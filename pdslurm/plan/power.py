"""How many starts and arms a plan has in; by how much an arm must be better for such a run to find it, out. Pure.

The rule of the answer (analysis/stats/inference.py), beforehand, for scores that are normal. The spread between starts is pooled
over all arms. The best arm of a kind pays for the choice, and has to be better than the one of the other kind that chance favours
most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from pdslurm.config import Config, arms_of
from pdslurm.plan.tuning import KEPT, is_tuned
from pdslurm.records.t_interval import LEVEL, MIN_REPEATS, t_above

REPEAT_SD = 0.03  # of the capacities that one start of an arm shows, as a share of their mean (simulated: docs/answers.md)
START_SDS = (0.02, 0.05)  # of the capacities of an arm's starts, as a share of their mean: small and large
FOUND = 0.8  # how often such a run finds an arm that is better by so much
# By how much few starts need more than the formula says, for an arm's own spread counts where it is larger than the pool's, and two
# arms alone are not pooled. Simulated with the code that decides: by the number of starts, the last for all larger ones.
MORE = {2: 1.36, 3: 1.22, 4: 1.17, 5: 1.13, 6: 1.1}
MORE_OF_TWO_ARMS = {2: 2.2, 3: 1.21, 4: 1.08, 5: 1.05, 6: 1.04}
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
        kinds = (self.pd_arms, self.plain_arms)
        needed = max(_needed(starts, *kinds), _needed(starts, *reversed(kinds)))
        return math.exp(needed * math.hypot(start_sd, REPEAT_SD))


def _needed(starts: int, arms: int, others: int) -> float:
    """By how many standard deviations of a start one of `arms` must be better than `others`, which are equal, to be found."""
    normal = NormalDist()
    highest = normal.inv_cdf((others - 0.375) / (others + 0.25))  # mean of the largest of so many (G. Blom 1958) …
    spread = others**-0.24  # … and its standard deviation, nearly
    threshold = t_above(LEVEL / arms, (arms + others) * (starts - 1)) * math.sqrt(2)
    by_formula = (threshold + highest + normal.inv_cdf(FOUND) * math.hypot(1, spread)) / math.sqrt(starts)
    more = MORE_OF_TWO_ARMS if arms + others == 2 else MORE
    return by_formula * more[min(starts, max(more))]


def power_of(config: Config) -> Power | None:
    """None where nothing is compared: without P/D arms, or without plain ones. Of the P/D arms those count that are measured."""
    prefills = [topology.prefill for topology in arms_of(config).values()]
    pd_arms, search = sum(map(bool, prefills)), config.workload.search
    if not 0 < pd_arms < len(prefills):
        return None
    plain_arms = len(prefills) - pd_arms
    if search.lowest is not None and search.neighbours is not None:
        pd_arms = min(pd_arms, 2 * search.neighbours + 1)
    if is_tuned(config):  # the best for TPOT and the best for TTFT
        pd_arms, plain_arms = KEPT * pd_arms, KEPT * plain_arms
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
