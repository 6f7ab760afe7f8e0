"""From a point's requests to how many of them kept the SLO. Standard library only."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Mapping
from pathlib import Path

from pdslurm.errors import ResultsError

LIMITED = ("ttft_ms", "tpot_ms", "e2el_ms")


def read_requests(path: Path) -> list[dict[str, float | None]]:
    """The lines of a requests file (results.REQUEST_COLUMNS); None is unknown. Raises ResultsError when it cannot be read."""
    try:
        with gzip.open(path, "rt", newline="") as file:
            return [{name: float(value) if value else None for name, value in line.items()} for line in csv.DictReader(file)]
    except (OSError, EOFError, ValueError, TypeError, AttributeError) as error:
        raise ResultsError(f"{path}: not a file of requests ({type(error).__name__}: {error})") from error


def is_good(request: Mapping[str, float | None], slo: Mapping[str, float | None]) -> bool:
    """Whether a request was answered whole and within every limit of the SLO. What is unknown is kept only where nothing limits it;
    a single output token has no time per token and keeps any."""
    if not request["ok"]:
        return False
    for name in LIMITED:
        limit, value = slo.get(name), request[name]
        if limit is None or (name == "tpot_ms" and value is None and request["output_len"] == 1):
            continue
        if value is None or value > limit:
            return False
    return True


def good_share(requests: Iterable[Mapping[str, float | None]], slo: Mapping[str, float | None]) -> float | None:
    """The share of good requests; None without any."""
    good = [is_good(request, slo) for request in requests]
    return sum(good) / len(good) if good else None
