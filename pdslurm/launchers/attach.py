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
from pdslurm.launchers.run import closing_line, drive, lock, make_model, write_provenance
from pdslurm.launchers.run_path import earlier_runs_of, run_path
from pdslurm.measure.health import get
from pdslurm.node.engine_env import EngineEnv, prepare
from pdslurm.node.processes import LocalProcesses, Started, died
from pdslurm.node.provenance import ENGINE_PACKAGES
from pdslurm.plan.deployment import Deployment, Process
from pdslurm.plan.outline import make_outline
from pdslurm.plan.render import opening
from pdslurm.plan.tasks import Tasks
from pdslurm.records.run_folder import RunFolder
from pdslurm.signals import SignalNote, raising

API_KEY = "OPENAI_API_KEY"  # as `vllm bench serve` has it; never in a configuration
TIMEOUT_S = 10.0
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
    """Plans, checks that everything answers, measures, and says where the results are. Raises PdslurmError."""
    outline = make_outline(config, earlier_runs_of(config))
    print(opening(outline), flush=True)
    folder, key, signals = RunFolder(run_path(config)), os.environ.get(API_KEY), SignalNote()
    with raising(), lock(folder.path, config.run_access):
        engine_env = prepare(config, folder.path, node=platform.node())
        make_model(config, engine_env)
        deployment = outline.deployment
        versions = check_endpoints(deployment, engine_env, key)
        if config.launcher.only_preflight:
            print("preflight: nothing is wrong")
            return
        tasks = Tasks(deployment, deployment, versions)
        write_provenance(folder, tasks, outline.compared)
        hurry = lambda: signals.hurry  # noqa: E731
        with AttachedProcesses(stop_s=config.limits.stop_s, hurry=hurry, api_key=key, engine_env=engine_env) as processes:
            outcome = drive(tasks, folder, processes, signals, key)
    print(closing_line(outcome, folder.path))


class AttachedProcesses(LocalProcesses):
    """The client is ours; engines and routers are somebody else's: noted when they are to be started, never stopped, and their GPUs
    are not looked at, for they may be anywhere."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.attached: dict[str, Started] = {}

    def start(self, process: Process, log: Path) -> Started:  # type: ignore[override]
        self.attached[process.name] = Started(process, log)
        return self.attached[process.name]

    def by_name(self, name: str) -> Started:  # type: ignore[override]
        return self.attached[name] if name in self.attached else super().by_name(name)

    def died(self, name: str, cause: str) -> ProcessDied:
        if name not in self.attached:
            return died(self.by_name(name), cause)
        process = self.attached[name].process
        return ProcessDied(f"{name} ({process.role})", node=process.url or process.host, cause=cause, log=None)

    def gpu_states(self, engines: Iterable[Process]) -> dict[str, list[dict[str, Any]]]:
        return {}

    def begin_gpu_use(self, engines: Iterable[Process]) -> None:
        pass

    def end_gpu_use(self) -> dict[str, dict[str, Any]]:
        return {}


# --- before anything is measured


def check_endpoints(deployment: Deployment, engine_env: EngineEnv, key: str | None) -> dict[str, str | None]:
    """The versions of the client's environment, with the engines' own vLLM in place of the client's. Raises PreflightError with
    everything that does not answer as it should."""
    config = deployment.plan.config
    findings, versions = client_versions(config, engine_env)
    engine_versions: dict[str, None] = {}
    for bound in deployment.sets:
        arm = bound.arms[0]
        for engine in bound.engines:
            findings += [f"attach.{arm.arm.name}: {text}" for text in engine_problems(str(engine.url))]
            engine_versions |= dict.fromkeys(version_of(str(engine.url)))
            if arm.arm.topology.moves_by_nixl:  # the warm-up asks each pair for a hand-over
                findings += [f"attach.{arm.arm.name}: {text}" for text in model_problems(str(engine.url), config.model.name, key)]
        findings += [f"attach.{arm.arm.name}: {text}" for text in model_problems(arm.base_url, config.model.name, key)]
    if findings:
        raise PreflightError(list(dict.fromkeys(findings)))
    ours = {f"client {name}": version for name, version in versions.items()}
    return {**ours, "vllm": ", ".join(engine_versions) or None}


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


def engine_problems(url: str) -> Iterator[str]:
    """Why an engine cannot be measured."""
    for path in ("/health", "/metrics"):
        try:
            status, _ = get(f"{url}{path}", timeout_s=TIMEOUT_S)
        except OSError as error:
            yield f"{url}{path} does not answer ({error})"
            return
        if status != 200:
            yield f"{url}{path} answers {status}"


def version_of(url: str) -> Sequence[str]:
    try:
        status, text = get(f"{url}/version", timeout_s=TIMEOUT_S)
        return [str(json.loads(text)["version"])] if status == 200 else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def model_problems(url: str, model: str, key: str | None) -> Iterator[str]:
    """Why requests for the model would fail at an arm's own address. A router may not tell what it serves."""
    try:
        status, text = get(f"{url}/v1/models", timeout_s=TIMEOUT_S, api_key=key)
    except OSError as error:
        yield f"{url} does not answer ({error})"
        return
    if status == 401:
        yield f"{url} asks for a key; put it into {API_KEY}"
    try:
        served = [str(entry["id"]) for entry in json.loads(text)["data"]] if status == 200 else []
    except (ValueError, KeyError, TypeError):
        return
    if served and model not in served:
        yield f"{url} serves {', '.join(served)}, not {model}; set model.name"
