"""A point's requests and an SLO in; which of them are good, and their share, out: one rule for the driver and the analysis."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pdslurm.errors import ResultsError
from pdslurm.records.measurement import REQUEST_COLUMNS

LIMITED = tuple(name for name in REQUEST_COLUMNS if name.endswith("_ms"))  # what an SLO can limit, in ms, the limit itself allowed
BETWEEN_TOKENS = ("tpot_ms", "itl_max_ms")  # of these a request of one token has none


def is_good(request: Mapping[str, Any], slo: Mapping[str, Any]) -> Any:
    """Whether a request was answered whole and within every limit of the SLO. What is unknown (None or NaN) is kept only where
    nothing limits it; a single output token has no time per token and keeps any, as in `vllm bench serve --goodput`.

    By REQUEST_COLUMNS: of numbers a bool; of numpy's columns a column of bools, for many requests at once."""
    good = request["ok"] == 1
    for name in LIMITED:
        if (limit := slo.get(name)) is not None:
            good = good & ((or_nan(request[name]) <= limit) | is_exempt(name, request["output_len"]))
    return good


def is_exempt(name: str, output_len: Any) -> Any:
    """Whether a request of so many tokens keeps any limit on this latency; a bool, or a column of them as in is_good."""
    return (or_nan(output_len) <= 1) & (name in BETWEEN_TOKENS)


def or_nan(value: Any) -> Any:
    """A number or a column, NaN for None: comparisons with it are false."""
    return math.nan if value is None else value


def good_share(requests: Iterable[Mapping[str, float | None]], slo: Mapping[str, Any]) -> float | None:
    """The share of good requests; None without any, or where nothing shows a latency that the SLO limits."""
    rows = list(requests)
    if not rows or any(is_unseen(name, rows) for name in LIMITED if slo.get(name) is not None):
        return None
    return float(sum(is_good(request, slo) for request in rows) / len(rows))


def is_unseen(name: str, requests: Iterable[Mapping[str, float | None]]) -> bool:
    """Whether no request that was answered and has this latency shows it, as of whole answers without a stream: then nobody knows
    how many are good. Where some show it, one that does not is not good."""
    has_it = [request for request in requests if request["ok"] == 1 and not is_exempt(name, request["output_len"])]
    return bool(has_it) and all(math.isnan(or_nan(request[name])) for request in has_it)


def read_requests(path: Path) -> list[dict[str, float | None]]:
    """The lines of a file of REQUEST_COLUMNS; None is unknown. Raises ResultsError when it cannot be read."""
    try:
        with gzip.open(path, "rt", newline="") as file:
            return [{name: float(value) if value else None for name, value in line.items()} for line in csv.DictReader(file)]
    except (OSError, EOFError, ValueError, TypeError, AttributeError) as error:
        raise ResultsError(f"{path}: not a file of requests ({type(error).__name__}: {error})") from error
