"""The part of a cluster that a draft is of in; what one short step sees on some of its nodes out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pdslurm.node.site_look import MARK
from pdslurm.slurm.jobs import step_environment
from pdslurm.slurm.site_draft import Chosen
from pdslurm.slurm.site_facts import SlurmFacts, why

STEP_S = 600.0  # to get nodes and to look at them
JOB_MIN = 2


def look_at_nodes(chosen: Chosen, facts: SlurmFacts, count: int, environ: Mapping[str, str]) -> tuple[list[dict[str, Any]], str]:
    """What is there, and why nothing could be seen. Looks at one node without being asked where this is a job already."""
    if not count and not environ.get("SLURM_JOB_ID"):
        return [], ""
    command = step_command(chosen, facts, max(count, 1), environ)
    print(f"pdslurm: {' '.join(command)}; waits for up to {STEP_S:g} s", file=sys.stderr, flush=True)
    try:
        env = step_environment(environ)
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=STEP_S,
            check=True,
            env=env,
            stdin=subprocess.DEVNULL,
        )
        looks = [json.loads(line.removeprefix(MARK)) for line in done.stdout.splitlines() if line.startswith(MARK)]
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return [], f"srun: {why(error).removeprefix('srun: ')}"
    return sorted(looks, key=lambda look: str(look["node"])), "" if looks else "the step on the nodes printed nothing"


def step_command(chosen: Chosen, facts: SlurmFacts, count: int, environ: Mapping[str, str]) -> Sequence[str]:
    """One step on `count` nodes: in the job that this runs in, else in a short job of its own with one GPU a node."""
    where: tuple[str, ...] = ("--overlap",)
    if not environ.get("SLURM_JOB_ID"):
        account = [f"--account={name}" for name in facts.accounts[:1]]
        constraint = [f"--constraint={chosen.constraint}"] if chosen.constraint else []
        where = (f"--partition={chosen.partition.name}", *account, *constraint, f"--time={JOB_MIN}", "--job-name=pdslurm-site")
        if chosen.gpus:
            where += ("--gres=" + (f"gpu:{chosen.gpus.type}:1" if chosen.gpus.type else "gpu:1"),)
    return (
        "srun", f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1", *where, "--quiet",
        sys.executable, "-m", "pdslurm.node.site_look",
    )  # fmt: skip
