"""From engines' logs to the transports that KV moved over, and to the reasons why a point must not be used. Pure.

UCX names a connection's lanes at UCX_LOG_LEVEL=info, but not which of them carries what: between two processes of one machine it
says `rma_am(tcp/lo)` while every byte goes by cma. UCX_PROTO_INFO prints the choice itself, a small table for each kind of
connection and memory when its first transfer is set up, and nothing afterwards. libfabric says which fabric it opened."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

INTER = "inter-node"  # UCX's word for a connection between nodes; within one it is intra-node
KV_BYTES = 1024  # no KV block is smaller; UCX's table may name other lanes for less

KINDS = (  # the first pattern that a lane begins with says its kind
    ("tcp", r"tcp/"),
    ("efa", r"srd/|\w+/(rdmap|efa)"),
    ("rdma", r"(rc|dc|ud|gga)(_\w+)?/"),
    ("shm", r"(cma|knem|xpmem|posix|sysv|mm|self|shm|(cuda|rocm|ze)_ipc)/"),
    ("copy", r"(\w+_copy|gdr\w*|ze_\w+)/"),  # between a GPU and its host: a part of the way
)
FABRICS = (  # libfabric's names of fabrics; those of tcp and sockets are networks
    ("efa", r"efa"),
    ("rdma", r"cxi|IB-|psm|opx"),
    ("shm", r"shm"),
    ("tcp", r"\d+\.\d+\.\d+\.\d+/|[0-9a-fA-F:]+/\d+"),
)

_UCX = re.compile(r"\[\d+\.\d+\] (\[[^\]]+:\d+\s*:\d+\])\s+(\|.*\||\+[-+]+\+)\s*$")
_PEER = re.compile(r"\b(intra-node|inter-node|self) cfg#\d+")
_RANGE = re.compile(r"\d+\w?(?:\.\.(inf|\d+)([KMG]?))?$")
_LANE = re.compile(r"\b[a-z]\w*/[\w.:-]+")
_FABRIC = re.compile(r"^libfabric:\d+:.*\bOpened fabric: (\S+)")


@dataclass(frozen=True)
class KvPath:
    """One way that data took: `lanes` as UCX writes them (tcp/eth0, rc_mlx5/mlx5_0:1), or libfabric/NAME; `how` in UCX's words
    (zero-copy, software emulation); `peer` is intra-node or inter-node, None where the log does not say."""

    peer: str | None
    lanes: tuple[str, ...]
    how: str

    @property
    def kinds(self) -> frozenset[str]:
        """tcp, rdma, efa, shm, or the name of a transport that is not known here."""
        found = frozenset(kind(lane) for lane in self.lanes)
        return found - {"copy"} or found


def kind(lane: str) -> str:
    """`rc_mlx5/mlx5_0:1` → rdma."""
    name = lane.removeprefix("libfabric/")
    table = KINDS if name == lane else FABRICS
    return next((kind for kind, pattern in table if re.match(pattern, name)), name.partition("/")[0])


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


def as_json(found: Mapping[str, Sequence[KvPath]]) -> dict[str, Any]:
    """For the record of a point, from what the log of each engine that fetches KV told: all kinds, and each engine's ways. None
    is unknown; `kinds` is as soon as one engine's are."""
    engines = {name: [asdict(way) for way in ways] or None for name, ways in found.items()}
    kinds = sorted({kind for ways in found.values() for way in ways for kind in way.kinds})
    return {"kinds": kinds if kinds and all(engines.values()) else None, "engines": engines}


def mismatches(found: Mapping[str, Sequence[KvPath]], demanded: str) -> Iterator[str]:
    """Why KV did not move as asked. Within a node memory is as good as what is asked for between nodes."""
    if demanded == "any":
        return
    for name, ways in found.items():
        if not ways:
            yield f"cluster.network.transport={demanded}: the log of {name} does not tell what it fetched KV over"
        elif wrong := dict.fromkeys(lane for way in ways for lane in _wrong(way, demanded)):
            yield f"cluster.network.transport={demanded}: {name} fetched KV over {', '.join(wrong)}"


def _wrong(way: KvPath, demanded: str) -> list[str]:
    """The lanes that should not be there."""
    allowed = {demanded} if way.peer == INTER else {demanded, "shm"}
    if way.kinds <= allowed:
        return []
    return [lane for lane in way.lanes if kind(lane) not in allowed | {"copy"}] or list(way.lanes)
