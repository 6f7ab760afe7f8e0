"""An arm's symptoms at several request rates in; for which part of the time its prefill instances work, and how long a prompt takes
them, out. Pure.

A prefill instance that takes prompts of one length one after the other, which arrive at random, is an M/D/1 queue. L, the mean
number of prompts that wait or are in prefill, is known (Little's law), and ρ, the part of the time for which it works, follows from
L = ρ + ρ² / (2(1 - ρ)), the Pollaczek-Khinchine formula: ρ = 1 + L - √(1 + L²). A prompt takes it ρ/λ at λ prompts/s.

The queue is only believed where the records bear it out: a prompt takes as long at this rate as at a much lower one. Short prompts
share a step and take the less each the more arrive, so that nothing is said of them. In results/h100x2 the 14 valid measurements of
1P1D give 48 to 52 ms, and saturated instances took 49 ms for a prompt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pandas as pd

from analysis.load.symptoms import Busy, Symptoms

LOWER = 1.5  # the rate that a rate is compared with is so many times lower, at least
ALIKE = 1.2  # times apart may the times for a prompt be; if all prompts shared a step, they would be about LOWER times apart
UNEVEN = ("burstiness", "trace", "ramp", "mix")  # words of a load whose prompts do not arrive at random, or have several lengths
NAMES = ["symptoms", "request_rate", "max_concurrency", "input_len", "output_len", "load"]


def with_busy(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one arm, with `busy` in the symptoms of those that another row bears out."""
    loads, rates, found = [], [], []
    for symptoms, rate, bound, *load in rows[NAMES].itertuples(index=False, name=None):
        is_even = rate < math.inf and bound == math.inf and not any(word in load[-1] for word in UNEVEN)
        loads.append(load)
        rates.append(rate)
        found.append(alone(symptoms) if is_even else None)
    borne_out = [
        each if each and any(_alike(each, other) for other in _lower(i, loads, rates, found)) else None
        for i, each in enumerate(found)
    ]
    symptoms = [replace(one, busy=each) for one, each in zip(rows["symptoms"], borne_out, strict=True)]
    return rows.assign(symptoms=pd.Series(symptoms, index=rows.index, dtype=object))


def alone(symptoms: Symptoms) -> Busy | None:
    """What one record says by itself; None where it does not tell."""
    waiting, working, per_s = symptoms.queueing, symptoms.prefilling, symptoms.prefilled_per_s
    if waiting is None or not working or not per_s:
        return None
    there = waiting + working
    share = 1 + there - math.hypot(1, there)
    return Busy(share, there - share, 1e3 * share / per_s)


def _lower(i: int, loads: Sequence[object], rates: Sequence[float], found: Sequence[Busy | None]) -> Iterator[Busy]:
    for load, rate, other in zip(loads, rates, found, strict=True):
        if other and load == loads[i] and rate * LOWER <= rates[i]:
            yield other


def _alike(one: Busy, other: Busy) -> bool:
    return 1 / ALIKE <= one.prompt_ms / other.prompt_ms <= ALIKE
