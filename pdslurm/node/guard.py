"""Runs one command of a run, in its container if it has one, and ends all of it when whoever started it is gone.

    python3 guard.py STOP_S COMMAND [ARGUMENT …]

Stdin tells whether the starter lives: its end of file means that the starter died, however it died, or that a container's
client was killed while the container lives on. TERM and HUP mean stop too: TERM to the command, STOP_S seconds, KILL to every
process below, and its shared memory and temporary folder are removed. INT kills at once (two TERM are no hurry: Slurm and the
starter may both send one). The end of one of vLLM's own processes (they bear a title VLLM::…) ends the rest as well: a headless
part outlives its EngineCore and has no /health that would tell.

An end that nobody asked for is told at once by a line `guard: why` on stderr. Exits with the command's code, 128 + n when signal n
killed it, or 120 when it ended the command itself. This file stands alone: it runs with any Python from 3.8 of any image."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import sys
import tempfile
import time

OWN_EXIT = 120
NOTE = ".shared-memory"  # in the temporary folder: inodes of what is to be removed, should this process be killed
PREFIX = "guard: "
KILL_WAIT_S = 60.0  # a killed process with 120 GiB on a GPU takes its time
PART_GRACE_S = 1.0  # what a process above needs to end by itself and say why
POLL_S = 0.2
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


class Guard:
    """One command and everything that it starts: this process adopts what is orphaned below it, so nothing escapes."""

    def __init__(self, command: list[str], stop_s: float) -> None:
        self.command, self.stop_s = command, stop_s
        self.stop_requested = self.hurry = False
        self.codes: dict[int, int] = {}  # pid → exit code of what was reaped
        self.parts: dict[int, str] = {}  # pid → title of vLLM's processes below
        self.dead_since: dict[int, float] = {}
        self.older = set(shared_memory())
        self.mapped: set[int] = set()  # inodes in /dev/shm
        self.read_titles_at = self.read_maps_at = 1.0

    def run(self) -> int:
        """Starts the command, waits for an end of any kind, and cleans up. Returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm's warning goes to all of a step; the command inherits this
        adopt_orphans()
        self.temp = tempfile.mkdtemp(prefix="pdslurm-")
        self.began = time.monotonic()
        self.pid = start(self.command, self.temp)
        part, orphaned = None, False
        while part is None and self.code is None and not self.stop_requested and not (orphaned := stdin_is_closed(POLL_S)):
            self._reap()
            self._read_parts()
            part = self._dead_part()
        cause = part or (exit_cause(self.code) if self.code is not None and not self.stop_requested else None)
        if cause:  # said before the cleaning up, which may take a minute: whoever watches the log knows it now
            print(PREFIX + cause, file=sys.stderr, flush=True)
        self._stop()
        shutil.rmtree(self.temp, ignore_errors=True)
        if orphaned:
            with contextlib.suppress(OSError):  # the starter's folder, unless another guard still has something in it
                os.rmdir(os.path.dirname(self.temp))
        return OWN_EXIT if self.code is None or part else self.code

    @property
    def code(self) -> int | None:
        """The command's exit code, None while it runs."""
        return self.codes.get(self.pid)

    def _note(self, number: int, _: object) -> None:
        self.stop_requested = True
        self.hurry = self.hurry or number == signal.SIGINT

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                self.codes[pid] = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)

    def _read_parts(self) -> None:
        """Notes titles and shared memory of what is below, less and less often: it reads a lot of /proc."""
        age = time.monotonic() - self.began
        if age < self.read_titles_at:
            return
        self.read_titles_at = age + (1.0 if age < 60.0 else min(60.0, age / 10))  # nothing is measured while engines start
        pids = below(os.getpid())
        for pid in pids:
            title = read(f"/proc/{pid}/cmdline").partition("\0")[0].strip()
            if title.startswith("VLLM::"):
                self.parts[pid] = title
        if age < self.read_maps_at:
            return
        self.read_maps_at = min(3 * age, age + 300.0)  # an engine's maps have thousands of lines
        for pid in pids:
            self.mapped |= mapped(pid)
        with contextlib.suppress(OSError), open(os.path.join(self.temp, NOTE), "w") as note:
            note.write(" ".join(map(str, self.mapped - self.older)))

    def _dead_part(self) -> str | None:
        """What to say about a part that ended a moment ago while the command still runs; None while there is none."""
        now = time.monotonic()
        for pid, title in self.parts.items():
            if state(pid) in ("", "Z") and now - self.dead_since.setdefault(pid, now) > PART_GRACE_S:
                return f"its process {title} (pid {pid}) ended"
        return None

    def _stop(self) -> None:
        """TERM, wait, KILL again and again (what was being forked is found the next time), clean up."""
        self.read_titles_at = self.read_maps_at = 0.0
        self._read_parts()
        if self.code is None:
            kill_group(self.pid)
        else:
            for pid in below(os.getpid()):
                kill(pid, signal.SIGTERM)
        orphans_only = self.code is not None
        deadline = time.monotonic() + (min(self.stop_s, PART_GRACE_S) if orphans_only else self.stop_s)
        while self._left() and time.monotonic() < deadline and not self.hurry:
            time.sleep(0.05)
        deadline = time.monotonic() + KILL_WAIT_S
        while self._left() and time.monotonic() < deadline:
            for pid in below(os.getpid()):
                kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        if left := self._left():
            print(f"{PREFIX}processes {left} are still there {KILL_WAIT_S:.0f} s after KILL", file=sys.stderr, flush=True)
        remove_shared_memory(self.mapped - self.older)

    def _left(self) -> list[int]:
        """Processes below; a zombie with living threads counts: one that still frees GPU memory in the kernel looks like that."""
        self._reap()
        return [pid for pid in below(os.getpid()) if state(pid) != "Z" or threads(pid) > 1]


def exit_cause(code: int) -> str:
    """`exit code 1` or `killed by SIGKILL`; 128 + n: signal n, as shells and containers report it."""
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(code - 128).name}"
    return f"exit code {code}"


def start(command: list[str], temp: str) -> int:
    """Forks the command into a process group of its own, to die with this process; returns its pid."""
    libc = ctypes.CDLL(None)
    pid = os.fork()
    if pid:
        return pid
    try:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(command[0], command, {**os.environ, "TMPDIR": temp})
    except OSError as error:
        print(f"{PREFIX}cannot start {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
    finally:
        os._exit(OWN_EXIT)


def stdin_is_closed(seconds: float) -> bool:
    """Waits up to `seconds`; whether stdin is at its end."""
    try:
        ready, _, _ = select.select([0], [], [], seconds)
        return bool(ready) and not os.read(0, 4096)
    except InterruptedError:
        return False
    except OSError:
        return True


def below(top: int) -> list[int]:
    """Every descendant of process `top`."""
    children: dict[int, list[int]] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        if fields:
            children.setdefault(int(fields[1]), []).append(int(pid))
    found: list[int] = []
    todo = [top]
    while todo:
        new = children.pop(todo.pop(), [])
        found += new
        todo += new
    return found


def state(pid: int) -> str:
    """`R`, `S`, `Z` …, empty when there is no such process."""
    return read(f"/proc/{pid}/stat").rpartition(")")[2].strip()[:1]


def threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def mapped(pid: int) -> set[int]:
    """Inodes in /dev/shm that a process has mapped; by inode, for glibc makes a semaphore under another name."""
    return {int(line.split(None, 5)[4]) for line in read(f"/proc/{pid}/maps").splitlines() if " /dev/shm/" in line}


def shared_memory() -> dict[int, str]:
    """Inode → name of what is in /dev/shm."""
    try:
        with os.scandir("/dev/shm") as entries:
            return {entry.inode(): entry.name for entry in entries}
    except OSError:
        return {}


def remove_shared_memory(ours: set[int]) -> None:
    """Removes those of the segments (inodes) that nobody living maps."""
    if not ours:
        return
    used: set[int] = set()
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        used |= mapped(pid)
    for inode, name in shared_memory().items():
        if inode in ours - used:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join("/dev/shm", name))


def adopt_orphans() -> None:
    """From now on what is orphaned below this process becomes its child."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def kill(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def kill_group(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(Guard(sys.argv[2:], float(sys.argv[1])).run())
