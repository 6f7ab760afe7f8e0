"""Job ids and names in; what Slurm answers about them out: a state, or that it does not know the job. No answer is an error."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import TypeVar

from pdslurm.errors import ConfigError, SlurmUnreachable

# A word that is not here, such as REVOKED or one of a later Slurm, is of a job that still exists.
ENDED = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "TIMEOUT",
    }
)
UNKNOWN = "UNKNOWN"
HEADER = ("JOBID", "STATE", "REASON")  # of `squeue --format=%i|%T|%r`
TIMEOUT_S = 60.0  # a busy slurmctld takes its time
ASK_AGAIN_S = 5.0
GIVE_UP_S = 600.0  # of asking while nothing of this run is known to wait or run
SAY_AGAIN_S = 60.0
FORGOTTEN = re.compile(r"invalid job id|no jobs in the system|job \S+ not found", re.IGNORECASE)
NO_ANSWER = re.compile(
    r"unable to contact|timed out|connection (refused|reset|failure|closed)|(connect|send|receive|shutdown) failure"
    r"|zero bytes|transport endpoint|communication|no route to host|unreachable|not responding|temporarily|try again"
    r"|authentication|munge|in standby|not running|unexpected message",
    re.IGNORECASE,
)
NOT_SET_UP = re.compile(r"establish a configuration source", re.IGNORECASE)
# Users' variables that would filter a question or change the form of its answer
FILTERS = ("SQUEUE_", "SACCT_", "SCONTROL_", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN")

T = TypeVar("T")


@dataclass(frozen=True)
class JobState:
    """Slurm's words for where a job is and why, such as `PENDING` and `Resources`; `UNKNOWN` when it has forgotten the job."""

    word: str
    reason: str = "None"
    name: str = ""
    restarts: int | None = None
    stdout: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether the job is queued, running or ending."""
        return self.word not in ENDED and self.word != UNKNOWN

    def __str__(self) -> str:
        return self.word + (f" ({self.reason})" if self.reason not in ("None", "") else "")


def answer(
    *command: str, timeout_s: float | None = None, environ: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()
) -> subprocess.CompletedProcess[str]:
    """What a command of Slurm answers, be it an error. Raises SlurmUnreachable for none, ConfigError where there is no Slurm."""
    limit_s, shown = timeout_s or TIMEOUT_S, shorten(" ".join(command), 160, placeholder=" …")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False, stdin=subprocess.DEVNULL,
            pass_fds=pass_fds,
            env=environ if environ is not None else questions_environment(os.environ),
        )  # fmt: skip
    except (FileNotFoundError, PermissionError) as error:
        why = f"{command[0]} is not on PATH: no Slurm on this machine"
        raise ConfigError([f"launcher: {why}; use launcher=local or launcher=plan"]) from error
    except subprocess.TimeoutExpired as error:
        raise SlurmUnreachable(f"slurmctld does not answer: `{shown}` took more than {limit_s:g} s") from error
    words = said(done)
    if done.returncode and NOT_SET_UP.search(words):
        raise ConfigError([f"launcher: `{shown}`: {words}; Slurm is not set up on this machine"])
    if done.returncode < 0 or (done.returncode and not FORGOTTEN.search(words) and NO_ANSWER.search(words)):
        raise SlurmUnreachable(f"slurmctld does not answer: `{shown}`: {words}")
    return done


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The words of an error, in one line."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(lines)) or f"exit code {done.returncode}"


def questions_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for questions: a user's own filters of squeue, such as SQUEUE_PARTITION, must not hide a job."""
    kept = {name: value for name, value in environ.items() if not name.startswith(FILTERS)}
    if "SBATCH_CLUSTERS" in environ:  # where sbatch sends a job, it is asked for
        kept.setdefault("SLURM_CLUSTERS", environ["SBATCH_CLUSTERS"])
    return kept


def job_state(job_id: str, *, timeout_s: float | None = None) -> JobState:
    """Where a job is; `UNKNOWN` where Slurm answers that it does not know it. Raises SlurmUnreachable when there is no answer."""
    done = answer("scontrol", "--oneliner", "show", "job", job_id, timeout_s=timeout_s)
    fields = dict(re.findall(r"\b(JobState|Reason|JobName|Restarts)=(\S+)", done.stdout))
    if "JobState" in fields:
        restarts = int(fields["Restarts"]) if fields.get("Restarts", "").isdigit() else None
        stdout = re.search(r"\bStdOut=(.*?)(?: \w+=|$)", done.stdout, re.MULTILINE)
        named = fields.get("JobName", "")
        return JobState(fields["JobState"], fields.get("Reason", "None"), named, restarts, stdout[1].strip() if stdout else "")
    if FORGOTTEN.search(done.stderr + done.stdout):
        return JobState(UNKNOWN)
    raise SlurmUnreachable(f"slurmctld does not answer: `scontrol show job {job_id}`: {said(done)}")


def job_states(job_ids: Sequence[str], *, timeout_s: float | None = None) -> dict[str, JobState]:
    """Where these jobs are, by one question; a job that Slurm has forgotten is left out. Raises SlurmUnreachable."""
    wanted = [job_id for job_id in dict.fromkeys(job_ids) if job_id.isdigit()]
    return _queue(f"--jobs={','.join(wanted)}", timeout_s=timeout_s) if wanted else {}


def jobs_by_name(name: str, *, timeout_s: float | None = None) -> dict[str, JobState]:
    """This user's jobs of that name, ended ones too while Slurm remembers them. Raises SlurmUnreachable when there is no answer."""
    return _queue(f"--name={name}", f"--user={os.getuid()}", timeout_s=timeout_s)


def _queue(*which: str, timeout_s: float | None) -> dict[str, JobState]:
    """The header shows that squeue has answered: an error may come with exit code 0, and an empty queue has no other line. A table
    that comes with an error is not whole, and a job that is not in it may be there all the same."""
    done = answer("squeue", "--states=all", *which, "--format=%i|%T|%r", timeout_s=timeout_s)
    rows = [tuple(word.strip() for word in line.split("|", 2)) for line in done.stdout.splitlines() if line.strip()]
    rows = [row for row in rows if not row[0].startswith("CLUSTER:")]
    if HEADER in rows and done.returncode == 0:
        found = [row for row in rows[rows.index(HEADER) :] if row != HEADER]
        if all(len(row) == 3 for row in found):
            return {row[0]: JobState(row[1], row[2]) for row in found if row[0].isdigit()}
    elif HEADER not in rows and FORGOTTEN.search(done.stderr):
        return {}
    raise SlurmUnreachable(f"slurmctld does not answer: `squeue {which[0][:60]}`: {said(done)}")


def accounted_state(job_id: str) -> JobState | None:
    """How a job that slurmctld has forgotten ended, by sacct, such as `CANCELLED by 1000`; None where sacct cannot tell."""
    command = ("sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={job_id}", "--format=State,ExitCode")
    with contextlib.suppress(ConfigError, SlurmUnreachable):
        done = answer(*command)
        state, _, code = (done.stdout.splitlines() or [""])[-1].partition("|")
        if done.returncode == 0 and state:
            return JobState(state, "None" if code in ("", "0:0") else f"exit code {code}")
    return None


def until_answered(question: Callable[[], T], waiting: str) -> T:
    """Asks again and again while Slurm does not answer, and says so. Raises SlurmUnreachable after GIVE_UP_S; `waiting` says what
    pdslurm does not do meanwhile."""
    began, said_at = time.monotonic(), -SAY_AGAIN_S
    while True:
        try:
            return question()
        except SlurmUnreachable as error:
            now = time.monotonic()
            if now - began > GIVE_UP_S:
                raise SlurmUnreachable(f"{error}\n  Slurm has not answered for {now - began:.0f} s; {waiting}") from error
            if now - said_at >= SAY_AGAIN_S:
                said_at = now
                print(f"pdslurm: {error}\n  pdslurm asks again every {ASK_AGAIN_S:g} s; {waiting}", file=sys.stderr, flush=True)
        time.sleep(ASK_AGAIN_S)
