"""From the ports that a run wants to those that it may use: nobody listens on them, and no other run has reserved them."""

from __future__ import annotations

import socket
from collections.abc import Iterable


class ReservedPorts:
    """Ports that this run speaks for. An engine listens half a minute after its port was found free; until then another run must
    pass it over. The claim is an abstract Unix socket by the port's name: it has the scope of a port, the network namespace, and
    the kernel drops it when the process ends, however it ends. As a context manager it lets all go at the end."""

    def __init__(self) -> None:
        self.claims: dict[int, socket.socket] = {}

    def __enter__(self) -> ReservedPorts:
        return self

    def __exit__(self, *_: object) -> None:
        for claim in self.claims.values():
            claim.close()
        self.claims.clear()

    def reserve_free(self, wanted: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
        """Those of `wanted` (address, port) that are not ours to have; the others are reserved."""
        return {(host, port) for host, port in wanted if not self.reserve(host, port)}

    def reserve(self, host: str, port: int) -> bool:
        """Whether the port is free and ours from now on."""
        if not is_free(host, port):
            return False
        if port not in self.claims:
            claim = socket.socket(socket.AF_UNIX)
            try:
                claim.bind(f"\0pdslurm-port-{port}")
            except OSError:
                claim.close()
                return False
            self.claims[port] = claim
        return True


def is_free(host: str, port: int) -> bool:
    """Whether this machine could listen there now."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            return False
        return True
