"""Transfers in; when each ends out, where those that leave one link or enter one link share it evenly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key")

DONE = 1e-9  # of a transfer's bytes: what rounding may leave over at its end


@dataclass(slots=True)
class _Transfer:
    whole: float  # bytes
    left: float
    source: str
    target: str
    rate: float = 0.0  # bytes/s


class Links(Generic[Key]):
    """Full-duplex links by name with their bytes/s in each direction. A transfer runs at the smaller of its two shares; what it
    leaves of the other share is not given to others."""

    def __init__(self, bytes_per_s: Mapping[str, float]) -> None:
        self.bytes_per_s = bytes_per_s
        self.active: dict[Key, _Transfer] = {}
        self.at_s = 0.0

    def start(self, key: Key, size: float, source: str, target: str, *, now_s: float) -> None:
        self._advance(now_s)
        self.active[key] = _Transfer(size, size, source, target)
        self._share()

    def ended(self, now_s: float) -> list[Key]:
        """The transfers that have ended by now; they are active no longer."""
        self._advance(now_s)
        done = [key for key, transfer in self.active.items() if transfer.left <= DONE * transfer.whole]
        for key in done:
            del self.active[key]
        self._share()
        return done

    @property
    def next_end_s(self) -> float:
        """Infinity where nothing is under way."""
        return min((self.at_s + max(t.left, 0.0) / t.rate for t in self.active.values()), default=math.inf)

    def _advance(self, now_s: float) -> None:
        for transfer in self.active.values():
            transfer.left -= transfer.rate * (now_s - self.at_s)
        self.at_s = now_s

    def _share(self) -> None:
        leaving = Counter(transfer.source for transfer in self.active.values())
        entering = Counter(transfer.target for transfer in self.active.values())
        for t in self.active.values():
            t.rate = min(self.bytes_per_s[t.source] / leaving[t.source], self.bytes_per_s[t.target] / entering[t.target])
