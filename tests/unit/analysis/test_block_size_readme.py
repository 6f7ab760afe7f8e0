"""The raw data of results/h100x2/block_size in; every table of its README, recomputed, out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from analysis.load.frame import load_runs
from analysis.stats import repeats
from analysis.stats.inference import ratio_text
from analysis.stats.slo_map import NOTHING, cell_of
from analysis.stats.sweeps import sweeps_of
from analysis.stats.verdict import DISAGGREGATE, TOGETHER, UNDECIDED
from pdslurm.records.good_requests import judged_from_s, read_requests
from pdslurm.records.gpu_time import loads_of, set_times
from pdslurm.records.measurement import Measurement
from pdslurm.records.run_folder import RunFolder

RUN = Path(__file__).parents[3] / "results" / "h100x2" / "block_size"
ARMS = {"route_2": "Route 2", "pd_1p1d": "1P1D", "pd_1p1d_block_128": "1P1D, blocks of 128"}
BETTER = {DISAGGREGATE: "1P1D, blocks of 128", TOGETHER: "Route 2", UNDECIDED: "cannot be told", NOTHING: "no arm meets it"}


@cache
def records() -> list[Measurement]:
    found = [record for record in RunFolder(RUN).records() if record.status == "done"]
    return sorted(found, key=lambda record: (record.point["request_rate"], list(ARMS).index(record.arm), record.point["repeat"]))


@cache
def judged() -> pd.DataFrame:
    return repeats.judge(load_runs([RUN]))


def start(record: Measurement) -> int:
    """Each start has one repeat here."""
    return int(record.point["repeat"]) + 1


def within(record: Measurement, tpot_ms: float) -> float:
    """The share of the judged requests within TTFT 500 ms and a TPOT."""
    requests = read_requests(RunFolder(RUN).beside_raw(record, "requests"))
    begin = judged_from_s([r["start_s"] or 0.0 for r in requests], [r["e2el_ms"] or 0.0 for r in requests])
    kept = [r for r in requests if (r["start_s"] or 0.0) >= begin]
    good = [r for r in kept if (r["ttft_ms"] or 1e9) <= 500 and (r["tpot_ms"] or 1e9) <= tpot_ms]
    return len(good) / len(kept)


def measurements() -> Iterator[str]:
    for record in records():
        m, totals = record.metrics, record.telemetry["totals"]
        moved = totals["nixl_transfers"]
        posted = f"{1000 * totals['nixl_post_time_s'] / moved:.1f}" if moved else ""
        took = f"{1000 * totals['nixl_transfer_time_s'] / moved:.1f}" if moved else ""
        shares = " | ".join(f"{within(record, limit):.0%}".replace("%", " %") for limit in (10, 15, 25))
        note = "" if record.valid else " (invalid: the queue grows)"
        yield (
            f"| {record.point['request_rate']:g} | {ARMS[record.arm]}{note} | {start(record)} | "
            f"{m['mean_ttft_ms']:,.0f} | {m['mean_tpot_ms']:.1f} | {m['p90_tpot_ms']:.1f} | {m['p99_itl_ms']:.0f} | "
            f"{posted} | {took} | {shares} |"
        )


def limits_of(ttft_ms: float) -> Iterator[str]:
    sweeps = sweeps_of(judged())
    for tpot in (8, 9, 10, 12, 15, 20, 25, 40):
        cell = cell_of(sweeps, ttft_ms, tpot, 0.9)
        gpus = {sweep.series: sweep.gpus for sweep in sweeps}
        each = [capacity(*(n * gpus[arm] for n in cell.capacities[arm])) for arm in ARMS]
        ratio = ratio_text(cell.ratio) if cell.ratio else ""
        yield f"| {tpot} ms | {' | '.join(each)} | {ratio} | {BETTER[cell.outcome]} |"


def limits() -> Iterator[str]:
    yield from limits_of(500)


def looser_limits() -> Iterator[str]:
    yield from limits_of(1000)


def capacity(value: float, low: float, high: float) -> str:
    if low <= 0:
        return f"{high:.3g} or less"
    return f"{low:.3g} or more" if high == float("inf") else f"{value:.3g} [{low:.3g}, {high:.3g}]"


def gpus() -> Iterator[str]:
    for record in records():
        if record.valid:
            used = [gpu for node in record.telemetry["gpu_use"].values() for gpu in node]
            seconds = record.metrics["duration_s"] or 0.0
            tokens = (record.metrics["output_throughput_tok_s"] or 0.0) * seconds
            clocks = " and ".join(f"{gpu['mean_sm_mhz']:,.0f}" for gpu in used)
            watts = " and ".join(f"{gpu['mean_power_w']:.0f}" for gpu in used)
            held = [gpu["slowed_s"]["power cap"] for node in record.telemetry["gpus"].values() for gpu in node]
            shares = " and ".join(f"{min(capped / seconds, 1):.0%}".replace("%", " %") for capped in held)
            joules = sum(gpu["energy_j"] for gpu in used) / tokens
            which = f"{record.point['request_rate']:g} | {ARMS[record.arm]} | {start(record)}"
            yield f"| {which} | {joules:.3f} | {watts} | {clocks} | {shares} |"


def times() -> Iterator[str]:
    for each in set_times(loads_of(RunFolder(RUN))):
        yield f"| {ARMS[each.set]} | {each.loads} | {each.load_s:.0f} s | {each.ready_s:.0f} s | {each.share:.0%} |".replace(
            "%", " %"
        )


@pytest.mark.parametrize("table", [measurements, limits, looser_limits, gpus, times])
def test_every_row_is_what_the_data_say(table: object) -> None:
    page = (RUN / "README.md").read_text(encoding="utf-8").splitlines()
    rows = list(table())  # type: ignore[operator]
    assert rows
    missing = [row for row in rows if row not in page]
    assert not missing, "\n".join(["make these rows:", *rows])
