"""From a command and its environment to the command that runs it inside a container, and to what removes a run's containers.

Pure, but for the last part, which looks at the node that it runs on. Images are pdslurm/node/images.py's.

Every engine has a container of its own, and all of a node's containers share what CUDA IPC and shared memory need, or KV cache
between two of them falls back to TCP without a word:
- the PID namespace: a CUDA IPC handle opens only within one. Two H100 in separate PID namespaces moved KV by TCP, in a shared one
  by cuda_ipc (vLLM #55906; UCX #11513 gives the reason).
- the IPC namespace and with it /dev/shm: UCX, NCCL and vLLM's own processes meet there, and docker's own 64 MB are too few. Host
  memory moved between two containers by UCX's cma only with both namespaces shared and SYS_PTRACE (conf/runtime/docker.yaml).
- all GPUs: each process sees its own by CUDA_VISIBLE_DEVICES, but must be able to open its peers'.
- the network: NIXL, DP and the router give their addresses away, so they must be the node's own.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pdslurm.config import Runtime, RuntimeKind
from pdslurm.errors import CleanUpFailed, ConfigError
from pdslurm.plan.mounts import DOCKER_LIKE, Mount, mount_of

LABEL = "pdslurm.run"
REMOVE_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Devices:
    """What of a node's hardware goes into a container: device files, and whether NVIDIA's driver does."""

    paths: tuple[str, ...] = ()
    nvidia: bool = False


def wrap(
    runtime: Runtime,
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    run: str,
    name: str,
    mounts: Sequence[str],
    devices: Devices,
    stdin: bool,
    workdir: str | None = None,
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The command that starts `argv` inside a container, and what that command needs in its environment beside its parent's.

    `run` labels the container; `name` must be new to the node. `mounts` are the run's own, before runtime.mounts; the first one's
    inside is the working directory unless `workdir` names one. `stdin` keeps the container's open. Values of `env` never stand in
    the command, since keys are among them. For docker and podman runtime.image is best an ID, from images.ensure_image. Raises
    ConfigError for names and mounts that cannot be passed on."""
    if runtime.kind in (RuntimeKind.bare, RuntimeKind.pyxis):
        return tuple(argv), dict(env)
    if not runtime.image:
        raise ConfigError([f"runtime.image={runtime.image}: runtime.kind={runtime.kind.value} needs an image"])
    bound = [mount_of(m, runtime.kind) for m in (*mounts, *runtime.mounts)]
    workdir = workdir or (bound[0].target if bound else "/")
    program = _program(runtime, env)
    if runtime.kind is RuntimeKind.apptainer:
        options = _apptainer(bound, workdir, devices)
        command = (*program, "exec", *options, *runtime.extra_args, runtime.image, *argv)
        return command, {f"APPTAINERENV_{key}": value for key, value in env.items()}
    if runtime.kind is RuntimeKind.enroot:
        return _enroot(runtime, program, argv, env, bound, workdir, devices)
    options = _docker(runtime, env, bound, workdir, devices, run=run, name=name, stdin=stdin)
    entrypoint = ("--entrypoint", argv[0])  # else the image's own would take argv as its arguments
    return (*program, "run", *options, *runtime.extra_args, *entrypoint, runtime.image, *argv[1:]), dict(env)


def _docker(
    runtime: Runtime,
    env: Mapping[str, str],
    mounts: Sequence[Mount],
    workdir: str,
    devices: Devices,
    *,
    run: str,
    name: str,
    stdin: bool,
) -> Iterator[str]:
    """The options of `docker run` and `podman run`. A later option wins, so that runtime.extra_args can change these."""
    yield from ("--rm", "--pull", "never")
    if stdin:
        yield "--interactive"
    yield from ("--name", _container_name(run, name), "--label", f"{LABEL}={_label(run)}")
    yield from ("--network", "host", "--ipc", "host", "--pid", "host")
    yield from ("--log-driver", "none")  # the output is on the command's stdout; a second copy would fill the daemon's disk
    yield from ("--ulimit", "memlock=-1:-1", "--cap-add", "IPC_LOCK")  # RDMA pins the memory that it registers
    if runtime.privileged:
        yield "--privileged"
    for path in devices.paths:
        yield from ("--device", path)
    if devices.nvidia and runtime.kind is RuntimeKind.docker:
        yield from ("--gpus", "all")
    elif devices.nvidia:  # podman knows GPUs by CDI, and SELinux would keep their device files from it
        yield from ("--device", "nvidia.com/gpu=all", "--security-opt", "label=disable")
    for mount in mounts:
        yield from ("--mount", _csv("type=bind", mount)) if runtime.kind is RuntimeKind.docker else ("--volume", _volume(mount))
    yield from ("--workdir", workdir)
    for key in env:
        yield from ("--env", key)


def _apptainer(mounts: Sequence[Mount], workdir: str, devices: Devices) -> Iterator[str]:
    """The options of `apptainer exec`. PID and IPC namespaces and /dev are the host's anyway. --no-eval: else `$(…)` in a value
    of the environment would run."""
    yield from ("--cleanenv", "--no-home", "--no-eval", "--pwd", workdir)
    if devices.nvidia:
        yield "--nv"
    for mount in mounts:
        yield from ("--mount", _csv("type=bind", mount))


def _enroot(
    runtime: Runtime,
    program: Sequence[str],
    argv: Sequence[str],
    env: Mapping[str, str],
    mounts: Sequence[Mount],
    workdir: str,
    devices: Devices,
) -> tuple[tuple[str, ...], dict[str, str]]:
    """`enroot start` has the host's namespaces and /dev, and no option for a working directory."""
    values = {**env, **({"NVIDIA_VISIBLE_DEVICES": "all"} if devices.nvidia else {})}
    if bad := [key for key, value in values.items() if "\n" in value]:
        raise ConfigError([f"runtime.kind=enroot: {', '.join(bad)} has a line break in its value, which enroot cannot pass on"])
    options = [arg for key in values for arg in ("--env", key)]
    for mount in mounts:
        options += ["--mount", f"{_fstab(mount.source)}:{_fstab(mount.target)}:x-create=auto,rbind" + ",ro" * mount.read_only]
    inside = ("sh", "-c", 'cd "$0" && exec "$@"', workdir, *argv)
    return (*program, "start", "--rw", *options, *runtime.extra_args, str(runtime.image), *inside), values


def step_options(runtime: Runtime, mounts: Sequence[str], env: Iterable[str] = ()) -> tuple[str, ...]:
    """What `srun` needs so that a step runs inside the image with pyxis; nothing for the other kinds. pyxis passes on the
    step's whole environment, but where the image sets a variable too, the image wins unless --container-env names it, as `env`."""
    if runtime.kind is not RuntimeKind.pyxis:
        return ()
    bound = [mount_of(m, runtime.kind) for m in (*mounts, *runtime.mounts)]
    options = [f"--container-image={runtime.image}", "--no-container-entrypoint", "--no-container-mount-home"]
    options += ["--container-writable"]
    if bound:
        specs = (f"{_fstab(m.source)}:{_fstab(m.target)}" + ":ro" * m.read_only for m in bound)
        options += [f"--container-mounts={','.join(specs)}", f"--container-workdir={bound[0].target}"]
    if names := ",".join(env):
        options += [f"--container-env={names}"]
    return (*options, *runtime.extra_args)


def list_command(runtime: Runtime, run: str) -> tuple[str, ...] | None:
    """Prints the ID of every container of the run on this node, whatever its state; None for kinds that leave none."""
    if runtime.kind not in DOCKER_LIKE:
        return None
    return (*_program(runtime, {}), "ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={LABEL}={_label(run)}")


def remove_command(runtime: Runtime, ids: Sequence[str]) -> tuple[str, ...]:
    """Kills and removes these containers. podman would first wait 10 s for a TERM to work."""
    at_once = ("--time", "0") if runtime.kind is RuntimeKind.podman else ()
    return (*_program(runtime, {}), "rm", "--force", *at_once, *ids)


def container_ids(listing: str) -> tuple[str, ...]:
    """The IDs in the output of list_command; a line that is none, such as a warning, is passed over."""
    return tuple(line.strip() for line in listing.splitlines() if re.fullmatch(r"[0-9a-f]{12,64}", line.strip()))


def _program(runtime: Runtime, env: Mapping[str, str]) -> tuple[str, ...]:
    """sudo drops the environment, so it is told the names to keep."""
    first, *rest = runtime.program or [runtime.kind.value]
    keep = {RuntimeKind.apptainer: "APPTAINERENV_"}.get(runtime.kind, "")
    if env and Path(first).name == "sudo":
        return first, "--preserve-env=" + ",".join(keep + key for key in env), *rest
    return first, *rest


def _label(run: str) -> str:
    """podman takes `*` and its like in a filter's value for patterns."""
    if not re.fullmatch(r"[\w./@:+=-]+", run, re.ASCII):
        raise ConfigError([f"run={run}: labels containers; use letters, digits and . _ - / @ : + ="])
    return run


def _container_name(run: str, name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", f"pdslurm-{run}-{name}")


def _csv(kind: str, mount: Mount) -> str:
    """docker and apptainer read --mount as a line of CSV, where quotes keep commas, quotes and line breaks."""
    values = [kind, f"source={mount.source}", f"destination={mount.target}", *(["ro"] if mount.read_only else [])]
    return ",".join('"' + v.replace('"', '""') + '"' if re.search(r'[,"\r\n]', v) else v for v in values)


def _volume(mount: Mount) -> str:
    return f"{mount.source}:{mount.target}" + ":ro" * mount.read_only


def _fstab(path: str) -> str:
    """As fstab(5) has it: what would part the fields becomes its octal code."""
    return re.sub(r"[\s\\]", lambda match: f"\\{ord(match[0]):03o}", path)


# What follows looks at the node that it runs on.


def find_devices(runtime: Runtime, root: Path = Path("/")) -> Devices:
    """runtime.devices, or where that is null what this node has: RDMA and EFA, GDRCopy, NVIDIA GPUs."""
    if runtime.devices is not None:
        return Devices(tuple(d for d in runtime.devices if d != "nvidia"), "nvidia" in runtime.devices)
    dev = root / "dev"
    found = [*sorted(dev.glob("infiniband/uverbs*")), dev / "infiniband/rdma_cm", dev / "gdrdrv"]
    paths = tuple("/" + str(path.relative_to(root)) for path in found if path.exists())
    return Devices(paths, (dev / "nvidiactl").exists())


def remove_containers(runtime: Runtime, run: str) -> tuple[str, ...]:
    """Removes every container of the run on this node, and returns their IDs. Raises CleanUpFailed when that fails."""
    command = list_command(runtime, run)
    if command is None:
        return ()
    try:
        ids = container_ids(_output(command))
        if ids:
            _output(remove_command(runtime, ids))
    except (OSError, subprocess.SubprocessError) as error:
        message = getattr(error, "stderr", None) or error
        by_hand = f"`{shlex.join(command)}` lists them, `{shlex.join((*_program(runtime, {}), 'rm', '--force'))} ID` removes one"
        raise CleanUpFailed([f"containers of run {run} cannot be removed ({str(message).strip()}); {by_hand}"]) from error
    return ids


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=REMOVE_TIMEOUT_S, check=True).stdout
