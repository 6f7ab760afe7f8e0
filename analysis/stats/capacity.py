"""A rate sweep in, the arm's capacity in that start out: the highest request rate at which the SLO is met, by interpolation.

Each request is scored by its worst ratio to the SLO's limits. The quantile of these ratios at the SLO's share is at most 1 exactly
where the rate meets the SLO, so that its logarithm is a smooth function of the logarithm of the rate, and its crossing with 0 is
the capacity. The function is made to grow with the rate (isotonic regression) and is a line between two rates.

Known errors: a point whose queue begins empty and grows flatters (`unseen_overload`): the interval's low end allows for it, and a
point's first residence times are not judged (pdslurm.records.good_requests). A line between two rates lies above a curve that bends
upwards, so that a capacity between coarse rates is too low by part of their step. docs/answers.md has the simulation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pdslurm.records.good_requests import LIMITED, NEVER, is_exempt, judged_from_s, worst_ratio

Column = npt.NDArray[np.float64]
NEIGHBOURHOOD = 0.8  # of the requests beyond the quantile, on each side of it
MOST = math.log(2)  # a ratio above 2 tells how long one looked at a growing queue rather than where the limit is crossed
Z_95 = 2.2  # standard errors: 1.96 would be enough if these were known exactly
MOST_UNSEEN = 0.5
JUST_ABOVE = 1e-9  # the logarithm of a ratio that misses by other evidence


@dataclass(frozen=True)
class RatePoint:
    """The judged requests of one measurement at a rate. `overloaded`: more arrived than was served, so that no SLO is met there in
    the long run, whatever its requests show. `unsteady`: it was over before it was steady, so that it shows that an SLO is missed,
    and never that one is met."""

    rate_per_s: float
    requests: Mapping[str, Column]
    overloaded: bool = False
    unsteady: bool = False


@dataclass(frozen=True)
class AtRate:
    """How a rate stands to an SLO: the share's quantile of worst ratios, the standard error of its logarithm, and how many
    independent requests its `requests` are worth. `misses`: it misses the SLO by other evidence than this ratio."""

    rate_per_s: float
    ratio: float
    error: float
    requests: int
    effective: float
    misses: bool = False
    unseen: float = 0.0  # unseen_overload of the point


@dataclass(frozen=True)
class Capacity:
    """Requests/s of all instances of an arm in one start. `value` lies within [low, high], a 95 % interval for this start alone; it
    is NaN where nothing can be interpolated: then only the bounds are known, 0 and infinity where a side is open. `unseen`: the
    share of the rate that may be overload and was not seen; `low` allows for it."""

    value: float
    low: float
    high: float
    unseen: float = 0.0


def judged(requests: Mapping[str, Column]) -> Mapping[str, Column]:
    """The requests without those that began while the queues were still filling, in the order of their start."""
    begin_s = judged_from_s(requests["start_s"].tolist(), requests["e2el_ms"].tolist())
    kept = np.flatnonzero(requests["start_s"] >= begin_s)
    kept = kept[np.argsort(requests["start_s"][kept], kind="stable")]
    return {name: column[kept] for name, column in requests.items()}


def at_rate(point: RatePoint, slo: Mapping[str, float], share: float) -> AtRate | None:
    """The point under an SLO; None where it says nothing: it has no request, or nothing shows a latency that the SLO limits."""
    requests = point.requests
    count = len(requests["ok"])
    if not count or any(_is_unseen(requests, name) for name in LIMITED if slo.get(name) is not None):
        return None
    ratios = worst_ratio(requests, slo, np.fmax)
    ordered = np.sort(ratios)
    ratio = float(ordered[_place(share, count)])
    if point.unsteady and ratio <= 1:
        return None
    effective = count / autocorrelation_time(ratios > ratio if ratio < ordered[-1] else ratios)
    error = math.sqrt(share * (1 - share) / effective) * _sparsity(ordered, share)
    unseen = unseen_overload(slo, share, float(np.ptp(requests["start_s"])))
    return AtRate(point.rate_per_s, ratio, error, count, effective, point.overloaded, unseen)


def unseen_overload(slo: Mapping[str, float], share: float, duration_s: float) -> float:
    """How much more than it can serve an arm may get, as a share, while a point of this length still meets the SLO.

    An overload of x lets a queue grow by x seconds of work a second, so that the request at the share's place of the point waits
    share · duration · x; it meets the limit on its first token until that is longer than the limit. Simulated: 60 s of a limit of
    2 s flatter by 4 %, of 0.5 s by 1 %."""
    limits = [slo[name] / 1000 for name in ("ttft_ms", "e2el_ms") if slo.get(name) is not None]
    return min(min(limits) / (share * duration_s), MOST_UNSEEN) if limits and duration_s > 0 else 0.0


def _place(share: float, count: int) -> int:
    """The place of a share's quantile among so many ordered numbers, by the rule of pdslurm.records.good_requests."""
    return min(max(math.ceil(share * count - 1e-9), 1), count) - 1


def _sparsity(ordered: Column, share: float) -> float:
    """How fast the logarithm of a quantile grows with its share, by a difference about it (M. M. Siddiqui 1960)."""
    around = NEIGHBOURHOOD * min(share, 1 - share)
    ends = [ordered[_place(share + step, len(ordered))] for step in (-around, around)]
    low, high = (math.log(min(max(float(end), 1 / NEVER), NEVER)) for end in ends)
    return (high - low) / (2 * around) if around > 0 else 0.0


def _is_unseen(requests: Mapping[str, Column], name: str) -> bool:
    has_it = (requests["ok"] == 1) & ~is_exempt(name, requests["output_len"])
    return bool(has_it.any() and np.isnan(requests[name][has_it]).all())


def autocorrelation_time(values: npt.NDArray[np.generic]) -> float:
    """How many neighbours are worth one independent value, 1 or more: 1 + 2·(sum of autocorrelations), cut at the first pair of
    lags whose sum is not above 0 (C. J. Geyer 1992)."""
    centred = values.astype(float) - values.mean()
    count = len(centred)
    variance = float(centred @ centred)
    if count < 4 or variance <= 0:
        return 1.0
    spectrum = np.fft.rfft(centred, 2 ** (2 * count - 1).bit_length())
    lags = np.fft.irfft(spectrum * spectrum.conj())[: count // 2] / variance
    pairs = lags[: len(lags) // 2 * 2].reshape(-1, 2).sum(axis=1)
    positive = pairs[: int(np.argmax(pairs <= 0))] if (pairs <= 0).any() else pairs
    return float(min(max(2 * positive.sum() - 1, 1.0), count))


def capacity(rates: Sequence[AtRate]) -> Capacity:
    """Where the ratios cross 1; NaN within open bounds where they do not."""
    value, low, high = (crossing(rates, errors) for errors in (0.0, Z_95, -Z_95))
    unseen = min((rate.unseen for rate in rates), default=0.0)
    bottom, top = min(low.below, value.below) * (1 - unseen), max(high.above, value.above)
    return Capacity(value.below if value.interpolated else math.nan, bottom, top, unseen)


@dataclass(frozen=True)
class Crossing:
    """The highest rate below the crossing and the lowest above it (0, infinity: none was measured); both are the crossing itself
    where it is interpolated."""

    below: float
    above: float
    interpolated: bool


def crossing(rates: Sequence[AtRate], errors: float = 0.0) -> Crossing:
    """Where the ratios, each so many of its standard errors larger, cross 1 as the rate grows."""
    at: dict[float, list[AtRate]] = {}
    for rate in rates:
        at.setdefault(rate.rate_per_s, []).append(rate)
    ordered = sorted(at)
    heights = isotonic([_height(at[rate], errors) for rate in ordered], [len(at[rate]) for rate in ordered])
    missed = next((n for n, height in enumerate(heights) if height > 0), len(heights))
    below = ordered[missed - 1] if missed else 0.0
    above = ordered[missed] if missed < len(ordered) else math.inf
    if not missed or missed == len(ordered):
        return Crossing(below, above, False)
    part = heights[missed - 1] / (heights[missed - 1] - heights[missed])
    per_s = below * (above / below) ** part
    return Crossing(per_s, per_s, True)


def _height(repeats: Sequence[AtRate], errors: float) -> float:
    """The mean logarithm of the ratios at one rate, so many standard errors larger, as far as it tells anything."""
    logs = [math.log(max(each.ratio, 1 / NEVER)) for each in repeats]
    logs = [max(value, JUST_ABOVE) if each.misses else value for value, each in zip(logs, repeats, strict=True)]
    error = math.sqrt(sum(each.error**2 for each in repeats)) / len(repeats)
    return min(sum(min(value, MOST) for value in logs) / len(logs) + errors * error, MOST)


def isotonic(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The nearest sequence that never falls, in weighted squares: neighbours that fall are averaged (pool adjacent violators)."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] >= block[0]:
            mean, heavy, many = blocks.pop()
            total = heavy + block[1]
            block = ((mean * heavy + block[0] * block[1]) / total, total, many + block[2])
        blocks.append(block)
    return [value for value, _, many in blocks for _ in range(many)]
