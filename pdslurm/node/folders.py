"""From a node's environment to the folders that a run writes to there, and what is wrong with them: too long a name for sockets, no
right to write or to execute, too little space. `read_places` reads, the findings are pure."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
WRITE_BYTES = 2**20  # a quota that is used up is noticed by writing, not by asking what is free
DISK_GIB = 1.0  # records, logs and every request's times of a large run are some 100 MB
CACHE_GIB = 0.25  # compiled kernels of one model
SOCKET_BYTES = 107  # of a Unix socket's path, which Linux cuts to 108 with the zero at its end
OWN_FOLDERS = 2 * len("/pdslurm-12345678")  # the agent's and the guard's temporary folders, one in the other
SOCKET_NAME = len("/") + 36  # vLLM's: a UUID
CACHES = {"VLLM_CACHE_ROOT": ("XDG_CACHE_HOME", "~/.cache", "vllm"), "TRITON_CACHE_DIR": ("TRITON_HOME", "~", ".triton")}


@dataclass(frozen=True)
class Place:
    """A folder, or the nearest one above it that is there, from which it would be made. `error`: why it cannot be written."""

    name: str
    free: int | None = None
    error: str = ""
    noexec: bool = False


def read_place(name: str, path: Path) -> Place:
    """Writes a file there and removes it."""
    folder = path.absolute()
    while not os.path.isdir(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        stat = os.statvfs(folder)
        place = Place(name, stat.f_bavail * stat.f_frsize, noexec=bool(stat.f_flag & os.ST_NOEXEC))
    except OSError as error:
        return Place(name, error=error.strerror or str(error))
    return Place(name, place.free, write_error(folder), place.noexec)


def write_error(folder: Path) -> str:
    """Why this user cannot write a file there, by doing it: root may, says access(2), also where a server mounts it read-only."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(WRITE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return ""


def cache_places(environ: Mapping[str, str]) -> dict[str, Path]:
    """Where vLLM and Triton keep what they compile: name → folder."""
    found = {}
    for variable, (base, default, name) in CACHES.items():
        own, above = environ.get(variable), environ.get(base)
        path = own or os.path.join(above or os.path.expanduser(default), name)
        shown = f"{variable}={own}" if own else f"{base}={above}" if above else f"HOME={environ.get('HOME', '')}"
        found[f"{shown}: {path}, where {variable} belongs" if not own else shown] = Path(path)
    return found
