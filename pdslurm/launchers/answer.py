"""After a run that compared arms: what `python -m analysis summary` says of its folder, printed where the run was started.

The one place where pdslurm looks at `analysis`, which a cluster's nodes need not have: it is imported only here, and only then."""

from __future__ import annotations

from pathlib import Path

from pdslurm.config import Config, LauncherKind, arms_of
from pdslurm.errors import ResultsError
from pdslurm.launchers.run import run_path


def answer_text(config: Config) -> str:
    """The text; empty where nothing was measured here or there is nothing to compare, one line where `analysis` cannot be had."""
    launcher, path = config.launcher, run_path(config)
    waited = launcher.kind is not LauncherKind.slurm or launcher.wait
    if launcher.only_preflight or not waited or len(arms_of(config)) < 2:
        return ""
    return summary_of(path)


def summary_of(path: Path) -> str:
    """What the records of a run's folder say; empty where there is none."""
    try:
        from analysis.load.frame import load_runs
        from analysis.report.summary import summary
    except ImportError as missing:
        return (
            f"what came out: python -m analysis summary {path} (here {missing.name} is missing; pip install 'pdslurm[analysis]')\n"
        )
    try:
        return f"\n{summary(load_runs([path]))}"
    except ResultsError:
        return ""
