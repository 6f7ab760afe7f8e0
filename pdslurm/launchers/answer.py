"""After a run: what `python -m analysis summary` says of its folder where it compared arms, or which arms work where it was
workload=smoke; printed where the run was started.

The one place where pdslurm looks at `analysis`, which a cluster's nodes need not have: it is imported only here, and only then."""

from __future__ import annotations

from pathlib import Path

from pdslurm.config import Config, LauncherKind, arms_of
from pdslurm.errors import ResultsError
from pdslurm.launchers import smoke
from pdslurm.launchers.run_path import run_path
from pdslurm.plan.smoke import is_smoke
from pdslurm.records.run_folder import RunFolder


def answer_text(config: Config) -> str:
    """The text; empty where nothing was measured here or there is nothing to compare, one line where `analysis` cannot be had."""
    path = run_path(config)
    if not has_measured(config):
        return ""
    if is_smoke(config):
        return smoke_of(config, path)
    return summary_of(path) if len(arms_of(config)) > 1 else ""


def has_measured(config: Config) -> bool:
    """Whether what was asked for has been measured by now, and not only planned, checked, or handed to Slurm."""
    launcher = config.launcher
    waited = launcher.kind is not LauncherKind.slurm or launcher.wait
    return waited and not launcher.only_preflight and launcher.kind not in (LauncherKind.plan, LauncherKind.script)


def check_smoke(config: Config) -> None:
    """Raises SmokeFailed after a run with workload=smoke that has shown an arm which would not have been measured."""
    if is_smoke(config) and has_measured(config):
        smoke.check(list(arms_of(config)), RunFolder(run_path(config)).records())


def smoke_of(config: Config, path: Path) -> str:
    """What worked of each arm; one line where a record cannot be read."""
    try:
        return smoke.smoke_text(list(arms_of(config)), RunFolder(path).records())
    except ResultsError as error:
        return f"smoke: {error}\n"


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
