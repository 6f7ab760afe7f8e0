"""A path and what belongs into it in; a file that is whole, or none, out: it is written under a temporary name and renamed. A file
that somebody else left broken is set aside by name."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from pdslurm.errors import ResultsError

GZIP_LEVEL = 3  # files are written between two points, where time counts more than bytes
BROKEN = ".broken"  # the end of a file's name that was set aside; the next of the same name ends in .broken-2
RUN_AGAIN = "free space or fix permissions, then run again"


@contextlib.contextmanager
def open_whole(path: Path, *, compressed: bool = False) -> Iterator[TextIO]:
    """A text file, by gzip where `compressed`, that gets its own name when the block is over and its bytes are on the disk. Makes
    its folder. After any error, the block's too, an old file is as it was and nothing lies beside it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if compressed:
            with gzip.open(temporary, "wt", compresslevel=GZIP_LEVEL, encoding="utf-8", newline="") as file:
                yield file
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                yield file
        with temporary.open("r+b") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except BaseException:  # a full disk keeps nothing that takes space
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_text(path: Path, text: str, *, advice: str = RUN_AGAIN) -> Path:
    """Writes a text whole and gives its path back. Raises ResultsError, with what to do, when it cannot."""
    with cannot_write(path, advice), open_whole(path) as file:
        file.write(text)
    return path


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON, whole; what JSON does not know as text. Raises ResultsError when it cannot."""
    with cannot_write(path), open_whole(path) as file:
        json.dump(value, file, indent=1, default=str)


@contextlib.contextmanager
def cannot_write(path: Path, advice: str = RUN_AGAIN) -> Iterator[None]:
    """Raises ResultsError where the block raises OSError: the file, the system's words, what to do."""
    try:
        yield
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror or error}; {advice}") from error


def set_aside(path: Path) -> Path:
    """Renames a file that cannot be used, so that its bytes stay and its name is free; the new path. Raises ResultsError."""
    names = itertools.chain([BROKEN], (f"{BROKEN}-{n}" for n in itertools.count(2)))
    to = next(free for name in names if not os.path.lexists(free := path.with_name(path.name + name)))
    with cannot_write(path):
        path.rename(to)
    return to
