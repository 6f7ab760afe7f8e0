"""Judged records and capacities in; what saturated instances predict for every split, whether measuring confirms it, and what an
arm costs, out, in sentences.

A plain arm gets prompts alone and whole answers, all at once, and whole answers with few requests in flight (sweep `saturated`).
analysis.stats.saturation predicts the requests/s of every split from these. Which split is the best is judged by the capacities of
the measured arms, and only where their interval over starts shows it (analysis.stats.inference)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from analysis.load.slo import SHARE, Slo, of_runs, scalar_of_runs, slo_text
from analysis.stats.bounds import Bounded, exact, of_repeats
from analysis.stats.cost import cost
from analysis.stats.inference import BETTER, INTEREST, ONE_START, SAME, WORSE, Arms, Comparison, compare, ratio_text
from analysis.stats.saturation import DECODE, EITHER, PREFILL, Saturated, Suggestion, suggest
from pdslurm.records.split_ratio import SATURATED, Limits

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
    starts: Mapping[tuple[int, int], Arms] | None = None,
    interest: float = INTEREST,
) -> list[str]:
    """A paragraph for each pair of lengths: what is predicted, what is suggested, and what the measured capacities say to it.

    `rates`: the capacities of analysis.stats.sweeps.as_frame. `starts`: of each pair of lengths the scores of the P/D arms' starts.
    `slo` and `share`: of the runs' config.yaml where they are not given."""
    folders = sorted(used["folder"].unique()) if "folder" in used else []
    bounds = (of_runs(folders) or {}) if slo is None else slo
    known = scalar_of_runs(folders, "slo", "share") if share is None else share
    limits = Limits(float(known or SHARE), bounds.get("ttft_ms"), bounds.get("tpot_ms"))
    lines = []
    for (inputs, outputs), suggestion in suggestions(used, limits).items():
        mine = rates[(rates["input_len"] == inputs) & (rates["output_len"] == outputs) & rates["disaggregated"].astype(bool)]
        measured = {str(arm): (low, high) for arm, low, high in mine[["series", "low_per_s", "high_per_s"]].itertuples(index=False)}
        said = [f"{inputs} tokens in, {outputs} out: {prediction_text(suggestion, bounds)}"]
        said += [judgement(suggestion, (starts or {}).get((inputs, outputs), {}), interest=interest)]
        said += list(misses(suggestion, measured))
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


def judgement(suggestion: Suggestion, arms: Arms, *, interest: float = INTEREST) -> str:
    """Whether the measured arms confirm the suggested split. `arms`: the scores of each P/D arm's starts."""
    if suggestion.best is None:
        return ""
    name = suggestion.best.name
    if len(suggestion.splits) == 1:
        return f"Two instances have no other split than {name}."
    mine, others = ({arm: of for arm, of in arms.items() if (split_of(arm) == name) is is_it} for is_it in (True, False))
    if not mine:
        return f"{name} was not measured, so that nothing confirms or refutes it."
    found = compare(mine, others, interest=interest)
    if found is None:
        return f"No other split than {name} was measured, so that nothing confirms or refutes it."
    if all(score.is_open and score.high < math.inf for scores in arms.values() for score in scores):
        return f"No measured split meets the SLO, not even at the lowest rate, so that nothing confirms or refutes {name}."
    return f"{name} is {_compared(found)}."


def _compared(found: Comparison) -> str:
    """`confirmed: …`, `refuted: …` or `neither …` of the suggested split, by the best of its arms and the best of the others."""
    said = f"{found.first} meets the SLO at {ratio_text(found)} times the requests/s per GPU of {found.second}"
    if found.outcome == BETTER:
        return f"confirmed: {said}, the best other split"
    if found.outcome == WORSE:
        return f"refuted: {said}"
    reason = {
        ONE_START: "in the one start of each arm, and other starts may differ",
        SAME: "and that is no difference that matters",
    }.get(found.outcome, "and the interval holds both")
    return f"neither confirmed nor refuted: {said}, {reason}"


def misses(suggestion: Suggestion, measured: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    """A sentence for each arm whose measured capacity lies wholly above or below what is predicted for its split. `measured`: arm →
    the lowest and the highest that its capacity may be, requests/s of all its GPUs."""
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
