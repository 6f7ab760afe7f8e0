"""From the client's result to what is kept of its requests: a line for each, and the distribution of the time between tokens.

Part of the benchmark client: runs in the engine's environment and imports of pdslurm the form of the records alone."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pdslurm.records.measurement import BINS_PER_DECADE, REQUEST_COLUMNS
from pdslurm.records.whole_file import open_whole

TIMES = ("start_times", "ttfts", "itls", "latencies", "queue_times", "client_queue_times")  # seconds, one or a list a request
SHORTEST_MS = 1e-4  # tokens that come in one chunk have no time between them; a logarithm needs some


def itl_histogram(result: Mapping[str, Any]) -> dict[str, int]:
    """Bin → tokens of every inter-token latency: bin i holds 10**(i/50) ms up to 10**((i+1)/50) ms. 0.3 s for 4 million."""
    import numpy

    lists = result.get("itls") or []
    itls = numpy.fromiter(itertools.chain.from_iterable(lists), dtype=float, count=sum(map(len, lists)))
    bins = numpy.floor(numpy.log10(numpy.maximum(itls * 1000, SHORTEST_MS)) * BINS_PER_DECADE).astype(int)
    lowest = int(bins.min(initial=0))
    return {str(lowest + n): int(count) for n, count in enumerate(numpy.bincount(bins - lowest)) if count}


def with_latencies(result: dict[str, Any]) -> dict[str, Any]:
    """The client's result with `latencies`, end to end in seconds. Clients before vLLM 0.32 (seen with 0.24) leave them out; a
    streamed answer's is then its time to first token and all its inter-token latencies, which is what they add up to there."""
    if "latencies" in result or "ttfts" not in result:
        return result
    pairs = zip(result["ttfts"], result["itls"], strict=True)
    return {**result, "latencies": [ttft + sum(itls) for ttft, itls in pairs]}


def to_microseconds(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result with the times of single requests and tokens rounded to 1 µs, far below what the client's event loop can tell: a
    third of the bytes on disk. What was computed from them is as it was."""
    short = {name: [_rounded(value) for value in result[name]] for name in TIMES if isinstance(result.get(name), list)}
    return {**result, **short}


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value


def request_rows(result: Mapping[str, Any]) -> Iterator[tuple[float | int | str, ...]]:
    """A row of REQUEST_COLUMNS for each request, in the order of their start; empty is unknown."""
    columns = ("start_times", "input_lens", "output_lens", "ttfts", "itls", "latencies")
    requests = sorted(zip(*(result[name] for name in columns), strict=True), key=lambda r: float(r[0]))
    first = requests[0][0] if requests else 0.0
    for start, input_len, output_len, ttft, itls, e2el in requests:
        row: list[float | int | str] = [round(start - first, 6), input_len]
        if not output_len:  # vLLM counts the tokens of a failed request as none
            yield (*row, "", "", "", "", "", 0)
            continue
        each = "" if ttft is None or output_len < 2 else round(1000 * (e2el - ttft) / (output_len - 1), 4)
        longest = round(1000 * max(itls), 4) if itls else ""
        yield (*row, output_len, "" if ttft is None else round(1000 * ttft, 4), each, longest, round(1000 * e2el, 4), 1)


def write_requests(path: Path, result: Mapping[str, Any]) -> None:
    with open_whole(path, compressed=True) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(REQUEST_COLUMNS)
        writer.writerows(request_rows(result))


def write_result(path: Path, value: Any) -> None:
    with open_whole(path, compressed=True) as file:
        json.dump(value, file, default=str)
