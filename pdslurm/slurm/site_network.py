"""From what was seen on compute nodes to the lines of a cluster's file on its network and fabric. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pdslurm.node.findings import MEMLOCK_GIB
from pdslurm.slurm.yaml_lines import clean, entry

Look = Mapping[str, Any]  # pdslurm/node/site_look.py


def network_lines(looks: Sequence[Look]) -> Iterator[str]:
    if not looks:
        yield "# kv_backends: [UCX]  # NIXL's; on EFA [LIBFABRIC]. --look 1 sees which fabric there is"
        yield "# network: {cidr: 10.1.0.0/16, transport: rdma}  # FILL IN the nodes' fast network; --look 1 lists their addresses"
        return
    look = looks[0]
    node, devices, fabrics, here = look["node"], look["devices"], look["fabrics"], look["interfaces"]
    is_efa = "efa" in fabrics
    yield entry("kv_backends", ["LIBFABRIC" if is_efa else "UCX"], f"{node}: {'EFA' if is_efa else 'no EFA'}")
    yield "network:"
    fast = [each for each in here if each["ib"]]
    if fast:
        yield chosen(fast[0], f"{node}: {described(fast[0])}, over InfiniBand")
    elif len(here) > 1:
        yield "  # cidr: FILL IN one of these; without it, it is the network that leads to the first node"
    for each in [one for one in here if not fast or one is not fast[0]]:
        yield f"  # {chosen(each, f'{node}: {described(each)}').strip()}"
    if not here:
        yield f"  # cidr: FILL IN; {clean(node)} has no IPv4 address beside its own"
    if devices:
        transport = "efa" if is_efa else "rdma"
        yield entry("  transport", transport, f"{node}: /dev/infiniband has {', '.join(devices)} of {', '.join(fabrics) or '?'}")
        yield from (f"  {line}" for line in _memlock(look))
    else:
        yield entry("  transport", "any", f"{node}: no /dev/infiniband/uverbs*; tcp would check that KV moves over TCP")


def chosen(interface: Mapping[str, Any], source: str) -> str:
    """The line that chooses this network: by the interface's name where its address has no network of more than itself."""
    alone = str(interface["cidr"]).endswith("/32")
    return entry("  interface" if alone else "  cidr", interface["name"] if alone else interface["cidr"], source)


def described(interface: Mapping[str, Any]) -> str:
    speed = f", {interface['mbit'] / 1000:g} Gbit/s" if interface["mbit"] else ""
    return f"{interface['name']} {interface['address']}{speed}"


def _memlock(look: Look) -> Iterator[str]:
    limit = look["memlock"]
    if limit is not None and limit < MEMLOCK_GIB * 2**30:
        yield (
            f"# {clean(look['node'])}: ulimit -l is {limit // 1024} KiB, and RDMA needs {MEMLOCK_GIB:g} GiB or more: set "
            "LimitMEMLOCK=infinity for slurmd (docs/preflight.md)"
        )
