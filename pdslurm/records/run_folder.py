"""A run's folder in; where its records and the raw data behind them lie, and which points are done, out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pdslurm.records.measurement import Measurement, load_record
from pdslurm.records.whole_file import write_json

INVALID = tuple("invalid" if n == 1 else f"invalid-{n}" for n in range(1, 100))  # the ends of records that were tried again


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
    points/ARM/*.json  one record per point and repeat (ends in .failed.json, .invalid.json, .invalid-2.json if it is)
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
        behind its invalid ones stay."""
        number = self.tries(arm, point_id, key) + 1
        return f"raw/{arm}/{point_id}-{key}{'' if number == 1 else f'-{number}'}"

    def tries(self, arm: str, point_id: str, key: str) -> int:
        """How many invalid records of a point there are."""
        kept = (self.record_path(arm, point_id, key, kind=kind).is_file() for kind in INVALID)
        return sum(1 for _ in itertools.takewhile(bool, kept))

    def beside_raw(self, record: Measurement, what: str) -> Path:
        """The file with a record's `requests` or `timeline`, whether it exists or not."""
        raw = record.provenance.get("raw") or f"raw/{record.arm}/{record.point.get('id')}-{record.key}.json.gz"
        return self.path / f"{raw.removesuffix('.json.gz')}.{what}.csv.gz"

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
        """Whether there is a valid record."""
        return self.record_path(arm, point_id, key).is_file()

    def valid_of_tried(self) -> tuple[int, int]:
        """How many measurements in the folder are valid, and how many were tried: those and every invalid or failed one."""
        ends = [path.name.split(".")[-2] for path in self.path.glob("points/*/*.json")]
        return sum(end not in (*INVALID, "failed") for end in ends), len(ends)

    def records(self) -> Iterator[Measurement]:
        """Every record in the folder, failed and invalid ones too, in a stable order. Raises ResultsError for an unreadable one."""
        for path in sorted(self.path.glob("points/*/*.json")):
            yield load_record(path)
