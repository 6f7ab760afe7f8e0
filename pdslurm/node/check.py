"""One node before any engine starts: what it has, what is wrong with it for this plan, and its facts for the run's record.

`look` reads, `judge` decides (pdslurm/node/findings.py has the findings). Everything slow runs side by side; what only the engine's
environment can tell is asked for by pdslurm/node/engine_probe.py."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from pdslurm.config import Config, Device
from pdslurm.node import findings as found
from pdslurm.node import gpus
from pdslurm.node.engine_env import EngineEnv
from pdslurm.node.engine_probe import MARK
from pdslurm.node.leftovers import leftovers, processes_here
from pdslurm.node.parallel_commands import Answer, Asked, Command
from pdslurm.node.provenance import ENGINE_PACKAGES

PROBE = Path(__file__).with_name("engine_probe.py")
BUSY_AGAIN_S = 2.0  # a GPU's memory is freed some time after its process is gone


@dataclass(frozen=True)
class Report:
    """What came out for one node; travels from agent to driver as JSON."""

    findings: Sequence[str]
    versions: Mapping[str, str | None] = field(default_factory=dict)  # of the engine's environment; empty: it cannot be asked
    facts: Mapping[str, Any] = field(default_factory=dict)
    alike: Mapping[str, str] = field(default_factory=dict)  # what beside versions has to be the same on every node


@dataclass(frozen=True)
class Seen:
    """What was read on a node. `probe` has engine_probe.py's parts as far as they came; `answers` is by command."""

    answers: Mapping[str, Answer]
    probe: Mapping[str, Any]
    free: Mapping[str, int]  # place → bytes free
    read_only: Sequence[str] = ()  # places that this user cannot write
    left: Sequence[str] = ()  # processes of earlier runs


def check_node(
    config: Config,
    needs: int,
    engine_env: EngineEnv,
    *,
    run_dir: Path,
    routers: bool = True,
    given: str | None = None,
    give_up: Callable[[], bool] = lambda: False,
) -> Report:
    """This node for a plan that puts `needs` GPUs' worth of engines here, and the routers if it says so. `given`: the GPUs that
    Slurm gave, in CUDA_VISIBLE_DEVICES' words; None: all that are there. `give_up` says that nobody waits for the answer any more.
    """
    missing = list(found.programs(config)) if engine_env.is_bare else []
    can_ask = not any(m.startswith("runtime.python") for m in missing)
    routers = routers and not any(m.startswith("runtime.router") for m in missing)
    commands = commands_for(config, engine_env, ask_engine=can_ask, routers=routers)
    report = judge(config, needs, look(commands, run_dir, os.environ, give_up), missing, owner=owner_of, given=given)
    if not engine_env.image_id:
        return report
    image = {"image": engine_env.image_id}
    return replace(report, versions=report.versions and {**report.versions, **image}, facts={**report.facts, **image})


# --- reading


def commands_for(config: Config, engine_env: EngineEnv, *, ask_engine: bool, routers: bool) -> dict[str, Command]:
    """What is run on the node, all at once: name → command and what it needs in its environment."""
    env = {**config.cluster.env, **config.runtime.env}
    commands: dict[str, Command] = {}
    if ask_engine:
        asked = {
            "packages": ENGINE_PACKAGES, "model": config.model.path, "connectors": bool(found.kv_connectors(config)),
            "backends": found.nixl_backends(config),
        }  # fmt: skip
        commands["probe"] = engine_env.command(
            (*config.runtime.python, "-c", PROBE.read_text(), json.dumps(asked)), env, name="probe"
        )
    if routers:
        commands["router"] = engine_env.command((*config.runtime.router, "--help"), env, name="router-help")
    if config.cluster.device is Device.cuda and shutil.which("nvidia-smi"):
        commands["gpus"] = gpus.query("gpu", gpus.GPU_FIELDS), {}
        commands["apps"] = gpus.query("compute-apps", gpus.APP_FIELDS), {}
        commands["states"] = gpus.query("gpu", gpus.STATE_FIELDS), {}
    return commands


def look(commands: Mapping[str, Command], run_dir: Path, environ: Mapping[str, str], give_up: Callable[[], bool]) -> Seen:
    """Runs the commands and reads the rest meanwhile."""
    with Asked(commands, environ) as asked:
        places = {f"run_dir={run_dir}": run_dir, f"the temporary folder {tempfile.gettempdir()}": Path(tempfile.gettempdir())}
        free = {name: psutil.disk_usage(str(path)).free for name, path in places.items() if path.is_dir()}
        read_only = [name for name, path in places.items() if not can_write(path)]
        left = leftovers(processes_here())
        answers = asked.answers(give_up)
    if any(busy_now(answers)):
        time.sleep(BUSY_AGAIN_S)
        with Asked({name: commands[name] for name in ("gpus", "apps")}, environ) as asked:
            answers |= asked.answers(give_up)
    return Seen(answers, probe_parts(answers["probe"].out) if "probe" in answers else {}, free, read_only, left)


def can_write(folder: Path) -> bool:
    """By doing it: root may, says access(2), also where the file system is mounted read-only by a server."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def busy_now(answers: Mapping[str, Answer]) -> Iterator[str]:
    try:
        yield from gpus.busy(gpus.gpus_in(answers["gpus"].out), gpus.processes_in(answers["apps"].out), lambda _: None)
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


def judge(config: Config, needs: int, seen: Seen, missing: Sequence[str], owner: gpus.Owner, given: str | None = None) -> Report:
    """Everything that is wrong, and the facts. `missing`: programs that are not there."""
    probe, versions = seen.probe, seen.probe.get("versions", {})
    findings, facts = found.gpu_findings(config, needs, seen.answers, owner, given)
    findings = [*missing, *findings]
    if "probe" in seen.answers:
        findings += found.engine_findings(config, probe, seen.answers["probe"])
    if "router" in seen.answers:
        findings += found.router_findings(config, seen.answers["router"])
    if (rdma := found.rdma_asked(config)) and "devices" in probe:
        findings += found.fabric_findings(rdma, probe["devices"], config)
        findings += found.memlock_findings(rdma, probe["limits"])
    findings += found.disk_findings(seen.free, seen.read_only, probe.get("shm_free"), needs)
    findings += found.model_findings(config, probe.get("model"))
    findings += seen.left
    looked = {key: probe[key] for key in ("limits", "devices", "shm_free", "model") if key in probe}
    facts = {**facts, **looked, "free": dict(seen.free), "nixl": probe.get("nixl", {}).get("backends")}
    return Report(tuple(findings), versions if versions.get("vllm") else {}, facts, alike(facts))


def alike(facts: Mapping[str, Any]) -> dict[str, str]:
    """What must not differ between nodes: a benchmark over two drivers, or two models, measures neither."""
    same = {"the GPU driver": facts["driver"]} if facts.get("driver") else {}
    model = facts.get("model") or {}
    if model.get("config"):
        same["model.path"] = f"a folder whose config.json has the hash {model['config']}"
    elif model.get("cached"):
        same["model.path"] = "in the hub's cache"
    return same
