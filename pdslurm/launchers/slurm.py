"""launcher=slurm: one Slurm job for one plan, sized by it; in the job launcher=allocation does the work.

Waits with live progress, or returns the job's id. The same command finds its job again while it is queued or running."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdslurm.config import Config, LauncherKind, from_dict
from pdslurm.errors import AllocationEnding, Interrupted, PdslurmError, ResultsError, SlurmUnreachable
from pdslurm.launchers import allocation
from pdslurm.launchers.run_path import earlier_runs_of, run_path
from pdslurm.launchers.slurm_submit import check_request, find_or_submit
from pdslurm.launchers.slurm_wait import follow_job, job_error
from pdslurm.plan.outline import make_outline
from pdslurm.plan.render import opening
from pdslurm.records.run_folder import RunFolder
from pdslurm.records.whole_file import write_json
from pdslurm.signals import raising
from pdslurm.slurm import job_states, jobs

REQUEUE_S = 300.0  # for which a job that is to be queued again asks for it


def launch(config: Config) -> None:
    """Submits, unless this run's job is there already, and waits for it where launcher.wait says so. Raises PdslurmError."""
    outline = make_outline(config, earlier_runs_of(config))
    plan = outline.plan
    jobs.check_cluster(plan)
    folder = RunFolder(run_path(config))
    check_request(config, folder.path)
    print(opening(outline), flush=True)
    with raising():
        job, state = find_or_submit(plan, folder.path, carry_out)
    if state:
        print(f"job {job} of this run is {state.word} already; nothing was submitted", flush=True)
    else:
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


# --- in the job


@dataclass(frozen=True)
class Job:
    """The job that this process is in, and how often Slurm has started it again."""

    id: str
    restarts: int


def carry_out(values: dict[str, Any]) -> None:
    """In the job: the run, and how it ended in ended.json, for whoever waits. Leaves with the run's exit code."""
    config = from_dict(values)
    config.launcher.kind = LauncherKind.allocation
    path, code, text = Path(values["run_dir"]), 0, ""
    here = Job(os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT") or 0))
    (path / "slurm" / "ended.json").unlink(missing_ok=True)
    before, again, may_go_on = points_done(path), False, False
    try:
        text = allocation.carry_out(config)
    except PdslurmError as error:
        code, text = error.exit_code, f"pdslurm: {error}"
        again = isinstance(error, AllocationEnding) and config.cluster.slurm.requeue and points_done(path) > before
        may_go_on = again or (isinstance(error, Interrupted) and config.cluster.slurm.requeue)  # Slurm may queue it again by itself
    except Exception:  # a mistake of pdslurm's: whoever waits is to read it at once, too
        code, text = 1, traceback.format_exc()
    queued = f"\njob {here.id} is queued again and goes on where it was" if again else ""
    note_end(path, here, exit_code=code, text=text + queued, queued_again=again, may_go_on=may_go_on)
    print(text + queued, flush=True)
    if again and (failed := requeue(here.id)):
        text += f"\nSlurm did not queue job {here.id} again: {failed}; run the same command again to go on"
        note_end(path, here, exit_code=code, text=text, queued_again=False, may_go_on=False)
        print(text, flush=True)
    if code:
        sys.exit(code)


def note_end(path: Path, here: Job, **end: Any) -> None:
    """ended.json. `may_go_on`: Slurm may run the job again, so that who cannot ask Slurm must not take these for its last words."""
    with contextlib.suppress(ResultsError):
        write_json(path / "slurm" / "ended.json", {"job_id": here.id, "restarts": here.restarts, **end})


def requeue(job_id: str) -> str | None:
    """Has Slurm queue this job again, which ends it; None then, else why Slurm did not. Asks again while Slurm does not answer."""
    deadline = time.monotonic() + REQUEUE_S
    while True:
        try:
            done = job_states.answer("scontrol", "requeue", job_id)
            return job_states.said(done) if done.returncode and "pending" not in done.stderr.lower() else None
        except PdslurmError as error:
            words = str(error)
            if not isinstance(error, SlurmUnreachable) or time.monotonic() > deadline:
                return words
            print(f"{words}; pdslurm asks again", flush=True)
        time.sleep(job_states.ASK_AGAIN_S)


def points_done(path: Path) -> int:
    """Valid measurements: a job that adds none would be queued again for ever."""
    return RunFolder(path).valid_of_tried()[0]
