"""Containers in the lab: each node has a Docker and a podman of its own, whose containers end with the node and are seen."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster import leftovers
from tests.cluster.configuration import podman_cgroups
from tests.cluster.lab import Lab, missing

pytestmark = pytest.mark.cluster


@pytest.fixture
def lab_with_containers(make_lab: Callable[..., Lab]) -> Lab:
    """Two nodes, on which docker and podman have an image `tiny` of a shell and `sleep`, made from this machine's."""
    lacks = missing("containers")
    if lacks:
        pytest.skip(f"no tests of containers on a cluster: this lacks {lacks}")
    lab = make_lab(nodes=2, docker=True)
    programs = "/bin/sh /bin/sleep /bin/hostname"
    pack = f"tar -ch {programs} $(ldd {programs} | grep -o '/lib[^ ]*' | sort -u) >{lab.scratch}/tiny.tar"
    subprocess.run(["sh", "-c", pack], check=True, capture_output=True)
    for node in lab.nodes:
        for engine in ("docker", "podman"):
            lab.run(node, [engine, "import", str(lab.scratch / "tiny.tar"), "tiny"], 60)
    return lab


def cgroups() -> set[str]:
    folders = (Path(path) for path, _, _ in os.walk("/sys/fs/cgroup"))
    return {folder.name for folder in folders}


def test_containers(lab_with_containers: Lab) -> None:
    lab = lab_with_containers
    privileged = ["--net=host", "--privileged", "--ulimit=memlock=-1", "--gpus=all"]
    hosts = lab.run("ctl", ["srun", "-N2", "docker", "run", "--rm", *privileged, "tiny", "hostname"], 60).stdout
    assert sorted(hosts.split()) == ["n1", "n2"]
    hosts = lab.run("ctl", ["srun", "-N2", "podman", "run", "--rm", "--net=host", "tiny", "hostname"], 60).stdout
    assert sorted(hosts.split()) == ["n1", "n2"]

    assert leftovers.since(lab, (), patience_s=5) == ()
    for engine in ("docker", "podman"):
        lab.run("n1", [engine, "run", "-d", "--net=host", f"--name={engine}s", "tiny", "sleep", "100"], 60)
    both = (("docker", "dockers"), ("podman", "podmans"))
    lab.wait_for("both containers", lambda: lab.containers("n1") == both, timeout_s=10)
    assert lab.containers("n2") == ()
    lab.wait_for("both to sleep", lambda: [line for _, line in lab.processes("n1")].count("sleep 100") == 2, timeout_s=10)
    left = leftovers.since(lab, (), patience_s=0)
    assert {leftover.key for leftover in left if leftover.kind == "container"} == {"dockers", "podmans"}

    lab.crash("n1")
    lab.boot("n1")
    lab.wait_idle()
    assert lab.processes("n1") == ()
    assert lab.containers("n1") == both  # on disk, not running
    leftovers.restore(lab, left)
    assert leftovers.since(lab, (), patience_s=5) == ()

    lab.run("n2", ["docker", "run", "-d", "--net=host", "tiny", "sleep", "100"], 60)
    lab.run("n2", ["podman", "run", "-d", "--net=host", "tiny", "sleep", "100"], 60)
    theirs = {lab.cluster.cgroup, *podman_cgroups(lab.cluster)}
    assert len(theirs & cgroups()) == 2
    lab.down()
    assert not theirs & cgroups()
