"""Judged records and arms' capacities in; what saturated instances predict for every split, whether measuring confirms it, and what
an arm costs, out, in sentences.

A plain arm gets prompts alone and whole answers, all at once, and whole answers with few requests in flight (sweep `saturated`).
analysis.stats.saturation predicts the requests/s of every split from these, of all its instances together. Whether the split that
it suggests is the best is judged by the measured capacities over starts, with the interval of analysis.stats.inference, which is
corrected for the choice of the best arm: one start of each arm neither confirms nor refutes anything."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pandas as pd

from analysis.load.slo import Slo, slo_text
from analysis.stats.bounds import Bounded, exact, of_repeats
from analysis.stats.cost import cost
from analysis.stats.inference import BETTER, INTEREST, ONE_START, SAME, WORSE, Comparison, compare, ratio_text
from analysis.stats.repeats import plural
from analysis.stats.saturation import DECODE, EITHER, PREFILL, Saturated, Suggestion, suggest
from analysis.stats.slo_map import is_missed
from analysis.stats.sweeps import ArmCapacity, Load, load_text
from analysis.stats.verdict import CAPACITY, MORE_STARTS, SAME_WITHIN, with_interest
from pdslurm.records.split_ratio import SATURATED, Limits

HEEDED = ("ttft_ms", "tpot_ms")  # the bounds that the prediction heeds
NEITHER = "neither confirmed nor refuted"


def suggestions(used: pd.DataFrame, limits: Limits) -> dict[tuple[int, int], Suggestion]:
    """Input and output length → what the saturated points of a plain arm predict for its number of instances."""
    lone = used[used["sweeps"].map(lambda sweeps: SATURATED in sweeps) & ~used["disaggregated"].astype(bool)]
    out = {}
    for _, rows in lone.groupby(["instances", "input_len"]):
        count, inputs = int(rows["instances"].iloc[0]), int(rows["input_len"].iloc[0])
        for length, whole in rows[rows["output_len"] > 1].groupby("output_len"):
            one = _one_instance(rows[rows["output_len"] == 1], whole, count=count)
            if count >= 2 and one:
                out[inputs, int(str(length))] = suggest(one, count, limits=limits)
    return out


def _one_instance(prompts: pd.DataFrame, whole: pd.DataFrame, *, count: int) -> Saturated | None:
    """What one of the plain arm's `count` instances does; None where prompts alone, or whole answers at once, are not known."""
    is_bound = whole["max_concurrency"] < float("inf")
    at_once, few = whole[~is_bound], whole[is_bound]
    prompts_per_s, whole_per_s, few_per_s = (_mean(rows, "request_throughput_per_s") for rows in (prompts, at_once, few))
    if prompts_per_s is None or whole_per_s is None:
        return None
    whole_tpot_ms, few_tpot_ms = (_mean(rows, "mean_tpot_ms") for rows in (at_once, few))
    few_per_s = few_per_s / count if few_per_s else None
    output_len = float(whole["output_len"].iloc[0])
    return Saturated(prompts_per_s / count, whole_per_s / count, output_len, whole_tpot_ms, few_per_s, few_tpot_ms)


def _mean(rows: pd.DataFrame, metric: str) -> Bounded | None:
    """The mean of what is known of a metric and above 0; None where nothing is."""
    values = [float(value) for value in rows[metric] if value > 0]
    return of_repeats(values) if values else None


def suggestion_text(
    used: pd.DataFrame, capacities: Sequence[ArmCapacity], *, slo: Slo, share: float, interest: float = INTEREST
) -> list[str]:
    """A paragraph for each pair of lengths and load: what is predicted, what is suggested, and what the measured capacities say to
    it. `capacities`: of every arm and load (analysis.stats.sweeps.arm_capacities), under the SLO that `slo` and `share` are."""
    limits = Limits(share, slo.get("ttft_ms"), slo.get("tpot_ms"))
    lines = []
    for (inputs, outputs), suggestion in suggestions(used, limits).items():
        loads = [load for load in dict.fromkeys(each.load for each in capacities) if load[:2] == (inputs, outputs)]
        unswept: Load = (inputs, outputs, float("inf"), "random")
        for load in loads or [unswept]:
            arms = arms_of(suggestion, [each for each in capacities if each.load == load])
            said = [f"{load_text(load)}: {prediction_text(suggestion, slo)}", judgement(suggestion, arms, interest=interest)]
            lines.append(" ".join(each for each in (*said, *misses(suggestion, arms)) if each))
    return lines


def arms_of(suggestion: Suggestion, capacities: Sequence[ArmCapacity]) -> list[ArmCapacity]:
    """The P/D arms that something is predicted for."""
    predicted = {split.name for split in suggestion.splits}
    return [each for each in capacities if each.disaggregated and split_of(each.series) in predicted]


def prediction_text(suggestion: Suggestion, slo: Slo) -> str:
    """`for TTFT ≤ 500 ms and TPOT ≤ 25 ms saturated instances predict 1P3D 12.1, 2P2D 18.4 requests/s; 2P2D is suggested. …`"""
    heeded = [f"{name.removesuffix('_ms').upper()} ≤ {slo[name]:g} ms" for name in HEEDED if name in slo]
    splits = ", ".join(f"{split.name} {_number(split.per_s)}" for split in suggestion.splits)
    said = f"for {' and '.join(heeded)}" if heeded else "without a bound on TTFT or TPOT"
    said += f" saturated instances predict {splits} requests/s; "
    said += f"{suggestion.best.name} is suggested." if suggestion.best else f"{_who_cannot(suggestion)} cannot meet the SLO."
    said += _sides(suggestion)
    if "tpot_ms" in slo and not suggestion.knows_tpot:
        said += " No record shows the time per token with few requests in flight, so the prediction knows no TPOT."
    if left := {name: bound for name, bound in slo.items() if name not in HEEDED}:
        said += f" The prediction leaves out {slo_text(left)}."
    return said


def _who_cannot(suggestion: Suggestion) -> str:
    sides = {"a prefill instance": suggestion.prefill_per_s, "a decode instance": suggestion.decode_per_s}
    return " and ".join(who for who, per_s in sides.items() if per_s.value <= 0)


def _sides(suggestion: Suggestion) -> str:
    """Which other splits may be the best, and which side limits each split; nothing where no split meets the SLO."""
    if not suggestion.best:
        return ""
    others = [split.name for split in suggestion.candidates if split is not suggestion.best]
    said = f" By the intervals of what was measured {_listed(others, 'or')} may be the best instead." if others else ""
    limited = {side: [s.name for s in suggestion.splits if s.bound == side] for side in (PREFILL, DECODE, EITHER)}
    sides = ", ".join(f"{side} limits {_listed(names)}" for side, names in limited.items() if names)
    return f"{said} {sides[0].upper()}{sides[1:]}."


def judgement(suggestion: Suggestion, arms: Sequence[ArmCapacity], *, interest: float = INTEREST) -> str:
    """Whether the measured P/D arms of one load confirm the suggested split, which is as good as the best of its arms."""
    if suggestion.best is None:
        return ""
    name = suggestion.best.name
    if len(suggestion.splits) == 1:
        return f"Two instances have no other split than {name}."
    mine, others = ({a.series: a.scores for a in arms if (split_of(a.series) == name) is is_it} for is_it in (True, False))
    if not mine:
        return f"{name} was not measured, so that nothing confirms or refutes it."
    if not others:
        return f"No other split than {name} was measured, so that nothing confirms or refutes it."
    if all(is_missed(score) for arm in arms for score in arm.scores):
        return f"No measured split meets the SLO, not even at the lowest rate, so that nothing confirms or refutes {name}."
    found = compare(mine, others, interest=interest)
    assert found
    return f"{name} is {_compared(found)}{_correction(found, len(mine), len(others))}."


def _compared(found: Comparison) -> str:
    """`confirmed: pd_1p3d meets the SLO at 1.3 [1.2, 1.4] times the requests/s per GPU of pd_2p2d`."""
    if found.low <= 0 and found.high == float("inf"):
        return (
            f"{NEITHER}: the measured rates bound the ratio of the capacities of {found.first} and {found.second} on neither side"
        )
    ratio = CAPACITY.says.format(pd=found.first, plain=found.second, ratio=ratio_text(found))
    if found.outcome == ONE_START:
        better = found.first if found.low > 1 else found.second
        said = f"{better} is better" if found.is_apart else "the two cannot be told apart"
        return f"{NEITHER} by one start of each arm: in that start {said}, for {ratio}; other starts may differ ({MORE_STARTS})"
    if found.outcome == SAME:
        same = with_interest(SAME_WITHIN, found.interest)
        return f"{NEITHER}: {found.first} and {found.second} are {same}, for {ratio}"
    known = {BETTER: "confirmed", WORSE: "refuted"}.get(found.outcome)
    return f"{known}: {ratio}" if known else f"{NEITHER}: {ratio}, an interval that contains 1"


def _correction(found: Comparison, mine: int, others: int) -> str:
    """What the interval is corrected for; nothing where nothing was chosen, or no interval is over starts."""
    choices = [f"of {count}" for count in (mine, others) if count > 1]
    if found.outcome == ONE_START or not choices:
        return ""
    return f"; the interval over starts is corrected for the choice of the best {' and '.join(choices)} arms"


def misses(suggestion: Suggestion, arms: Sequence[ArmCapacity]) -> Iterator[str]:
    """A sentence for each arm whose measured capacity lies wholly above or below what is predicted for its split. Both are
    requests/s of all GPUs of the arm."""
    predicted = {split.name: split.per_s for split in suggestion.splits}
    for arm in sorted(arms, key=lambda arm: arm.series):
        per_s = predicted[split_of(arm.series) or ""]
        if per_s.low > arm.high or per_s.high < arm.low:
            where = "above" if per_s.low > arm.high else "below"
            said = f"The prediction for {arm.series}, {_number(per_s)}, lies {where} its measured capacity"
            yield f"{said}, {_measured(arm)} requests/s in {plural(len(arm.starts), 'start')}."


def _measured(arm: ArmCapacity) -> str:
    """`7.5 [7, 8]`; `7 or more`, `8 or less` where an end is open."""
    if arm.low > 0 and arm.high < float("inf"):
        return f"{arm.value:.3g} [{arm.low:.3g}, {arm.high:.3g}]"
    return f"{arm.low:.3g} or more" if arm.low > 0 else f"{arm.high:.3g} or less"


def split_of(arm: str) -> str | None:
    """1P3D of pd_1p3d."""
    named = re.search(r"(\d+)p(\d+)d", arm)
    return f"{named[1]}P{named[2]}D" if named else None


def _number(per_s: Bounded) -> str:
    """`12.1`, or `12.1 [11.4, 12.8]` where it is known within an interval."""
    within = f" [{per_s.low:.3g}, {per_s.high:.3g}]" if per_s.low < per_s.high else ""
    return f"{per_s.value:.3g}{within}"


def _listed(names: Sequence[str], word: str = "and") -> str:
    return f" {word} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def cost_text(rates: pd.DataFrame, price: float | None, currency: str) -> list[str]:
    """What a million output tokens cost each arm at its mean capacity; arms that are not known to have one have no price."""
    lines = []
    capacities = rates[(rates["low_per_s"] > 0) & (rates["output_len"] > 0)]
    for _, rows in capacities.groupby(["input_len", "output_len"], sort=True):
        inputs, outputs = int(rows["input_len"].iloc[0]), int(rows["output_len"].iloc[0])
        each = []
        for arm, mine in rows.groupby("series", sort=True):
            rate = float(mine["capacity_per_s"].mean()) * outputs
            of = cost(int(mine["gpus"].iloc[0]), exact(rate), price_per_gpu_hour=price)
            money = "" if of.price_per_million is None else f" ({of.price_per_million.value:.3g} {currency})"
            each.append(f"{arm} {of.gpu_hours_per_million.value:.3g}{money}")
        lines.append(f"GPU-hours for a million output tokens at {inputs}/{outputs}: {', '.join(each)}.")
    return lines
