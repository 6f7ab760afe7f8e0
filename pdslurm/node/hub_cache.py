"""From a node's environment to the hub's cache there: what a container mounts of it, and what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pdslurm.plan.environment import OFFLINE

CACHES = ("HF_HOME", "HF_HUB_CACHE")


@dataclass(frozen=True)
class HubCache:
    """Folders of the node that a container needs at the same path, and the variables that name them."""

    folders: tuple[Path, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


def is_hub_name(path: str) -> bool:
    """Whether a model is named and no path of this node: org/model, or a name alone."""
    return not path.startswith(("/", ".", "~")) and "://" not in path and path.count("/") < 2 and not Path(path).exists()


def hub_cache(environ: Mapping[str, str], env: Mapping[str, str]) -> HubCache:
    """Where Hugging Face keeps its files on this node, as its own libraries find it. `env` is what the configuration sets: HF_HOME
    and HF_HUB_CACHE there win; its XDG_CACHE_HOME is for a container's other caches."""
    home = Path(environ.get("HOME") or os.path.expanduser("~"))
    xdg = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
    found = {"HF_HOME": str(xdg / "huggingface"), **{n: value for n in CACHES if (value := env.get(n) or environ.get(n))}}
    folders = [Path(os.path.abspath(os.path.expanduser(value))) for value in found.values()]
    names = dict(zip(found, map(str, folders), strict=True))
    return HubCache(tuple(f for f in folders if not any(f != other and f.is_relative_to(other) for other in folders)), names)


def cache_findings(cache: HubCache, environ: Mapping[str, str]) -> Iterator[str]:
    """Why a container cannot use it. One that is never asked to download needs no write access."""
    offline = any(environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON") for name in OFFLINE[:2])
    for folder in cache.folders:
        if not folder.is_dir():
            yield f"the hub's cache {folder} is no folder on this node; make it, or name another by HF_HOME"
        elif not offline and not os.access(folder, os.W_OK | os.X_OK):
            yield f"the hub's cache {folder} cannot be written on this node; name another by HF_HOME, or set HF_HUB_OFFLINE=1"
