"""From a node's environment to the folders that a run writes to there, and what is wrong with them: too long a name for sockets, no
right to write or to execute, too little space. `read_folders` reads, the findings and notes are pure."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
WRITE_BYTES = 2**20  # a quota that is used up is noticed by writing, not by asking what is free
DISK_GIB = 1.0  # records, logs and every request's times of a large run are some 100 MB
CACHE_GIB = 0.25  # what one model's compiled kernels take
SOCKET_BYTES = 107  # of a Unix socket's path: Linux keeps 108 with the zero at its end
OWN_FOLDERS = 2 * len("/pdslurm-12345678")  # the agent's temporary folder, and the guard's in it
SOCKET_NAME = len("/") + 36  # vLLM's: a UUID
CACHES = {"VLLM_CACHE_ROOT": ("XDG_CACHE_HOME", "~/.cache", "vllm"), "TRITON_CACHE_DIR": ("TRITON_HOME", "~", ".triton")}


@dataclass(frozen=True)
class Place:
    """A folder by the name that findings call it by. `error`: why this user cannot write there; empty where that works."""

    name: str
    free: int | None = None
    error: str = ""
    noexec: bool = False


@dataclass(frozen=True)
class Cache(Place):
    """The folder below which engines keep what they compile. `name` is the variable that leads there, with its value; `variables`
    are those that would name another."""

    folder: str = ""
    variables: Sequence[str] = ()


@dataclass(frozen=True)
class Sockets:
    """The folder of the engines' sockets by the variable that names it, and the bytes that its path may have."""

    variable: str
    folder: str
    allowed: int


@dataclass(frozen=True)
class Folders:
    """`places` are the run's own. `notes` are told and stop nothing."""

    places: Sequence[Place] = ()
    caches: Sequence[Cache] = ()
    sockets: Sockets | None = None
    notes: Sequence[str] = ()


# --- reading


def read_folders(run_dir: Path, environ: Mapping[str, str], *, bare: bool) -> Folders:
    """Writes a file to each folder and removes it. `environ` is what engines have in their environment; a container has folders of
    its own, which nobody looks at from here."""
    temp = tempfile.gettempdir()
    places = (read_place(f"run_dir={run_dir}", run_dir), read_place(f"the temporary folder {temp}", Path(temp)))
    notes = [*fallback_notes(os.environ.get("TMPDIR"), temp)]
    if not bare:
        return Folders(places, notes=notes)
    notes += noexec_notes(places[1], environ.get("TORCHINDUCTOR_CACHE_DIR"))
    base, left = environ.get("VLLM_RPC_BASE_PATH"), SOCKET_BYTES - SOCKET_NAME
    sockets = Sockets("VLLM_RPC_BASE_PATH", base, left) if base else Sockets("TMPDIR", temp, left - OWN_FOLDERS)
    return Folders(places, tuple(read_caches(environ)), sockets, notes)


def read_caches(environ: Mapping[str, str]) -> Iterator[Cache]:
    """One for each folder that is there in which vLLM or Triton will make its own."""
    found: dict[tuple[str, Path], list[str]] = {}
    for variable, (base, default, name) in CACHES.items():
        leads = next((each for each in (variable, base) if environ.get(each)), "HOME")
        given = environ.get(variable) or os.path.join(environ.get(base) or default, name)
        found.setdefault((f"{leads}={environ.get(leads, '')}", nearest(home_of(given, environ))), []).append(variable)
    for (name, folder), variables in found.items():
        yield Cache(**vars(read_place(name, folder)), folder=str(folder), variables=tuple(variables))


def read_place(name: str, folder: Path) -> Place:
    try:
        stat = os.statvfs(folder)
    except OSError as error:
        return Place(name, error=error.strerror or str(error))
    return Place(name, stat.f_bavail * stat.f_frsize, write_error(folder), bool(stat.f_flag & os.ST_NOEXEC))


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


def home_of(folder: str, environ: Mapping[str, str]) -> Path:
    """`~` by the engines' HOME, else by this user's account."""
    home = environ.get("HOME") or os.path.expanduser("~")
    return Path(home + folder[1:] if folder.startswith("~") else folder).absolute()


def nearest(folder: Path) -> Path:
    """The folder, or the one above it from which it would be made."""
    while not os.path.isdir(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


# --- what is wrong


def folder_findings(folders: Folders) -> Iterator[str]:
    for place in folders.places:
        if place.error:
            yield (
                f"{place.name}: cannot be written on this node ({place.error}); it has to be a folder that this user may write on "
                "every node"
            )
        elif place.free is not None and place.free < DISK_GIB * GIB:
            yield f"{place.name}: {place.free / GIB:.2f} GiB free; logs and records need {DISK_GIB:g}, make room or name another"
    for cache in folders.caches:
        yield from cache_findings(cache)
    if folders.sockets:
        yield from socket_findings(folders.sockets)


def cache_findings(cache: Cache) -> Iterator[str]:
    """vLLM and Triton load the libraries that they compile from there."""
    wrong = f"which cannot be written on this node ({cache.error})" if cache.error else ""
    wrong = wrong or ("which is mounted noexec on this node" if cache.noexec else "")
    if not wrong and cache.free is not None and cache.free < CACHE_GIB * GIB:
        wrong = f"which has {cache.free / GIB:.2f} GiB free on this node, and they need {CACHE_GIB:g}"
    if wrong:
        named = " and ".join(cache.variables)
        yield f"{cache.name}: engines keep what they compile below {cache.folder}, {wrong}; name another folder by {named}"


def socket_findings(sockets: Sockets) -> Iterator[str]:
    length = len(os.fsencode(sockets.folder))
    if length > sockets.allowed:
        why = f"engines make sockets below it, whose paths may have {SOCKET_BYTES} bytes"
        yield (
            f"{sockets.variable}={sockets.folder}: has {length} bytes, and {sockets.allowed} are allowed: {why}; "
            f"set {sockets.variable} to a shorter folder of this node, such as /tmp"
        )


def fallback_notes(wanted: str | None, temp: str) -> Iterator[str]:
    """Python takes another folder without a word."""
    if wanted and os.path.abspath(wanted) != os.path.abspath(temp):
        why = "cannot be written" if os.path.isdir(wanted) else "no such folder"
        yield f"TMPDIR={wanted}: {why} on this node; pdslurm and its engines use {temp} there"


def noexec_notes(temp: Place, inductor: str | None) -> Iterator[str]:
    """vLLM gives torch.compile a folder in its own cache, unless it was told to keep no cache."""
    if temp.noexec and not inductor:
        yield (
            f"{temp.name} is mounted noexec on this node: what torch.compile builds outside vLLM's cache cannot be loaded from "
            "there; should an engine say `failed to map segment from shared object`, set TORCHINDUCTOR_CACHE_DIR to another folder"
        )
