"""Rate sweeps and an SLO in; tables of every arm's capacity out, with intervals, each start's own value and what they stand on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from analysis.figures.panels import fixed_text
from analysis.load.slo import Slo, slo_text
from analysis.report.markup import Markup, html_table, join, tag
from analysis.stats.capacity import Capacity
from analysis.stats.inference import digits
from analysis.stats.sweeps import LOAD, ArmCapacity, Load, Sweep, arm_capacities

HEADING = ["arm", "GPUs", "requests/s", "requests/s per GPU", "each start, requests/s", "requests", "worth independent"]
MEANS = (
    "The capacity of an arm is the highest request rate at which it meets the SLO. Its interval is the 95 % interval over starts; "
    "of one start it holds for that start. The requests are those of the point nearest to the capacity, as a mean over starts, and "
    "the last column says how many independent requests they are worth."
)


def capacity_tables(sweeps: Sequence[Sweep], known: tuple[Slo, float] | None) -> Markup | None:
    """A table for each load with a row for each arm; None where no rate was swept or no SLO is named."""
    if not sweeps or not known:
        return None
    bounds, share = known
    slo = f"{slo_text(bounds)}, for {100 * share:g} % of the requests"
    tables = []
    for load, mine in groupby(arm_capacities(sweeps, bounds, share), key=lambda each: each.load):
        rows = [_row(each) for each in mine]
        tables.append(html_table(HEADING, rows, caption=f"Capacity under the SLO: {slo}; {load_text(load)}", numbers=2))
    return join([tag("p", MEANS, class_="soft"), *tables])


def _row(each: ArmCapacity) -> list[object]:
    """Cells under HEADING."""
    starts = join(tag("div", of_start(start)) for start in each.starts)
    worth = (f"{each.requests:.0f}", f"{each.effective:.0f}") if each.requests else ("-", "-")
    return [each.series, f"{each.gpus:g}", within(each.value, each.low, each.high), within(*each.per_gpu), starts, *worth]


def load_text(load: Load) -> str:
    """`input 2048 tokens, output 128 tokens, no bound in flight, random`."""
    named: dict[str, float | str] = dict(zip(LOAD, load, strict=True))
    return ", ".join(fixed_text(name, value) for name, value in named.items())


def of_start(start: Capacity) -> str:
    """A start's own capacity. Its value is not known where no two rates lie on both sides of it: then the bounds are."""
    if math.isnan(start.value) and start.low > 0 and start.high < math.inf:
        return f"from {digits(start.low)} to {digits(start.high)}"
    return within(start.value, start.low, start.high)


def within(value: float, low: float, high: float) -> str:
    """`7.6 [5.4, 8.6]`, or what is known of it: `5.4 or more`, `8.6 or less`, `not known`."""
    if low <= 0 and high == math.inf:
        return "not known"
    if low <= 0 or high == math.inf:
        return f"{digits(high)} or less" if low <= 0 else f"{digits(low)} or more"
    return f"{digits(value)} [{digits(low)}, {digits(high)}]"
