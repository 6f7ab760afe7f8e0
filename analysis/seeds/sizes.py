"""Model shapes and hardware figures in; what the claims on sizes, transfer times and prefill should have said out.

Each function here is a `formula` of seed_claims.csv: Data and the row's inputs, all text, in; a Found in the row's unit out."""

from __future__ import annotations

from analysis.seeds import formulas
from analysis.seeds.claims import Computed, Estimate, Span, Unknown, Words, number
from analysis.seeds.inputs import Data
from analysis.stats.bounds import exact

KILO, MEGA, GIGA = 1e3, 1e6, 1e9
BF16 = 2


def kv_per_token(data: Data, *, model: str, dtype_bytes: str, against: str = "") -> Computed:
    """kB of KV a token takes; `against` (MODEL:BYTES) is put beside it in the note."""
    size = data.models[model].kv_bytes_per_token(int(dtype_bytes))
    note = ""
    if against:
        other, width = against.split(":")
        times = data.models[other].kv_bytes_per_token(int(width)) / size
        note = f"{number(times)} times less than {other} with {width} bytes a number."
    return Estimate(exact(size / KILO), note)


def kv_of_prompts(data: Data, *, model: str, dtype_bytes: str, tokens: str, unit_bytes: str) -> Computed:
    """KV of one length, or of a shortest and a longest prompt."""
    each = data.models[model].kv_bytes_per_token(int(dtype_bytes))
    sizes = [each * int(n) / float(unit_bytes) for n in tokens.split(",")]
    return Estimate(exact(sizes[0])) if len(sizes) == 1 else Span(sizes[0], sizes[-1])


def kv_sent(data: Data, *, model: str, tokens: str) -> Computed:
    """MB and calls that a connector sends which moves keys and values alone, a call for each of them and layer."""
    shape = data.models[model]
    calls = 2 * shape.layers
    size = shape.kv_bytes_per_token(BF16) * int(tokens) / MEGA
    return Estimate(exact(size), f"{calls} calls where each layer's keys and values go apart; hidden states are not sent.")


def transfer_ms(
    data: Data, *, model: str, dtype_bytes: str, tokens: str, links: str, to: str = "", together: str = "1"
) -> Computed:
    """Time for one prompt's KV over a link at its peak, over the slowest and the fastest of several, or (`to=in_use`) between
    peak and what is reached in use; `together` links side by side."""
    size = data.models[model].kv_bytes_per_token(int(dtype_bytes)) * int(tokens)
    names = links.split(",")
    speeds = [data.link(name) * int(together) for name in names]
    if to == "in_use":
        speeds += [data.link_in_use(name) * int(together) for name in names]
    times = [1e3 * formulas.transfer_s(size, speed) for speed in speeds]
    note = f"{number(size / MEGA)} MB at {' and '.join(number(speed / GIGA) for speed in speeds)} GB/s."
    return Estimate(exact(times[0]), note) if len(times) == 1 else Span(min(times), max(times), note)


def transfers_ms(data: Data, *, model: str, dtype_bytes: str, tokens: str, link: str, together: str, claimed_gb_s: str) -> Computed:
    """Times for a shortest and a longest prompt; the note repeats them at the speed that the text assumed."""
    each = data.models[model].kv_bytes_per_token(int(dtype_bytes))
    sizes = [each * int(n) for n in tokens.split(",")]
    speed = data.link(link) * int(together)
    ours = [1e3 * formulas.transfer_s(size, speed) for size in sizes]
    theirs = [1e3 * formulas.transfer_s(size, float(claimed_gb_s) * GIGA) for size in sizes]
    premise = f"At {claimed_gb_s} GB/s it would be {' and '.join(map(number, theirs))} ms, as the text says"
    return Span(ours[0], ours[-1], f"{premise}; {together} links have {number(speed / GIGA)} GB/s.")


def link_peak(data: Data, *, link: str) -> Computed:
    """GB/s of one direction."""
    speed = data.link(link) / GIGA
    return Estimate(exact(speed), f"{number(2 * speed)} GB/s is both directions together.")


def weights_fit(data: Data, *, model: str, gpu: str, tensor_parallel: str) -> Computed:
    """Whether weights alone fit the memory of a card."""
    weights = data.models[model].weight_bytes_per_gpu(BF16, tensor_parallel=int(tensor_parallel))
    memory = data.hardware[gpu, "memory_bytes"]
    note = f"{number(weights / GIGA)} GB of weights, {number(memory / GIGA)} GB of memory."
    return Words("yes" if weights < memory else "no", note)


def heads_divide(data: Data, *, model: str, tensor_parallel: str) -> Computed:
    """Whether each rank can have as many heads as the others."""
    sizes = formulas.tensor_parallel_sizes(data.models[model].heads)
    allowed = ", ".join(map(str, sizes))
    return Words("yes" if int(tensor_parallel) in sizes else "no", f"{data.models[model].heads} heads: TP can be {allowed}.")


def step_over_kv(data: Data, *, model: str, batch: str, context: str) -> Computed:
    """Bytes of a decode step, in multiples of the KV that it reads."""
    shape = data.models[model]

    def times(size: int) -> float:
        kv = size * int(context) * shape.kv_bytes_per_token(BF16)
        return formulas.decode_step_bytes(shape, size, float(context), BF16) / kv

    many = 32
    return Estimate(
        exact(times(int(batch))), f"With {many} requests in the batch {number(times(many))}: weights are read once a step."
    )


def prefill_floor_ms(data: Data, *, model: str, tokens: str, gpu: str, share: str) -> Computed:
    """Floor of prefill for a shortest and a longest prompt on one GPU that reaches `share` of its dense peak."""
    lengths = [int(n) for n in tokens.split(",")]
    first, last = (1e3 * _prefill_s(data, model, n, gpu, float(share)) for n in (lengths[0], lengths[-1]))
    return Span(first, last, f"The floor grows {number(last / first)} times from {lengths[0]} to {lengths[-1]} tokens.")


def prefill_ms(data: Data, *, model: str, tokens: str, gpu: str, gpus: str, share: str) -> Computed:
    """Prefill of a shortest and a longest prompt on several GPUs together, attention included; the note says its share."""
    shape, speed = data.models[model], int(gpus) * float(share) * data.hardware[gpu, "bf16_flop_per_s"]
    lengths = [int(n) for n in tokens.split(",")]
    flops = [formulas.prefill_flops(shape, n) for n in lengths]
    more = [formulas.relative_change(f, 2 * shape.active_parameters * n) for f, n in zip(flops, lengths, strict=True)]
    said = " and ".join(f"{100 * m:.0f} %" for m in more)
    return Span(1e3 * flops[0] / speed, 1e3 * flops[-1] / speed, f"Attention adds {said} to the part that is linear in the length.")


def crossover(data: Data, *, model: str, link: str, gpu: str, gpus: str, share: str, tokens: str) -> Computed:
    """Tokens from which a prompt's KV takes no longer to move than to compute; none where it never does."""
    shape, speed = data.models[model], int(gpus) * float(share) * data.hardware[gpu, "bf16_flop_per_s"]
    at = formulas.crossover_tokens(shape, BF16, bytes_per_s=data.link(link), flop_per_s=speed)

    def part(n: int) -> float:
        moved = formulas.transfer_s(n * shape.kv_bytes_per_token(BF16), data.link(link))
        return 100 * moved / (formulas.prefill_flops(shape, n) / speed)

    said = ", ".join(f"{number(part(int(n)))} % of prefill at {n}" for n in tokens.split(","))
    slow = shape.kv_bytes_per_token(BF16) * speed / (2 * shape.active_parameters)
    note = f"Both grow with the length, prefill the faster: {said}. Only a link below {number(slow / GIGA)} GB/s has a crossing."
    return Words("none", note) if at is None else Estimate(exact(at), note)


def ring_link(data: Data, *, pair: str, small_bytes: str, large_bytes: str, bandwidth_gib: str, latency_ns: str) -> Computed:
    """A simulator's setting is no claim on a machine; the note has what its authors measured on such cards."""
    said = []
    for name in ("all_gather", "all_reduce"):  # over two ranks both send their input once in each direction
        ends = [(float(n), data.hardware[pair, f"{name}_{kind}_us"]) for n, kind in ((small_bytes, "8mib"), (large_bytes, "20mib"))]
        start, per_byte = formulas.line_through(*ends)
        said.append(f"{name} {number(1e6 / per_byte / 2**30)} GiB/s and {number(start)} us")
    setting = f"{bandwidth_gib} GiB/s and {number(float(latency_ns) / 1e3)} us"
    measured = f"its authors later measured on two such cards: {', '.join(said)}"
    note = f"By the simulator's schema the setting reads {setting}; {measured}."
    return Unknown("a setting of a simulation, not a result of one", note)


def _prefill_s(data: Data, model: str, tokens: int, gpu: str, share: float) -> float:
    speed, memory = share * data.hardware[gpu, "bf16_flop_per_s"], data.hardware[gpu, "memory_bytes_per_s"]
    return formulas.prefill_s(data.models[model], tokens, BF16, flop_per_s=speed, bytes_per_s=memory)
