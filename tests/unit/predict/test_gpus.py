"""A GPU by the names that configurations and drivers give it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pdslurm.errors import ConfigError
from pdslurm.predict.gpus import GPUS, gpu_named

CLUSTERS = sorted((Path(__file__).parents[3] / "conf" / "cluster").glob("*.yaml"))


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("H100-80GB", "H100 SXM"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("nvidia_h100_pcie", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("H200-141GB", "H200 SXM"),
        ("a100", "A100 40 GB"),
        ("A100-80GB", "A100 80 GB SXM"),
        ("NVIDIA A100 80GB PCIe", "A100 80 GB PCIe"),
        ("a100-sxm4-80gb", "A100 80 GB SXM"),
        ("RTX3090-24GB", "RTX 3090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("L40S", "L40S"),
    ],
)
def test_names(called: str, name: str) -> None:
    assert gpu_named(called).name == name


@pytest.mark.parametrize("file", CLUSTERS, ids=lambda file: str(file.stem))
def test_every_gpu_of_a_configuration_is_known(file: Path) -> None:
    values = yaml.safe_load(file.read_text())
    if "gpu" not in values or values["gpu"] == "CPU":
        return
    assert gpu_named(values["gpu"]).memory_bytes == pytest.approx(values["gpu_memory_gib"] * 2**30, rel=0.05)


def test_units() -> None:
    """FLOP/s, bytes/s and bytes: no entry is a factor of a thousand off."""
    for gpu in GPUS.values():
        assert 5e13 < gpu.flops_per_s < 3e15, gpu
        assert 2e11 < gpu.memory_bytes_per_s < 1e13, gpu
        assert 1.5e10 < gpu.memory_bytes < 3e11, gpu
        assert 1e10 < gpu.link_bytes_per_s < 1e12, gpu


@pytest.mark.parametrize("called", ["CPU", "MI300X", ""])
def test_an_unknown_one_is_named_with_those_that_are_known(called: str) -> None:
    with pytest.raises(ConfigError, match=f"cluster.gpu={called}: its speed is not known; known are H100 SXM, "):
        gpu_named(called)
