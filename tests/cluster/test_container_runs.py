"""Whole runs with their engines in docker on the nodes of the lab: the image gets there, nothing outlives whoever started it.

Small programs play the engines: what is about containers is not about vLLM. test_image.py serves with the real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pdslurm.config import RuntimeKind
from pdslurm.records.run_folder import RunFolder
from tests.cluster.cluster_run import POINTS, ROOT, SERVER, ClusterRun
from tests.cluster.container_stores import missing as lacks
from tests.cluster.lab import Lab, missing
from tests.integration.conftest import ENGINE, MISSING

pytestmark = pytest.mark.cluster
NAME = "pdslurm-base"
PROGRAMS = {"vllm": "vllm", "router": "vllm-router", "python": "python3"}
MEASURED = dict.fromkeys(POINTS, "done")


@pytest.fixture(scope="module")
def nodes(lab_root: Path, shared: tuple[Path, ...]) -> Iterator[Lab]:
    """Two nodes with a dockerd each, none of which has the image; its tarball lies on the shared disk."""
    lack = missing("containers") or lacks(RuntimeKind.docker)
    if lack:
        pytest.skip(f"no runs in containers: this lacks {lack}; as root: bash tests/cluster/install.sh containers")
    with Lab(lab_root / "docker", nodes=2, docker=True, shared=shared) as lab:
        base = ["bash", str(ROOT / "docker" / "base_image.sh"), NAME]
        subprocess.run([*base, "true"], check=True)  # out here: it needs Debian's packages, and nodes have no way to them
        lab.run("n1", base, 60, cwd=ROOT)
        lab.run("n1", ["docker", "save", "--output", str(lab.scratch / "image.tar"), NAME], 60)
        lab.run("n1", ["docker", "rmi", "--force", NAME], 60)
        yield lab


@pytest.fixture
def start_in_docker(nodes: Lab, start: Callable[..., ClusterRun], tmp_path: Path) -> Callable[..., ClusterRun]:
    """start() with every process in a container of the image; stand-ins see the test's folder and this checkout."""
    program = f"[python3,-S,{SERVER}]"
    seen = [ROOT, tmp_path.parent.parent, Path(sys.prefix)]  # the client's stand-in needs the numpy of these tests' environment
    seen += [Path(sys.base_prefix)] if sys.base_prefix != "/usr" else []
    runtime = (
        "runtime=docker",
        f"runtime.image={nodes.scratch}/image.tar",
        f"runtime.vllm={program}",
        f"runtime.router={program}",
        f"runtime.python=[{sys.executable}]",
        f"runtime.mounts=[{','.join(dict.fromkeys(map(str, seen)))}]",
        f"+runtime.env.STAND_INS={tmp_path}/told",
        "runtime.extra_args=[]",
    )
    return lambda *overrides, **how: start(*runtime, *overrides, lab=nodes, nodes=("n1", "n2"), **how)


def containers(lab: Lab) -> list[str]:
    return [f"{node}: {name}" for node in lab.nodes for _, name in lab.containers(node)]


def wait_no_containers(lab: Lab, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while left := containers(lab):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_a_run_in_docker_and_its_end(nodes: Lab, start_in_docker: Callable[..., ClusterRun], told: Callable[..., None]) -> None:
    """The image is loaded where it was missing, its ID recorded; scancel leaves no container; the rerun measures the rest."""
    told(client="hang:128")
    run = start_in_docker(how="sbatch")
    run.wait_in_point()
    names = containers(nodes)
    assert len(names) == 4, names  # two engines, the router, the client
    images = [nodes.run(node, ["docker", "images", "--quiet", "--no-trunc"], 20).stdout.split() for node in nodes.nodes]
    assert images[0] == images[1]
    versions = json.loads((run.folder / "versions.json").read_text())["engine"]
    assert versions["image"] == images[0][0]
    began = time.time()
    nodes.run("ctl", ["scancel", run.job], 10)
    run.wait_end(40)
    wait_no_containers(nodes, 5)
    run.wait_clean(run.nodes, 10)
    print({"scancel": round(time.time() - began, 1)})
    told()
    again = start_in_docker(how="sbatch")
    again.wait_end(120)
    assert "1 points measured, 2 done before" in again.text, again.text
    assert again.points() == MEASURED
    wait_no_containers(nodes, 5)


@pytest.mark.parametrize("victim", ["agent", "driver"])
def test_containers_end_with_whoever_started_them(
    nodes: Lab, start_in_docker: Callable[..., ClusterRun], told: Callable[..., None], victim: str
) -> None:
    """Killed by SIGKILL, which gives nobody time to clean up: the containers' own guards do."""
    told(client="hang:128")
    run = start_in_docker(how="sbatch")
    run.wait_in_point()
    began = time.time()
    run.kill("n2" if victim == "agent" else "n1", victim)
    wait_no_containers(nodes, 15)
    print({victim: round(time.time() - began, 1)})
    run.wait_end(60)
    if victim == "agent":
        assert "node n2 on n2 died: its agent is gone" in run.text


def test_the_image_is_missing_on_one_node(nodes: Lab, start_in_docker: Callable[..., ClusterRun], tmp_path: Path) -> None:
    nodes.run("n1", ["cp", f"{nodes.scratch}/image.tar", "/tmp/image.tar"], 30)
    try:
        run = start_in_docker("runtime.image=/tmp/image.tar", how="sbatch")
        run.wait_end(60)
        assert "n2: runtime.image=/tmp/image.tar: " in run.text, run.text
        assert "No such file or directory" in run.text
        assert containers(nodes) == []
    finally:
        nodes.run("n1", ["rm", "/tmp/image.tar"], 10)


@pytest.mark.engine
@pytest.mark.timeout(600)
@pytest.mark.skipif(bool(MISSING), reason=f"no tests with the real engine: {ENGINE}/bin has no {', '.join(MISSING)}; `make setup`")
def test_prefill_and_decode_in_docker_on_two_nodes(nodes: Lab, tmp_path: Path) -> None:
    """The real engine, mounted into a small image: KV moves by NIXL from one node's container to the other's, and nothing stays."""
    python = Path(os.path.realpath(ENGINE / "bin" / "python3")).parents[1]
    mounts = [str(path) for path in (ENGINE, python) if path != Path("/usr")]
    run = nodes.scratch / "pd"
    done = nodes.run(
        "ctl",
        [
            "salloc", "--quiet", "-N2", "--exclusive", sys.executable, "-m", "pdslurm", "experiment=demo", "cluster=cpu_nodes",
            "launcher=allocation", "~topology@arms.route_2", "~arms.route_2", "workload.repeats=1", "workload.warmup_prompts=2",
            "workload.num_prompts=8", "~workload.sweeps.output", "workload.sweeps.input.input_len=[256]", f"run_dir={run}",
            "workload.sweeps.input.max_concurrency=[1]", "runtime=docker", f"runtime.image={nodes.scratch}/image.tar",
            *(f"runtime.{field}=[{ENGINE}/bin/{name}]" for field, name in PROGRAMS.items()), f"runtime.mounts=[{','.join(mounts)}]",
        ],
        500, check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = RunFolder(run).records()
    assert record.valid, record.invalid_reasons
    assert record.telemetry["totals"]["nixl_transfers"] == 8
    assert record.telemetry["transport"]["kinds"] == ["tcp"]
    engine = json.loads((run / "versions.json").read_text())["engine"]
    assert engine["vllm"]
    assert engine["image"].startswith("sha256:")
    wait_no_containers(nodes, 5)
    assert [nodes.shm(node) for node in nodes.nodes] == [(), ()]
    print({"mean_ttft_ms": record.metrics["mean_ttft_ms"], "transfer_s": record.telemetry["totals"]["nixl_transfer_time_s"]})
