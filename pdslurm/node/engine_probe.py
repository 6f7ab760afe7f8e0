"""Reads the engine's environment from within, in its container if it has one, and prints facts, one JSON line a part.

    python3 -c "$(cat engine_probe.py)" '{"packages": […], "model": PATH, "connectors": true, "backends": ["UCX"]}'

Facts only; pdslurm/node/node_check.py judges them. NIXL comes last, for it may take the process with it. This file stands alone: it
travels as an argument, so that no container has to mount it, and runs with any Python from 3.8."""

from __future__ import annotations

import glob
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import resource
import sys
import tempfile
from collections.abc import Callable
from typing import Any

MARK = "pdslurm-probe: "  # libraries print to stdout too
CAP_IPC_LOCK = 14  # linux/capability.h
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
NIXL_LINE = re.compile(r"([EWI])\d{4} [^]]*\] (.*)")  # E1121 08:23:48.153027   28430 nixl_agent.cpp:334] createBackend: …
UCX_LINE = re.compile(
    r"\[\d+\.\d+\] .* UCX +(ERROR|WARN) +(.*)"
)  # [1795249736.977611] [vm:5751 :0] ucp_context.c:1770 UCX  ERROR no …


def print_part(part: str, value: Any) -> None:
    print(MARK + json.dumps({part: value}), flush=True)


def versions(packages: list[str]) -> dict[str, str | None]:
    """Of installed distributions; None for one that is not there."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def limits() -> dict[str, Any]:
    """Bytes that may be locked (None: no limit), and whether this process may pass over that limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    with open("/proc/self/status") as status:
        capabilities = next((int(line.split()[1], 16) for line in status if line.startswith("CapEff")), 0)
    return {"memlock": None if soft == resource.RLIM_INFINITY else soft, "ipc_lock": bool(capabilities >> CAP_IPC_LOCK & 1)}


def devices() -> dict[str, bool]:
    """Fabric devices here → whether this user may open them."""
    paths = [*sorted(glob.glob("/dev/infiniband/uverbs*")), *glob.glob("/dev/gdrdrv")]
    return {path: os.access(path, os.R_OK | os.W_OK) for path in paths}


def shared_memory() -> int | None:
    """Bytes free in /dev/shm."""
    try:
        stat = os.statvfs("/dev/shm")
    except OSError:
        return None
    return stat.f_bavail * stat.f_frsize


def model(path: str) -> dict[str, Any]:
    """What is at a model's path, or in the hub's cache where the path is no folder here."""
    if os.path.isdir(path):
        return {"folder": path, **model_folder(path)}
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    cache = os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")
    snapshots = glob.glob(os.path.join(cache, "models--" + path.replace("/", "--"), "snapshots", "*", "config.json"))
    offline = any(
        os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )
    return {"folder": None, "cache": cache, "cached": len(snapshots), "offline": offline}


def model_folder(path: str) -> dict[str, Any]:
    """The hash of its config.json, how many files of weights there are, which of all files are missing or cannot be read."""
    found: dict[str, Any] = {"config": None, "error": None}
    try:
        with open(os.path.join(path, "config.json"), "rb") as file:
            content = file.read()
        json.loads(content)
        found["config"] = hashlib.sha256(content).hexdigest()[:12]
    except (OSError, ValueError) as error:
        found["error"] = getattr(error, "strerror", None) or str(error)
    names = {os.path.basename(f) for pattern in WEIGHTS for f in glob.glob(os.path.join(glob.escape(path), pattern))}
    listed = set()
    for index in glob.glob(os.path.join(glob.escape(path), "*.index.json")):
        try:
            with open(index) as file:
                listed |= set(json.load(file)["weight_map"].values())
        except (OSError, ValueError, KeyError):
            listed.add(os.path.basename(index))
    unreadable = [n for n in names if not os.access(os.path.join(path, n), os.R_OK) or not os.path.getsize(os.path.join(path, n))]
    return {**found, "weights": len(names), "missing": sorted(listed - names), "unreadable": sorted(unreadable)}


def connectors() -> list[str] | None:
    """KV connectors that this vLLM registers and whose modules are there, read from its source: importing it takes 10 s and more.
    None when its registry is not where we know it."""
    spec = importlib.util.find_spec("vllm")
    for root in spec.submodule_search_locations or [] if spec else []:
        try:
            with open(os.path.join(root, "distributed", "kv_transfer", "kv_connector", "factory.py")) as file:
                text = file.read()
        except OSError:
            continue
        pairs = re.findall(r'register_connector\(\s*"(\w+)",\s*"vllm\.([\w.]+)"', text)
        modules = {name: os.path.join(root, *module.split(".")) for name, module in pairs}
        return sorted(name for name, place in modules.items() if os.path.exists(place + ".py") or os.path.isdir(place))
    return None


def nixl(backends: list[str]) -> dict[str, Any]:
    """An agent with each back end: what went wrong (None: it works), and what NIXL and UCX warned of."""
    os.environ.setdefault("NIXL_LOG_LEVEL", "INFO")  # only so does it name a library that is missing
    try:
        from nixl._api import nixl_agent, nixl_agent_config
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "plugins": [], "backends": {}}
    plugins: list[str] = []
    agents = []

    def load(backend: str) -> None:
        agent = nixl_agent(f"pdslurm-{backend}", nixl_agent_config(backends=[]))
        agents.append(agent)
        plugins[:] = sorted(agent.get_plugin_list())
        agent.create_backend(backend)

    found = {}
    for backend in backends:
        error, log = captured(lambda name=backend: load(name))  # type: ignore[misc]
        found[backend] = {"error": error, "said": reasons(log)}
    return {"error": None, "plugins": plugins, "backends": found}


def captured(attempt: Callable[[], None]) -> tuple[str | None, str]:
    """The exception of `attempt`, and all it printed. Native code writes to the descriptors: UCX to 1, NIXL to 2."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved, error = [os.dup(1), os.dup(2)], None
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            attempt()
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        finally:
            sys.stdout.flush()
            for number, copy in zip((1, 2), saved):  # noqa: B905 (strict= is newer than 3.8)
                os.dup2(copy, number)
                os.close(copy)
        log.seek(0)
        return error, log.read().decode(errors="replace")


def reasons(log: str) -> list[str]:
    """What NIXL and UCX print about a failure, without times, files and lines; a missing library is named at level INFO."""
    kept: list[str] = []
    for line in log.splitlines():
        found = UCX_LINE.match(line) or NIXL_LINE.match(line)
        if found and (found.group(1) != "I" or found.group(2).startswith("Failed to load plugin from")):
            kept.append(re.sub(r"/\S*/(?=libplugin_)", "", found.group(2)).strip()[:300])
    return list(dict.fromkeys(kept))[:4]


def main(wanted: dict[str, Any]) -> None:
    print_part("versions", versions(wanted["packages"]))
    print_part("limits", limits())
    print_part("devices", devices())
    print_part("shm_free", shared_memory())
    print_part("model", model(wanted["model"]))
    if wanted["connectors"]:
        print_part("connectors", connectors())
    if wanted["backends"]:
        print_part("nixl", nixl(wanted["backends"]))
    sys.stdout.flush()
    os._exit(0)  # NIXL's threads may hang at an ordinary exit


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
