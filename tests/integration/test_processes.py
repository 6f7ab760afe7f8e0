"""Real small processes: a death is noticed, a stop leaves nothing, whatever the processes do about it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pdslurm.config import Runtime
from pdslurm.errors import CleanUpFailed, NotReady, PreflightError, ProcessDied
from pdslurm.node.engine_env import EngineEnv
from pdslurm.node.process_logs import log_tail
from pdslurm.node.processes import LocalProcesses, Running, cause_of_returncode
from pdslurm.plan.deployment import Process


def process(code: str, name: str = "engine0", role: str = "both") -> Process:
    """A Python program in place of an engine."""
    argv = (sys.executable, "-S", "-c", textwrap.dedent(code))
    return Process(name, "engine", role, None, 0, "127.0.0.1", (), None, argv, {"GIVEN": "yes"})


def wait_for(true: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process with this id exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.fixture
def processes() -> Iterator[LocalProcesses]:
    with LocalProcesses(stop_s=0.3) as made:
        yield made


@pytest.fixture
def start(processes: LocalProcesses, tmp_path: Path) -> Callable[..., Running]:
    """start(code): runs it and waits until it has printed `up`."""

    def begin(code: str, **more: str) -> Running:
        running = processes.start(process(code, **more), tmp_path / f"{more.get('name', 'engine0')}.log")
        wait_for(lambda: "up\n" in read(running.log), read(running.log))
        return running

    return begin


STAY = "print('up', flush=True); import time; time.sleep(60)"
IGNORE_TERM = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {STAY}"


# --- deaths


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        pytest.param("raise SystemExit(3)", "exit code 3", id="an exit code"),
        pytest.param("pass", "exit code 0", id="an end without an error is a death too"),
        pytest.param("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL", id="a signal"),
    ],
)
def test_a_death_is_noticed_at_once(processes: LocalProcesses, tmp_path: Path, code: str, cause: str) -> None:
    log = tmp_path / "logs" / "engine0.log"
    processes.start(process(f"print('last words', flush=True); {code}"), log)
    began = time.monotonic()
    with pytest.raises(ProcessDied) as caught:  # noqa: PT012
        while time.monotonic() - began < 5.0:
            processes.check()
            time.sleep(0.01)
    assert time.monotonic() - began < 1.0
    assert caught.value.cause == cause
    assert caught.value.exit_code == 4
    assert str(caught.value) == f"engine0 (both) on 127.0.0.1 died: {cause}\n  log: {log}\n  | last words\n  | guard: {cause}"


@pytest.mark.parametrize(
    ("name", "role", "said"),
    [("engine1", "prefill", "engine1 (prefill)"), ("engine1", "any", "engine1"), ("router-g0", "router", "router-g0"),
     ("client", "client", "client")],
)  # fmt: skip
def test_a_death_names_the_role_where_there_is_one(
    processes: LocalProcesses, start: Callable[..., Running], name: str, role: str, said: str
) -> None:
    start(STAY, name=name, role=role)
    assert processes.died(name, "x").name == said


def test_the_living_are_not_reported(processes: LocalProcesses, start: Callable[..., Running]) -> None:
    start(STAY)
    processes.check()


@pytest.mark.parametrize(
    ("code", "cause"),
    [(0, "exit code 0"), (1, "exit code 1"), (-9, "killed by SIGKILL"), (-15, "killed by SIGTERM"), (-50, "exit code 178"),
     (137, "killed by SIGKILL"), (250, "exit code 250"), (120, "exit code 120")],
)  # fmt: skip
def test_cause_of_returncode(code: int, cause: str) -> None:
    assert cause_of_returncode(code) == cause


def test_a_death_is_told_before_the_cleaning_up(processes: LocalProcesses, start: Callable[..., Running]) -> None:
    """What an API server leaves below it may take long to go, as a GPU's memory does."""
    running = start(
        """
        import os, signal, sys, time
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            print(os.getpid(), "up", sep="\\n", flush=True)
            time.sleep(60)
        time.sleep(0.3)
        sys.exit(5)
        """
    )
    child = int(read(running.log).split()[0])
    with pytest.raises(ProcessDied, match=r"engine0 .* died: exit code 5"):  # noqa: PT012
        while True:
            processes.check()
            time.sleep(0.01)
    assert alive(child)


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        pytest.param(b"", [], id="empty"),
        pytest.param(b"one\ntwo", ["one", "two"], id="short, no newline at the end"),
        pytest.param(b"".join(b"%d\n" % n for n in range(90_000)), [str(n) for n in range(89_960, 90_000)], id="the last 40"),
        pytest.param(b"\n".join(b"x" * 2000 for _ in range(100)), ["x" * 2000] * 40, id="the last 40 of long lines"),
        pytest.param(b"caf\xe9\n\x00\n", ["caf\ufffd", "\x00"], id="bytes that are no text"),
    ],
)
def test_log_tail(tmp_path: Path, content: bytes, lines: list[str]) -> None:
    log = tmp_path / "engine.log"
    log.write_bytes(content)
    assert log_tail(log).split("\n") == (lines or [""])


def test_log_tail_of_no_log(tmp_path: Path) -> None:
    assert log_tail(tmp_path / "none.log").startswith("(the log cannot be read: [Errno 2]")


@pytest.mark.parametrize(
    ("program", "why"), [("/no/such/vllm", "No such file or directory"), (str(Path(__file__)), "Permission denied")]
)
@pytest.mark.parametrize("client", [False, True])
def test_a_program_that_cannot_be_started(processes: LocalProcesses, tmp_path: Path, program: str, why: str, client: bool) -> None:
    impossible = Process("engine0", "engine", "both", None, 0, "127.0.0.1", (), None, (program, "serve"), {})
    with pytest.raises(ProcessDied, match=rf"engine0.* on 127.0.0.1 died: cannot start {program}: .*{why}"):  # noqa: PT012
        (processes.start_client if client else processes.start)(impossible, tmp_path / "engine0.log")
        processes.running[0].popen.wait(10)
        processes.check()


# --- starting


def test_environment_and_log(processes: LocalProcesses, start: Callable[..., Running]) -> None:
    running = start("import os; print(os.environ['GIVEN'], os.environ['TMPDIR'], os.getsid(0)); print('up')")
    given, temp, session, _ = read(running.log).split()
    assert (given, Path(temp).parent, session) == ("yes", processes.temp, str(running.popen.pid))


def test_a_log_is_appended_to(processes: LocalProcesses, tmp_path: Path) -> None:
    (tmp_path / "engine0.log").write_text("before\n")
    running = processes.start(process("print('up')"), tmp_path / "engine0.log")
    running.popen.wait(10)
    assert read(running.log).startswith("before\nup\n")


# --- stopping


def test_term_gives_time_to_end_well(processes: LocalProcesses, start: Callable[..., Running]) -> None:
    running = start(
        """
        import signal, sys, time
        def end(*_):
            time.sleep(0.1)
            print("ended well", flush=True)
            sys.exit()
        signal.signal(signal.SIGTERM, end)
        print("up", flush=True)
        time.sleep(60)
        """
    )
    processes.stop([running])
    assert "ended well" in read(running.log)
    assert processes.running == []


def test_kill_follows_term(processes: LocalProcesses, start: Callable[..., Running]) -> None:
    running = start(IGNORE_TERM)
    began = time.monotonic()
    processes.stop([running])
    assert 0.3 <= time.monotonic() - began < 1.5
    assert running.popen.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("hurry", [True, False])
def test_in_a_hurry_kill_comes_at_once(tmp_path: Path, hurry: bool) -> None:
    with LocalProcesses(stop_s=0.6, hurry=lambda: hurry) as processes:
        running = processes.start(process(IGNORE_TERM), tmp_path / "log")
        wait_for(lambda: "up\n" in read(running.log), "up")
        began = time.monotonic()
        processes.stop([running])
        assert (time.monotonic() - began < 0.5) is hurry


@pytest.mark.parametrize("group", ["", "os.setpgid(0, 0)"], ids=["", "a process group of its own"])
@pytest.mark.parametrize("leader", ["die", "stay"])
def test_children_that_ignore_term_are_gone(
    processes: LocalProcesses, start: Callable[..., Running], leader: str, group: str
) -> None:
    """As vLLM's EngineCore and Worker after a KILL of the API server."""
    running = start(
        f"""
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            {group or "pass"}
            print(os.getpid(), flush=True)
            print("up", flush=True)
            time.sleep(60)
            os._exit(0)
        time.sleep(60)
        """
    )
    child = int(read(running.log).split()[0])
    if leader == "die":  # a KILL of the guard takes the leader with it, not what the leader started
        running.popen.kill()
        running.popen.wait(10)
    assert alive(child)
    processes.stop([running])
    assert not alive(child)
    assert not alive(running.popen.pid)


def test_stops_what_starts_its_children_anew(processes: LocalProcesses, start: Callable[..., Running]) -> None:
    running = start(
        """
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("up", flush=True)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if os.fork() == 0:
                time.sleep(60)
            time.sleep(0.02)
        """
    )
    processes.stop([running])
    assert [p for p in os.listdir("/proc") if p.isdigit() and _session(int(p)) == running.popen.pid and alive(int(p))] == []


def _session(pid: int) -> int:
    with contextlib.suppress(OSError):
        return os.getsid(pid)
    return -1


def test_only_the_chosen_are_stopped(processes: LocalProcesses, start: Callable[..., Running]) -> None:
    router, engine = start(STAY, name="router"), start(STAY, name="engine0")
    processes.stop([router])
    assert processes.running == [engine]
    assert processes.by_name("engine0") is engine
    assert engine.popen.poll() is None
    processes.stop([router])  # once more does no harm


def test_leaving_stops_everything_whatever_happened(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), LocalProcesses(stop_s=5.0) as processes:  # noqa: PT012
        running = processes.start(process(STAY), tmp_path / "log")
        wait_for(lambda: "up\n" in read(running.log), "up")
        (processes.temp / "socket").touch()
        raise ZeroDivisionError
    assert running.popen.returncode == 128 + signal.SIGTERM
    assert not processes.temp.exists()


def test_a_reader_that_waits_in_a_pipe_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    """The client's events are read by a thread; a client that hangs must not make the driver hang."""
    import threading

    with LocalProcesses(stop_s=0.2) as processes:
        running = processes.start_client(process("import os; os.kill(os.getpid(), 19)"), tmp_path / "log")
        assert running.popen.stdout
        thread = threading.Thread(target=running.popen.stdout.readline)
        thread.start()
        wait_for(lambda: Path(f"/proc/{running.popen.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "stopped")
        began = time.monotonic()
        processes.stop([running])
        assert time.monotonic() - began < 2.0
        thread.join(5)
        assert not thread.is_alive()
        assert running.popen.stdin
        assert running.popen.stdin.closed
        assert running.popen.stdout.closed


class StoreThatIsAway(EngineEnv):
    """A container program that answers no more when the run ends."""

    def remove_containers(self) -> tuple[str, ...]:
        raise CleanUpFailed(["containers of run r cannot be removed (is the docker daemon running?)"])


def test_a_clean_up_that_fails_is_no_failed_preflight() -> None:
    processes = LocalProcesses(stop_s=0.2, engine_env=StoreThatIsAway(Runtime("bare")))
    with pytest.raises(CleanUpFailed, match="the run has ended, but pdslurm could not remove") as raised, processes:
        pass
    assert raised.value.exit_code not in (0, PreflightError.exit_code)


def test_a_clean_up_that_fails_does_not_hide_why_the_run_ended(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotReady, match="the reason"), LocalProcesses(stop_s=0.2, engine_env=StoreThatIsAway(Runtime("bare"))):
        raise NotReady("the reason")
    assert "containers of run r cannot be removed" in capsys.readouterr().err


def test_one_who_starts_nothing_leaves_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    LocalProcesses(stop_s=0.2)  # and is killed: nothing ends it
    assert list(tmp_path.iterdir()) == []
