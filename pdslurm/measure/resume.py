"""A run's folder as earlier sessions left it, or as it was copied, in; one whose valid records can be relied on, out.

What cannot is set aside by name, and measured again. Nothing is removed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pdslurm.errors import ResultsError
from pdslurm.measure.usage import Session
from pdslurm.records.good_requests import read_columns
from pdslurm.records.measurement import Measurement
from pdslurm.records.record_file import NoRecord, named_kind
from pdslurm.records.run_folder import RAW_ENDS, RunFolder, kind
from pdslurm.records.whole_file import set_aside

WORDS = {"raw": "raw file", "requests": "request file"}


@dataclass(frozen=True)
class RawFiles:
    """Which files a valid record needs behind it. Where a session found no file of a kind in the whole folder, the folder was
    published or copied without them, and the records from before that session count as they are."""

    folder: RunFolder
    present: Collection[str]  # of RAW_ENDS: those of which the folder has a file at all
    needed: Collection[str]  # those without which a record is of no use, whatever the folder has
    exempt_until: Mapping[str, str]  # by RAW_ENDS, ISO 8601: records that began before need no such file, but for `needed`

    def problem(self, record: Measurement) -> str | None:
        """What is wrong with the files behind a record, in words."""
        raw, lengths = record.provenance.get("raw"), record.provenance.get("bytes") or {}
        if not raw or record.source != "measured":
            return None
        paths = {"raw": self.folder.path / raw, "requests": self.folder.beside_raw(record, "requests")}
        found = (self._problem(what, path, lengths.get(what), record.started_at) for what, path in paths.items())
        return next(filter(None, found), None)

    def _problem(self, what: str, path: Path, length: int | None, started_at: str) -> str | None:
        name = f"its {WORDS[what]} {path.relative_to(self.folder.path)}"
        if not path.is_file():
            may_lack = what not in self.needed and (what not in self.present or started_at < self.exempt_until[what])
            return None if may_lack else f"{name} is not there"
        size = path.stat().st_size
        if size != (length or size):
            return f"{name} has {size:,} of {length:,} bytes"
        return f"{name} is cut short or damaged" if not size or (what == "requests" and not _is_table(path)) else None


def raw_files(folder: RunFolder, sessions: Sequence[Session], *, searching: bool) -> RawFiles:
    """`searching`: rates are chosen by an SLO, which is asked of the request files."""
    present = [what for what, end in RAW_ENDS.items() if next(folder.path.glob(f"raw/*/*{end}"), None)]
    exempt_until = {what: max((one.began for one in sessions if what in one.without), default="") for what in RAW_ENDS}
    return RawFiles(folder, present, ["requests"] if searching else [], exempt_until)


def set_broken_aside(files: RawFiles, planned: Collection[Path]) -> list[str]:
    """Sets aside what cannot be used, and says each in a sentence. `planned`: where the records of this run's points lie."""
    said = []
    for path, found in list(files.folder.read()):
        if why := _problem(path, found, files):
            to, name = set_aside(path), path.relative_to(files.folder.path)
            then = " and measures the point again" if path in planned else ""
            said.append(f"{name} {why}; pdslurm set it aside as {to.name}{then}")
    return said


def _problem(path: Path, found: Measurement | NoRecord, files: RawFiles) -> str | None:
    if isinstance(found, NoRecord):
        return f"is no record that pdslurm can read ({found.why})"
    named = named_kind(found, path)
    if named == "other":
        return f"holds the record of arm {found.arm}, point {found.point['id']}, key {found.key}, which has another name"
    if named != kind(found):
        return f"is a record that is {kind(found)}, and its name is that of one that is {named}"
    if named == "valid" and (why := files.problem(found)):
        return f"cannot be followed to what was measured ({why})"
    return None


def _is_table(path: Path) -> bool:
    try:
        return read_columns(path) is not None
    except ResultsError:
        return False
