"""Run by the engine's Python: vLLM's own scheduler and pdslurm's model of it decide the same steps, or the first difference is
printed. Arguments: the model's folder, and how many random cases. No model is loaded: a step's end is made up."""

from __future__ import annotations

import sys
from collections import defaultdict
from random import Random
from typing import Any
from unittest.mock import MagicMock

import torch
from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from pdslurm.predict.engine import Engine, EngineSpec, Job, Step

SIZE, COUNT, ANSWER = 16, 40, 7  # tokens of a block; requests of a case; the token that every answer repeats


def vllm_scheduler(folder: str, spec: EngineSpec) -> Any:
    length = spec.num_blocks * SIZE
    config = VllmConfig(
        model_config=ModelConfig(model=folder, dtype="float32", skip_tokenizer_init=True, max_model_len=length),
        scheduler_config=SchedulerConfig(
            max_num_seqs=spec.max_num_seqs, max_num_batched_tokens=spec.max_num_batched_tokens, max_model_len=length,
            enable_chunked_prefill=True, async_scheduling=spec.async_scheduling, is_encoder_decoder=False,
        ),
        cache_config=CacheConfig(block_size=SIZE, cache_dtype="auto", enable_prefix_caching=spec.enable_prefix_caching),
    )  # fmt: skip
    blocks = config.cache_config.num_gpu_blocks = spec.num_blocks + 1  # vLLM keeps one as a null block
    group = KVCacheGroupSpec(["layer"], FullAttentionSpec(block_size=SIZE, num_kv_heads=1, head_size=1, dtype=torch.float32))
    cache = KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[group])
    kind = AsyncScheduler if spec.async_scheduling else Scheduler
    return kind(
        vllm_config=config, kv_cache_config=cache, structured_output_manager=StructuredOutputManager(config), block_size=SIZE,
        log_stats=True,
    )  # fmt: skip


def fetch_by(scheduler: Any, remote: set[str]) -> None:
    """Makes it the scheduler of a decode instance, which fetches the prompts of `remote` once each."""

    def match(request: Any, computed: int) -> tuple[int, bool]:
        return (request.num_prompt_tokens - computed, True) if request.request_id in remote else (0, False)

    def allocated(request: Any, *_: Any) -> None:
        remote.discard(request.request_id)

    answers: dict[str, Any] = {
        "has_pending_block_frees": False, "get_loaded_kv_cache_group_ids": frozenset({0}), "take_events": [],
        "get_kv_connector_stats": None, "build_connector_meta": None, "request_finished": (False, None),
        "has_pending_push_work": False, "register_finished_partial_tail": False, "get_external_cache_hit_sources": None,
    }  # fmt: skip
    scheduler.connector = MagicMock(**{f"{name}.return_value": answer for name, answer in answers.items()})
    scheduler.connector.get_num_new_matched_tokens.side_effect = match
    scheduler.connector.update_state_after_alloc.side_effect = allocated
    scheduler.defer_block_free = isinstance(scheduler, AsyncScheduler)


def compare(folder: str, seed: int) -> tuple[int, int]:
    """Steps and preemptions of a case."""
    random = Random(seed)
    spec = EngineSpec(
        random.randint(12, 60), SIZE, random.randint(16, 200), random.randint(2, 10),
        enable_prefix_caching=random.random() < 0.5, async_scheduling=random.random() < 0.5, waits_for_frees=True,
    )  # fmt: skip
    is_decode = random.random() < 0.5
    real, model = vllm_scheduler(folder, spec), Engine(spec, defers_frees=is_decode and spec.async_scheduling)
    hasher = get_request_block_hasher(SIZE, sha256)
    room = spec.num_blocks * SIZE
    texts = [[random.randrange(10, 990) for _ in range(room)] for _ in range(3)]
    arrivals = defaultdict(list)
    for number in range(COUNT):
        prompt, output = random.randint(1, room // 2), random.randint(1, room // 3)
        shared = random.choice([0, random.randint(0, prompt)])
        tokens = random.choice(texts)[:shared] + [random.randrange(10, 990) for _ in range(prompt - shared)]
        arrivals[random.randrange(60)].append((number, tokens, output))
    remote: set[str] = set()
    if is_decode:
        fetch_by(real, remote)
    under_way: list[tuple[Any, Step]] = []
    loading: list[Job] = []
    ended = steps = 0
    while ended < COUNT:
        for number, tokens, output in arrivals.pop(steps, []):
            how = SamplingParams(max_tokens=output, ignore_eos=True)
            real.add_request(Request(str(number), tokens, how, pooling_params=None, block_hasher=hasher))
            text = tokens + [ANSWER] * output
            full = range(SIZE, len(text) + 1, SIZE) if spec.enable_prefix_caching else ()
            is_remote = is_decode and random.random() < 0.7
            remote |= {str(number)} if is_remote else set()
            model.inbox.append(Job(number, len(tokens), output, [tuple(text[:end]) for end in full], is_remote))
        theirs, ours = real.schedule(), model.schedule(0.0)
        decided = [(job.id, new) for job, new in ours.scheduled], sorted(job.id for job in ours.preempted)
        expected = [(int(name), new) for name, new in theirs.num_scheduled_tokens.items()]
        preempted = sorted(int(name) for name in theirs.preempted_req_ids or ())
        if (sorted(decided[0]), decided[1]) != (sorted(expected), preempted):
            sys.exit(f"seed {seed}, step {steps}, {spec}: vLLM decides {expected, preempted}, pdslurm {decided}")
        loading += [job for job, _ in ours.postings]
        under_way.append((theirs, ours))
        if len(under_way) == 2 or not spec.async_scheduling or not expected:
            theirs, ours = under_way.pop(0)
            names, sampled = list(theirs.num_scheduled_tokens), {str(job.id) for job in ours.sampled}
            answers = [[ANSWER] if name in sampled else [] for name in names]
            places = {name: n for n, name in enumerate(names)}
            made = ModelRunnerOutput(req_ids=names, req_id_to_index=places, sampled_token_ids=answers, prompt_logprobs_dict={})
            fetched = [loading.pop(random.randrange(len(loading)))] if loading and random.random() < 0.4 else []
            if fetched:
                made.kv_connector_output = KVConnectorOutput(finished_recving={str(job.id) for job in fetched})
            real.update_from_output(theirs, made)
            ended += len(model.complete(ours, 0.0))
            for job in fetched:
                model.has_arrived(job)
        steps += 1
    free = real.kv_cache_manager.block_pool.get_num_free_blocks(), len(model.pool.free)
    if free != (spec.num_blocks,) * 2:
        sys.exit(f"seed {seed}: free blocks at the end are {free}")
    return steps, model.preemptions


if __name__ == "__main__":
    init_none_hash(sha256)
    found = [compare(sys.argv[1], seed) for seed in range(int(sys.argv[2]))]
    print(*(sum(counts) for counts in zip(*found, strict=True)))
