"""Judged records and capacities in, what saturated instances suggested and what it costs out, in sentences.

A plain arm that was sent prompts alone, and then whole answers, all at once (the sweep `saturated`), tells what one instance can
prefill and decode; analysis.stats.saturation makes a ratio of that, which the measured arms confirm or refute."""

from __future__ import annotations

import re

import pandas as pd

from analysis.stats.bounds import exact
from analysis.stats.cost import cost
from analysis.stats.saturation import Saturated, Suggestion, suggest
from pdslurm.records.split_ratio import SATURATED, decode_rate


def suggestions(used: pd.DataFrame) -> dict[tuple[int, int], Suggestion]:
    """Input and output length → what the saturated points of a plain arm suggest for its number of instances."""
    lone = used[used["sweeps"].map(lambda sweeps: SATURATED in sweeps) & ~used["disaggregated"].astype(bool)]
    found = {}
    for _, rows in lone.groupby(["instances", "input_len"]):
        count, inputs = int(rows["instances"].iloc[0]), int(rows["input_len"].iloc[0])
        prompts = rows.loc[rows["output_len"] == 1, "request_throughput_per_s"].mean() / count
        for _, whole in rows[rows["output_len"] > 1].groupby("output_len"):
            outputs = int(whole["output_len"].iloc[0])
            together = whole["request_throughput_per_s"].mean() / count
            if count >= 2 and 0 < together < prompts:
                decode = decode_rate(prompts, together)
                one = Saturated(exact(prompts * inputs), exact(decode * outputs), inputs, outputs)
                found[inputs, outputs] = suggest(one, count, colocated_per_s=exact(together))
    return found


def suggestion_text(used: pd.DataFrame, rates: pd.DataFrame) -> list[str]:
    """`Saturated instances suggest 1P3D for 1024/256; measured, pd_1p3d holds most: confirmed.`"""
    lines = []
    for (inputs, outputs), suggestion in suggestions(used).items():
        said = f"Saturated instances suggest {suggestion.best.name} for {inputs} tokens in and {outputs} out"
        mine = rates[(rates["input_len"] == inputs) & (rates["output_len"] == outputs) & rates["disaggregated"].astype(bool)]
        means = mine.groupby("series")["capacity_per_s"].mean()
        if means.empty or means.max() <= 0:
            lines.append(f"{said}; no arm with that ratio or beside it held a rate.")
            continue
        if len(means) == 1:
            lines.append(f"{said}; {means.index[0]} alone was measured.")
            continue
        best = sorted(means[means == means.max()].index)
        agrees = any(_ratio(arm) == suggestion.best.name for arm in best)
        lines.append(f"{said}; of the ratios that were measured {' and '.join(best)} hold{'s' if len(best) == 1 else ''} most, "
                     f"which {'confirms' if agrees else 'refutes'} it.")  # fmt: skip
    return lines


def _ratio(arm: str) -> str | None:
    """1P3D of pd_1p3d."""
    found = re.search(r"(\d+)p(\d+)d", arm)
    return f"{found[1]}P{found[2]}D" if found else None


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
