"""Arms by a seed in, a run folder out whose numbers are made up: records, request files and timelines as a run would write them.

For tests of the analysis alone. Nothing here is a measurement, nor a model of one: arms are named synthetic."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pdslurm.records.measurement import (
    BINS_PER_DECADE,
    LATENCIES,
    REQUEST_COLUMNS,
    STATISTICS,
    TIMELINE_COLUMNS,
    Measurement,
    content_key,
)
from pdslurm.records.run_folder import RunFolder

Column = npt.NDArray[np.float64]
KV_BYTES_PER_TOKEN = 31_104.0


@dataclass(frozen=True)
class Arm:
    """How a made-up arm behaves."""

    name: str
    prefill: int = 0
    instances: int = 4
    prefill_us: float = 60.0  # a token
    step_ms: float = 20.0

    @property
    def roles(self) -> list[str]:
        return ["prefill"] * self.prefill + ["decode" if self.prefill else "both"] * (self.instances - self.prefill)


ARMS = (
    Arm("synthetic_route_4"),
    Arm("synthetic_1p3d", prefill=1, step_ms=14.0),
    Arm("synthetic_2p2d", prefill=2, step_ms=17.0),
    Arm("synthetic_alone", instances=1),
)


@dataclass(frozen=True)
class Setting:
    """One point but for its repeat; `sweep` names its sweep."""

    input_len: int = 512
    output_len: int = 256
    rate: float | None = None
    concurrency: int | None = None
    prompts: int = 200
    sweep: str = "input"
    load: str = "random"


def requests(arm: Arm, at: Setting, repeat: int) -> dict[str, Column]:
    """A column of every one of REQUEST_COLUMNS."""
    rng = np.random.default_rng([repeat, at.input_len, at.output_len, int(10 * (at.rate or 0)), at.concurrency or 0, len(arm.name)])
    n = at.prompts
    start = np.cumsum(rng.exponential(1 / at.rate, n)) if at.rate else np.sort(rng.uniform(0, 0.05, n))
    start -= start[0]
    in_flight = at.concurrency or (4 * at.rate if at.rate else n)
    servers = arm.prefill or arm.instances
    prefill = arm.prefill_us * (at.input_len or 220) / 1000
    queue = prefill * in_flight / servers * rng.uniform(0, 0.8, n)
    transfer = 3.0 + at.input_len * 0.002 if arm.prefill else 0.0
    ttft = (prefill + queue + transfer + 6) * rng.lognormal(0, 0.15, n)
    crowd = 1 + in_flight / (40 * (arm.instances - arm.prefill))
    tpot = arm.step_ms * crowd * (1.0 if arm.prefill else 1 + at.input_len / 6000) * rng.lognormal(0, 0.05, n)
    out = np.full(n, float(at.output_len or 190))
    e2el = ttft + tpot * (out - 1)
    if at.rate:  # even arrivals over several times a request's length: a steady load
        start = np.linspace(0.0, max(n / at.rate, 5 * float(e2el.mean()) / 1000), n)
    lengths = np.full(n, float(at.input_len or 220))
    return dict(zip(REQUEST_COLUMNS, (start, lengths, out, ttft, tpot, tpot * 3, e2el, np.ones(n)), strict=True))


def record(arm: Arm, at: Setting, repeat: int, columns: dict[str, Column], **changes: Any) -> Measurement:
    """The record of one repeat, from its requests."""
    name = f"i{at.input_len}-o{at.output_len}-r{at.rate or 'inf'}-c{at.concurrency or 'inf'}-{at.load}-rep{repeat}"
    point = {
        "id": name,
        "input_len": at.input_len,
        "output_len": at.output_len,
        "request_rate": at.rate,
        "max_concurrency": at.concurrency,
        "num_prompts": at.prompts,
        "repeat": repeat,
        "seed": 1000 + repeat,
        "sweeps": (at.sweep,),
        "load": at.load,
    }
    total_s = (columns["start_s"] + columns["e2el_ms"] / 1000).max() * max(1.0, at.prompts / (at.concurrency or at.prompts))
    values = {"ttft": columns["ttft_ms"], "tpot": columns["tpot_ms"], "itl": columns["tpot_ms"], "e2el": columns["e2el_ms"]}
    metrics: dict[str, float | None] = {
        f"{stat}_{what}_ms": float(v.mean() if stat == "mean" else v.std() if stat == "std" else np.percentile(v, int(stat[1:])))
        for what, v in ((what, values[what]) for what in LATENCIES)
        for stat in STATISTICS
    }
    metrics |= {
        "request_throughput_per_s": at.prompts / total_s,
        "output_throughput_tok_s": float(columns["output_len"].sum()) / total_s,
        "total_throughput_tok_s": float(columns["output_len"].sum() + columns["input_len"].sum()) / total_s,
        "duration_s": total_s,
    }
    made: dict[str, Any] = {
        "key": content_key([arm.name, name, at.prompts]),
        "run": "synthetic",
        "arm": arm.name,
        "source": "measured",
        "status": "done",
        "valid": True,
        "invalid_reasons": (),
        "point": point,
        "arm_info": {"disaggregated": bool(arm.prefill), "gpus": arm.instances, "instances": arm.instances, "roles": arm.roles},
        "started_at": f"2026-03-10T00:00:{repeat:02d}.{int(content_key([arm.name, name]), 16) % 10**6:06d}+00:00",
        "wall_s": total_s,
        "completed": at.prompts,
        "failed": 0,
        "metrics": metrics,
        "telemetry": telemetry(arm, at, float(columns["ttft_ms"].mean())),
        "provenance": {"cautions": ["made-up numbers"]},
        "distributions": {"itl_ms": itl_bins(columns["tpot_ms"])},
    }
    return Measurement(**{**made, **changes})


def telemetry(arm: Arm, at: Setting, ttft: float) -> dict[str, Any]:
    """TTFT's parts, and the transfers of a P/D arm."""
    prefill = min(arm.prefill_us * at.input_len / 1000, 0.6 * ttft)
    transfer = 3.0 + at.input_len * 0.002 if arm.prefill else None
    handover, step = (5.0, 0.5 * arm.step_ms) if arm.prefill else (None, None)
    known = prefill + sum(part for part in (transfer, handover, step) if part)
    queue = max(0.0, 0.9 * ttft - known)
    parts = {
        "api_server_ms": 0.25 * queue,
        "queue_ms": 0.75 * queue,
        "prefill_ms": prefill,
        "handover_ms": handover,
        "transfer_ms": transfer,
        "first_decode_ms": step,
    }
    sums = {"sum_ms": queue + known, "measured_ms": ttft, "error_ms": ttft - queue - known}
    totals = {"nixl_transfers": at.prompts, "nixl_transfer_time_s": at.prompts * transfer / 1000} if transfer else {}
    return {"ttft": {**parts, **sums}, "totals": totals}


def itl_bins(tpot: Column) -> dict[str, int]:
    """Thirty tokens around each request's mean."""
    spread = np.outer(tpot, 10 ** np.linspace(-0.15, 0.45, 30)).ravel()
    bins, counts = np.unique(np.floor(np.log10(spread) * BINS_PER_DECADE).astype(int), return_counts=True)
    return {str(i): int(n) for i, n in zip(bins, counts, strict=True)}


def timeline(arm: Arm, at: Setting, columns: dict[str, Column], look_s: float = 0.25) -> Iterable[Sequence[object]]:
    """Rows of TIMELINE_COLUMNS: requests go to the instances in turn."""
    first = columns["start_s"] + columns["ttft_ms"] / 1000
    last = columns["start_s"] + columns["e2el_ms"] / 1000
    for t in np.arange(0, last.max() + look_s, look_s):
        for i, role in enumerate(arm.roles):
            pool = [j for j, other in enumerate(arm.roles) if other == role]
            mine = np.arange(len(first)) % len(pool) == pool.index(i)
            prefilled = mine & (first <= t)
            decoding = np.clip((t - first) / (last - first), 0, 1) * columns["output_len"] * mine
            prompt = columns["input_len"][prefilled].sum()
            generated = prefilled.sum() if role == "prefill" else decoding.sum()
            waiting = (mine & (columns["start_s"] <= t) & (first > t)).sum()
            running = (prefilled & (last > t)).sum()
            moved = prompt * KV_BYTES_PER_TOKEN if role == "decode" else 0.0
            yield f"{t:.3f}", f"engine{i}", role, running, waiting, prompt, round(generated), moved


def write_csv(path: Path, names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(",".join(map(str, row)) + "\n" for row in (names, *rows))
    path.write_bytes(gzip.compress(text.encode(), compresslevel=1))


def write(
    folder: Path,
    settings: Sequence[Setting],
    *,
    arms: Sequence[Arm] = ARMS,
    repeats: int = 3,
    files: bool = True,
    timelines: bool = False,
) -> Path:
    """Records of every arm, setting and repeat; with `files` their requests, with `timelines` those of the first repeats."""
    run = RunFolder(folder)
    for arm, at, repeat in itertools.product(arms, settings, range(repeats)):
        columns = requests(arm, at, repeat)
        made = record(arm, at, repeat, columns)
        run.save(made)
        if files:
            rows = np.column_stack([columns[name] for name in REQUEST_COLUMNS])
            write_csv(run.beside_raw(made, "requests"), REQUEST_COLUMNS, ([f"{value:.6g}" for value in row] for row in rows))
        if timelines and repeat == 0:
            write_csv(run.beside_raw(made, "timeline"), TIMELINE_COLUMNS, timeline(arm, at, columns))
    return folder
