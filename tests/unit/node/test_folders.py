"""Folders of a node that a run writes to: what is read of real ones, and what is wrong with planted ones."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from pdslurm.node import folders as f
from pdslurm.node.folders import Cache, Folders, Place, Sockets, folder_findings, read_folders

GIB = 2**30
BOTH = ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR")


@pytest.mark.parametrize(
    ("folders", "findings"),
    [
        (Folders([Place("run_dir=/r", 2 * GIB)], [Cache("HOME=/h", GIB)], Sockets("TMPDIR", "/tmp", 36)), []),
        (Folders([Place("run_dir=/r", GIB // 2)]),
         ["run_dir=/r: 0.50 GiB free; logs and records need 1, make room or name another"]),
        (Folders([Place("run_dir=/r", 0, "Disk quota exceeded")]),
         ["run_dir=/r: cannot be written on this node (Disk quota exceeded); it has to be a folder that this user may write on "
          "every node"]),
        (Folders(caches=[Cache("HOME=/h", GIB, "Read-only file system", folder="/h", variables=BOTH)]),
         ["HOME=/h: engines keep what they compile below /h, which cannot be written on this node (Read-only file system); name "
          "another folder by VLLM_CACHE_ROOT and TRITON_CACHE_DIR"]),
        (Folders(caches=[Cache("VLLM_CACHE_ROOT=/c", 2**20, folder="/c", variables=BOTH[:1])]),
         ["VLLM_CACHE_ROOT=/c: engines keep what they compile below /c, which has 0.00 GiB free on this node, and they need 0.25; "
          "name another folder by VLLM_CACHE_ROOT"]),
        (Folders(caches=[Cache("HOME=/h", GIB, noexec=True, folder="/h", variables=BOTH)]),
         ["HOME=/h: engines keep what they compile below /h, which is mounted noexec on this node; name another folder by "
          "VLLM_CACHE_ROOT and TRITON_CACHE_DIR"]),
        (Folders(sockets=Sockets("TMPDIR", "/" + "a" * 35, 36)), []),
        (Folders(sockets=Sockets("TMPDIR", "/" + "a" * 36, 36)),
         [f"TMPDIR=/{'a' * 36}: has 37 bytes, and 36 are allowed: engines make sockets below it, whose paths may have 107 bytes; "
          "set TMPDIR to a shorter folder of this node, such as /tmp"]),
        (Folders(sockets=Sockets("TMPDIR", "/" + "ü" * 18, 36)),
         [f"TMPDIR=/{'ü' * 18}: has 37 bytes, and 36 are allowed: engines make sockets below it, whose paths may have 107 bytes; "
          "set TMPDIR to a shorter folder of this node, such as /tmp"]),
    ],
)  # fmt: skip
def test_findings(folders: Folders, findings: list[str]) -> None:
    assert list(folder_findings(folders)) == findings


@pytest.mark.parametrize(
    ("environ", "caches"),
    [
        ({"HOME": "{}"}, {"HOME={}": ("{}", BOTH)}),
        ({"HOME": "{}/not/there"}, {"HOME={}/not/there": ("{}", BOTH)}),
        ({"HOME": "{}", "XDG_CACHE_HOME": "{}/x"}, {"XDG_CACHE_HOME={}/x": ("{}/x", BOTH[:1]), "HOME={}": ("{}", BOTH[1:])}),
        ({"HOME": "/proc/none", "VLLM_CACHE_ROOT": "~/x", "TRITON_CACHE_DIR": "{}/x"},
         {"VLLM_CACHE_ROOT=~/x": ("/proc", BOTH[:1]), "TRITON_CACHE_DIR={}/x": ("{}/x", BOTH[1:])}),
    ],
)  # fmt: skip
def test_where_engines_keep_what_they_compile(
    tmp_path: Path, environ: dict[str, str], caches: dict[str, tuple[str, tuple[str, ...]]]
) -> None:
    (tmp_path / "x").mkdir()
    found = read_folders(tmp_path, {name: value.format(tmp_path) for name, value in environ.items()}, bare=True).caches
    expected = {name.format(tmp_path): (folder.format(tmp_path), variables) for name, (folder, variables) in caches.items()}
    assert {cache.name: (cache.folder, cache.variables) for cache in found} == expected
    assert {cache.folder for cache in found if cache.error} == {"/proc"} & {folder for folder, _ in expected.values()}


def test_a_container_has_folders_of_its_own(tmp_path: Path) -> None:
    found = read_folders(tmp_path, {"HOME": "/proc/none"}, bare=False)
    assert (found.caches, found.sockets) == ((), None)
    assert [place.error for place in found.places] == ["", ""]


@pytest.mark.parametrize(
    ("environ", "sockets"),
    [({}, Sockets("TMPDIR", tempfile.gettempdir(), 36)), ({"VLLM_RPC_BASE_PATH": "/s"}, Sockets("VLLM_RPC_BASE_PATH", "/s", 70))],
)
def test_the_folder_of_sockets(tmp_path: Path, environ: dict[str, str], sockets: Sockets) -> None:
    assert read_folders(tmp_path, environ, bare=True).sockets == sockets


def test_a_full_quota_is_noticed_by_writing(tmp_path: Path) -> None:
    assert f.write_error(tmp_path) == ""
    assert list(tmp_path.iterdir()) == [], "nothing is left"
    assert f.write_error(tmp_path / "none") == "No such file or directory"
    assert f.write_error(Path("/proc")) != ""


@pytest.mark.parametrize(
    ("wanted", "notes"),
    [
        (None, []),
        ("/tmp", []),
        ("/tmp/", []),
        ("/none", ["TMPDIR=/none: no such folder on this node; pdslurm and its engines use /tmp there"]),
        ("/proc", ["TMPDIR=/proc: cannot be written on this node; pdslurm and its engines use /tmp there"]),
    ],
)
def test_a_temporary_folder_that_python_passes_over(wanted: str | None, notes: list[str]) -> None:
    assert list(f.fallback_notes(wanted, "/tmp")) == notes


def test_a_temporary_folder_without_execution() -> None:
    (note,) = f.noexec_notes(Place("the temporary folder /tmp", noexec=True), None)
    assert "the temporary folder /tmp is mounted noexec on this node" in note
    assert "set TORCHINDUCTOR_CACHE_DIR" in note
    assert list(f.noexec_notes(Place("the temporary folder /tmp", noexec=True), "/home/x")) == []
    assert list(f.noexec_notes(Place("the temporary folder /tmp"), None)) == []
