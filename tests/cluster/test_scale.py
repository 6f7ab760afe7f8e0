"""Instances start together: how long a run takes from its job's start to agents and engines on 1, 4 and 16 nodes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.cluster_run import ClusterRun
from tests.cluster.lab import Lab

pytestmark = pytest.mark.cluster
MORE = ("limits.start_s=60", "workload.sweeps.concurrency.input_len=[64]", "limits.stop_s=3")


def seconds(lab: Lab, folder: Path, overrides: tuple[str, ...], nodes: int) -> dict[str, float]:
    """From the job's start to its agents, and to its engines' answers."""
    (folder / "told").mkdir()
    size = (f"topology.nodes={nodes}", "topology=dp" if nodes == 1 else f"topology.route={nodes}")
    names = tuple(f"n{number}" for number in range(1, nodes + 1))
    run = ClusterRun(
        lab, folder / "run", (*overrides, *MORE, *size), {"STAND_INS": str(folder / "told")}, outputs=folder, nodes=names
    )
    run.wait_until(lambda: run.state() == "RUNNING", "start of the job", 20)
    began = time.time()
    run.wait_until(lambda: all(run.runs(node, "agent") for node in names), "agents on all nodes", 60)
    agents_s = time.time() - began
    run.wait_event("instance(s) ready", 120)
    engines_s = (run.when("instance(s) ready") or 0.0) - began
    run.wait_end(60)
    assert "1 points measured" in run.text, run.text
    run.wait_clean(names, 10)
    return {"agents_s": round(agents_s, 2), "engines_s": round(engines_s, 2)}


def test_sixteen_nodes_start_in_less_than_twice_the_time_of_one(
    make_lab: Callable[..., Lab],
    stand_ins: tuple[str, ...],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    lab = make_lab(nodes=16)
    took = {}
    for nodes in (1, 4, 16):
        folder = tmp_path / str(nodes)
        folder.mkdir()
        took[nodes] = seconds(lab, folder, stand_ins, nodes)
    print(json.dumps(took))
    record_property("launch", json.dumps(took))
    assert took[16]["agents_s"] < 2 * took[1]["agents_s"]
