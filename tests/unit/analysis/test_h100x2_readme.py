"""The raw data of results/h100x2/should_i in; what results/h100x2/README.md answers and takes back, recomputed, out.

A section is a function that yields words of the page with the numbers that the data give. All of them have to stand on it, and no
number may stand there that neither a section nor NOT_RECOMPUTED covers: whoever edits a number breaks a test. The page's other
half, which needs no rate sweep, is recomputed in tests/unit/records/test_published_results.py, and what the newer run answers in
tests/unit/analysis/test_block_size_readme.py."""

from __future__ import annotations

import math
import re
import statistics
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis.load import request_files
from analysis.load.frame import load_runs
from analysis.report.summary import summary
from analysis.stats import repeats
from analysis.stats.capacity import judged
from analysis.stats.findings import power_cap_shares
from analysis.stats.inference import ratio_text
from analysis.stats.slo_grid import SHARES, own_mark
from analysis.stats.slo_map import NOTHING, Cell, SloMap, slo_maps
from analysis.stats.sweeps import ArmCapacity, Sweep, arm_capacities, slo_of, sweeps_of
from analysis.stats.verdict import DISAGGREGATE, TOGETHER
from pdslurm.config import Search
from pdslurm.plan.render import STEADY_S
from pdslurm.records.good_requests import is_good
from pdslurm.records.measurement import Measurement
from pdslurm.records.run_folder import RunFolder
from pdslurm.records.t_interval import half_width
from tests.unit.records.test_published_results import (
    ARMS,
    FIRST,
    H100,
    HOW,
    NEWER,
    PD,
    README,
    ROUTE,
    digits,
    metric,
    span,
    uncovered,
)

PAGE = README[: README.index(NEWER)] + README[README.index(FIRST) : README.index(HOW)]
BOTH_RATES = (9.54, 11.9, 14.9)  # that both arms have valid measurements of
OWN = (500.0, 25.0)  # the run's own limits on TTFT and TPOT, in ms

# What this half of the page says and this run's data cannot: phrase → why not.
NOT_RECOMPUTED = {
    "Llama-3.1-8B": "the name of a model",
    "Route 2": "the name of an arm",
    "95 % interval": "the level of an interval, which is a convention",
    "95 % statement": "the same",
    "not 0.004 %": "what the page used to say",
}


@dataclass(frozen=True)
class Run:
    """What the raw data say: the records, today's judgement of them, the rate sweeps, the map of SLOs of each share, the
    capacities under the run's own SLO, and the summary."""

    records: Sequence[Measurement]
    judged: pd.DataFrame
    sweeps: Sequence[Sweep]
    maps: dict[float, SloMap]
    capacities: dict[str, ArmCapacity]
    summary: str

    def of(self, arm: str, rate: float | None = None, *, valid: bool = True) -> list[Measurement]:
        """An arm's measurements at a rate, or at all, in the order of their repeats."""
        mine = [r for r in self.records if r.arm == arm and r.valid is valid and rate in (None, r.point["request_rate"])]
        return sorted(mine, key=lambda r: int(r.point["repeat"]))


@pytest.fixture(scope="module")
def run() -> Run:
    frame = load_runs([H100])
    judged = repeats.judge(frame)
    known = slo_of(judged)
    assert known
    sweeps = sweeps_of(judged)
    maps = {share: next(iter(slo_maps(sweeps, share, marked=own_mark(*known)).values())) for share in SHARES}
    capacities = {each.series: each for each in arm_capacities(sweeps, *known)}
    return Run(tuple(RunFolder(H100).records()), judged, sweeps, maps, capacities, " ".join(summary(frame).split()))


def capacity_of(cell: Cell, arm: str) -> str:
    """In requests/s of the arm's two GPUs."""
    value, low, high = (2 * end for end in cell.capacities[arm])
    return f"{digits(value)} [{digits(low)}, {digits(high)}]" if low > 0 else f"{digits(high)} or less"


def answer(run: Run) -> Iterator[str]:
    own = run.maps[0.9].cells[OWN]
    assert own.ratio
    assert "cannot be told from one start of each arm" in run.summary
    assert {len(each.starts) for each in run.capacities.values()} == {1}
    yield "In this run the engines of each arm were started once, so that every number from here on is true of that one start"
    yield "Every request has 2048 tokens in and 128 out."
    assert {(r.point["input_len"], r.point["output_len"]) for r in run.records} == {(2048, 128), (2048, 1)}
    slo = yaml.safe_load((H100 / "config.yaml").read_text())["slo"]
    bounds = f"TTFT ≤ {slo['ttft_ms']:g} ms and TPOT ≤ {slo['tpot_ms']:g} ms"
    yield f"The run's own SLO is {bounds} for {100 * slo['share']:g} % of the requests."
    both = (f"{ARMS[arm]} serves up to {capacity_of(own, arm)} requests/s" for arm in ARMS)
    yield f"Under it {', and '.join(both)}."
    yield f"So in this start 1P1D serves {ratio_text(own.ratio)} times the requests/s per GPU of Route 2."
    pattern = r"GPU-hours for a million output tokens at 2048/128: pd_1p1d ([\d.]+\d), route_2 ([\d.]+\d)"
    ((separate, plain),) = re.findall(pattern, run.summary)
    yield f"a million output tokens cost {plain} GPU-hours with Route 2 and {separate} with 1P1D."


def other_limits(run: Run) -> Iterator[str]:
    slo = yaml.safe_load((H100 / "config.yaml").read_text())["slo"]
    yield f"Share of the requests within TTFT {slo['ttft_ms']:g} ms and TPOT {slo['tpot_ms']:g} ms by request rate per GPU"
    yield f"Other limits on TPOT, with TTFT ≤ {slo['ttft_ms']:g} ms for {100 * slo['share']:g} % of the requests:"
    yield from (slo_row(cell) for cell in run.maps[0.9].row(500.0))


def slo_row(cell: Cell) -> str:
    met = cell.outcome != NOTHING
    said = {TOGETHER: "Route 2 serves more", DISAGGREGATE: "1P1D serves more", None: "cannot be told"}[cell.leaning]
    ratio = f" {ratio_text(cell.ratio)} " if cell.ratio and met else " "
    arms = " | ".join(capacity_of(cell, arm) for arm in ARMS)
    return f"| {cell.tpot_ms:g} ms | {arms} |{ratio}| {said if met else 'neither arm meets it'} |"


def slo_counts(run: Run) -> Iterator[str]:
    one = run.maps[0.9]
    rows, columns = (f"{len(some)} limits on {name} ({some[0]:g} to {some[-1]:g} ms)" for name, some in
                     (("TTFT", one.ttft_ms), ("TPOT", one.tpot_ms)))  # fmt: skip
    yield f"for {rows} and {columns}, which are {len(one.cells)} SLOs for each share of the requests:"
    for share, each in run.maps.items():
        leanings = [cell.leaning if cell.outcome != NOTHING else NOTHING for cell in each.cells.values()]
        yield f"| {100 * share:g} % | {' | '.join(str(leanings.count(kind)) for kind in (TOGETHER, None, NOTHING, DISAGGREGATE))} |"


def cautions(run: Run) -> Iterator[str]:
    lowest = min(float(p.rate_per_s) for sweep in run.sweeps for p in sweep.points)
    yield f"both miss the SLO at {lowest:g} requests/s, the lowest rate that was measured"
    first = {arm: metric(run.of(arm, lowest), "p90_ttft_ms")[0] for arm in ARMS}
    yield f"At that rate 90 % of Route 2's requests had their first token within {first[ROUTE]:.0f} ms, "
    yield f"and 90 % of 1P1D's within {first[PD]:.0f} ms."
    sending = [r.provenance["client"]["sending_s"] for r in run.records if r.point["request_rate"] and r.valid]
    yield f"A measurement lasted about {span(sending, '{:.0f}'.format)} s, which is short: today's plan warns below {STEADY_S:g} s."
    worth = {arm: run.capacities[arm] for arm in ARMS}
    yield f"{worth[PD].requests:.0f} requests of 1P1D near its capacity are worth {worth[PD].effective:.0f} independent ones, "
    yield f"and {worth[ROUTE].requests:.0f} of Route 2 are worth {worth[ROUTE].effective:.0f}."
    counts = [len(p.requests["ok"]) for sweep in run.sweeps for p in sweep.points]
    may_miss = [math.floor(count * 0.01) for count in counts]
    yield f"The row of 99 % is worth least: of the {span(counts, '{:.0f}'.format)} judged requests of a measurement only "
    yield f"of a measurement only {span(may_miss, '{:.0f}'.format)} may miss the SLO"
    yield f"today's plan sends at least {Search().beyond / (1 - 0.99):,.0f} for that share."


def overload(run: Run) -> Iterator[str]:
    (grew,), tries = run.of(ROUTE, 29.1, valid=False), 1 + len(run.of(ROUTE, 29.1))
    above = [c.tpot_ms for c in run.maps[0.9].row(500.0) if 2 * c.capacities[ROUTE][0] > grew.point["request_rate"]]
    yield f"For TPOT limits of {above[0]:g} ms and more Route 2's capacity lies above {grew.point['request_rate']:g} requests/s, "
    yield f"at which its queue grew in 1 of {tries} measurements"


def unverified(run: Run) -> Iterator[str]:
    yield (said := "this shows that the machinery works; it is not a result")
    assert said in run.summary
    used = run.judged[run.judged["use"] == "used"]
    lacking = used[used["unverified"].map(lambda names: list(names) == ["text"])]
    assert set(lacking["series"]) == {PD}
    assert len(lacking) == (used["unverified"].map(len) > 0).sum()
    yield f"{len(lacking)} valid measurements of 1P1D are unverified for that reason."


def old_numbers(run: Run) -> Iterator[str]:
    """The highest rate at which each repeat met the SLO, as the code of that day took it for exact and paired it."""
    own = run.maps[0.9].cells[OWN].ratio
    assert own
    yield f"What is true instead is {ratio_text(own)}, and only within the one start."
    route, pd_rates = (best_of_repeats(run, arm) for arm in ARMS)
    assert len(set(route)) == 1
    yield f"(three times {route[0]:g} against {pd_rates[0]:g}, {pd_rates[1]:g} and {pd_rates[2]:g}) for its exact capacity"
    logs = [math.log(one / other) for one, other in zip(pd_rates, route, strict=True)]
    low, value, high = (math.exp(statistics.fmean(logs) + step * half_width(logs)) for step in (-1, 0, 1))
    yield f'"1P1D holds {value:.3g} times the requests/s per GPU of Route 2, 95 % interval [{low:.2g}, {high:.3g}] from the three '
    inverse = f"by {100 / value - 100:.1f} % [{100 / high - 100:.3g}, {100 / low - 100:.3g}]"
    assert inverse in (H100 / "second_part.txt").read_text()
    yield f'"{inverse}", which is withdrawn with them.'
    rates = sorted({float(r.point["request_rate"]) for r in run.records if r.point["request_rate"]})
    (step,) = {f"{100 * (b / a - 1):.0f}" for a, b in pairwise(rates)}
    yield f"though the rates lay {step} % apart."


def best_of_repeats(run: Run, arm: str) -> list[float]:
    met: dict[int, float] = {}
    for record in run.of(arm):
        if (rate := record.point["request_rate"]) and share_within(record, *OWN, every=True) >= 90:
            met[record.point["repeat"]] = max(rate, met.get(record.point["repeat"], 0.0))
    return [met[repeat] for repeat in sorted(met)]


def share_within(record: Measurement, ttft_ms: float, tpot_ms: float, *, every: bool = False) -> float:
    """Per cent of a measurement's judged requests, or of every request."""
    requests = request_files.read(RunFolder(H100).beside_raw(record, "requests"))
    good = is_good(requests if every else judged(requests), {"ttft_ms": ttft_ms, "tpot_ms": tpot_ms}, np.fmax)
    return 100 * float(good.mean())


def tpot(run: Run) -> Iterator[str]:
    names, bounds = ("mean_tpot_ms", "p90_tpot_ms", "p99_tpot_ms", "p99_itl_ms"), (10.0, 12.0, 15.0)
    yield "| mean TPOT, ms | 90th percentile | 99th percentile | 99th percentile of gaps, ms | "
    yield f"gaps, ms | {' | '.join(f'within {bound:g} ms' for bound in bounds)} |"
    yield f"the share of the judged requests within TTFT ≤ {OWN[0]:g} ms and a limit on TPOT:"
    for rate in BOTH_RATES:
        for arm, name in ARMS.items():
            mine = run.of(arm, rate)
            shares = [[share_within(record, OWN[0], bound) for record in mine] for bound in bounds]
            cells = [*(span(metric(mine, each)) for each in names), *(f"{span(each, '{:.0f}'.format)} %" for each in shares)]
            yield f"| {rate:g} | {name} | {len(mine)} | {' | '.join(cells)} |"
        assert min(metric(run.of(PD, rate), "mean_tpot_ms")) > max(metric(run.of(ROUTE, rate), "mean_tpot_ms"))
        assert len(run.of(ROUTE, rate)) == 1


def tpot_words(run: Run) -> Iterator[str]:
    open_ = [c.tpot_ms for c in run.maps[0.9].row(500.0) if c.outcome != NOTHING and c.leaning is None]
    yield f"Under TPOT limits from {open_[0]:g} to {open_[-1]:g} ms (TTFT ≤ 500 ms, 90 %) the capacities cannot be told apart."
    (route,), (first, second) = run.of(ROUTE, 11.9), run.of(PD, 11.9)
    names = ("p90_tpot_ms", "p99_tpot_ms")
    lower = [all(metric([r], name) < metric([route], name) for name in names) for r in (first, second)]
    assert lower == [False, True]
    yield "At 11.9 requests/s one of 1P1D's two measurements has a lower 90th and 99th percentile of TPOT than Route 2, "
    gaps = [metric(run.of(arm, 9.54), "p99_itl_ms")[0] for arm in (PD, ROUTE)]
    assert gaps[0] < gaps[1]
    yield f"at 9.54 requests/s the 99th percentile of 1P1D's gaps between tokens is lower, {gaps[0]:.1f} against {gaps[1]:.1f} ms."


def power_cap(run: Run) -> Iterator[str]:
    capped: dict[bool, list[float]] = {True: [], False: []}  # of decode GPUs, of all others: share of each measurement
    clocks = set()
    for record in run.records:
        for gpu in record.telemetry["gpus"]["localhost"]:
            slowed = dict(gpu["slowed_s"])
            capped[record.arm == PD and gpu["gpu"] == 1].append(100 * slowed.pop("power cap") / metric([record], "duration_s")[0])
            assert set(slowed.values()) == {0.0}, "nothing else slowed it"
            clocks |= {gpu["sm_mhz"], gpu["max_sm_mhz"]}
    assert set(capped[True]) == {0.0}
    ends = span(capped[False], "{:.0f}".format)
    yield f"1P1D's prefill GPU for {ends} % of every measurement, and those of 1P1D's decode GPU never"
    yield f"just before and after the requests, hence {ends.split()[-1]} %."
    share = power_cap_shares(run.judged[run.judged["use"] == "used"])
    yield f"that is {100 * share[ROUTE]:.0f} % of the GPUs' time for Route 2 and {100 * share[PD]:.0f} % for 1P1D."
    (clock,) = clocks
    yield f"`sm_mhz` was read while the GPUs were idle, and is {clock}, the highest, every time."


def smaller(run: Run) -> Iterator[str]:
    """What the other half of the page tells at length."""
    (record,) = run.of(PD, 9.54)
    parts = [record.telemetry["ttft"][f"{name}_ms"] for name in ("handover", "transfer", "first_decode")]
    yield f'"1P1D pays {sum(parts):.0f} ms for moving KV."'
    yield f"first decode step take {sum(parts):.0f} ms together, and the transfer itself takes {parts[1]:.0f} of them."
    yield f"[below](#why-a-transfer-takes-{parts[1]:.0f}-ms) is another one"
    totals = record.telemetry["totals"]
    yield f"by this run's {1e6 * totals['nixl_post_time_s'] / totals['nixl_descriptors']:.1f} µs for each descriptor is withdrawn."
    high = run.of(PD, 23.3, valid=False)[0].telemetry["totals"]
    more = high["nixl_bytes"] / (high["nixl_transfers"] * totals["nixl_bytes"] / totals["nixl_transfers"]) - 1
    yield f"The bytes at 23.3 requests/s were {100 * more:.3f} % above the expected ones, "
    engines = ("route_2/engine0.log", "route_2/engine1.log", "pd_1p1d/engine0.2.log", "pd_1p1d/engine1.2.log")
    with tarfile.open(H100 / "logs.tar.xz") as logs:
        texts = [logs.extractfile(f"./{name}").read().decode(errors="replace") for name in engines]  # type: ignore[union-attr]
    took = [float(seconds) for text in texts for seconds in re.findall(r"torch.compile took ([\d.]+) s", text)]
    assert len(took) == len(engines)
    yield f"torch.compile took {span(took, '{:.0f}'.format)} s in every engine of both arms."


SECTIONS = (answer, other_limits, slo_counts, cautions, overload, unverified, old_numbers, tpot, tpot_words, power_cap, smaller)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_the_page_says_what_the_raw_data_say(section: Callable[[Run], Iterator[str]], run: Run) -> None:
    assert [text for text in section(run) if text not in PAGE] == []


def test_every_number_of_the_page_is_recomputed(run: Run) -> None:
    assert [phrase for phrase in NOT_RECOMPUTED if phrase not in PAGE] == []
    assert uncovered(PAGE, [*NOT_RECOMPUTED, *(text for section in SECTIONS for text in section(run))]) == []
