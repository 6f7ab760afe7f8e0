"""What an engine step computes in; how long the step takes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Protocol

from pdslurm.errors import ConfigError
from pdslurm.plan.model import OVERHEAD_BYTES, ModelShape
from pdslurm.predict.gpus import Gpu


@dataclass(frozen=True, slots=True)
class Batch:
    """What one engine computes in one step. Lengths are in tokens."""

    chunks: tuple[tuple[int, int], ...] = ()  # of each prompt that is computed: new tokens, and tokens before them
    decodes: int = 0  # requests that compute one token
    decode_context: int = 0  # tokens that those attend to, themselves included, all requests together
    sampled: int = 0  # requests that get a token at the step's end
    group_tokens: int = 0  # new tokens of all ranks that step together; 0: this engine steps alone

    @property
    def tokens(self) -> int:
        return self.decodes + sum(new for new, _ in self.chunks)

    @property
    def requests(self) -> int:
        return self.decodes + len(self.chunks)


class StepCost(Protocol):
    """How long a step takes."""

    def step_s(self, batch: Batch) -> float:
        """Seconds from the step's start to its end, without the posting of transfers."""


@dataclass(frozen=True)
class Coefficients:
    """What hardware and software add to physics. The defaults come from Llama-3.1-8B on two H100 SXM (results/h100x2) and are for
    use without a calibration; shares are of the peaks of the data sheet or of the link."""

    step_s: float = 0.7e-3  # of each step
    layer_s: float = 2e-5  # of each layer of a step
    request_s: float = 5.4e-6  # of each request of a step
    memory_share: float = 1.0
    compute_share: float = 0.62
    collective_s: float = 8e-6  # of each all-reduce, all-gather or reduce-scatter, whatever its size
    link_share: float = 0.7  # for collectives
    sync_s: float = 1e-3  # of a step in lock step, for each other data-parallel rank
    descriptor_s: float = 3.08e-6  # posting of each NIXL descriptor
    fetch_share: float = 0.2  # of a link, for KV that is fetched
    server_s: float = 0.012  # as in ClusterSpec
    handoff_s: float = 0.005  # as in ClusterSpec

    def as_json(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Coefficients:
        """What `as_json` gave; what is missing keeps its default. Raises ConfigError for an unknown name and for no number."""
        known = {each.name for each in fields(cls)}
        problems = [f"{name}: no such coefficient; there are {', '.join(sorted(known))}" for name in sorted({*values} - known)]
        for name in known & {*values}:
            value = values[name]
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not 0 <= value < float("inf") or (name.endswith("_share") and not value):
                allowed = "above 0" if name.endswith("_share") else "0 or above"
                problems.append(f"{name}={value!r}: must be a number, {allowed}")
        if problems:
            raise ConfigError(sorted(problems))
        return cls(**{name: float(value) for name, value in values.items()})


class Terms(NamedTuple):
    """A step's time is the sum of these, each by its coefficient; memory, compute and link by the inverse of their shares."""

    layers: int
    requests: int
    memory_s: float  # seconds at the peak
    compute_s: float
    collectives: int
    link_s: float
    other_ranks: int


class PhysicsCost:
    """A step of a decoder-only transformer on one GPU or on `tensor_parallel` of them: memory traffic over bandwidth, plus
    arithmetic over peak, plus overheads. The sum is linear in its coefficients, so that they can be fitted; a GPU overlaps some of
    what is added here, so that a fitted share may be above 1.

    Memory: weights once (of an MoE model the experts that B tokens touch, E·(1-(1-k/E)^B) on average), the KV of all contexts, and
    the new KV. Arithmetic: 2 FLOP for each active parameter and token, the output projection for sampled tokens alone, and
    attention, 4·heads·head_dim for each layer and pair of tokens. TP divides all but MLA's KV. With `data_parallel` ranks in lock
    step, experts are divided over the ranks, and each layer gathers the tokens of all ranks and scatters the sums."""

    def __init__(
        self,
        shape: ModelShape,
        gpu: Gpu,
        coefficients: Coefficients,
        *,
        tensor_parallel: int = 1,
        data_parallel: int = 1,
        dtype_bytes: float = 2,
        kv_dtype_bytes: int = 2,
        link_bytes_per_s: float | None = None,  # None: the GPU's own
    ) -> None:
        self.shape, self.coefficients, self.tp, self.dp = shape, coefficients, tensor_parallel, data_parallel
        self.memory_per_s, self.flops_per_s = gpu.memory_bytes_per_s, gpu.flops_per_s
        self.link_per_s = link_bytes_per_s or gpu.link_bytes_per_s
        head = shape.vocab * shape.hidden
        read = shape.dense_parameters - (0 if shape.tied_embeddings else head)  # of the input embedding's table a few rows are
        self.dense_bytes = read * dtype_bytes / tensor_parallel
        self.expert_bytes = shape.expert_parameters * dtype_bytes / (tensor_parallel * data_parallel)
        self.untouched = 1 - shape.experts_per_token / shape.experts if shape.experts else 1.0  # by one token
        self.kv_bytes = shape.kv_bytes_per_token_per_gpu(kv_dtype_bytes, tensor_parallel=tensor_parallel)
        self.token_flops = 2 * (shape.active_parameters - head) / tensor_parallel
        self.head_flops = 2 * head / tensor_parallel
        self.pair_flops = 4 * shape.layers * shape.heads * shape.head_dim / tensor_parallel
        self.decode_pair_flops = 4 * shape.layers * shape.heads * (shape.mla_rank or shape.head_dim) / tensor_parallel
        self.hidden_bytes = shape.hidden * dtype_bytes

    def step_s(self, batch: Batch) -> float:
        c, terms = self.coefficients, self.terms(batch)
        return (
            c.step_s
            + c.layer_s * terms.layers
            + c.request_s * terms.requests
            + terms.memory_s / c.memory_share
            + terms.compute_s / c.compute_share
            + c.collective_s * terms.collectives
            + terms.link_s / c.link_share
            + c.sync_s * terms.other_ranks
        )

    def terms(self, batch: Batch) -> Terms:
        tokens, layers = batch.tokens, self.shape.layers
        together = max(batch.group_tokens, tokens)
        context = batch.decode_context + sum(new + before for new, before in batch.chunks)
        pairs = sum(new * before + new * (new + 1) / 2 for new, before in batch.chunks)
        memory = self.dense_bytes + self.expert_bytes * (1 - self.untouched**together) + self.kv_bytes * (context + tokens)
        flops = self.token_flops * tokens + self.head_flops * batch.sampled
        flops += self.pair_flops * pairs + self.decode_pair_flops * batch.decode_context
        reduces = 2 * layers if self.tp > 1 else 0
        exchanges = 2 * layers if self.dp > 1 else 0
        moved = reduces * 2 * (self.tp - 1) / self.tp * tokens + exchanges * (self.dp - 1) / self.dp * together
        return Terms(
            layers,
            batch.requests,
            memory / self.memory_per_s,
            flops / self.flops_per_s,
            reduces + exchanges,
            moved * self.hidden_bytes / self.link_per_s,
            self.dp - 1,
        )


def kv_blocks(
    shape: ModelShape,
    memory_bytes: float,
    *,
    utilization: float = 0.9,
    block_size: int = 16,
    tensor_parallel: int = 1,
    data_parallel: int = 1,
    dtype_bytes: int = 2,
    kv_dtype_bytes: int = 2,
) -> int:
    """KV blocks of one rank: what gpu_memory_utilization leaves beside weights, activations and CUDA graphs. `data_parallel` is
    that of ranks that share experts. Raises ConfigError where nothing is left."""
    weights = shape.weight_bytes_per_gpu(dtype_bytes, tensor_parallel=tensor_parallel, data_parallel=data_parallel)
    left = memory_bytes * utilization - weights - OVERHEAD_BYTES
    blocks = int(left // (block_size * shape.kv_bytes_per_token_per_gpu(kv_dtype_bytes, tensor_parallel=tensor_parallel)))
    if blocks < 1:
        raise ConfigError([f"the weights take {weights / 2**30:.1f} GiB of each GPU, and leave no room for KV; use more GPUs"])
    return blocks
