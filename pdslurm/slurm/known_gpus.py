"""From what Slurm or a driver calls a GPU to what conf/cluster and a small table know of it: memory, and what estimates need."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pdslurm.predict.gpus import model_of

CLUSTERS = Path(__file__).parents[2] / "conf" / "cluster"
ESTIMATES = ("load_s", "gpu_tflops", "step_ms")
# GiB by model, of those that are sold with one memory, or the smallest; conf/cluster's files come first.
MEMORY_GIB = {
    "v100": 16, "p100": 16, "t4": 16, "a10": 24, "a10g": 24, "a30": 24, "a40": 48, "a100": 40, "l4": 24, "l40": 48, "l40s": 48,
    "rtx3090": 24, "rtx4090": 24, "rtx5090": 32, "a6000": 48, "rtx6000": 24, "h20": 96, "gh200": 96, "b200": 180, "b300": 268,
}  # fmt: skip


@dataclass(frozen=True)
class KnownGpu:
    """`memory_from` and `estimates_from` say where numbers are from; None and "" where nobody knows."""

    name: str
    memory_gib: float | None = None
    memory_from: str = ""
    estimates: Mapping[str, float] = field(default_factory=dict)
    estimates_from: str = ""


def known_gpu(called: str, memory_gib: float | None = None) -> KnownGpu:
    """`h100`, `nvidia_h100_80gb_hbm3`, `NVIDIA H100 80GB HBM3`, `a100-sxm4-80gb`: what is known of it; `memory_gib` as measured."""
    model = model_of(called)
    size = None if model.startswith("g") else re.search(r"(\d+)\s*gi?b", called.lower())  # GH200 480GB: its CPU's memory
    found = next((each for each in configured() if model and model_of(each[0]) == model), None)
    memory: float | None
    if memory_gib is not None:
        memory, where = memory_gib, "nvidia-smi"
    elif size:
        memory, where = float(size[1]), "the GPU's name"
    elif found:
        memory, where = found[1], found[2]
    else:
        memory, where = MEMORY_GIB.get(model), "the GPU's model; a few are sold with more"
    name = found[0] if found and (memory is None or abs(memory - found[1]) <= 0.05 * found[1]) else spelled(called, memory)
    estimates = {key: value for each in configured() if each[0] == name for key, value in each[3].items()}
    sources = ", ".join(each[2] for each in configured() if each[0] == name and each[3])
    return KnownGpu(name, memory, where if memory is not None else "", estimates, sources)


def is_known(called: str) -> bool:
    """Whether a word names a GPU, and not a processor or a rack."""
    model = model_of(called)
    return model in MEMORY_GIB or model in {model_of(name) for name, *_ in configured()}


@cache
def configured() -> tuple[tuple[str, float, str, dict[str, float]], ...]:
    """Name, GiB, file and estimates of the GPU of each file in conf/cluster, those of whole nodes first."""
    found = []
    for file in sorted(CLUSTERS.glob("*.yaml")):
        values: Any = OmegaConf.to_container(OmegaConf.load(file))
        if isinstance(values, dict) and values.get("gpu") and values.get("device", "cuda") == "cuda" and "gpu_memory_gib" in values:
            estimates = {key: float(values[key]) for key in ESTIMATES if key in values}
            entry = str(values["gpu"]), float(values["gpu_memory_gib"]), f"conf/cluster/{file.name}", estimates
            found.append((bool(values.get("one_host")), entry))
    return tuple(entry for _, entry in sorted(found, key=lambda each: each[0]))


def spelled(called: str, memory_gib: float | None) -> str:
    """A name for people and for the record: `A100-80GB`."""
    model = model_of(called).upper() or re.sub(r"[^A-Za-z0-9.]+", "-", called).strip("-") or "GPU"
    return f"{model}-{memory_gib:.0f}GB" if memory_gib is not None else model
