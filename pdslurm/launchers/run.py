"""What every launcher that measures does around the driver: the run's folder and its lock, the model, provenance, state."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import psutil
from omegaconf import OmegaConf

from pdslurm.config import Access, Config
from pdslurm.errors import PdslurmError, PreflightError, ResultsError
from pdslurm.measure.driver import Driver, Outcome
from pdslurm.measure.progress import Display, State
from pdslurm.measure.what_ran import write_fairness
from pdslurm.node.engine_env import EngineEnv
from pdslurm.node.findings import load_format
from pdslurm.node.processes import Processes
from pdslurm.node.provenance import code_facts, host_facts
from pdslurm.plan.deployment import Host
from pdslurm.plan.fairness import Compared
from pdslurm.plan.model import DTYPE_BYTES, model_shape
from pdslurm.plan.plan import Plan
from pdslurm.plan.render import plan_json
from pdslurm.plan.tasks import Tasks
from pdslurm.records.run_folder import RunFolder
from pdslurm.records.whole_file import set_aside, write_json, write_text
from pdslurm.signals import SignalNote

MODES = {Access.owner: 0o700, Access.group: 0o750, Access.all: 0o755}
MAKE_MODEL = Path(__file__).parents[1] / "bench" / "make_model.py"
SAME_S = 2.0  # by which the start of one process may differ, read twice
MAKE_S = 300.0  # beside the time that weights take: importing, and training the tokenizer
WRITTEN_BYTES_PER_S = 50e6  # of weights, on a slow shared disk


def make_folder(path: Path, access: Access) -> None:
    """The run's folder, for those who have `access`. One that was there before and is no run's keeps its mode. Raises OSError, and
    ResultsError for a umask that takes rights from this user's own files."""
    _check_umask()
    if not path.exists() or (path / ".lock").exists():
        path.mkdir(parents=True, exist_ok=True, mode=MODES[Access.owner])
        with contextlib.suppress(PermissionError):  # another's, who lets this user write in it
            path.chmod(MODES[access])


def _check_umask() -> None:
    mask = os.umask(0o077)
    os.umask(mask)
    if mask & 0o700:
        raise ResultsError(
            f"umask={mask:04o}: takes rights from the owner of new files, and pdslurm could not read its own records; set one "
            "from 0000 to 0077, such as 0022 or 0077"
        )


@contextmanager
def lock(path: Path, access: Access = Access.owner) -> Iterator[None]:
    """One run at a time in a folder. Raises ResultsError when another process is in it, or it cannot be written."""
    try:
        make_folder(path, access)
        file = (path / ".lock").open("a+")
    except OSError as error:
        raise ResultsError(f"run_dir={path}: cannot be written ({error.strerror}); choose another with run_dir=…") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ResultsError(f"run_dir={path}: another run is in it ({file.read() or '?'})") from error
        except OSError as error:  # a file system without locks, as Lustre mounted without them
            _do_without_lock(path, file, error)
        file.truncate(0)
        file.write(_own_mark())
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _own_mark() -> str:
    """Who has the lock: a pid alone may be another process's later."""
    return f"process {os.getpid()} on {platform.node()}, started at {psutil.Process().create_time():.2f}"


def _do_without_lock(path: Path, file: TextIO, error: OSError) -> None:
    """Says that the file system has no locks. What the lock's file says is the second guard: a process of this machine that lives.
    Raises ResultsError where it does."""
    file.seek(0)
    mark = re.fullmatch(r"process (\d+) on (.+), started at ([\d.]+)", file.read())
    with contextlib.suppress(psutil.Error):
        if mark and mark[2] == platform.node() and abs(psutil.Process(int(mark[1])).create_time() - float(mark[3])) < SAME_S:
            raise ResultsError(f"run_dir={path}: another run is in it ({mark[0]})") from error
    print(
        f"the file system of {path} has no locks ({error.strerror}): pdslurm cannot keep out a second command that runs in it at "
        "the same time on another machine; start one at a time, or choose another file system with run_dir=…",
        flush=True,
    )


def make_model(config: Config, engine_env: EngineEnv) -> None:
    """Makes the model's folder where the configuration asks for it and it is not there yet, with weights unless the engines fill in
    their own. Raises PreflightError."""
    model = config.model
    if not model.make:
        return
    weights = load_format(config) != "dummy"
    if _is_made(config, weights=weights):
        return
    command = [*config.runtime.python, str(MAKE_MODEL), str(Path(model.path).absolute()), *([] if weights else ["--no-weights"])]
    deadline = MAKE_S + (_weight_bytes(config) / WRITTEN_BYTES_PER_S if weights else 0.0)
    try:
        wanted = json.dumps(model.hf_config)
        done = engine_env.output(command, config.runtime.env, name="make-model", timeout_s=deadline, given=wanted)
    except OSError as error:
        raise PreflightError([f"runtime.python={command[0]}: {error.strerror}; run `make setup`, or set PDSLURM_ENGINE"]) from error
    except subprocess.TimeoutExpired as error:
        raise PreflightError([f"model.make: making {model.path} took more than {deadline:.0f} s; is its disk slow?"]) from error
    if done.returncode:
        raise PreflightError([f"model.make: making {model.path} failed: {done.stderr.strip()[-1000:]}"])


def _is_made(config: Config, *, weights: bool) -> bool:
    """Whether the folder is complete: config.json is written last, and weights stand in their index."""
    folder = Path(config.model.path)
    try:
        if json.loads((folder / "config.json").read_text()) != config.model.hf_config:
            return False
        files = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].values() if weights else ()
    except (OSError, ValueError, KeyError):
        return False
    return all((folder / file).is_file() for file in set(files))


def _weight_bytes(config: Config) -> float:
    """Of all weights; 0 where hf_config does not tell enough."""
    try:
        shape = model_shape(config.model)
    except KeyError:
        return 0.0
    return shape.parameters * DTYPE_BYTES.get(config.model.dtype, 2) if shape else 0.0


def write_provenance(folder: RunFolder, tasks: Tasks, compared: Sequence[Compared], facts: Mapping[str, Any] | None = None) -> None:
    """config.yaml, plan.json, fairness.json, versions.json: what this run's numbers depend on. `facts`: the preflight's."""
    config = tasks.deployment.plan.config
    write_text(folder.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config)))
    write_json(folder.path / "plan.json", plan_json(tasks.deployment, compared))
    write_fairness(folder, tasks.deployment, compared)
    write_session(
        folder.path / "versions.json", {"engine": tasks.versions, "code": code_facts(), "host": {**host_facts(), **(facts or {})}}
    )


def write_nodes(folder: RunFolder, job_id: str, hosts: Sequence[Host], facts: Mapping[str, Mapping[str, Any]]) -> None:
    """nodes.json: the Slurm job, which address of which node was used, and every node's facts."""
    nodes = [{"name": h.name, "address": h.address, "interface": h.interface, "facts": facts.get(h.name, {})} for h in hosts]
    write_session(folder.path / "nodes.json", {"slurm_job_id": job_id, "nodes": nodes})


def write_session(path: Path, facts: Mapping[str, Any]) -> None:
    """`facts` of the session that begins now, beside those of the sessions before: `sessions`, the newest last, each with its
    `started_at`. The newest one's stand above too, where a file of one session has them. A record belongs to the last session that
    began before it."""
    sessions = earlier_facts(path)
    now = {"started_at": _now(), **facts}
    write_json(path, {**now, "sessions": [*sessions, now]})


def earlier_facts(path: Path) -> list[dict[str, Any]]:
    """What the sessions before wrote into the file. One that cannot be read is set aside by name, so that nothing of it is lost."""
    if not os.path.lexists(path):
        return []
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        sessions = before.get("sessions") or [before]
        if all(isinstance(session, dict) for session in sessions):
            return list(sessions)
        why = "its sessions are no objects"
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        why = str(error)
    print(f"pdslurm: {path} cannot be read ({why}); pdslurm set it aside as {set_aside(path).name}", file=sys.stderr)
    return []


def plan_state(plan: Plan) -> State:
    """Where a run is before it began, with the plan's estimates."""
    total = sum(len(s.arms) for s in plan.sets) * len(plan.sure_points)
    mean = sum(s.measure_s for s in plan.sets) / total
    return State(plan.name, total, load_s=plan.sets[0].load_s / plan.config.workload.starts, estimate_point_s=mean)


def drive(
    tasks: Tasks,
    folder: RunFolder,
    processes: Processes,
    signals: SignalNote,
    key: str | None,
) -> Outcome:
    """Runs the driver under its display and keeps state.json true whatever happens. `key`: the API key of the engines, if any."""
    state, started = plan_state(tasks.deployment.plan), _now()
    total = state.points_total
    with Display(state, folder=folder.path) as display:
        driver = Driver(tasks, folder, display, processes, signals, key)
        write_state(folder, status="running", started_at=started, points_total=total)
        try:
            outcome = driver.run()
        except BaseException as error:
            reason = str(error) if isinstance(error, PdslurmError) else f"{type(error).__name__}: {error}"
            with contextlib.suppress(PdslurmError):  # a disk that is full has taken this run's reason to end already
                write_state(folder, status="stopped", started_at=started, points_total=total, reason=reason, **vars(driver.outcome))
            raise
    status = "done" if not outcome.failed else "done with failed points"
    write_state(folder, status=status, started_at=started, points_total=total, **vars(outcome))
    return outcome


def write_state(folder: RunFolder, **state: Any) -> None:
    write_json(folder.path / "state.json", {**state, "written_at": _now()})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def closing_line(outcome: Outcome, path: Path) -> str:
    """One line for the end of a run."""
    parts = [f"{outcome.measured} points measured"]
    parts += [f"{outcome.skipped} done before"] if outcome.skipped else []
    parts += [f"{outcome.failed} FAILED"] if outcome.failed else []
    parts += [f"{outcome.invalid} INVALID"] if outcome.invalid else []
    parts += [f"{outcome.valid_in_folder} valid of {outcome.tried_in_folder} tried"] if outcome.tried_in_folder else []
    return f"{', '.join(parts)} in {outcome.wall_s:.0f} s{_gpu_time(outcome)}; results in {path}"


def _gpu_time(outcome: Outcome) -> str:
    """Which part of the time between ready engines and the last point was measuring, and what loads took beside."""
    if not outcome.measured or not outcome.ready_s:
        return ""
    share = outcome.measuring_s / outcome.ready_s
    loads = f"{outcome.loads_s / 60:.0f} min" if outcome.loads_s >= 600 else f"{outcome.loads_s:.0f} s"
    return f", {share:.0%} of the time from engines ready to the last point measuring; loads took {loads}"
