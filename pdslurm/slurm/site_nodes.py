"""The part of a cluster that a draft is of in; what one short step sees on some of its nodes out."""

from __future__ import annotations

import contextlib
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
STOP_S = 10.0  # for srun to take its job out of the queue
JOB_MIN = 2


def look_at_nodes(chosen: Chosen, facts: SlurmFacts, count: int, environ: Mapping[str, str]) -> tuple[list[dict[str, Any]], str]:
    """What is there, and why nothing could be seen. Looks at one node without being asked where this is a job already."""
    if not count and not environ.get("SLURM_JOB_ID"):
        return [], ""
    command = step_command(chosen, facts, max(count, 1), environ)
    print(f"pdslurm: {' '.join(command)}; waits for up to {STEP_S:g} s", file=sys.stderr, flush=True)
    try:
        out = output(command, step_environment(environ))
        looks = [json.loads(line.removeprefix(MARK)) for line in out.splitlines() if line.startswith(MARK)]
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return [], f"srun: {why(error).removeprefix('srun: ')}"
    return sorted(looks, key=lambda look: str(look.get("node"))), "" if looks else "the step on the nodes printed nothing"


def output(command: Sequence[str], env: Mapping[str, str]) -> str:
    """What srun prints. Raises OSError and subprocess.SubprocessError; srun takes its job back when it is told to end, which it
    could not if it were killed."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, errors="replace", env=env
    ) as srun:
        try:
            out, err = srun.communicate(timeout=STEP_S)
        except BaseException:
            srun.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                srun.communicate(timeout=STOP_S)
            srun.kill()
            raise
    if srun.returncode:
        raise subprocess.CalledProcessError(srun.returncode, command, out, err)
    return out


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
