"""GPUs' clocks by a stand-in for nvidia-smi: of drivers that count, of drivers that do not, and as a node's agent answers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pdslurm.config import Config
from pdslurm.node import gpu_states
from pdslurm.node.processes import LocalProcesses
from pdslurm.node.provenance import host_facts
from pdslurm.plan.deployment import Process
from pdslurm.slurm.agents import Nodes
from pdslurm.slurm.node_processes import NodeProcesses
from pdslurm.slurm.wire import new_key

# Four GPUs; $COUNTERS says whether the driver counts, $SMI how nvidia-smi ends
NVIDIA_SMI = """#!/bin/sh
case "$*" in *counters*)
    test "$COUNTERS" || { echo 'Field "x" is not a valid field to query.'; exit 2; }
    more=", 7, 8, 9, [N/A]";;
esac
case "$UUIDS $*" in "1 "*uuid*)
    for gpu in 0 1 2 3; do echo "$gpu, NVIDIA H100, 700.00, 580.1, 00000000:19:00.0, GPU-${gpu}abc"; done; exit;;
esac
for gpu in 0 1 2 3; do echo "$gpu, 1980, 1980, 6$gpu, Enabled, 0x0000000000000001$more"; done
exit ${SMI:-0}
"""


@pytest.fixture(autouse=True)
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(NVIDIA_SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)


def test_a_driver_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERS", "1")
    found = gpu_states.read_states(["1", "3"])
    assert [(state["gpu"], state["temperature_c"]) for state in found] == [(1, 61), (3, 63)]
    assert found[0]["slowed_us"] == {"SW thermal": 7, "HW thermal": 8, "HW power brake": 9, "power cap": None}


def test_a_driver_that_does_not() -> None:
    found = gpu_states.read_states(["0"])
    assert [state["gpu"] for state in found] == [0]
    assert "slowed_us" not in found[0]


def test_gpus_by_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UUIDS", "1")
    assert [(state["gpu"], state["uuid"]) for state in gpu_states.read_states(["GPU-2a"])] == [(2, "GPU-2abc")]


def test_gpus_by_an_unknown_name_are_all_told() -> None:
    assert [state["gpu"] for state in gpu_states.read_states(["GPU-6f2a"])] == [0, 1, 2, 3]


def test_a_driver_that_hangs_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What nvidia-smi started holds its output open; nobody waits for that."""
    monkeypatch.setattr("pdslurm.node.gpu_states.TIMEOUT_S", 0.5)
    monkeypatch.setattr("pdslurm.node.provenance.OUTPUT_S", 0.5)
    pid = tmp_path / "pid"
    (tmp_path / "bin" / "nvidia-smi").write_text(f"#!/bin/sh\nsleep 300 & echo $! > {pid}; wait\n")
    began = time.monotonic()
    assert gpu_states.read_states(["0"]) == []
    facts = host_facts()
    assert (facts["gpus"], facts["gpu_topology"]) == ([], None)
    assert time.monotonic() - began < 100, "it was not waited for"
    deadline = time.monotonic() + 20
    while psutil.pid_exists(int(pid.read_text())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not psutil.pid_exists(int(pid.read_text())) or psutil.Process(int(pid.read_text())).status() == psutil.STATUS_ZOMBIE


def test_none_that_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SMI", "9")
    assert gpu_states.read_states(["0"]) == []
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_states.read_states(["0"]) == []


def test_a_node_s_agent_tells_of_the_gpus_that_slurm_gave(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    key = new_key()
    (tmp_path / "key").write_text(key)
    env = {**os.environ, "SLURMD_NODENAME": "n1", "CUDA_VISIBLE_DEVICES": "2,3"}
    engine = Process("engine0", "engine", "both", 0, 0, "127.0.0.1", (1,), 8000, ())
    with (
        Nodes(
            ["n1"], "127.0.0.1", key, make_config(), env=env, log=tmp_path / "log", temp=tmp_path / "temp",
            launch=lambda at: [sys.executable, "-m", "pdslurm.slurm.agent", at, str(tmp_path / "key")],
        ) as nodes,
        LocalProcesses(stop_s=1.0) as local,
    ):  # fmt: skip
        nodes.wait()
        processes = NodeProcesses(nodes, local, lambda: False)
        states_by_node = processes.gpu_states([engine])
    for node in nodes.joined.values():
        node.wire.close()
    assert [(name, [state["gpu"] for state in states]) for name, states in states_by_node.items()] == [("n1", [3])]


def test_engines_here_get_the_gpus_that_the_environment_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    env = {"CUDA_VISIBLE_DEVICES": "1"}
    engine = Process(
        "engine0", "engine", "both", 0, 0, "127.0.0.1", (1,), 8000, ("sh", "-c", "echo GPU=$CUDA_VISIBLE_DEVICES"), env
    )
    with LocalProcesses(stop_s=1.0) as local:
        running = local.start(engine, tmp_path / "log")
        assert running.popen.wait(60) == 0
        states = local.gpu_states([engine])
    assert "GPU=3\n" in (tmp_path / "log").read_text()
    assert [state["gpu"] for state in states["localhost"]] == [3]
