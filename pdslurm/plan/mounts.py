"""From how a configuration writes an image and its mounts to their parts. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pdslurm.config import RuntimeKind
from pdslurm.errors import ConfigError

DOCKER_LIKE = (RuntimeKind.docker, RuntimeKind.podman)


@dataclass(frozen=True)
class Mount:
    """A folder or file of the node and where it is inside the container."""

    source: str
    target: str
    read_only: bool = False


def mount_of(text: str, kind: RuntimeKind) -> Mount:
    """`/host`, `/host:/inside` or `/host:/inside:ro`. Raises ConfigError for anything else, and for a comma with pyxis."""
    source, *rest = text.split(":")
    target = rest[0] if rest else source
    fine = source.startswith("/") and target.startswith("/") and rest[1:] in ([], ["ro"], ["rw"])
    if not fine or (kind is RuntimeKind.pyxis and "," in text):
        but = ", without a comma" if kind is RuntimeKind.pyxis else ""
        raise ConfigError([f"runtime.mounts={text}: use /host, /host:/inside or /host:/inside:ro{but}"])
    return Mount(source, target, rest[1:] == ["ro"])


def is_path(image: str) -> bool:
    """Whether an image is given by a file and not by a registry's reference."""
    return image.startswith("/")
