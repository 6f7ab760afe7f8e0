"""Records' request files in, a row for each record out: how many requests were good, and how their latencies are distributed.

Files are read one at a time and reduced at once, so that memory does not grow with the number of requests."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.load.slo import Slo
from pdslurm.errors import ResultsError
from pdslurm.records.good_requests import is_exempt, is_good
from pdslurm.records.measurement import BINS_PER_DECADE, REQUEST_COLUMNS

Column = npt.NDArray[np.float64]
Bins = npt.NDArray[np.int64]  # rows of (bin, count): bin i holds 10**(i/d) to 10**((i+1)/d) ms, d bins a decade
FINE = 4 * BINS_PER_DECADE  # bins a decade of TTFT and E2E: 1.2 % wide
BINNED = ("ttft", "e2el")
REDUCED = ("requests", "ok", "good", *(f"{what}_bins" for what in BINNED))


def reduce(records: pd.DataFrame, slo: Slo | None) -> pd.DataFrame:
    """Columns REDUCED at the index of those `records` that have a file. `good`: requests that ended well within every bound, NaN
    without an SLO or where nothing shows a bounded latency; bins are None where no latency is known."""
    have = records["requests_file"].dropna()
    rows = [_reduced(read(Path(path)), slo) for path in have]
    return pd.DataFrame(rows, columns=list(REDUCED), index=have.index).astype({"good": float})


def read(path: Path) -> Mapping[str, Column]:
    """The columns of one file by name, NaN for what is empty. Raises ResultsError naming the file when it is none of pdslurm's."""
    try:
        head, _, body = gzip.decompress(path.read_bytes()).partition(b"\n")
        names = head.decode().strip().split(",")
        cells = np.array(body.replace(b"\r", b"").rstrip(b"\n").replace(b"\n", b",").split(b",") if body else [], dtype=bytes)
        cells = np.where(cells == b"", b"nan", cells)
        table = cells.astype(np.float64).reshape(-1, len(names))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ResultsError(f"{path}: not a file of requests ({type(error).__name__}: {error})") from error
    if missing := set(REQUEST_COLUMNS) - set(names):
        raise ResultsError(f"{path}: has no column {sorted(missing)[0]}; a file of requests has {', '.join(REQUEST_COLUMNS)}")
    return {name: table[:, i] for i, name in enumerate(names)}


def is_whole(path: Path) -> bool:
    """Whether a compressed file is there and can be read to its end."""
    try:
        with gzip.open(path) as file:
            while file.read(1 << 20):
                pass
    except (OSError, EOFError, zlib.error):
        return False
    return path.stat().st_size > 0


def _reduced(requests: Mapping[str, Column], slo: Slo | None) -> tuple[object, ...]:
    ok = requests["ok"] == 1
    return len(ok), int(ok.sum()), good_count(requests, slo), *(bins(requests[f"{what}_ms"][ok], FINE) for what in BINNED)


def good_count(requests: Mapping[str, Column], slo: Slo | None) -> float:
    """How many requests are good, by the rule of pdslurm.records.good_requests; NaN without an SLO, or where no request shows a
    latency that it limits."""
    if not slo:
        return float("nan")
    ok, lengths = requests["ok"] == 1, requests["output_len"]
    for name in slo:
        has_it = ok & ~is_exempt(name, lengths)
        if has_it.any() and np.isnan(requests[name][has_it]).all():
            return float("nan")
    return float(is_good(requests, slo, np.fmax).sum())


def bins(values_ms: Column, per_decade: int) -> Bins | None:
    """How many of the values lie in which bin; a value that is not above 0 or not known is in none, None for no value at all."""
    known = values_ms[values_ms > 0]
    if not len(known):
        return None
    found, counts = np.unique(np.floor(np.log10(known) * per_decade).astype(np.int64), return_counts=True)
    return np.column_stack([found, counts])
