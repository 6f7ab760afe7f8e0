"""From what was read on a node to its findings: each names the thing, its value, what is allowed, what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pdslurm import config as c
from pdslurm.node import findings as f
from pdslurm.node.parallel_commands import CommandResult

MakeConfig = Callable[..., c.Config]
GIB = 2**30
PD = {"topology.prefill": 1, "topology.route": 1}


@pytest.mark.parametrize(
    ("changes", "backends", "connectors", "asked"),
    [
        ({"cluster.kv_backends": ["LIBFABRIC"]}, (), (), []),  # a plain arm moves no KV
        (PD, ("UCX",), ("NixlConnector",), []),
        ({**PD, "cluster.kv_backends": ["LIBFABRIC"]}, ("LIBFABRIC",), ("NixlConnector",), ["cluster.kv_backends=LIBFABRIC"]),
        ({**PD, "topology.kv.extra_config": {"backends": ["GDS"]}}, ("GDS",), ("NixlConnector",), []),
        ({**PD, "topology.kv.connector": "MooncakeConnector"}, (), ("MooncakeConnector",), []),
        ({**PD, "cluster.env": {"UCX_TLS": "rc,cuda_copy,dc_x"}}, ("UCX",), ("NixlConnector",), ["UCX_TLS=dc_x,rc"]),
        ({**PD, "cluster.env": {"UCX_TLS": "tcp,sm"}}, ("UCX",), ("NixlConnector",), []),
        ({**PD, "runtime.env": {"UCX_NET_DEVICES": "mlx5_0:1"}}, ("UCX",), ("NixlConnector",), ["UCX_NET_DEVICES=mlx5_0:1"]),
        ({**PD, "runtime.env": {"UCX_NET_DEVICES": "eth0"}}, ("UCX",), ("NixlConnector",), []),
        ({**PD, "cluster.network.transport": c.Transport.tcp}, ("UCX",), ("NixlConnector",), []),
        ({**PD, "cluster.network.transport": c.Transport.rdma}, ("UCX",), ("NixlConnector",), ["cluster.network.transport=rdma"]),
    ],
)
def test_what_a_configuration_asks_for(
    make_config: MakeConfig, changes: dict[str, Any], backends: tuple[str, ...], connectors: tuple[str, ...], asked: list[str]
) -> None:
    config = make_config(changes)
    assert f.nixl_backends(config) == backends
    assert f.kv_connectors(config) == connectors
    assert f.rdma_fields(config) == asked


@pytest.mark.parametrize(
    ("devices", "findings"),
    [
        ({"/dev/infiniband/uverbs0": True, "/dev/gdrdrv": True}, []),
        ({}, ["UCX_TLS=rc: asks for RDMA, and there is no /dev/infiniband/uverbs*; load the driver (efa, mlx5_ib), or choose TCP",
              "UCX_TLS=rc,gdr_copy: asks for GDRCopy, and there is no /dev/gdrdrv; load gdrdrv, or leave gdr_copy out"]),
        ({"/dev/infiniband/uverbs0": False, "/dev/gdrdrv": True},
         ["/dev/infiniband/uverbs0: UCX_TLS=rc asks for RDMA, and this user may not open it; give it mode 0666"]),
    ],
)  # fmt: skip
def test_fabric(make_config: MakeConfig, devices: dict[str, bool], findings: list[str]) -> None:
    config = make_config({**PD, "cluster.env": {"UCX_TLS": "rc,gdr_copy"}})
    assert list(f.fabric_findings(["UCX_TLS=rc"], devices, config)) == findings


@pytest.mark.parametrize(
    ("limits", "is_found"),
    [
        ({"memlock": None, "ipc_lock": False}, False),
        ({"memlock": 64 * GIB, "ipc_lock": False}, False),
        ({"memlock": 8 * 2**20, "ipc_lock": True}, False),
        ({"memlock": 8 * 2**20, "ipc_lock": False}, True),
    ],
)
def test_memlock(limits: dict[str, Any], is_found: bool) -> None:
    found = list(f.memlock_findings(["UCX_TLS=rc"], limits))
    assert found == [
        "memlock=8192 KiB (ulimit -l): UCX_TLS=rc asks for RDMA, which needs unlimited or at least 16 GiB; set "
        "LimitMEMLOCK=infinity for slurmd and PropagateResourceLimitsExcept=MEMLOCK in slurm.conf"
    ] * is_found  # fmt: skip


@pytest.mark.parametrize(
    ("free", "findings"),
    [
        (None, []),
        (GIB, []),
        (64 * 2**20,
         ["/dev/shm: 0.06 GiB free; engines of 8 GPUs need 0.5; remove what dead processes left there, or mount it larger"]),
    ],
)  # fmt: skip
def test_shared_memory(free: int | None, findings: list[str]) -> None:
    assert list(f.shm_findings(free, 8)) == findings


@pytest.mark.parametrize(
    ("outer", "own", "kind", "is_found"),
    [
        ({}, {}, c.RuntimeKind.bare, False),
        ({"VLLM_PORT": "5000"}, {}, c.RuntimeKind.bare, True),
        ({"VLLM_PORT": "5000"}, {}, c.RuntimeKind.docker, False),
        ({}, {"VLLM_PORT": "5000"}, c.RuntimeKind.docker, True),
    ],
)
def test_engines_choose_no_ports_from_one_number(
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    outer: dict[str, str],
    own: dict[str, str],
    kind: c.RuntimeKind,
    is_found: bool,
) -> None:
    monkeypatch.delenv("VLLM_PORT", raising=False)
    for name, value in outer.items():
        monkeypatch.setenv(name, value)
    found = list(f.port_findings(make_config({"cluster.env": own, "runtime.kind": kind})))
    assert [text.partition(":")[0] for text in found] == ["VLLM_PORT=5000"] * is_found


HUB = {"folder": None, "cache": "/c/hub", "cached": 0, "offline": False}
FOLDER: dict[str, Any] = {"folder": "/m", "config": "abc", "error": None, "weights": 4, "missing": [], "unreadable": []}


@pytest.mark.parametrize(
    ("changes", "found", "findings"),
    [
        pytest.param({}, None, [], id="nobody could look"),
        pytest.param({}, HUB, [], id="vLLM will fetch it"),
        pytest.param({}, {**HUB, "offline": True, "cached": 1}, [], id="in the cache"),
        pytest.param(
            {}, {**HUB, "offline": True},
            ["no folder on this node, nor in /c/hub, and HF_HUB_OFFLINE is set; download it first"], id="nowhere",
        ),
        pytest.param(
            {"model.path": "/m"}, {**HUB, "offline": True},
            ["no such folder on this node; it has to be there under this path on every node"], id="a folder elsewhere",
        ),
        pytest.param({"model.path": "/m"}, FOLDER, [], id="a folder"),
        pytest.param(
            {"model.path": "/m"}, {**FOLDER, "error": "Permission denied"},
            ["config.json there cannot be read on this node (Permission denied)"], id="config.json",
        ),
        pytest.param(
            {"model.path": "/m"}, {**FOLDER, "weights": 0},
            ["no weights there (*.safetensors, *.bin, …); copy them, or use model.engine_args.load_format=dummy"], id="no weights",
        ),
        pytest.param({"model.path": "/m", "model.engine_args": {"load_format": "dummy"}}, {**FOLDER, "weights": 0}, [], id="dummy"),
        pytest.param(
            {"model.path": "/m", "topology.extra_args": ["--load-format=dummy"]}, {**FOLDER, "weights": 0}, [], id="dummy by hand",
        ),
        pytest.param(
            {"model.path": "/m"}, {**FOLDER, "missing": ["a", "b", "c", "d"], "unreadable": ["e"]},
            ["a, b, c and 1 more are not there on this node; copy the model again",
             "e cannot be read or are empty on this node; copy the model again"], id="half a copy",
        ),
    ],
)  # fmt: skip
def test_model(make_config: MakeConfig, changes: dict[str, Any], found: dict[str, Any] | None, findings: list[str]) -> None:
    config = make_config(changes)
    assert list(f.model_findings(config, found)) == [f"model.path={config.model.path}: {text}" for text in findings]


OK = CommandResult(0, "", "")
VERSIONS = {"vllm": "0.32.0"}
LOADED: dict[str, Any] = {"error": None, "plugins": ["LIBFABRIC", "UCX"], "backends": {"UCX": {"error": None, "said": []}}}


@pytest.mark.parametrize(
    ("changes", "probe", "answer", "findings"),
    [
        pytest.param(PD, {"versions": VERSIONS, "connectors": ["NixlConnector"], "nixl": LOADED}, OK, [], id="fine"),
        pytest.param({}, {}, CommandResult(1, "", "a\nModuleNotFoundError: x\n"),
                     ["runtime.python=python: does not run (exit code 1: a / ModuleNotFoundError: x)"], id="no Python"),
        pytest.param({}, {}, CommandResult(None, "", ""),
                     ["runtime.python=python: does not run (no answer within 120 s)"], id="hangs"),
        pytest.param({}, {"versions": {"vllm": None}}, OK,
                     ["runtime.python=python: vLLM is not installed there; run `make setup`, or set PDSLURM_ENGINE"], id="no vLLM"),
        pytest.param(
            {**PD, "topology.kv.connector": "P2pNcclConnector"},
            {"versions": VERSIONS, "connectors": ["MultiConnector", "NixlConnector"]}, OK,
            ["topology.kv.connector=P2pNcclConnector: this vLLM has no such connector; use nixl or one of MultiConnector, "
                 "NixlConnector"], id="a connector that is gone",
        ),
        pytest.param(
            PD,
            {"versions": VERSIONS, "connectors": None, "nixl": {"error": "ImportError: no nixl", "plugins": [], "backends": {}}},
            OK, ["runtime.python=python: NIXL cannot be used there (ImportError: no nixl); install nixl and nixl-cu12 or nixl-cu13 "
                 "for its CUDA"], id="no NIXL",
        ),
        pytest.param(
            PD, {"versions": VERSIONS}, CommandResult(139, "", ""),
            ["runtime.python=python: NIXL cannot be used there (NIXL took the process with it, exit code 139); install nixl and "
             "nixl-cu12 or nixl-cu13 for its CUDA"], id="a crash",
        ),
    ],
)  # fmt: skip
def test_engine(
    make_config: MakeConfig, changes: dict[str, Any], probe: dict[str, Any], answer: CommandResult, findings: list[str]
) -> None:
    assert list(f.engine_findings(make_config(changes), probe, answer)) == findings


@pytest.mark.parametrize(
    ("found", "findings"),
    [
        ({"error": None, "said": []}, []),
        ({"error": None, "said": ["transport 'cuda_ipc' is not available, please use one or more of: tcp"]}, []),
        ({"error": None, "said": ["transports 'rc','cma' are not available, please use: tcp"]},
         ["UCX would do without what it was told to use: transports 'rc','cma' are not available, please use: tcp"]),
        ({"error": None, "said": ["network device 'mlx5_0:1' is not available, please use: 'eth0'(tcp)"]},
         ["UCX would do without what it was told to use: network device 'mlx5_0:1' is not available, please use: 'eth0'(tcp)"]),
        ({"error": "nixlNotFoundError: NIXL_ERR_NOT_FOUND", "said": ["libfabric.so.1: cannot open shared object file"]},
         ["NIXL cannot start it: libfabric.so.1: cannot open shared object file; nixlNotFoundError: NIXL_ERR_NOT_FOUND; this NIXL "
          "has LIBFABRIC"]),
    ],
)  # fmt: skip
def test_backend(found: dict[str, Any], findings: list[str]) -> None:
    assert list(f.backend_findings("UCX", found, ["LIBFABRIC"])) == [f"cluster.kv_backends=UCX: {text}" for text in findings]


@pytest.mark.parametrize(
    ("sent", "said", "received", "findings"),
    [
        (100.0, 100.01, 100.02, []),
        (100.0, 100.9, 100.02, []),
        (100.0, 105.0, 104.5, []),  # a slow way there explains all of it
        (100.0, 103.0, 100.5, ["clock: at least 2.5 s ahead of the driver's; 1 s is allowed, start chrony or ntpd there"]),
        (100.0, 40.0, 100.5, ["clock: at least 60.0 s behind the driver's; 1 s is allowed, start chrony or ntpd there"]),
    ],
)
def test_clock(sent: float, said: float, received: float, findings: list[str]) -> None:
    assert list(f.clock_findings(f.clock_offset(sent, said, received))) == findings


def test_differences() -> None:
    assert f.differences({"vllm": "1", "the GPU driver": "580"}, {"vllm": "1", "the GPU driver": "550"}, "n1") == [
        "the GPU driver is 550, on n1 580"
    ]
