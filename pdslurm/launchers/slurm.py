"""launcher=slurm: one Slurm job for one plan, sized by it; in the job launcher=allocation does the work.

Waits with live progress, or returns the job's id. The same command finds its job again while it is queued or running."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from pdslurm.config import Config, LauncherKind, as_dict, from_dict
from pdslurm.errors import AllocationEnding, ConfigError, JobEnded, PdslurmError, ResultsError
from pdslurm.launchers import allocation
from pdslurm.launchers.run import make_folder, plan_state, run_path
from pdslurm.measure.journal import EVENTS
from pdslurm.measure.progress import PROGRESS, Display
from pdslurm.plan.outline import make_outline
from pdslurm.plan.plan import Plan
from pdslurm.plan.render import opening
from pdslurm.records.run_folder import RunFolder
from pdslurm.records.whole_file import write_json
from pdslurm.signals import raising
from pdslurm.slurm import jobs

POLL_S = 1.0
JOB_EVERY_S = 5.0  # how often slurmctld is asked
FILES_S = 30.0  # what a job wrote last may take so long to show on a shared file system


def launch(config: Config) -> None:
    """Submits, unless this run's job is there already, and waits for it where launcher.wait says so. Raises PdslurmError."""
    outline = make_outline(config)
    plan = outline.plan
    jobs.check_cluster(plan)
    print(opening(outline), flush=True)
    folder = RunFolder(run_path(config))
    job = current_job(folder.path)
    if job:
        print(f"job {job} of this run is {jobs.job_state(job).word} already; nothing was submitted")
    else:
        job = submit(plan, folder.path)
        print(
            f"job {job}: {plan.nodes} node(s), {jobs.time_min(plan, config.cluster.slurm)} min; results go to {folder.path}",
            flush=True,
        )
    if config.launcher.wait:
        with raising(advice=f"job {job} goes on; `scancel {job}` ends it, the same command shows it again"):
            code, text = follow_job(plan, folder, job)
        print(text, file=sys.stderr if code else sys.stdout)
        if code:
            raise job_error(code, job, folder.path)


def current_job(path: Path) -> str | None:
    """The run's job when it is still in Slurm's queue."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        job: str = json.loads((path / "slurm" / "job.json").read_text())["job_id"]
        if jobs.job_state(job).is_alive:
            return job
    return None


def submit(plan: Plan, path: Path) -> str:
    """One sbatch through submitit. Raises ConfigError with sbatch's own words when it is refused."""
    own = path / "slurm"
    try:
        make_folder(path, plan.config.run_access)
        own.mkdir(exist_ok=True)
    except OSError as error:
        raise ResultsError(f"run_dir={path}: cannot be written ({error.strerror}); choose another with run_dir=…") from error
    executor = submitit.SlurmExecutor(own, python=sys.executable)
    options = jobs.sbatch_options(plan)
    executor.update_parameters(
        job_name=plan.name,
        wckey=None,
        time=options.pop("time"),
        nodes=options.pop("nodes"),
        use_srun=False,  # the driver runs once, on the first node, and starts its agents itself
        stderr_to_stdout=True,
        setup=["trap : TERM  # the driver below ends by itself, then this shell", *plan.config.cluster.slurm.setup],
        additional_parameters={"ntasks-per-node": 1, **options, "signal": f"USR2@{plan.config.cluster.slurm.warn_s}"},
    )
    values = as_dict(plan.config)
    values["run_dir"] = str(path.absolute())
    with as_config_error("sbatch"):
        job = executor.submit(carry_out, values)
    write_json(own / "job.json", {"job_id": job.job_id, "submitted_at": time.time(), "log": str(job.paths.stdout)})
    return str(job.job_id)


@contextmanager
def as_config_error(command: str) -> Iterator[None]:
    """Turns submitit's failure to run a command of Slurm into a ConfigError with the command's own words."""
    try:
        yield
    except (FailedJobError, FailedSubmissionError, FileNotFoundError) as error:
        words = [line for line in str(error).splitlines() if "error" in line.lower()] or str(error).splitlines()
        raise ConfigError([f"cluster.slurm: {command} refuses: {'; '.join(words)}"]) from error


def carry_out(values: dict[str, Any]) -> None:
    """In the job: the run, and how it ended in ended.json, for whoever waits. Leaves with the run's exit code."""
    config = from_dict(values)
    config.launcher.kind = LauncherKind.allocation
    own, code, text = Path(values["run_dir"]) / "slurm", 0, ""
    here = jobs.current_allocation()
    (own / "ended.json").unlink(missing_ok=True)
    before, again = points_done(own.parent), False
    try:
        text = allocation.carry_out(config)
    except PdslurmError as error:
        code, text = error.exit_code, f"pdslurm: {error}"
        again = isinstance(error, AllocationEnding) and config.cluster.slurm.requeue and points_done(own.parent) > before
        text += f"\njob {here.job_id} is queued again and goes on where it was" if again else ""
    with contextlib.suppress(ResultsError):
        write_json(own / "ended.json", {"job_id": here.job_id, "restarts": here.restarts, "exit_code": code, "text": text})
    print(text, flush=True)
    if again:
        jobs.run_slurm_command("scontrol", "requeue", here.job_id)
    if code:
        sys.exit(code)


def points_done(path: Path) -> int:
    """Records of points that are done: a job that adds none would be queued again for ever."""
    return sum(1 for _ in path.glob("points/*/*.json"))


# --- waiting


def follow_job(plan: Plan, folder: RunFolder, job: str) -> tuple[int, str]:
    """Shows the run until its job has ended; the run's exit code and last words."""
    state = plan_state(plan)
    events = Events(folder.path / EVENTS)
    polled_at, slurm = 0.0, jobs.job_state(job)
    with Display(state) as display:
        while True:
            now = time.monotonic()
            if now - polled_at > JOB_EVERY_S:
                polled_at, slurm = now, jobs.job_state(job)
            for line in events.new():
                display.line(line)
            if slurm.word == "RUNNING":
                with contextlib.suppress(OSError, ValueError, KeyError):
                    state.update_from(json.loads((folder.path / PROGRESS).read_text()), now)
            else:
                state.stage = f"job {job} is {slurm.word}" + (f" ({slurm.reason})" if slurm.reason != "None" else "")
            display.tick()
            if not slurm.is_alive:
                break
            time.sleep(POLL_S)
    return read_outcome(folder.path, job, slurm.word)


class Events:
    """The lines that a run adds to events.jsonl from now on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.at = path.stat().st_size if path.exists() else 0

    def new(self) -> list[str]:
        """What was said to people since the last call."""
        try:
            with self.path.open() as file:
                file.seek(self.at)
                whole, newline, _ = file.read().rpartition("\n")
        except OSError:
            return []
        self.at += len((whole + newline).encode())
        return [event["event"] for event in map(json.loads, whole.splitlines()) if event.get("said")]


def read_outcome(path: Path, job: str, status: str) -> tuple[int, str]:
    """How a job ended: by its own words, else by Slurm's and the end of its log."""
    deadline = time.monotonic() + (FILES_S if status in ("COMPLETED", "FAILED") else 2.0)
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            last = json.loads((path / "slurm" / "ended.json").read_text())
            if last["job_id"] == job:
                return last["exit_code"], last["text"]
        time.sleep(0.2)
    log = next(iter(sorted((path / "slurm").glob(f"{job}_*log.out"))), path / "slurm")
    tail = "\n".join(f"  | {line}" for line in log.read_text(errors="replace").splitlines()[-40:]) if log.is_file() else ""
    return JobEnded.exit_code, f"pdslurm: Slurm says {status} of job {job}\n  log: {log}\n{tail}"


def job_error(code: int, job: str, path: Path) -> PdslurmError:
    """The error to leave with: its text was printed, only what to look at is left to say."""
    error = JobEnded(f"job {job} failed with exit code {code}; logs are in {path / 'logs'} and {path / 'slurm'}")
    error.exit_code = code
    return error
