"""launcher=script: writes one arm of the plan as one sbatch script, for reading and for running by hand where pdslurm is not."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from pdslurm.config import Config, Tune, arms_of
from pdslurm.errors import ConfigError
from pdslurm.plan.plan import build_plan
from pdslurm.slurm.jobs import check_cluster
from pdslurm.slurm.sbatch_script import sbatch_script


def launch(config: Config) -> None:
    """Prints the script, or writes it to launcher.file. Raises ConfigError."""
    plan = build_plan(only_arm(config))
    check_cluster(plan)
    text, file = sbatch_script(plan), config.launcher.file
    if file is None:
        print(text, end="")
        return
    try:
        Path(file).write_text(text)
    except OSError as error:
        raise ConfigError([f"launcher.file={file}: cannot be written ({error.strerror})"]) from error
    print(f"{file}: {plan.nodes} node(s); submit it with sbatch", file=sys.stderr)


def only_arm(config: Config) -> Config:
    """The configuration with the one arm that launcher.arm names, which may be left out where there is one only. The job is then as
    large as this arm needs."""
    config = replace(config, tune=Tune())  # who runs the script decides on options himself
    arms, name = arms_of(config), config.launcher.arm
    if name is None and len(arms) == 1:
        return config
    if name is None or name not in arms:
        value = "null" if name is None else name
        raise ConfigError([f"launcher.arm={value}: a script serves one arm; choose one of {', '.join(arms)}"])
    return replace(config, arms={name: arms[name]}) if config.arms else config
