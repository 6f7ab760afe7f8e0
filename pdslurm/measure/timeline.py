"""While a point is measured: from looks at the engines' /metrics every so often, in a thread, to a file with a line for each look.

Every look costs an API server some milliseconds, so it is off unless `telemetry_every_s` asks for it; docs/records.md says what it
costs."""

from __future__ import annotations

import contextlib
import csv
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pdslurm.measure.health import get_many
from pdslurm.plan.deployment import Process
from pdslurm.records.measurement import TIMELINE_COLUMNS
from pdslurm.records.whole_file import cannot_write, open_whole

GAUGES = {"running": "vllm:num_requests_running", "waiting": "vllm:num_requests_waiting"}
COUNTERS = {
    "prompt_tokens": "vllm:prompt_tokens_total",
    "generation_tokens": "vllm:generation_tokens_total",
    "nixl_bytes": "vllm:nixl_bytes_transferred_sum",
}
SAMPLE_TIMEOUT_S = 2.0  # an engine that takes longer to answer is left out of that look
Samples = list[tuple[float, str, dict[str, float]]]  # the moment by the monotonic clock, the engine, its values by column


def values_in(text: str) -> dict[str, float]:
    """By column, summed over an instance's ranks; what is not exposed is left out. Reads only the lines it needs, since the client
    may need the core."""
    wanted = {name: column for column, name in (GAUGES | COUNTERS).items()}
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if (column := wanted.get(line.partition("{")[0].partition(" ")[0])) is not None:
            value = line.rpartition("}")[2].split()  # without labels: the name first
            with contextlib.suppress(ValueError, IndexError):  # garbage is left out
                number = float(value[0 if "}" in line else 1])
                if math.isfinite(number):
                    sums[column] = sums.get(column, 0.0) + number
    return sums


@contextmanager
def sampling(engines: Sequence[Process], every_s: float | None) -> Iterator[Samples]:
    """Looks at all engines side by side every `every_s` while the block runs; None: never."""
    samples, ended = Samples(), threading.Event()
    urls = {e.name: e.metrics_url for e in engines if e.metrics_url}

    def sample() -> None:
        due = time.monotonic()
        while not ended.wait(max(0.0, due - time.monotonic())):
            at = time.monotonic()
            for name, text in get_many(urls, timeout_s=SAMPLE_TIMEOUT_S).items():
                if text is not None:
                    samples.append((at, name, values_in(text)))
            due = max(due + (every_s or 0.0), time.monotonic())

    thread = threading.Thread(target=sample, name="timeline", daemon=True)
    if every_s:
        thread.start()
    try:
        yield samples
    finally:
        ended.set()
        if every_s:
            thread.join(SAMPLE_TIMEOUT_S)


def rows(samples: Samples, roles: Mapping[str, str], began_s: float) -> Iterator[dict[str, str | float]]:
    """TIMELINE_COLUMNS of every look. Counters count from each engine's first look, which is before the first request; `began_s` is
    the first request's moment by the same clock, so that the first looks have negative times."""
    first: dict[str, dict[str, float]] = {}
    for at, name, values in samples:
        origin = first.setdefault(name, values)
        counted = {column: int(values[column] - origin.get(column, 0.0)) for column in COUNTERS if column in values}
        gauges = {column: int(values[column]) for column in GAUGES if column in values}
        yield {"t_s": round(at - began_s, 4), "engine": name, "role": roles[name], **gauges, **counted}


def write(path: Path, samples: Samples, roles: Mapping[str, str], began_s: float) -> None:
    """The file, whole. Raises ResultsError when it cannot be written."""
    with cannot_write(path), open_whole(path, compressed=True) as file:
        lines = csv.DictWriter(file, TIMELINE_COLUMNS)
        lines.writeheader()
        lines.writerows(rows(samples, roles, began_s))
