"""A docker or podman of a test's own: images, containers and socket lie in one folder; the machine's own are never touched."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pdslurm.config import Runtime, RuntimeKind

ROOT = Path(__file__).parents[2]
RUNC = Path(__file__).with_name("oci_runtime.py")


@dataclass(frozen=True)
class Store:
    """`program` is the container program with the options that lead to this store."""

    kind: RuntimeKind
    program: tuple[str, ...]

    def runtime(self, image: str, **fields: object) -> Runtime:
        runtime = Runtime(name=self.kind.value, kind=self.kind, image=image, program=list(self.program))
        for name, value in fields.items():
            assert hasattr(runtime, name)
            setattr(runtime, name, value)
        return runtime

    def run(self, *arguments: str, timeout_s: float = 600, env: Mapping[str, str] | None = None) -> str:
        done = subprocess.run([*self.program, *arguments], capture_output=True, text=True, timeout=timeout_s, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def containers(self) -> list[str]:
        return self.run("ps", "--all", "--quiet", "--no-trunc").split()

    def make_image(self, name: str, files: Mapping[str, str]) -> str:
        """An image of a few files, made in no time; returns its ID."""
        with tempfile.TemporaryDirectory() as folder:
            for path, text in files.items():
                Path(folder, path).write_text(text)
            tar = Path(folder, "image.tar")
            subprocess.run(["tar", "--directory", folder, "--create", "--file", tar, *files], check=True)
            self.run("import", str(tar), name)
        return "sha256:" + self.run("image", "inspect", "--format", "{{.Id}}", name).removeprefix("sha256:")

    def make_base_image(self, name: str) -> None:
        subprocess.run(["bash", ROOT / "docker" / "base_image.sh", name, *self.program], check=True, capture_output=True)


def missing(kind: RuntimeKind) -> str:
    """The programs that this machine lacks for a store, comma-separated; empty if none."""
    needs = {RuntimeKind.docker: ("docker", "dockerd"), RuntimeKind.podman: ("podman",)}[kind]
    return ", ".join(name for name in (*needs, "runc", "debootstrap") if shutil.which(name) is None)


@contextlib.contextmanager
def new_store(kind: RuntimeKind) -> Iterator[Store]:
    """A store that is gone after the `with`."""
    folder = Path(tempfile.mkdtemp(prefix="pdslurm-store-"))  # short: a socket's path has at most 107 characters
    try:
        with {RuntimeKind.docker: docker_store, RuntimeKind.podman: podman_store}[kind](folder) as store:
            yield store
    finally:
        mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for path in reversed(
            [m for m in mounted if m.startswith(f"{folder}/")]
        ):  # both leave one, for network namespaces or layers
            subprocess.run(["umount", path], check=True)
        shutil.rmtree(folder)


@contextlib.contextmanager
def docker_store(folder: Path) -> Iterator[Store]:
    """A dockerd that makes no network (containers have the host's) and ends with the `with`."""
    socket, log = folder / "docker.sock", folder / "dockerd.log"
    config = {
        "data-root": str(folder / "data"), "exec-root": str(folder / "exec"), "pidfile": str(folder / "docker.pid"),
        "hosts": [f"unix://{socket}"], "iptables": False, "ip6tables": False, "bridge": "none", "storage-driver": "overlay2",
        "runtimes": {"lesser": {"path": str(RUNC)}}, "default-runtime": "lesser",
    }  # fmt: skip
    (folder / "daemon.json").write_text(json.dumps(config))
    store = Store(RuntimeKind.docker, ("docker", "--host", f"unix://{socket}"))
    with log.open("wb") as out, _ended(["dockerd", "--config-file", str(folder / "daemon.json")], out.fileno()) as daemon:
        deadline = time.monotonic() + 60
        while subprocess.run([*store.program, "version"], capture_output=True).returncode != 0:
            assert daemon.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.1)
        try:
            yield store
        finally:
            _remove_all(store)


@contextlib.contextmanager
def podman_store(folder: Path) -> Iterator[Store]:
    """podman has no daemon; what tells it where everything is, is an environment variable and three options."""
    conf = folder / "containers.conf"
    conf.write_text(
        f"""[containers]
default_ulimits = []
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
tmp_dir = "{folder}/tmp"
runtime = "lesser"
[engine.runtimes]
lesser = ["{RUNC}"]
"""
    )
    options = ("--root", str(folder / "root"), "--runroot", str(folder / "run"), "--storage-driver", "overlay")
    store = Store(RuntimeKind.podman, ("env", f"CONTAINERS_CONF={conf}", "podman", *options))
    try:
        yield store
    finally:
        _remove_all(store)
        store.run("rmi", "--all", "--force")


def _remove_all(store: Store) -> None:
    if left := store.containers():
        store.run("rm", "--force", *left)


@contextlib.contextmanager
def _ended(command: Sequence[str], out: int) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
