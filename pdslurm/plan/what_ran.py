"""From what the engines of each arm resolved to where arms differ in it, and which of that a topology forces. Pure.

pdslurm/plan/fairness.py compares what was asked for, before anything starts; this compares what ran. What an engine does not tell
is unknown: an arm where it is unknown agrees with no other, and differs from none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pdslurm.plan.deployment import Deployment
from pdslurm.plan.fairness import DIFFERS, FORCED, SAME, Compared, by_role

Told = Mapping[str, Mapping[str, Mapping[str, str]]]  # set → engine → fact → value; facts of pdslurm/measure/resolved.py
PREFIX = "resolved "  # before a fact's name among the fields of fairness.json and `explained`
UNKNOWN = "unknown"  # the fourth verdict, and the value of what is not told
NOISE = 0.05  # of the size of a KV cache: what is free when an engine profiles its memory differs a little from start to start
CAPACITY = ("kv_blocks", "kv_tokens")

WHY = {
    "vllm": "another version of the engine is another engine",
    "device": "a CPU and a GPU are not compared",
    "attention_backend": "another kernel for attention has another speed at each length and batch",
    "flash_attention": "another version of the kernel for attention has another speed",
    "mla_prefill_backend": "another kernel for the attention of a prefill has another speed",
    "moe_backend": "another kernel for the experts has another speed",
    "cudagraph_mode": "without CUDA graphs every step of decoding pays for its launches",
    "cudagraph_largest": "batches above the largest graph pay for their launches",
    "compile_mode": "compiled layers are faster than those that are not",
    "enforce_eager": "neither compiled layers nor CUDA graphs",
    "kv_layout": "kernels read one layout faster than the other",
    "block_size": "NIXL moves KV by blocks, and kernels read it by blocks",
    "kv_blocks": "more blocks are more requests in flight and fewer preemptions",
    "kv_tokens": "a larger cache is more requests in flight and fewer preemptions",
    "kv_dtype": "a smaller type moves fewer bytes and holds more tokens",
    "memory_share": "more memory for KV cache is more requests in flight and fewer preemptions",
    "max_num_seqs": "more requests are decoded in one step",
    "max_num_batched_tokens": "larger chunks of prefill finish sooner, and hold up decoding for longer",
    "chunked_prefill": "whole prefills hold up decoding",
    "prefix_caching": "one arm computes prompts that another finds in its cache",
    "dtype": "a smaller type moves fewer bytes and computes faster",
    "quantization": "quantised weights are other weights",
    "max_model_len": "a longer context reserves other buffers and changes what is admitted at once",
    "scheduler_policy": "another order of requests is another TTFT",
    "async_scheduling": "the next step is prepared while one runs, or is not",
    "model_runner": "another model runner prepares its steps in another time",
}
FACTS = tuple(WHY)
FORCED_WHY = {
    "kv_layout": "the connector that moves KV chooses it, and the other arms have none",
    "moe_backend": "vLLM chooses the experts' kernel by the size of data parallelism, which the topology decides",
    "kv_blocks": "the cache gets what weights, buffers and graphs leave, which depends on the block size and on how the model is "
    f"split; up to {NOISE:.0%} it differs between two starts of one engine",
}
FORCED_WHY["kv_tokens"] = FORCED_WHY["kv_blocks"]
# What `explained` says of an option explains what becomes of it, too.
FOLLOWS = {
    "dtype": "dtype", "max_model_len": "context", "memory_share": "memory_share", "prefix_caching": "prefix_cache",
    "enforce_eager": "engine --enforce-eager", "compile_mode": "engine --enforce-eager", "cudagraph_mode": "engine --enforce-eager",
    "cudagraph_largest": "engine --enforce-eager", "block_size": "engine --block-size", "max_num_seqs": "engine --max-num-seqs",
    "max_num_batched_tokens": "engine --max-num-batched-tokens", "kv_dtype": "engine --kv-cache-dtype",
    "attention_backend": "engine --attention-backend", "quantization": "engine --quantization",
    "async_scheduling": "engine --async-scheduling", "chunked_prefill": "engine --enable-chunked-prefill",
}  # fmt: skip


@dataclass(frozen=True)
class ArmTold:
    """One arm whose engines were asked: each one's role and facts, whether it disaggregates, and how its instances are split."""

    engines: tuple[tuple[str, Mapping[str, str]], ...]
    disaggregated: bool
    split: tuple[tuple[int, int, int], ...]  # TP, PP and data-parallel size of every instance, sorted

    def words(self, fact: str) -> str:
        """What the arm has, once when all engines agree, else by role."""
        return by_role([(role, facts.get(fact, UNKNOWN)) for role, facts in self.engines])

    def known(self, fact: str) -> bool:
        return all(fact in facts for _, facts in self.engines)

    def is_mixed(self, fact: str) -> bool:
        """Whether engines of one role tell different values."""
        told = {(role, facts[fact]) for role, facts in self.engines if fact in facts}
        return len(told) > len({role for role, _ in told})


def compare_told(deployment: Deployment, told: Told) -> tuple[Compared, ...]:
    """Every fact of FACTS, over the arms as they are configured whose set has told. Empty where no set has."""
    arms = {
        arm.arm.name: ArmTold(
            tuple((role, told[bound.set.name].get(name, {})) for name, role in arm.engine_roles.items()),
            bool(arm.arm.topology.prefill),
            tuple(
                sorted((i.tensor_parallel, i.pipeline_parallel, i.gpu_count // (i.tensor_parallel * i.pipeline_parallel))
                       for i in bound.set.instances)
            ),
        )
        for bound in deployment.sets
        if bound.set.name in told
        for arm in bound.arms
        if not arm.arm.setting
    }  # fmt: skip
    explained = deployment.plan.config.explained
    return tuple(_judged(fact, arms, explained) for fact in FACTS) if arms else ()


def _judged(fact: str, arms: Mapping[str, ArmTold], explained: Mapping[str, str]) -> Compared:
    field, values = f"{PREFIX}{fact}", {name: arm.words(fact) for name, arm in arms.items()}
    known = {values[name] for name, arm in arms.items() if arm.known(fact)}
    if len(known) > 1 or any(arm.is_mixed(fact) for arm in arms.values()):
        if _is_forced(fact, arms):
            return Compared(field, FORCED, values, FORCED_WHY[fact])
        reason = explained.get(field) or explained.get(FOLLOWS.get(fact, ""))
        return Compared(field, DIFFERS, values, WHY[fact], reason)
    return Compared(field, SAME if all(arm.known(fact) for arm in arms.values()) else UNKNOWN, values)


def _is_forced(fact: str, arms: Mapping[str, ArmTold]) -> bool:
    if fact == "kv_layout":
        groups = [[arm for arm in arms.values() if arm.disaggregated is kind] for kind in (True, False)]
        return all(len({facts[fact] for arm in group for _, facts in arm.engines if fact in facts}) <= 1 for group in groups)
    if fact in CAPACITY:
        return _is_noise(fact, list(arms.values())) or _split_differs(arms) or (fact == "kv_blocks" and _blocks_differ(arms))
    return fact == "moe_backend" and _split_differs(arms)


def _is_noise(fact: str, arms: Sequence[ArmTold]) -> bool:
    """Whether the sizes of all caches lie close together."""
    sizes = [int(n) for arm in arms for _, facts in arm.engines for n in re.findall(r"\d+", facts.get(fact, ""))]
    return bool(sizes) and min(sizes) >= (1 - NOISE) * max(sizes)


def _split_differs(arms: Mapping[str, ArmTold]) -> bool:
    return len({split for arm in arms.values() for split in arm.split}) > 1


def _blocks_differ(arms: Mapping[str, ArmTold]) -> bool:
    return len({facts.get("block_size") for arm in arms.values() for _, facts in arm.engines}) > 1
