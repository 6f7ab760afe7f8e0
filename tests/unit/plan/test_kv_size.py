"""KV bytes that NIXL has to move, against what was seen moving on real engines, and configurations of which nothing can be said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pdslurm.config import Config
from pdslurm.plan.kv_size import kv_size

MakeConfig = Callable[..., Config]


@pytest.mark.parametrize(
    ("model", "dtype", "changes", "ranks", "seen"),
    [
        # bytes and tokens in whole blocks of one point; the first is `make demo`, the others four H200s with vLLM 0.24
        pytest.param("tiny", "float32", {"tensor_parallel": 1}, 1, 25_165_824 / (24 * 1024), id="GQA on the CPU"),
        pytest.param("deepseek_v2_lite", "bfloat16", {"tensor_parallel": 1}, 1, 4_082_337_792 / (8203 * 16), id="MLA"),
        pytest.param("deepseek_v2_lite", "bfloat16", {"tensor_parallel": 2}, 2, 64_696_320 / (65 * 16),
                     id="MLA, copied on each TP rank"),
        pytest.param("deepseek_v2_lite", "bfloat16", {"tensor_parallel": 2, "as_decode.tensor_parallel": 1}, 1,
                     32_348_160 / (65 * 16),
                     id="MLA, TP=2 to TP=1"),
        # by the formula
        pytest.param("llama_3_1_8b", "bfloat16", {"tensor_parallel": 4}, 4, 131_072, id="GQA over fewer ranks than heads"),
        pytest.param("llama_3_1_8b", "bfloat16", {"tensor_parallel": 16}, 16, 262_144, id="GQA, heads copied"),
        pytest.param("llama_3_1_8b", "bfloat16", {"tensor_parallel": 2, "pipeline_parallel": 2}, 4, 131_072, id="PP"),
        pytest.param("llama_3_1_8b", "auto", {"tensor_parallel": 1}, 1, 131_072, id="dtype of the model's own config"),
    ],
)  # fmt: skip
def test_bytes_a_token(
    make_config: MakeConfig, hf_configs: Mapping[str, Any], model: str, dtype: str, changes: dict[str, Any], ranks: int, seen: float
) -> None:
    config = make_config({"model.dtype": dtype, **{f"topology.{name}": value for name, value in changes.items()}})
    size = kv_size(config, config.topology, hf_configs[model])
    assert (size.bytes_per_token("auto"), size.ranks) == (seen, ranks)


def test_the_cache_may_have_another_dtype(make_config: MakeConfig) -> None:
    config = make_config()
    size = kv_size(config, config.topology, config.model.hf_config)
    whole = size.bytes_per_token(None)
    assert whole
    assert (size.bytes_per_token("fp8"), size.bytes_per_token("float32")) == (whole / 2, whole * 2)
    assert size.bytes_per_token("fp8_ds_mla") is None


@pytest.mark.parametrize(
    ("hf", "changes", "unknown"),
    [
        pytest.param({"sliding_window": 4096}, {}, "layers with caches of several kinds (sliding_window)", id="sliding window"),
        pytest.param({"sliding_window": 4096, "use_sliding_window": False}, {}, "", id="one that is not used"),
        pytest.param({"layer_types": ["full_attention", "linear_attention"]}, {},
                     "layers with caches of several kinds (layer_types)",
                     id="linear attention"),
        pytest.param({"layer_types": ["full_attention"]}, {}, "", id="all alike"),
        pytest.param({"text_config": {"attention_chunk_size": 8192}}, {},
                     "layers with caches of several kinds (attention_chunk_size)",
                     id="in a model of several kinds of input"),
        pytest.param({"num_hidden_layers": None}, {}, "the model's config has no num_hidden_layers", id="an unknown architecture"),
        pytest.param({}, {"model.engine_args": {"speculative_config": {"method": "mtp"}}}, "speculative decoding", id="a draft"),
        pytest.param({}, {"topology.extra_args": ["--speculative-config={}"]}, "speculative decoding", id="a draft by extra_args"),
    ],
)  # fmt: skip
def test_what_cannot_be_told(make_config: MakeConfig, hf: dict[str, Any], changes: dict[str, Any], unknown: str) -> None:
    config = make_config(changes)
    known = {**config.model.hf_config, **hf}
    size = kv_size(config, config.topology, {k: v for k, v in known.items() if v is not None})
    assert size.unknown == unknown
    assert (size.bytes_per_token("auto") is None) is bool(unknown)


def test_without_a_config_nothing_is_known(make_config: MakeConfig) -> None:
    config = make_config()
    assert kv_size(config, config.topology, {}).unknown == "the model's config.json is not at hand, nor model.hf_config"
