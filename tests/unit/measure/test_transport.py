"""Engines' logs, as UCX of two formats and libfabric write them, against the transports read from them and the mismatches given."""

from __future__ import annotations

import pytest

from pdslurm.measure.transport import kv_paths
from pdslurm.validity.kv_path import KvPath, as_json, kind, mismatches

# UCX 1.23, between two nodes without a fabric; what another process writes in between, and vLLM's own lines.
TCP = """
(EngineCore pid=45) INFO 11-21 08:35:01 [core.py:99] waiting for remote memory read by ucp_get | 0..inf | zero-copy | tcp/eth9 |
[1795250114.351175] [n2:56   :0]   +--------+--------------------+------------------------------------+
[1795250114.351175] [n2:56   :0]   | b9c14f71-62cb-4689-8dfd-7380640 inter-node cfg#1                 |
[1795250114.351180] [n2:57   :0]   | 8dfd7380-62cb-4689-8dfd-7380640 intra-node cfg#2                 |
[1795250114.351175] [n2:56   :0]   | remote memory read by ucp_get*(multi) into host memory from host |
[1795250114.351175] [n2:56   :0]   +--------+--------------------+------------------------------------+
[1795250114.351180] [n2:57   :0]   | active message by ucp_am_send* from host memory                  |
[1795250114.351180] [n2:57   :0]   | 0..inf | zero-copy          | sysv/memory                        |
[1795250114.351175] [n2:56   :0]   | Range  |    Description     |               Config               |
[1795250114.351175] [n2:56   :0]   +--------+--------------------+------------------------------------+
[1795250114.351175] [n2:56   :0]   | 0..inf | software emulation | tcp/eth0                           |
[1795250114.351175] [n2:56   :0]   +--------+--------------------+------------------------------------+
"""
# A worker's own endpoint and a write are no fetches; the second process fetches within its node.
CMA = """
[1795249550.015423] [vm:2793 :0]   | d self cfg#0                                                     |
[1795249550.015423] [vm:2793 :0]   | remote memory read by ucp_get*(multi) into host memory from host |
[1795249550.015423] [vm:2793 :0]   | 0..inf | zero-copy   | tcp/lo                                    |
[1795249550.025423] [vm:2793 :0]   | d intra-node cfg#1                                               |
[1795249550.025423] [vm:2793 :0]   | remote memory write by ucp_put* from host memory to host         |
[1795249550.025423] [vm:2793 :0]   | 0..inf | zero-copy   | tcp/lo                                    |
[1795249550.035423] [vm:2793 :0]   | d intra-node cfg#1                                               |
[1795249550.035423] [vm:2793 :0]   | remote memory read by ucp_get*(multi) into host memory from host |
[1795249550.035423] [vm:2793 :0]   | 0..inf | zero-copy   | cma/memory                                |
"""
# The older format, one header row with two cells; two rails; other lanes for what is smaller than a KV block.
RDMA = """
[1722588785.780170] [h1:6550:3]   +---------------------------+------------------------------------------------------+
[1722588785.780173] [h1:6550:3]   | ctx inter-node cfg#2 | remote memory read by ucp_get*(multi) into cuda/GPU0 from cuda |
[1722588785.780176] [h1:6550:3]   +---------------------------+--------------------+---------------------------------+
[1722588785.780178] [h1:6550:3]   |                         0 | copy-out           | tcp/eth0                        |
[1722588785.780179] [h1:6550:3]   |                    1..255 | software emulation | ud_mlx5/mlx5_1:1                |
[1722588785.780180] [h1:6550:3]   |                   256..2K | zero-copy          | rc_mlx5/mlx5_0:1/path0          |
[1722588785.780181] [h1:6550:3]   |  2049..inf | zero-copy          | 50% on rc_mlx5/mlx5_0:1 and 50% on rc_mlx5/mlx5_1:1 |
[1722588785.780182] [h1:6550:3]   +---------------------------+--------------------+---------------------------------+
[1722588785.780190] [h1:6550:3]   | ctx inter-node cfg#2 | active message by ucp_am_send* from host memory                |
[1722588785.780191] [h1:6550:3]   |                    0..inf | multi-frag copy-in | tcp/eth0                        |
"""
IPC = """
[1.0] [h1:1:0]   | a intra-node cfg#1                                                     |
[1.0] [h1:1:0]   | remote memory read by ucp_get*(multi) into cuda/GPU0 from cuda/dev[1]  |
[1.0] [h1:1:0]   | 0..inf | zero-copy | cuda_ipc/cuda                                       |
"""
STAGED = """
[1.0] [h1:1:0]   | a inter-node cfg#1                                                     |
[1.0] [h1:1:0]   | remote memory read by ucp_get*(multi) into cuda/GPU0 from cuda/dev[1]  |
[1.0] [h1:1:0]   | 0..inf | software emulation | cuda_copy/cuda, tcp/eth1                   |
"""
EFA = """
libfabric:316582:1795249765::core:core:ofi_register_provider():526<info> registering provider: tcp (204.0)
libfabric:316582:1795249765::core:core:fi_fabric_():1588<info> Opened fabric: efa-direct
libfabric:316582:1795249765::core:core:fi_fabric_():1588<info> Opened fabric: efa-direct
"""
SOCKETS = "libfabric:7211:1795249765::core:core:fi_fabric_():1431<info> Opened fabric: 10.0.0.0/16\n"
INTER, INTRA = "inter-node", "intra-node"


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        pytest.param("", [], id="nothing"),
        pytest.param(TCP, [KvPath(INTER, ("tcp/eth0",), "software emulation")], id="TCP"),
        pytest.param(CMA, [KvPath(INTRA, ("cma/memory",), "zero-copy")], id="within a node"),
        pytest.param(TCP + CMA, [KvPath(INTER, ("tcp/eth0",), "software emulation"), KvPath(INTRA, ("cma/memory",), "zero-copy")],
                     id="both"),
        pytest.param(RDMA, [KvPath(INTER, ("rc_mlx5/mlx5_0:1",), "zero-copy"),
                            KvPath(INTER, ("rc_mlx5/mlx5_0:1", "rc_mlx5/mlx5_1:1"), "zero-copy")], id="RDMA, older format"),
        pytest.param(STAGED, [KvPath(INTER, ("cuda_copy/cuda", "tcp/eth1"), "software emulation")], id="GPU memory over TCP"),
        pytest.param(EFA, [KvPath(None, ("libfabric/efa-direct",), "opened")], id="EFA"),
        pytest.param(SOCKETS, [KvPath(None, ("libfabric/10.0.0.0/16",), "opened")], id="libfabric over TCP"),
    ],
)  # fmt: skip
def test_kv_paths(log: str, expected: list[KvPath]) -> None:
    assert list(kv_paths(log.splitlines(keepends=True))) == expected


@pytest.mark.parametrize(
    ("lane", "expected"),
    [
        ("tcp/eth0", "tcp"), ("rc_mlx5/mlx5_0:1", "rdma"), ("dc_mlx5/mlx5_bond_0:1", "rdma"), ("rc_verbs/irdma0:1", "rdma"),
        ("gga_mlx5/mlx5_0:1", "rdma"), ("srd/rdmap79s0-rdma:1", "efa"), ("ud_verbs/rdmap79s0-rdma:1", "efa"), ("cma/memory", "shm"),
        ("sysv/memory", "shm"), ("cuda_ipc/cuda", "shm"), ("rocm_ipc/rocm_ipc", "shm"), ("cuda_copy/cuda", "copy"),
        ("gdr_copy/cuda", "copy"), ("quantum/q0", "quantum"), ("libfabric/efa", "efa"), ("libfabric/cxi", "rdma"),
        ("libfabric/IB-0xfe80000000000000", "rdma"), ("libfabric/shm", "shm"), ("libfabric/10.78.0.0/24", "tcp"),
        ("libfabric/fe80::/64", "tcp"), ("libfabric/odd", "odd"),
    ],
)  # fmt: skip
def test_kind(lane: str, expected: str) -> None:
    assert kind(lane) == expected


@pytest.mark.parametrize(
    ("log", "asked", "expected"),
    [
        pytest.param("", "any", [], id="nothing asked"),
        pytest.param(TCP, "any", [], id="anything will do"),
        pytest.param(TCP, "tcp", [], id="TCP as asked"),
        pytest.param(TCP, "rdma", ["rdma: engine1 fetched KV over tcp/eth0"], id="TCP for RDMA"),
        pytest.param(SOCKETS, "efa", ["efa: engine1 fetched KV over libfabric/10.0.0.0/16"], id="no EFA"),
        pytest.param(STAGED, "rdma", ["rdma: engine1 fetched KV over tcp/eth1"], id="a copy is no transport"),
        pytest.param(RDMA, "rdma", [], id="RDMA"),
        pytest.param(RDMA + TCP, "rdma", ["rdma: engine1 fetched KV over tcp/eth0"], id="one of two"),
        pytest.param(EFA, "efa", [], id="EFA"),
        pytest.param(EFA, "tcp", ["tcp: engine1 fetched KV over libfabric/efa-direct"], id="EFA for TCP"),
        pytest.param(IPC, "rdma", [], id="NVLink within a node is as good"),
        pytest.param(IPC, "shm", [], id="memory asked"),
        pytest.param(TCP, "shm", ["shm: engine1 fetched KV over tcp/eth0"], id="TCP for memory"),
        pytest.param(CMA.replace("cma/memory", "tcp/lo    "), "rdma", ["rdma: engine1 fetched KV over tcp/lo"],
                     id="TCP within a node is not"),
        pytest.param("", "rdma", ["rdma: the log of engine1 does not tell what it fetched KV over"], id="unknown"),
    ],
)  # fmt: skip
def test_reasons(log: str, asked: str, expected: list[str]) -> None:
    found = {"engine1": kv_paths(log.splitlines())}
    assert list(mismatches(found, asked)) == [f"cluster.network.transport={text}" for text in expected]


def test_report() -> None:
    found = {"engine1": kv_paths(TCP.splitlines()), "engine2": kv_paths((RDMA + IPC).splitlines())}
    told = as_json(found)
    assert told["kinds"] == ["rdma", "shm", "tcp"]
    assert told["engines"]["engine1"] == [{"peer": INTER, "lanes": ("tcp/eth0",), "how": "software emulation"}]
    told = as_json({**found, "engine3": ()})
    assert told["kinds"] is None, "as soon as one is unknown"
    assert told["engines"]["engine3"] is None
