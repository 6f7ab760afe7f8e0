"""A GPU's name in; its speed and memory by its data sheet out."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pdslurm.errors import ConfigError

GIB = 2**30
PCIE4, PCIE5 = 31.5e9, 63e9  # bytes/s in each direction, x16


@dataclass(frozen=True)
class Gpu:
    """Peaks of one GPU, without sparsity."""

    name: str
    flops_per_s: float  # dense bf16 with float32 sums; fp16 where a GPU has no bf16
    memory_bytes_per_s: float
    memory_bytes: float
    link_bytes_per_s: float  # to its neighbours on the same host, in each direction: NVLink, else PCIe


def _gpu(name: str, tflops: float, gb_per_s: float, gib: float, link_bytes_per_s: float) -> Gpu:
    return Gpu(name, tflops * 1e12, gb_per_s * 1e9, gib * GIB, link_bytes_per_s)


# By model, and "model variant" where a model is sold in several. From NVIDIA's data sheets, whose Tensor Core rates are halved
# where they are given with sparsity, and whose NVLink rates are halved because they add up both directions.
GPUS = {
    "h100": _gpu("H100 SXM", 989, 3350, 80, 450e9),  # H100 data sheet 2023: 1,979 with sparsity, 3.35 TB/s, NVLink 900 GB/s
    "h100 pcie": _gpu("H100 PCIe", 756, 2000, 80, 300e9),  # H100 PCIe product brief: 1,513, 2.0 TB/s; bridges 600 GB/s
    "h100 nvl": _gpu("H100 NVL", 835, 3900, 94, 300e9),  # H100 data sheet: 1,671, 3.9 TB/s, bridge 600 GB/s
    "h200": _gpu("H200 SXM", 989, 4800, 141, 450e9),  # H200 data sheet: 1,979, 4.8 TB/s, 900 GB/s
    "h200 nvl": _gpu("H200 NVL", 835, 4800, 141, 450e9),  # H200 data sheet: 1,671, 4.8 TB/s, bridge 900 GB/s
    "h20": _gpu("H20", 148, 4000, 96, 450e9),  # H20 data sheet: 148, 4.0 TB/s, 900 GB/s
    "gh200": _gpu("GH200", 990, 4000, 96, 450e9),  # GH200 data sheet, 96 GB of HBM3: 1,979, 4 TB/s; NVLink of two 900 GB/s
    "b200": _gpu("B200", 2250, 8000, 180, 900e9),  # HGX B200 data sheet: 36 PFLOPS of 8 with sparsity, 8 TB/s, 1.8 TB/s
    "a100": _gpu("A100 40 GB", 312, 1555, 40, 300e9),  # A100 data sheet: 312, 1,555 GB/s, NVLink 600 GB/s
    "a100 80": _gpu("A100 80 GB SXM", 312, 2039, 80, 300e9),  # A100 data sheet: 312, 2,039 GB/s
    "a100 80 pcie": _gpu("A100 80 GB PCIe", 312, 1935, 80, 300e9),  # A100 data sheet: 1,935 GB/s, bridge 600 GB/s
    "a30": _gpu("A30", 165, 933, 24, 100e9),  # A30 data sheet: 165, 933 GB/s, bridge 200 GB/s
    "a40": _gpu("A40", 149.7, 696, 48, 56e9),  # A40 data sheet: 149.7, 696 GB/s, bridge 112.5 GB/s
    "a10": _gpu("A10", 125, 600, 24, PCIE4),  # A10 data sheet
    "a10g": _gpu("A10G", 70, 600, 24, PCIE4),  # A10G data sheet: 70 with float32 sums
    "a6000": _gpu("RTX A6000", 154.8, 768, 48, PCIE4),  # GA102 white paper: 154.8, 768 GB/s; without its bridge
    "l4": _gpu("L4", 121, 300, 24, PCIE4),  # L4 data sheet: 242 with sparsity, 300 GB/s
    "l40": _gpu("L40", 181, 864, 48, PCIE4),  # L40 data sheet: 181 without sparsity, 864 GB/s
    "l40s": _gpu("L40S", 362, 864, 48, PCIE4),  # L40S data sheet: 362 without sparsity, 864 GB/s
    "rtx3090": _gpu("RTX 3090", 71, 936, 24, PCIE4),  # GA102 white paper: 71 with float32 sums, 936 GB/s; without its bridge
    "rtx4090": _gpu("RTX 4090", 165.2, 1008, 24, PCIE4),  # Ada white paper: 165.2 with float32 sums, 1,008 GB/s
    "rtx5090": _gpu("RTX 5090", 209.5, 1792, 32, PCIE5),  # RTX Blackwell white paper: 209.5 with float32 sums, 1,792 GB/s
    "v100": _gpu("V100", 125, 900, 16, 150e9),  # V100 data sheet, SXM2, fp16: 125, 900 GB/s, NVLink 300 GB/s
    "t4": _gpu("T4", 65, 320, 16, 15.75e9),  # T4 data sheet, fp16: 65, 320 GB/s ("320+"), PCIe 3
}


def gpu_named(called: str) -> Gpu:
    """What cluster.gpu, Slurm or a driver calls a GPU: `H100-80GB`, `NVIDIA H100 PCIe`, `a100-sxm4-80gb`. Raises ConfigError."""
    model, text = model_of(called), called.lower()
    size = re.search(r"(\d+)\s*gi?b\b", text)
    with_size = f"{model} {size[1]}" if size else model
    variant = next((word for word in ("pcie", "nvl") if re.search(rf"\b{word}\b", text.replace("_", " "))), "")
    for key in (f"{with_size} {variant}", with_size, f"{model} {variant}", model):
        if key in GPUS:
            return GPUS[key]
    known = ", ".join(gpu.name for gpu in GPUS.values())
    raise ConfigError([f"cluster.gpu={called}: its speed is not known; known are {known}"])


def model_of(called: str) -> str:
    """`NVIDIA GeForce RTX 3090` → rtx3090, `nvidia_h100_80gb_hbm3` → h100; "" where no model is named."""
    text = re.sub(r"\d+\s*gi?b\b", " ", called.lower().replace("_", " ").replace("-", " "))
    words = re.sub(r"\brtx (?=\d)", "rtx", text).split()
    models = [word for word in words if re.fullmatch(r"(rtx|gh|gb|mi|[abhlptv])\d{1,4}[a-z]{0,2}", word)]
    return models[0] if models else ""
