"""Record files in, the records as today's rules judge them out.

Every check is made anew from the evidence in the record and its request file. What came of it is kept under the user's cache folder
by the content of both files and of the rules, so that thousands of records are judged once."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import math
import os
import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import pdslurm.validity
from pdslurm.bench.result_files import itl_histogram, request_rows, with_latencies
from pdslurm.errors import ResultsError
from pdslurm.records.good_requests import Requests, read_columns
from pdslurm.records.measurement import REQUEST_COLUMNS, Check, Measurement
from pdslurm.records.record_file import NoRecord, load_record
from pdslurm.records.run_folder import RunFolder
from pdslurm.validity.checks import unverified
from pdslurm.validity.recheck import disagreement, recheck

ROUNDED_MS = 0.05  # a latency is a sum of times that the raw file holds to 1 µs
MAX_MOVED = 0.05  # of the gaps: the record's bins were made before times were rounded for the raw file
RULES = Path(pdslurm.validity.__file__).parent
UNEXPECTED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)  # of a record whose parts have other types
CACHE = "pdslurm-checks.sqlite"


@dataclass(frozen=True)
class Judged:
    """A record by today's rules, and what its file said."""

    record: Measurement
    path: Path
    folder: Path
    stored_valid: bool
    disagrees: str  # how today's verdict differs from the stored one; empty where it does not
    requests_digest: str | None  # of the request file's content; None where it is not there

    @property
    def unverified(self) -> tuple[str, ...]:
        return unverified(self.record.checks)


def judge_records(files: Iterable[tuple[Path, Path]], *, deep: bool = False, passed: list[NoRecord] | None = None) -> list[Judged]:
    """Every (record file, run folder), judged. Records that share what two measurements cannot share are invalid, each with the
    other's name. `deep` compares request lines and gaps between chunks
    with the raw files, too. What is no record is added to `passed`, and raises NoRecord where there is no such list."""
    found = []
    with _Cache() as known:
        for path, folder in files:
            try:
                found.append(_judged(path, folder, known))
            except NoRecord as error:
                if passed is None:
                    raise
                passed.append(error)
    found = [_with_raw(each) for each in found] if deep else found
    return list(_with_doubles(found))


def _judged(path: Path, folder: Path, known: _Cache) -> Judged:
    stored = load_record(path)
    lines = RunFolder(folder).beside_raw(stored, "requests")
    digest = _digest(lines)
    key = hashlib.blake2b(f"{rules_digest()} {_digest(path)} {digest}".encode(), digest_size=16).hexdigest()
    if (kept := known.get(key)) is None:
        try:
            today = recheck(stored, _columns(lines))
        except UNEXPECTED as error:
            raise NoRecord(path, f"its evidence cannot be judged: {type(error).__name__}: {error}") from error
        known.put(key, today)
    else:
        today = replace(stored, **kept)
    return Judged(today, path, folder, stored.valid, disagreement(stored, today), digest)


def _columns(path: Path) -> Requests | None:
    """The request lines; a file that is damaged counts as none whose lines add up, not as an error that hides all other records."""
    try:
        return read_columns(path)
    except ResultsError:
        return {name: [] for name in REQUEST_COLUMNS}


def _with_raw(judged: Judged) -> Judged:
    """With the check `raw`: the request file's lines and the distribution of the gaps between chunks are those of the client's raw
    result, which has the time of every token."""
    record = judged.record
    if record.status != "done" or record.source != "measured":
        return judged
    lines = _columns(RunFolder(judged.folder).beside_raw(record, "requests"))
    try:
        raw = json.loads(gzip.decompress((judged.folder / str(record.provenance.get("raw"))).read_bytes()))
        made = [[_number(cell) for cell in row] for row in request_rows(with_latencies(raw))]
        bins = itl_histogram(raw)
    except (OSError, EOFError, zlib.error, RecursionError, *UNEXPECTED) as error:
        said = f"the raw file cannot be read ({type(error).__name__})"
        return replace(judged, record=replace(record, checks=(*record.checks, Check("raw", None, said, unverified=True))))
    wrong = []
    if lines is not None:
        kept = [list(row) for row in zip(*(lines[name] for name in REQUEST_COLUMNS), strict=True)]
        apart = sum(not _agree(a, b) for a, b in zip(kept, made, strict=False)) + abs(len(kept) - len(made))
        wrong += [f"{apart} of {len(made)} request lines are not those of the raw file"] if apart else []
    if (stored := record.distributions.get("itl_ms")) and _moved(stored, bins) > MAX_MOVED * sum(bins.values()):
        wrong.append("the gaps between chunks are not those of the raw file")
    return _added(judged, Check("raw", not wrong, "; ".join(wrong) or "the raw file says the same", {"requests": len(made)}))


def _number(cell: float | int | str) -> float:
    return float(cell) if cell != "" else math.nan


def _agree(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two lines are one; raw files hold 1 µs, of which latencies may be sums over many tokens."""
    return all(abs(a - b) <= ROUNDED_MS + 1e-4 * abs(b) or (a != a and b != b) for a, b in zip(one, other, strict=True))


def _moved(one: Mapping[str, int], other: Mapping[str, int]) -> int:
    """How many gaps lie in other bins."""
    return sum(abs(one.get(name, 0) - other.get(name, 0)) for name in {*one, *other})


def _with_doubles(found: list[Judged]) -> Iterator[Judged]:
    """Two measurements begin at two moments, of which one client does one after the other, and each has raw files of its own."""
    shared: dict[tuple[str, object], list[Judged]] = defaultdict(list)
    for each in found:
        if each.record.status == "done" and each.record.source == "measured":
            shared["their start time", (each.folder.resolve(), each.record.started_at)].append(each)
            if raw := each.record.provenance.get("raw"):
                shared["their raw file", (each.folder.resolve(), raw)].append(each)
            if each.requests_digest:
                shared["the content of their request files", each.requests_digest].append(each)
    why: dict[Path, list[str]] = defaultdict(list)
    for (what, _), several in shared.items():
        others = {id(one): [other for other in several if _differ(one, other)] for one in several}
        for one in several:
            if mine := others[id(one)]:
                why[one.path].append(f"shares {what.removeprefix('their ')} with {mine[0].path.name}")
    for each in found:
        yield _invalid(each, why[each.path]) if each.path in why else each


def _differ(one: Judged, other: Judged) -> bool:
    """Whether two files are two records; a copy of a run folder holds the same ones again."""
    names = ("run", "arm", "key", "status", "started_at")
    return one is not other and (
        one.folder.resolve() == other.folder.resolve() or any(getattr(one.record, n) != getattr(other.record, n) for n in names)
    )


def _invalid(judged: Judged, why: list[str]) -> Judged:
    return _added(judged, Check("double", False, "; ".join(why)))


def _added(judged: Judged, check: Check) -> Judged:
    """With one more check, and what follows from it."""
    record = judged.record
    why = (*record.invalid_reasons, check.said) if check.ok is False else record.invalid_reasons
    today = replace(record, valid=not why, invalid_reasons=why, checks=(*record.checks, check))
    return replace(judged, record=today, disagrees=disagreement(replace(record, valid=judged.stored_valid), today))


@cache
def rules_digest() -> str:
    """Of the rules' own source, so that a changed rule is asked again."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(RULES.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _digest(path: Path) -> str | None:
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return None


class _Cache:
    """Key → the fields of a record that checks decide. A cache that cannot be opened or written is none: nothing depends on it."""

    def __init__(self) -> None:
        self.base: sqlite3.Connection | None = None
        self.new: dict[str, str] = {}

    def __enter__(self) -> _Cache:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pdslurm"
        with contextlib.suppress(OSError, sqlite3.Error, RuntimeError):
            folder.mkdir(parents=True, exist_ok=True)
            self.base = sqlite3.connect(folder / CACHE, timeout=1.0)
            self.base.execute("CREATE TABLE IF NOT EXISTS checks (key TEXT PRIMARY KEY, value TEXT)")
        return self

    def get(self, key: str) -> Mapping[str, Any] | None:
        if self.base is None:
            return None
        with contextlib.suppress(sqlite3.Error, ValueError, TypeError):
            row = self.base.execute("SELECT value FROM checks WHERE key = ?", (key,)).fetchone()
            if row:
                value = json.loads(row[0])
                checks = tuple(Check(**check) for check in value["checks"])
                return {"valid": value["valid"], "invalid_reasons": tuple(value["invalid_reasons"]), "checks": checks}
        return None

    def put(self, key: str, record: Measurement) -> None:
        kept = {"valid": record.valid, "invalid_reasons": record.invalid_reasons, "checks": [asdict(c) for c in record.checks]}
        self.new[key] = json.dumps(kept)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.base is None:
            return
        with contextlib.suppress(sqlite3.Error):
            self.base.executemany("INSERT OR REPLACE INTO checks VALUES (?, ?)", self.new.items())
            self.base.commit()
        self.base.close()
