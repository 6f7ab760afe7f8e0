"""From a plan to the command lines of srun and sbatch, and from what Slurm prints to this allocation."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pdslurm.config import Cluster, Device, Slurm
from pdslurm.errors import ConfigError
from pdslurm.plan.plan import Plan
from pdslurm.slurm import job_states


@dataclass(frozen=True)
class Allocation:
    """The job that this process is in."""

    job_id: str
    nodes: tuple[str, ...]  # as Slurm names them, in its order
    restarts: int

    @property
    def is_here(self) -> bool:
        """Whether this process runs on the first of its nodes, where the driver belongs."""
        return platform.node().partition(".")[0] == self.nodes[0].partition(".")[0]


def current_allocation() -> Allocation:
    """The allocation that Slurm's variables tell of. Raises ConfigError outside of one."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        outside = "not inside a Slurm allocation; run it under salloc or sbatch, or use launcher=slurm or local"
        raise ConfigError([f"launcher=allocation: {outside}"])
    nodelist = run_slurm_command(
        "squeue", "--noheader", f"--jobs={job}", "--format=%N"
    ).strip()  # a step's variables tell of the step only
    nodes = run_slurm_command("scontrol", "show", "hostnames", nodelist).split()
    return Allocation(job, tuple(nodes), int(os.environ.get("SLURM_RESTART_COUNT") or 0))


def run_slurm_command(*command: str) -> str:
    """What a command of Slurm prints; it is asked again while Slurm does not answer. Raises ConfigError with its own words when it
    fails or is missing, SlurmUnreachable when there is no answer for minutes."""
    done = job_states.until_answered(lambda: job_states.answer(*command), "the run goes on when Slurm answers")
    if done.returncode:
        raise ConfigError([f"launcher: `{' '.join(command)}`: {job_states.said(done)}"])
    return done.stdout


def check_cluster(plan: Plan) -> None:
    """Raises ConfigError for a cluster that is one machine."""
    if plan.config.cluster.one_host:
        raise ConfigError([f"cluster={plan.config.cluster.name}: one_host is for launcher=local; name a cluster of nodes"])


def check_fits(plan: Plan, allocation: Allocation) -> None:
    """Raises ConfigError when the plan needs more nodes than there are."""
    check_cluster(plan)
    nodes = allocation.nodes
    if plan.nodes > len(nodes):
        raise ConfigError([f"topology.nodes={plan.nodes}: job {allocation.job_id} has {len(nodes)} ({', '.join(nodes)})"])


def gpu_options(cluster: Cluster) -> dict[str, str]:
    """The option of sbatch and srun that asks for a node's GPUs."""
    if cluster.device is Device.cpu or cluster.slurm.gpus_by == "none":
        return {}
    if cluster.slurm.gpus_by == "gres":
        return {"gres": f"gpu:{cluster.gpus_per_node}"}
    if cluster.slurm.gpus_by == "gpus-per-node":
        return {"gpus-per-node": str(cluster.gpus_per_node)}
    raise ConfigError([f"cluster.slurm.gpus_by={cluster.slurm.gpus_by}: must be gres, gpus-per-node or none"])


def step_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for srun: a step's own variables would bind a new step to the old one's shape."""
    kept = ("SLURM_CONF", "SLURM_JOB_ID", "SLURM_JOBID", "SLURM_CLUSTERS")
    return {k: v for k, v in environ.items() if not k.startswith(("SLURM_", "SRUN_")) or k in kept}


def agents_command(cluster: Cluster, nodes: Sequence[str], driver: str, key_file: str) -> tuple[str, ...]:
    """One step with an agent on each node, all at once, by Slurm's own tree. One that ends must not end the others."""
    gpus = tuple(f"--{name}={value}" for name, value in gpu_options(cluster).items())
    return (
        "srun", f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}", "--ntasks-per-node=1", f"--nodelist={','.join(nodes)}", *gpus,
        "--overlap", "--mem=0", "--cpu-bind=none", "--kill-on-bad-exit=0", "--wait=0", "--quiet", "--job-name=pdslurm-agents",
        sys.executable, "-m", "pdslurm.slurm.agent", driver, key_file,
    )  # fmt: skip


def driver_command(allocation: Allocation, argv: Sequence[str]) -> tuple[str, ...]:
    """pdslurm itself on the first node of the allocation: for salloc, whose shell is on the login node."""
    return (
        "srun", "--nodes=1", "--ntasks=1", f"--nodelist={allocation.nodes[0]}", "--overlap", "--mem=0", "--cpu-bind=none",
        "--gres=none", "--quiet", "--job-name=pdslurm", sys.executable, "-m", "pdslurm", *argv,
    )  # fmt: skip


def sbatch_options(plan: Plan) -> dict[str, Any]:
    """Options of sbatch for a plan, without dashes: its nodes and GPUs, and what the site asks for."""
    cluster, slurm = plan.config.cluster, plan.config.cluster.slurm
    options: dict[str, Any] = {"nodes": plan.nodes, "ntasks-per-node": 1, **gpu_options(cluster)}
    for name in ("partition", "account", "qos", "constraint", "reservation"):
        if (value := getattr(slurm, name)) is not None:
            options[name] = value
    options["time"] = time_min(plan, slurm)
    if slurm.exclusive:
        options["exclusive"] = True
    options["requeue" if slurm.requeue else "no-requeue"] = True
    return {**options, **{name.replace("_", "-"): value for name, value in slurm.extra.items()}}


def time_min(plan: Plan, slurm: Slurm) -> int:
    """Minutes to ask for."""
    return slurm.time_min if slurm.time_min is not None else max(30, int(plan.estimate_s * 1.5 / 60) + 1)
