"""From a configuration to its plan as far as it is known before any host is: made once at the start of a run. Pure.

What prints the plan, what keys its points and what writes down how its arms differ all read it from here."""

from __future__ import annotations

from dataclasses import dataclass

from pdslurm.config import Config
from pdslurm.plan.deployment import Deployment, bind
from pdslurm.plan.endpoints import attached_deployment
from pdslurm.plan.fairness import Compared, compare
from pdslurm.plan.plan import Plan, build_plan
from pdslurm.records.earlier_runs import NO_RUNS, EarlierRuns


@dataclass(frozen=True)
class Outline:
    """`deployment`: the endpoints of `attach` where there are some, else processes on symbolic hosts with the plan's first choice
    of ports. `compared`: what its arms have in common and where they differ, which no host or port changes."""

    deployment: Deployment
    compared: tuple[Compared, ...]

    @property
    def plan(self) -> Plan:
        return self.deployment.plan


def make_outline(config: Config, earlier: EarlierRuns = NO_RUNS) -> Outline:
    """Checks the configuration, plans it and compares its arms; `earlier` runs are for the estimates. Raises ConfigError."""
    plan = build_plan(config, earlier)
    deployment = attached_deployment(plan) if config.attach else bind(plan)
    return Outline(deployment, compare(deployment))
