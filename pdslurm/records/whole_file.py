"""Files that are whole or not there: they are written under a temporary name and renamed."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from pdslurm.errors import ResultsError


def write_json(path: Path, value: Any) -> None:
    """Writes under a temporary name and renames, so that a file that exists is whole. Raises ResultsError when it cannot."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, default=str)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError, UnboundLocalError):
            temporary.unlink()
        raise ResultsError(
            f"cannot write {path}: {error.strerror or error}; free space or fix permissions, then run again"
        ) from error
