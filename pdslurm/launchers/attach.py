"""launcher=attach: measures engines and routers that run already. Starts the client alone, and stops nothing else."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pdslurm.config import Config
from pdslurm.errors import PreflightError, ProcessDied
from pdslurm.launchers.run import closing_line, drive, lock, make_model, run_path, write_provenance
from pdslurm.measure.health import get
from pdslurm.node.engine_env import EngineEnv, prepare
from pdslurm.node.processes import LocalProcesses, Started, died
from pdslurm.node.provenance import ENGINE_PACKAGES
from pdslurm.plan.attached import attach
from pdslurm.plan.deployment import Deployment, Process
from pdslurm.plan.plan import build_plan
from pdslurm.plan.render import opening
from pdslurm.records.run_folder import RunFolder
from pdslurm.signals import SignalNote, raising

API_KEY = "OPENAI_API_KEY"  # as `vllm bench serve` has it; never in a configuration
ANSWER_S = 10.0
VERSIONS_S = 120.0
VERSIONS = """
import importlib.metadata, json, sys
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


def launch(config: Config) -> None:
    """Plans, looks whether everything answers, measures, and says where the results are. Raises PdslurmError."""
    plan = build_plan(config)
    print(opening(plan), flush=True)
    folder, key, signals = RunFolder(run_path(config)), os.environ.get(API_KEY), SignalNote()
    with raising(), lock(folder.path, config.run_access):
        engine_env = prepare(config, folder.path, node=platform.node())
        make_model(config, engine_env)
        deployment = attach(plan)
        versions = preflight(deployment, engine_env, key)
        if config.launcher.only_preflight:
            print("preflight: nothing found")
            return
        write_provenance(folder, deployment, versions)
        hurry = lambda: signals.hurry  # noqa: E731
        with AttachedProcesses(stop_s=config.limits.stop_s, hurry=hurry, api_key=key, engine_env=engine_env) as processes:
            outcome = drive(deployment, folder, versions, processes, signals, key)
    print(closing_line(outcome, folder.path))


class AttachedProcesses(LocalProcesses):
    """The client is ours; engines and routers are somebody else's: noted when they are to be started, never stopped, and their GPUs
    are not looked at, for they may be anywhere."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.theirs: dict[str, Started] = {}

    def start(self, process: Process, log: Path) -> Started:  # type: ignore[override]
        self.theirs[process.name] = Started(process, log)
        return self.theirs[process.name]

    def by_name(self, name: str) -> Started:  # type: ignore[override]
        return self.theirs[name] if name in self.theirs else super().by_name(name)

    def died(self, name: str, cause: str) -> ProcessDied:
        if name not in self.theirs:
            return died(self.by_name(name), cause)
        process = self.theirs[name].process
        return ProcessDied(f"{name} ({process.role})", node=process.url or process.host, cause=cause, log=None)

    def clocks(self, engines: Iterable[Process]) -> dict[str, list[dict[str, Any]]]:
        return {}


# --- before anything is measured


def preflight(deployment: Deployment, engine_env: EngineEnv, key: str | None) -> dict[str, str | None]:
    """The versions of the client's environment, with the engines' own vLLM in place of the client's. Raises PreflightError with
    everything that does not answer as it should."""
    config = deployment.plan.config
    findings, versions = client_versions(config, engine_env)
    theirs: dict[str, None] = {}
    for bound in deployment.sets:
        arm = bound.arms[0]
        for engine in bound.engines:
            findings += [f"attach.{arm.arm.name}: {text}" for text in silent(str(engine.url))]
            theirs |= dict.fromkeys(version_of(str(engine.url)))
            if arm.arm.topology.moves_by_nixl:  # the warm-up asks each pair for a hand-over
                findings += [f"attach.{arm.arm.name}: {text}" for text in not_served(str(engine.url), config.model.name, key)]
        findings += [f"attach.{arm.arm.name}: {text}" for text in not_served(arm.base_url, config.model.name, key)]
    if findings:
        raise PreflightError(list(dict.fromkeys(findings)))
    ours = {f"client {name}": version for name, version in versions.items()}
    return {**ours, "vllm": ", ".join(theirs) or None}


def client_versions(config: Config, engine_env: EngineEnv) -> tuple[list[str], Mapping[str, str | None]]:
    """What is wrong with the client's environment, and its packages."""
    command = [*config.runtime.python, "-c", VERSIONS, *ENGINE_PACKAGES]
    try:
        done = engine_env.output(command, config.runtime.env, name="versions", timeout_s=VERSIONS_S)
    except OSError as error:
        return [f"runtime.python={command[0]}: {error.strerror}; run `make setup`, or set PDSLURM_ENGINE"], {}
    except subprocess.TimeoutExpired:
        return [f"runtime.python={command[0]}: does not answer within {VERSIONS_S:g} s"], {}
    if done.returncode:
        return [f"runtime.python={command[0]}: fails with exit code {done.returncode}: {done.stderr.strip()[-500:]}"], {}
    versions = json.loads(done.stdout)
    if not versions["vllm"]:
        return [f"runtime.python={command[0]}: has no vllm, of which the benchmark client is a part"], versions
    return [], versions


def silent(url: str) -> Iterator[str]:
    """Why an engine cannot be measured."""
    for path in ("/health", "/metrics"):
        try:
            status, _ = get(f"{url}{path}", timeout_s=ANSWER_S)
        except OSError as error:
            yield f"{url}{path} does not answer ({error})"
            return
        if status != 200:
            yield f"{url}{path} answers {status}"


def version_of(url: str) -> Sequence[str]:
    try:
        status, text = get(f"{url}/version", timeout_s=ANSWER_S)
        return [str(json.loads(text)["version"])] if status == 200 else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def not_served(url: str, model: str, key: str | None) -> Iterator[str]:
    """Why requests for the model would fail at an arm's own address. A router may not tell what it serves."""
    try:
        status, text = get(f"{url}/v1/models", timeout_s=ANSWER_S, api_key=key)
    except OSError as error:
        yield f"{url} does not answer ({error})"
        return
    if status == 401:
        yield f"{url} asks for a key; put it into {API_KEY}"
    try:
        served = [entry["id"] for entry in json.loads(text)["data"]] if status == 200 else []
    except (ValueError, KeyError, TypeError):
        return
    if served and model not in served:
        yield f"{url} serves {', '.join(served)}, not {model}; set model.name"
