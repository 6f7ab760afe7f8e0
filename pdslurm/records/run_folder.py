"""A run's folder in; where its records and the raw data behind them lie, and which points are done, out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from pdslurm.records.measurement import Measurement
from pdslurm.records.record_file import NoRecord, load_record, named_kind
from pdslurm.records.whole_file import BROKEN, write_json

INVALID = tuple("invalid" if n == 1 else f"invalid-{n}" for n in range(1, 100))  # the ends of records that were tried again
RAW_ENDS = {"raw": ".json.gz", "requests": ".requests.csv.gz"}  # of the files behind a record


@dataclass(frozen=True)
class RunFolder:
    """The files of one run:

    config.yaml        the resolved configuration
    plan.json          sets, processes, points as bound to this machine's hosts and ports
    fairness.json      differs: what arms differ in though no topology forces it, each {field, values: arm → words, why, explained};
                       forced: the same of what one forces; same: {field: words}, everything where there is one arm
                       unknown: what some engine did not tell; resolved: set → engine → what it told when it was ready
    versions.json      engine, NIXL, router, driver, host, git commit of the newest session; sessions: of every one
    state.json         running, done, failed or interrupted; times; what stopped it
    events.jsonl       what the driver did, when
    used/*.jsonl       a file for each session: how long it went on, and on how many GPUs (pdslurm/measure/usage.py)
    points/ARM/*.json  one record per point and repeat (ends in .failed.json, .invalid.json, .invalid-2.json if it is)
    *.broken           a file that could not be used as what it should be; a session that resumed the run set it aside
    raw/ARM/*.json.gz  the client's whole result, with the time of every token
    raw/ARM/*.requests.csv.gz and *.timeline.csv.gz: a line for each request, and for each look at an engine (REQUEST_COLUMNS, …)
    logs/SET/*.log     one log a process
    withdrawn.json     why, at, by: somebody withdrew the run; everything drawn from it says so (analysis/load/withdrawal.py)
    """

    path: Path

    def record_path(self, arm: str, point_id: str, key: str, *, kind: str = "") -> Path:
        """`kind`: failed, invalid or invalid-2, …; empty for a valid one."""
        return self.path / "points" / arm / f"{point_id}-{key}{kind and '.'}{kind}.json"

    def raw_name(self, arm: str, point_id: str, key: str) -> str:
        """What the files behind the next measurement of this point are called, below the run's folder and without their ends: those
        behind its invalid ones, and behind one whose record was lost, stay."""
        stem, first = f"raw/{arm}/{point_id}-{key}", self.tries(arm, point_id, key) + 1
        names = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(first))
        return next(name for name in names if not any((self.path / f"{name}{end}").exists() for end in RAW_ENDS.values()))

    def tries(self, arm: str, point_id: str, key: str) -> int:
        """How many invalid records of a point there are, those that were set aside too."""
        kept = (self.record_path(arm, point_id, key, kind=kind) for kind in INVALID)
        return sum(1 for _ in itertools.takewhile(lambda path: path.exists() or path.with_name(path.name + BROKEN).exists(), kept))

    def beside_raw(self, record: Measurement, what: str) -> Path:
        """The file with a record's `requests` or `timeline`, whether it exists or not."""
        raw = record.provenance.get("raw") or f"raw/{record.arm}/{record.point.get('id')}-{record.key}.json.gz"
        return self.path / f"{raw.removesuffix('.json.gz')}.{what}.csv.gz"

    def raw_bytes(self, record: Measurement) -> dict[str, int]:
        """How long the raw file and the request file of a record are, by RAW_ENDS; what is not there is left out."""
        files = {"raw": self.path / record.provenance["raw"], "requests": self.beside_raw(record, "requests")}
        return {what: path.stat().st_size for what, path in files.items() if path.is_file()}

    def save(self, measurement: Measurement) -> Path:
        """Writes one record; raw data must be there before: a record that exists has everything behind it. A later
        measurement takes the place of a failed one; none takes that of an invalid one."""
        which = measurement.arm, measurement.point["id"], measurement.key
        kinds = [""]
        if measurement.status == "failed":
            kinds = ["failed"]
        elif not measurement.valid:
            kinds = [INVALID[self.tries(*which)]]
        path = self.record_path(*which, kind=kinds[0])
        write_json(path, asdict(measurement))
        if measurement.status != "failed":
            self.record_path(*which, kind="failed").unlink(missing_ok=True)
        return path

    def is_done(self, arm: str, point_id: str, key: str) -> bool:
        """Whether there is a valid record: one whose name and content say so."""
        return _kind_of(self.record_path(arm, point_id, key)) == "valid"

    def valid_of_tried(self) -> tuple[int, int]:
        """How many measurements in the folder are valid, and how many were tried: those and every invalid or failed one."""
        kinds = Counter(map(_kind_of, self.record_files()))
        return kinds["valid"], kinds.total() - kinds[""]

    def record_files(self) -> list[Path]:
        """The files that should be records, in a stable order."""
        return sorted(path for path in self.path.glob("points/*/*.json") if not path.name.startswith("."))

    def read(self) -> Iterator[tuple[Path, Measurement | NoRecord]]:
        """Every file of record_files, and its record or why it is none."""
        for path in self.record_files():
            try:
                yield path, load_record(path)
            except NoRecord as error:
                yield path, error

    def records(self) -> Iterator[Measurement]:
        """Every record in the folder, failed and invalid ones too, in a stable order; what is none is in `unreadable`."""
        return (found for _, found in self.read() if isinstance(found, Measurement))

    def unreadable(self) -> list[NoRecord]:
        """Every file among the records that is none, with the reason."""
        return [found for _, found in self.read() if isinstance(found, NoRecord)]


def kind(record: Measurement) -> str:
    """What a record is by its content: valid, invalid or failed."""
    return "failed" if record.status == "failed" else "valid" if record.valid else "invalid"


def _kind_of(path: Path) -> str:
    """What a file's name and content agree on; empty where they do not, or it is no record."""
    try:
        stat = path.stat()
    except OSError:
        return ""
    return _read_kind(path, (stat.st_ino, stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=2**16)
def _read_kind(path: Path, stamp: tuple[int, int, int]) -> str:
    """`stamp` changes with the file, so that each is read once."""
    try:
        record = load_record(path)
    except NoRecord:
        return ""
    return kind(record) if kind(record) == named_kind(record, path) else ""
