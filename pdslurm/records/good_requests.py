"""A point's requests and an SLO in; which of them are good, and their share, out: one rule for the driver and the analysis."""

from __future__ import annotations

import gzip
import math
import statistics
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pdslurm.errors import ResultsError
from pdslurm.records.measurement import REQUEST_COLUMNS

LIMITED = tuple(name for name in REQUEST_COLUMNS if name.endswith("_ms"))  # what an SLO can limit, in ms, the limit itself allowed
Requests = Mapping[str, list[float]]  # a column for each of REQUEST_COLUMNS; NaN is unknown
BETWEEN_TOKENS = ("tpot_ms", "itl_max_ms")  # of these a request of one token has none


NEVER = 1e9  # the worst ratio of a request that was not answered whole, or does not show a latency that is limited
RESIDENCES = 2.0  # a point's queues begin empty: requests that start within so many times the median E2E latency are not judged …
MOST_UNJUDGED = 0.5  # … but never more than this share of the time in which requests start


def worst_ratio(request: Mapping[str, Any], slo: Mapping[str, Any], larger: Callable[[Any, Any], Any] = max) -> Any:
    """The largest of a request's latencies over their limits: at most 1 where it keeps the SLO, NEVER where it was not answered
    whole or does not show a limited latency. A single output token has no time per token and keeps any limit on it, as in
    `vllm bench serve --goodput`.

    By REQUEST_COLUMNS: of numbers (None or NaN is unknown) a number; of numpy's columns, with numpy.fmax for `larger`, a column."""
    ratio = NEVER * (request["ok"] != 1)
    for name in LIMITED:
        if (limit := slo.get(name)) is not None:
            counts = 1 - is_exempt(name, request["output_len"])
            value = or_nan(request[name]) / limit
            ratio = larger(larger(ratio, value * counts), NEVER * counts * (value != value))
    return ratio


def is_good(request: Mapping[str, Any], slo: Mapping[str, Any], larger: Callable[[Any, Any], Any] = max) -> Any:
    """Whether a request was answered whole and within every limit of the SLO, the limit itself allowed: of one request or, as in
    worst_ratio, of many at once."""
    return worst_ratio(request, slo, larger) <= 1


def judged_from_s(start_s: Sequence[float], e2el_ms: Sequence[float]) -> float:
    """From when on a point's requests are judged, in seconds as `start_s` has them. NaN in `e2el_ms` is unknown."""
    known = [value for value in e2el_ms if value == value]
    if not known:
        return 0.0
    first, last = min(start_s), max(start_s)
    return min(first + RESIDENCES * statistics.median(known) / 1000, first + MOST_UNJUDGED * (last - first))


def share_quantile(ratios: Iterable[float], share: float) -> float:
    """The smallest ratio that this share of the requests does not exceed: at most 1 exactly where the share of good requests is
    `share` or more. Raises ValueError without any."""
    ordered = sorted(ratios)
    if not ordered:
        raise ValueError("a quantile of no requests")
    return ordered[max(math.ceil(share * len(ordered) - 1e-9), 1) - 1]


def slo_ratio(requests: Requests, slo: Mapping[str, Any], share: float) -> float | None:
    """The share's quantile of the judged requests' worst ratios: at most 1 where the point meets the SLO. None without any request,
    or where nothing shows a latency that the SLO limits."""
    rows = as_rows(requests)
    if not rows or any(is_unseen(name, rows) for name in LIMITED if slo.get(name) is not None):
        return None
    begin_s = judged_from_s(requests["start_s"], requests["e2el_ms"])
    return share_quantile((worst_ratio(row, slo) for row in rows if or_nan(row["start_s"]) >= begin_s), share)


def is_exempt(name: str, output_len: Any) -> Any:
    """Whether a request of so many tokens keeps any limit on this latency; a bool, or a column of them as in is_good."""
    return (or_nan(output_len) <= 1) & (name in BETWEEN_TOKENS)


def or_nan(value: Any) -> Any:
    """A number or a column, NaN for None: comparisons with it are false."""
    return math.nan if value is None else value


def is_unseen(name: str, requests: Iterable[Mapping[str, float | None]]) -> bool:
    """Whether no request that was answered and has this latency shows it, as of whole answers without a stream: then nobody knows
    how many are good. Where some show it, one that does not is not good."""
    has_it = [request for request in requests if request["ok"] == 1 and not is_exempt(name, request["output_len"])]
    return bool(has_it) and all(math.isnan(or_nan(request[name])) for request in has_it)


def read_columns(path: Path) -> Requests | None:
    """The columns of a request file; None where it is not there. Raises ResultsError where it cannot be read."""
    try:
        return parse_columns(gzip.decompress(path.read_bytes()).decode("ascii"))
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ResultsError(f"{path}: not a file of requests ({type(error).__name__}: {error})") from error


def parse_columns(text: str) -> Requests:
    """Raises ValueError for a text that is no table of REQUEST_COLUMNS."""
    head, *lines = text.splitlines()
    names = head.split(",")
    if missing := [name for name in REQUEST_COLUMNS if name not in names]:
        raise ValueError(f"it has no column {missing[0]}")
    rows = [line.split(",") for line in lines]
    if wrong := next((n for n, row in enumerate(rows, 2) if len(row) != len(names)), None):
        raise ValueError(f"line {wrong} has {len(rows[wrong - 2])} cells, not {len(names)}")
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return {name: [float(cell) if cell else math.nan for cell in column] for name, column in zip(names, columns, strict=True)}


def read_requests(path: Path) -> list[dict[str, float | None]]:
    """The lines of a request file; None is unknown. Raises ResultsError when it cannot be read, or is not there."""
    columns = read_columns(path)
    if columns is None:
        raise ResultsError(f"{path}: not a file of requests (it is not there)")
    return as_rows(columns)


def as_rows(columns: Requests) -> list[dict[str, float | None]]:
    """The requests one by one; None is unknown."""
    rows = zip(*(columns[name] for name in REQUEST_COLUMNS), strict=True)
    return [{name: None if math.isnan(cell) else cell for name, cell in zip(REQUEST_COLUMNS, row, strict=True)} for row in rows]
