"""Simulated servers in, rate sweeps of known capacity out: as sweeps in memory, or as a run folder with records and request files.

The plain arm prefills more prompts a second; the P/D arm's tokens take hardly longer beside others. So the P/D arm is better under
a tight bound on TPOT, and the plain arm under a loose one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from analysis.stats.capacity import RatePoint, judged
from analysis.stats.sweeps import Sweep
from pdslurm.records.measurement import REQUEST_COLUMNS, Check
from pdslurm.records.run_folder import RunFolder
from tests.served import Column, Server, requests_of
from tests.synthetic import Arm, Setting, record, write_csv

RATES = (2.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 16.0, 20.0, 24.0)
SPEEDS = (1.0, 1.01, 0.99)  # of an arm's starts


@dataclass(frozen=True)
class Swept:
    """An arm by its server; `prefill` instances, of four, prefill alone."""

    name: str
    server: Server
    prefill: int = 0

    def is_overloaded(self, rate_per_s: float, speed: float) -> bool:
        return rate_per_s * self.server.prefill_s / speed > 1.02


PLAIN = Swept("route_4", Server(prefill_s=0.05, per_answer_s=0.0003))
SEPARATE = Swept("pd_2p2d", Server(prefill_s=0.07, per_answer_s=0.00005), prefill=2)
ARMS = (PLAIN, SEPARATE)


def requests(arm: Swept, start: int, rate_per_s: float, duration_s: float) -> Mapping[str, Column]:
    rng = np.random.default_rng([start, int(10 * rate_per_s), arm.prefill])
    return requests_of(arm.server, SPEEDS[start], rate_per_s, duration_s, rng)


def sweeps(
    arms: Sequence[Swept] = ARMS, *, starts: int = 3, rates: Sequence[float] = RATES, duration_s: float = 60.0
) -> list[Sweep]:
    """A sweep of each arm and start, over four GPUs."""
    load = (128.0, 128.0, float("inf"), "random")
    found = []
    for arm in arms:
        for start in range(starts):
            points = tuple(
                RatePoint(rate, judged(requests(arm, start, rate, duration_s)), overloaded=arm.is_overloaded(rate, SPEEDS[start]))
                for rate in rates
            )
            found.append(Sweep(arm.name, arm.prefill > 0, 4.0, load, start, points))
    return found


def write_run(
    folder: Path,
    *,
    arms: Sequence[Swept] = ARMS,
    starts: int = 3,
    rates: Sequence[float] = RATES,
    duration_s: float = 30.0,
    slo: str = "  ttft_ms: 500.0\n  tpot_ms: 25.0\n  share: 0.9\n",
) -> Path:
    """The same as records and request files, with a config.yaml that names the SLO."""
    run = RunFolder(folder)
    for arm in arms:
        for start in range(starts):
            for rate in rates:
                _save(run, arm, start, rate, requests(arm, start, rate, duration_s))
    (folder / "config.yaml").write_text(f"slo:\n{slo}")
    return folder


def _save(run: RunFolder, arm: Swept, start: int, rate: float, columns: Mapping[str, Column]) -> None:
    overloaded = arm.is_overloaded(rate, SPEEDS[start])
    wrong = (Check("steady_state", False, "the queue grows", {"holds_rate": False}),) if overloaded else ()
    at = Setting(input_len=128, output_len=128, rate=rate, prompts=len(columns["ok"]), sweep="rates")
    named = Arm(arm.name, prefill=arm.prefill)
    made = record(named, at, start, dict(columns), valid=not overloaded, checks=wrong, invalid_reasons=tuple(c.said for c in wrong))
    made = replace(made, point={**made.point, "repeat": 0, "start": start})
    run.save(made)
    rows = np.column_stack([columns[name] for name in REQUEST_COLUMNS])
    write_csv(run.beside_raw(made, "requests"), REQUEST_COLUMNS, ([f"{value:.6g}" for value in row] for row in rows))
