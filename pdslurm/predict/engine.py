"""Requests in; what one vLLM V1 engine computes in each step, and which requests get a token at its end, out."""

from __future__ import annotations

from dataclasses import dataclass


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


@dataclass(frozen=True)
class KvPull:
    """How a decode instance fetches the KV of a prompt."""

    bytes_per_token: float  # over all ranks
    descriptors_per_block: int  # each rank posts as many: 2 × layers, MLA 1 × layers
    descriptor_s: float  # each rank's loop stands still for so long for each descriptor
    ranks: int = 1  # tensor-parallel ranks, which post and fetch side by side
