"""The rate sweeps of one load in, the bounds on TTFT and TPOT that a map of SLOs asks about, and SLOs by name, out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.load.slo import Slo
from analysis.stats.capacity import RatePoint
from analysis.stats.sweeps import Sweep
from pdslurm.errors import ResultsError
from pdslurm.records.good_requests import is_exempt

SHARES = (0.9, 0.95, 0.99)
MOST = 14  # numbers of a grid, before those of the marks
CLOSE = 1.08  # a number of the grid so near to a mark's gives way to it
# The numbers of a decade, from coarse to fine. The finest series that has at most MOST numbers in the range is taken.
SERIES = (
    (1.0, 3.0),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
    (*(1.0, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2.0, 2.2, 2.5, 2.8, 3.0), *(3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0, 7.5, 8.0, 9.0)),
)


@dataclass(frozen=True)
class Mark:
    """An SLO by name: a preset of conf/slo, or the run's own."""

    name: str
    ttft_ms: float
    tpot_ms: float
    share: float = 0.9


OWN = "this run"  # the name of the mark of the run's own SLO
# What conf/slo holds, for the analysis cannot read it. A test compares the two.
PRESETS = (
    Mark("batch", 10000, 200),
    Mark("chat", 1000, 50),
    Mark("code", 500, 25),
    Mark("mlperf_deepseek_r1", 1500, 15, 0.99),
    Mark("mlperf_gpt_oss_120b", 2000, 20, 0.99),
    Mark("mlperf_llama_2_70b", 450, 40, 0.99),
    Mark("mlperf_llama_3_1_8b", 500, 30, 0.99),
)


def own_mark(slo: Slo, share: float) -> list[Mark]:
    """The run's own SLO as a mark, where it limits both TTFT and TPOT."""
    has_both = "ttft_ms" in slo and "tpot_ms" in slo
    return [Mark(OWN, slo["ttft_ms"], slo["tpot_ms"], share)] if has_both else []


def shares_with(share: float) -> list[float]:
    """The shares that are asked about: those of SHARES, and this one."""
    return sorted({*SHARES, share})


def shows_both(sweeps: Sequence[Sweep]) -> bool:
    """Whether some point shows TTFT, and some point TPOT: a grid needs both."""
    return all(quantiles(sweeps, name, SHARES[:1]) for name in ("ttft_ms", "tpot_ms"))


def grid(
    sweeps: Sequence[Sweep], share: float, *, marked: Sequence[Mark] = (), ttft_ms: Sequence[float] = ()
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Bounds on TTFT and on TPOT: from below the lowest quantile measured to above the largest, with those of `marked`, those of
    `ttft_ms`, and those of the presets that lie within. The same for each share of SHARES, so that maps compare. Raises
    ResultsError where no point shows both latencies."""
    ranges = [quantiles(sweeps, name, shares_with(share)) for name in ("ttft_ms", "tpot_ms")]
    if not all(ranges):
        raise ResultsError("slo_map: no point shows both TTFT and TPOT; it needs answers that were streamed, of two tokens or more")
    plain = [nice_numbers(min(some), max(some)) for some in ranges]
    inside = [mark for mark in PRESETS if all(p[0] <= bound <= p[-1] for p, bound in zip(plain, _bounds(mark), strict=True))]
    extra = [[*(_bounds(mark)[n] for mark in (*marked, *inside)), *(ttft_ms if n == 0 else ())] for n in (0, 1)]
    rows, columns = (_with(numbers, more) for numbers, more in zip(plain, extra, strict=True))
    return rows, columns


def _bounds(mark: Mark) -> tuple[float, float]:
    return mark.ttft_ms, mark.tpot_ms


def _with(numbers: Sequence[float], more: Iterable[float]) -> tuple[float, ...]:
    """The numbers and those of marks; of the former none that is nearly one of the latter, but both ends."""
    marks = {float(bound) for bound in more}
    kept = [number for number in numbers[1:-1] if all(max(number / mark, mark / number) >= CLOSE for mark in marks)]
    return tuple(sorted({numbers[0], *kept, numbers[-1], *marks}))


def quantiles(sweeps: Iterable[Sweep], name: str, shares: Sequence[float]) -> list[float]:
    """The quantiles of a latency at each point, of points that are overloaded only where there are no others."""
    points = [point for sweep in sweeps for point in sweep.points]
    steady = [found for point in points if not point.overloaded for found in _quantiles(point, name, shares)]
    return steady or [found for point in points for found in _quantiles(point, name, shares)]


def _quantiles(point: RatePoint, name: str, shares: Sequence[float]) -> list[float]:
    requests = point.requests
    values = requests[name][(requests["ok"] == 1) & ~is_exempt(name, requests["output_len"])]
    values = values[values > 0]
    return [float(found) for found in np.quantile(values, shares, method="higher")] if len(values) else []


def nice_numbers(low: float, high: float) -> tuple[float, ...]:
    """Numbers of one series, from the largest below `low` to the smallest above `high`."""
    found: tuple[float, ...] = ()
    for series in SERIES:
        finer = _between(series, low, high)
        if found and len(finer) > MOST:
            break
        found = finer
    return found


def _between(series: Sequence[float], low: float, high: float) -> tuple[float, ...]:
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    numbers = [float(f"{step * 10.0**decade:.2g}") for decade in decades for step in series]
    first = max(number for number in numbers if number < low)
    last = min(number for number in numbers if number > high)
    return tuple(number for number in numbers if first <= number <= last)
