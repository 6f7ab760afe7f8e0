"""Which of a node's addresses is chosen, over tables of interfaces, and what is said where none fits."""

from __future__ import annotations

import pytest

from pdslurm.errors import PreflightError
from pdslurm.node.network import address_towards, addresses, choose_host

NODE = [
    ("lo", "127.0.0.1"),
    ("docker0", "172.17.0.1"),
    ("eth0", "10.78.0.2"),
    ("ib0", "10.79.0.2"),
    ("ib0", "10.80.0.2"),
    ("ib1", "10.81.0.2"),
]


@pytest.mark.parametrize(
    ("interface", "cidr", "reached_by", "expected"),
    [
        pytest.param(None, None, "10.78.0.2", ("10.78.0.2", "eth0"), id="the one that leads to the driver"),
        pytest.param(None, None, "127.0.0.1", ("127.0.0.1", "lo"), id="a job of one node"),
        pytest.param("ib0", None, "10.78.0.2", ("10.79.0.2", "ib0"), id="by interface, its first"),
        pytest.param(None, "10.79.0.0/24", "10.78.0.2", ("10.79.0.2", "ib0"), id="by network"),
        pytest.param(None, "10.80.0.99/16", "10.78.0.2", ("10.80.0.2", "ib0"), id="by a network with host bits"),
        pytest.param("ib0", "10.80.0.0/16", "10.78.0.2", ("10.80.0.2", "ib0"), id="by both"),
        pytest.param(None, "10.0.0.0/8", "10.81.0.2", ("10.78.0.2", "eth0"), id="the kernel's order in a wide network"),
    ],
)
def test_choose(interface: str | None, cidr: str | None, reached_by: str, expected: tuple[str, str]) -> None:
    host = choose_host(interface, cidr, reached_by, NODE, node="n2")
    assert (host.name, host.address, host.interface) == ("n2", *expected)


@pytest.mark.parametrize(
    ("interface", "cidr", "asked"),
    [
        pytest.param("ib7", None, "cluster.network.interface=ib7", id="no such interface"),
        pytest.param(None, "192.168.0.0/24", "cluster.network.cidr=192.168.0.0/24", id="no such network"),
        pytest.param(
            "eth0", "10.79.0.0/24", "cluster.network.interface=eth0, cluster.network.cidr=10.79.0.0/24", id="not together"
        ),
        pytest.param(None, None, "the address 10.9.9.9", id="an address that is not here: behind NAT"),
    ],
)
def test_nothing_fits(interface: str | None, cidr: str | None, asked: str) -> None:
    with pytest.raises(PreflightError) as caught:
        choose_host(interface, cidr, "10.9.9.9", NODE[:3] + NODE[3:4], node="n2")
    there = "lo 127.0.0.1, docker0 172.17.0.1, eth0 10.78.0.2, ib0 10.79.0.2"
    assert list(caught.value.findings) == [f"{asked}: nothing on n2 fits; it has {there}"]


def test_a_node_without_addresses() -> None:
    with pytest.raises(PreflightError, match="it has no IPv4 address at all"):
        choose_host(None, None, "10.9.9.9", [], node="n2")


def test_this_machine() -> None:
    assert ("lo", "127.0.0.1") in addresses()
    assert address_towards("127.0.0.1") == "127.0.0.1"
