"""The rate sweeps of one load in; for every SLO of a grid of bounds on TTFT and TPOT, the decision and the capacities, out.

A sweep keeps every judged request, so that no SLO needs a new measurement. A cell of the map is what analysis.stats.verdict says of
one SLO, by the same functions. The map limits TTFT and TPOT alone: a limit on E2E in a run's own SLO is not part of it.

Each cell is a 95 % statement by itself. Neighbouring cells stand on the same requests, so that they err together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from analysis.load.slo import Slo
from analysis.stats.inference import INTEREST, Arms, Comparison, Score, compare, interval, ratio_text, spreads
from analysis.stats.slo_grid import Mark, grid, quantiles, shares_with, shows_both
from analysis.stats.sweeps import Load, Sweep, by_load, scores
from analysis.stats.verdict import (
    CAPACITY,
    DISAGGREGATE,
    MORE_STARTS,
    ONE_START,
    OUTCOMES,
    SAME,
    SAME_WITHIN,
    TOGETHER,
    UNDECIDED,
    Decision,
    with_interest,
)
from pdslurm.errors import ResultsError

NOTHING = "nothing meets it"
EACH_ALONE = "Each of these is a 95 % statement by itself, and they stand on the same requests."


@dataclass(frozen=True)
class Cell:
    """One SLO: the decision, the ratio of the best P/D arm's capacity to the best other arm's, and each arm's capacity in
    requests/s per GPU with its 95 % interval (0 and infinity where an end is open). `leaning`: the kind of arm that one start of
    each arm shows to be better, as verdict.Decision has it. `ratio` is None where nothing meets the SLO, or one kind of arm was not
    measured."""

    ttft_ms: float
    tpot_ms: float
    share: float
    outcome: str
    leaning: str | None
    ratio: Comparison | None
    capacities: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True)
class SloMap:
    """The cells of one load by (ttft_ms, tpot_ms), for one share of the requests. `reaches_top`: no point without an overload has
    a quantile of TPOT above the largest bound, so that a looser bound changes nothing."""

    load: Load
    share: float
    ttft_ms: tuple[float, ...]
    tpot_ms: tuple[float, ...]
    cells: Mapping[tuple[float, float], Cell]
    reaches_top: bool = True

    def row(self, ttft_ms: float) -> list[Cell]:
        """The cells of one bound on TTFT, from the tightest bound on TPOT on. Raises ResultsError for a bound it lacks."""
        if ttft_ms not in self.ttft_ms:
            has = ", ".join(f"{bound:g}" for bound in self.ttft_ms)
            raise ResultsError(f"ttft_ms={ttft_ms:g}: the map has no such bound; it has {has}")
        return [self.cells[ttft_ms, tpot_ms] for tpot_ms in self.tpot_ms]


def mappable(sweeps: Sequence[Sweep]) -> dict[Load, list[Sweep]]:
    """The sweeps of each load that both kinds of arms were swept at, and whose requests show TTFT and TPOT."""
    kinds = {load: {sweep.disaggregated for sweep in mine} for load, mine in by_load(sweeps).items()}
    return {load: mine for load, mine in by_load(sweeps).items() if len(kinds[load]) == 2 and shows_both(mine)}


def slo_maps(
    sweeps: Sequence[Sweep],
    share: float,
    *,
    marked: Sequence[Mark] = (),
    ttft_ms: Sequence[float] = (),
    interest: float = INTEREST,
) -> dict[Load, SloMap]:
    """The map of each load that has one (`mappable`), on its default grid and the bounds `ttft_ms`."""
    found = {}
    for load, mine in mappable(sweeps).items():
        rows, columns = grid(mine, share, marked=marked, ttft_ms=ttft_ms)
        found[load] = slo_map(mine, share, ttft_ms=rows, tpot_ms=columns, interest=interest)
    return found


def slo_map(
    sweeps: Sequence[Sweep],
    share: float,
    *,
    ttft_ms: Sequence[float] | None = None,
    tpot_ms: Sequence[float] | None = None,
    marked: Sequence[Mark] = (),
    interest: float = INTEREST,
) -> SloMap:
    """The map of one load's sweeps; without bounds, on the default grid with those of `marked`. Raises ResultsError for sweeps of
    several loads, or of none."""
    loads = list(by_load(sweeps))
    if len(loads) != 1:
        raise ResultsError(f"slo_map: sweeps of {len(loads)} loads; it takes those of one load")
    default = ((), ()) if ttft_ms and tpot_ms else grid(sweeps, share, marked=marked)
    rows, columns = (tuple(sorted(set(given or usual))) for given, usual in zip((ttft_ms, tpot_ms), default, strict=True))
    cells = {(row, column): cell_of(sweeps, row, column, share, interest=interest) for row in rows for column in columns}
    highest = max(quantiles(sweeps, "tpot_ms", [share]), default=math.inf)
    return SloMap(loads[0], share, rows, columns, cells, columns[-1] >= highest)


def cell_of(sweeps: Sequence[Sweep], ttft_ms: float, tpot_ms: float, share: float, *, interest: float = INTEREST) -> Cell:
    """What the sweeps of one load say of one SLO."""
    bounds: Slo = {"ttft_ms": ttft_ms, "tpot_ms": tpot_ms}
    separate, together = scores(sweeps, bounds, share)
    arms: Arms = {**separate, **together}
    known = capacities_of(arms, {sweep.series: sweep.gpus for sweep in sweeps})
    if all(is_missed(score) for some in arms.values() for score in some):
        return Cell(ttft_ms, tpot_ms, share, NOTHING, None, None, known)
    ratio = compare(separate, together, interest=interest)
    if ratio is None:
        return Cell(ttft_ms, tpot_ms, share, UNDECIDED, None, None, known)
    decision = Decision({}, CAPACITY, ratio, OUTCOMES.get(ratio.outcome, UNDECIDED))
    return Cell(ttft_ms, tpot_ms, share, decision.outcome, decision.leaning, ratio, known)


def is_missed(score: Score) -> bool:
    """Whether a start missed the SLO at the lowest rate that was measured. A start of which nothing is known has no upper end
    either, and has missed nothing."""
    return math.isnan(score.value) and score.low == -math.inf and score.high < math.inf


def capacities_of(arms: Arms, gpus: Mapping[str, float]) -> dict[str, tuple[float, float, float]]:
    """Requests/s per GPU of each arm over its starts, with the 95 % interval. A score is per GPU already."""
    spread = spreads(arms)
    return {arm: tuple(map(_exp, interval(arm, spread, arms[arm]))) for arm in sorted(gpus)}  # type: ignore[misc]


def _exp(value: float) -> float:
    return math.inf if value == math.inf else math.exp(value)


def answer(asked: SloMap, ttft_ms: float) -> list[str]:
    """Sentences for one bound on TTFT: `For TTFT ≤ 500 ms for 90 % of the requests: for TPOT bounds from 7 to 9 ms disaggregate
    (…); for a TPOT bound of 12 ms it cannot be told (…); …`. Neighbouring bounds with one outcome are said together. Raises
    ResultsError for a bound that the map lacks."""
    return [_sentence(asked, ttft_ms), *_caution([asked], ttft_ms)]


def answers(asked: SloMap, others: Sequence[SloMap], ttft_ms: float) -> list[str]:
    """The answer for one share, and for each other share whose outcomes differ from it. Raises ResultsError as `answer`."""
    rest = [other for other in others if other.share != asked.share]
    alike = [other for other in rest if _outcomes(other, ttft_ms) == _outcomes(asked, ttft_ms)]
    differ = [other for other in rest if other not in alike]
    shares = " and for ".join(f"{100 * other.share:g} %" for other in alike)
    same = [f"For {shares} of the requests the outcome is the same at every TPOT bound."] if alike else []
    said = [_sentence(each, ttft_ms, says_starts=False) for each in differ]
    return [_sentence(asked, ttft_ms), *said, *same, *_caution([asked, *differ], ttft_ms)]


def answer_of_sweeps(
    sweeps: Sequence[Sweep], share: float, ttft_ms: float, *, marked: Sequence[Mark] = (), interest: float = INTEREST
) -> list[str]:
    """The sentences of `answers` for one load's sweeps, without the cells of other bounds on TTFT."""
    _, columns = grid(sweeps, share, marked=marked)
    rows = {each: slo_map(sweeps, each, ttft_ms=[ttft_ms], tpot_ms=columns, interest=interest) for each in shares_with(share)}
    return answers(rows[share], list(rows.values()), ttft_ms)


def _caution(said: Sequence[SloMap], ttft_ms: float) -> list[str]:
    tells = any(cell.outcome != NOTHING for each in said for cell in each.row(ttft_ms))
    return [EACH_ALONE] if tells else []


def _outcomes(asked: SloMap, ttft_ms: float) -> list[tuple[float, str, str | None]]:
    return [(cell.tpot_ms, cell.outcome, cell.leaning) for cell in asked.row(ttft_ms)]


def _sentence(asked: SloMap, ttft_ms: float, *, says_starts: bool = True) -> str:
    row = asked.row(ttft_ms)
    ranges = [list(some) for _, some in groupby(row, key=lambda cell: (cell.outcome, cell.leaning))]
    parts = [f"for {_range_text(asked, some)} {_outcome_text(some)}" for some in ranges]
    text = f"For TTFT ≤ {ttft_ms:g} ms for {100 * asked.share:g} % of the requests: {'; '.join(parts)}"
    known = f"; what other starts would show is not known ({MORE_STARTS})"
    return f"{text}{known if says_starts and any(cell.outcome == ONE_START for cell in row) else ''}."


def _range_text(asked: SloMap, cells: Sequence[Cell]) -> str:
    """The TPOT bounds of neighbouring cells, in words. Nothing meets a bound that is tighter than one that nothing meets."""
    low, high = cells[0].tpot_ms, cells[-1].tpot_ms
    if len(cells) == len(asked.tpot_ms) and cells[0].outcome == NOTHING and asked.reaches_top:
        return "every TPOT bound"
    if low == asked.tpot_ms[0] and cells[0].outcome == NOTHING:
        return f"TPOT bounds of {high:g} ms and less"
    if high == asked.tpot_ms[-1] and asked.reaches_top:
        return f"TPOT bounds of {low:g} ms and more"
    return f"a TPOT bound of {low:g} ms" if low == high else f"TPOT bounds from {low:g} to {high:g} ms"


SAID = {
    DISAGGREGATE: "disaggregate",
    TOGETHER: "do not disaggregate",
    SAME: f"the two are {SAME_WITHIN}",
    UNDECIDED: "it cannot be told",
}


def _least(ratio: Comparison) -> float:
    """The number that a ratio is said by: itself, or the end that is known where the other is open."""
    return ratio.low if ratio.high == math.inf else ratio.high if ratio.low <= 0 else ratio.value


def _outcome_text(cells: Sequence[Cell]) -> str:
    """What cells of one outcome say: `do not disaggregate (pd_1p3d meets it at 0.6 [0.5, 0.7] times the requests/s per GPU of
    route_4)`. A ratio that is open at both ends says nothing."""
    if cells[0].outcome == NOTHING:
        return NOTHING
    known = (cell.ratio for cell in cells if cell.ratio and (cell.ratio.low > 0 or cell.ratio.high < math.inf))
    closed = sorted(known, key=_least)
    if not closed:
        return _said(cells[0], "", "")
    first, second = (" or ".join(dict.fromkeys(names)) for names in zip(*((r.first, r.second) for r in closed), strict=True))
    span = ratio_text(closed[0]) + (f" to {ratio_text(closed[-1])}" if len(closed) > 1 else "")
    return f"{_said(cells[0], first, second)} ({first} meets it at {span} times the requests/s per GPU of {second})"


def _said(cell: Cell, first: str, second: str) -> str:
    if cell.outcome != ONE_START:
        return with_interest(SAID[cell.outcome], cell.ratio.interest) if cell.ratio else SAID[cell.outcome]
    if cell.leaning is None:
        return "the one start of each arm does not tell the two apart"
    return f"in the one start of each arm {first if cell.leaning == DISAGGREGATE else second} is better"
