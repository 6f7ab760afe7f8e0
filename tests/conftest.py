"""What several test files share: a small valid configuration to change, and the option that accepts new golden files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pdslurm import config as c

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--accept", action="store_true", help="write the golden files in tests/golden anew instead of comparing")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of real processes hold them to seconds on cores that they share: one that fails is run once more, and pytest's summary
    names it as RERUN. Twice is a failure. Unit tests are never run again."""
    for item in items:
        if "unit" not in item.path.parts:
            item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=2))


@pytest.fixture(scope="session")
def hf_configs() -> Mapping[str, Mapping[str, Any]]:
    """The sizes that conf/model ships, by file name."""
    files = (ROOT / "conf" / "model").glob("*.yaml")
    loaded = {f.stem: OmegaConf.to_container(OmegaConf.load(f)) for f in files}
    return {name: value["hf_config"] for name, value in loaded.items() if isinstance(value, dict) and "hf_config" in value}


@pytest.fixture
def make_config(hf_configs: Mapping[str, Mapping[str, Any]]) -> Callable[..., c.Config]:
    """make_config({"topology.route": 2, …}): DeepSeek-V2-Lite on 4 nodes of 8 GPUs of 80 GB, TP=8, one point, with changes."""

    def make(changes: Mapping[str, Any] | None = None) -> c.Config:
        config = c.Config(
            name="test",
            cluster=c.Cluster(name="eights", gpus_per_node=8, gpu="H100-80GB", gpu_memory_gib=80),
            model=c.Model(name="v2-lite", path="org/v2-lite", max_model_len=16384, hf_config=dict(hf_configs["deepseek_v2_lite"])),
            topology=c.Topology(nodes=4, tensor_parallel=8),
            workload=c.Workload(name="one", num_prompts=10, repeats=1, sweeps={"only": c.Sweep([128], [32])}),
            runtime=c.Runtime(name="here", vllm=["vllm"], router=["vllm-router"], python=["python"]),
            launcher=c.Launcher(c.LauncherKind.plan),
        )
        for path, value in (changes or {}).items():
            *parents, last = path.split(".")
            target: Any = config
            for parent in parents:
                target = getattr(target, parent)
            assert hasattr(target, last), path
            setattr(target, last, value)
        return config

    return make
