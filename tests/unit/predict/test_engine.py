"""vLLM V1's scheduler: exact steps of small cases, and what holds in every case."""

from __future__ import annotations

from random import Random

import pytest

from pdslurm.predict.cost import Batch
from pdslurm.predict.engine import BlockPool, Engine, EngineSpec, Job, Step


def run(engine: Engine, *jobs: Job) -> list[list[tuple[int, int]]]:
    """The steps until nothing is left to do, as (job, new tokens)."""
    engine.inbox.extend(jobs)
    steps = []
    while (step := engine.schedule(0.0)).scheduled:
        steps.append([(job.id, new) for job, new in step.scheduled])
        engine.complete(step, 0.0)
    return steps


CASES = {
    "a long prompt is computed in chunks": (
        EngineSpec(100, max_num_batched_tokens=8),
        [(20, 2)],
        [[(0, 8)], [(0, 8)], [(0, 4)], [(0, 1)]],
    ),
    "two prompts share a step's budget": (
        EngineSpec(100, max_num_batched_tokens=8),
        [(5, 1), (6, 1)],
        [[(0, 5), (1, 3)], [(1, 3)]],
    ),
    "what runs already comes first": (
        EngineSpec(100, max_num_batched_tokens=8),
        [(5, 3), (12, 1)],
        [[(0, 5), (1, 3)], [(0, 1), (1, 7)], [(0, 1), (1, 2)]],
    ),
    "without chunks a prompt waits for a step of its own": (
        EngineSpec(100, max_num_batched_tokens=8, enable_chunked_prefill=False),
        [(5, 1), (6, 1), (2, 1)],
        [[(0, 5)], [(1, 6), (2, 2)]],
    ),
    "long prompts leave room for short ones": (
        EngineSpec(100, max_num_batched_tokens=8, long_prefill_token_threshold=4),
        [(10, 1), (3, 1)],
        [[(0, 4), (1, 3)], [(0, 4)], [(0, 2)]],
    ),
    "no more than max_num_seqs run": (
        EngineSpec(100, max_num_seqs=1),
        [(5, 2), (5, 1)],
        [[(0, 5)], [(0, 1)], [(1, 5)]],
    ),
    "a prompt is admitted only where all of it has room": (
        EngineSpec(4, block_size=4, max_num_batched_tokens=10),
        [(8, 2), (12, 1)],  # 2 blocks are left, enough for 2 tokens of the second prompt but not for all
        [[(0, 8)], [(0, 1)], [(1, 10)], [(1, 2)]],
    ),
    "the request that came last is preempted, and computed again from its first token": (
        EngineSpec(4, block_size=4),
        [(7, 4), (7, 4)],  # 2 blocks each; both need a third one for their third step
        [[(0, 7), (1, 7)], [(0, 1), (1, 1)], [(0, 1)], [(0, 1)], [(1, 9)], [(1, 1)]],
    ),
    "it preempts itself where it is the last": (
        EngineSpec(4, block_size=4),
        [(5, 4), (8, 2)],
        [[(0, 5), (1, 8)], [(0, 1)], [(0, 1)], [(0, 1)], [(1, 9)]],
    ),
    "a preempted request comes before those that wait": (
        EngineSpec(4, block_size=4),
        [(7, 4), (7, 4), (4, 1)],
        [[(0, 7), (1, 7)], [(0, 1), (1, 1)], [(0, 1)], [(0, 1)], [(1, 9), (2, 4)], [(1, 1)]],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_steps(name: str) -> None:
    spec, lengths, steps = CASES[name]
    engine = Engine(spec)
    assert run(engine, *(Job(n, prompt, output) for n, (prompt, output) in enumerate(lengths))) == steps
    assert len(engine.pool.free) == spec.num_blocks


def test_what_a_step_computes() -> None:
    engine = Engine(EngineSpec(100, max_num_batched_tokens=8))
    engine.inbox.append(Job(0, 5, 9))
    engine.complete(engine.schedule(0.0), 1.0)
    engine.inbox.append(Job(1, 10, 1))
    assert engine.schedule(1.0).batch == Batch(chunks=((7, 0),), decodes=1, decode_context=6, sampled=1)
    assert engine.schedule(2.0).batch == Batch(chunks=((3, 7),), decodes=1, decode_context=7, sampled=2)


def test_a_token_that_is_being_computed_is_not_asked_for_again() -> None:
    """As with asynchronous scheduling: the next step is decided before this one has ended."""
    engine = Engine(EngineSpec(100))
    job = Job(0, 5, 2)
    engine.inbox.append(job)
    first, second, third = (engine.schedule(0.0) for _ in range(3))
    assert [step.scheduled for step in (first, second, third)] == [[(job, 5)], [(job, 1)], []]
    assert engine.complete(first, 1.0) == []
    assert engine.complete(second, 2.0) == [job]
    assert (job.first_s, job.last_s) == (1.0, 2.0)


def test_a_request_that_is_preempted_during_its_last_step_ends_with_that_step() -> None:
    engine = Engine(EngineSpec(4, block_size=4))
    grows, ends = Job(0, 8, 3), Job(1, 8, 1)
    engine.inbox += [grows, ends]
    first, second = engine.schedule(0.0), engine.schedule(0.0)
    assert second.preempted == [ends]
    assert engine.complete(first, 1.0) == [ends]
    assert not engine.waiting


@pytest.mark.parametrize(("waits", "preempted"), [(False, [1, 0]), (True, [])])
def test_blocks_that_a_step_under_way_may_write_to_make_no_room(waits: bool, preempted: list[int]) -> None:
    """Both requests need a third block while their last step is under way: vLLM 0.24 preempts one after the other in vain."""
    engine = Engine(EngineSpec(4, block_size=4, waits_for_frees=waits), defers_frees=True)
    engine.inbox += [Job(0, 8, 3), Job(1, 8, 3)]
    first, second = engine.schedule(0.0), engine.schedule(0.0)
    assert [job.id for job in second.preempted] == preempted
    assert (second.scheduled, len(engine.pool.free)) == ([], 0)
    engine.complete(first, 1.0)
    assert len(engine.pool.free) == (0 if waits else 4)
    third = engine.schedule(1.0)
    assert [(job.id, new) for job, new in third.scheduled] == ([(0, 1)] if waits else [(0, 9)])
    assert [job.id for job in third.preempted] == ([1] if waits else [])


SHARED = EngineSpec(100, block_size=4, enable_prefix_caching=True)


@pytest.mark.parametrize(
    ("prompts", "steps", "hits"),
    [
        ([(10, "abx"), (10, "aby")], [[(0, 10), (1, 2)]], 8),  # the second finds the first one's blocks within the step
        ([(8, "ab"), (8, "ab")], [[(0, 8), (1, 4)]], 4),  # a block is computed again for its last token's logits
        ([(8, "ab"), (8, "cb")], [[(0, 8), (1, 8)]], 0),  # the same tokens after others are others
    ],
)
def test_prefix_hits(prompts: list[tuple[int, str]], steps: list[list[tuple[int, int]]], hits: int) -> None:
    """Each letter is the content of a block and of all before it."""
    engine = Engine(SHARED)
    jobs = [Job(n, length, 1, [text[: i + 1] for i in range(length // 4)]) for n, (length, text) in enumerate(prompts)]
    assert run(engine, *jobs) == steps
    assert (engine.cache_queries, engine.cache_hits) == (sum(length for length, _ in prompts), hits)


def test_the_end_of_the_oldest_content_is_dropped_first() -> None:
    pool = BlockPool(4)
    old, new = pool.take(2), pool.take(2)
    pool.name(old, ["a", "ab"])
    pool.name(new, ["c", "cd"])
    pool.give_back(old)
    pool.give_back(new)
    pool.share(pool.hits(["a"]))
    pool.take(1)
    assert [pool.hits(["a", "ab"]), pool.hits(["c", "cd"])] == [old[:1], new]
    pool.take(1)
    assert [pool.hits(["a", "ab"]), pool.hits(["c", "cd"])] == [old[:1], new[:1]]


def test_a_remote_prompt_takes_blocks_but_no_budget_and_then_computes_its_last_token() -> None:
    engine = Engine(EngineSpec(5, block_size=4, max_num_batched_tokens=8, max_num_seqs=8))
    remote, other = Job(0, 10, 2, is_remote=True), Job(1, 8, 1)
    engine.inbox += [remote, other]
    step = engine.schedule(0.0)
    assert (step.postings, step.scheduled) == ([(remote, 3)], [(other, 8)])
    engine.complete(step, 1.0)
    assert engine.schedule(1.0).scheduled == []
    engine.has_arrived(remote)
    step = engine.schedule(2.0)
    assert (step.scheduled, step.batch) == ([(remote, 1)], Batch(decodes=1, decode_context=10, sampled=1))


def test_a_transfer_takes_no_blocks_that_a_prompt_in_computation_needs() -> None:
    engine = Engine(EngineSpec(6, block_size=4, max_num_batched_tokens=4))
    long, remote = Job(0, 16, 1), Job(1, 12, 1, is_remote=True)  # 4 blocks, of which one is taken now, and 3
    engine.inbox += [long, remote]
    step = engine.schedule(0.0)
    assert (step.scheduled, step.postings) == ([(long, 4)], [])


@pytest.mark.parametrize("seed", range(20))
def test_blocks_budget_and_tokens_are_kept_in_every_case(seed: int) -> None:
    random = Random(seed)
    spec = EngineSpec(
        num_blocks=random.randint(12, 40),
        block_size=random.choice([1, 4, 16]),
        max_num_batched_tokens=random.randint(8, 64),
        max_num_seqs=random.randint(1, 8),
        long_prefill_token_threshold=random.choice([0, 5]),
        enable_prefix_caching=random.random() < 0.5,
        waits_for_frees=True,
    )
    engine, room = Engine(spec, defers_frees=random.random() < 0.5), spec.num_blocks * spec.block_size
    jobs = []
    for number in range(40):
        prompt = random.randint(1, max(room // 2, 1))
        output = random.randint(1, max(room // 3, 1))
        text = random.choice("ab")
        keys = [text * (i + 1) for i in range(prompt // spec.block_size)] if spec.enable_prefix_caching else []
        jobs.append(Job(number, prompt, output, keys, is_remote=random.random() < 0.3))
    engine.inbox += jobs
    under_way: list[Step] = []
    remote: list[Job] = []
    ended: list[Job] = []
    for _ in range(100_000):
        step = engine.schedule(0.0)
        under_way.append(step)
        remote += [job for job, _ in step.postings]
        owners = [block for job in {*engine.running, *engine.loading} for block in job.blocks]
        assert len(set(owners)) == spec.num_blocks - len(engine.pool.free)
        assert spec.enable_prefix_caching or len(owners) == len(set(owners))
        assert step.batch.tokens <= spec.max_num_batched_tokens
        assert len(engine.running) <= spec.max_num_seqs
        assert all(job.computed <= len(job.blocks) * spec.block_size for job in engine.running)
        if len(under_way) == 2:
            ended += engine.complete(under_way.pop(0), 0.0)
        if remote and random.random() < 0.5:
            engine.has_arrived(remote.pop(random.randrange(len(remote))))
        if len(ended) == len(jobs):
            break
    assert sorted(job.id for job in ended) == list(range(40))
    assert all(job.delivered == job.output for job in jobs)
    assert len(engine.pool.free) == spec.num_blocks
