"""What this node's GPUs do while a point is measured: SM clock, power and energy, looked at about once a second.

NVML is asked, by nvidia-ml-py; nvidia-smi where that is not installed or finds no driver. A look costs the engines nothing, for it
asks the driver alone. Nothing here fails a point: what cannot be read is left out, and `why` says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pdslurm.node.gpu_states import query_known, watts
from pdslurm.node.gpus import number, query, rows
from pdslurm.node.parallel_commands import output_of

NVML, NVIDIA_SMI = "nvml", "nvidia-smi"
EVERY_S = {NVML: 1.0, NVIDIA_SMI: 5.0}  # nvidia-smi is a process of its own, which takes some tenths of a second of a core
SMI_FIELDS = ("index", "uuid", "clocks.sm", "power.draw", "clocks_throttle_reasons.active")
SMI_TIMEOUT_S = 10.0
POWER_CAP = 0x4  # nvmlClocksEventReasonSwPowerCap in NVIDIA's NVML reference
END_S = 3.0  # for a look that is going on when the point ends


@dataclass(frozen=True)
class Look:
    """One GPU at a moment of the monotonic clock; `energy_j` is NVML's counter since the driver was loaded. None: not told."""

    at: float
    gpu: int
    sm_mhz: float | None
    power_w: float | None
    energy_j: float | None
    at_power_cap: bool | None


Source = Callable[[], list[Look]]


class GpuUse:
    """Looks at the GPUs of these names from `begin` to `end`, in a thread."""

    def __init__(self, find: Callable[[Sequence[str]], tuple[str, Source]] | None = None) -> None:
        """`find`: from names to the source's name and what looks once; raises OSError where there is none."""
        self.find = find or find_source
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None
        self.looks: list[Look] = []
        self.source, self.why = "", ""

    def begin(self, wanted: Iterable[str]) -> None:
        """Begins anew; nothing of earlier looks stays."""
        self.end()
        self.ended, self.looks, self.source, self.why = threading.Event(), [], "", ""
        self.thread = threading.Thread(target=self._look, args=(list(wanted), self.ended, self.looks), name="gpu-use", daemon=True)
        self.thread.start()

    def end(self) -> dict[str, Any]:
        """`looks`: each as [age in s, GPU, SM clock in MHz, power in W, energy in J, whether the power cap held its clocks], the
        age counted back from now, so that another clock can place it; `source`, and `why` where there are none."""
        now, looks = time.monotonic(), self.looks
        if self.thread is not None:
            self.ended.set()
            self.thread.join(END_S)
            self.thread = None
        aged = [[round(now - n.at, 3), n.gpu, n.sm_mhz, n.power_w, n.energy_j, n.at_power_cap] for n in list(looks)]
        return {"looks": aged, "source": self.source, "why": self.why}

    def _look(self, wanted: Sequence[str], ended: threading.Event, looks: list[Look]) -> None:
        try:
            self.source, look = self.find(wanted)
            due = time.monotonic()
            while True:
                looks += look()
                due = max(due + EVERY_S.get(self.source, 1.0), time.monotonic())
                if ended.wait(max(0.0, due - time.monotonic())):
                    break
            looks += look()  # the last one closes the point
        except Exception as error:  # of any driver and library: a point goes on without
            self.why = f"{type(error).__name__}: {error}"


def find_source(wanted: Sequence[str]) -> tuple[str, Source]:
    """NVML where it works, else nvidia-smi. Raises OSError where neither tells anything."""
    try:
        return NVML, nvml_source(wanted)
    except Exception as error:  # ImportError, or NVMLError of any kind
        source = smi_source(wanted)
        if not source():
            raise OSError(f"neither NVML ({type(error).__name__}: {error}) nor nvidia-smi tells anything of the GPUs") from error
        return NVIDIA_SMI, source


def nvml_source(wanted: Sequence[str]) -> Source:
    """Of the GPUs with these names, numbers or UUIDs that may be cut. Raises what pynvml raises, and ImportError without it."""
    import pynvml

    pynvml.nvmlInit()
    handles = {}
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        if _is_wanted(index, str(pynvml.nvmlDeviceGetUUID(handle)), wanted):
            handles[index] = handle

    def look() -> list[Look]:
        return [_nvml_look(pynvml, index, handle) for index, handle in handles.items()]

    return look


def _nvml_look(nvml: Any, index: int, handle: Any) -> Look:
    def told(ask: Callable[[], float]) -> float | None:
        try:
            return float(ask())
        except nvml.NVMLError:  # this GPU does not tell it
            return None

    reasons = told(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    power_mw, energy_mj = (
        told(lambda: nvml.nvmlDeviceGetPowerUsage(handle)),
        told(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle)),
    )
    return Look(
        time.monotonic(),
        index,
        told(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        None if power_mw is None else power_mw / 1000,
        None if energy_mj is None else energy_mj / 1000,
        None if reasons is None else bool(int(reasons) & POWER_CAP),
    )


def smi_source(wanted: Sequence[str], ask: Callable[[Sequence[str]], str] | None = None) -> Source:
    """By one call of nvidia-smi for each look; it tells no energy."""

    def look() -> list[Look]:
        text, fields = query_known(SMI_FIELDS, ask or _nvidia_smi)
        said = [dict(zip(fields, line, strict=True)) for line in rows(text, len(fields))]
        return [_smi_look(each) for each in said if _is_wanted(int(each["index"]), each["uuid"], wanted)]

    return look


def _smi_look(said: Mapping[str, str]) -> Look:
    try:
        held: bool | None = bool(int(said.get("clocks_throttle_reasons.active", ""), 16) & POWER_CAP)
    except ValueError:
        held = None
    return Look(time.monotonic(), int(said["index"]), number(said.get("clocks.sm", "")), watts(said.get("power.draw")), None, held)


def _is_wanted(index: int, uuid: str, wanted: Sequence[str]) -> bool:
    return str(index) in wanted or any(name.startswith("GPU-") and uuid.startswith(name) for name in wanted)


def _nvidia_smi(fields: Sequence[str]) -> str:
    try:
        return output_of(query("gpu", fields), SMI_TIMEOUT_S).out
    except OSError:
        return ""


# --- from looks to a point


def use_during(told: Mapping[str, Any], *, began_age_s: float, duration_s: float) -> list[dict[str, Any]]:
    """One entry for each GPU: its means over the point, which began `began_age_s` before the looks ended and lasted `duration_s`.

    `energy_j` is the energy over the whole point: NVML's counter from the first look in it to the last, else the mean power, times
    the duration by the time between them. None where it is not told."""
    by_gpu: dict[int, list[list[Any]]] = {}
    for look in told.get("looks") or ():
        if began_age_s - duration_s <= look[0] <= began_age_s:
            by_gpu.setdefault(look[1], []).append(look)
    return [_use(gpu, looks, duration_s) | {"source": told.get("source")} for gpu, looks in sorted(by_gpu.items())]


def _use(gpu: int, looks: Sequence[Sequence[Any]], duration_s: float) -> dict[str, Any]:
    watts = _mean([look[3] for look in looks])
    counted = [(look[0], look[4]) for look in looks if look[4] is not None]
    if len(counted) > 1 and counted[0][0] > counted[-1][0]:
        watts = (counted[-1][1] - counted[0][1]) / (counted[0][0] - counted[-1][0])
    return {
        "gpu": gpu,
        "mean_sm_mhz": _rounded(_mean([look[2] for look in looks])),
        "mean_power_w": _rounded(watts),
        "energy_j": None if watts is None else round(watts * duration_s, 1),
        "power_cap_share": _rounded(_mean([look[5] for look in looks]), 4),
        "looks": len(looks),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)
