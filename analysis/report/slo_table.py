"""Loaded records in, the map of SLOs out as text or CSV: a row for each pair of bounds, and the answer for one bound on TTFT."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.load.slo import SHARE
from analysis.report.columns import aligned
from analysis.report.summary import WIDTH, number_text
from analysis.stats import repeats
from analysis.stats.inference import ratio_text
from analysis.stats.slo_grid import own_mark
from analysis.stats.slo_map import Cell, SloMap, answer_of_sweeps, mappable, slo_maps
from analysis.stats.sweeps import LOAD, Load, Sweep, interest_of, slo_of, sweeps_of
from pdslurm.errors import ResultsError

COLUMNS = ("share", "ttft_ms", "tpot_ms", "outcome", "leaning", "pd_arm", "other_arm", "ratio", "ratio_low", "ratio_high")
ENDS = ("", "_low", "_high")
ABOVE = "ratio: the P/D arm's capacity over the other arm's; capacities in requests/s per GPU; each with its 95 % interval"


def slo_table(frame: pd.DataFrame, share: float | None = None, ttft_ms: float | None = None, *, as_csv: bool = False) -> str:
    """The map of every load that has one. Raises ResultsError where none has, and for a share or a bound that is none."""
    judged = repeats.judge(frame)
    bounds, own_share = slo_of(judged) or ({}, SHARE)
    share, ttft_ms = _checked(own_share if share is None else share, bounds.get("ttft_ms") if ttft_ms is None else ttft_ms)
    sweeps = sweeps_of(judged)
    own, interest = own_mark(bounds, own_share), interest_of(judged)
    maps = slo_maps(sweeps, share, marked=own, ttft_ms=[ttft_ms] if ttft_ms else [], interest=interest)
    if not maps:
        raise ResultsError(
            "slo-map: at no load were two request rates or more measured on both kinds of arms (with separate prefill and decode "
            "instances, and without) with answers that were streamed; a map needs that"
        )
    if as_csv:
        return to_csv(maps)
    loads = mappable(sweeps)
    said = {
        load: answer_of_sweeps(mine, share, ttft_ms, marked=own, interest=interest) if ttft_ms else []
        for load, mine in loads.items()
    }
    gone = repeats.withdrawn_text(judged)
    texts = [to_text(maps[load], loads[load], said[load]) for load in maps]
    return "\n".join([*([f"{gone}.\n"] if gone else []), *texts])


def _checked(share: float, ttft_ms: float | None) -> tuple[float, float | None]:
    if not 0 < share < 1:
        raise ResultsError(f"share={share:g}: must be above 0 and below 1, as 0.9 for 90 % of the requests")
    if ttft_ms is not None and not 0 < ttft_ms < float("inf"):
        raise ResultsError(f"ttft={ttft_ms:g}: must be a number of ms above 0")
    return share, ttft_ms


def to_csv(maps: Mapping[Load, SloMap]) -> str:
    """RFC 4180 with a header; ARM_per_s_gpu, ARM_per_s_gpu_low and _high for each arm, 0 and inf where an end is open. What is not
    known is an empty field."""
    arms = sorted({arm for one in maps.values() for cell in one.cells.values() for arm in cell.capacities})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*LOAD, *COLUMNS, *(f"{arm}_per_s_gpu{end}" for arm in arms for end in ENDS)])
    for load, one in maps.items():
        writer.writerows([*(_cell(value) for value in load), *csv_row(cell, arms)] for cell in one.cells.values())
    return text.getvalue()


def csv_row(cell: Cell, arms: Sequence[str]) -> list[str]:
    """COLUMNS, and the capacities of the arms, of those that were not measured at this load empty."""
    ratio = cell.ratio
    numbers = [ratio.first, ratio.second, ratio.value, ratio.low, ratio.high] if ratio else [None] * 5
    known = [value for arm in arms for value in cell.capacities.get(arm, (None, None, None))]
    return [_cell(value) for value in (cell.share, cell.ttft_ms, cell.tpot_ms, cell.outcome, cell.leaning, *numbers, *known)]


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float | int) else str(value)


def to_text(one: SloMap, sweeps: Sequence[Sweep], said: Sequence[str]) -> str:
    """The sentences, and a table with a row for each pair of bounds."""
    inputs, outputs, _, name = one.load
    what = f"{inputs:g} tokens in, {outputs:g} out" if name == "random" else name
    arms = list(dict.fromkeys(sweep.series for sweep in sweeps))
    cells = [["ttft_ms", "tpot_ms", "outcome", "P/D arm", "other arm", "ratio", *arms]]
    cells += [text_row(cell, arms) for cell in one.cells.values()]
    head = [f"{what}, {100 * one.share:g} % of the requests"]
    filled = [textwrap.fill(line, WIDTH, break_long_words=False, break_on_hyphens=False) for line in said]
    return "\n".join([*head, *filled, "", ABOVE, *aligned(cells, left=2), ""])


def text_row(cell: Cell, arms: Sequence[str]) -> list[str]:
    ratio = cell.ratio
    outcome = f"{cell.outcome}: {cell.leaning}" if cell.leaning else cell.outcome
    named = [ratio.first, ratio.second, ratio_text(ratio)] if ratio else ["-", "-", "-"]
    return [f"{cell.ttft_ms:g}", f"{cell.tpot_ms:g}", outcome, *named, *(capacity_text(cell.capacities[arm]) for arm in arms)]


def capacity_text(known: tuple[float, float, float]) -> str:
    """`1.61 [1.50, 1.72]`; `1.50 or more`, `1.72 or less` where an end is open, and `-` where both are."""
    value, low, high = known
    if low > 0 and high < float("inf"):
        return f"{number_text(value)} [{number_text(low)}, {number_text(high)}]"
    return f"{number_text(low)} or more" if low > 0 else f"{number_text(high)} or less" if high < float("inf") else "-"
