"""launcher=plan: prints what would run."""

from __future__ import annotations

from pdslurm.config import Config, PlanFormat
from pdslurm.launchers.run_path import earlier_runs_of
from pdslurm.plan.outline import make_outline
from pdslurm.plan.render import dump_json, plan_text


def launch(config: Config) -> None:
    """Prints the plan as text or JSON. Raises ConfigError."""
    outline = make_outline(config, earlier_runs_of(config))
    print(dump_json(outline) if config.launcher.format is PlanFormat.json else plan_text(outline))
