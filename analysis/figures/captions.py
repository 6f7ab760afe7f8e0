"""Judged records and those that a figure shows in, its caption out: what ran, what bars are, what was left out and why.

A figure must be understood alone, so every caption says the model, the engine, the GPUs, the lengths and the SLO of its runs."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from analysis.figures.panels import CALIBRATION, fixed_text
from analysis.stats import repeats

PACED = ("trace", "ramp")  # in the words of a load: without a request rate its requests still are not sent all at once
INTERVAL = "95 % t interval of the mean (3 {units} or more)"
OF_PERCENTILE = "95 % t interval over {units}, of the logarithm (3 {units} or more)"
ONCE = "where an arm was started once, its repeats count, and its bar holds within that start"
NO_BARS = "no bars: fewer than three {units}"
SETUP = ("model", "engine", "gpu")


def caption_of(judged: pd.DataFrame, rows: pd.DataFrame, *sentences: str, after: str = "", skipped: int = 0) -> str:
    """What a reader must know beside the drawing of `rows`: whether a run was withdrawn, sentences of its own, then setup, SLO,
    load, how many of the tries are valid, and cautions. The SLO is that of the column `slo`, where there is one."""
    cautions = repeats.cautions(judged)
    slo = str(judged["slo"].iloc[0]) if "slo" in judged else ""
    is_said = any(slo in sentence for sentence in sentences)
    said: Iterable[str] = (
        repeats.withdrawn_text(judged),
        *sentences,
        setup_text(rows),
        lengths_text(rows),
        f"SLO: {slo}" if slo and not is_said else "",
        load_text(rows),
        tries_text(judged),
        after,
        f"{skipped} more panels are not drawn; choose with --only, or give fewer runs" if skipped else "",
        "Cautions: " + "; ".join(cautions) if cautions else "",
    )
    return " ".join(f"{sentence[:1].upper()}{sentence[1:]}." for sentence in said if sentence)


def bars_text(counts: pd.Series[int], what: str = "Mean", bars: str = INTERVAL) -> str:
    """What a marker and a bar are, for the numbers of starts or repeats that occur (repeats.units)."""
    kinds = {repeats.kind(int(n)) for n in counts.unique()}
    said = [f"{what} of {repeats.repeats_text(counts)}"]
    said += [f"bars: {bars}"] if "interval" in kinds else []
    said += [NO_BARS] if "none" in kinds else []
    said += [ONCE] if counts.name == repeats.MIXED else []
    return "; ".join(said).format(units=repeats.plurals(counts))


def setup_text(rows: pd.DataFrame) -> str:
    """`Model llama-3.1-8b, engine vllm 0.24.0, GPU NVIDIA H100 80GB HBM3, 2 GPUs an arm`, or `…, on CPU, 2 CPU slots an arm`; what
    no record tells is unknown."""
    on_cpu, said = set(rows["gpu"].dropna()) == {"CPU"}, []
    titles = {"gpu": "on" if on_cpu else "GPU"}
    for name in SETUP:
        known = sorted(map(str, rows[name].dropna().unique()))
        said.append(f"{titles.get(name, name)} {' and '.join(known) or 'unknown'}")
    gpus = rows["gpus"].dropna()
    if len(gpus):
        low, high, unit = gpus.min(), gpus.max(), "CPU slot" if on_cpu else "GPU"
        said.append(f"{repeats.plural(int(low), unit)} an arm" if low == high else f"{low:g} to {high:g} {unit}s an arm")
    return ", ".join(said)


def lengths_text(rows: pd.DataFrame) -> str:
    """`Input 512 to 2048 tokens, output 256 tokens`."""
    said = []
    for name in ("input_len", "output_len"):
        low, high = rows[name].min(), rows[name].max()
        same = low == high or low == 0  # a length of 0 is the data set's own
        said.append(fixed_text(name, high) if same else f"{name.removesuffix('_len')} {low:.0f} to {high:.0f} tokens")
    return ", ".join(said)


def tries_text(judged: pd.DataFrame) -> str:
    """How many of the tries are valid, and how many of these are calibration, which no figure shows beside what was swept."""
    calibration = judged["use"] == CALIBRATION
    counted = judged.assign(use=judged["use"].mask(calibration, "used"))
    count = int(calibration.sum())
    verbs = ("calibrates", "is") if count == 1 else ("calibrate", "are")
    more = f". {count} of the valid ones {verbs[0]} the search, with all requests at once, and {verbs[1]} not shown"
    return repeats.left_out_text(counted) + (more if count else "")


def load_text(rows: pd.DataFrame) -> str:
    """The load that all panels share: how many requests there are, how they arrive, how many are in flight."""
    low, high = rows["num_prompts"].min(), rows["num_prompts"].max()
    prompts = f"{low} prompts a measurement" if low == high else f"{low} to {high} prompts a measurement"
    loads = rows["load"].unique()
    words = f"load: {loads[0]}" if len(loads) == 1 and loads[0] != "random" else ""
    bounds = ["request_rate", "max_concurrency"]
    if (rows[bounds] == float("inf")).all(axis=None):
        paced = any(word in load for load in loads for word in PACED)
        return ", ".join(filter(None, [prompts, words, "" if paced else "all sent at once"]))
    shared = [fixed_text(name, rows[name].iloc[0]) for name in bounds if rows[name].nunique() == 1]
    return ", ".join(filter(None, [prompts, words, *shared]))
