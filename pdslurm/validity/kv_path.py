"""From the ways that an engine fetched KV over to the kinds of transport they are, and to the reasons why a point must not be used.
Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

INTER = "inter-node"  # UCX's word for a connection between nodes; within one it is intra-node

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


def as_json(found: Mapping[str, Sequence[KvPath]]) -> dict[str, Any]:
    """For the record of a point, from what the log of each engine that fetches KV told: all kinds, and each engine's ways. None
    is unknown; `kinds` is as soon as one engine's are."""
    engines = {name: [asdict(way) for way in ways] or None for name, ways in found.items()}
    kinds = sorted({kind for ways in found.values() for way in ways for kind in way.kinds})
    return {"kinds": kinds if kinds and all(engines.values()) else None, "engines": engines}


def from_json(told: Mapping[str, Any] | None) -> dict[str, tuple[KvPath, ...]]:
    """The ways of each engine, from what as_json wrote; {} for None."""
    engines = (told or {}).get("engines") or {}
    return {
        name: tuple(KvPath(way["peer"], tuple(way["lanes"]), way["how"]) for way in ways or ()) for name, ways in engines.items()
    }


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
