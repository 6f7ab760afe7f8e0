"""A model's shape and a piece of hardware in; sizes, times and rates that arithmetic alone can tell out.

Everything is in SI units: bytes, seconds, FLOP. These are floors and ceilings, not predictions: host, launch and collective
overhead are in none of them, and on small models those are most of a step."""

from __future__ import annotations

from collections.abc import Sequence

from pdslurm.plan.model import ModelShape


def link_bytes_per_s(lanes: int, gigabit_per_s: float, *, coding: float = 1.0) -> float:
    """Peak of one direction of a link: lanes · rate of a lane · share of the bits that is data (PCIe from 3.0 on: 128/130).

    Source: PCI Express base specification 3.0 to 5.0; NVLink and Ethernet are given by their data rate, coding = 1.
    Known error: an upper bound. About 80 % of PCIe's peak and 90-95 % of InfiniBand's are reached in use."""
    return lanes * gigabit_per_s * coding * 1e9 / 8


def transfer_s(size_bytes: float, bytes_per_s: float, *, start_s: float = 0.0) -> float:
    """Time to move `size_bytes`: t0 + bytes / bandwidth.

    Known error: a floor. NIXL in service moved 167 MB in 38.7 ms, 4.3 GB/s a rank (vLLM issue 50913), for each of 1,785
    descriptors costs time of its own; and a transfer in a burst waits behind the others."""
    return start_s + size_bytes / bytes_per_s


def prefill_flops(shape: ModelShape, tokens: float, *, attention_dims: tuple[int, int] | None = None) -> float:
    """FLOP to prefill one prompt: 2·P_active·s + L·heads·(d_qk + d_v)·s², causal attention counted at half.

    `attention_dims` is (d_qk, d_v); for MHA and GQA both are the head's size, MLA has to be told its own.
    Source: Kaplan et al. 2020 (2·P a token); Narayanan et al. 2021, appendix (attention).
    Known error: norms, rotary embedding and softmax are left out (under 1 % of models from 7 B on); kernels that do not skip
    the masked half do twice the attention. The output projection is counted for every token though vLLM computes it for the
    last alone: at most vocab·hidden/P_active, 7 % for an 8 B Llama."""
    if shape.mla_rank and attention_dims is None:
        raise ValueError("attention_dims: a model with MLA needs its (d_qk, d_v), e.g. (192, 128) for DeepSeek-V2")
    qk, v = attention_dims or (shape.head_dim, shape.head_dim)
    return 2 * shape.active_parameters * tokens + shape.layers * shape.heads * (qk + v) * tokens**2


def prefill_s(shape: ModelShape, tokens: float, dtype_bytes: int, *, flop_per_s: float, bytes_per_s: float) -> float:
    """Floor of one prompt's prefill on one GPU: compute, or reading the active weights once, whichever takes longer.

    Source: roofline model (Williams et al. 2009). Known error: a floor. 40-60 % of a GPU's dense peak is what good kernels
    reach on long prompts, far less on short ones; give `flop_per_s` accordingly."""
    compute = prefill_flops(shape, tokens) / flop_per_s
    return max(compute, shape.active_parameters * dtype_bytes / bytes_per_s)


def experts_touched(shape: ModelShape, batch: int) -> float:
    """Expected experts of a layer that a step of `batch` tokens reads: E·(1 - (1 - k/E)^B); 0 for a dense model.

    Known error: assumes that the router picks evenly. Skewed routing touches fewer."""
    if not shape.experts:
        return 0.0
    return shape.experts * (1 - (1 - shape.experts_per_token / shape.experts) ** batch)


def decode_step_bytes(shape: ModelShape, batch: int, context: float, dtype_bytes: int, *, tensor_parallel: int = 1) -> float:
    """Bytes that one GPU reads from its memory for a decode step of `batch` requests of `context` tokens each: weights that
    every token uses, the touched experts, and all of their KV.

    Weights divide by TP; MLA's KV does not. The table of the input embedding is looked up, not read.
    Source: as the roofline model counts. Known error: a floor of the traffic; activations are left out (under 1 %)."""
    lookup = 0 if shape.tied_embeddings else shape.vocab * shape.hidden
    experts = shape.expert_parameters * experts_touched(shape, batch) / shape.experts if shape.experts else 0.0
    weights = (shape.dense_parameters - lookup + experts) * dtype_bytes / tensor_parallel
    return weights + batch * context * shape.kv_bytes_per_token_per_gpu(dtype_bytes, tensor_parallel=tensor_parallel)


def tensor_parallel_sizes(heads: int) -> tuple[int, ...]:
    """TP sizes that a model with `heads` attention heads can have: vLLM gives each rank as many heads as the others."""
    return tuple(n for n in range(1, heads + 1) if heads % n == 0)


def requests_in_flight(rate_per_s: float, latency_s: float) -> float:
    """Little's law: mean number of requests in the system = rate · mean latency (Little 1961).

    Known error: exact for means over a long time. A median in place of the mean, or a window of few requests, is off."""
    return rate_per_s * latency_s


def relative_change(after: float, before: float) -> float:
    """(after - before) / before."""
    return after / before - 1


def crossover_tokens(shape: ModelShape, dtype_bytes: int, *, bytes_per_s: float, flop_per_s: float) -> float | None:
    """Length of a prompt whose KV takes as long to move as to compute; None where the two lines never meet.

    Both have a term linear in the length, and prefill a quadratic one besides: transfer is the slower for all lengths below the
    crossing, so that there is one only where moving a token's KV takes longer than its 2·P_active FLOP.
    Known error: that of `transfer_s` and `prefill_flops`."""
    per_token = shape.kv_bytes_per_token(dtype_bytes) * flop_per_s / bytes_per_s
    quadratic = prefill_flops(shape, 1) - 2 * shape.active_parameters
    tokens = (per_token - 2 * shape.active_parameters) / quadratic
    return tokens if tokens > 0 else None


def shared_prefix(earlier: int, later: int, *, block: int) -> float:
    """Share of a prompt of `later` tokens that vLLM's prefix cache holds after the same stream's prompt of `earlier` tokens: whole
    blocks, and never the last token, which has to be computed for its logits.

    Source: vLLM's KV cache manager; `vllm bench serve` draws a random prompt from seed and index alone, so that under one
    seed the shorter prompt begins the longer one. Known error: an upper bound; blocks may have been evicted in between."""
    return min(earlier, later - 1) // block * block / later


def line_through(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """(intercept, slope) of the line through two points (x, y): start-up time and time a byte, or latency without load and its
    growth. Known error: two points have no residual; nothing says that a line is right."""
    slope = (second[1] - first[1]) / (second[0] - first[0])
    return first[1] - slope * first[0], slope


def first_below(values: Sequence[tuple[int, float]], share: float) -> int | None:
    """The first x of (x, y) pairs whose y is below `share` of the first pair's y."""
    return next((x for x, y in values if y < share * values[0][1]), None)
