"""launcher=allocation: carries the plan out on the nodes of the Slurm job that this process is in, under salloc or sbatch."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import sys
import time
from pathlib import Path

from pdslurm.config import Config
from pdslurm.errors import CleanUpFailed, NotReady
from pdslurm.launchers.run import closing_line, drive, lock, make_model, write_nodes, write_provenance
from pdslurm.launchers.run_path import earlier_runs_of, run_path
from pdslurm.node.engine_env import prepare
from pdslurm.node.findings import clock_findings, clock_offset, differences
from pdslurm.node.network import address_towards, choose_host
from pdslurm.node.node_check import NodeReport
from pdslurm.node.preflight import HELP_TIMEOUT_S, Options, bind_checked, bind_free
from pdslurm.node.processes import LocalProcesses
from pdslurm.plan.deployment import Deployment, Host
from pdslurm.plan.outline import Outline, make_outline
from pdslurm.plan.plan import Plan
from pdslurm.plan.render import opening
from pdslurm.plan.tasks import Tasks
from pdslurm.records.run_folder import RunFolder
from pdslurm.signals import SignalNote, raising
from pdslurm.slurm import jobs
from pdslurm.slurm.agents import Nodes
from pdslurm.slurm.node_processes import NodeProcesses
from pdslurm.slurm.wire import api_key, new_key

CHECK_TIMEOUT_S = 300.0
NAME_NETWORK = "set cluster.network.interface or cluster.network.cidr to the network that joins the nodes"


def launch(config: Config) -> None:
    """Carries the plan out, on the first node if this is another host. Raises PdslurmError."""
    allocation = jobs.current_allocation()
    if not allocation.is_here:
        command, env = (
            jobs.driver_command(allocation, config.cluster, sys.argv[1:]),
            jobs.driver_environment(os.environ, allocation),
        )
        sys.stdout.flush()
        os.execvpe(command[0], command, env)
    print(carry_out(config))


def carry_out(config: Config) -> str:
    """Plans, checks every node, measures; says where the results are. Raises PdslurmError."""
    outline = make_outline(config, earlier_runs_of(config))
    plan = outline.plan
    allocation = jobs.current_allocation()
    jobs.check_fits(plan, allocation)
    print(opening(outline), flush=True)
    print(f"job {allocation.job_id} on {', '.join(allocation.nodes[: plan.nodes])}", flush=True)
    folder = RunFolder(run_path(config))
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm warns every process of a step; the agents pass it on
    with raising(), lock(folder.path, config.run_access):
        return run_on(outline, allocation, folder)


def run_on(outline: Outline, allocation: jobs.Allocation, folder: RunFolder) -> str:
    """Agents on all nodes, preflight, the driver; the agents end with it."""
    plan, config, signals = outline.plan, outline.plan.config, SignalNote()
    names = allocation.nodes[: plan.nodes]
    key, hurry = new_key(), lambda: signals.hurry
    address, env, log = own_address(config, names), jobs.step_environment(os.environ), agents_log(folder)
    key_file = write_key(folder.path, allocation.job_id, key)
    launch = lambda driver: jobs.agents_command(config.cluster, names, driver, str(key_file))  # noqa: E731
    ended = "no engine was started"
    try:
        with (
            LocalProcesses(stop_s=config.limits.stop_s, hurry=hurry, api_key=api_key(key)) as local,
            Nodes(names, address, key, config, launch=launch, env=env, log=log, temp=local.temp) as nodes,
        ):
            hosts = nodes.wait()
            key_file.unlink()  # every agent has read it; should this process be killed, it must not stay
            local.engine_env = prepare(config, folder.path, node=hosts[0].name)
            make_model(config, local.engine_env)
            deployment, versions = check(plan, nodes, hosts, folder)
            if config.launcher.only_preflight:
                return f"preflight: nothing is wrong on {len(hosts)} node(s)"
            tasks = Tasks(deployment, outline.deployment, versions)
            write_provenance(folder, tasks, outline.compared)
            write_nodes(folder, allocation.job_id, hosts, {n.name: n.facts for n in nodes.joined.values()})
            ended = closing_line(drive(tasks, folder, NodeProcesses(nodes, local, hurry), signals, api_key(key)), folder.path)
    except CleanUpFailed as error:
        raise CleanUpFailed(error.left, ended) from error
    finally:
        key_file.unlink(missing_ok=True)
    return ended


def write_key(folder: Path, job_id: str, key: str) -> Path:
    """The run's key where the agents find it, readable by its owner alone. Those of drivers that were killed go: this run has the
    folder's lock."""
    path = folder / f".key-{job_id}"
    for old in folder.glob(".key-*"):
        old.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key)
    return path.absolute()


def own_address(config: Config, names: tuple[str, ...]) -> str:
    """This node's address for its agents: by configuration, else the one that leads to another node of the job. Raises NotReady and
    PreflightError."""
    network = config.cluster.network
    reached = "" if network.interface or network.cidr else address_to_node(names[-1], alone=len(names) == 1)
    chosen = choose_host(network.interface, network.cidr, reached).address
    if len(names) > 1 and ipaddress.ip_address(chosen).is_loopback:
        raise NotReady(f"{names[0]}: its address {chosen} is a loopback, which {names[-1]} cannot reach; {NAME_NETWORK}")
    return chosen


def address_to_node(name: str, *, alone: bool) -> str:
    """This node's address on the way to a node, by its name, or by Slurm's NodeAddr where the name does not resolve or means a
    loopback, as /etc/hosts of Debian has it. A node that is `alone` may have that. Raises NotReady."""
    tried = []
    for by_slurm in (False, True):
        target = jobs.node_facts([name]).get(name, {}).get("NodeAddr", name) if by_slurm else name
        try:
            to = socket.gethostbyname(target)
            if alone or not ipaddress.ip_address(to).is_loopback:
                return address_towards(to)
            tried.append(f"{target} resolves to {to}, a loopback")
        except OSError as error:
            tried.append(f"{target} does not resolve to an IPv4 address ({error})")
    raise NotReady(f"{name}: this node finds no way to it: {'; '.join(dict.fromkeys(tried))}; {NAME_NETWORK}")


def agents_log(folder: RunFolder) -> Path:
    """What srun and the agents say."""
    path = folder.path / "logs" / "agents.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def check(plan: Plan, nodes: Nodes, hosts: tuple[Host, ...], folder: RunFolder) -> tuple[Deployment, dict[str, str | None]]:
    """Every node's preflight side by side, free ports on each, every option looked up once. Raises PreflightError with the findings
    of all nodes."""
    config, everywhere = plan.config, range(len(hosts))
    offsets = clock_offsets(nodes, len(hosts))
    order = {"do": "check", "gpus": config.cluster.gpus_per_node, "run_dir": str(folder.path.absolute())}
    replies = nodes.call({n: {**order, "routers": n == 0} for n in everywhere}, CHECK_TIMEOUT_S)
    reports = {n: NodeReport(**replies[n]) for n in everywhere}
    for n in everywhere:
        nodes.node(n).facts = {**nodes.node(n).facts, **reports[n].facts, "clock_offset_s": offsets[n]}
    findings = []
    for n, report in reports.items():
        differs = differences(reports[0].to_compare, {**reports[0].to_compare, **report.to_compare}, hosts[0].name)
        if report.versions and reports[0].versions:
            differs += differences(reports[0].versions, report.versions, hosts[0].name)
        findings += [f"{hosts[n].name}: {text}" for text in (*report.findings, *clock_findings(offsets[n]), *differs)]
    numbers = {host.address: n for n, host in enumerate(hosts)} | {"127.0.0.1": 0}

    def reserve(wanted: set[tuple[str, int]]) -> set[tuple[str, int]]:
        by_node: dict[int, list[tuple[str, int]]] = {}
        for address, port in wanted:
            by_node.setdefault(numbers[address], []).append((address, port))
        orders = {n: {"do": "reserve", "ports": ports} for n, ports in by_node.items()}
        clashes = nodes.call(orders, CHECK_TIMEOUT_S)
        return {(address, port) for each in clashes.values() for address, port in each}

    versions = dict(reports[0].versions)
    cache = Path(config.run_root, "cache").absolute()

    def options() -> Options:
        order = {0: {"do": "options", "versions": versions, "cache": str(cache)}}
        known = nodes.call(order, 2 * HELP_TIMEOUT_S)[0]
        return {kind: frozenset(names) for kind, names in known.items()}

    deployment = bind_checked(
        plan,
        findings,
        versions,
        bind=lambda: bind_free(plan, reserve, hosts),
        options=options,
        reports={hosts[n].name: report for n, report in reports.items()},
    )
    return deployment, versions


def clock_offsets(nodes: Nodes, count: int) -> dict[int, tuple[float, float]]:
    """How far each node's clock is ahead of this one's, at least and at most, in seconds: how much of the time between order and
    reply the way there took is not known."""
    sent = time.time()
    times = nodes.call({n: {"do": "time"} for n in range(count)}, CHECK_TIMEOUT_S)
    received = time.time()
    return {n: clock_offset(sent, at, received) for n, at in times.items()}
