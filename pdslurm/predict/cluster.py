"""Instances, links and requests in; when each request got its tokens, and what each instance counted, out.

`simulate` is the one function; everything else here is a value."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from pdslurm.predict.cost import StepCost
from pdslurm.predict.engine import EngineSpec, KvPull

Segment = tuple[Hashable, int]  # a piece of text by its name, and how many of its first tokens are meant
Event = tuple[float, str, str, object]  # time in s, who (an instance, or "client"), what, and details


@dataclass(frozen=True)
class Request:
    """One request. Its prompt is a sequence of segments: two prompts share tokens where their segments have the same names."""

    id: int
    segments: tuple[Segment, ...]
    output_tokens: int
    arrival_s: float = 0.0  # sent then or, where max_concurrency or `after` hold it back, later
    session: Hashable = None  # what consistent_hash looks at
    after: int | None = None  # id of the request whose answer has to be complete before this one is sent
    think_s: float = 0.0  # between that answer's end and this request

    @property
    def prompt_tokens(self) -> int:
        return sum(length for _, length in self.segments)

    @property
    def answer(self) -> Segment:
        """The answer as a segment, for the prompt of a later turn."""
        return ("answer", self.id), self.output_tokens


@dataclass(frozen=True)
class Served:
    """What the client sees of one request. Times are in seconds from the simulation's start."""

    id: int
    start_s: float
    token_times_s: tuple[float, ...]  # one for each output token
    prompt_tokens: int
    instances: tuple[str, ...]  # where it ran: one name, or prefill and decode

    @property
    def ttft_s(self) -> float:
        return self.token_times_s[0] - self.start_s

    @property
    def itls_s(self) -> tuple[float, ...]:
        """Gaps between tokens; one fewer than output tokens."""
        return tuple(b - a for a, b in zip(self.token_times_s, self.token_times_s[1:], strict=False))

    @property
    def end_s(self) -> float:
        return self.token_times_s[-1]


@dataclass(frozen=True)
class InstanceSpec:
    """One `vllm serve`. Links are named as in ClusterSpec.links; instances with the same name share one."""

    name: str
    role: str  # both, prefill or decode
    cost: StepCost
    engine: EngineSpec  # of each data-parallel rank
    data_parallel: int = 1
    lock_step: bool = False  # ranks step together, as those of an MoE model do
    group: int = 0
    node: int = 0
    local_link: str = ""  # what KV crosses between two instances on one node
    network_link: str = ""  # what KV crosses between nodes
    pull: KvPull | None = None  # decode instances have one


@dataclass(frozen=True)
class ClusterSpec:
    """Instances behind vllm-router. With several groups of prefill and decode instances, one router picks the group first."""

    instances: tuple[InstanceSpec, ...]
    links: Mapping[str, float] = field(default_factory=dict)  # bytes/s in each direction
    policy: str = "round_robin"  # random, consistent_hash, power_of_two, cache_aware
    prefill_policy: str | None = None  # None: as `policy`
    decode_policy: str | None = None
    server_s: float = 0.0225  # client, router and API server before the scheduler, at each instance that a request visits
    handoff_s: float = 0.0  # from the prefill instance's answer to the decode instance's API server
    transfer_s: float = 0.0  # of each transfer, whatever its size


@dataclass
class Counters:
    """What /metrics of one instance adds up; names as in pdslurm/measure/telemetry.py. Times are sums over requests."""

    requests: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    queue_time_s: float = 0.0
    prefill_time_s: float = 0.0
    decode_time_s: float = 0.0
    ttft_s: float = 0.0
    e2e_s: float = 0.0
    nixl_bytes: float = 0.0
    nixl_transfers: int = 0
    nixl_transfer_time_s: float = 0.0
    nixl_post_time_s: float = 0.0
    nixl_descriptors: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    steps: int = 0  # of all ranks; no counter of vLLM
    busy_s: float = 0.0  # time in steps, all ranks together; no counter of vLLM


@dataclass(frozen=True)
class Outcome:
    """`served` is in the order of the requests that were sent; `counters` by instance name."""

    served: tuple[Served, ...]
    counters: Mapping[str, Counters]


def simulate(
    spec: ClusterSpec,
    requests: Sequence[Request],
    *,
    max_concurrency: int | None = None,
    send_until_s: float | None = None,
    seed: int = 0,
    log: list[Event] | None = None,
) -> Outcome:
    """Runs all requests to their end. `max_concurrency` bounds the requests in flight, and the next one in `requests` is sent when
    one ends; none is sent from `send_until_s` on. The same arguments give the same outcome. `log` is appended to where it is given.
    Raises ConfigError for a policy that is not modelled, and for a request that no instance can ever hold."""
    raise NotImplementedError
