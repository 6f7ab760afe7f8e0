"""A run folder in, whether and why somebody withdrew it out; written and taken back here. A withdrawn run still loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pdslurm.errors import ResultsError
from pdslurm.records.shapes import misfit
from pdslurm.records.whole_file import cannot_write, write_json

FILE = "withdrawn.json"


@dataclass(frozen=True)
class Withdrawal:
    """Why a run must not be relied on; the fields are the keys of the file."""

    why: str
    at: str  # ISO 8601, UTC
    by: str


def of_folder(folder: Path) -> Withdrawal | None:
    """None where nobody withdrew the run. Raises ResultsError where the file cannot be read, or does not say why."""
    path = folder / FILE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if why := misfit(value, Mapping[str, str], "it"):
            raise ValueError(why)
        found = Withdrawal(*(value[name] for name in ("why", "at", "by")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise ResultsError(f"{path}: not a withdrawal ({type(error).__name__}: {error}); write it anew or remove it") from error
    if not found.why.strip():
        raise ResultsError(f"{path}: why is empty; write it anew or remove it")
    return found


def withdraw(folder: Path, withdrawal: Withdrawal) -> Path:
    """Writes the file, in place of an older one. Raises ResultsError without a reason, or when it cannot be written."""
    if not withdrawal.why.strip():
        raise ResultsError("withdraw: --why is empty; say in a sentence what is wrong with the run")
    write_json(folder / FILE, asdict(withdrawal))
    return folder / FILE


def undo(folder: Path) -> Path:
    """Removes the file. Raises ResultsError when there is none, or it cannot be removed."""
    path = folder / FILE
    if not path.exists():
        raise ResultsError(f"{folder}: nobody withdrew this run, so there is nothing to take back")
    with cannot_write(path):
        path.unlink()
    return path
