"""The preflight of this machine with the real engine: NIXL's back ends start or say why not, and it costs little."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pdslurm import config as c
from pdslurm.node.engine_env import EngineEnv
from pdslurm.node.node_check import NodeReport, check_node

pytestmark = pytest.mark.engine
MakeConfig = Callable[..., c.Config]
CPU_S = 8.0  # 3.3 s were seen: NIXL's imports, the router's, and two guards


@pytest.fixture
def check(make_config: MakeConfig, engine: Path, tmp_path: Path) -> Callable[..., NodeReport]:
    """check(["UCX"], UCX_TLS="tcp"): the report on this machine for a P/D plan with these back ends and this environment."""

    def run(backends: list[str], *, connector: str = "nixl", **env: str) -> NodeReport:
        config = make_config({
            "cluster.one_host": True, "cluster.device": c.Device.cpu, "topology.nodes": 1, "topology.prefill": 1,
            "topology.kv.extra_config": {"backends": backends}, "topology.kv.connector": connector, "cluster.env": env,
        })  # fmt: skip
        config.runtime.vllm, config.runtime.router = [f"{engine}/bin/vllm"], [f"{engine}/bin/vllm-router"]
        config.runtime.python = [f"{engine}/bin/python"]
        return check_node(config, 1, EngineEnv(config.runtime), run_dir=tmp_path)

    return run


def cpu_s() -> float:
    """Of all children that ended, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_ucx_loads_and_the_check_costs_little(check: Callable[..., NodeReport]) -> None:
    before = cpu_s()
    report = check(["UCX"])
    used = cpu_s() - before
    print(f"preflight of this machine: {used:.1f} s of CPU", file=sys.stderr)
    assert report.findings == ()
    assert report.versions["vllm"]
    assert report.versions["nixl"]
    assert report.facts["nixl"] == {"UCX": {"error": None, "said": []}}
    assert used < CPU_S


def test_back_ends_that_do_not_start_say_why(check: Callable[..., NodeReport]) -> None:
    unknown, libfabric, fabric = check(["NOSUCH", "UCX", "LIBFABRIC"]).findings
    assert unknown.startswith("cluster.kv_backends=NOSUCH: NIXL cannot start it: Plugin file does not exist: libplugin_NOSUCH.so")
    assert "UCX" in unknown.partition("this NIXL has ")[2]
    assert libfabric.startswith(
        "cluster.kv_backends=LIBFABRIC: NIXL cannot start it: Failed to load plugin from libplugin_LIBFABRIC.so"
    )
    assert "cannot open shared object file" in libfabric, "which library is missing"
    assert fabric.startswith("cluster.kv_backends=LIBFABRIC: asks for RDMA, and there is no /dev/infiniband/uverbs*")


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"UCX_TLS": "rc"}, "NIXL cannot start it: transport 'rc' is not available"),
        ({"UCX_TLS": "rc,tcp,sm,self"}, "UCX would do without what it was told to use: transport 'rc' is not available"),
        (
            {"UCX_NET_DEVICES": "lo,nosuch0"},
            "UCX would do without what it was told to use: network device 'nosuch0' is not available",
        ),
    ],
)
def test_ucx_without_what_it_was_told_to_use(check: Callable[..., NodeReport], env: dict[str, str], said: str) -> None:
    assert check(["UCX"], **env).findings[0].startswith(f"cluster.kv_backends=UCX: {said}")


def test_a_connector_that_this_vllm_does_not_have(check: Callable[..., NodeReport]) -> None:
    (finding,) = check([], connector="P2pNcclConnector").findings
    assert finding.startswith("topology.kv.connector=P2pNcclConnector: this vLLM has no such connector; use nixl or one of ")
    assert "NixlConnector" in finding
