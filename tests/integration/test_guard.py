"""The guard with real small processes below it: whatever ends, the rest ends too, with its shared memory and temporary files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pdslurm.node import guard

STAY = "print('up', flush=True); import time; time.sleep(60)"
MAP = """
import mmap
with open({path!r}, "a+b") as file:
    file.truncate(4096)
    kept{n} = mmap.mmap(file.fileno(), 4096)
"""


class Guarded:
    """A program under a guard whose stdin this test holds open."""

    def __init__(self, folder: Path, code: str, stop_s: float) -> None:
        self.log = folder / "log"
        self.temp = folder / "temp"
        self.temp.mkdir(exist_ok=True)
        with self.log.open("ab") as out:
            self.popen = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, str(stop_s), sys.executable, "-S", "-c", textwrap.dedent(code)],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                env={**os.environ, "TMPDIR": str(self.temp)},
                start_new_session=True,
            )
        wait_for(lambda: "up\n" in self.text() or self.popen.poll() is not None, "up")

    def text(self) -> str:
        return self.log.read_text()

    def close_stdin(self) -> None:
        assert self.popen.stdin
        self.popen.stdin.close()

    def alive(self) -> list[int]:
        """Every process of its session but zombies."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            fields = guard.read(f"/proc/{pid}/stat").rpartition(")")[2].split()
            if fields and fields[3] == str(self.popen.pid) and fields[0] != "Z":
                found.append(int(pid))
        return found


def wait_for(true: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Callable[..., Guarded]]:
    made: list[Guarded] = []

    def begin(code: str, stop_s: float = 0.3) -> Guarded:
        made.append(Guarded(tmp_path, code, stop_s))
        return made[-1]

    yield begin
    for each in made:
        each.popen.kill()
        for pid in each.alive():
            guard.kill(pid, signal.SIGKILL)
        each.popen.wait(10)
        if each.popen.stdin:
            each.popen.stdin.close()


@pytest.mark.parametrize(
    ("end", "code"),
    [("sys.exit(0)", 0), ("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137), ("os.kill(os.getpid(), 15)", 143)],
)
def test_the_commands_code_is_the_guards(guarded: Callable[..., Guarded], end: str, code: int) -> None:
    assert guarded(f"import os, sys; {end}").popen.wait(10) == code


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    stdin, writer = os.pipe()
    command = [sys.executable, guard.__file__, "1", "/no/such"]
    done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False, timeout=60)
    os.close(stdin)
    os.close(writer)
    assert done.returncode == guard.OWN_EXIT
    assert done.stderr.startswith("guard: cannot start /no/such: No such file or directory\n")


@pytest.mark.parametrize("how", ["stdin", "TERM", "HUP"])
def test_a_closed_stdin_or_a_signal_ends_everything(guarded: Callable[..., Guarded], how: str) -> None:
    """Among it what left its session and its parent, as a daemon does."""
    running = guarded(
        """
        import os, time, signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                print(os.getpid(), flush=True)
                print("up", flush=True)
                time.sleep(60)
            os._exit(0)
        time.sleep(60)
        """
    )
    daemon = int(running.text().split()[0])
    assert guard.state(daemon) == "S"
    began = time.monotonic()
    running.close_stdin() if how == "stdin" else running.popen.send_signal(getattr(signal, f"SIG{how}"))
    running.popen.wait(10)
    assert 0.3 <= time.monotonic() - began < 1.5  # it was asked first
    assert guard.state(daemon) == ""
    assert running.alive() == []


def test_int_kills_at_once_and_a_second_term_does_not(guarded: Callable[..., Guarded]) -> None:
    running = guarded(f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {STAY}", stop_s=60)
    running.popen.terminate()
    time.sleep(0.4)
    running.popen.terminate()
    time.sleep(0.4)
    assert running.popen.poll() is None
    running.popen.send_signal(signal.SIGINT)
    running.popen.wait(3)
    assert running.alive() == []


def test_the_command_dies_with_a_killed_guard(guarded: Callable[..., Guarded]) -> None:
    running = guarded(STAY)
    running.popen.kill()
    wait_for(lambda: running.alive() == [], "gone", 2)


def test_the_death_of_a_part_is_a_death(guarded: Callable[..., Guarded]) -> None:
    """As of the EngineCore below a headless `vllm serve`, which ends 7 s later. What bears no title of vLLM's may end."""
    running = guarded(
        """
        import subprocess, time
        subprocess.Popen(["VLLM::Worker", "60"], executable="/bin/sleep")
        core = subprocess.Popen(["VLLM::EngineCore_DP1   ", "60"], executable="/bin/sleep")
        subprocess.Popen(["sleep", "0.2"])
        print(core.pid, "up", sep="\\n", flush=True)
        time.sleep(60)
        """
    )
    core = int(running.text().split()[0])
    time.sleep(2.0)  # the guard looks after 1 s
    assert running.popen.poll() is None
    began = time.monotonic()
    os.kill(core, signal.SIGKILL)
    assert running.popen.wait(10) == guard.OWN_EXIT
    assert time.monotonic() - began < guard.PART_GRACE_S + 1.0
    assert running.text().endswith(f"guard: its process VLLM::EngineCore_DP1 (pid {core}) ended\n")
    assert running.alive() == []


def test_a_part_that_ends_with_its_command_adds_no_words(guarded: Callable[..., Guarded]) -> None:
    running = guarded(
        """
        import subprocess, sys, time
        subprocess.Popen(["VLLM::EngineCore", "1.5"], executable="/bin/sleep").wait
        print("up", flush=True)
        time.sleep(2)
        print("my own words", flush=True)
        sys.exit(1)
        """
    )
    assert running.popen.wait(10) == 1
    assert running.text().endswith("my own words\nguard: exit code 1\n")


# --- what would stay behind


def test_temporary_files_are_removed_and_those_of_others_stay(guarded: Callable[..., Guarded], tmp_path: Path) -> None:
    (tmp_path / "temp").mkdir()
    (tmp_path / "temp" / "others").touch()
    running = guarded(f"import tempfile; tempfile.mkstemp(); {STAY}")
    (own,) = (p for p in running.temp.iterdir() if p.is_dir())
    assert len(list(own.iterdir())) == 1
    running.close_stdin()
    running.popen.wait(10)
    assert [p.name for p in running.temp.iterdir()] == ["others"]


@pytest.fixture
def segment() -> Iterator[Callable[[str], Path]]:
    """segment(name): a path in /dev/shm, removed at the end."""
    made: list[Path] = []

    def path(name: str) -> Path:
        made.append(Path(f"/dev/shm/pdslurm-test-{os.getpid()}-{name}"))
        return made[-1]

    yield path
    for each in made:
        each.unlink(missing_ok=True)


def maps(*paths: Path) -> str:
    """Code that maps these segments."""
    return "".join(MAP.format(path=str(p), n=n) for n, p in enumerate(paths))


def test_segments_of_killed_processes_are_removed_and_others_stay(
    guarded: Callable[..., Guarded], segment: Callable[[str], Path]
) -> None:
    """One that was there before stays though the command used it; so does one that somebody else uses now."""
    ours, older, foreign, shared = (segment(n) for n in ("ours", "older", "foreign", "shared"))
    older.write_bytes(b"x" * 4096)
    running = guarded(maps(ours, older, shared) + STAY)
    foreign.write_bytes(b"x")
    user = subprocess.Popen([sys.executable, "-c", maps(shared) + STAY], stdout=subprocess.PIPE)
    assert user.stdout
    assert user.stdout.readline() == b"up\n"
    time.sleep(1.5)  # the guard looks after 1 s
    (child,) = guard.below(running.popen.pid)
    os.kill(child, signal.SIGKILL)
    assert running.popen.wait(10) == 137
    assert [p.exists() for p in (ours, older, foreign, shared)] == [False, True, True, True]
    user.kill()
    user.communicate()


def test_segments_mapped_after_the_last_look_are_found_by_the_stop(
    guarded: Callable[..., Guarded], segment: Callable[[str], Path]
) -> None:
    running = guarded(maps(late := segment("late")) + STAY)
    running.popen.terminate()
    running.popen.wait(10)
    assert not late.exists()


def test_a_semaphore_is_found_though_its_maker_mapped_it_under_another_name(guarded: Callable[..., Guarded]) -> None:
    """glibc makes a named semaphore as a temporary file and links it to its name."""
    name = f"pdslurm-test-{os.getpid()}"
    running = guarded(f"from _multiprocessing import SemLock; kept = SemLock(1, 1, 1, '/{name}', False); {STAY}")
    semaphore = Path("/dev/shm", f"sem.{name}")
    assert semaphore.exists()
    running.close_stdin()
    running.popen.wait(10)
    assert not semaphore.exists()
