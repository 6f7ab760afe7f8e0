"""launcher=plan: prints what would run."""

from __future__ import annotations

from pdslurm.config import Config, PlanFormat
from pdslurm.plan.attached import deployment_of
from pdslurm.plan.plan import build_plan
from pdslurm.plan.render import dump_json, plan_text


def launch(config: Config) -> None:
    """Prints the plan as text or JSON. Raises ConfigError."""
    deployment = deployment_of(build_plan(config))
    print(dump_json(deployment) if config.launcher.format is PlanFormat.json else plan_text(deployment))
