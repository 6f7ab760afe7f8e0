"""The doctor's command line and its table."""

from __future__ import annotations

import re

import pytest

from pdslurm.doctor import arguments
from pdslurm.node.node_check import NodeReport
from pdslurm.node.node_table import format_table

ONLY = "launcher.only_preflight=true"


@pytest.mark.parametrize(
    ("argv", "job", "called"),
    [
        (["experiment=demo"], None, ["experiment=demo", "launcher=local", ONLY]),
        (["experiment=demo"], "7", ["experiment=demo", "launcher=allocation", ONLY]),
        (["launcher=slurm", "experiment=demo"], "7", ["launcher=slurm", "experiment=demo", ONLY]),
    ],
)
def test_arguments(argv: list[str], job: str | None, called: list[str]) -> None:
    assert arguments(argv, {"SLURM_JOB_ID": job} if job else {}) == called


def test_a_plan_cannot_be_checked() -> None:
    with pytest.raises(SystemExit, match="launcher=plan runs nothing; use launcher=local, allocation or slurm"):
        arguments(["launcher=local", "launcher=plan"], {})


def test_the_table() -> None:
    gib = 2**30
    facts = {
        "gpu_names": ["NVIDIA H200"] * 8, "driver": "580.159.04", "shm_free": 64 * gib,
        "free": {"run_dir=/r": 70 * gib, "/tmp": 5 * gib},
        "devices": {"/dev/infiniband/uverbs0": True, "/dev/infiniband/uverbs1": True, "/dev/gdrdrv": True},
        "limits": {"memlock": None, "ipc_lock": False}, "nixl": {"UCX": {"error": None, "said": []}},
    }  # fmt: skip
    bare = {"limits": {"memlock": 8 * 2**20, "ipc_lock": False}, "nixl": {"LIBFABRIC": {"error": "x", "said": []}}}
    versions = {"vllm": "0.32.0", "nixl": "1.5.1", "vllm-router": "0.1.17", "torch": "2.13.0"}
    lines = format_table({"n1": NodeReport((), versions, facts), "n2": NodeReport(("a", "b"), {}, bare)}).splitlines()
    assert len({line.index(word) for line, word in zip(lines, ("NIXL", "UCX", "LIBFABRIC"), strict=True)}) == 1, "columns"
    assert [re.split("  +", line) for line in lines] == [
        ["node", "GPUs", "driver", "fabric", "memlock", "free: run, tmp, shm", "NIXL", "engine", "found"],
        ["n1", "8 × NVIDIA H200", "580.159.04", "2 uverbs, gdrdrv", "unlimited", "70.0, 5.0, 64.0 GiB", "UCX",
         "vllm 0.32.0 nixl 1.5.1 vllm-router 0.1.17", "nothing"],
        ["n2", "-", "-", "-", "8192 KiB", "- GiB", "LIBFABRIC: fails", "-", "2 finding(s)"],
    ]  # fmt: skip
