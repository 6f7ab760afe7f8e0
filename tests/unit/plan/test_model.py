"""Model sizes against the figures that the models' makers publish and vLLM reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pdslurm.plan.model import ModelShape, read_hf_config, shape_of

GQA = {"num_key_value_heads": 8, "max_position_embeddings": 131072}
CONFIGS: dict[str, dict[str, Any]] = {
    "deepseek-v3": {
        "num_hidden_layers": 61, "hidden_size": 7168, "num_attention_heads": 128, "num_key_value_heads": 128, "vocab_size": 129280,
        "intermediate_size": 18432, "moe_intermediate_size": 2048, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128, "v_head_dim": 128, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
        "first_k_dense_replace": 3, "max_position_embeddings": 163840,
    },
    "llama-3.1-70b": {
        **GQA, "num_hidden_layers": 80, "hidden_size": 8192, "num_attention_heads": 64, "intermediate_size": 28672,
        "vocab_size": 128256,
    },
    "llama-3.2-1b": {
        **GQA, "num_hidden_layers": 16, "hidden_size": 2048, "num_attention_heads": 32, "head_dim": 64, "intermediate_size": 8192,
        "vocab_size": 128256, "tie_word_embeddings": True,
    },
    "qwen3-32b": {
        **GQA, "num_hidden_layers": 64, "hidden_size": 5120, "num_attention_heads": 64, "head_dim": 128, "intermediate_size": 25600,
        "vocab_size": 151936,
    },
    "qwen3-8b": {
        **GQA, "num_hidden_layers": 36, "hidden_size": 4096, "num_attention_heads": 32, "head_dim": 128, "intermediate_size": 12288,
        "vocab_size": 151936,
    },
    "qwen3-30b-a3b": {
        "num_hidden_layers": 48, "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
        "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8, "vocab_size": 151936,
        "max_position_embeddings": 40960,
    },
    "mixtral-8x7b": {
        **GQA, "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "intermediate_size": 14336,
        "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 32000,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def shapes(hf_configs: Mapping[str, Mapping[str, Any]]) -> dict[str, ModelShape]:
    return {name: shape_of(config) for name, config in {**CONFIGS, **hf_configs}.items()}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("deepseek_v2_lite", 31_104),
        ("deepseek-v3", 70_272),
        ("llama_3_1_8b", 131_072),
        ("llama-3.1-70b", 327_680),
        ("qwen3-32b", 262_144),
        ("qwen3-8b", 147_456),
        ("qwen3-30b-a3b", 98_304),
        ("tiny", 512),
    ],
)
def test_kv_bytes_per_token_in_bfloat16(shapes: dict[str, ModelShape], model: str, expected: int) -> None:
    assert shapes[model].kv_bytes_per_token(2) == expected
    assert shapes[model].kv_bytes_per_token(4) == 2 * expected


@pytest.mark.parametrize(
    ("model", "parameters", "active"),
    [  # published counts; active ones without the table of the input embedding
        ("deepseek_v2_lite", 15.71e9, 2.45e9),
        ("deepseek-v3", 671.0e9, 36.6e9),
        ("llama_3_1_8b", 8.03e9, 7.50e9),
        ("llama-3.1-70b", 70.55e9, 69.50e9),
        ("llama-3.2-1b", 1.236e9, 1.236e9),
        ("qwen3-32b", 32.76e9, 31.98e9),
        ("qwen3-8b", 8.19e9, 7.57e9),
        ("qwen3-30b-a3b", 30.53e9, 3.04e9),
        ("mixtral-8x7b", 46.70e9, 12.75e9),
    ],
)
def test_parameter_counts(shapes: dict[str, ModelShape], model: str, parameters: float, active: float) -> None:
    assert shapes[model].parameters == pytest.approx(parameters, rel=1e-3)
    assert shapes[model].active_parameters == pytest.approx(active, rel=3e-3)


@pytest.mark.parametrize(
    ("model", "tp", "pp", "share"),
    [
        ("llama_3_1_8b", 1, 1, 1),
        ("llama_3_1_8b", 4, 1, 1 / 4),
        ("llama_3_1_8b", 16, 1, 1 / 8),  # 8 KV heads: beyond 8 they are copied, not cut
        ("llama_3_1_8b", 2, 4, 1 / 8),
        ("deepseek_v2_lite", 8, 1, 1),  # MLA's latent is on every rank
        ("deepseek_v2_lite", 8, 3, 1 / 3),
    ],
)
def test_kv_share_of_a_gpu(shapes: dict[str, ModelShape], model: str, tp: int, pp: int, share: float) -> None:
    whole = shapes[model].kv_bytes_per_token(2)
    assert shapes[model].kv_bytes_per_token_per_gpu(2, tensor_parallel=tp, pipeline_parallel=pp) == pytest.approx(whole * share)


@pytest.mark.parametrize(
    ("model", "tp", "pp", "dp", "gib"),
    [
        ("deepseek_v2_lite", 1, 1, 1, 29.26),  # 31.4 GB
        ("deepseek_v2_lite", 4, 1, 1, 7.31),
        ("deepseek_v2_lite", 1, 1, 8, 5.79),  # an eighth of 26.81 GiB of experts, and all of the dense rest, 2.44
        ("deepseek_v2_lite", 2, 2, 1, 7.31),
        ("llama_3_1_8b", 1, 1, 8, 14.96),  # a dense model is on each DP rank as a whole
    ],
)
def test_weights_on_a_gpu(shapes: dict[str, ModelShape], model: str, tp: int, pp: int, dp: int, gib: float) -> None:
    found = shapes[model].weight_bytes_per_gpu(2, tensor_parallel=tp, pipeline_parallel=pp, data_parallel=dp)
    assert found / 2**30 == pytest.approx(gib, abs=0.01)


def test_text_part_of_a_multimodal_config() -> None:
    assert shape_of({"model_type": "vl", "text_config": CONFIGS["qwen3-8b"]}) == shape_of(CONFIGS["qwen3-8b"])


@pytest.mark.parametrize(
    "key", ["num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings"]
)
def test_a_missing_size_is_named(key: str) -> None:
    with pytest.raises(KeyError, match=key):
        shape_of({k: v for k, v in CONFIGS["qwen3-8b"].items() if k != key})


def test_reading_a_model_folder(tmp_path: Path) -> None:
    assert read_hf_config(str(tmp_path)) is None
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["qwen3-8b"]))
    assert read_hf_config(str(tmp_path)) == CONFIGS["qwen3-8b"]
