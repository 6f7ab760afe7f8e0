"""nvidia-smi's words: what it printed on four H200s (driver 580), and the forms that NVIDIA documents for what cannot be told."""

from __future__ import annotations

import re

import pytest

from pdslurm.errors import PreflightError
from pdslurm.node.gpus import (
    APP_FIELDS,
    GPU_FIELDS,
    Gpu,
    GpuProcess,
    busy_findings,
    parse_gpus,
    parse_processes,
    query,
    select_gpus,
    visible_gpus,
)

H200 = """\
0, GPU-a0, NVIDIA H200, 143771, 0, 580.159.04, Disabled
1, GPU-a1, NVIDIA H200, 143771, 4, 580.159.04, Disabled
"""
RTX3090 = "0, GPU-b0, NVIDIA GeForce RTX 3090, 24576, 309, 550.54.15, [N/A]\n"


def gpu(index: int = 0, *, used: int | None = 0, mig: bool = False) -> Gpu:
    return Gpu(index, f"GPU-a{index}", "NVIDIA H200", 143771, used, "580.159.04", mig)


def test_the_commands() -> None:
    assert query("compute-apps", APP_FIELDS) == (
        "nvidia-smi", "--query-compute-apps=gpu_uuid,pid,used_memory,process_name", "--format=csv,noheader,nounits",
    )  # fmt: skip
    assert query("gpu", GPU_FIELDS[:2])[1] == "--query-gpu=index,uuid"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (H200, (gpu(0), gpu(1, used=4))),
        (RTX3090, (Gpu(0, "GPU-b0", "NVIDIA GeForce RTX 3090", 24576, 309, "550.54.15", False),)),
        ("0, GPU-a0, NVIDIA H200, [N/A], [N/A], 580.159.04, Enabled\n",
         (Gpu(0, "GPU-a0", "NVIDIA H200", None, None, "580.159.04", True),)),
        ("No devices were found\n", None),
        ("Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.159\n", None),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is "
         "installed and running.\n", None),
        ("Unable to determine the device handle for GPU 0000:41:00.0: GPU is lost.  Reboot the system to recover this GPU\n", None),
        ("index, uuid, name, memory.total [MiB], memory.used [MiB], driver_version, mig.mode.current\n", None),
        ("0, GPU-a0, NVIDIA H200, 143771, 0, 580.1", None),  # cut off
        ("1, [Unknown Error], [Unknown Error], 143771, [GPU is lost], 580.159.04, [N/A]\n",
         (Gpu(1, "[Unknown Error]", "[Unknown Error]", 143771, None, "580.159.04", False, "[Unknown Error]"),)),
        ("1, GPU-a1, NVIDIA H200, 143771, ERR!, 580.159.04, Disabled\n",
         (Gpu(1, "GPU-a1", "NVIDIA H200", 143771, None, "580.159.04", False, "ERR!"),)),
        ("", ()),
    ],
)  # fmt: skip
def test_parse_gpus(text: str, found: tuple[Gpu, ...] | None) -> None:
    if found is None:
        with pytest.raises(ValueError, match=re.escape(text.splitlines()[0])):
            parse_gpus(text)
    else:
        assert parse_gpus(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        ("No running processes found\n", ()),
        ("GPU-a0, 4242, 71680, /usr/bin/python3\nGPU-a1, 7, [N/A], VLLM::EngineCore, rank 3\n",
         (GpuProcess("GPU-a0", 4242, 71680, "/usr/bin/python3"), GpuProcess("GPU-a1", 7, None, "VLLM::EngineCore, rank 3"))),
        ("GPU-a0, [N/A], 10, python3\n", (GpuProcess("GPU-a0", None, 10, "python3"),)),
        ("Unknown Error, Unknown Error, Unknown Error, Unknown Error\n", ()),
        ("GPU-a0, 99, [Insufficient Permissions], [Not Found]\n", (GpuProcess("GPU-a0", 99, None, "[Not Found]"),)),
    ],
)  # fmt: skip
def test_parse_processes(text: str, found: tuple[GpuProcess, ...]) -> None:
    assert parse_processes(text) == found


@pytest.mark.parametrize(
    ("needs", "given", "indices"),
    [
        (2, None, [0, 1]), (9, None, [0, 1, 2, 3]), (2, "2,3", [2, 3]), (1, "3,1", [3]), (2, " 3 , 2 ", [3, 2]),
        (2, "GPU-a1,GPU-a0", [1, 0]), (1, "GPU-a2", [2]), (1, "GPU-a", []), (2, "GPU-a2,GPU-a2", []), (2, "1,1", []),
        (2, "7", []), (2, "1,7,2", [1]), (2, "1,-1,2", [1]), (2, "-1", []), (2, "", []), (2, "NoDevFiles", []),
        (2, "0,GPU-a1", [0]), (2, "MIG-a1,MIG-a2", []), (4, "0,1,2", [0, 1, 2]),
    ],
)  # fmt: skip
def test_select_gpus(needs: int, given: str | None, indices: list[int]) -> None:
    assert [g.index for g in select_gpus([gpu(n) for n in range(4)], needs, given)] == indices


@pytest.mark.parametrize(
    ("planned", "given", "expected"),
    [
        ([0, 1, 2, 3], None, ["0", "1", "2", "3"]),
        ([0, 1], "0,1,2,3,4,5,6,7", ["0", "1"]),
        ([0, 1], "4,5,6,7", ["4", "5"]),
        ([2, 3], "4,5,6,7", ["6", "7"]),  # the second of two nodes that share a host
        ([3], "GPU-a,GPU-b,GPU-c,GPU-d", ["GPU-d"]),
        ([6, 7], "0,1", "leaves 2 GPUs of this node, and the plan needs 8 here; name 8 by number or UUID, each once"),
        ([0], "", "CUDA_VISIBLE_DEVICES=: leaves no GPU of this node, and the plan needs 1 here"),
        ([0, 1], "3,-1", "CUDA_VISIBLE_DEVICES=3,-1: leaves 1 GPU of this node, and the plan needs 2 here"),
        ([0], "MIG-d", "leaves no GPU of this node .MIG names a part of a GPU, and engines take whole GPUs., and the plan needs 1"),
    ],
)
def test_the_plans_gpus_are_those_that_this_process_was_given(
    planned: list[int], given: str | None, expected: list[str] | str
) -> None:
    if isinstance(expected, list):
        assert visible_gpus(planned, given) == expected
    else:
        with pytest.raises(PreflightError, match=expected):
            visible_gpus(planned, given)


@pytest.mark.parametrize(
    ("gpus", "processes", "findings"),
    [
        pytest.param([gpu(0), gpu(1, used=600)], [], [], id="an idle driver keeps a little for itself"),
        pytest.param([gpu(0)], [GpuProcess("GPU-a1", 1, 9, "x")], [], id="another GPU's process is none of ours"),
        pytest.param(
            [gpu(0), gpu(1, used=71780)], [GpuProcess("GPU-a1", 4242, 71680, "python3")],
            ["GPU 1 is busy: python3 (pid 4242, of alice) holds 70.0 GiB of it; end it, or use another node"], id="a process",
        ),
        pytest.param(
            [gpu(0)], [GpuProcess("GPU-a0", 9, None, "python3")],
            ["GPU 0 is busy: python3 (pid 9, whose owner cannot be seen from here) uses it; end it, or use another node"],
            id="of another PID namespace",
        ),
        pytest.param(
            [gpu(0)], [GpuProcess("GPU-a0", None, 10, "python3")],
            ["GPU 0 is busy: python3 (of a pid that nvidia-smi does not tell, whose owner cannot be seen from here) holds 0.0 GiB "
             "of it; end it, or use another node"],
            id="no pid",
        ),
        pytest.param(
            [gpu(3, used=71780)], [],
            ["GPU 3 is busy: 70.1 of 140.4 GiB are in use by no process that can be seen from here (a container's, or one that "
             "died a moment ago); find it on the host, or use another node"], id="memory without a process",
        ),
        pytest.param(
            [gpu(2, used=None, mig=True)], [],
            ["GPU 2: MIG is on, and engines take whole GPUs; `nvidia-smi -i 2 -mig 0` turns it off"], id="MIG",
        ),
        pytest.param(
            [Gpu(3, "GPU-a3", "NVIDIA H200", 143771, None, "580.159.04", False, "[GPU is lost]")], [],
            ["GPU 3: nvidia-smi says [GPU is lost] of it; the driver or a GPU is out of order, use another node and tell the "
             "administrator"], id="lost",
        ),
    ],
)  # fmt: skip
def test_busy(gpus: list[Gpu], processes: list[GpuProcess], findings: list[str]) -> None:
    assert list(busy_findings(gpus, processes, {4242: "alice"}.get)) == findings
