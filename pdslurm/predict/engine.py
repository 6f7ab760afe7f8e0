"""Requests in; what one vLLM V1 engine computes in each step, and which requests get a token at its end, out.

`Engine.schedule` decides as vLLM 0.24 does (v1/core/sched/scheduler.py `schedule`, v1/core/kv_cache_manager.py `allocate_slots`):
running requests first, then those whose KV has arrived, then the queue in its order. `Engine.complete` applies a step's end.
tests/integration/vllm_scheduler.py compares each step with what vLLM's scheduler decides; 0.24 and 0.32 decided the same."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from pdslurm.predict.cost import Batch


@dataclass(frozen=True)
class EngineSpec:
    """One engine core: one data-parallel rank of an instance. The names are those of vLLM's options."""

    num_blocks: int  # KV blocks that requests can use
    block_size: int = 16  # tokens
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 1024
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0  # 0: no limit but max_num_batched_tokens
    enable_prefix_caching: bool = False
    async_scheduling: bool = True  # a step is decided while the step before it runs, as vLLM does by default
    waits_for_frees: bool = False  # see Engine; no option of vLLM: 0.24 does not, 0.32 does


@dataclass(frozen=True)
class KvPull:
    """How a decode instance fetches the KV of a prompt."""

    bytes_per_token: float  # over all ranks
    descriptors_per_block: int  # each rank posts as many: 2 × layers, MLA 1 × layers
    descriptor_s: float  # each rank's loop stands still for so long for each descriptor
    transfer_s: float = 0.0  # of each transfer, whatever its size
    ranks: int = 1  # tensor-parallel ranks, which post and fetch side by side


@dataclass(slots=True, eq=False)
class Job:
    """A request within one engine. `produced` counts the output tokens that were scheduled, `delivered` those of steps that have
    ended. `keys` name the content of its full blocks, prompt first and answer after it, where prefixes are cached."""

    id: int
    prompt: int
    output: int
    keys: Sequence[Hashable] = ()
    is_remote: bool = False  # another instance computed the prompt's KV
    holds_blocks: bool = False  # its blocks stay after its end, until `Engine.release`
    computed: int = 0
    produced: int = 0
    delivered: int = 0
    blocks: list[int] = field(default_factory=list)
    named: int = 0  # of its blocks, whose content is known to the pool
    last_step: int = 0  # the engine's last step that computed any of it, counted from 1
    arrived_s: float = 0.0  # at the API server
    queued_s: float = 0.0  # when the engine's loop took it in
    scheduled_s: float | None = None
    first_s: float = 0.0
    last_s: float = 0.0

    @property
    def tokens(self) -> int:
        """The prompt and the output tokens so far, those in computation included."""
        return self.prompt + self.produced


EMPTY = Batch()


@dataclass(slots=True)
class Step:
    """What `schedule` decided. A posting fetches so many blocks for a job."""

    scheduled: list[tuple[Job, int]] = field(default_factory=list)  # with its new tokens
    sampled: list[Job] = field(default_factory=list)
    postings: list[tuple[Job, int]] = field(default_factory=list)
    preempted: list[Job] = field(default_factory=list)
    batch: Batch = EMPTY


class BlockPool:
    """Free blocks in the order in which they are taken: those without content that others could share come first, then the one that
    was given back longest ago (vLLM 0.24, v1/core/block_pool.py). A free block keeps its content until it is taken."""

    def __init__(self, count: int) -> None:
        self.free = OrderedDict.fromkeys(range(count))
        self.users = [0] * count
        self.by_key: dict[Hashable, dict[int, None]] = {}  # several blocks may have the same content
        self.key_of: dict[int, Hashable] = {}

    def hits(self, keys: Sequence[Hashable]) -> list[int]:
        """The blocks of the longest cached beginning of `keys`."""
        found = []
        for key in keys:
            if (blocks := self.by_key.get(key)) is None:
                break
            found.append(next(iter(blocks)))
        return found

    def take(self, count: int) -> list[int]:
        taken = [self.free.popitem(last=False)[0] for _ in range(count)]
        for block in taken:
            self.users[block] = 1
            if (key := self.key_of.pop(block, None)) is not None:
                del self.by_key[key][block]
                if not self.by_key[key]:
                    del self.by_key[key]
        return taken

    def share(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            self.users[block] += 1
            self.free.pop(block, None)

    def give_back(self, blocks: Sequence[int]) -> None:
        """The end of a sequence is given back first, so that its beginning stays cached for longer."""
        for block in reversed(blocks):
            self.users[block] -= 1
            if not self.users[block]:
                self.free[block] = None
                if block not in self.key_of:
                    self.free.move_to_end(block, last=False)

    def name(self, blocks: Sequence[int], keys: Sequence[Hashable]) -> None:
        """Makes the content of blocks known."""
        for block, key in zip(blocks, keys, strict=True):
            self.by_key.setdefault(key, {})[block] = None
            self.key_of[block] = key


class Engine:
    """The scheduler of one engine core with its KV blocks. Times come from outside.

    `defers_frees`: as vLLM does where it fetches KV and schedules asynchronously. The step under way may still write to the blocks
    of a preempted request, so that they are free only when it has ended. Until then vLLM 0.24 preempts one request after the other
    without making room, where newer versions (0.32) wait."""

    def __init__(self, spec: EngineSpec, *, defers_frees: bool = False) -> None:
        self.spec, self.defers_frees = spec, defers_frees
        self.begun = self.ended = 0  # steps
        self.deferred: deque[tuple[int, list[int]]] = deque()  # blocks that are free when so many steps have ended
        self.pool = BlockPool(spec.num_blocks)
        self.inbox: list[Job] = []  # arrived, and not yet taken in by the loop
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.loading: dict[Job, bool] = {}  # whose KV is on its way, in order; True: it is there, and the engine knows it
        self.arrivals_known = False  # whether any of them is True
        self.preemptions = self.cache_queries = self.cache_hits = 0

    @property
    def load(self) -> tuple[int, int]:
        """Requests that wait, and requests that run, as the API server counts them for its data-parallel ranks."""
        return len(self.inbox) + len(self.waiting) + len(self.loading), len(self.running)

    def schedule(self, now_s: float) -> Step:
        """Decides the next step, and counts its tokens as computed. The step is empty where nothing can be done."""
        for job in self.inbox:
            job.queued_s = now_s
        self.waiting.extend(self.inbox)
        self.inbox.clear()
        step = Step()
        budget = self._schedule_running(step)
        if not step.preempted and budget:
            self._schedule_waiting(step, budget)
        self._count(step, now_s)
        return step

    def complete(self, step: Step, now_s: float) -> list[Job]:
        """Every job of `step.sampled` gets its token; the jobs that ended with it are returned."""
        ended = []
        self.ended += bool(step.scheduled)
        while self.deferred and self.deferred[0][0] <= self.ended:
            self.pool.give_back(self.deferred.popleft()[1])
        for job in step.sampled:
            job.delivered += 1
            job.last_s = now_s
            self._name(job, job.computed + job.delivered - job.produced)
            if job.delivered == 1:
                job.first_s = now_s
            if job.delivered == job.output:
                ended.append(job)
        for job in ended:
            if job.computed:
                self.running.remove(job)
            else:  # it was preempted while its last token was computed
                self.waiting.remove(job)
            if not job.holds_blocks:
                self.release(job)
        return ended

    def release(self, job: Job) -> None:
        self.pool.give_back(job.blocks)
        job.blocks, job.named = [], 0

    def has_arrived(self, job: Job) -> None:
        """The engine learns that a job's remote KV is there."""
        self.loading[job] = self.arrivals_known = True

    def _schedule_running(self, step: Step) -> int:
        """Returns the tokens that are left of the budget."""
        spec, running, size = self.spec, self.running, self.spec.block_size
        budget, at = spec.max_num_batched_tokens, 0
        while at < len(running) and budget:
            job = running[at]
            at += 1
            if job.produced == job.output:  # its last token is being computed
                continue
            new = self._limited(job.prompt + job.produced - job.computed, budget)
            missing = -(-(job.computed + new) // size) - len(job.blocks)
            if missing > 0 and not self._make_room(job, missing, step):
                break
            if missing > 0:
                job.blocks += self.pool.take(missing)
            self._name(job, min(job.computed + new, job.prompt + job.delivered))
            step.scheduled.append((job, new))
            budget -= new
        return budget

    def _make_room(self, job: Job, missing: int, step: Step) -> bool:
        """Preempts the request that was admitted last, again and again; False where that was `job` itself, or where it waits."""
        while missing > len(self.pool.free):
            victim = self.running[-1]
            if self.defers_frees and victim.last_step > self.ended:
                if self.spec.waits_for_frees:
                    return False
                self.deferred.append((self.begun, victim.blocks))
                victim.blocks = []
            self.release(victim)
            self.running.pop()
            victim.computed = 0
            self.waiting.appendleft(victim)
            step.preempted.append(victim)
            if victim is job:
                return False
        return True

    def _schedule_waiting(self, step: Step, budget: int) -> None:
        ready = [job for job, is_there in self.loading.items() if is_there] if self.arrivals_known else []
        at = 0
        while budget and len(self.running) < self.spec.max_num_seqs:
            if at < len(ready):
                job = ready[at]
                at += 1
                del self.loading[job]
                job.computed = min(job.prompt, job.tokens - 1)  # the next token needs the last one's logits
                self._name(job, job.prompt)
                new = job.tokens - job.computed
            elif self.waiting:
                job = self.waiting[0]
                admitted = self._admit(job, step, budget)
                if admitted is None:
                    break
                self.waiting.popleft()
                new = admitted
                if not new:
                    continue
            else:
                break
            self.running.append(job)
            step.scheduled.append((job, new))
            budget -= new
        self.arrivals_known = at < len(ready)

    def _admit(self, job: Job, step: Step, budget: int) -> int | None:
        """Blocks for the head of the queue, and how many of its tokens are computed now; 0 where its KV is fetched first, None
        where it has to stay. A request is admitted only where blocks for all its tokens are free (scheduler_reserve_full_isl)."""
        size, pool = self.spec.block_size, self.pool
        hits = pool.hits(job.keys[: (job.tokens - 1) // size])
        cached = len(hits) * size
        new = 0 if job.is_remote else self._limited(job.tokens - cached, budget)
        if not self.spec.enable_chunked_prefill and job.tokens - cached > budget and not job.is_remote:
            return None
        whole = -(-job.tokens // size) - len(hits)
        reserved = self._reserved() if job.is_remote else 0
        if whole + sum(not pool.users[block] for block in hits) > len(pool.free) - reserved:
            return None
        if self.spec.enable_prefix_caching and job.scheduled_s is None:
            self.cache_queries += job.tokens
            self.cache_hits += cached
        pool.share(hits)
        job.computed, job.named = cached, len(hits)
        job.blocks = hits + pool.take(whole if job.is_remote else -(-(cached + new) // size) - len(hits))
        if job.is_remote:
            job.is_remote = False
            self.loading[job] = False
            step.postings.append((job, whole))
        else:
            self._name(job, min(cached + new, job.prompt + job.delivered))
        return new

    def _name(self, job: Job, tokens: int) -> None:
        """From now on others can share the blocks that the first `tokens` tokens of a job fill."""
        if job.keys and (full := min(tokens // self.spec.block_size, len(job.keys))) > job.named:
            self.pool.name(job.blocks[job.named : full], job.keys[job.named : full])
            job.named = full

    def _reserved(self) -> int:
        """Blocks that prompts in computation still need: a transfer must not take them."""
        size = self.spec.block_size
        return sum(
            max(-(-job.tokens // size) - len(job.blocks), 0)
            for job in self.running
            if job.computed < job.tokens and job.produced < job.output
        )

    def _limited(self, new: int, budget: int) -> int:
        threshold = self.spec.long_prefill_token_threshold
        return min(new, budget, threshold) if threshold else min(new, budget)

    def _count(self, step: Step, now_s: float) -> None:
        """Moves the jobs of a step on, and adds up what it computes."""
        chunks = []
        self.begun += bool(step.scheduled)
        decodes = context = 0
        for job, new in step.scheduled:
            if job.scheduled_s is None:
                job.scheduled_s = now_s
            if new == 1:
                decodes += 1
                context += job.computed + 1
            else:
                chunks.append((new, job.computed))
            job.computed += new
            job.last_step = self.begun
            if job.computed == job.prompt + job.produced:
                job.produced += 1
                step.sampled.append(job)
        step.batch = Batch(tuple(chunks), decodes, context, len(step.sampled))
        self.preemptions += len(step.preempted)
