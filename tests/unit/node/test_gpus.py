"""nvidia-smi's words: what it printed on four H200s (driver 580), and the forms that NVIDIA documents for what cannot be told."""

from __future__ import annotations

import pytest

from pdslurm.node.gpus import (
    APP_FIELDS,
    GPU_FIELDS,
    Gpu,
    GpuProcess,
    busy,
    chosen,
    clocks_in,
    during,
    gpus_in,
    processes_in,
    query,
    states_in,
    throttle_reasons,
    throttled,
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
        ("", ()),
    ],
)  # fmt: skip
def test_gpus_in(text: str, found: tuple[Gpu, ...] | None) -> None:
    if found is None:
        with pytest.raises(ValueError, match=text.splitlines()[0]):
            gpus_in(text)
    else:
        assert gpus_in(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        ("No running processes found\n", ()),
        ("GPU-a0, 4242, 71680, /usr/bin/python3\nGPU-a1, 7, [N/A], VLLM::EngineCore, rank 3\n",
         (GpuProcess("GPU-a0", 4242, 71680, "/usr/bin/python3"), GpuProcess("GPU-a1", 7, None, "VLLM::EngineCore, rank 3"))),
        ("GPU-a0, 99, [Insufficient Permissions], [Not Found]\n", (GpuProcess("GPU-a0", 99, None, "[Not Found]"),)),
    ],
)  # fmt: skip
def test_processes_in(text: str, found: tuple[GpuProcess, ...]) -> None:
    assert processes_in(text) == found


@pytest.mark.parametrize(
    ("mask", "names"),
    [
        ("0x0000000000000000", []), ("0x0000000000000001", ["idle"]), ("0x0000000000000044", ["power cap", "HW thermal"]),
        ("0x0000000000001008", ["HW slowdown", "0x1000"]), ("[N/A]", None), ("Active", None),
    ],
)  # fmt: skip
def test_throttle_reasons(mask: str, names: list[str] | None) -> None:
    assert throttle_reasons(mask) == names


def test_states_are_facts_and_an_older_driver_gives_none() -> None:
    assert states_in("0, 345, 1980, 31, Enabled, 0x0000000000000001\n") == [
        {"gpu": 0, "sm_mhz": 345, "max_sm_mhz": 1980, "temperature_c": 31, "persistence": True, "clocks_held_by": ["idle"]}
    ]
    assert states_in('Field "clocks_throttle_reasons.active" is not a valid field to query.\n') == []


@pytest.mark.parametrize(
    ("needs", "given", "indices"),
    [(2, None, [0, 1]), (9, None, [0, 1, 2, 3]), (2, "2,3", [2, 3]), (1, "3,1", [3]), (2, "GPU-a1,GPU-a0", [0, 1]), (2, "7", [])],
)
def test_chosen(needs: int, given: str | None, indices: list[int]) -> None:
    assert [g.index for g in chosen([gpu(n) for n in range(4)], needs, given)] == indices


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
            [gpu(3, used=71780)], [],
            ["GPU 3 is busy: 70.1 of 140.4 GiB are in use by no process that can be seen from here (a container's, or one that "
             "died a moment ago); find it on the host, or use another node"], id="memory without a process",
        ),
        pytest.param(
            [gpu(2, used=None, mig=True)], [],
            ["GPU 2: MIG is on, and engines take whole GPUs; `nvidia-smi -i 2 -mig 0` turns it off"], id="MIG",
        ),
    ],
)  # fmt: skip
def test_busy(gpus: list[Gpu], processes: list[GpuProcess], findings: list[str]) -> None:
    assert list(busy(gpus, processes, {4242: "alice"}.get)) == findings


STATES = """\
0, 1980, 1980, 61, Enabled, 0x0000000000000004, 120, {hot}, 0, 9000000
1, [N/A], [N/A], [N/A], Disabled, 0x0000000000000060, [N/A], [N/A], [N/A], [N/A]
"""


def test_clocks_with_the_driver_s_counters() -> None:
    first, second = clocks_in(STATES.format(hot=5))
    assert first["clocks_held_by"] == ["power cap"]
    assert first["slowed_us"] == {"SW thermal": 120, "HW thermal": 5, "HW power brake": 0, "power cap": 9_000_000}
    assert (second["sm_mhz"], set(second["slowed_us"].values())) == (None, {None})
    assert clocks_in('Field "clocks_event_reasons_counters.sw_power_cap" is not a valid field to query.') == []
    assert clocks_in("0, 1980, 1980, 61, Enabled, 0x0000000000000004") == []


def test_what_slowed_a_gpu_during_a_point() -> None:
    before, after = clocks_in(STATES.format(hot=5)), clocks_in(STATES.format(hot=2_000_005))
    during_it = during(before, after)
    assert during_it[0]["slowed_s"] == {"SW thermal": 0, "HW thermal": 2, "HW power brake": 0, "power cap": 0}
    assert during_it[1]["slowed_s"] is None
    assert list(throttled(during_it, 100.0)) == [
        "GPU 0 was slowed by HW thermal for 2 of 100 s",
        "GPU 1 was slowed by SW thermal",
        "GPU 1 was slowed by HW thermal",
    ]
    assert list(throttled(during_it[:1], 201.0)) == [], "below 1 % of the time"
    assert during(before[:1], after[1:]) == [], "a GPU that was read once"


def test_clocks_of_a_driver_without_counters() -> None:
    (state,) = states_in("3, 345, 1980, 88, Enabled, 0x0000000000000001\n")
    assert during([state], [state])[0]["slowed_s"] is None
    assert list(throttled(during([state], [state]), 10.0)) == []
