"""How often the answer errs: whole experiments on simulated servers, by the project's own rate sweep, estimator and decision.

`make decisions` prints the table that docs/answers.md shows; tests/integration/test_decisions.py runs a small part of it.

The truth is the capacity by the same rule in points of one hour, averaged over starts. Arms differ in speed; each start of an arm
has a speed of its own, such that capacities of starts have the standard deviation that a cell names."""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from analysis.stats.capacity import AtRate, RatePoint, at_rate, capacity, judged
from analysis.stats.inference import BETTER, SAME, UNDECIDED, WORSE, Arms, Score, compare, interval, spreads
from analysis.stats.sweeps import as_score
from pdslurm.config import Search, Workload
from pdslurm.plan.points import lasting
from pdslurm.plan.rate_sweep import Known, middle, next_rate, rates
from pdslurm.validity.load import steady_state
from tests.served import Server, requests_of

SERVER = Server()
SLOS: Mapping[str, Mapping[str, float]] = {
    "TTFT": {"ttft_ms": 500.0, "tpot_ms": 50.0},
    "TPOT": {"ttft_ms": 2000.0, "tpot_ms": 14.0},
}
LOWEST = 2.0
SEARCH = Search(lowest=LOWEST, highest=60.0, step=1.25, fine=4, beside=1)
GRID = tuple(math.log(1.7) * n / 4 for n in range(-4, 5))  # logarithms of speeds; at speed 1 an arm is as good as all others
HOURS = 4
TRIES = 2
CHUNK = 10


@dataclass(frozen=True)
class Cell:
    """One kind of experiment: arms of each kind, how much better than all others the first P/D arm is, how starts differ."""

    arms: tuple[int, int]
    better: float = 0.0  # the first P/D arm's capacity over the others', minus 1
    start_sd: float = 0.02
    noisy: int | None = None  # of all arms, P/D arms first, the one whose starts differ five times as much
    starts: int = 3
    once: int | None = None  # of all arms, the one that is started once, as one that the search dropped after the first start
    slo: str = "TTFT"
    share: float = 0.9
    highest: float = SEARCH.highest
    duration_s: float = 60.0

    @property
    def name(self) -> str:
        kinds = f"{self.arms[0]} P/D against {self.arms[1]}"
        words = [f"{100 * self.better:+.0f} %" if self.better else "equal", f"starts ±{100 * self.start_sd:g} %"]
        words += [f"{self.starts} starts"] if self.starts != 3 else []
        if self.noisy is not None:
            words.append(f"one {'P/D' if self.noisy < self.arms[0] else 'other'} arm five times noisier")
        words += ["one arm started once"] if self.once is not None else []
        words += [f"limited by {self.slo}"] if self.slo != "TTFT" else []
        words += [f"share {self.share:g}"] if self.share != 0.9 else []
        words += [f"highest rate {self.highest:g}"] if self.highest != SEARCH.highest else []
        return f"{kinds}: {', '.join(words)}"


@dataclass
class Tally:
    """What became of a cell's experiments."""

    runs: int = 0
    covered: int = 0  # intervals of the ratio that hold the truth
    wrong: int = 0  # the answer "better" for the kind that is not
    arms: int = 0
    arms_covered: int = 0
    zero_width: int = 0
    splits: int = 0  # P/D arms that were taken for the suggested one, in turn
    splits_wrong: int = 0  # "confirmed" of one that is not the best, "refuted" of one that is
    splits_right: int = 0  # "confirmed" of the only best one
    widths: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    points: int = 0
    starts: int = 0

    def add(self, other: Tally) -> None:
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)

    def share(self, outcome: str) -> float:
        return self.outcomes[outcome] / self.runs


@functools.cache
def law(slo: str, share: float) -> tuple[float, ...]:
    """The logarithm of the capacity as a polynomial in the logarithm of the speed, the highest power first: fitted to points of an
    hour at each speed of GRID, averaged over HOURS starts."""
    found = np.array([_of_hours(log_speed, slo, share) for log_speed in GRID])
    known = found > math.log(LOWEST)
    return tuple(np.polyfit(np.array(GRID)[known], found[known], 4))


def _of_hours(log_speed: float, slo: str, share: float) -> float:
    """The mean logarithm of the capacity at one speed; NaN where it is below all rates. Rates are 3 % apart: first by halving, then
    all those around the crossing."""
    rng = np.random.default_rng(7)

    @functools.cache
    def at(n: int, hour: int) -> AtRate:
        found = _measured(LOWEST * math.exp(log_speed) * 1.03**n, log_speed, slo, share, 3600.0, rng)
        assert found
        return found

    low, high = -1, 90
    while high - low > 1:
        half = (low + high) // 2
        low, high = (half, high) if at(half, 0).ratio <= 1 else (low, half)
    around = range(low - 2, high + 3)
    return float(np.mean([np.log(capacity([at(n, hour) for n in around]).value) for hour in range(HOURS)]))


def _measured(rate: float, log_speed: float, slo: str, share: float, duration_s: float, rng: np.random.Generator) -> AtRate | None:
    requests = judged(requests_of(SERVER, math.exp(log_speed), rate, duration_s, rng))
    return at_rate(RatePoint(rate, requests), SLOS[slo], share)


def log_speed_of(log_capacity: float, slo: str, share: float) -> float:
    """The speed at which an arm has that capacity, within GRID."""
    speeds = np.linspace(GRID[0], GRID[-1], 200)
    capacities = np.polyval(law(slo, share), speeds)
    reached = capacities > math.log(LOWEST)
    return float(np.interp(log_capacity, capacities[reached], speeds[reached]))


def sweep(cell: Cell, log_speed: float, start: int, is_first: bool, rng: np.random.Generator) -> tuple[list[AtRate], int, int]:
    """One start's rate sweep: how its points stand to the SLO, the number of the highest rate that met it, the points it took."""
    search = Search(**{**vars(SEARCH), "highest": cell.highest})
    every, found, points = rates(search), [], 0
    lasts_s = lasting(Workload(name="simulated", duration_s=cell.duration_s, search=search), cell.share).duration_s or 0.0
    meets: dict[int, bool] = {}
    overloaded: set[int] = set()
    closed: set[int] = set()
    while (n := next_rate(Known(meets, overloaded, closed), len(every), search=search, start=start, is_first=is_first)) is not None:
        for _ in range(TRIES):
            points += 1
            requests = requests_of(SERVER, math.exp(log_speed), every[n], lasts_s, rng)
            spans = np.column_stack([requests["start_s"], requests["start_s"] + requests["e2el_ms"] / 1000]).tolist()
            check = steady_state(spans, rate=every[n], concurrency=None)
            over, short = (check.ok is False and check.evidence["holds_rate"] is value for value in (False, None))
            met = at_rate(RatePoint(every[n], judged(requests), overloaded=over, unsteady=short), SLOS[cell.slo], cell.share)
            found += [met] if met else []
            overloaded |= {n} if over else set()
            if met:
                meets[n] = met.ratio <= 1 and not met.misses
                break
        else:
            closed.add(n)
    return found, max((n for n, ok in meets.items() if ok), default=0), points


def experiment(cell: Cell, seed: int) -> Tally:
    """One whole experiment: every start of every arm, then the decision, held against the truth."""
    rng = np.random.default_rng(seed)
    base = law(cell.slo, cell.share)[-1]
    truth = [base + (math.log1p(cell.better) if n == 0 else 0.0) for n in range(sum(cell.arms))]
    names = [f"{'pd' if n < cell.arms[0] else 'route'}{n}" for n in range(len(truth))]
    arms: dict[str, list[Score]] = {}
    tally = Tally(runs=1)
    for n, (name, true) in enumerate(zip(names, truth, strict=True)):
        sd = cell.start_sd * (5 if n == cell.noisy else 1)
        at = middle(len(rates(SEARCH)), SEARCH)
        for start in range(1 if n == cell.once else cell.starts):
            log_speed = log_speed_of(true + sd * rng.normal(), cell.slo, cell.share)
            found, at, points = sweep(cell, log_speed, at, start == 0, rng)
            tally.points += points
            tally.starts += 1
            arms.setdefault(name, []).append(as_score(capacity(found), 1.0))
    _judge(tally, arms, truth, cell)
    return tally


def _judge(tally: Tally, arms: Arms, truth: list[float], cell: Cell) -> None:
    first, second = ({name: of for name, of in arms.items() if name.startswith(kind)} for kind in ("pd", "route"))
    found = compare(first, second)
    assert found
    ratio = math.exp(max(truth[: cell.arms[0]]) - max(truth[cell.arms[0] :]))
    tally.covered += found.low <= ratio <= found.high
    tally.wrong += (found.outcome == BETTER and ratio <= 1) or (found.outcome == WORSE and ratio >= 1)
    tally.zero_width += found.low >= found.high
    tally.outcomes[found.outcome] += 1
    if found.low > 0 and found.high < math.inf:
        tally.widths.append(math.log(found.high / found.low) / 2)
    for n, name in enumerate(list(first)[:2] if len(first) > 1 else ()):
        judged_split = compare({name: first[name]}, {other: of for other, of in first.items() if other != name})
        assert judged_split
        tally.splits += 1
        is_best = cell.better > 0 and n == 0
        tally.splits_wrong += judged_split.outcome == BETTER and not is_best
        tally.splits_wrong += judged_split.outcome == WORSE and (is_best or not cell.better)
        tally.splits_right += judged_split.outcome == BETTER and is_best
    spread = spreads(arms)
    for (name, scores), true in zip(arms.items(), truth, strict=True):
        _, low, high = interval(name, spread, scores)
        tally.arms += 1
        tally.arms_covered += low <= true <= high
        tally.zero_width += low >= high


def of_seeds(cell: Cell, seeds: range) -> Tally:
    total = Tally()
    for seed in seeds:
        total.add(experiment(cell, seed))
    return total


def tally_of(cell: Cell, runs: int, jobs: int) -> Tally:
    """So many experiments, in several processes."""
    law(cell.slo, cell.share)  # before the processes are forked, so that they know it
    total = Tally()
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        for part in pool.map(of_seeds, itertools.repeat(cell), [range(n, min(n + CHUNK, runs)) for n in range(0, runs, CHUNK)]):
            total.add(part)
    return total


def cells() -> Iterator[Cell]:
    """Every cell of the table."""
    for kinds in ((1, 1), (3, 1), (3, 3), (7, 7)):
        for sd in (0.0, 0.02, 0.05):
            yield Cell(kinds, start_sd=sd)
        yield Cell(kinds, better=0.2, start_sd=0.02)
        yield Cell(kinds, better=0.3, start_sd=0.05)
    for kinds in ((1, 1), (3, 1), (3, 3)):
        yield Cell(kinds, noisy=0)
        yield Cell(kinds, noisy=kinds[0])
    yield Cell((2, 2), better=0.1)
    yield Cell((2, 1), better=0.5, start_sd=0.05)
    yield Cell((2, 1), better=0.2, starts=2)
    yield Cell((2, 1), better=0.2, starts=5)
    yield Cell((3, 1), once=1)
    yield Cell((3, 1), better=0.2, once=1)
    yield Cell((2, 1), better=0.2, slo="TPOT")
    yield Cell((2, 1), slo="TPOT")
    for better in (0.0, 0.2):
        yield Cell((2, 1), better=better, share=0.99)
        yield Cell(
            (2, 1), better=better, highest=20.0
        )  # in some starts, and in most of a better arm's, the highest rate meets the SLO
        yield Cell((2, 1), better=better, highest=16.0)  # in nearly all


HEAD = (
    "experiment", "ratio's intervals that hold the truth", "arms' intervals that do", 'wrong "better"', "P/D is better", "the same",
    "cannot be told", "half-width of the ratio", "split wrongly judged", "best split confirmed", "points of an arm and start",
)  # fmt: skip


def table(results: Mapping[Cell, Tally]) -> str:
    """A row for each cell, in Markdown."""
    lines = [f"| {' | '.join(HEAD)} |", "|---|" + "---:|" * (len(HEAD) - 1)]
    for cell, tally in results.items():
        half = f"{100 * math.expm1(float(np.median(tally.widths))):.0f} %" if tally.widths else "open"
        shares = [tally.covered / tally.runs, tally.arms_covered / tally.arms, tally.wrong / tally.runs]
        shares += [tally.share(outcome) for outcome in (BETTER, SAME, UNDECIDED)]
        wrong = f"{100 * tally.splits_wrong / tally.splits:.1f} %" if tally.splits else ""
        right = f"{200 * tally.splits_right / tally.splits:.1f} %" if tally.splits and cell.better else ""
        cells_ = [
            *(f"{100 * share:.1f} %" for share in shares),
            half,
            wrong,
            right,
            f"{tally.points / tally.starts:.1f}",
        ]
        lines.append(f"| {cell.name} | {' | '.join(cells_)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000, help="experiments of each cell")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    results: dict[Cell, Tally] = {}
    for cell in cells():
        results[cell] = tally_of(cell, arguments.runs, arguments.jobs)
        print(table({cell: results[cell]}).splitlines()[-1], file=sys.stderr, flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
