"""From a node's addresses to the one that a run uses: named by interface or CIDR, else the one that leads to the driver."""

from __future__ import annotations

import ipaddress
import platform
import socket

import psutil

from pdslurm.errors import PreflightError
from pdslurm.plan.deployment import Host


def addresses() -> list[tuple[str, str]]:
    """(interface, IPv4 address) of this node, in the kernel's order."""
    interfaces = psutil.net_if_addrs()
    return [(name, each.address) for name, of_it in interfaces.items() for each in of_it if each.family == socket.AF_INET]


def choose_host(
    interface: str | None, cidr: str | None, reached_by: str, here: list[tuple[str, str]] | None = None, node: str | None = None
) -> Host:
    """This node's address: the first that fits `interface` and `cidr`, or `reached_by` where neither is given. Raises
    PreflightError naming what there is."""
    node = node or platform.node()
    here = addresses() if here is None else here
    net = ipaddress.ip_network(cidr, strict=False) if cidr else None
    fits = [
        (name, address)
        for name, address in here
        if (interface is None or name == interface)
        and (net is None or ipaddress.ip_address(address) in net)
        and (interface or cidr or address == reached_by)
    ]
    if fits:
        return Host(node, fits[0][1], fits[0][0])
    wanted = ", ".join(f"cluster.network.{k}={v}" for k, v in (("interface", interface), ("cidr", cidr)) if v)
    there = ", ".join(f"{name} {address}" for name, address in here) or "no IPv4 address at all"
    raise PreflightError([f"{wanted or 'the address ' + reached_by}: nothing on {node} fits; it has {there}"])


def address_towards(other: str) -> str:
    """This machine's address on the way to host `other`; sends nothing. Raises OSError for a name that does not resolve."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((other, 9))
        return str(sock.getsockname()[0])
