"""Prefill/decode between two nodes with the real engine: which network it uses, who may see what; and RDMA that is not there."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pdslurm.records.measurement import Measurement
from pdslurm.records.run_folder import RunFolder
from tests.cluster.lab import Lab
from tests.integration.conftest import ENGINE, MISSING

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.engine,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        bool(MISSING), reason=f"no tests with the real engine: {ENGINE}/bin has no {', '.join(MISSING)}; `make setup`"
    ),
]

ROOT = Path(__file__).parents[2]
START_S = 500.0  # two cores load two engines in a minute, unless others use them too
SLURMS = {"slurmd", "slurmstepd", "srun"}  # listen everywhere, and ask for credentials by munge
GET = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=10).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""
ENGINES_KEY = "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | sed -n 's/^VLLM_API_KEY=//p' | head -n 1"
# One arm, one prefill and one decode instance, one request at a time.
SMALL = (
    "experiment=demo", "cluster=cpu_nodes", "launcher=allocation", "~topology@arms.route_2", "~arms.route_2", "workload.repeats=1",
    "workload.warmup_prompts=2", "~workload.sweeps.output", "workload.sweeps.input.input_len=[256]",
    "workload.sweeps.input.max_concurrency=[1]",
)  # fmt: skip


@dataclass(frozen=True)
class Listener:
    program: str
    address: str
    port: int


@contextmanager
def running(lab: Lab, run: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """A run under salloc; its end is waited for unless the test failed."""
    command = ["salloc", "-N2", "--exclusive", sys.executable, "-m", "pdslurm", *SMALL, f"run_dir={run}", *overrides]
    pipe = subprocess.PIPE
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = lab.on("ctl", command, cwd=ROOT, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=60)


def until_measuring(run: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_S
    events = run / "events.jsonl"
    while not (events.exists() and '"arm ready"' in events.read_text()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def listeners(lab: Lab, node: str) -> set[Listener]:
    """Of the run: Slurm's own are left out."""
    found = set()
    for line in lab.run(node, ["ss", "-ltnpH"], 10).stdout.splitlines():
        address, _, port = line.split()[3].rpartition(":")
        program = line.partition('users:(("')[2].partition('"')[0]
        found.add(Listener(program, address, int(port)))
    return {each for each in found if each.program not in SLURMS}


def records(run: Path) -> list[Measurement]:
    return list(RunFolder(run).records())


def everything_in(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in folder.rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            yield path, (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode(errors="replace")


def test_over_the_network_that_was_chosen(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(nodes=2)
    lab.add_network("fast0", "10.79.0")
    run = lab.scratch / "chosen"
    many = ("workload.num_prompts=32", "workload.sweeps.input.output_len=[32]")
    with running(lab, run, "cluster.network.cidr=10.79.0.0/24", *many) as process:
        until_measuring(run, process)
        found = {node: listeners(lab, node) for node in lab.nodes}
        lines = [line for node in lab.nodes for _, line in lab.processes(node)]
        key = lab.run("n1", ["sh", "-c", ENGINES_KEY], 10).stdout.strip()
        assert list(run.glob(".key-*")) == [], "it goes once every agent has read it"
        seen_by_guest = lab.run("n1", ["ls", str(run)], 10, check=False, user="guest")
        processes = json.loads((run / "plan.json").read_text())["processes"]
        urls = [f"http://{p['host']}:{p['port']}/v1/models" for p in processes if p["kind"] == "engine"]
        codes = [lab.run("n1", [sys.executable, "-c", GET, url], 20).stdout.strip() for url in urls]
        out = process.communicate(timeout=300)[0]
        assert process.returncode == 0, out

    check_listeners(lab, found)
    (record,) = records(run)
    assert record.valid, record.invalid_reasons
    ways = [{"peer": "inter-node", "lanes": ["tcp/fast0"], "how": "software emulation"}]
    assert record.telemetry["transport"] == {"kinds": ["tcp"], "engines": {"engine1": ways}}
    totals = record.telemetry["totals"]
    assert totals["nixl_transfer_time_s"] / totals["nixl_transfers"] < 1.0, "0.26 MB; 5 ms on an idle machine"

    assert codes == ["401", "401"]
    assert seen_by_guest.returncode != 0
    assert "Permission denied" in seen_by_guest.stderr
    assert len(key) == 64
    assert not [line for line in lines if key in line]
    assert not [path for path, text in everything_in(run) if key in text]
    assert key not in out


def check_listeners(lab: Lab, found: dict[str, set[Listener]]) -> None:
    """All on the chosen network or on loopback; engines, side channels, UCX and the driver's port for its agents on the former."""
    for number, node in enumerate(lab.nodes, 1):
        chosen = f"10.79.0.{number}"
        assert {each.address for each in found[node]} <= {chosen, "127.0.0.1"}, found[node]
        there = {(each.program, each.port) for each in found[node] if each.address == chosen}
        assert {("vllm", 8000), ("VLLM::EngineCor", 20000)} <= there
        assert any(program == "VLLM::Worker" for program, _ in there), "UCX"
    loopback = {each.port for each in found["n1"] if each.program == "vllm::router"}
    assert {each.address for each in found["n1"] if each.port in loopback} == {"127.0.0.1"}
    assert any(each.program.startswith("python") and each.address == "10.79.0.1" for each in found["n1"]), "the driver"


def test_tcp_where_rdma_is_asked(make_lab: Callable[..., Lab]) -> None:
    """Preflight sees the device's file; that nothing is behind it shows in what UCX chose."""
    lab = make_lab(nodes=2)
    lab.add_device_file("/dev/infiniband/uverbs0")
    run = lab.scratch / "no-rdma"
    few = ("workload.num_prompts=4", "workload.sweeps.input.output_len=[8]")
    with running(lab, run, "cluster.network.transport=rdma", *few) as process:
        out = process.communicate(timeout=START_S)[0]
        assert process.returncode == 0, out
    why = "cluster.network.transport=rdma: engine1 fetched KV over tcp/eth0"
    assert f"pd_1p1d: its points will be INVALID: {why}" in out
    (record,) = records(run)
    assert (record.status, record.valid, record.invalid_reasons) == ("done", False, (why,))
    assert record.telemetry["transport"]["kinds"] == ["tcp"]
