"""From a configuration's runtime to what is wrong with its fields: one sentence for each problem. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pdslurm.config import Runtime, RuntimeKind
from pdslurm.errors import ConfigError
from pdslurm.plan.mounts import DOCKER_LIKE, is_path, mount_of


def problems(runtime: Runtime) -> Iterator[str]:
    """What is wrong with a runtime's own fields, one line each."""
    kind = runtime.kind.value
    if runtime.kind is RuntimeKind.bare:
        for field in ("image", "mounts", "devices", "privileged", "program", "extra_args"):
            if value := getattr(runtime, field):
                yield f"runtime.{field}={value}: runtime.kind=bare starts no container; use runtime=docker or another kind"
        return
    if not runtime.image:
        yield f"runtime.image=null: runtime.kind={kind} needs a reference or a path; docs/containers.md makes an image"
    elif not is_path(runtime.image) and re.search(r"^[.~]|\.(tar|tgz|gz|sif|sqsh)$", runtime.image):
        yield f"runtime.image={runtime.image}: looks like a file; give its path from / on, which is the same on every node"
    elif not is_path(runtime.image) and runtime.kind in (RuntimeKind.apptainer, RuntimeKind.enroot):
        yield f"runtime.image={runtime.image}: {kind} needs a file made beforehand (docs/containers.md); give its path from / on"
    if runtime.privileged and runtime.kind not in DOCKER_LIKE:
        yield f"runtime.privileged=true: {kind} knows no such thing; use it with docker or podman"
    if runtime.program and runtime.kind is RuntimeKind.pyxis:
        yield f"runtime.program={runtime.program}: with pyxis it is srun that starts the container"
    for mount in runtime.mounts:
        try:
            mount_of(mount, runtime.kind)
        except ConfigError as error:
            yield from error.problems
    for device in runtime.devices or ():
        if device != "nvidia" and not device.startswith("/dev/"):
            yield f"runtime.devices={device}: use paths in /dev, or the word nvidia for all GPUs"
