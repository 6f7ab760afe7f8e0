"""What a test needs in, records by a small factory out, and a run folder that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pdslurm.records.measurement import METRICS, Measurement, content_key
from pdslurm.records.run_folder import RunFolder

SWEEPS = {(512, 256): ("input", "output"), (1024, 256): ("input",), (512, 512): ("output",)}


def record(
    arm: str = "route_2",
    lengths: tuple[int, int] = (512, 256),
    repeat: int = 0,
    *,
    value: float | None = 100.0,
    rate: float | None = None,
    concurrency: int | None = None,
    sweeps: tuple[str, ...] | None = None,
    prompts: int = 24,
    start: int = 0,
    **changes: Any,
) -> Measurement:
    """A valid record whose every metric is `value`; `changes` are fields of Measurement."""
    name = f"i{lengths[0]}-o{lengths[1]}-r{rate or 'inf'}-c{concurrency or 'inf'}-rep{repeat}"
    point = {
        "id": name,
        "input_len": lengths[0],
        "output_len": lengths[1],
        "request_rate": rate,
        "max_concurrency": concurrency,
        "num_prompts": prompts,
        "start": start,
        "repeat": repeat,
        "seed": 1000 + repeat,
        "sweeps": SWEEPS.get(lengths, ("input",)) if sweeps is None else sweeps,
    }
    key = content_key([arm, name, prompts, value])
    made = Measurement(
        key=key,
        run="demo",
        arm=arm,
        source="measured",
        status="done",
        valid=True,
        invalid_reasons=(),
        point=point,
        arm_info={"disaggregated": arm.startswith("pd"), "gpus": 2},
        started_at=f"2026-03-10T00:00:{repeat % 60:02d}.{int(key[:8], 16) % 10**6:06d}+00:00",
        wall_s=2.0,
        completed=prompts,
        failed=0,
        metrics=dict.fromkeys(METRICS, value),
    )
    return replace(made, **changes)


def failed(arm: str, lengths: tuple[int, int] = (512, 256), repeat: int = 0) -> Measurement:
    error = "client exited with code 1\n  | Traceback"
    return record(arm, lengths, repeat, value=None, status="failed", valid=False, completed=None, failed=None, error=error)


def invalid(arm: str, lengths: tuple[int, int] = (512, 256), repeat: int = 0, value: float = 9e9) -> Measurement:
    return record(arm, lengths, repeat, value=value, valid=False, invalid_reasons=("prefix cache hits", "3 requests failed"))


def write(folder: Path, records: Sequence[Measurement]) -> Path:
    for item in records:
        RunFolder(folder).save(item)
    return folder


def two_arms(
    values: Mapping[str, Sequence[float]], lengths: tuple[int, int] = (512, 256), *, starts: bool = False
) -> list[Measurement]:
    """A record for each value: a repeat of one start, or with `starts` one repeat of each start."""
    return [
        record(arm, lengths, i, value=value, start=i if starts else 0)
        for arm, some in values.items()
        for i, value in enumerate(some)
    ]
