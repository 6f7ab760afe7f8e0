"""From a configuration to what a token's KV cache takes in one decode instance, over all its ranks: what NIXL has to move. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pdslurm.config import Config, Topology
from pdslurm.plan.model import DTYPE_BYTES, shape_of

# config.json's keys that give some layers a cache of another shape or length, so that blocks of one size are not moved for all
OTHER_CACHES = (
    "attention_chunk_size", "full_attention_interval", "attn_layer_period", "hybrid_override_pattern", "ssm_cfg",
    "mamba_d_state", "linear_num_key_heads", "index_topk", "cross_attention_layers",
)  # fmt: skip


@dataclass(frozen=True)
class KvSize:
    """`values`: numbers a token leaves in the caches of all ranks; None where they cannot be told, and `unknown` says why. `dtype`:
    of the model, which the cache has unless the engine says another. `ranks`: each fetches its own part, so a request makes as many
    transfers."""

    values: float | None
    dtype: str
    ranks: int
    unknown: str = ""

    def bytes_per_token(self, cache_dtype: str | None) -> float | None:
        """`cache_dtype` as the engine says it: auto is the model's. A name that is not known here, such as fp8_ds_mla: None."""
        dtype = self.dtype if cache_dtype in (None, "", "auto") else cache_dtype
        width = DTYPE_BYTES.get(str(dtype).removeprefix("torch."))
        return None if self.values is None or width is None else self.values * width


def kv_size(config: Config, topology: Topology, hf: Mapping[str, Any]) -> KvSize:
    """Of the decode instances of a topology, `hf` being the model's config.json. GQA's heads are split over TP, and copied where TP
    is larger than their number; MLA's latent vector is the same on every TP rank, and each fetches a copy; layers are split over PP
    (vLLM 0.32, nixl/pull_worker.py `_read_blocks_for_req`; DeepSeek-V2-Lite moved twice the bytes to decode at TP=2 on H200)."""
    tp = topology.as_decode.tensor_parallel or topology.tensor_parallel
    pp = topology.as_decode.pipeline_parallel or topology.pipeline_parallel
    dtype = config.model.dtype if config.model.dtype != "auto" else str(hf.get("torch_dtype") or hf.get("dtype"))
    unknown = "" if hf else "the model's config.json is not at hand, nor model.hf_config"
    unknown = unknown or _other_caches(hf.get("text_config") or hf) or _speculation(config, topology)
    if unknown:
        return KvSize(None, dtype, tp * pp, unknown)
    try:
        values = shape_of(hf).kv_bytes_per_token_per_gpu(1, tensor_parallel=tp, pipeline_parallel=pp) * tp * pp
    except KeyError as error:
        return KvSize(None, dtype, tp * pp, f"the model's config has no {error.args[0]}")
    return KvSize(values, dtype, tp * pp)


def _other_caches(hf: Mapping[str, Any]) -> str:
    found = [key for key in OTHER_CACHES if hf.get(key)]
    found += ["sliding_window"] if hf.get("sliding_window") and hf.get("use_sliding_window", True) else []
    found += ["layer_types"] if set(hf.get("layer_types") or ()) - {"full_attention"} else []
    return f"layers with caches of several kinds ({', '.join(found)})" if found else ""


def _speculation(config: Config, topology: Topology) -> str:
    """A draft model has a cache of its own."""
    args = {**config.cluster.engine_args, **config.model.engine_args}
    extra = [*topology.extra_args, *topology.as_decode.extra_args]
    asked = args.get("speculative_config") or any(arg.startswith(("--speculative", "-sc")) for arg in extra)
    return "speculative decoding" if asked else ""
