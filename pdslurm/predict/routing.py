"""A request and the loads of some workers in; which of them vllm-router would choose out."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from random import Random

POLICIES = ("round_robin", "random", "consistent_hash", "power_of_two", "cache_aware")
# Defaults of vllm-router 0.1.17: --cache-threshold, --balance-abs-threshold, --balance-rel-threshold
CACHE_SHARE, UNBALANCED_BY, UNBALANCED_RATIO = 0.3, 64, 1.5

Segments = Sequence[tuple[Hashable, int]]


class Policy:
    """One policy over `count` workers, with what it remembers. `loads` are the requests that each worker has."""

    def __init__(self, name: str, count: int, random: Random) -> None:
        self.name, self.count, self.random = name, count, random
        self.turn = -1
        self.sent: list[dict[Hashable, int]] = [{} for _ in range(count)]  # prompts' beginnings → tokens of the next segment
        self.sent_tokens = [0] * count

    def choose(self, segments: Segments, session: Hashable, loads: Sequence[int]) -> int:
        if self.count == 1:
            return 0
        if self.name == "random":
            return self.random.randrange(self.count)
        if self.name == "consistent_hash":
            return max(range(self.count), key=lambda worker: _weight(session, worker))
        if self.name == "power_of_two":
            first, second = self.random.sample(range(self.count), 2)
            return second if loads[second] < loads[first] else first
        if self.name == "cache_aware":
            return self._cache_aware(segments, loads)
        self.turn = (self.turn + 1) % self.count
        return self.turn

    def _cache_aware(self, segments: Segments, loads: Sequence[int]) -> int:
        """The router keeps a tree of the texts that it sent to each worker. Here segments stand for characters, and nothing is ever
        dropped from the tree."""
        most, least = max(loads), min(loads)
        common = [self._common(segments, worker) for worker in range(self.count)]
        best = max(range(self.count), key=lambda worker: common[worker])
        if most - least > UNBALANCED_BY and most > UNBALANCED_RATIO * least:
            chosen = min(range(self.count), key=lambda worker: loads[worker])
        elif common[best] > CACHE_SHARE * sum(length for _, length in segments):
            chosen = best
        else:
            chosen = min(range(self.count), key=lambda worker: self.sent_tokens[worker])
        self._remember(segments, chosen, common[chosen])
        return chosen

    def _common(self, segments: Segments, worker: int) -> int:
        """Tokens at the prompt's beginning that were sent to the worker before."""
        before: tuple[object, ...] = ()
        tokens = 0
        for name, length in segments:
            known = min(self.sent[worker].get((before, name), 0), length)
            tokens += known
            if known < length:
                break
            before = (*before, (name, length))
        return tokens

    def _remember(self, segments: Segments, worker: int, common: int) -> None:
        before: tuple[object, ...] = ()
        for name, length in segments:
            key = before, name
            self.sent[worker][key] = max(self.sent[worker].get(key, 0), length)
            before = (*before, (name, length))
        self.sent_tokens[worker] += sum(length for _, length in segments) - common


def _weight(session: Hashable, worker: int) -> bytes:
    """The worker with the largest one gets the session (rendezvous hashing), where the router has a ring of hashes."""
    return hashlib.blake2b(f"{session!r}/{worker}".encode(), digest_size=8).digest()
