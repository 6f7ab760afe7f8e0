"""The preflight of this machine with a stand-in for the engine, and with something that an earlier run really left."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pdslurm import config as c
from pdslurm.node import guard
from pdslurm.node.engine_env import EngineEnv
from pdslurm.node.leftovers import leftover_findings, processes_here
from pdslurm.node.node_check import NodeReport, check_node
from tests.stand_ins import write_vllm

MakeConfig = Callable[..., c.Config]


@pytest.fixture
def check(make_config: MakeConfig, tmp_path: Path) -> Callable[..., NodeReport]:
    """check(["UCX"]): the report on this machine for a P/D plan with these back ends."""

    def run(backends: list[str]) -> NodeReport:
        config = make_config({
            "cluster.one_host": True, "cluster.device": c.Device.cpu, "topology.nodes": 1, "topology.prefill": 1,
            "topology.kv.extra_config": {"backends": backends},
        })  # fmt: skip
        config.runtime.vllm = config.runtime.python = [sys.executable]
        config.runtime.router = ["true"]
        config.runtime.env = {"PYTHONPATH": str(write_vllm(tmp_path / "stand-in"))}
        return check_node(config, 1, EngineEnv(config.runtime), run_dir=tmp_path)

    return run


def test_nothing_to_find(check: Callable[..., NodeReport]) -> None:
    began = time.monotonic()
    report = check(["UCX"])
    assert report.findings == ()
    assert report.versions["vllm"] == "0.0.0"
    assert report.facts["nixl"] == {"UCX": {"error": None, "said": []}}
    assert time.monotonic() - began < 5.0


def test_nixl_may_take_its_process_with_it(check: Callable[..., NodeReport]) -> None:
    (finding,) = check(["UCX", "CRASH"]).findings
    assert finding.startswith(
        f"runtime.python={sys.executable}: NIXL cannot be used there (NIXL took the process with it, exit code 134"
    )


def test_a_back_end_that_is_not_there(check: Callable[..., NodeReport]) -> None:
    assert check(["NOSUCH"]).findings == (
        "cluster.kv_backends=NOSUCH: NIXL cannot start it: KeyError: 'NOSUCH'; this NIXL has CRASH, UCX",
    )


def test_a_home_and_a_temporary_folder_that_are_not_there(
    check: Callable[..., NodeReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/proc/none")
    for name in ("XDG_CACHE_HOME", "TRITON_HOME", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", "/proc/none")
    monkeypatch.setattr(tempfile, "tempdir", None)  # what an earlier test's TMPDIR was
    report = check(["UCX"])
    (finding,) = report.findings
    assert finding.startswith("HOME=/proc/none: engines keep what they compile below /proc, which cannot be written on this node (")
    assert finding.endswith("; name another folder by VLLM_CACHE_ROOT and TRITON_CACHE_DIR")
    (note,) = report.notes
    assert note == f"TMPDIR=/proc/none: no such folder on this node; pdslurm and its engines use {tempfile.gettempdir()} there"
    assert report.facts["notes"] == [note]


def test_a_temporary_folder_whose_name_is_too_long_for_sockets(
    check: Callable[..., NodeReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("t" * 60)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (finding,) = check(["UCX"]).findings
    assert finding.startswith(f"TMPDIR={folder}: has {len(str(folder))} bytes, and 36 are allowed: engines make sockets below it")
    monkeypatch.setenv("VLLM_RPC_BASE_PATH", "/tmp")
    assert check(["UCX"]).findings == ()


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[int]:
    """The pid of a process with a session of its own whose guard was killed."""
    code = """if 1:
        import os, sys, time
        if os.fork(): time.sleep(60)
        os.setsid()
        open(sys.argv[1], 'w').write(str(os.getpid()))
        time.sleep(60)"""
    command = [sys.executable, "-S", guard.__file__, "1", sys.executable, "-S", "-c", code, str(tmp_path / "pid")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env={"TMPDIR": str(tmp_path)}) as popen:
        deadline = time.monotonic() + 20
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        pid = int((tmp_path / "pid").read_text())
        assert not any(text.startswith(f"process {pid} ") for text in leftover_findings(processes_here())), "its guard lives"
        popen.send_signal(signal.SIGKILL)
    yield pid
    if psutil.pid_exists(pid):
        psutil.Process(pid).kill()


def test_what_an_earlier_run_left_is_found(check: Callable[..., NodeReport], orphan: int) -> None:
    found = [text for text in check(["UCX"]).findings if text.startswith(f"process {orphan} ")]
    assert len(found) == 1
    assert found[0].endswith(f"is left of an earlier run of yours; end it with `kill -KILL {orphan}`")
