"""From a plan to the command lines of srun and sbatch, and from what Slurm prints to this allocation."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pdslurm.config import Cluster, Device, Slurm
from pdslurm.errors import ConfigError
from pdslurm.plan.plan import Plan
from pdslurm.slurm import job_states

STEP_MARK = "PDSLURM_STEP"  # the job in which pdslurm has started itself as a step
# of Slurm's variables: the job, and what a site sets for every srun
KEPT = frozenset((
    "SLURM_CONF", "SLURM_JOB_ID", "SLURM_JOBID", "SLURM_CLUSTERS", "SLURM_MPI_TYPE", "SLURM_NETWORK", "SLURM_DEBUG",
    "SLURM_DEBUG_FLAGS", "SLURM_TASK_PROLOG", "SLURM_TASK_EPILOG", "SLURM_PROLOG", "SLURM_EPILOG", "SLURM_RESV_PORTS",
    "SLURM_PMI_KVS_NO_DUP_KEYS", "SLURM_SEND_LIBS", "SLURM_ACCTG_FREQ", "SLURM_PROFILE",
))  # fmt: skip


@dataclass(frozen=True)
class Allocation:
    """The job that this process is in."""

    job_id: str
    nodes: tuple[str, ...]  # as Slurm names them, in its order
    restarts: int

    @property
    def is_here(self) -> bool:
        """Whether this process runs on the first of its nodes, where the driver belongs. Where Slurm started it, Slurm's name
        of the node counts, which need not be its host name."""
        first, named, host = self.nodes[0], os.environ.get("SLURMD_NODENAME"), short(platform.node())
        if named:
            return named == first
        return host == short(first) or host == short(node_facts([first]).get(first, {}).get("NodeHostName", first))


def current_allocation() -> Allocation:
    """The allocation that Slurm's variables tell of. Raises ConfigError outside of one."""
    job = os.environ.get("SLURM_JOB_ID")
    if het := [name for name in ("SLURM_HET_SIZE", "SLURM_JOB_ID_HET_GROUP_0") if os.environ.get(name)]:
        why = "is set: this is a heterogeneous job, of which pdslurm cannot tell what nodes it may use"
        raise ConfigError([f"launcher=allocation: {het[0]} {why}; use a job of equal nodes, or launcher=slurm outside of this job"])
    if not job:
        outside = "not inside a Slurm allocation; run it under salloc or sbatch, or use launcher=slurm or local"
        raise ConfigError([f"launcher=allocation: {outside}"])
    nodelist = nodes_of(job)  # a step's variables tell of the step only
    nodes = run_slurm_command("scontrol", "show", "hostnames", nodelist).split()
    return Allocation(job, tuple(nodes), int(os.environ.get("SLURM_RESTART_COUNT") or 0))


def nodes_of(job_id: str) -> str:
    """The nodes of a running job, in Slurm's short form. Raises ConfigError for a job that has ended, or not begun."""
    gone = (
        f"launcher=allocation: SLURM_JOB_ID={job_id}: this job has no nodes, for it has ended or not begun; "
        "run it in a new salloc, or `unset SLURM_JOB_ID` and use launcher=slurm"
    )
    try:
        nodelist = run_slurm_command("squeue", "--noheader", f"--jobs={job_id}", "--format=%N").strip()
    except ConfigError as error:
        raise (ConfigError([gone]) if "invalid job id" in str(error).lower() else error) from error
    if not nodelist:
        raise ConfigError([gone])
    return nodelist


def short(name: str) -> str:
    """A host's name without its domain."""
    return name.partition(".")[0]


def node_facts(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """What Slurm knows of nodes, such as NodeHostName and NodeAddr; empty where it does not answer."""
    try:
        lines = run_slurm_command("scontrol", "--oneliner", "show", "node", ",".join(names)).splitlines()
    except ConfigError:
        return {}
    nodes = [dict(re.findall(r"\b(NodeName|NodeHostName|NodeAddr)=(\S+)", line)) for line in lines]
    return {facts["NodeName"]: facts for facts in nodes if "NodeName" in facts}


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
    return {k: v for k, v in environ.items() if not k.startswith(("SLURM_", "SRUN_")) or k in KEPT}


def driver_environment(environ: Mapping[str, str], allocation: Allocation) -> dict[str, str]:
    """The environment for the step that is to be the driver, with the mark that it is one. Raises ConfigError where the mark is
    there already: this is that step, another would not be on the first node either."""
    if environ.get(STEP_MARK) == allocation.job_id:
        named = f"SLURMD_NODENAME={environ.get('SLURMD_NODENAME', '')}, host name {platform.node()}"
        where = f"srun --nodelist={allocation.nodes[0]} started pdslurm on another node ({named})"
        raise ConfigError([f"launcher=allocation: job {allocation.job_id}: {where}; ask the site why, or use launcher=slurm"])
    return {**step_environment(environ), STEP_MARK: allocation.job_id}


def agents_command(cluster: Cluster, nodes: Sequence[str], driver: str, key_file: str) -> tuple[str, ...]:
    """One step with an agent on each node, all at once, by Slurm's own tree. One that ends must not end the others."""
    gpus = tuple(f"--{name}={value}" for name, value in gpu_options(cluster).items())
    return (
        "srun", f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}", "--ntasks-per-node=1", f"--nodelist={','.join(nodes)}", *gpus,
        "--overlap", "--mem=0", "--cpu-bind=none", "--kill-on-bad-exit=0", "--wait=0", "--quiet", "--job-name=pdslurm-agents",
        *cluster.slurm.srun, sys.executable, "-m", "pdslurm.slurm.agent", driver, key_file,
    )  # fmt: skip


def driver_command(allocation: Allocation, cluster: Cluster, argv: Sequence[str]) -> tuple[str, ...]:
    """pdslurm itself on the first node of the allocation: for salloc, whose shell is on the login node."""
    return (
        "srun", "--nodes=1", "--ntasks=1", f"--nodelist={allocation.nodes[0]}", "--overlap", "--mem=0", "--cpu-bind=none",
        "--gres=none", "--quiet", "--job-name=pdslurm", *cluster.slurm.srun, sys.executable, "-m", "pdslurm", *argv,
    )  # fmt: skip


def sbatch_options(plan: Plan) -> dict[str, Any]:
    """Options of sbatch for a plan, without dashes: its nodes and GPUs, and what the site asks for."""
    cluster, slurm = plan.config.cluster, plan.config.cluster.slurm
    options: dict[str, Any] = {"nodes": plan.nodes, "ntasks-per-node": 1, **gpu_options(cluster)}
    for name in ("partition", "account", "qos", "constraint", "reservation"):
        if (value := getattr(slurm, name)) is not None:
            options[name] = value
    options["time"] = time_min(plan, slurm)  # a time in `extra` comes in its place, as it is written
    if slurm.exclusive:
        options["exclusive"] = True
    options["requeue" if slurm.requeue else "no-requeue"] = True
    options |= {name.replace("_", "-"): value for name, value in slurm.extra.items()}
    return {name: value for name, value in options.items() if value is not None and value is not False}


def time_min(plan: Plan, slurm: Slurm) -> int:
    """Minutes to ask for."""
    if (text := slurm.extra.get("time")) is not None:
        return minutes_of(text)
    return slurm.time_min if slurm.time_min is not None else max(30, int(plan.estimate_s * 1.5 / 60) + 1)


def minutes_of(text: str) -> int:
    """A time as sbatch reads it, rounded up.

    >>> minutes_of("90"), minutes_of("90:30"), minutes_of("4:00:00"), minutes_of("1-12"), minutes_of("1-0:30")
    (90, 91, 240, 2160, 1470)
    """
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    hours, minutes, seconds = [*parts, 0, 0][:3] if dash else {1: [0, *parts, 0], 2: [0, *parts]}.get(len(parts), parts)
    return int(days or 0) * 24 * 60 + hours * 60 + minutes + -(-seconds // 60)
