"""How long a step takes by physics, against numbers worked out by hand."""

from __future__ import annotations

import json

import pytest

from pdslurm.errors import ConfigError
from pdslurm.plan.model import ModelShape
from pdslurm.predict.cost import Batch, Coefficients, PhysicsCost, kv_blocks
from pdslurm.predict.gpus import Gpu

# 2 layers of 4 heads of 8, hidden size 32; the two embeddings have 100·32 parameters each.
DENSE = ModelShape(
    layers=2, hidden=32, heads=4, kv_heads=2, head_dim=8, context=4096, vocab=100, tied_embeddings=False, mla_rank=0,
    dense_parameters=16_400, expert_parameters=0, experts=0, experts_per_token=0,
)  # fmt: skip
SPARSE = ModelShape(
    layers=2, hidden=32, heads=4, kv_heads=4, head_dim=8, context=4096, vocab=100, tied_embeddings=False, mla_rank=12,
    dense_parameters=16_400, expert_parameters=80_000, experts=8, experts_per_token=2,
)  # fmt: skip
GPU = Gpu("test", flops_per_s=1e6, memory_bytes_per_s=1e5, memory_bytes=1e6, link_bytes_per_s=1e4)
KV = 2 * 2 * 2 * 8 * 2  # bytes a token of DENSE


def cost(shape: ModelShape = DENSE, **values: int) -> PhysicsCost:
    return PhysicsCost(shape, GPU, Coefficients(), **values)


def test_a_decode_step_reads_weights_and_contexts() -> None:
    terms = cost().terms(Batch(decodes=3, decode_context=60, sampled=3))
    assert terms.memory_s == pytest.approx(((16_400 - 3200) * 2 + (60 + 3) * KV) / 1e5)
    assert terms.compute_s == pytest.approx((2 * (16_400 - 3200) * 3 + 4 * 2 * 4 * 8 * 60) / 1e6)
    assert (terms.layers, terms.requests, terms.collectives, terms.link_s, terms.other_ranks) == (2, 3, 0, 0.0, 0)


def test_a_whole_prompt_s_attention_is_that_of_physics() -> None:
    """2·P·s + L·heads·(dqk+dv)·s², where only the last token needs the output projection; half a token's pair is its own."""
    terms = cost().terms(Batch(chunks=((1000, 0),), sampled=1))
    attention = 2 * 4 * 16 * 1000**2
    assert terms.compute_s == pytest.approx((2 * (16_400 - 6400) * 1000 + 2 * 3200 + attention) / 1e6, rel=1e-3)


def test_chunks_of_a_prompt_do_the_same_work_as_the_whole() -> None:
    whole = cost().terms(Batch(chunks=((1000, 0),), sampled=1)).compute_s
    parts = [cost().terms(Batch(chunks=((250, before),), sampled=before == 750)).compute_s for before in range(0, 1000, 250)]
    assert sum(parts) == pytest.approx(whole)


def test_tensor_parallel_divides_weights_work_and_kv_and_adds_two_all_reduces_a_layer() -> None:
    batch = Batch(chunks=((10, 0),), decodes=1, decode_context=6, sampled=2)
    one, two = cost().terms(batch), cost(tensor_parallel=2).terms(batch)
    assert two.memory_s == pytest.approx(one.memory_s / 2)
    assert two.compute_s == pytest.approx(one.compute_s / 2)
    assert two.collectives == 4
    assert two.link_s == pytest.approx(4 * 2 * 0.5 * 11 * 32 * 2 / 1e4)  # a ring moves 2·(n-1)/n of 11 tokens of 32 values


def test_mla_s_kv_is_not_divided() -> None:
    reads = [
        cost(SPARSE, tensor_parallel=tp).terms(Batch(decodes=1, decode_context=1001, sampled=1)).memory_s
        - cost(SPARSE, tensor_parallel=tp).terms(Batch(decodes=1, decode_context=1, sampled=1)).memory_s
        for tp in (1, 2)
    ]
    assert reads == [pytest.approx(1000 * 2 * 12 * 2 / 1e5)] * 2


@pytest.mark.parametrize(("tokens", "share"), [(1, 2 / 8), (2, 1 - 0.75**2), (1000, 1.0)])
def test_experts_are_read_as_far_as_tokens_touch_them(tokens: int, share: float) -> None:
    terms = cost(SPARSE).terms(Batch(decodes=tokens, decode_context=tokens, sampled=tokens))
    assert terms.memory_s == pytest.approx(((16_400 - 3200) * 2 + share * 160_000 + 2 * tokens * 48) / 1e5)


def test_ranks_in_lock_step_divide_the_experts_and_exchange_all_tokens() -> None:
    alone, together = cost(SPARSE), cost(SPARSE, data_parallel=2)
    idle = together.terms(Batch(decodes=1, decode_context=1, group_tokens=9))
    assert (idle.collectives, idle.other_ranks) == (4, 1)
    assert idle.link_s == pytest.approx(4 * 0.5 * 9 * 32 * 2 / 1e4)
    assert together.expert_bytes == alone.expert_bytes / 2
    assert idle.memory_s == pytest.approx(((16_400 - 3200) * 2 + (1 - 0.75**9) * 80_000 + 2 * 48) / 1e5)


def test_the_time_is_the_sum_of_the_terms_by_their_coefficients() -> None:
    c = Coefficients(1.0, 0.5, 0.25, 0.5, 0.25, 0.125, 0.5, 2.0)
    physics = PhysicsCost(SPARSE, GPU, c, tensor_parallel=2, data_parallel=2)
    batch = Batch(decodes=3, decode_context=60, sampled=3, group_tokens=7)
    t = physics.terms(batch)
    expected = 1 + 0.5 * 2 + 0.25 * 3 + t.memory_s / 0.5 + t.compute_s / 0.25 + 0.125 * 8 + t.link_s / 0.5 + 2 * 1
    assert physics.step_s(batch) == pytest.approx(expected)


def test_coefficients_to_json_and_back() -> None:
    given = Coefficients(step_s=0.004, compute_share=0.5)
    assert Coefficients.from_json(json.loads(json.dumps(given.as_json()))) == given
    assert Coefficients.from_json({"step_s": 0.004}) == Coefficients(step_s=0.004)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepp_s": 1}, "stepp_s: no such coefficient; there are collective_s"),
        ({"step_s": -1}, "step_s=-1: must be a number, 0 or above"),
        ({"memory_share": 0}, "memory_share=0: must be a number, above 0"),
        ({"step_s": None}, "step_s=None: must be a number"),
        ({"step_s": float("nan")}, "step_s=nan: must be a number"),
    ],
)
def test_coefficients_that_cannot_be_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Coefficients.from_json(values)


def test_kv_blocks_are_what_weights_and_activations_leave() -> None:
    assert kv_blocks(DENSE, 2 * 2**30, utilization=0.9, block_size=16) == int((1.8 * 2**30 - 32_800 - 1.5 * 2**30) // (16 * KV))
    with pytest.raises(ConfigError, match="leave no room for KV"):
        kv_blocks(DENSE, 2**30)


def test_kv_blocks_of_a_model_that_was_measured() -> None:
    """Llama-3.1-8B at 0.85 of an H100: vLLM 0.24 had 26,096 blocks (results/h100x2, logs)."""
    llama = ModelShape(
        layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, context=131_072, vocab=128_256, tied_embeddings=False,
        mla_rank=0, dense_parameters=8_029_995_008, expert_parameters=0, experts=0, experts_per_token=0,
    )  # fmt: skip
    assert kv_blocks(llama, 79 * 2**30, utilization=0.85) == pytest.approx(26_096, rel=0.01)
