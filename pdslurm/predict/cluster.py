"""Instances, links and requests in; when each request got its tokens, and what each instance counted, out.

`simulate` is the one function; what it is given and what it returns are values."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from pdslurm.errors import ConfigError
from pdslurm.predict.clock import Clock, Event
from pdslurm.predict.engine import EngineSpec, Job, KvPull
from pdslurm.predict.instance import Counters, Instance, InstanceSpec, Listener, Posted
from pdslurm.predict.links import Links
from pdslurm.predict.routing import POLICIES, Policy

__all__ = [
    "ClusterSpec", "Counters", "EngineSpec", "Event", "InstanceSpec", "KvPull", "Outcome", "Request", "Segment", "Served",
    "simulate",
]  # fmt: skip

Segment = tuple[Hashable, int]  # a piece of text by its name, and how many of its first tokens are meant


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
class ClusterSpec:
    """Instances behind vllm-router. With several groups of prefill and decode instances, one router picks the group first."""

    instances: tuple[InstanceSpec, ...]
    links: Mapping[str, float] = field(default_factory=dict)  # bytes/s in each direction
    policy: str = "round_robin"  # random, consistent_hash, power_of_two, cache_aware
    prefill_policy: str | None = None  # None: as `policy`
    decode_policy: str | None = None
    server_s: float = 0.012  # client, router and API server before the scheduler, at each instance that a request visits
    handoff_s: float = 0.005  # from the prefill instance's answer to the decode instance's API server


@dataclass(frozen=True)
class Outcome:
    """`served` is in the order of `requests`, without those that were not sent; `counters` by instance name."""

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
    """Runs all requests to their end. `max_concurrency` bounds the requests in flight: one that has arrived waits at the client
    until another one ends. None is sent from `send_until_s` on. The same arguments give the same outcome. Events are appended
    to `log`. Raises ConfigError for a policy that is not modelled, a missing link, and a request that no instance can hold;
    PointFailed where requests are preempted for ever."""
    if problems := [*_problems(spec), *_request_problems(spec, requests)]:
        raise ConfigError(problems)
    run = _Simulation(spec, requests, max_concurrency=max_concurrency, send_until_s=send_until_s, seed=seed, log=log)
    run.clock.run()
    served = tuple(run.served[request.id] for request in requests if request.id in run.served)
    return Outcome(served, {each.spec.name: each.total() for each in run.instances})


class _Simulation:
    """The client, the router, and the KV on its way between instances."""

    def __init__(
        self,
        spec: ClusterSpec,
        requests: Sequence[Request],
        *,
        max_concurrency: int | None,
        send_until_s: float | None,
        seed: int,
        log: list[Event] | None,
    ) -> None:
        self.spec, self.max_concurrency, self.send_until_s = spec, max_concurrency, send_until_s
        self.clock, self.links = Clock(log), Links[Posted](spec.links)
        self.instances = [Instance(each, self.clock, Listener(self.token, self.ended, self.posted)) for each in spec.instances]
        self.router = _Router(spec, self.instances, random.Random(seed))
        self.held: deque[Request] = deque()  # have arrived, and max_concurrency holds them back
        self.in_flight: dict[int, _InFlight] = {}
        self.served: dict[int, Served] = {}
        self.followers: dict[int, list[Request]] = defaultdict(list)
        self.known_blocks: dict[Hashable, int] = {}
        self.links_change = 0
        for request in requests:
            if request.after is None:
                self.clock.at(request.arrival_s, partial(self.arrive, request))
            else:
                self.followers[request.after].append(request)

    def arrive(self, request: Request) -> None:
        self.held.append(request)
        self.send()

    def send(self) -> None:
        """Sends what has arrived, as far as max_concurrency allows."""
        while self.held and (self.max_concurrency is None or len(self.in_flight) < self.max_concurrency):
            request = self.held.popleft()
            if self.send_until_s is not None and self.clock.now_s >= self.send_until_s:
                continue
            self.clock.note("client", "send", request.id)
            prefill, target = self.router.choose(request)
            sent = self.in_flight[request.id] = _InFlight(request, self.clock.now_s, prefill, target)
            target.in_flight += 1
            if prefill is None:
                self.ask(target, sent, Job(request.id, request.prompt_tokens, request.output_tokens))
            else:
                prefill.in_flight += 1
                self.ask(prefill, sent, Job(request.id, request.prompt_tokens, 1, holds_blocks=True))

    def ask(self, instance: Instance, sent: _InFlight, job: Job) -> None:
        if instance.spec.engine.enable_prefix_caching:
            segments = (*sent.request.segments, sent.request.answer)
            job.keys = block_keys(segments, instance.spec.engine.block_size, self.known_blocks)
        instance.ask(job, self.spec.server_s)

    def token(self, instance: Instance, job: Job) -> None:
        sent = self.in_flight[job.id]
        if instance is sent.target:
            sent.token_times_s.append(self.clock.now_s)

    def ended(self, instance: Instance, job: Job, rank: int) -> None:
        """An instance's answer is complete. After a prefill instance the decode instance is asked, else the client has it."""
        sent, request = self.in_flight[job.id], self.in_flight[job.id].request
        instance.in_flight -= 1
        if instance is not sent.target:
            sent.source, sent.source_rank = job, rank
            remote = Job(request.id, request.prompt_tokens, request.output_tokens, is_remote=True)
            self.clock.at(self.clock.now_s + self.spec.handoff_s, partial(self.ask, sent.target, sent, remote))
            return
        self.clock.note("client", "end", request.id)
        del self.in_flight[request.id]
        names = tuple(each.spec.name for each in (sent.prefill, sent.target) if each)
        self.served[request.id] = Served(request.id, sent.start_s, tuple(sent.token_times_s), request.prompt_tokens, names)
        for follower in self.followers[request.id]:
            self.clock.at(max(self.clock.now_s + follower.think_s, follower.arrival_s), partial(self.arrive, follower))
        self.send()

    def posted(self, posted: Posted) -> None:
        """KV begins to move from the prefill instance."""
        prefill = self.in_flight[posted.job.id].prefill
        assert prefill is not None
        self.links.start(posted, posted.size, *_ends(prefill.spec, posted.instance.spec), now_s=self.clock.now_s)
        self.watch_links()

    def watch_links(self) -> None:
        """Looks again when the next transfer ends; a look from before the last change of the links is void."""
        self.links_change += 1
        if self.links.active:
            self.clock.at(max(self.links.next_end_s, self.clock.now_s), partial(self.look_at_links, self.links_change))

    def look_at_links(self, change: int) -> None:
        if change != self.links_change:
            return
        for posted in self.links.ended(self.clock.now_s):
            sent = self.in_flight[posted.job.id]
            assert sent.prefill is not None
            assert sent.source is not None
            self.clock.note(posted.instance.spec.name, "fetched", posted.job.id)
            sent.prefill.release(sent.source, sent.source_rank)
            posted.instance.fetched(posted)
        self.watch_links()


@dataclass(slots=True)
class _InFlight:
    """A request on its way: `target` gives the answer, `prefill` computes the prompt's KV for it."""

    request: Request
    start_s: float
    prefill: Instance | None
    target: Instance
    source: Job | None = None  # what keeps the prompt's KV in the prefill instance, on its rank `source_rank`
    source_rank: int = 0
    token_times_s: list[float] = field(default_factory=list)


class _Router:
    """vllm-router: one over plain instances; over prefill and decode instances one for each group, and one before them where there
    are several groups. A prefill and a decode instance are chosen together, when the request comes."""

    def __init__(self, spec: ClusterSpec, instances: Sequence[Instance], draw: random.Random) -> None:
        by_group: dict[int, list[Instance]] = defaultdict(list)
        for each in instances:
            by_group[each.spec.group if each.spec.role != "both" else 0].append(each)
        self.groups = list(by_group.values())
        self.front = Policy(spec.policy, len(self.groups), draw)
        self.workers = [
            [
                (members, Policy(policy or spec.policy, len(members), draw))
                for role, policy in (("prefill", spec.prefill_policy), ("decode", spec.decode_policy), ("both", None))
                if (members := [each for each in group if each.spec.role == role])
            ]
            for group in self.groups
        ]

    def choose(self, request: Request) -> tuple[Instance | None, Instance]:
        """The prefill instance, None without disaggregation; and the one that answers."""
        loads = [sum(each.in_flight for each in group) for group in self.groups]
        group = self.workers[self.front.choose(request.segments, request.session, loads)]
        chosen = [
            members[policy.choose(request.segments, request.session, [each.in_flight for each in members])]
            for members, policy in group
        ]
        return (chosen[0] if len(chosen) > 1 else None), chosen[-1]


def block_keys(segments: Sequence[Segment], block_size: int, known: dict[Hashable, int]) -> list[int]:
    """A number for each full block: the same where the block's tokens and all before them are the same. `known` numbers them."""
    keys, pieces, room, before = [], [], block_size, 0
    for name, length in segments:
        at = 0
        while at < length:
            part = min(length - at, room)
            pieces.append((name, at, part))
            at, room = at + part, room - part
            if not room:
                before = known.setdefault((before, tuple(pieces)), len(known) + 1)
                keys.append(before)
                pieces, room = [], block_size
    return keys


def _ends(source: InstanceSpec, target: InstanceSpec) -> tuple[str, str]:
    """The links that KV leaves by and enters by."""
    is_local = source.node == target.node
    return (source.local_link, target.local_link) if is_local else (source.network_link, target.network_link)


def _problems(spec: ClusterSpec) -> list[str]:
    problems = [
        f"policy={policy}: its choices are not modelled; use one of {', '.join(POLICIES)}"
        for policy in {spec.policy, spec.prefill_policy, spec.decode_policy} - {None, *POLICIES}
    ]
    prefill = [each for each in spec.instances if each.role == "prefill"]
    decode = [each for each in spec.instances if each.role == "decode"]
    problems += [f"{each.name}: a decode instance needs `pull`" for each in decode if each.pull is None]
    if {each.group for each in prefill} != {each.group for each in decode}:
        problems.append("each group needs prefill and decode instances")
    if len(prefill + decode) not in (0, len(spec.instances)) or not spec.instances:
        problems.append("instances: one or more are needed, and either none has the role both or all have")
    links = {link for p in prefill for d in decode if p.group == d.group for link in _ends(p, d)}
    known = ", ".join(spec.links) or "none"
    return problems + [
        f"link {link!r}: KV crosses it, and its speed is not known; known are {known}" for link in sorted(links - {*spec.links})
    ]


def _request_problems(spec: ClusterSpec, requests: Sequence[Request]) -> list[str]:
    """One line for the first request that an instance cannot serve: it would wait for ever."""
    if len({request.id for request in requests}) < len(requests):
        return ["two requests have the same id"]
    ids = {None, *(request.id for request in requests)}
    if lost := [request for request in requests if request.after not in ids]:
        return [f"request {lost[0].id}: follows request {lost[0].after}, which is not there"]
    for instance in spec.instances:
        engine = instance.engine
        for request in requests:
            if request.prompt_tokens < 1 or request.output_tokens < 1:
                return [f"request {request.id}: needs a prompt and an answer of a token or more"]
            output = 1 if instance.role == "prefill" else request.output_tokens
            needed, room = request.prompt_tokens + output - 1, engine.num_blocks * engine.block_size
            if needed > room:
                return [f"request {request.id}: {needed} tokens, and the KV blocks of {instance.name} hold {room}"]
            if not engine.enable_chunked_prefill and needed > engine.max_num_batched_tokens:
                limit = engine.max_num_batched_tokens
                return [
                    f"request {request.id}: {needed} tokens without chunked prefill; {instance.name} computes {limit} in a step"
                ]
    return []
