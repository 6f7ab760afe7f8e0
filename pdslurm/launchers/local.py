"""launcher=local: carries the plan out on this machine."""

from __future__ import annotations

import platform
from pathlib import Path

from pdslurm.config import Config
from pdslurm.launchers.run import closing_line, drive, lock, make_model, write_provenance
from pdslurm.launchers.run_path import earlier_runs_of, run_path
from pdslurm.node.engine_env import prepare
from pdslurm.node.ports import ReservedPorts
from pdslurm.node.preflight import check_and_bind
from pdslurm.node.processes import LocalProcesses
from pdslurm.plan.outline import make_outline
from pdslurm.plan.render import opening
from pdslurm.plan.tasks import Tasks
from pdslurm.records.run_folder import RunFolder
from pdslurm.signals import SignalNote, raising
from pdslurm.slurm.wire import new_key


def launch(config: Config) -> None:
    """Plans, checks, measures, and says where the results are. Raises PdslurmError."""
    outline = make_outline(config, earlier_runs_of(config))
    print(opening(outline), flush=True)
    folder, key, signals = RunFolder(run_path(config)), new_key(), SignalNote()
    with raising(), lock(folder.path, config.run_access), ReservedPorts() as ports:
        engine_env = prepare(config, folder.path, node=platform.node())
        make_model(config, engine_env)
        deployment, report = check_and_bind(outline.plan, engine_env, Path(config.run_root) / "cache", folder.path, ports)
        if config.launcher.only_preflight:
            print("preflight: nothing is wrong")
            return
        tasks = Tasks(deployment, outline.deployment, report.versions)
        write_provenance(folder, tasks, outline.compared, report.facts)
        hurry = lambda: signals.hurry  # noqa: E731
        with LocalProcesses(stop_s=config.limits.stop_s, hurry=hurry, api_key=key, engine_env=engine_env) as processes:
            print(closing_line(drive(tasks, folder, processes, signals, key), folder.path), flush=True)
