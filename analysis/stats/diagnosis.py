"""Judged records in; what each arm suffers from, by which numbers, and which option may cure it, out.

Only valid measurements are asked, and those that are invalid for nothing but what an ailment explains; no calibration. What a
record does not tell is not diagnosed; for how long engines compiled stands in their logs alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.load import trials
from analysis.load.compiled import compiled_s
from analysis.load.symptoms import Symptoms
from analysis.stats.ailments import AILMENTS, span
from analysis.stats.prefill_busy import with_busy
from analysis.stats.repeats import plural
from analysis.stats.verdict import DISAGGREGATE, TOGETHER, Decision
from pdslurm.records.gpu_time import loads_of, set_times
from pdslurm.records.run_folder import RunFolder

EXPLAINED = frozenset({"preemptions", "delivery", "outside_engines"})  # failed checks that an ailment is the reason for
MOST_LENGTHS = 6  # pairs of lengths that are named
MIN_COMPILED = 0.5  # of the loading: with what was compiled at hand, it would take less than half the time


@dataclass(frozen=True)
class Diagnosis:
    """One ailment of one arm. `where`: at which loads it was seen, in words; `cure`: a sentence on what may help,
    without an end; `option`: the same as an option of the command, empty where only another ratio helps, which is another arm."""

    arm: str
    ailment: str
    where: str
    evidence: str
    cure: str
    option: str = ""

    @property
    def sentence(self) -> str:
        return f"{self.arm} suffers from {self.ailment} {self.where}: {self.evidence}. {self.cure}."


def diagnoses(judged: pd.DataFrame) -> list[Diagnosis]:
    """Arm by arm, in the order of AILMENTS; none where nothing is wrong or nothing is told. `judged`: of
    analysis.stats.repeats.judge; what is simulated suffers from nothing."""
    measured = judged[judged["source"] == "measured"]
    known = measured.loc[[_is_asked(use, symptoms) for use, symptoms in zip(measured["use"], measured["symptoms"], strict=True)]]
    said = []
    for arm, mine in known.groupby("series", sort=False):
        rows = with_busy(mine)
        for ailment in AILMENTS:
            ill = rows[[ailment.seen(s, rate < math.inf) for s, rate in zip(rows["symptoms"], rows["request_rate"], strict=True)]]
            if len(ill):
                seen = list(ill["symptoms"])
                cure, option = ailment.cure(seen)
                said.append(Diagnosis(str(arm), ailment.name, where(ill, rows), ailment.evidence(seen), cure, option))
    return [*said, *(each for folder in judged["folder"].unique() for each in compiling(Path(folder)))]


def compiling(folder: Path) -> Iterator[Diagnosis]:
    """What compiles for most of its loads. It costs time of the GPUs and moves no number, so that no option may turn an answer."""
    for each in set_times(loads_of(RunFolder(folder))):
        compiled = compiled_s(folder, each.set)
        if compiled is not None and compiled >= MIN_COMPILED * each.load_s > 0:
            yield Diagnosis(
                each.set,
                "compile time",
                f"in {plural(each.loads, 'load')}",
                f"its engines compiled for {compiled:.0f} of the {each.load_s:.0f} s until they were ready",
                "A folder for VLLM_CACHE_ROOT and TRITON_CACHE_DIR in cluster.env that outlives the job may cure it",
            )


def _is_asked(use: str, symptoms: object) -> bool:
    """Whether a measurement is valid, or its ailment alone makes it invalid."""
    if not isinstance(symptoms, Symptoms):
        return False
    return use == "used" or (use == "invalid" and bool(symptoms.wrong) and EXPLAINED.issuperset(symptoms.wrong))


def where(ill: pd.DataFrame, rows: pd.DataFrame) -> str:
    """`at 9.54 to 18.6 requests/s (7 of 7 measurements)`, and `64/32 tokens` in and out where the arm's `rows` have several."""
    rates = [rate for rate in ill["request_rate"] if rate < math.inf]
    parts = [f"at {span(rates)} requests/s"] if rates else []
    if len(rates) < len(ill):
        parts.append("without a request rate")
    shown, every = (sorted(set(zip(some["input_len"], some["output_len"], strict=True))) for some in (ill, rows))
    named = ", ".join(f"{tokens_in:g}/{tokens_out:g}" for tokens_in, tokens_out in shown[:MOST_LENGTHS])
    more = f" tokens and {len(shown) - MOST_LENGTHS} pairs more" if len(shown) > MOST_LENGTHS else " tokens"
    lengths = f" for {named}{more}" if len(every) > 1 else ""
    return f"{' and '.join(parts)}{lengths} ({len(ill)} of {plural(len(rows), 'measurement')})"


def doubts(judged: pd.DataFrame, found: Sequence[Diagnosis], decisions: Sequence[Decision]) -> list[str]:
    """A sentence for an answer that an option may turn: an arm that is not better suffers from what the option may cure, and no arm
    was tuned."""
    if trials.of_frame(judged):
        return []
    open_arms = {arm for decision in decisions for arm in _not_better(decision)}
    mine = [each for each in found if each.arm in open_arms and each.option]
    if not mine:
        return []
    said = "; ".join(f"{each.arm} suffers from {each.ailment}, which {each.option} may cure" for each in mine)
    return [f"This answer may turn: {said}."]


def _not_better(decision: Decision) -> tuple[str, ...]:
    sides = {DISAGGREGATE: (decision.plain_arm,), TOGETHER: (decision.pd_arm,)}
    return sides.get(decision.leaning or decision.outcome, (decision.pd_arm, decision.plain_arm))
