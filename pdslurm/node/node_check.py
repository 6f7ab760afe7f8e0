"""From a configuration and the node that this runs on to what is wrong with it for the plan, and its facts for the run's record.

`read_node` reads, `judge_node` decides (pdslurm/node/findings.py has the findings). Everything slow runs side by side; what only
the engine's environment can tell is read by pdslurm/node/engine_probe.py."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from pdslurm.config import Config, Device
from pdslurm.node import findings, gpu_states, gpus
from pdslurm.node.engine_env import EngineEnv
from pdslurm.node.engine_probe import MARK
from pdslurm.node.folders import Folders, folder_findings, read_folders
from pdslurm.node.leftovers import leftover_findings, processes_here
from pdslurm.node.parallel_commands import Command, CommandResult, ParallelCommands
from pdslurm.node.provenance import ENGINE_PACKAGES
from pdslurm.plan.environment import proxies, proxy_note

PROBE = Path(__file__).with_name("engine_probe.py")
NVIDIA_SMI_S = 30.0  # without the persistence daemon a driver wakes for seconds; a sick GPU makes it hang
BUSY_AGAIN_S = 2.0  # a GPU's memory is freed some time after its process is gone


@dataclass(frozen=True)
class NodeReport:
    """What came out for one node; travels from agent to driver as JSON."""

    findings: Sequence[str]
    versions: Mapping[str, str | None] = field(default_factory=dict)  # of the engine's environment; empty: it cannot be asked
    facts: Mapping[str, Any] = field(default_factory=dict)
    to_compare: Mapping[str, str] = field(default_factory=dict)  # what beside versions has to be the same on every node
    notes: Sequence[str] = ()  # told, and no reason to end


@dataclass(frozen=True)
class NodeState:
    """What was read on a node. `probe` has engine_probe.py's parts as far as they came; `results` is by command."""

    results: Mapping[str, CommandResult]
    probe: Mapping[str, Any]
    folders: Folders = field(default_factory=Folders)
    leftovers: Sequence[str] = ()  # a finding for each process of an earlier run


def check_node(
    config: Config,
    needs: int,
    engine_env: EngineEnv,
    *,
    run_dir: Path,
    routers: bool = True,
    give_up: Callable[[], bool] = lambda: False,
) -> NodeReport:
    """This node for a plan that puts `needs` GPUs' worth of engines here, and the routers if it says so. CUDA_VISIBLE_DEVICES,
    which Slurm or the user sets, says which GPUs it has; all that nvidia-smi lists count where it is not set. `give_up` says that
    nobody waits for the report any more.
    """
    missing = list(findings.missing_programs(config)) if engine_env.is_bare else []
    has_python = not any(m.startswith("runtime.python") for m in missing)
    routers = routers and not any(m.startswith("runtime.router") for m in missing)
    commands = commands_for(config, engine_env, probe_engine=has_python, routers=routers)
    state = read_node(config, commands, run_dir, give_up, bare=engine_env.is_bare)
    report = judge_node(config, needs, state, missing, owner=owner_of, visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"))
    if note := proxy_note(proxies({**os.environ, **config.cluster.env, **config.runtime.env})):
        report = replace(report, facts={**report.facts, "proxy": note}, notes=(*report.notes, note))
    if not engine_env.image_id:
        return report
    image = {"image": engine_env.image_id}
    return replace(report, versions=report.versions and {**report.versions, **image}, facts={**report.facts, **image})


# --- reading


def commands_for(config: Config, engine_env: EngineEnv, *, probe_engine: bool, routers: bool) -> dict[str, Command]:
    """What is run on the node, all at once: name → command and what it needs in its environment."""
    env = {**config.cluster.env, **config.runtime.env}
    commands: dict[str, Command] = {}
    if probe_engine:
        wanted = {
            "packages": ENGINE_PACKAGES, "model": config.model.path, "connectors": bool(findings.kv_connectors(config)),
            "backends": findings.nixl_backends(config),
        }  # fmt: skip
        commands["probe"] = engine_env.command(
            (*config.runtime.python, "-c", PROBE.read_text(), json.dumps(wanted)), env, name="probe"
        )
    if routers:
        commands["router"] = engine_env.command((*config.runtime.router, "--help"), env, name="router-help")
    if config.cluster.device is Device.cuda and shutil.which("nvidia-smi"):
        commands["gpus"] = gpus.query("gpu", gpus.GPU_FIELDS), {}
        commands["apps"] = gpus.query("compute-apps", gpus.APP_FIELDS), {}
        commands["states"] = gpus.query("gpu", gpu_states.STATE_FIELDS), {}
    return commands


def read_node(
    config: Config, commands: Mapping[str, Command], run_dir: Path, give_up: Callable[[], bool], *, bare: bool
) -> NodeState:
    """Runs the commands and reads the rest meanwhile."""
    environ = dict(os.environ)
    limits_s = dict.fromkeys(("gpus", "apps", "states"), NVIDIA_SMI_S)
    with ParallelCommands(commands, environ, limits_s) as running:
        folders = read_folders(run_dir, {**environ, **config.cluster.env, **config.runtime.env}, bare=bare)
        leftovers = leftover_findings(processes_here())
        results = running.results(give_up)
    if any(busy_now(results)):
        time.sleep(BUSY_AGAIN_S)
        with ParallelCommands({name: commands[name] for name in ("gpus", "apps")}, environ, limits_s) as running:
            results |= running.results(give_up)
    probe = probe_parts(results["probe"].out) if "probe" in results else {}
    return NodeState(results, probe, folders, leftovers)


def busy_now(results: Mapping[str, CommandResult]) -> Iterator[str]:
    try:
        there, processes = gpus.parse_gpus(results["gpus"].out), gpus.parse_processes(results["apps"].out)
        yield from gpus.busy_findings([gpu for gpu in there if not gpu.ill], processes, lambda _: None)
    except (KeyError, ValueError):
        return


def owner_of(pid: int) -> str | None:
    """The user whose process that is."""
    try:
        return psutil.Process(pid).username()
    except psutil.Error:
        return None


def probe_parts(out: str) -> dict[str, Any]:
    """The parts that engine_probe.py could print before it ended."""
    parts: dict[str, Any] = {}
    for line in out.splitlines():
        if line.startswith(MARK):
            parts |= json.loads(line.removeprefix(MARK))
    return parts


# --- judging


def judge_node(
    config: Config,
    needs: int,
    state: NodeState,
    missing: Sequence[str],
    *,
    owner: gpus.Owner,
    visible_devices: str | None = None,
) -> NodeReport:
    """Everything that is wrong, and the facts. `missing`: programs that are not there."""
    probe, versions = state.probe, state.probe.get("versions", {})
    of_gpus, facts = findings.gpu_findings(config, needs, state.results, owner, visible_devices)
    lines = [*missing, *of_gpus]
    if "probe" in state.results:
        lines += findings.engine_findings(config, probe, state.results["probe"])
    if "router" in state.results:
        lines += findings.router_findings(config, state.results["router"])
    if (rdma := findings.rdma_fields(config)) and "devices" in probe:
        lines += findings.fabric_findings(rdma, probe["devices"], config)
        lines += findings.memlock_findings(rdma, probe["limits"])
    lines += [*folder_findings(state.folders), *findings.shm_findings(probe.get("shm_free"), needs)]
    lines += findings.port_findings(config)
    lines += findings.model_findings(config, probe.get("model"))
    lines += state.leftovers
    free = {place.name: place.free for place in state.folders.places if place.free is not None}
    of_probe = {key: probe[key] for key in ("limits", "devices", "shm_free", "model") if key in probe}
    facts = {**facts, **of_probe, "free": free, "nixl": probe.get("nixl", {}).get("backends")}
    facts |= {"notes": list(state.folders.notes)} if state.folders.notes else {}
    known = versions if versions.get("vllm") else {}
    return NodeReport(tuple(lines), known, facts, facts_to_compare(facts), tuple(state.folders.notes))


def facts_to_compare(facts: Mapping[str, Any]) -> dict[str, str]:
    """What must not differ between nodes: a benchmark over two drivers, or two models, measures neither."""
    same = {"the GPU driver": facts["driver"]} if facts.get("driver") else {}
    model = facts.get("model") or {}
    if model.get("config"):
        same["model.path"] = f"a folder whose config.json has the hash {model['config']}"
    elif model.get("cached"):
        same["model.path"] = "in the hub's cache"
    return same
