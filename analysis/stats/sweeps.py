"""Judged records in, their rate sweeps out, one for each arm, load and start; from these, under any SLO, the capacities.

A sweep keeps the judged requests of its points in memory, so that many SLOs can be asked of the same measurements."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.load import request_files, slo
from analysis.load.slo import SHARE, Slo
from analysis.stats.capacity import AtRate, Capacity, RatePoint, at_rate, capacity, judged
from analysis.stats.inference import INTEREST, Arms, Score, interval, spreads

# What tells one load from another whose rates are swept; seeds and repeats differ within a sweep.
LOAD = ("input_len", "output_len", "max_concurrency", "load")
Load = tuple[float, float, float, str]


@dataclass(frozen=True)
class Sweep:
    """The points of one arm at the rates of one load, in one start of its engines."""

    series: str
    disaggregated: bool
    gpus: float
    load: Load
    start: int
    points: tuple[RatePoint, ...]

    def at_rates(self, bounds: Slo, share: float) -> list[AtRate]:
        """How each point stands to the SLO, from the lowest rate on."""
        found = (at_rate(point, bounds, share) for point in self.points)
        return sorted((each for each in found if each), key=lambda each: each.rate_per_s)

    def capacity(self, bounds: Slo, share: float) -> Capacity:
        """Requests/s of all GPUs of the arm."""
        return capacity(self.at_rates(bounds, share))

    def score(self, bounds: Slo, share: float) -> Score:
        """The logarithm of the capacity per GPU, in requests/s."""
        return as_score(self.capacity(bounds, share), self.gpus)


def as_score(known: Capacity, gpus: float) -> Score:
    """The logarithm of a capacity per GPU, as arms are compared by it."""
    value, low, high = (_log(number / gpus) for number in (known.value, known.low, known.high))
    return Score(value, low, high, -math.log1p(-known.unseen))


def _log(value: float) -> float:
    return value if math.isnan(value) or math.isinf(value) else math.log(value) if value > 0 else -math.inf


def sweeps_of(frame: pd.DataFrame) -> tuple[Sweep, ...]:
    """The sweeps of judged records (analysis.stats.repeats.judge). A load at which no two rates were measured is none. Beside the
    records that are used, those count that are invalid for nothing else than a queue that grew, or that was not steady yet.
    Raises ResultsError for a request file that cannot be read."""
    counts = (frame["use"] == "used") | ((frame["use"] == "invalid") & (frame["overloaded"] | frame["unsteady"]))
    known = frame[counts & (frame["request_rate"] < math.inf) & frame["requests_file"].notna()]
    found = []
    for load, rows in known.groupby(list(LOAD), sort=True):
        if rows["request_rate"].nunique() > 1:
            for (series, start), mine in rows.groupby(["series", "start"], sort=True):
                points = tuple(_points(mine))
                first = mine.iloc[0]
                found.append(Sweep(str(series), bool(first["disaggregated"]), float(first["gpus"]), load, int(str(start)), points))  # type: ignore[arg-type]
    return tuple(found)


def _points(rows: pd.DataFrame) -> Iterable[RatePoint]:
    names = ["request_rate", "requests_file", "use", "overloaded", "unsteady"]
    for rate, path, use, overloaded, unsteady in rows[names].itertuples(index=False, name=None):
        requests = judged(request_files.read(Path(path)))
        invalid = use == "invalid"
        yield RatePoint(float(rate), requests, overloaded=invalid and bool(overloaded), unsteady=invalid and bool(unsteady))


def slo_of(frame: pd.DataFrame) -> tuple[Slo, float] | None:
    """The bounds and the share that the runs' config.yaml name; None where none is named."""
    folders = sorted(frame["folder"].unique())
    bounds = slo.of_runs(folders)
    if not bounds:
        return None
    share = slo.scalar_of_runs(folders, "slo", "share")
    return bounds, float(share) if share else SHARE


def interest_of(frame: pd.DataFrame) -> float:
    """The smallest difference that matters, as a share, by the runs' config.yaml. Raises ResultsError when they name different
    ones."""
    return slo.smallest_difference_of_runs(sorted(frame["folder"].unique()), INTEREST)


def by_load(sweeps: Sequence[Sweep]) -> dict[Load, list[Sweep]]:
    """The sweeps of each load."""
    found: dict[Load, list[Sweep]] = {}
    for sweep in sweeps:
        found.setdefault(sweep.load, []).append(sweep)
    return found


def scores(sweeps: Iterable[Sweep], bounds: Slo, share: float) -> tuple[dict[str, list[Score]], dict[str, list[Score]]]:
    """Of one load's sweeps: the scores of each start of the P/D arms, and of the other arms."""
    kinds: tuple[dict[str, list[Score]], dict[str, list[Score]]] = ({}, {})
    for sweep in sweeps:
        kinds[not sweep.disaggregated].setdefault(sweep.series, []).append(sweep.score(bounds, share))
    return kinds


@dataclass(frozen=True)
class ArmCapacity:
    """An arm's capacity over its starts in requests/s of all its GPUs, with its 95 % interval; of one start, that start's."""

    series: str
    load: Load
    gpus: float
    disaggregated: bool
    value: float
    low: float
    high: float
    starts: tuple[Capacity, ...]
    effective: float  # independent requests of the point nearest to the capacity, on average
    requests: float  # its requests, on average

    @property
    def scores(self) -> list[Score]:
        """Of each start."""
        return [as_score(start, self.gpus) for start in self.starts]

    @property
    def per_gpu(self) -> tuple[float, float, float]:
        return self.value / self.gpus, self.low / self.gpus, self.high / self.gpus


def arm_capacities(sweeps: Sequence[Sweep], bounds: Slo, share: float) -> tuple[ArmCapacity, ...]:
    """Of every load and arm, in the sweeps' order."""
    found = []
    for load, mine in by_load(sweeps).items():
        first, second = scores(mine, bounds, share)
        arms: Arms = {**first, **second}
        spread = spreads(arms)
        for series in dict.fromkeys(sweep.series for sweep in mine):
            own = [sweep for sweep in mine if sweep.series == series]
            value, low, high = (_exp(end) * own[0].gpus for end in interval(series, spread, arms[series]))
            starts = tuple(sweep.capacity(bounds, share) for sweep in own)
            worth = [near for sweep in own if (near := nearest(sweep.at_rates(bounds, share)))]
            effective = sum(each.effective for each in worth) / max(len(worth), 1)
            requests = sum(each.requests for each in worth) / max(len(worth), 1)
            one = own[0]
            found.append(ArmCapacity(series, load, one.gpus, one.disaggregated, value, low, high, starts, effective, requests))
    return tuple(found)


def nearest(rates: Sequence[AtRate]) -> AtRate | None:
    """The point whose ratio to the SLO is nearest to 1."""
    return min(rates, key=lambda each: abs(math.log(max(each.ratio, 1e-9))), default=None)


def _exp(value: float) -> float:
    return math.inf if value == math.inf else math.exp(value)


def as_frame(capacities: Iterable[ArmCapacity]) -> pd.DataFrame:
    """A row for each arm and load: LOAD, series, gpus, disaggregated, starts (their number), and in requests/s `capacity_per_s`,
    `low_per_s`, `high_per_s` (0 and inf where an end is open), `capacity_per_s_gpu`."""
    names = ["series", *LOAD, "gpus", "disaggregated", "starts", "capacity_per_s", "low_per_s", "high_per_s", "capacity_per_s_gpu"]
    rows = [
        (c.series, *c.load, c.gpus, c.disaggregated, len(c.starts), c.value, c.low, c.high, c.value / c.gpus) for c in capacities
    ]
    return pd.DataFrame(rows, columns=names)


def capacity_text(capacities: Iterable[ArmCapacity]) -> list[str]:
    """A sentence for each load and arm: `1024 tokens in, 256 out: route_4 meets the SLO up to 12.2 [11.0, 13.5] requests/s.`"""
    lines = []
    for each in capacities:
        starts = "1 start" if len(each.starts) == 1 else f"{len(each.starts)} starts"
        worth = f"{each.requests:.0f} requests of a point near it are worth {each.effective:.0f} independent ones"
        lines.append(f"{load_text(each.load)}: {each.series} {_said(each)}, in {starts}; {worth}.")
    return lines


def load_text(load: Load) -> str:
    """`1024 tokens in, 256 out, burstiness 0.5, at most 16 in flight`: lengths where they are set, then what is not usual."""
    inputs, outputs, in_flight, name = load
    words = [f"{inputs:g} tokens in, {outputs:g} out"] if inputs or name == "random" else []
    words += [name.removeprefix("random, ")] if name != "random" else []
    words += [f"at most {in_flight:g} in flight"] if in_flight < math.inf else []
    return ", ".join(words)


def _said(each: ArmCapacity) -> str:
    """What is known of the capacity, in words."""
    if each.low <= 0 and each.high == math.inf:
        return "was measured at too few rates to tell its capacity"
    if each.low <= 0:
        return f"has a capacity of {each.high:.3g} requests/s or less"
    if each.high == math.inf:
        return f"has a capacity of {each.low:.3g} requests/s or more"
    return f"meets the SLO up to {each.value:.3g} [{each.low:.3g}, {each.high:.3g}] requests/s"
