"""`python -m pdslurm.status [FOLDER …]`: the runs below each folder (default: runs), where they are, and their points.

Reads files and asks Slurm for jobs; starts nothing, needs no configuration. With one run's own folder it lists every point."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pdslurm.errors import ConfigError, PdslurmError, SlurmUnreachable
from pdslurm.measure.progress import PROGRESS
from pdslurm.records.measurement import Measurement
from pdslurm.records.run_folder import RunFolder
from pdslurm.slurm import job_states
from pdslurm.slurm.job_states import JobState

SLURM_TIMEOUT_S = 20.0
FRESH_S = 60.0  # a driver writes progress.json every 2 s
ODD = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    ArithmeticError,
)  # of files that are not as pdslurm writes them


@dataclass(frozen=True)
class RunStatus:
    """One run's folder as it is now."""

    path: Path
    state: str
    points: Counter[str]  # done, failed, invalid
    total: int | None
    job: str | None
    detail: str


@dataclass(frozen=True)
class Queue:
    """What Slurm says of all jobs; `silent` has the words where it did not answer."""

    states: Mapping[str, JobState]
    silent: str = ""


def run_folders(root: Path) -> Iterator[Path]:
    """`root` itself if it is a run's folder, else the runs up to two levels below, and folders there that cannot be read."""
    yield from sorted(p for p in (root, *root.glob("*"), *root.glob("*/*")) if _may_be_run(p))


def _may_be_run(path: Path) -> bool:
    try:
        return (path / "plan.json").is_file() or (path / "slurm" / "job.json").is_file()
    except PermissionError:
        return True


def read_status(path: Path, queue: Queue | None = None) -> RunStatus:
    """What the run's files say, and Slurm's answers in `queue`. A run whose files are stale and whose job is gone is called lost;
    what cannot be read is named in the detail."""
    try:
        return _read(path, queue or Queue({}))
    except (*ODD, PdslurmError) as error:
        return RunStatus(path, "cannot be read", Counter(), None, None, _words(error))


def _read(path: Path, queue: Queue) -> RunStatus:
    problems: list[str] = []
    state, progress, job = _json(path / "state.json", problems), _json(path / PROGRESS, problems), job_of(path, problems)
    points = Counter[str]()
    try:
        points.update(_word(record) for record in RunFolder(path).records())
    except (*ODD, PdslurmError) as error:
        problems.append(_words(error))
    word = _run_word(path, str(state.get("status", "not started")), job, queue)
    detail = str(state.get("reason") or "").split("\n")[0]
    if word == "running" and progress:
        try:
            where = " ".join(str(progress[name]) for name in ("stage", "arm", "point") if progress[name])
            detail = f"{where}, about {progress['left_s'] / 60:.0f} min left"
        except ODD as error:
            problems.append(f"{PROGRESS}: {_words(error)}")
    total = next((t for t in (state.get("points_total"), progress.get("points_total")) if isinstance(t, int) and t), None)
    return RunStatus(path, word, points, total, job, "; ".join(filter(None, (detail, *problems))))


def _run_word(path: Path, word: str, job: str | None, queue: Queue) -> str:
    """Where a run is, by its own word and by Slurm's for its job."""
    slurm = queue.states[job].word if job and job in queue.states else None
    if word in ("running", "not started") and slurm and slurm not in ("RUNNING", "COMPLETED"):
        return slurm.lower()
    if word != "running" or slurm == "RUNNING" or _age_s(path / PROGRESS) <= FRESH_S:
        return word
    if job and queue.silent:
        return "wrote nothing for a minute, and Slurm does not answer"
    return "lost: it wrote nothing for a minute; run the same command again"


def _word(record: Measurement) -> str:
    return str(record.status) if record.status != "done" or record.valid else "invalid"


def job_of(path: Path, problems: list[str]) -> str | None:
    """The id in job.json."""
    note = _json(path / "slurm" / "job.json", problems)
    job = str(note.get("job_id", ""))
    if note and not job.isdigit():
        problems.append(f"slurm/job.json: job_id={note.get('job_id')!r} is no job's id")
    return job if job.isdigit() else None


def _json(path: Path, problems: list[str]) -> dict[str, Any]:
    """The object in a file; nothing where it is missing, and a problem where it is something else."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name} cannot be read ({_words(error)})")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path.name} is a JSON {type(value).__name__}, not an object")
        return {}
    return value


def _words(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error).split("\n")[0]
    return f"no {text}" if isinstance(error, KeyError) else str(text)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")


def ask_slurm(paths: Sequence[Path]) -> Queue:
    """One question for the jobs of all runs."""
    found = []
    for path in paths:
        with suppress(*ODD):
            found.append(job_of(path, []))
    try:
        return Queue(job_states.job_states([job for job in found if job], timeout_s=SLURM_TIMEOUT_S))
    except SlurmUnreachable as error:
        return Queue({}, str(error))
    except ConfigError:  # no Slurm here
        return Queue({})


def shown(path: Path) -> str:
    """A path for one line of a table."""
    text = os.fsencode(path).decode(errors="replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def overview(runs: list[RunStatus]) -> Table:
    """A line for each run."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "job", "state", "done", "failed", "invalid", "of", ""):
        table.add_column(name, overflow="fold")
    for run in runs:
        counts = [str(run.points[word]) for word in ("done", "failed", "invalid")]
        table.add_row(shown(run.path), run.job or "", run.state, *counts, str(run.total or "?"), run.detail)
    return table


def points(path: Path) -> Table:
    """A line for each point of one run."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("arm", "point", "state", "output tok/s", "mean TTFT ms", "mean TPOT ms", "mean ITL ms", "why"):
        table.add_column(name, overflow="fold", justify="right" if name[0] in "om" else "left")
    try:
        for record in RunFolder(path).records():
            table.add_row(*_point(record))
    except (*ODD, PdslurmError) as error:
        table.add_row("", "", "cannot be read", "", "", "", "", _words(error))
    return table


def _point(record: Measurement) -> tuple[str, ...]:
    names = ("output_throughput_tok_s", "mean_ttft_ms", "mean_tpot_ms", "mean_itl_ms")
    numbers = [record.metrics.get(name) for name in names]
    shown_numbers = (f"{n:,.1f}" if isinstance(n, (int, float)) else "" for n in numbers)
    return (record.arm, str(record.point.get("id")), _word(record), *shown_numbers, "; ".join(map(str, record.invalid_reasons)))


def main(argv: list[str]) -> int:
    console = Console(highlight=False, markup=False, soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200)
    roots = [Path(arg) for arg in argv] or [Path("runs")]
    if missing := [str(root) for root in roots if not root.is_dir()]:
        print(f"pdslurm.status: {', '.join(missing)}: no such folder", file=sys.stderr)
        return 2
    try:
        folders = [path for root in roots for path in run_folders(root)]
        queue = ask_slurm(folders)
        runs = [read_status(path, queue) for path in folders]
        if not runs:
            print(f"no runs in {', '.join(map(str, roots))}")
            return 0
        console.print(overview(runs))
        if queue.silent:
            console.print(f"Slurm does not answer, so states come from the runs' files alone: {queue.silent}")
        if len(runs) == 1 and runs[0].path in roots:
            console.print()
            console.print(points(runs[0].path))
    except PdslurmError as error:
        print(f"pdslurm.status: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
