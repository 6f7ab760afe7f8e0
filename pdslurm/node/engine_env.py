"""The engine's environment on one node: bare, or a container whose image is there; how commands are started in it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pdslurm.config import Config, Runtime, RuntimeKind
from pdslurm.errors import CleanUpFailed, PreflightError
from pdslurm.node import container as containers
from pdslurm.node.hub_cache import HubCache, cache_findings, hub_cache, is_hub_name
from pdslurm.node.images import ensure_image
from pdslurm.plan.environment import passed_on
from pdslurm.plan.mounts import mount_of
from pdslurm.records.measurement import content_key

COMPILE_CACHES = {"VLLM_CACHE_ROOT": "vllm", "TRITON_CACHE_DIR": "triton"}
CODE = Path(__file__).parents[1]  # node/guard.py and bench/ run inside, too


@dataclass(frozen=True)
class EngineEnv:
    """`runtime.image` is an ID that this node has. `run` labels the containers; `image_id` is None for bare."""

    runtime: Runtime
    run: str = "run"
    mounts: tuple[str, ...] = ()
    devices: containers.Devices = field(default_factory=containers.Devices)
    image_id: str | None = None
    srun: tuple[str, ...] = ()  # the site's own options
    variables: Mapping[str, str] = field(default_factory=dict)  # of every process in a container: where caches are

    @property
    def is_bare(self) -> bool:
        return self.runtime.kind is RuntimeKind.bare

    def command(
        self, argv: Sequence[str], env: Mapping[str, str], *, name: str, stdin: bool = False
    ) -> tuple[tuple[str, ...], dict[str, str]]:
        """The command that runs `argv` there, and its whole environment. A container gets `env` and, by name, what
        `passed_on` takes from this process's; bare and pyxis get all of this process's."""
        if not self.is_bare:
            env = {**passed_on(os.environ), **self.variables, **env}
        if self.runtime.kind is RuntimeKind.pyxis:
            options = containers.step_options(self.runtime, self.mounts, env)
            here = os.environ.get("SLURMD_NODENAME")
            step = ("srun", "--overlap", "--nodes=1", "--ntasks=1", *([f"--nodelist={here}"] if here else []))
            return (*step, "--mem=0", "--cpu-bind=none", "--quiet", *self.srun, *options, *argv), {**os.environ, **env}
        wrapped, more = containers.wrap(
            self.runtime,
            argv,
            env,
            run=self.run,
            name=name,
            mounts=self.mounts,
            devices=self.devices,
            stdin=stdin,
            workdir=str(Path.cwd()),
        )
        return wrapped, {**os.environ, **more}

    def output(
        self, argv: Sequence[str], env: Mapping[str, str], *, name: str, timeout_s: float, given: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Runs a short command there with `given` on its stdin. Raises OSError and subprocess.SubprocessError as subprocess.run."""
        command, whole = self.command(argv, env, name=name, stdin=bool(given))
        return subprocess.run(
            command, env=whole, input=given, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
        )

    def remove_containers(self) -> tuple[str, ...]:
        """Removes every container of the run on this node. Raises CleanUpFailed when that fails."""
        return containers.remove_containers(self.runtime, self.run)


def run_label(folder: Path) -> str:
    """What the containers of a run are called: the same for every launch of one run's folder, which one launch has at a time."""
    return f"run-{content_key(str(folder.absolute()))[:12]}"


def prepare(config: Config, folder: Path, *, node: str) -> EngineEnv:
    """Loads the image where this node does not have it and removes containers that an earlier launch of the same run left. Raises
    PreflightError."""
    runtime, run = config.runtime, run_label(folder)
    if runtime.kind is RuntimeKind.bare:
        return EngineEnv(runtime)
    image = ensure_image(runtime, node=node)
    model = Path(config.model.path)
    if config.model.make:
        model.mkdir(parents=True, exist_ok=True)
    folders = [folder.absolute(), *([model.absolute()] if model.exists() else [])]
    cache = HubCache()
    if not config.model.make and is_hub_name(config.model.path):
        set_here = {**config.cluster.env, **config.runtime.env}
        cache = hub_cache(os.environ, set_here)
        if not covered(cache, runtime) and (found := list(cache_findings(cache, {**os.environ, **set_here}))):
            raise PreflightError(found)
        folders += [] if covered(cache, runtime) else cache.folders
    if config.workload.dataset_path:
        folders.append(Path(config.workload.dataset_path).absolute())
    compiled = compile_caches(config, node)
    folders += compiled.folders
    mounts = (*map(str, folders), f"{CODE}:{CODE}:ro")
    started, srun = replace(runtime, image=image.start), tuple(config.cluster.slurm.srun)
    env = EngineEnv(started, run, mounts, containers.find_devices(runtime), image.id, srun, {**cache.env, **compiled.env})
    try:
        env.remove_containers()
    except CleanUpFailed as error:  # of an earlier launch: this one has started nothing yet
        raise PreflightError([f"{node}: {line}" for line in error.left]) from error
    return env


def compile_caches(config: Config, node: str) -> HubCache:
    """A folder in run_root, for each node its own, where a container's engines keep what they compile: with the container it would
    be gone, and every load would compile anew. Nothing where the configuration names one. Raises PreflightError."""
    if any(name in {**config.cluster.env, **config.runtime.env} for name in COMPILE_CACHES):
        return HubCache()
    root = Path(config.run_root).absolute() / "cache" / "compiled" / node
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise PreflightError([f"{node}: {root} cannot be made for what engines compile ({error.strerror})"]) from error
    return HubCache((root,), {name: str(root / below) for name, below in COMPILE_CACHES.items()})


def covered(cache: HubCache, runtime: Runtime) -> bool:
    """Whether runtime.mounts already puts every folder of the cache into the container, from wherever."""
    inside = [Path(mount_of(mount, runtime.kind).target) for mount in runtime.mounts]
    return all(any(folder.is_relative_to(target) for target in inside) for folder in cache.folders)
