"""Formulas and intervals against published figures and sums done by hand; the source stands beside each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analysis.seeds import formulas
from analysis.seeds.inputs import load
from analysis.stats.bounds import Bounded, exact, least, within
from pdslurm.plan.model import ModelShape

SHAPES = load().models


@pytest.mark.parametrize(
    ("lanes", "gigabit", "coding", "gb_per_s"),
    [
        (18, 200, 1.0, 450),  # NVLink 4: 900 GB/s in NVIDIA's H100 data sheet is both directions
        (16, 16, 128 / 130, 31.51),  # PCI-SIG: PCIe 4.0 x16
        (16, 32, 128 / 130, 63.02),  # PCI-SIG: PCIe 5.0 x16
        (1, 10, 1.0, 1.25),
        (1, 400, 1.0, 50),
    ],
)
def test_links(lanes: int, gigabit: float, coding: float, gb_per_s: float) -> None:
    assert formulas.link_bytes_per_s(lanes, gigabit, coding=coding) / 1e9 == pytest.approx(gb_per_s, rel=1e-4)


def test_transfer() -> None:
    assert formulas.transfer_s(167e6, 4.3e9) == pytest.approx(38.7e-3, rel=5e-3)  # vLLM issue 50913, in service
    assert formulas.transfer_s(1e9, 50e9, start_s=0.005) == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("model", "tokens", "flops"),
    [
        # 2 · (32 · (4096·128·80 + 3·4096·14336) + 128256·4096) = 2 · 7,504,658,432
        ("llama_3_1_8b", 1, 15_009_316_864 + 32 * 32 * 256),
        ("llama_3_1_8b", 2048, 30_739_080_937_472 + 1_099_511_627_776),
        ("llama_3_1_70b", 4096, 2 * 69_501_714_432 * 4096 + 80 * 64 * 256 * 4096**2),
    ],
)
def test_prefill_flops(model: str, tokens: int, flops: int) -> None:
    assert formulas.prefill_flops(SHAPES[model], tokens) == pytest.approx(flops, rel=1e-9)


def test_prefill_flops_of_mla_wants_its_dimensions() -> None:
    shape = SHAPES["deepseek_v2_lite"]
    assert formulas.prefill_flops(shape, 1, attention_dims=(192, 128)) == pytest.approx(4.9e9, rel=3e-3)  # 2 · 2.45 B active
    more = formulas.prefill_flops(shape, 1000, attention_dims=(192, 128)) - 2 * shape.active_parameters * 1000
    assert more == pytest.approx(27 * 16 * 320 * 1000**2)
    with pytest.raises(ValueError, match=r"attention_dims.*192, 128"):
        formulas.prefill_flops(shape, 1)


def test_prefill_is_bound_by_memory_when_short_and_by_compute_when_long() -> None:
    shape = SHAPES["llama_3_1_8b"]
    short, long = (formulas.prefill_s(shape, n, 2, flop_per_s=600e12, bytes_per_s=3.35e12) for n in (16, 2048))
    assert short == pytest.approx(2 * 7_504_658_432 / 3.35e12)
    assert long == pytest.approx(31_838_592_565_248 / 600e12)


@pytest.mark.parametrize(
    ("model", "batch", "touched"),
    [
        ("deepseek_v2_lite", 1, 6),
        ("deepseek_v2_lite", 2, 64 * (1 - (58 / 64) ** 2)),  # 11.44: two tokens share some
        ("deepseek_v2_lite", 512, 64),
        ("llama_3_1_8b", 64, 0),
    ],
)
def test_experts_touched(model: str, batch: int, touched: float) -> None:
    assert formulas.experts_touched(SHAPES[model], batch) == pytest.approx(touched)


@pytest.mark.parametrize(
    ("model", "batch", "context", "tp", "gigabytes"),
    [
        ("llama_2_7b", 1, 0, 1, 13.215),  # 6.738 B published, less the embedding's 0.131 B, two bytes each
        ("llama_2_7b", 1, 4096, 1, 13.215 + 2.147),
        ("llama_2_7b", 8, 4096, 1, 13.215 + 8 * 2.147),
        ("llama_3_1_8b", 1, 8192, 8, (15.009 + 1.0737) / 8),  # both divide
        ("llama_3_1_8b", 1, 8192, 16, 15.009 / 16 + 1.0737 / 8),  # 8 KV heads: one stays on each rank
        ("deepseek_v2_lite", 1, 0, 1, 4.9026),  # the 2.4513 B active parameters alone
        ("deepseek_v2_lite", 1, 10_000, 8, 4.9026 / 8 + 0.311),  # MLA's latent is on every rank
        ("deepseek_v2_lite", 10_000, 0, 1, 31.41 - 0.419),  # all experts
    ],
)
def test_decode_step_bytes(model: str, batch: int, context: int, tp: int, gigabytes: float) -> None:
    found = formulas.decode_step_bytes(SHAPES[model], batch, context, 2, tensor_parallel=tp)
    assert found / 1e9 == pytest.approx(gigabytes, rel=1e-3)


@pytest.mark.parametrize(("heads", "sizes"), [(16, (1, 2, 4, 8, 16)), (40, (1, 2, 4, 5, 8, 10, 20, 40)), (7, (1, 7))])
def test_tensor_parallel_sizes(heads: int, sizes: tuple[int, ...]) -> None:
    assert formulas.tensor_parallel_sizes(heads) == sizes


def test_littles_law_and_change() -> None:
    assert formulas.requests_in_flight(10, 0.5) == 5
    assert formulas.relative_change(656.14, 923.94) == pytest.approx(-0.2898, abs=5e-5)


def test_crossover_is_where_both_take_as_long() -> None:
    shape = SHAPES["llama_3_1_70b"]
    at = formulas.crossover_tokens(shape, 2, bytes_per_s=4e9, flop_per_s=2e15)
    assert at is not None
    moved = formulas.transfer_s(at * shape.kv_bytes_per_token(2), 4e9)
    assert moved == pytest.approx(formulas.prefill_flops(shape, at) / 2e15)
    assert formulas.crossover_tokens(shape, 2, bytes_per_s=12e9, flop_per_s=2e15) is None
    assert formulas.crossover_tokens(replace(shape, kv_heads=64), 2, bytes_per_s=12e9, flop_per_s=2e15) is not None


@pytest.mark.parametrize(
    ("earlier", "later", "share"),
    [(512, 1024, 0.5), (512, 512, 496 / 512), (100, 200, 96 / 200), (4096, 512, 496 / 512), (8, 100, 0)],
)
def test_shared_prefix_is_whole_blocks_and_never_the_last_token(earlier: int, later: int, share: float) -> None:
    assert formulas.shared_prefix(earlier, later, block=16) == pytest.approx(share)


def test_line_and_first_below() -> None:
    assert formulas.line_through((2, 923.94), (6, 947.90)) == pytest.approx((911.96, 5.99))
    assert formulas.first_below([(1, 10.0), (2, 6.0), (4, 4.0), (8, 5.5)], 0.5) == 4
    assert formulas.first_below([(1, 10.0), (2, 6.0)], 0.5) is None


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (within(10, 1) + within(5, 2), (15, 12, 18)),
        (within(10, 1) - within(5, 2), (5, 2, 8)),
        (within(10, 1) * within(5, 2), (50, 27, 77)),
        (within(10, 1) / within(5, 1), (2, 1.5, 2.75)),
        (within(0, 1) * -3.0, (0, -3, 3)),
        (within(10, 1) / 10.0, (1, 0.9, 1.1)),
        (least(within(10, 1), Bounded(10.5, 8, 12)), (10, 8, 11)),
    ],
)
def test_intervals_carry_their_bounds(found: Bounded, expected: tuple[float, float, float]) -> None:
    assert (found.value, found.low, found.high) == pytest.approx(expected)


def test_intervals_say_what_cannot_be() -> None:
    assert within(1, 0.5).overlaps(within(2, 0.5))
    assert not within(1, 0.4).overlaps(within(2, 0.5))
    assert exact(within(1, 2)) == within(1, 2)
    with pytest.raises(ValueError, match="does not hold its value 3"):
        Bounded(3, 1, 2)
    with pytest.raises(ValueError, match="with 0 in it, -1 to 1"):
        exact(1) / within(0, 1)


def test_the_shapes_are_those_that_are_published() -> None:
    published = {"llama_2_7b": 6.738e9, "llama_3_1_8b": 8.030e9, "llama_3_1_70b": 70.55e9, "deepseek_v2_lite": 15.71e9}
    assert {name: shape.parameters for name, shape in SHAPES.items()} == pytest.approx(published, rel=1e-3)
    assert all(isinstance(shape, ModelShape) for shape in SHAPES.values())
