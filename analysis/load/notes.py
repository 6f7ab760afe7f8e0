"""What could not be read while records were loaded in; the sentences that every command says of it, out.

They go with the frame: `sentences` for a text or a page, `say` for standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from analysis.load.provenance import Provenance
from analysis.load.recheck import Judged
from analysis.load.request_files import is_whole
from pdslurm.records.record_file import NoRecord
from pdslurm.records.run_folder import RunFolder

NOTES = "notes"
MOST_NAMED = 3


def sentences(frame: pd.DataFrame) -> tuple[str, ...]:
    """Without a stop at their ends; none where everything was read."""
    return tuple(frame.attrs.get(NOTES, ()))


def say(frame: pd.DataFrame) -> None:
    """Prints them on standard error."""
    for sentence in sentences(frame):
        print(f"analysis: {sentence}", file=sys.stderr)


def notes(judged: Sequence[Judged], passed: Sequence[NoRecord], folders: Iterable[Path]) -> tuple[str, ...]:
    """Of records that are none, of measurements without the files behind them, and of a run's other files."""
    found = (_passed_text(passed, len(judged)), _raw_text(judged), _files_text(folders))
    return tuple(filter(None, found))


def _passed_text(passed: Sequence[NoRecord], read: int) -> str:
    if not passed:
        return ""
    are = "is no record" if len(passed) == 1 else "are no records"
    each = [f"{error.path} ({error.why})" for error in passed]
    return f"{len(passed)} of {len(passed) + read} files {are} that pdslurm can read, and left out: {named(each)}"


def _raw_text(judged: Sequence[Judged]) -> str:
    measured = [each for each in judged if each.record.status == "done" and each.record.source == "measured"]
    named_raw = [each for each in measured if each.record.provenance.get("raw")]
    lacking = [each for each in named_raw if _lacks_files(each)]
    if not lacking:
        return ""
    lack, have = ("lacks", "has") if len(lacking) == 1 else ("lack", "have")
    where = named([str(each.path) for each in lacking])
    what = f"{lack} a raw, request or timeline file, or {have} one that was cut short"
    return f"{len(lacking)} of {len(measured)} measurements {what}: {where}"


def _lacks_files(judged: Judged) -> bool:
    """Whether a file behind the record is gone, or not as long as the record says; of the long ones only the length is asked."""
    record, folder = judged.record, RunFolder(judged.folder)
    there, lengths = folder.raw_bytes(record), record.provenance.get("bytes") or {}
    if (timeline := folder.beside_raw(record, "timeline")).exists() and not is_whole(timeline):
        return True
    return any(not there.get(what) or there[what] != lengths.get(what, there[what]) for what in ("raw", "requests"))


def _files_text(folders: Iterable[Path]) -> str:
    each = [problem for folder in folders for problem in Provenance(folder).problems()]
    return f"these files cannot be read and count as not there: {named(each)}" if each else ""


def named(each: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = len(each) - MOST_NAMED
    return f"{'; '.join(each[:MOST_NAMED])}{f'; and {more} more' if more > 0 else ''}"
