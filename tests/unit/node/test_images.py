"""Images: whose ID is asked for, what is loaded or pulled when, and what a person reads when that fails."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pdslurm.config import Runtime, RuntimeKind
from pdslurm.errors import PreflightError
from pdslurm.node.images import CommandOutput, Image, ensure_image, file_id, main, tarball_ids

CONFIG, MANIFEST = "c0" * 32, "a1" * 32
MISSING = CommandOutput(1, "", "Error response from daemon: no such image: x: No such image: x:latest")


def tarball(path: Path, **files: object) -> Path:
    """A tarball with big layers around small JSON files, as `docker save` writes it."""
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as tar:
        for name, value in {"0/layer_tar": "x" * 100_000, **files, "z/layer_tar": "x" * 100_000}.items():
            data = json.dumps(value).encode()
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


class FakeStore:
    """docker or podman on a node: knows `has`, gains `gains` by a load or pull, and raises on anything else."""

    def __init__(self, has: Sequence[str] = (), gains: Sequence[str] = (), *, id: str = CONFIG, **fails: CommandOutput) -> None:
        self.has, self.gains, self.id, self.fails = list(has), gains, id, fails
        self.did: list[tuple[tuple[str, ...], Path | None]] = []

    def __call__(self, command: Sequence[str], unpack: Path | None) -> CommandOutput:
        verb = "inspect" if command[1:3] == ["image", "inspect"] else command[1]
        if verb in self.fails:
            return self.fails[verb]
        if verb == "inspect":
            return CommandOutput(0, f"{self.id}\n", "") if command[-1] in self.has else MISSING
        if verb == "list":
            return CommandOutput(0, "\n".join(self.has), "")
        assert verb in ("pull", "load", "create"), command
        self.did.append((tuple(command[1:]), unpack))
        self.has += self.gains
        return CommandOutput(0, "", "")


def runtime(kind: str, image: object) -> Runtime:
    return Runtime(name=kind, kind=RuntimeKind(kind), image=str(image))


@pytest.mark.parametrize("name", ["image.tar", "image.tar.gz"])
@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({"manifest_json": [{"Config": f"{CONFIG}.json"}]}, (f"sha256:{CONFIG}",)),
        (
            {
                "manifest_json": [{"Config": f"blobs/sha256/{CONFIG}"}],
                "index_json": {"manifests": [{"digest": f"sha256:{MANIFEST}"}]},
            },
            (f"sha256:{CONFIG}", f"sha256:{MANIFEST}"),
        ),
    ],
)
def test_the_id_in_a_tarball(tmp_path: Path, name: str, files: dict[str, Any], ids: tuple[str, ...]) -> None:
    assert tarball_ids(tarball(tmp_path / name, **files)) == ids


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "no manifest.json; save one image"),
        ({"index_json": {"manifests": []}}, "no manifest.json; save one image"),
        ({"manifest_json": [{"Config": "a"}, {"Config": "b"}]}, "2 images; save one image"),
    ],
)
def test_a_tarball_of_something_else(tmp_path: Path, files: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        tarball_ids(tarball(tmp_path / "image.tar", **files))


def test_the_id_beside_a_tarball_is_believed_unless_older(tmp_path: Path) -> None:
    path = tarball(tmp_path / "image.tar", manifest_json=[{"Config": f"{CONFIG}.json"}])
    beside = tmp_path / "image.tar.id"
    beside.write_text("sha256:beef\n")
    assert tarball_ids(path) == ("sha256:beef",)
    os.utime(beside, (1, 1))
    assert tarball_ids(path) == (f"sha256:{CONFIG}",)


def test_writing_the_id_beside_a_tarball(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tarball(tmp_path / "image.tar.gz", manifest_json=[{"Config": f"{CONFIG}.json"}])
    (tmp_path / "image.tar.gz.id").write_text("sha256:0lder\n")
    assert main([str(path)]) == 0
    assert (tmp_path / "image.tar.gz.id").read_text() == f"sha256:{CONFIG}\n"
    assert capsys.readouterr().out == f"{path}: sha256:{CONFIG}\n"
    tarball(path)
    assert main([str(path)]) == 1
    assert not (tmp_path / "image.tar.gz.id").exists()
    assert "no manifest.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "name", "has", "did"),
    [
        ("docker", "i.tar", [f"sha256:{CONFIG}"], []),
        ("docker", "i.tar", ["sha256:0lder"], [("load", "--quiet", "--input", "PATH")]),
        ("docker", "i.tar.gz", [], [("load", "--quiet", "--input", "PATH")]),
        ("podman", "i.tar", [], [("load", "--quiet", "--input", "PATH")]),
        ("podman", "i.tar.gz", [], [("load", "--quiet")]),
    ],
)
def test_a_tarball_is_loaded_where_its_id_is_missing(
    tmp_path: Path, kind: str, name: str, has: list[str], did: list[tuple[str, ...]]
) -> None:
    path = tarball(tmp_path / name, manifest_json=[{"Config": f"{CONFIG}.json"}])
    store = FakeStore(has, [f"sha256:{CONFIG}"])
    assert ensure_image(runtime(kind, path), node="n1", run=store) == Image(f"sha256:{CONFIG}", f"sha256:{CONFIG}")
    piped = path if kind == "podman" and name.endswith("gz") else None
    assert store.did == [(tuple(str(path) if arg == "PATH" else arg for arg in command), piped) for command in did]


@pytest.mark.parametrize(("has", "pulled"), [([], True), (["org/i:1"], False)])
def test_a_reference_is_pulled_where_it_is_missing(has: list[str], pulled: bool) -> None:
    store = FakeStore(has, ["org/i:1"], id=f"sha256:{CONFIG}")
    assert ensure_image(runtime("docker", "org/i:1"), node="n1", run=store).id == f"sha256:{CONFIG}"
    assert store.did == ([(("pull", "--quiet", "org/i:1"), None)] if pulled else [])


@pytest.mark.parametrize(
    ("kind", "image", "store", "problem"),
    [
        ("docker", "org/i:1", FakeStore(pull=CommandOutput(1, "", "a\nunauthorized")), "cannot be pulled; load it .*unauthorized"),
        (
            "docker",
            "org/i:1",
            FakeStore(inspect=CommandOutput(1, "", "permission denied")),
            "cannot be asked on this node; .*permission",
        ),
        ("docker", "org/i:1", FakeStore(), "was loaded, but there is no image org/i:1"),
        ("docker", "/nowhere/i.tar", FakeStore(), "No such file"),
        ("apptainer", "/nowhere/i.sif", FakeStore(), "No such file"),
    ],
)
def test_failures_name_node_and_image(kind: str, image: str, store: Callable[..., CommandOutput], problem: str) -> None:
    with pytest.raises(PreflightError, match=problem) as caught:
        ensure_image(runtime(kind, image), node="n1", run=store)
    assert f"n1: runtime.image={image}: " in str(caught.value)


def test_a_program_that_is_missing() -> None:
    of = runtime("docker", "org/i:1")
    of.program = ["/nowhere/docker"]
    with pytest.raises(PreflightError, match=r"n1: runtime\.image=org/i:1: .*/nowhere/docker"):
        ensure_image(of, node="n1")


def test_files_are_told_apart_by_their_head(tmp_path: Path) -> None:
    one, other = tmp_path / "one.sif", tmp_path / "other.sif"
    one.write_bytes(b"head 1")
    other.write_bytes(b"head 2")
    assert file_id(one) == file_id(one) != file_id(other)
    assert ensure_image(runtime("apptainer", one), node="n1") == Image(file_id(one), str(one))
    assert ensure_image(runtime("pyxis", "org#i:1"), node="n1") == Image("org#i:1", "org#i:1")


def test_enroot_unpacks_once(tmp_path: Path) -> None:
    path = tmp_path / "i.sqsh"
    path.write_bytes(b"hsqs")
    name = f"pdslurm-{file_id(path)[5:21]}"
    for has in ([], [name]):
        store = FakeStore(has)
        assert ensure_image(runtime("enroot", path), node="n1", run=store) == Image(file_id(path), name)
        assert store.did == ([] if has else [(("create", "--name", name, str(path)), None)])
    with pytest.raises(PreflightError, match=r"enroot does not run on this node .*no user namespaces"):
        ensure_image(runtime("enroot", path), node="n1", run=FakeStore(list=CommandOutput(1, "", "no user namespaces")))
