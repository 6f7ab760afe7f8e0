"""Judged records and capacities in; what saturated instances predict for every split, whether measuring confirms it, and what an
arm costs, out, in sentences.

A plain arm gets prompts alone and whole answers, all at once, and whole answers with few requests in flight (sweep `saturated`).
analysis.stats.saturation predicts the requests/s of every split from these. Which split is the best is judged by the measured arms,
and only where their intervals show it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import pandas as pd

from analysis.load.slo import SHARE, Slo, of_runs, scalar_of_runs, slo_text
from analysis.stats.bounds import Bounded, exact, of_repeats
from analysis.stats.cost import cost
from analysis.stats.saturation import DECODE, EITHER, PREFILL, Saturated, Suggestion, suggest
from pdslurm.records.split_ratio import SATURATED, Limits

BETTER, WORSE, SAME, UNKNOWN = "better", "worse", "same", "unknown"  # of the first arm against the second
Compare = Callable[[str, str], str]  # two arms' names → one of these four
Measured = Mapping[str, tuple[float, float]]  # arm → the lowest and the highest that its capacity may be, requests/s
HEEDED = ("ttft_ms", "tpot_ms")  # the bounds that the prediction heeds


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
    used: pd.DataFrame,
    rates: pd.DataFrame,
    *,
    slo: Slo | None = None,
    share: float | None = None,
    compare: Compare = lambda _, __: UNKNOWN,
    measured: Measured | None = None,
) -> list[str]:
    """A paragraph for each pair of lengths: what is predicted, what is suggested, and what the measured capacities say to it.

    `rates`: of analysis.stats.capacity. `slo` and `share`: of the runs' config.yaml where they are not given. `compare` judges two
    arms by their measured capacities; `measured` are these. Both know arms alone: with several pairs of lengths call this once for
    each, with the rows of `used` and `rates` that have them."""
    folders = sorted(used["folder"].unique()) if "folder" in used else []
    bounds = (of_runs(folders) or {}) if slo is None else slo
    known = scalar_of_runs(folders, "slo", "share") if share is None else share
    limits = Limits(float(known or SHARE), bounds.get("ttft_ms"), bounds.get("tpot_ms"))
    lines = []
    for (inputs, outputs), suggestion in suggestions(used, limits).items():
        mine = rates[(rates["input_len"] == inputs) & (rates["output_len"] == outputs) & rates["disaggregated"].astype(bool)]
        best = mine.groupby("series")["capacity_per_s"].max()
        said = [f"{inputs} tokens in, {outputs} out: {prediction_text(suggestion, bounds)}"]
        said += [judgement(suggestion, {str(arm): float(rate) for arm, rate in best.items()}, compare=compare)]
        said += list(misses(suggestion, measured or {}))
        lines.append(" ".join(each for each in said if each))
    return lines


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


def judgement(suggestion: Suggestion, capacities: Mapping[str, float], *, compare: Compare) -> str:
    """Whether the measured arms confirm the suggested split. `capacities`: P/D arm → its highest capacity, 0 where it has none."""
    if suggestion.best is None:
        return ""
    name = suggestion.best.name
    mine, others = ([arm for arm in capacities if (split_of(arm) == name) is is_it] for is_it in (True, False))
    if len(suggestion.splits) == 1:
        return f"Two instances have no other split than {name}."
    if not mine:
        return f"{name} was not measured, so that nothing confirms or refutes it."
    if not others:
        return f"No other split than {name} was measured, so that nothing confirms or refutes it."
    if max(capacities.values()) <= 0:
        return f"No measured split meets the SLO, not even at the lowest rate, so that nothing confirms or refutes {name}."
    return f"{name} is {_compared(mine, others, compare=compare)}."


def _compared(mine: Sequence[str], others: Sequence[str], *, compare: Compare) -> str:
    """`confirmed: …`, `refuted: …` or `neither …` of the suggested split, which is as good as the best of its arms, `mine`."""
    said = {other: {compare(arm, other) for arm in mine} for other in others}
    if better := [other for other in others if said[other] == {WORSE}]:
        return f"refuted: {_listed(better)} {_is(better)} shown better than {_listed(mine)}"
    if all(BETTER in words for words in said.values()):
        return f"confirmed: {_listed(others)} {_is(others)} shown worse than {_listed(mine)}"
    overlap = [other for other in others if said[other] == {SAME}]
    unknown = [other for other in others if BETTER not in said[other] and other not in overlap]
    reasons = [f"the intervals of {_listed([*mine, *overlap])} overlap"] if overlap else []
    reasons += [f"nothing shows whether {_listed(mine)} or {_listed(unknown, 'or')} is better"] if unknown else []
    return f"neither confirmed nor refuted: {', and '.join(reasons)}"


def misses(suggestion: Suggestion, measured: Measured) -> Iterator[str]:
    """A sentence for each arm whose measured capacity lies wholly above or below what is predicted for its split."""
    predicted = {split.name: split.per_s for split in suggestion.splits}
    for arm, (low, high) in sorted(measured.items()):
        per_s = predicted.get(split_of(arm) or "")
        if per_s and (per_s.low > high or per_s.high < low):
            where = "above" if per_s.low > high else "below"
            yield f"The prediction for {arm}, {_number(per_s)}, lies {where} its measured interval [{low:.3g}, {high:.3g}]."


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


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def cost_text(rates: pd.DataFrame, price: float | None, currency: str) -> list[str]:
    """What a million output tokens cost each arm at its mean capacity; arms without one have no price."""
    lines = []
    capacities = rates[(rates["capacity_per_s"] > 0) & (rates["output_len"] > 0)]
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
