"""`python -m pdslurm.status [FOLDER …]`: the runs below each folder (default: runs), where they are, and their points.

Reads files and asks Slurm for jobs; starts nothing, needs no configuration. With one run's own folder it lists every point."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pdslurm.errors import PdslurmError
from pdslurm.measure.progress import PROGRESS
from pdslurm.records.measurement import Measurement
from pdslurm.records.run_folder import RunFolder
from pdslurm.slurm import jobs

SLURM_TIMEOUT_S = 20.0
FRESH_S = 60.0  # a driver writes progress.json every 2 s


@dataclass(frozen=True)
class RunStatus:
    """One run's folder as it is now."""

    path: Path
    state: str
    points: Counter[str]  # done, failed, invalid
    total: int | None
    job: str | None
    detail: str


def run_folders(root: Path) -> Iterator[Path]:
    """`root` itself if it is a run's folder, else the runs up to two levels below."""
    own = [
        p for p in (root, *root.glob("*"), *root.glob("*/*")) if (p / "plan.json").is_file() or (p / "slurm" / "job.json").is_file()
    ]
    yield from sorted(own)


def read_status(path: Path) -> RunStatus:
    """What the run's files and Slurm say. A run whose files are stale and whose job is gone is called lost."""
    state, job = _json(path / "state.json"), _json(path / "slurm" / "job.json").get("job_id")
    points = Counter(_word(record) for record in RunFolder(path).records())
    progress = _json(path / PROGRESS)
    word = state.get("status", "not started")
    queue = _job_state(job) if job else None
    if word in ("running", "not started") and queue and queue not in ("RUNNING", "COMPLETED"):
        word = queue.lower()
    elif word == "running" and queue != "RUNNING" and _age_s(path / PROGRESS) > FRESH_S:
        word = "lost: it wrote nothing for a minute; run the same command again"
    detail = str(state.get("reason") or "").split("\n")[0]
    if word == "running" and progress:
        detail = f"{progress['stage']} {progress['arm']} {progress['point']}, about {progress['left_s'] / 60:.0f} min left"
        detail = detail.replace("  ", " ")
    return RunStatus(path, word, points, state.get("points_total") or progress.get("points_total"), job, detail)


def _word(record: Measurement) -> str:
    return record.status if record.status != "done" or record.valid else "invalid"


def _json(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        value: dict[str, Any] = json.loads(path.read_text())
        return value
    return {}


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")


def _job_state(job: str) -> str | None:
    """Slurm's word; None when there is no Slurm here or it has forgotten the job."""
    with suppress(OSError, subprocess.SubprocessError):
        word = jobs.job_state(job, timeout_s=SLURM_TIMEOUT_S).word
        return word if word != jobs.UNKNOWN else None
    return None


def overview(runs: list[RunStatus]) -> Table:
    """A line for each run."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "job", "state", "done", "failed", "invalid", "of", ""):
        table.add_column(name, overflow="fold")
    for run in runs:
        counts = [str(run.points[word]) for word in ("done", "failed", "invalid")]
        table.add_row(str(run.path), run.job or "", run.state, *counts, str(run.total or "?"), run.detail)
    return table


def points(path: Path) -> Table:
    """A line for each point of one run."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("arm", "point", "state", "output tok/s", "mean TTFT ms", "mean TPOT ms", "mean ITL ms", "why"):
        table.add_column(name, overflow="fold", justify="right" if name[0] in "om" else "left")
    for record in RunFolder(path).records():
        names = ("output_throughput_tok_s", "mean_ttft_ms", "mean_tpot_ms", "mean_itl_ms")
        numbers = [record.metrics.get(name) for name in names]
        why = "; ".join(record.invalid_reasons)
        table.add_row(record.arm, record.point["id"], _word(record), *("" if n is None else f"{n:,.1f}" for n in numbers), why)
    return table


def main(argv: list[str]) -> int:
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200)
    roots = [Path(arg) for arg in argv] or [Path("runs")]
    if missing := [str(root) for root in roots if not root.is_dir()]:
        print(f"pdslurm.status: {', '.join(missing)}: no such folder", file=sys.stderr)
        return 2
    try:
        runs = [read_status(path) for root in roots for path in run_folders(root)]
        if not runs:
            print(f"no runs in {', '.join(map(str, roots))}")
            return 0
        console.print(overview(runs))
        if len(runs) == 1 and runs[0].path in roots:
            console.print()
            console.print(points(runs[0].path))
    except PdslurmError as error:
        print(f"pdslurm.status: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
