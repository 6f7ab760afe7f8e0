"""From engines' logs to the ways that KV moved over. Pure.

UCX names a connection's lanes at UCX_LOG_LEVEL=info, but not which of them carries what: between two processes of one machine it
says `rma_am(tcp/lo)` while every byte goes by cma. UCX_PROTO_INFO prints the choice itself, a small table for each kind of
connection and memory when its first transfer is set up, and nothing afterwards. libfabric says which fabric it opened."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pdslurm.validity.kv_path import KvPath

KV_BYTES = 1024  # no KV block is smaller; UCX's table may name other lanes for less

_UCX = re.compile(r"\[\d+\.\d+\] (\[[^\]]+:\d+\s*:\d+\])\s+(\|.*\||\+[-+]+\+)\s*$")
_PEER = re.compile(r"\b(intra-node|inter-node|self) cfg#\d+")
_RANGE = re.compile(r"\d+\w?(?:\.\.(inf|\d+)([KMG]?))?$")
_LANE = re.compile(r"\b[a-z]\w*/[\w.:-]+")
_FABRIC = re.compile(r"^libfabric:\d+:.*\bOpened fabric: (\S+)")


def kv_paths(log: Iterable[str]) -> tuple[KvPath, ...]:
    """What the lines of one log tell, each once. Several processes write to it, so a table is followed by who writes it."""
    tables: dict[str, _Table] = {}
    found: dict[KvPath, None] = {}
    for line in log:
        if match := _UCX.search(line):
            row = tables.setdefault(match[1], _Table()).take(match[2])
        elif match := _FABRIC.search(line):
            row = KvPath(None, (f"libfabric/{match[1]}",), "opened")
        else:
            continue
        if row:
            found[row] = None
    return tuple(found)


class _Table:
    """Reads one process's tables row by row. UCX 1.23 has a row each for peer and operation, older versions one with two cells."""

    def __init__(self) -> None:
        self.peer: str | None = None
        self.reads = False

    def take(self, text: str) -> KvPath | None:
        cells = [cell.strip() for cell in text.strip("|").split("|")]
        if peer := _PEER.search(cells[0]):
            self.peer, self.reads = peer[1], False
        if any("by ucp_" in cell for cell in cells):
            self.reads = "ucp_get" in cells[-1]
        if not self.reads or self.peer in (None, "self") or len(cells) < 3:
            return None
        *_, size, how, config = cells
        lanes = tuple(dict.fromkeys(re.sub(r"/path\d+$", "", lane) for lane in _LANE.findall(config)))
        return KvPath(self.peer, lanes, how) if lanes and _largest(size) >= KV_BYTES else None


def _largest(size: str) -> float:
    """The upper end in bytes of `0..2K`, `65..inf` or `7`; -1 for what is no range."""
    match = _RANGE.match(size)
    if not match:
        return -1
    if match[1] is None:
        return float(size) if size.isdigit() else -1
    return float(match[1]) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[match[2]]
