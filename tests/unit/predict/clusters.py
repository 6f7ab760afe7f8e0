"""Small clusters whose event logs can be computed by hand: a step takes a second, and nothing else takes time unless it is said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pdslurm.predict.cluster import ClusterSpec, EngineSpec, InstanceSpec, KvPull, Request
from pdslurm.predict.cost import Batch


@dataclass
class Cost:
    """`each_s` for a step, and `token_s` for each of its tokens; it remembers what it was asked for."""

    each_s: float = 1.0
    token_s: float = 0.0
    asked: list[Batch] = field(default_factory=list)

    def step_s(self, batch: Batch) -> float:
        self.asked.append(batch)
        return self.each_s + self.token_s * batch.tokens


def engine(**values: Any) -> EngineSpec:
    return EngineSpec(**{"num_blocks": 1000, "block_size": 4, "async_scheduling": False, **values})


def plain(count: int = 1, *, policy: str = "round_robin", cost: Cost | None = None, ranks: int = 1, **values: Any) -> ClusterSpec:
    """Instances a, b, c …; `values` are the engines'."""
    lock_step = values.pop("lock_step", False)
    instances = tuple(
        InstanceSpec("abcdefgh"[n], "both", cost or Cost(), engine(**values), data_parallel=ranks, lock_step=lock_step)
        for n in range(count)
    )
    return ClusterSpec(instances, policy=policy, server_s=0.0, handoff_s=0.0)


# A prompt of 8 tokens is 2 blocks: posting takes 0.5 s, and 8 bytes take 2 s where no other transfer shares the link.
PULL = KvPull(bytes_per_token=1.0, descriptors_per_block=1, descriptor_s=0.25)


def split(
    prefills: int = 1,
    decodes: int = 1,
    *,
    prefill: EngineSpec | None = None,
    decode: EngineSpec | None = None,
    pull: KvPull = PULL,
    groups: int = 1,
) -> ClusterSpec:
    """Instances p0, p1 … and d0, d1 …, each with a link of 4 bytes/s."""
    instances = []
    for group in range(groups):
        for n in range(prefills):
            name = f"p{group * prefills + n}"
            instances.append(InstanceSpec(name, "prefill", Cost(), prefill or engine(), group=group, local_link=name))
        for n in range(decodes):
            name = f"d{group * decodes + n}"
            instances.append(InstanceSpec(name, "decode", Cost(), decode or engine(), group=group, local_link=name, pull=pull))
    return ClusterSpec(tuple(instances), {each.name: 4.0 for each in instances}, server_s=0.0, handoff_s=0.0)


def requests(*given: tuple[float, int, int]) -> list[Request]:
    """From (arrival in s, prompt, output), each with a text of its own."""
    return [Request(n, ((f"text {n}", prompt),), output, arrival) for n, (arrival, prompt, output) in enumerate(given)]
