"""What tests make of a configuration without a launcher: tasks, content keys, and the watch of a run that has no limits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from pdslurm.config import Config
from pdslurm.measure.journal import Journal
from pdslurm.measure.progress import Display, State
from pdslurm.measure.watch import Watch
from pdslurm.node.processes import Processes
from pdslurm.plan.deployment import Deployment
from pdslurm.plan.fairness import compare
from pdslurm.plan.outline import Outline, make_outline
from pdslurm.plan.tasks import Tasks
from pdslurm.signals import SignalNote

Versions = Mapping[str, str | None]


def tasks_of(config: Config, versions: Versions | None = None, deployment: Deployment | None = None) -> Tasks:
    """Of a plan on symbolic hosts, or on those of `deployment`."""
    symbolic = make_outline(config).deployment
    return Tasks(deployment or symbolic, symbolic, versions or {})


def keys_of(config: Config, versions: Versions | None = None, deployment: Deployment | None = None) -> dict[tuple[str, str], str]:
    """(arm, point id) → content key of every point of the plan."""
    tasks = tasks_of(config, versions, deployment)
    points = tasks.deployment.plan.points
    return {(arm.arm.name, point.id): tasks.of(arm, point).key for arm in tasks.deployment.arms for point in points}


def watch_over(config: Config, processes: Processes, folder: Path) -> Watch:
    """What is said goes to `folder`/said."""
    display = Display(State("test", 1), Console(file=(folder / "said").open("a"), width=200))
    return Watch(config, 0, processes, SignalNote(), Journal(display, folder))


def outlined(deployment: Deployment) -> Outline:
    """What prints a deployment that a test made by itself."""
    return Outline(deployment, compare(deployment))
