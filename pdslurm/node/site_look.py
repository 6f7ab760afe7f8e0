"""`python -m pdslurm.node.site_look` on a compute node: nothing in; a line of JSON with its addresses, GPUs, fabric devices, limit
on locked memory and container programs out, for the first draft of a cluster's file."""

from __future__ import annotations

import ipaddress
import json
import platform
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

MARK = "pdslurm-site-look "  # begins the line, for a site's prolog may print others
SMI_S = 60.0  # a driver that was unloaded takes half a minute
PROGRAMS = ("docker", "podman", "apptainer", "singularity", "enroot")
LOCAL = ("lo", "docker", "podman", "virbr", "veth", "cni", "br-", "cali", "flannel", "tun", "tap")
INFINIBAND = "32"  # the kernel's number of a link's type


def look() -> dict[str, Any]:
    """What is there; None or empty for what cannot be told."""
    soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return {
        "node": platform.node(),
        "interfaces": list(interfaces()),
        "gpus": gpus(),
        "devices": sorted(path.name for path in Path("/dev/infiniband").glob("uverbs*")),
        "fabrics": sorted({driver for path in Path("/sys/class/infiniband").glob("*") if (driver := driver_of(path))}),
        "memlock": None if soft == resource.RLIM_INFINITY else soft,
        "programs": [name for name in PROGRAMS if shutil.which(name)],
    }


def interfaces() -> Iterator[dict[str, Any]]:
    """Those that are up and lead off the node, with their IPv4 address and network."""
    states = psutil.net_if_stats()
    for name, of_it in psutil.net_if_addrs().items():
        up = name in states and states[name].isup
        for each in of_it:
            if up and each.family == socket.AF_INET and each.netmask and not name.startswith(LOCAL):
                cidr = str(ipaddress.ip_network(f"{each.address}/{each.netmask}", strict=False))
                yield {"name": name, "address": each.address, "cidr": cidr, "mbit": states[name].speed, "ib": is_infiniband(name)}


def is_infiniband(name: str) -> bool:
    try:
        return Path("/sys/class/net", name, "type").read_text().strip() == INFINIBAND
    except OSError:
        return False


def gpus() -> list[tuple[str, float]] | None:
    """Name and MiB of each GPU that this step was given; None where nvidia-smi is missing or does not answer."""
    command = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
    try:
        out = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SMI_S, check=True).stdout
        rows = [line.rpartition(",") for line in out.splitlines() if line.strip()]
        return [(name.strip(), float(mib)) for name, _, mib in rows]
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def driver_of(device: Path) -> str | None:
    """`efa`, `mlx5_core`, …"""
    driver = device / "device" / "driver"
    return driver.resolve().name if driver.exists() else None


if __name__ == "__main__":
    print(MARK + json.dumps(look()), flush=True)
