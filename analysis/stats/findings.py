"""Judged records in, sentences out on what arms differ in though their topologies do not force it: what ran beside what was asked
for, GPUs, the power cap, and what router and HTTP add to the time to first token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.load.frame import SETTING
from analysis.load.provenance import Provenance
from analysis.load.setup import ACROSS, same
from analysis.stats.repeats import plural

CAP_POINTS = 0.05  # of the GPUs' time: a difference above it between two arms at one setting is a finding
ERROR_MS, ERROR_SHARE = 25.0, 0.2  # router and HTTP may add so much more than elsewhere, in ms or of the arm's own TTFT
GPU_FACTS = {
    "gpu": "GPUs",
    "power_limit": "power limits",
    "driver": "drivers",
    "max_clock": "highest clocks",
    "numa": "NUMA nodes",
}
WORDS = {"model": "models", "engine": "engines"}


def findings(judged: pd.DataFrame) -> list[str]:
    """One sentence each, without an end. The power cap's shares are said where they are known, a difference or not."""
    used = judged[judged["use"] == "used"]
    if used.empty:
        return []
    return [*_unforced(used), *_hardware(used), *_unknown(used), *_power_cap(used), *_energy(used), *_router(used)]


def _unforced(used: pd.DataFrame) -> Iterator[str]:
    """What fairness.json found, before anything ran and when engines were ready."""
    folders = list(dict.fromkeys(used["folder"]))
    for folder in folders:
        differs = (Provenance(Path(folder)).fairness or {}).get("differs") or []
        where = f" in {Path(folder).name}" if len(folders) > 1 else ""
        open_ones = [f"{item['field']}: {_values(item['values'])}" for item in differs if not item.get("explained")]
        explained = [item["field"] for item in differs if item.get("explained")]
        if open_ones:
            yield f"The arms{where} differ in what no topology forces, unexplained: {'; '.join(open_ones)}"
        if explained:
            yield f"The arms{where} differ in {', '.join(explained)}, which the configuration explains"


def _values(values: Mapping[str, Any]) -> str:
    by_value: dict[str, list[str]] = {}
    for arm, value in values.items():
        by_value.setdefault(str(value), []).append(arm)
    return ", ".join(f"{value} ({', '.join(arms)})" for value, arms in by_value.items())


def _hardware(used: pd.DataFrame) -> Iterator[str]:
    """Facts of GPUs, and models and engines, of which the records have several values that are known."""
    for name, words in {**WORDS, **GPU_FACTS}.items():
        known = used.dropna(subset=[name])
        values = list(dict.fromkeys(known[name]))
        if any(not same(name, a, b) for i, a in enumerate(values) for b in values[i + 1 :]):
            arms = known.groupby("series", sort=False)[name].agg(lambda some: " and ".join(dict.fromkeys(some)))
            yield f"Measured on different {words}: {_values({str(arm): value for arm, value in arms.items()})}"


def _unknown(used: pd.DataFrame) -> Iterator[str]:
    """What some records tell and others do not, so that nobody knows whether they agree."""
    for name in ACROSS:
        missing = used[used[name].isna()]
        if len(missing) and len(missing) < len(used):
            arms = ", ".join(dict.fromkeys(missing["series"]))
            yield f"The {'GPU' if name == 'gpu' else name} of {plural(len(missing), 'measurement')} is not known ({arms})"


def power_cap_shares(used: pd.DataFrame) -> pd.Series[float]:
    """By series: the share of the GPUs' time in the points for which the power cap held their clocks; of those that count it."""
    known = used.dropna(subset=["power_cap_s", "gpu_s"])
    sums = known.groupby("series", sort=False)[["power_cap_s", "gpu_s"]].sum()
    return sums["power_cap_s"] / sums["gpu_s"]


def _power_cap(used: pd.DataFrame) -> Iterator[str]:
    shares = power_cap_shares(used)
    if shares.empty:
        return
    by_setting = [power_cap_shares(rows) for _, rows in used.groupby(list(SETTING), sort=False)]
    compared = [found for found in by_setting if len(found) > 1]
    apart = [found for found in compared if round(found.max() - found.min(), 9) > CAP_POINTS]
    said = ", ".join(f"{arm} {share:.0%}" for arm, share in shares.items())
    text = f"The power cap held the GPUs' clocks for this share of their time: {said}"
    if apart:
        widest = max(apart, key=lambda found: found.max() - found.min())
        text += (
            f"; at {len(apart)} of {plural(len(compared), 'setting')} the arms differ by more than {100 * CAP_POINTS:.0f} "
            f"percentage points, at most {widest.idxmax()} {widest.max():.0%} against {widest.idxmin()} {widest.min():.0%}"
        )
    yield text


def energy(used: pd.DataFrame) -> pd.DataFrame:
    """By series over the points that tell them: `j_per_token`, joules by output token, and `mean_sm_mhz`, by the points' time."""
    known = used.dropna(subset=["energy_j", "j_per_token", "mean_sm_mhz"])
    known = known.assign(tokens=known["energy_j"] / known["j_per_token"], cycles=known["mean_sm_mhz"] * known["duration_s"])
    sums = known.groupby("series", sort=False)[["energy_j", "tokens", "cycles", "duration_s"]].sum()
    return pd.DataFrame({"j_per_token": sums["energy_j"] / sums["tokens"], "mean_sm_mhz": sums["cycles"] / sums["duration_s"]})


def _energy(used: pd.DataFrame) -> Iterator[str]:
    """Over the settings that every such arm was measured at: energy by token depends on the load."""
    known = used.dropna(subset=["energy_j", "j_per_token", "mean_sm_mhz"])
    arms = known["series"].nunique()
    shared = known.groupby(list(SETTING))["series"].transform("nunique") == arms
    found = energy(known[shared])
    if not found.empty:
        said = ", ".join(f"{arm} {row.j_per_token:.3g} J at {row.mean_sm_mhz:.0f} MHz" for arm, row in found.iterrows())
        yield f"Energy of all GPUs by output token, and their mean SM clock, at the settings that these arms share: {said}"


def _router(used: pd.DataFrame) -> Iterator[str]:
    """What no engine saw of the TTFT, against the arm at the same setting where it is least."""
    known = used.dropna(subset=["ttft_error_ms", "mean_ttft_ms"])
    found: dict[str, list[tuple[float, float, str]]] = {}
    settings = 0
    for _, rows in known.groupby(list(SETTING), sort=False):
        means = rows.groupby("series", sort=False)[["ttft_error_ms", "mean_ttft_ms"]].mean()
        if len(means) < 2:
            continue
        settings += 1
        for arm, (error, ttft) in zip(means.index, means.itertuples(index=False), strict=True):
            others = means["ttft_error_ms"].drop(arm)
            if error - others.min() > max(ERROR_MS, ERROR_SHARE * ttft):
                found.setdefault(str(arm), []).append((error - others.min(), ttft, f"{others.min():.0f} ms in {others.idxmin()}"))
    for arm, more in found.items():
        most, ttft, other = max(more)
        yield (
            f"Router and HTTP add to the TTFT of {arm} what they do not add elsewhere, at {len(more)} of "
            f"{plural(settings, 'setting')}: at most {most:.0f} ms more, of {ttft:.0f} ms, than {other}"
        )
