"""The plugin that lets idle engines sleep: found by its entry point, quiet unless asked for, and it does cure NIXL's spinning."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

IDLE_NIXL = """
import importlib.metadata as md, os, time
for plugin in md.entry_points(group="vllm.general_plugins"):
    if plugin.name == "pdslurm_few_cores":
        plugin.load()()
from nixl._api import nixl_agent, nixl_agent_config
agent = nixl_agent("idle", nixl_agent_config(backends=["UCX"]))
cpu, wall = time.process_time(), time.monotonic()
time.sleep(2)
print("share", (time.process_time() - cpu) / (time.monotonic() - wall), flush=True)
os._exit(0)
"""


@pytest.mark.engine
@pytest.mark.parametrize(("few_cores", "low", "high"), [("0", 0.3, 1.5), ("1", 0.0, 0.15)])
def test_an_idle_nixl_agent_spins_unless_cores_are_few(engine: Path, few_cores: str, low: float, high: float) -> None:
    env = {**os.environ, "PDSLURM_FEW_CORES": few_cores}
    done = subprocess.run(
        [engine / "bin/python", "-c", IDLE_NIXL], env=env, capture_output=True, text=True, timeout=120, check=True
    )
    share = float(done.stdout.rpartition("share ")[2])
    assert low <= share <= high, f"an idle agent uses {share:.2f} of a core"
