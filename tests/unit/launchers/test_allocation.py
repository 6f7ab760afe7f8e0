"""launcher=allocation: the step that it starts itself in, and the address that the agents get; programs play Slurm."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pdslurm import config as c
from pdslurm.errors import NotReady, PreflightError
from pdslurm.launchers import allocation
from pdslurm.slurm import jobs

MakeConfig = Callable[..., c.Config]

# What a node of a cloud is to Slurm is not what hostname(1) says. This srun is told on which node it starts what it is given.
SRUN = """#!/bin/bash
echo srun >>"$COUNT"
(($(wc -l <"$COUNT") < 5)) || exit 99
while [[ $1 == --* ]]; do shift; done
SLURMD_NODENAME=$STARTS_ON exec "$@"
"""
LAUNCH = """
import sys
from types import SimpleNamespace
from pdslurm.config import Slurm
from pdslurm.errors import ConfigError
from pdslurm.launchers import allocation
from pdslurm.slurm import jobs
allocation.carry_out = lambda config: "carried out"
jobs.driver_command = lambda *_: ("srun", "--overlap", sys.executable, *sys.orig_argv[1:])
try:
    allocation.launch(SimpleNamespace(cluster=SimpleNamespace(slurm=Slurm())))
except ConfigError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize(
    ("starts_on", "code", "said"),
    [("queue1-dy-p5-1", 0, "carried out"), ("queue1-dy-p5-2", 1, "srun --nodelist=queue1-dy-p5-1 started pdslurm on another node")],
)
def test_pdslurm_starts_itself_once(tmp_path: Path, starts_on: str, code: int, said: str) -> None:
    programs = {
        "srun": SRUN,
        "squeue": "#!/bin/bash\necho 'queue1-dy-p5-[1-2]'\n",
        "scontrol": "#!/bin/bash\n[[ $* == *hostnames* ]] && printf 'queue1-dy-p5-1\\nqueue1-dy-p5-2\\n'\n",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    count = tmp_path / "count"
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "PDSLURM_STEP"))}
    env = outside | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "STARTS_ON": starts_on, "COUNT": str(count)}
    done = subprocess.run([sys.executable, "-c", LAUNCH], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, count.read_text().split()) == (code, ["srun"]), done.stderr
    assert said in done.stdout + done.stderr


NAMES = {"n1": "10.9.0.1", "n2": "10.9.0.2", "debian": "127.0.1.1", "by-addr": "10.9.0.3"}


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names resolve by NAMES, Slurm knows NodeAddr of some, and the way to 10.9.0.x leaves from 10.9.0.1."""

    def resolve(name: str) -> str:
        if name not in NAMES:
            raise socket.gaierror(-2, "Name or service not known")
        return NAMES[name]

    monkeypatch.setattr(socket, "gethostbyname", resolve)
    monkeypatch.setattr(allocation, "address_towards", lambda to: "127.0.0.1" if to.startswith("127.") else "10.9.0.1")
    known = {"debian": {"NodeAddr": "by-addr"}, "no-dns": {"NodeAddr": "by-addr"}, "lost": {"NodeAddr": "lost"}}
    monkeypatch.setattr(jobs, "node_facts", lambda names: {n: known[n] for n in names if n in known})


@pytest.mark.usefixtures("resolver")
@pytest.mark.parametrize(
    ("name", "alone", "expected"),
    [
        ("n2", False, "10.9.0.1"),
        ("debian", True, "127.0.0.1"),
        ("debian", False, "10.9.0.1"),
        ("no-dns", False, "10.9.0.1"),
    ],
)
def test_the_way_to_a_node(name: str, alone: bool, expected: str) -> None:
    assert allocation.address_to_node(name, alone=alone) == expected


@pytest.mark.usefixtures("resolver")
def test_no_way_to_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotReady) as caught:
        allocation.address_to_node("lost", alone=False)
    why = "lost does not resolve to an IPv4 address ([Errno -2] Name or service not known)"
    assert str(caught.value) == f"lost: this node finds no way to it: {why}; {allocation.NAME_NETWORK}"
    monkeypatch.setattr(jobs, "node_facts", lambda _: {})
    with pytest.raises(NotReady, match=r"debian: .*: debian resolves to 127\.0\.1\.1, a loopback; set cluster\.network\.interface"):
        allocation.address_to_node("debian", alone=False)


def test_an_address_by_configuration(make_config: MakeConfig) -> None:
    """No name needs to resolve then; a loopback serves one node only."""
    loopback = make_config({"cluster.network.interface": "lo"})
    assert allocation.own_address(loopback, ("lost",)) == "127.0.0.1"
    with pytest.raises(
        NotReady, match=r"n1: its address 127\.0\.0\.1 is a loopback, which lost cannot reach; set cluster\.network"
    ):
        allocation.own_address(loopback, ("n1", "lost"))
    with pytest.raises(PreflightError, match=r"cluster\.network\.interface=ib77: nothing on .* fits"):
        allocation.own_address(make_config({"cluster.network.interface": "ib77"}), ("n1", "lost"))
