"""A plan and its run's folder in; the id of the run's one Slurm job out: the one that is there, or one that is submitted now.

The job's name is the folder's own, so that Slurm can be asked for it whether or not job.json was written."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.slurm.slurm import _make_sbatch_string

from pdslurm.config import Config, as_dict
from pdslurm.errors import ConfigError, Interrupted, LimitReached, ResultsError, SlurmUnreachable
from pdslurm.launchers.run import make_folder
from pdslurm.measure.usage import Usage
from pdslurm.plan.plan import Plan
from pdslurm.records.whole_file import write_json, write_text
from pdslurm.slurm import job_states, jobs

SBATCH_S = 180.0  # sbatch itself tries again for two minutes when slurmctld asks it to
TRIES = 3  # of sbatch, when Slurm says afterwards that it has no such job
SETTLE_S = 15.0  # a slurmctld that was hung may still work on what a dead sbatch sent it
LOOK_S = 10.0  # for one look at the queue after Ctrl-C
NOTHING_YET = "pdslurm submits nothing until Slurm has told whether this run has a job"
UNSURE = "it is not known whether Slurm took the job; the same command asks for it by its name before it submits anything"
UNFIT = re.compile(r"[%\\\x00-\x1f\x7f\ud800-\udfff]")
NOT_INHERITED = ("SBATCH_WAIT", "SBATCH_ARRAY_INX", "SBATCH_TEST_ONLY")  # sbatch would wait for the job, or submit several
VARIABLES = {"time": "timelimit"}  # what sbatch calls an option in the name of its variable, where this is not the option's own


def check_request(config: Config, path: Path) -> None:
    """Raises ConfigError for a folder that Slurm would read otherwise."""
    if found := UNFIT.search(str(path.absolute())):
        field = f"run_dir={path}" if config.run_dir else f"run_root={config.run_root}"
        allowed = r"allowed is any character but %, \ and control characters such as a newline"
        problem = f"{field}: Slurm does not take the character {found.group()!r} in the name of a log's folder; {allowed}"
        raise ConfigError([problem.replace("\n", "\\n")])


def job_name(plan: Plan, path: Path) -> str:
    """One of the run's folder alone."""
    return f"{plan.name}-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]}"


def find_or_submit(plan: Plan, path: Path, carry_out: Callable[[dict[str, Any]], None]) -> tuple[str, job_states.JobState | None]:
    """The run's job, with its state where it was there already. Only one command at a time is in here for a folder. Raises
    SlurmUnreachable while it is not known whether there is one, ConfigError when sbatch refuses, and LimitReached when earlier
    sessions of the run used up what it may use: its job would only say so after a time in the queue."""
    name = job_name(plan, path)
    try:
        make_folder(path, plan.config.run_access)
        (path / "slurm").mkdir(exist_ok=True)
        lock_file = (path / "slurm" / ".submit.lock").open("a+")
    except OSError as error:
        with contextlib.suppress(SlurmUnreachable, ConfigError):
            if found := current_job(path, name):  # another's, who lets this user read in it
                return found
        raise ResultsError(f"run_dir={path}: cannot be written ({error.strerror}); choose another with run_dir=…") from error
    with lock_file:
        found = wait_for_turn(lock_file, path, name) or job_states.until_answered(lambda: current_job(path, name), NOTHING_YET)
        if found:
            note_job(path, found[0], name)
            return found
        if said := Usage(path, gpus=0).used_up(plan.config.limits, plan.config.budget):
            raise LimitReached(said)
        return submit(plan, path, name, carry_out, lock_file), None


def wait_for_turn(file: TextIO, path: Path, name: str) -> tuple[str, job_states.JobState] | None:
    """Returns with the lock, or with the job of the command that has the lock. An sbatch that outlives its pdslurm keeps the lock
    until it ends."""
    waiting_since: float | None = None
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            pass
        except OSError:  # a file system without locks, as Lustre mounted without them
            return None
        if waiting_since is None:
            print("pdslurm: another command is submitting this run; this one waits for its job", file=sys.stderr, flush=True)
            waiting_since = time.monotonic()
        time.sleep(job_states.ASK_AGAIN_S / 5)
        with contextlib.suppress(SlurmUnreachable):
            if time.monotonic() - waiting_since > job_states.ASK_AGAIN_S and (found := current_job(path, name)):
                return found


def noted_job(path: Path) -> dict[str, Any]:
    """What job.json says; nothing where it is missing or is not what pdslurm writes."""
    with contextlib.suppress(OSError, ValueError):
        note = json.loads((path / "slurm" / "job.json").read_text())
        if isinstance(note, dict) and str(note.get("job_id", "")).isdigit():
            return note
    return {}


def current_job(path: Path, name: str) -> tuple[str, job_states.JobState] | None:
    """The run's job that is in Slurm's queue, by job.json, else by its name. Raises SlurmUnreachable when Slurm does not answer."""
    note = noted_job(path)
    if note:
        job, state = str(note["job_id"]), job_states.job_state(str(note["job_id"]))
        if state.is_alive and is_same(note, state):
            return job, state
    alive = {job: state for job, state in job_states.jobs_by_name(name).items() if state.is_alive}
    first = min(alive, key=int, default=None)
    return (first, alive[first]) if first else None


def is_same(note: dict[str, Any], state: job_states.JobState) -> bool:
    """Whether Slurm speaks of the job that job.json notes, and not of another's with its number: a cluster that was set up anew
    counts from 1 again. Its log tells a job that somebody gave another name."""
    return note.get("name") in (None, state.name) or not state.name or (bool(state.stdout) and state.stdout == note.get("log"))


def note_job(path: Path, job: str, name: str) -> None:
    """Writes job.json, and gives the files that sbatch got the job's id."""
    own = path / "slurm"
    if noted_job(path).get("job_id") != job:
        write_json(own / "job.json", {"job_id": job, "name": name, "submitted_at": time.time(), "log": str(log_path(own, job))})
    paths = JobPaths(own, job)
    for file, named in ((own / "next.pkl", paths.submitted_pickle), (own / "next.sh", paths.submission_file)):
        with contextlib.suppress(FileNotFoundError):
            file.rename(named)


def log_path(own: Path, job: str) -> Path:
    """Where the job's output goes."""
    return own.absolute() / f"{job}_0_log.out"


def submit(plan: Plan, path: Path, name: str, carry_out: Callable[[dict[str, Any]], None], lock_file: TextIO) -> str:
    """Submits one job and notes it. After an unsure answer it asks for the job's name before anything else. The files for sbatch
    stay only where it is not known whether Slurm took the job, which reads them."""
    own = path / "slurm"
    before = frozenset(job_states.until_answered(lambda: job_states.jobs_by_name(name), NOTHING_YET))
    (own / "ended.json").unlink(missing_ok=True)  # an earlier job may have had the same id
    write_submission(plan, path, name, carry_out)
    stopped: Interrupted | None = None
    try:
        job = try_sbatch(own, name, before, lock_file)
    except ConfigError:
        remove_submission(own)
        raise
    except Interrupted as stop:
        job, stopped = after_stop(own, name, before, stop), stop
    note_job(path, job, name)
    if stopped:
        raise Interrupted(f"{_signal(stopped)}; Slurm took job {job}, which goes on; `scancel {job}` ends it") from stopped
    return job


def after_stop(own: Path, name: str, before: frozenset[str], stop: Interrupted) -> str:
    """The job that sbatch submitted although it was stopped. Raises Interrupted, with what is known, where none is there."""
    try:
        job = new_job(name, before, timeout_s=LOOK_S)
    except SlurmUnreachable as error:
        raise Interrupted(f"{_signal(stop)}; {error}\n  {UNSURE}") from stop
    if job:
        return job
    remove_submission(own)
    raise Interrupted(f"{_signal(stop)}; Slurm has no job of this run; the same command submits it") from stop


def _signal(stop: Interrupted) -> str:
    return str(stop).partition(";")[0]


def new_job(name: str, before: frozenset[str], *, timeout_s: float | None = None) -> str | None:
    """The job of this name that was not there before, which may have ended already."""
    return max((job for job in job_states.jobs_by_name(name, timeout_s=timeout_s) if job not in before), key=int, default=None)


def try_sbatch(own: Path, name: str, before: frozenset[str], lock_file: TextIO) -> str:
    """The job's id. Raises ConfigError with sbatch's own words when it refuses, SlurmUnreachable when nothing comes of it."""
    for _ in range(TRIES):
        try:
            return sbatch(own, name, lock_file)
        except ConfigError:  # what reads like a refusal may be said of a job that was taken
            if job := new_job(name, before):
                return job
            raise
        except SlurmUnreachable as unsure:
            print(f"pdslurm: {unsure}\n  pdslurm asks Slurm for a job named {name}", file=sys.stderr, flush=True)
            last = unsure
        if job := settled_job(name, before):
            print(f"pdslurm: Slurm had taken job {job} of this run", file=sys.stderr, flush=True)
            return job
    remove_submission(own)
    raise SlurmUnreachable(
        f"{last}\n  sbatch was tried {TRIES} times, and Slurm has no job named {name}; run the same command again"
    )


def settled_job(name: str, before: frozenset[str]) -> str | None:
    """The job that an unsure sbatch submitted; None when Slurm has answered for SETTLE_S that there is none."""
    answered_at: float | None = None
    while True:
        job = job_states.until_answered(lambda: new_job(name, before), UNSURE)
        now = time.monotonic()
        answered_at = answered_at or now
        if job or now - answered_at >= SETTLE_S:
            return job
        time.sleep(min(1.0, SETTLE_S / 5))


def sbatch(own: Path, name: str, lock_file: TextIO) -> str:
    """One sbatch. Name and output stand on its command line, where neither a variable such as SBATCH_JOB_NAME nor an option of the
    site overrides them."""
    options = (f"--job-name={name}", f"--output={log_path(own, '%j')}")
    environ = submission_environment((own / "next.sh").read_text(), os.environ)
    command = ("sbatch", *options, str(own / "next.sh"))
    done = job_states.answer(*command, timeout_s=SBATCH_S, environ=environ, pass_fds=(lock_file.fileno(),))
    if found := re.search(r"Submitted batch job (\d+)", done.stdout):
        return found.group(1)
    words = [line for line in done.stderr.splitlines() if re.search("error|fatal", line, re.IGNORECASE)] or done.stderr.split("\n")
    if done.returncode == 0 or not done.stderr.strip():  # a site's own sbatch may say anything
        raise SlurmUnreachable(f"sbatch told no job's id: {job_states.said(done)}")
    raise ConfigError([f"cluster.slurm: sbatch refuses: {'; '.join(words)}"])


def submission_environment(script: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for sbatch, which takes a variable such as SBATCH_PARTITION before a line of the script: none of an option
    that the script sets goes there, and nothing of a heterogeneous job around this process goes into the new job."""
    options = re.findall(r"^#SBATCH --([\w-]+)", script, re.MULTILINE)
    overruled = {f"SBATCH_{VARIABLES.get(name, name).upper().replace('-', '_')}" for name in (*options, "requeue", "no-requeue")}
    dropped = {*overruled, *NOT_INHERITED}
    return {k: v for k, v in environ.items() if k not in dropped and not k.startswith(("SLURM_HET_", "SLURM_PACK_"))}


def write_submission(plan: Plan, path: Path, name: str, carry_out: Callable[[dict[str, Any]], None]) -> None:
    """next.pkl and next.sh: what the job does, and the script that sbatch gets. The script gives next.pkl its own job's id, for
    whoever submits may be killed before it can."""
    own, options = (path / "slurm").absolute(), jobs.sbatch_options(plan)
    values = as_dict(plan.config)
    values["run_dir"] = str(path.absolute())
    DelayedSubmission(carry_out, values).dump(own / "next.pkl")
    mine = f"{shlex.quote(str(own))}/${{SLURM_JOB_ID}}_submitted.pkl"
    take = f"[ -e {mine} ] || cp {shlex.quote(str(own / 'next.pkl'))} {mine} 2>/dev/null"
    trap = "trap : TERM  # the driver below ends by itself, then this shell"
    parameters: dict[str, Any] = {
        "job_name": name,
        "wckey": None,
        "time": options.pop("time"),
        "nodes": options.pop("nodes"),
        "use_srun": False,  # the driver runs once, on the first node, and starts its agents itself
        "stderr_to_stdout": True,
        "setup": [trap, take, *plan.config.cluster.slurm.setup],
        "additional_parameters": {"ntasks-per-node": 1, **options, "signal": f"USR2@{plan.config.cluster.slurm.warn_s}"},
    }
    command = shlex.join([sys.executable, "-u", "-m", "submitit.core._submit", str(own)])
    text = _make_sbatch_string(command, own, **parameters)
    write_text(own / "next.sh", text)


def remove_submission(own: Path) -> None:
    """Of a job that Slurm did not take."""
    for name in ("next.pkl", "next.sh"):
        (own / name).unlink(missing_ok=True)
