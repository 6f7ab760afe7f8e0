"""Requests for one instance in; its steps in time, and when its requests get their tokens, out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pdslurm.errors import PointFailed
from pdslurm.predict.clock import Clock
from pdslurm.predict.cost import Batch, StepCost
from pdslurm.predict.engine import Engine, EngineSpec, Job, KvPull, Step

FRUITLESS = 20_000  # steps in a row without a token: more than the chunks of any prompt


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


@dataclass(slots=True, eq=False)
class Posted:
    """A prompt's KV that a rank of an instance fetches for a job."""

    instance: Instance
    rank: int
    job: Job
    size: float  # bytes
    start_s: float
    end_s: float | None = None  # of the transfer


@dataclass(frozen=True)
class Listener:
    """Who is told of what happens in an instance."""

    token: Callable[[Instance, Job], None]
    end: Callable[[Instance, Job, int], None]  # a job's last token, with the job's rank
    posted: Callable[[Posted], None]  # its transfer can begin


class Instance:
    """One `vllm serve`: its data-parallel ranks, in one loop where they step together, else in a loop each."""

    def __init__(self, spec: InstanceSpec, clock: Clock, tell: Listener) -> None:
        self.spec, self.clock, self.tell = spec, clock, tell
        self.counters = Counters()
        self.in_flight = 0  # requests that the router has sent and not got back
        defers_frees = spec.pull is not None and spec.engine.async_scheduling
        self.engines = [Engine(spec.engine, defers_frees=defers_frees) for _ in range(spec.data_parallel)]
        self.promised = [0] * spec.data_parallel  # requests that the API server has, and the rank not yet
        if spec.lock_step:
            self.loops = [_Loop(self, range(spec.data_parallel))] * spec.data_parallel
        else:
            self.loops = [_Loop(self, range(rank, rank + 1)) for rank in range(spec.data_parallel)]

    def ask(self, job: Job, server_s: float) -> None:
        """A request comes to the API server, and after `server_s` to a rank. The API server chooses it as vLLM does
        (v1/engine/core_client.py `get_core_engine_for_request`), but knows the ranks' loads at once, not up to 0.1 s later."""
        job.arrived_s = self.clock.now_s
        loads = [engine.load for engine in self.engines]
        scores = [4 * (waiting + more) + running for (waiting, running), more in zip(loads, self.promised, strict=True)]
        rank = scores.index(min(scores))
        self.promised[rank] += 1
        self.clock.at(self.clock.now_s + server_s, partial(self._take, job, rank))

    def _take(self, job: Job, rank: int) -> None:
        self.promised[rank] -= 1
        self.engines[rank].inbox.append(job)
        self.loops[rank].wake()

    def fetched(self, posted: Posted) -> None:
        """A transfer has ended."""
        posted.end_s = self.clock.now_s
        self.loops[posted.rank].arrived.append(posted)
        self.loops[posted.rank].wake()

    def release(self, job: Job, rank: int) -> None:
        """Another instance has fetched the KV of a job that holds its blocks."""
        self.engines[rank].release(job)
        self.loops[rank].wake()

    def total(self) -> Counters:
        self.counters.preemptions = sum(engine.preemptions for engine in self.engines)
        self.counters.prefix_cache_queries = sum(engine.cache_queries for engine in self.engines)
        self.counters.prefix_cache_hits = sum(engine.cache_hits for engine in self.engines)
        return self.counters


class _Loop:
    """The loop of an engine core, or of several in lock step. With asynchronous scheduling two steps are under way: one that runs,
    and one that is decided when the first one starts, so that a request that comes in between runs in the third (vLLM 0.24,
    v1/engine/core.py `step_with_batch_queue`)."""

    def __init__(self, instance: Instance, ranks: range) -> None:
        self.instance, self.ranks, self.clock = instance, ranks, instance.clock
        self.depth = 2 if instance.spec.engine.async_scheduling else 1
        self.under_way: deque[tuple[list[Step], list[float]]] = deque()  # with the time at which each rank has launched its step
        self.free_s = 0.0  # when the last step under way ends
        self.is_called = False
        self.fruitless = 0  # steps since the last one that gave a token
        self.arrived: list[Posted] = []  # transfers that have ended, and the engine does not know it yet

    def wake(self) -> None:
        """A loop that waits for a step's end looks at nothing else. All that comes at this moment is there before it looks."""
        if not self.under_way and not self.is_called:
            self.is_called = True
            self.clock.at(self.clock.now_s, self._called)

    def _called(self) -> None:
        self.is_called = False
        if not self.under_way:
            self._fill()

    def _fill(self) -> None:
        """Decides and launches steps, until as many are under way as can be or there is nothing to do."""
        while len(self.under_way) < self.depth:
            steps = [self.instance.engines[rank].schedule(self.clock.now_s) for rank in self.ranks]
            if self.clock.log is not None:
                self._note(steps)
            if any(step.scheduled or step.postings for step in steps):
                self._launch(steps)
            elif self.under_way or not (any(step.preempted for step in steps) or self._learn(self.clock.now_s, self.ranks)):
                return

    def _launch(self, steps: list[Step]) -> None:
        now_s, counters, cost = self.clock.now_s, self.instance.counters, self.instance.spec.cost
        group = sum(step.batch.tokens for step in steps) if len(steps) > 1 else 0
        longest, launches = 0.0, []
        for rank, step in zip(self.ranks, steps, strict=True):
            post_s, batch = self._post(rank, step), step.batch
            if group:  # an idle rank makes vLLM's dummy pass
                batch = replace(batch if batch.requests else Batch(decodes=1, decode_context=1), group_tokens=group)
            launches.append(now_s + post_s)
            longest = max(longest, post_s + (cost.step_s(batch) if batch.requests else 0.0))
        self.under_way.append((steps, launches))
        self.free_s = max(self.free_s, now_s) + longest
        counters.steps += 1
        counters.busy_s += longest
        self.clock.at(self.free_s, self._end)

    def _post(self, rank: int, step: Step) -> float:
        """Posts the transfers of a step one after the other, and returns the seconds that this takes. NIXL posts when the step is
        launched, and the step is as much longer: on H100 a posting delayed the tokens by its whole time less 1 to 2 ms."""
        instance, pull, counters, post_s = self.instance, self.instance.spec.pull, self.instance.counters, 0.0
        for job, blocks in step.postings:
            assert pull is not None
            descriptors, size = blocks * pull.descriptors_per_block, blocks * instance.spec.engine.block_size * pull.bytes_per_token
            posted = Posted(instance, rank, job, size, self.clock.now_s + post_s)
            post_s += descriptors * pull.descriptor_s
            counters.nixl_descriptors += descriptors * pull.ranks
            counters.nixl_post_time_s += descriptors * pull.descriptor_s * pull.ranks
            self.clock.at(self.clock.now_s + post_s + pull.transfer_s, partial(instance.tell.posted, posted))
        return post_s

    def _end(self) -> None:
        """The first of the steps under way has ended."""
        instance, (steps, launches) = self.instance, self.under_way.popleft()
        self.fruitless = 0 if any(step.sampled for step in steps) else self.fruitless + 1
        if self.fruitless > FRUITLESS:
            name = instance.spec.name
            raise PointFailed(
                f"{name} preempts requests again and again before it has computed their tokens; give it more KV blocks"
            )
        for rank, step, launch_s in zip(self.ranks, steps, launches, strict=True):
            ended = instance.engines[rank].complete(step, self.clock.now_s)
            for job in step.sampled:
                instance.tell.token(instance, job)
            for job in ended:
                self._count(job)
                instance.tell.end(instance, job, rank)
            self._learn(launch_s, range(rank, rank + 1))
        self._fill()

    def _learn(self, looked_s: float, ranks: range) -> bool:
        """Whether engines hear of transfers that have ended. A rank looks for them when it launches a step, and its engine hears of
        them when that step ends; a loop without a step under way hears of them at once."""
        heard = [each for each in self.arrived if each.rank in ranks and each.end_s is not None and each.end_s <= looked_s]
        pull, counters = self.instance.spec.pull, self.instance.counters
        for posted in heard:
            assert pull is not None
            self.arrived.remove(posted)
            self.instance.engines[posted.rank].has_arrived(posted.job)
            counters.nixl_transfers += pull.ranks
            counters.nixl_bytes += posted.size
            counters.nixl_transfer_time_s += (looked_s - posted.start_s) * pull.ranks
        return bool(heard)

    def _count(self, job: Job) -> None:
        counters, scheduled_s = self.instance.counters, job.scheduled_s
        assert scheduled_s is not None
        counters.requests += 1
        counters.prompt_tokens += job.prompt
        counters.generation_tokens += job.output
        counters.queue_time_s += scheduled_s - job.queued_s
        counters.prefill_time_s += job.first_s - scheduled_s
        counters.decode_time_s += job.last_s - job.first_s
        counters.ttft_s += job.first_s - job.arrived_s
        counters.e2e_s += job.last_s - job.arrived_s

    def _note(self, steps: Sequence[Step]) -> None:
        name, several = self.instance.spec.name, len(self.instance.engines) > 1
        for rank, step in zip(self.ranks, steps, strict=True):
            who = f"{name}/{rank}" if several else name
            for job in step.preempted:
                self.clock.note(who, "preempt", job.id)
            for job, blocks in step.postings:
                self.clock.note(who, "post", (job.id, blocks))
            if step.scheduled:
                self.clock.note(who, "step", tuple((job.id, new) for job, new in step.scheduled))
