"""What GPUs do during a point: from looks of NVML or nvidia-smi to means over the point. The libraries are stand-ins here."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from pdslurm.node import gpu_use
from pdslurm.node.gpu_use import GpuUse, Look, find_source, nvml_source, smi_source, use_during


class NVMLError(Exception):
    pass


class Nvml(SimpleNamespace):
    """pynvml of two GPUs; the second one tells no energy and no reasons."""

    NVMLError, NVML_CLOCK_SM = NVMLError, 1

    def __getattr__(self, name: str) -> Callable[..., Any]:
        told: dict[str, Callable[..., Any]] = {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}abc",
            "nvmlDeviceGetClockInfo": lambda handle, _: 1500 + handle,
            "nvmlDeviceGetPowerUsage": lambda handle: 400_000,
            "nvmlDeviceGetTotalEnergyConsumption": lambda handle: self.only_first(handle, 5_000_000),
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: self.only_first(handle, 0x5),
        }
        return told[name]

    @staticmethod
    def only_first(handle: int, value: int) -> int:
        if handle:
            raise NVMLError("Not Supported")
        return value


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())


@pytest.mark.usefixtures("nvml")
def test_nvml_tells_of_the_wanted_gpus_what_each_of_them_knows() -> None:
    first, second = nvml_source(["0", "1"])()
    assert first == Look(first.at, 0, 1500.0, 400.0, 5000.0, True)
    assert second == Look(second.at, 1, 1501.0, 400.0, None, None)
    assert [look.gpu for look in nvml_source(["GPU-1a"])()] == [1]
    assert find_source(["0"])[0] == "nvml"


def test_nvidia_smi_tells_the_same_but_for_energy() -> None:
    text = "0, GPU-0abc, 1500, 400.52, 0x0000000000000004\n1, GPU-1abc, [N/A], [N/A], [N/A]\n"
    first, second = smi_source(["0", "1"], lambda _: text)()
    assert first == Look(first.at, 0, 1500, 400.52, None, True)
    assert second == Look(second.at, 1, None, None, None, None)


def test_without_nvml_and_nvidia_smi_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(gpu_use, "_nvidia_smi", lambda _: "")
    use = GpuUse()
    use.begin(["0"])
    told = ended(use)
    assert (told["looks"], told["source"]) == ([], "")
    assert "neither NVML (ModuleNotFoundError" in told["why"]


def ended(use: GpuUse) -> dict[str, Any]:
    """What was seen once there was a look, or a reason for none."""
    while not use.looks and not use.why:
        time.sleep(0.01)
    return use.end()


def test_looks_go_on_until_the_end_and_the_last_one_closes_the_point() -> None:
    asked: list[Sequence[str]] = []

    def find(wanted: Sequence[str]) -> tuple[str, Callable[[], list[Look]]]:
        asked.append(wanted)
        return "nvml", lambda: [Look(time.monotonic(), 0, 1000.0, 300.0, 1.0, False)]

    use = GpuUse(find)
    use.begin(["0"])
    told = ended(use)
    assert asked == [["0"]]
    assert len(told["looks"]) >= 2
    assert min(look[0] for look in told["looks"]) <= 0.0, "the last look came after the end was asked for"
    use.begin(["1"])
    assert asked[-1] == ["1"]
    ended(use)


def test_a_driver_that_fails_in_the_middle_leaves_what_was_seen() -> None:
    looks = iter([[Look(time.monotonic(), 0, 1000.0, 300.0, 1.0, False)]])
    use = GpuUse(lambda _: ("nvml", lambda: next(looks)))
    use.begin(["0"])
    told = ended(use)
    assert len(told["looks"]) == 1
    assert told["why"].startswith("StopIteration")


def told(looks: Sequence[Sequence[Any]]) -> dict[str, Any]:
    return {"looks": looks, "source": "nvml", "why": ""}


def test_energy_is_the_counter_s_over_the_time_of_the_point() -> None:
    """The point began 11 s before the end and lasted 10 s; the counter grew by 400 J a second in its 8 s between two looks."""
    looks = [
        [12.0, 0, 200, 70.0, 0.0, False],
        [10.0, 0, 1500, 390.0, 1000.0, True],
        [2.0, 0, 1700, 410.0, 4200.0, False],
        [0.5, 0, 200, 70.0, 9e9, False],
    ]
    assert use_during(told(looks), began_age_s=11.0, duration_s=10.0) == [
        {
            "gpu": 0,
            "mean_sm_mhz": 1600.0,
            "mean_power_w": 400.0,
            "energy_j": 4000.0,
            "power_cap_share": 0.5,
            "looks": 2,
            "source": "nvml",
        }
    ]


def test_without_a_counter_energy_is_the_mean_power_s() -> None:
    looks = [[9.0, 1, 1500, 300.0, None, None], [5.0, 1, 1500, 500.0, None, None]]
    (use,) = use_during(told(looks), began_age_s=10.0, duration_s=10.0)
    assert (use["energy_j"], use["power_cap_share"]) == (4000.0, None)


def test_what_nobody_saw_is_not_told() -> None:
    assert use_during(told([]), began_age_s=10.0, duration_s=10.0) == []
    assert use_during({}, began_age_s=10.0, duration_s=10.0) == []
    (use,) = use_during(told([[5.0, 0, None, None, None, None]]), began_age_s=10.0, duration_s=10.0)
    assert (use["energy_j"], use["mean_sm_mhz"]) == (None, None)
