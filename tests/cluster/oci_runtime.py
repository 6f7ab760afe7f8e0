#!/usr/bin/env python3
"""The lab's container runtime: takes from a container's config.json what this machine's root may not ask for, then is runc.

A root without CAP_SYS_RESOURCE (test machines are containers or small VMs themselves) can neither raise a hard limit nor hand on
that capability, so `--privileged` and `--ulimit memlock=-1` would fail here, though they work on a cluster."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any


def allowed_capabilities() -> frozenset[str]:
    """This process's bounding set, as CAP_… names."""
    said = subprocess.run(["setpriv", "--dump"], capture_output=True, text=True, check=True).stdout
    line = next(line for line in said.splitlines() if line.startswith("Capability bounding set:"))
    return frozenset(f"CAP_{name.strip().upper()}" for name in line.partition(":")[2].split(","))


def clamp(process: dict[str, Any]) -> None:
    """Edits the `process` part of an OCI configuration."""
    allowed = allowed_capabilities()
    for name, wanted in (process.get("capabilities") or {}).items():
        process["capabilities"][name] = [capability for capability in wanted if capability in allowed]
    if "CAP_SYS_RESOURCE" in allowed:
        return
    for limit in process.get("rlimits") or []:
        most = resource.getrlimit(getattr(resource, limit["type"]))[1]
        if most != resource.RLIM_INFINITY:
            limit["hard"] = min(limit["hard"], most)
            limit["soft"] = min(limit["soft"], limit["hard"])
    if process.get("oomScoreAdj", 0) < int(Path("/proc/self/oom_score_adj").read_text()):
        del process["oomScoreAdj"]


def bundle(arguments: list[str]) -> Path:
    """The folder of config.json: `--bundle DIR`, `-b DIR` or `--bundle=DIR`; the working directory without."""
    for option, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if option in ("--bundle", "-b"):
            return Path(value)
        if option.startswith("--bundle="):
            return Path(option.partition("=")[2])
    return Path()


def main() -> None:
    arguments = sys.argv[1:]
    if {"create", "run"} & set(arguments):
        path = bundle(arguments) / "config.json"
        config = json.loads(path.read_text())
        clamp(config["process"])
        path.write_text(json.dumps(config))
    os.execvp("runc", ["runc", *arguments])


if __name__ == "__main__":
    main()
