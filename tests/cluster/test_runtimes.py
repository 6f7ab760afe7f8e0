"""docker and podman for real: what arrives in a container, how its first process learns that its starter is gone, what is removed,
and which image it is."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pdslurm.config import RuntimeKind
from pdslurm.errors import PreflightError
from pdslurm.node.container import Devices, remove_containers, wrap
from pdslurm.node.images import ID_SUFFIX, Image, ensure_image, tarball_ids
from tests.cluster.container_stores import ROOT, Store, missing, new_store

pytestmark = pytest.mark.cluster
BASE = "pdslurm-base"
SECRET = "se'cr \"et\n$(x)"
# The first process of a container: says what it sees, writes when its stdin ends, and lives until a TERM or for 20 s.
FIRST = """
import json, os, signal, sys, time
def say(name, value):
    with open(name + ".new", "w") as file:
        file.write(value)
    os.rename(name + ".new", name)
def term(*_):
    say("term", str(time.time()))
    sys.exit(7)
signal.signal(signal.SIGTERM, term)
if os.fork() == 0:  # a part of an engine that has a session of its own and listens to nobody
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say("part", str(os.getpid()))
    time.sleep(20)
    os._exit(0)
say("up", json.dumps({"argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd(), "pid": os.getpid(),
                      "ipc": os.readlink("/proc/self/ns/ipc"), "net": os.readlink("/proc/self/ns/net")}))
while os.read(0, 100):
    pass
say("eof", str(time.time()))
time.sleep(20)
"""


@pytest.fixture(scope="module", params=[RuntimeKind.docker, RuntimeKind.podman], ids=lambda kind: kind.value)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    kind: RuntimeKind = request.param
    if os.geteuid() != 0 or missing(kind):
        pytest.skip(f"no tests of {kind.value}: this lacks {missing(kind) or 'root'}")
    with new_store(kind) as store:
        store.make_base_image(BASE)
        yield store


def shipped(kind: RuntimeKind) -> list[str]:
    """extra_args of conf/runtime, as a user gets them."""
    return list(OmegaConf.load(ROOT / "conf" / "runtime" / f"{kind.value}.yaml").extra_args)


@pytest.fixture
def start(store: Store, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """start(*arguments, run=…): FIRST in a container, with `tmp_path` as working directory; removed at the test's end."""
    started: list[subprocess.Popen[bytes]] = []
    runtime = store.runtime(BASE, extra_args=shipped(store.kind))

    def start(
        *arguments: str, run: str = "r-1", command: Sequence[str] = ("python3", "-c", FIRST), **more: Any
    ) -> subprocess.Popen[bytes]:
        given: dict[str, Any] = {"mounts": [str(tmp_path)], "devices": Devices(), "env": {}, **more}
        name = f"first{len(started)}"
        argv, env = wrap(runtime, [*command, *arguments], given.pop("env"), run=run, name=name, stdin=True, **given)
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(argv, env={**os.environ, **env}, stdin=subprocess.PIPE, stdout=log, stderr=log)
        started.append(process)
        return process

    yield start
    for run in ("r-1", "r-10"):
        remove_containers(runtime, run)
    for process in started:
        with process:
            process.kill()


# Reads five bytes of another process, as UCX's cma does; argv: process, address.
READ = """
import ctypes, sys
class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]
libc = ctypes.CDLL(None, use_errno=True)
mine = ctypes.create_string_buffer(5)
local, remote = Piece(ctypes.addressof(mine), 5), Piece(int(sys.argv[2]), 5)
count = libc.process_vm_readv(int(sys.argv[1]), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
print(mine.raw.decode() if count == 5 else f"errno {ctypes.get_errno()}")
"""
HOLD = """
import ctypes, os, time
memory = ctypes.create_string_buffer(b"hello")
with open("address.new", "w") as file:
    print(os.getpid(), ctypes.addressof(memory), file=file)
os.rename("address.new", "address")
time.sleep(20)
"""


def wait_for(file: Path, timeout_s: float = 20) -> str:
    deadline = time.monotonic() + timeout_s
    while not file.exists():
        assert time.monotonic() < deadline, f"{file.name} is not there; the log says: {(file.parent / 'log').read_text()}"
        time.sleep(0.02)
    return file.read_text()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def command_lines() -> Iterator[bytes]:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            yield Path("/proc", pid, "cmdline").read_bytes()
        except OSError:
            continue


def test_what_arrives(start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> None:
    awkward = ["a b", "it's", 'say "hi"', "$(touch pwned)", "`id`", "line\nbreak", "", "--rm", "ü 🙂", "*"]
    start(*awkward, env={"VLLM_API_KEY": SECRET, "EMPTY": ""})
    up = json.loads(wait_for(tmp_path / "up"))
    assert up["argv"] == awkward
    assert (up["env"]["VLLM_API_KEY"], up["env"]["EMPTY"], up["cwd"]) == (SECRET, "", str(tmp_path))
    assert up["ipc"] == os.readlink("/proc/self/ns/ipc")
    assert up["net"] == os.readlink("/proc/self/ns/net")
    assert FIRST.encode() in Path(f"/proc/{up['pid']}/cmdline").read_bytes()  # a PID of the host's
    assert not [line for line in command_lines() if SECRET.encode() in line]


@pytest.mark.parametrize("folder", ["a,b", "a b", "it's $(id)", 'say "hi"', "line\nbreak"])
def test_mounts(start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, folder: str) -> None:
    source = tmp_path / folder
    source.mkdir()
    (source / "there").write_text("yes")
    look = "import os, sys; print(os.getcwd(), open('there').read(), os.access('/ro', os.W_OK), os.access('/rw', os.W_OK))"
    mounts = [str(source), f"{source}:/ro:ro", f"{source}:/rw"]
    process = start(command=["python3", "-c", look], mounts=mounts)
    assert process.wait(60) == 0
    assert (tmp_path / "log").read_text() == f"{source} yes False True\n"


def test_one_container_reads_anothers_memory(start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> None:
    start(command=["python3", "-c", HOLD])
    address = wait_for(tmp_path / "address").split()
    assert start(*address, command=["python3", "-c", READ]).wait(60) == 0
    assert (tmp_path / "log").read_text() == "hello\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [(["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -9 $$"], 137), (["no-such-program"], 127), (["/etc/passwd"], 126)],
)
def test_exit_codes(start: Callable[..., subprocess.Popen[bytes]], store: Store, command: list[str], code: int) -> None:
    assert start(command=command).wait(60) == code
    assert store.containers() == []


@pytest.mark.parametrize("end", ["the command is killed", "its stdin is closed"])
def test_the_end_of_its_starter_is_the_end_of_stdin(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, end: str
) -> None:
    process = start()
    wait_for(tmp_path / "up")
    began = time.time()
    if end == "the command is killed":
        process.kill()
    elif process.stdin:
        process.stdin.close()
    assert float(wait_for(tmp_path / "eof")) - began < 2


def test_term_arrives_and_nothing_stays(start: Callable[..., subprocess.Popen[bytes]], store: Store, tmp_path: Path) -> None:
    process = start()
    wait_for(tmp_path / "up")
    part = int(wait_for(tmp_path / "part"))
    assert is_alive(part)
    process.terminate()
    assert process.wait(30) == 7
    assert (tmp_path / "term").exists()
    assert not is_alive(part)
    assert store.containers() == []


def test_removal_takes_one_run_and_no_other(start: Callable[..., subprocess.Popen[bytes]], store: Store, tmp_path: Path) -> None:
    """Also one that was made and never started, as a command that is killed early leaves it."""
    made = store.run("create", "--label", "pdslurm.run=r-1", "--network", "host", BASE, "true")
    running, other = start(run="r-1"), start(run="r-10", mounts=["/tmp"], command=["sleep", "20"])
    wait_for(tmp_path / "up")
    part = int(wait_for(tmp_path / "part"))
    deadline = time.monotonic() + 20
    while len(store.containers()) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    runtime = store.runtime(BASE)
    removed = remove_containers(runtime, "r-1")
    assert len(removed) == 2
    assert made in removed
    assert running.wait(10) == 128 + signal.SIGKILL
    assert not is_alive(part)
    assert other.poll() is None
    assert len(store.containers()) == 1
    assert remove_containers(runtime, "r-1") == ()


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_changed_tarball_is_loaded_again(store: Store, tmp_path: Path, suffix: str) -> None:
    tarball = tmp_path / f"image{suffix}"

    def save(name: str) -> None:
        plain = tmp_path / "plain.tar"
        plain.unlink(missing_ok=True)
        store.run("save", "--output", str(plain), name)
        tarball.write_bytes(gzip.compress(plain.read_bytes()) if suffix.endswith("gz") else plain.read_bytes())
        store.run("rmi", "--force", name)

    runtime = store.runtime(str(tarball))
    ids = []
    for version in ("first", "second"):
        ids.append(store.make_image("localhost/changing:1", {"version": f"{version}{suffix}"}))
        save("localhost/changing:1")
        assert tarball_ids(tarball)[0] == ids[-1]
        loaded = ensure_image(runtime, node="n1")
        assert loaded == Image(ids[-1], ids[-1]) == ensure_image(runtime, node="n1")
        assert ids[-1].removeprefix("sha256:") in store.run("images", "--no-trunc", "--quiet")
    assert ids[0] != ids[1]
    tarball.with_name(tarball.name + ID_SUFFIX).write_text(ids[0])
    assert ensure_image(runtime, node="n1").id == ids[0]  # both are there; the file beside it says which is meant


def test_an_image_by_id_and_what_is_said_of_a_missing_one(store: Store, tmp_path: Path) -> None:
    runtime = store.runtime(BASE)
    image = ensure_image(runtime, node="n1")
    argv, _ = wrap(
        replace(runtime, image=image.start), ["true"], {}, run="r-1", name="t", mounts=["/tmp"], devices=Devices(), stdin=False
    )
    assert image.id in argv
    subprocess.run(argv, check=True, timeout=60)
    with pytest.raises(PreflightError, match=r"n1: runtime\.image=localhost:1/none:1: cannot be pulled; load it on the nodes"):
        ensure_image(store.runtime("localhost:1/none:1"), node="n1")
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"x" * 20000)
    with pytest.raises(PreflightError, match=r"n1: runtime\.image=.*broken\.tar: "):
        ensure_image(store.runtime(str(broken)), node="n1")
