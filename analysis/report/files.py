"""A path and a text in; the file out, or one error that says what to do."""

from __future__ import annotations

from pathlib import Path

from pdslurm.errors import ResultsError


def write_text(path: Path, text: str) -> Path:
    """Makes the folder too. Raises ResultsError when it cannot."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror or error}; choose another --out") from error
    return path
