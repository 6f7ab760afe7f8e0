"""`python -m pdslurm.doctor` in an allocation of two nodes, with the real engine and a stand-in for nvidia-smi: all findings of all
nodes at once, and nothing left on any of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.lab import Lab
from tests.integration.conftest import ENGINE, MISSING

pytestmark = [pytest.mark.cluster, pytest.mark.engine]
Doctor = Callable[..., tuple[int, str, str]]
# Three H200s, all idle; on the node of `busy` somebody's process is on GPU 0.
NVIDIA_SMI = """
import json, platform, sys
busy = json.load(open({busy!r}))
fields = sys.argv[1].partition("=")[2].split(",")
pid = busy.get(platform.node())
row = {{"name": "NVIDIA H200", "memory.total": 143771, "driver_version": "580.159.04", "mig.mode.current": "Disabled",
       "clocks.sm": 345, "clocks.max.sm": 1980, "temperature.gpu": 31, "persistence_mode": "Enabled",
       "clocks_throttle_reasons.active": "0x0000000000000001"}}
if "topo" in sys.argv[1]:
    print("\\x1b[4mGPU0\\x1b[0m")
elif "--query-compute-apps" in sys.argv[1]:
    print(f"GPU-0, {{pid}}, 71680, python3" if pid else "")
elif "power.limit" not in fields:
    for n in range(3):
        row |= {{"index": n, "uuid": f"GPU-{{n}}", "memory.used": 71700 if pid and n == 0 else 4}}
        print(", ".join(str(row[field]) for field in fields))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests here: vLLM is asked for its options once."""
    return tmp_path_factory.mktemp("doctor")


@pytest.fixture
def busy(root: Path) -> Path:
    """A JSON file that the stand-in for nvidia-smi reads: node → pid of who is on its GPU 0."""
    path, program = root / "busy.json", root / "bin" / "nvidia-smi"
    path.write_text("{}")
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!{sys.executable} -S\n{NVIDIA_SMI.format(busy=str(path))}")
    program.chmod(0o755)
    return path


@pytest.fixture
def doctor(lab: Lab, root: Path, busy: Path) -> Doctor:
    """doctor("run", "limits.stop_s=1"): exit code, output, errors of the doctor on n1 and n2."""
    if MISSING:
        pytest.skip(f"no tests with the real engine: {ENGINE}/bin has no {', '.join(MISSING)}; `make setup` makes .venv-engine")
    env = {**os.environ, "PATH": f"{busy.parent / 'bin'}:{os.environ['PATH']}", "PDSLURM_ENGINE": str(ENGINE)}

    def run(name: str, *overrides: str, launcher: str = "allocation") -> tuple[int, str, str]:
        within = ("salloc", "--quiet", "--nodelist=n1,n2", "--exclusive") if launcher == "allocation" else ()
        command = (
            *within, sys.executable, "-m", "pdslurm.doctor", "experiment=demo",
            f"launcher={launcher}", "cluster=h100_ib", "cluster.gpus_per_node=1", "+cluster.env.HF_HUB_OFFLINE='1'",
            f"run_root={root}", f"run_dir={root / name}", *overrides,
        )  # fmt: skip
        done = lab.run("ctl", command, 300, check=False, env=env, cwd=ENGINE.parent)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def guest(lab: Lab) -> Iterator[int]:
    """The pid, as n2 has it, of a process of another user on n2."""
    process = lab.on("n2", ["sleep", "987"], user="guest", stdout=subprocess.DEVNULL)

    def pids() -> list[int]:
        return [pid for pid, line in lab.processes("n2") if line == "sleep 987"]

    lab.wait_for("guest's process", lambda: bool(pids()), timeout_s=10)
    yield pids()[0]
    process.kill()
    process.wait()


def seen_on(lab: Lab) -> list[tuple[object, ...]]:
    """What a run could leave, beside the test's own."""
    return [(n, lab.shm(n), lab.listening(n), lab.tmp(n), [line for _, line in lab.processes(n)]) for n in ("n1", "n2")]


def test_nothing_is_wrong(lab: Lab, doctor: Doctor, root: Path) -> None:
    before = seen_on(lab)
    code, out, err = doctor("fine", f"model.path={root}/models/tiny", "cluster.network.transport=any")
    assert code == 0, err
    lines = out.splitlines()
    table = lines[[line.startswith("node ") for line in lines].index(True) :]
    assert [re.split("  +", line)[:3] for line in table[1:3]] == [[n, "3 × NVIDIA H200", "580.159.04"] for n in ("n1", "n2")]
    assert all(re.search(r"  UCX +vllm \S+ nixl \S+ vllm-router \S+  nothing$", line) for line in table[1:3]), out
    assert table[3:] == ["preflight: nothing is wrong on 2 node(s)"]
    assert seen_on(lab) == before


def test_from_the_login_node_it_gets_its_nodes_itself(doctor: Doctor, root: Path) -> None:
    """A job of its own, sized by the plan, whose words come back; the second look finds what the job said."""
    code, out, err = doctor(
        "submitted", f"model.path={root}/models/tiny", "cluster.network.transport=any", "cluster.slurm.gpus_by=none",
        launcher="slurm",
    )  # fmt: skip
    assert code == 0, out + err
    assert "preflight: nothing is wrong on 2 node(s)" in out, out
    code, out, err = doctor("submitted", f"model.path={root}/models/tiny", "cluster.slurm.gpus_by=none", launcher="slurm")
    assert code == 3, out + err
    assert len(re.findall(r"- n\d: cluster.network.transport=rdma: asks for RDMA", out + err)) == 2, out + err


def test_all_findings_of_all_nodes_at_once(lab: Lab, doctor: Doctor, busy: Path, guest: int) -> None:
    """n2's GPU is somebody else's, and the model lies in n1's own /tmp; every node lacks RDMA; no vLLM knows the option."""
    busy.write_text(json.dumps({"n2": guest}))
    before = seen_on(lab)
    code, out, err = doctor(
        "faults", "model.path=/tmp/only-here/tiny", "+cluster.env.UCX_TLS='rc,tcp,sm,self'",
        "arms.route_2.extra_args=[--no-such-option]",
    )  # fmt: skip
    lab.run("n1", ["rm", "-r", "/tmp/only-here"], 10)
    assert code == 3, err
    found = [line.removeprefix("  - ") for line in err.splitlines() if line.startswith("  - ")]
    rdma = [
        "cluster.kv_backends=UCX: UCX would do without what it was told to use: transport 'rc' is not available",
        "cluster.network.transport=rdma, UCX_TLS=rc: asks for RDMA, and there is no /dev/infiniband/uverbs*; load the driver",
    ]
    expected = [
        *(f"n1: {text}" for text in rdma),
        f"n2: GPU 0 is busy: python3 (pid {guest}, of guest) holds 70.0 GiB of it; end it, or use another node",
        *(f"n2: {text}" for text in rdma),
        "n2: model.path=/tmp/only-here/tiny: no such folder on this node; it has to be there under this path on every node",
        f"{ENGINE}/bin/vllm: this version knows no option --no-such-option",
    ]
    assert len(found) == len(expected), err
    assert all(text.startswith(start) for text, start in zip(found, expected, strict=True)), err
    assert re.search(r"^n1 .*  2 finding\(s\)$", out, re.M), out
    assert re.search(r"^n2 .*  4 finding\(s\)$", out, re.M), out
    assert seen_on(lab) == before
