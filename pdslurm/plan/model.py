"""From a model's Hugging Face config.json (a mapping) to the sizes that placement, memory checks and estimates need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # sizes are computed without Hydra, too
    from pdslurm.config import Model

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "half": 2, "float32": 4, "float": 4, "fp8": 1}
# What vLLM reserves beside weights and KV on each GPU: CUDA context, activations, graphs. Seen 1-3 GiB on H200 with TP=1.
OVERHEAD_BYTES = 1.5 * 2**30


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder-only transformer; parameter counts include biases nowhere (under 0.1 % of the models we know)."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    vocab: int
    tied_embeddings: bool  # the output projection is the input embedding
    mla_rank: int  # kv_lora_rank + rope dimensions of multi-head latent attention; 0 for MHA and GQA
    dense_parameters: int  # all parameters that every token uses, embeddings included
    expert_parameters: int  # all routed experts together; 0 for a dense model
    experts: int
    experts_per_token: int

    @property
    def parameters(self) -> int:
        return self.dense_parameters + self.expert_parameters

    @property
    def active_parameters(self) -> float:
        """Parameters a token's forward pass multiplies with: without the input embedding's table, k of E experts."""
        share = self.experts_per_token / self.experts if self.experts else 0.0
        lookup = 0 if self.tied_embeddings else self.vocab * self.hidden
        return self.dense_parameters - lookup + self.expert_parameters * share

    def kv_bytes_per_token(self, dtype_bytes: int) -> int:
        """Bytes of KV cache a token takes, over all layers and heads: `2·L·Hkv·d·b`; MLA keeps one latent vector,
        `L·(rank+rope)·b`."""
        if self.mla_rank:
            return self.layers * self.mla_rank * dtype_bytes
        return 2 * self.layers * self.kv_heads * self.head_dim * dtype_bytes

    def kv_bytes_per_token_per_gpu(self, dtype_bytes: int, *, tensor_parallel: int, pipeline_parallel: int = 1) -> float:
        """As above for one GPU: GQA heads split over TP (at least one stays), MLA's latent is replicated on every TP rank."""
        whole = self.kv_bytes_per_token(dtype_bytes) / pipeline_parallel
        if self.mla_rank:
            return whole
        return whole * max(1, self.kv_heads // tensor_parallel) / self.kv_heads

    def weight_bytes_per_gpu(
        self, dtype_bytes: int, *, tensor_parallel: int, pipeline_parallel: int = 1, data_parallel: int = 1
    ) -> float:
        """Weights on one GPU: dense parts split over TP and PP, experts over TP, PP and DP (vLLM shards them so with and
        without EP)."""
        dense = self.dense_parameters / (tensor_parallel * pipeline_parallel)
        experts = self.expert_parameters / (tensor_parallel * pipeline_parallel * data_parallel)
        return (dense + experts) * dtype_bytes


def read_hf_config(path: str) -> Mapping[str, Any] | None:
    """The config.json of a model folder; None when `path` is no folder here (a hub's name)."""
    file = Path(path, "config.json")
    return json.loads(file.read_text()) if file.is_file() else None


def shape_of(hf_config: Mapping[str, Any]) -> ModelShape:
    """Sizes by the conventions of Llama, Qwen, Mixtral and DeepSeek configs. Raises KeyError with the missing key."""
    c = hf_config.get("text_config") or hf_config
    layers, hidden, heads = c["num_hidden_layers"], c["hidden_size"], c["num_attention_heads"]
    kv_heads = c.get("num_key_value_heads") or heads
    head_dim = c.get("head_dim") or hidden // heads
    rank, rope = c.get("kv_lora_rank") or 0, c.get("qk_rope_head_dim") or 0
    if rank:  # DeepSeek's MLA: query (maybe low rank), latent KV down and up, output
        nope, value = c["qk_nope_head_dim"], c["v_head_dim"]
        q_rank = c.get("q_lora_rank") or 0
        query = heads * (nope + rope)
        attention = q_rank * (hidden + query) if q_rank else hidden * query
        attention += hidden * (rank + rope) + rank * heads * (nope + value) + heads * value * hidden
    else:
        attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    experts = c.get("n_routed_experts") or c.get("num_experts") or c.get("num_local_experts") or 0
    first_dense = (c.get("first_k_dense_replace") or 0) if experts else layers
    moe_layers = layers - first_dense
    expert_width = c.get("moe_intermediate_size") or c["intermediate_size"]
    shared = (c.get("n_shared_experts") or 0) * expert_width
    mlp = 3 * hidden * (first_dense * c["intermediate_size"] + moe_layers * shared) + moe_layers * experts * hidden
    tied = bool(c.get("tie_word_embeddings"))
    embeddings = c["vocab_size"] * hidden * (1 if tied else 2)
    return ModelShape(
        layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        context=c["max_position_embeddings"], vocab=c["vocab_size"], tied_embeddings=tied,
        mla_rank=rank + rope if rank else 0,
        dense_parameters=layers * attention + mlp + embeddings,
        expert_parameters=moe_layers * experts * 3 * hidden * expert_width,
        experts=experts, experts_per_token=c.get("num_experts_per_tok") or 0,
    )  # fmt: skip


def model_shape(model: Model) -> ModelShape | None:
    """Sizes from the model's folder, else from `model.hf_config`; None when neither is at hand."""
    found = hf_config(model)
    return shape_of(found) if found else None


def hf_config(model: Model) -> Mapping[str, Any]:
    """The model's config.json. A folder that pdslurm makes itself is made from `model.hf_config`, so that one left from an earlier
    run does not count."""
    return (None if model.make else read_hf_config(model.path)) or model.hf_config


def is_elsewhere(model: Model) -> bool:
    """Whether `path` names a folder that this machine does not have, such as one on the nodes' own disks."""
    return model.path.startswith("/") and not model.make and not Path(model.path).exists()
