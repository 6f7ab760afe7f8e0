"""A plan, its run's folder and a job in; a display, and the job's exit code and last words out, whether Slurm answers or not."""

from __future__ import annotations

import contextlib
import copy
import json
import threading
import time
from pathlib import Path
from typing import Any

from pdslurm.errors import ConfigError, JobEnded, PdslurmError, SlurmUnreachable
from pdslurm.launchers.run import plan_state
from pdslurm.measure.progress import PROGRESS, Display, State
from pdslurm.plan.plan import Plan
from pdslurm.records.gpu_time import EVENTS
from pdslurm.records.run_folder import RunFolder
from pdslurm.slurm import job_states
from pdslurm.slurm.job_states import JobState

POLL_S = 1.0
JOB_EVERY_S = 5.0  # how often slurmctld is asked
MAX_EXIT_CODE = 255
SILENT_S = 10.0  # an answer may take so long before anybody is told
FILES_S = 30.0  # what a job wrote last may take so long to show on a shared file system
FORGOTTEN_TIMES = 3  # in a row: a controller that has just taken over may not know a job that runs
WORDS_S = 2.0  # for a job that Slurm ended, which may have written nothing
WORDS = {
    "CANCELLED": "somebody cancelled it",
    "TIMEOUT": "its time limit was over; raise cluster.slurm.time_min",
    "NODE_FAIL": "one of its nodes failed",
    "BOOT_FAIL": "one of its nodes did not start",
    "OUT_OF_MEMORY": "it used more memory than Slurm gave it",
    "PREEMPTED": "another job took its nodes",
    "DEADLINE": "its deadline was over",
}


class Questions:
    """Asks Slurm for one job again and again in a thread of its own, so that an answer that takes a minute holds up nothing."""

    def __init__(self, job: str) -> None:
        self.job, self.state = job, JobState("submitted")
        self.words, self.answered_at = "", time.monotonic()
        self._end = threading.Event()
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        forgotten = 0
        while not self._end.is_set():
            try:
                state = job_states.job_state(self.job)
                forgotten = forgotten + 1 if state.word == job_states.UNKNOWN else 0
                self.words, self.answered_at = "", time.monotonic()
                if not 0 < forgotten < FORGOTTEN_TIMES:
                    self.state = state
            except (SlurmUnreachable, ConfigError, OSError) as error:
                self.words = str(error).splitlines()[-1].strip()
            self._end.wait(JOB_EVERY_S)

    def silent_s(self) -> float:
        """How long Slurm has not answered; 0 while that is nothing to speak of."""
        silent_s = time.monotonic() - self.answered_at - JOB_EVERY_S
        return silent_s if silent_s > SILENT_S else 0.0

    def close(self) -> None:
        self._end.set()


def follow_job(plan: Plan, folder: RunFolder, job: str) -> tuple[int, str]:
    """Shows the run until its job has ended; the run's exit code and last words. While Slurm does not answer, the run's own files
    tell whether it has ended."""
    state, events, questions = plan_state(plan), Events(folder.path / EVENTS), Questions(job)
    with Display(state) as display, contextlib.closing(questions):
        teller = Teller(display, job)
        while True:
            for line in events.new():
                display.line(line)
            slurm, silent_s = questions.state, questions.silent_s()
            show(state, folder.path, job, slurm)
            teller.tell(slurm, silent_s, questions.words)
            if silent_s:
                state.stage = f"slurmctld has not answered for {silent_s:.0f} s; job {job} goes on without it; {state.stage}"
            display.tick()
            if silent_s and (last := last_words(folder.path, job)) and not last.get("may_go_on"):
                return int(last["exit_code"]), str(last["text"])
            if not slurm.is_alive and not silent_s:
                break
            time.sleep(POLL_S)
    return read_outcome(folder.path, job, slurm)


def show(state: State, path: Path, job: str, slurm: JobState) -> None:
    """Takes over what the run says of itself, or what Slurm says of a job that does not run."""
    state.stage = f"job {job} is {slurm}"
    if slurm.word == "RUNNING":
        new = copy.copy(state)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
            new.update_from(json.loads((path / PROGRESS).read_text()), time.monotonic())
            new.what(), new.left_s()  # a file with values of other types is no news
            vars(state).update(vars(new))


class Teller:
    """Says once what is new about a job: that Slurm is silent, that it answers again, that somebody must release the job."""

    def __init__(self, display: Display, job: str) -> None:
        self.display, self.job = display, job
        self.say_at, self.last_s, self.reason = SILENT_S, 0.0, ""

    def tell(self, slurm: JobState, silent_s: float, words: str) -> None:
        if silent_s >= self.say_at:
            text = f"slurmctld has not answered for {silent_s:.0f} s; job {self.job} goes on without it, and pdslurm asks again"
            self.display.line(f"{text} ({words})" if words else text)
            self.say_at = min(silent_s * 2, silent_s + 600.0)
        elif self.last_s and not silent_s:
            self.display.line(f"slurmctld answers again after {self.last_s:.0f} s; job {self.job} is {slurm}")
            self.say_at = SILENT_S
        self.last_s = silent_s
        if slurm.word == "PENDING" and slurm.reason != self.reason and "held" in slurm.reason.lower():
            self.display.line(f"job {self.job} is {slurm}: it waits until `scontrol release {self.job}` lets it start")
        self.reason = slurm.reason


class Events:
    """The lines that a run adds to events.jsonl from now on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.at = path.stat().st_size if path.exists() else 0

    def new(self) -> list[str]:
        """What was said to people since the last call; lines that are no events are passed over."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.at)
                whole, newline, _ = file.read().rpartition(b"\n")
        except OSError:
            return []
        self.at += len(whole + newline)
        said = []
        for line in whole.splitlines():
            with contextlib.suppress(ValueError, KeyError, AttributeError, RecursionError):
                event = json.loads(line)
                said += [str(event["event"])] if event.get("said") else []
        return said


# --- the end


def last_words(path: Path, job: str) -> dict[str, Any] | None:
    """What the job wrote in ended.json; None where there is nothing of this job."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        last = json.loads((path / "slurm" / "ended.json").read_text())
        if isinstance(last, dict) and last.get("job_id") == job and "text" in last and _are_counts(last):
            return last
    return None


def _are_counts(last: dict[str, Any]) -> bool:
    """Whether the exit code is one of a process, and how often Slurm queued the job again is a number where it is told."""
    code, restarts = last.get("exit_code"), last.get("restarts", 0)
    return type(code) is int and 0 <= code <= MAX_EXIT_CODE and type(restarts) is int


def read_outcome(path: Path, job: str, slurm: JobState) -> tuple[int, str]:
    """How a job ended: by its own words, else by Slurm's and the end of its log."""
    deadline = time.monotonic() + (FILES_S if slurm.word in ("COMPLETED", "FAILED") else WORDS_S)
    while time.monotonic() < deadline:
        last = last_words(path, job)
        if last and not is_of_before(last, slurm):
            return int(last["exit_code"]), str(last["text"])
        time.sleep(min(POLL_S, 0.2))
    log = next(iter(sorted((path / "slurm").glob(f"{job}_*log.out"))), path / "slurm")
    tail = "\n".join(f"  | {line}" for line in log.read_text(errors="replace").splitlines()[-40:]) if log.is_file() else ""
    return JobEnded.exit_code, f"pdslurm: {slurms_words(job, slurm)}; it did not write how it ended\n  log: {log}\n{tail}"


def is_of_before(last: dict[str, Any], slurm: JobState) -> bool:
    """Whether Slurm queued the job again after these words, so that they are not its last."""
    return bool(last.get("queued_again")) or (slurm.restarts is not None and last.get("restarts", 0) < slurm.restarts)


def slurms_words(job: str, slurm: JobState) -> str:
    """What Slurm says of a job's end, by sacct where slurmctld has forgotten the job."""
    if slurm.word != job_states.UNKNOWN:
        state, who = slurm, "Slurm says"
    elif accounted := job_states.accounted_state(job):
        state, who = accounted, "slurmctld has forgotten the job; sacct says"
    else:
        return f"Slurm has forgotten job {job}, and sacct does not know how it ended"
    meaning = WORDS.get(state.word.split()[0], "")
    return f"{who} {state} of job {job}" + (f": {meaning}" if meaning else "")


def job_error(code: int, job: str, path: Path) -> PdslurmError:
    """The error to leave with: its text was printed, only what to look at is left to say."""
    error = JobEnded(f"job {job} failed with exit code {code}; logs are in {path / 'logs'} and {path / 'slurm'}")
    error.exit_code = code
    return error
