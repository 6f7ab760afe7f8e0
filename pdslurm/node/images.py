"""From runtime.image to the image that this node has, by ID and not by tag: loads or pulls here what is missing.

An ID is docker's and podman's own. A tarball carries the ID of what it loads as, so that a changed tarball under the same name is
loaded again. A .sif or .sqsh is used where it lies, and its ID comes from its head."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pdslurm.config import Runtime, RuntimeKind
from pdslurm.errors import PreflightError
from pdslurm.plan.mounts import is_path
from pdslurm.records.whole_file import write_text

LOAD_TIMEOUT_S = 3600.0  # a GPU image of 15 GB from a shared file system
HEAD_BYTES = 2**20
ID_SUFFIX = ".id"  # beside a tarball: the ID that it loads as, so that nobody has to unpack 15 GB to know


@dataclass(frozen=True)
class Image:
    """What a node has: `id` to compare and to record, `start` to put into runtime.image for runtime.wrap."""

    id: str
    start: str


@dataclass(frozen=True)
class CommandOutput:
    """What a command printed that has ended."""

    code: int
    out: str
    err: str


RunCommand = Callable[[Sequence[str], Path | None], CommandOutput]


def ensure_image(runtime: Runtime, *, node: str, run: RunCommand | None = None) -> Image:
    """The image of this node, loaded or pulled where it was missing. `node` is for messages. Raises PreflightError with one line
    that names node and image and says what to do."""
    run = run or run_command
    image = str(runtime.image)
    try:
        if runtime.kind in (RuntimeKind.docker, RuntimeKind.podman):
            found = _in_store(runtime, image, run)
        elif runtime.kind is RuntimeKind.enroot:
            found = _enroot(runtime, Path(image), run)
        elif runtime.kind is RuntimeKind.pyxis and not is_path(image):
            found = Image(image, image)  # each node asks the registry by itself, within the step
        else:
            found = Image(file_id(Path(image)), image)
    except (OSError, subprocess.SubprocessError, tarfile.TarError, ValueError) as error:
        raise PreflightError([f"{node}: runtime.image={image}: {error}"]) from error
    return found


def tarball_ids(path: Path) -> tuple[str, ...]:
    """What the image in a tarball of `docker save` or `podman save` may be called once it is loaded, first its config's digest.

    docker's containerd store uses the manifest's digest instead. The file beside it with the suffix .id is believed where it is
    not older; without it a compressed tarball is read from end to end. Raises ValueError where it is no image's tarball."""
    known = path.with_name(path.name + ID_SUFFIX)
    if known.is_file() and known.stat().st_mtime >= path.stat().st_mtime:
        return tuple(known.read_text().split())
    lists: dict[str, object] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name in ("manifest.json", "index.json") and (file := tar.extractfile(member)):
                lists[member.name] = json.load(file)
    return _ids(lists.get("manifest.json"), lists.get("index.json"))


def _ids(manifest: object, index: object) -> tuple[str, ...]:
    """From a tarball's manifest.json (`[{"Config": "<hex>.json" or "blobs/sha256/<hex>", …}]`) and index.json, if it has one."""
    if not isinstance(manifest, list) or len(manifest) != 1:
        count = f"{len(manifest)} images" if isinstance(manifest, list) else "no manifest.json"
        raise ValueError(f"has {count}; save one image: docker save NAME, or podman save --format docker-archive NAME")
    config = Path(manifest[0]["Config"]).name.removesuffix(".json")
    others = [m["digest"] for m in index["manifests"]] if isinstance(index, dict) else []
    return tuple(dict.fromkeys([f"sha256:{config}", *others]))


def file_id(path: Path) -> str:
    """The ID of a .sif or .sqsh: from its first MiB and its size. The head of a .sif holds a UUID that each build makes anew, that
    of a .sqsh the time it was made and where its tables lie; reading all of 15 GB on every node would take minutes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        return f"head:{hashlib.sha256(file.read(HEAD_BYTES) + str(size).encode()).hexdigest()}"


def _in_store(runtime: Runtime, image: str, run: RunCommand) -> Image:
    """docker and podman: what the store on this node has, after a load or pull if need be."""
    program = runtime.program or [runtime.kind.value]
    wanted = tarball_ids(Path(image)) if is_path(image) else (image,)
    if found := _inspect(program, wanted, run):
        return found
    if not is_path(image):
        pulled = run([*program, "pull", "--quiet", image], None)
        _raise_if_failed(pulled, "cannot be pulled; load it on the nodes, or give a tarball's path")
    elif runtime.kind is RuntimeKind.podman and _is_gzip(Path(image)):  # which `podman load` of 4.3 does not unpack
        _raise_if_failed(run([*program, "load", "--quiet"], Path(image)), "cannot be loaded")
    else:
        _raise_if_failed(run([*program, "load", "--quiet", "--input", image], None), "cannot be loaded")
    if found := _inspect(program, wanted, run):
        return found
    raise ValueError(f"was loaded, but there is no image {wanted[0]} then; save the tarball again")


def _inspect(program: Sequence[str], names: Sequence[str], run: RunCommand) -> Image | None:
    """The first of these images that the store has. Raises ValueError when the store cannot be asked."""
    for name in names:
        done = run([*program, "image", "inspect", "--format", "{{.Id}}", name], None)
        if done.code == 0:
            found = f"sha256:{done.out.strip().removeprefix('sha256:')}"  # podman leaves the prefix out
            return Image(found, found)
        error = done.err.lower()
        if "no such image" not in error and "not known" not in error:
            _raise_if_failed(
                done, f"`{shlex.join(program)}` cannot be asked on this node; is it running, and may this user use it?"
            )
    return None


def _enroot(runtime: Runtime, path: Path, run: RunCommand) -> Image:
    """enroot: a root folder unpacked from the .sqsh, named after its ID, once for each node and user."""
    program = runtime.program or ["enroot"]
    found = file_id(path)
    name = f"pdslurm-{found.removeprefix('head:')[:16]}"
    listed = run([*program, "list"], None)
    _raise_if_failed(listed, "enroot does not run on this node")
    if name not in listed.out.split():
        _raise_if_failed(run([*program, "create", "--name", name, str(path)], None), "cannot be unpacked")
    return Image(found, name)


def _raise_if_failed(done: CommandOutput, problem: str) -> None:
    if done.code != 0:
        last = (done.err.strip() or done.out.strip()).splitlines()[-1:] or [f"exit code {done.code}"]
        raise ValueError(f"{problem} ({last[0]})")


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def run_command(command: Sequence[str], unpack: Path | None) -> CommandOutput:
    """Runs a command to its end; `unpack` is a .gz file whose content becomes its stdin."""
    source = subprocess.Popen(["gzip", "--decompress", "--stdout", unpack], stdout=subprocess.PIPE) if unpack else None
    try:
        stdin = source.stdout if source else subprocess.DEVNULL
        done = subprocess.run(
            command, stdin=stdin, capture_output=True, text=True, errors="replace", timeout=LOAD_TIMEOUT_S, check=False
        )
        return CommandOutput(done.returncode, done.stdout, done.stderr)
    finally:
        if source:
            source.kill()  # it has ended by itself unless the command failed
            source.communicate()


def main(arguments: Sequence[str]) -> int:
    """`python -m pdslurm.node.images TARBALL`: writes and prints the ID that the tarball loads as."""
    path = Path(arguments[0])
    beside = path.with_name(path.name + ID_SUFFIX)
    beside.unlink(missing_ok=True)
    try:
        text = " ".join(tarball_ids(path))
    except (OSError, tarfile.TarError, ValueError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 1
    write_text(beside, text + "\n")
    print(f"{path}: {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
