"""The tables and drawings that the A/B post, the lesson, the simulator's page and the lab notes print in; what follows from
their own numbers out. Each function is a `formula` of seed_claims.csv, as in sizes.py."""

from __future__ import annotations

from analysis.seeds import formulas
from analysis.seeds.claims import Computed, Count, Estimate, Faulty, Span, Words, number
from analysis.seeds.inputs import Data, Row, as_written
from analysis.seeds.sizes import BF16, prefill_floor_ms
from analysis.stats.bounds import Bounded, exact

FEWEST_REQUESTS = 10  # below this one request more or less is over a tenth of the sample
LITTLE_ROOM = 1.10  # what a median in place of a mean and the window's edges may add to Little's law


def gain_of_pd(data: Data, *, concurrency: str, seconds: str) -> Computed:
    """P/D's gain in requests/s over the colocated engine, in %; faulty where a sample cannot be right."""
    row = _one(data.pcie_ab, concurrency=concurrency)
    after, before = as_written(row["pd_rps"]), as_written(row["colocated_rps"])
    gain = (after / before - 1) * 100.0
    apart = abs(after.value - before.value) * float(seconds)
    note = f"The runs are {apart:.1f} requests apart in {seconds} s."
    faults = [fault for arm in ("colocated", "pd") for fault in _sample_faults(row, arm, float(seconds))]
    return Faulty(gain, "; ".join(faults), note) if faults else Estimate(gain, note)


def _sample_faults(row: Row, arm: str, seconds: float) -> list[str]:
    """What makes one run's numbers impossible or too few."""
    rate, latency = as_written(row[f"{arm}_rps"]), as_written(row[f"{arm}_p50_ms"]) / 1e3
    flying, allowed = formulas.requests_in_flight(rate.value, latency.value), int(row["concurrency"])
    faults = []
    if rate.value * seconds < FEWEST_REQUESTS:
        faults.append(f"{arm} {number(rate.value * seconds)} requests in {seconds:.0f} s")
    if (rate * latency).low > LITTLE_ROOM * allowed:
        faults.append(f"{arm} {number(flying)} in flight where {allowed} was allowed (Little's law)")
    return faults


def latency_by_little(data: Data, *, concurrencies: str, tokens: str, model: str, tensor_parallel: str, gpu: str) -> Computed:
    """Latency in ms of a closed loop, concurrency over rate; the note compares a token's time with the floor of a step."""
    shape, memory = data.models[model], data.hardware[gpu, "memory_bytes_per_s"]
    latencies, ratios = [], []
    for concurrency in concurrencies.split(","):
        latencies.append(1e3 * int(concurrency) / float(_one(data.pcie_ab, concurrency=concurrency)["colocated_rps"]))
        step = formulas.decode_step_bytes(shape, int(concurrency), float(tokens), BF16, tensor_parallel=int(tensor_parallel))
        ratios.append(latencies[-1] / int(tokens) / (1e3 * step / memory))
    each = number(max(latencies) / int(tokens))
    note = f"{each} ms a token, {min(ratios):.0f} to {max(ratios):.0f} times the floor of a step: host and launch overhead."
    return Span(min(latencies), max(latencies), note)


def fields_in_common(data: Data, *, printed: str, upstream: str) -> Computed:
    """How many fields of a printed log line the program's own documentation has."""
    fields, known = printed.split(","), set(upstream.split(","))
    return Count(sum(f in known for f in fields), tuple(f for f in fields if f not in known))


def delayed_by_prefill(data: Data, *, first_token_ms: str, stall_from_ms: str, stall_to_ms: str) -> Computed:
    """Which latency of a request that was already decoding a prefill makes worse."""
    stall = float(stall_to_ms) - float(stall_from_ms)
    hit = "ITL" if float(first_token_ms) <= float(stall_from_ms) else "TTFT"
    return Words(hit, f"Their first tokens were out before; they wait {number(stall)} ms between two tokens.")


def ttft_of_drawing(data: Data, *, arrival_ms: str, prefill_ms: str, first_token_ms: str) -> Computed:
    """TTFT in ms that a drawing allows: `arrival_ms` and `first_token_ms` are first,last of what may be meant."""
    arrivals, firsts = ([float(x) for x in text.split(",")] for text in (arrival_ms, first_token_ms))
    low, high = firsts[0] - arrivals[-1], firsts[-1] - arrivals[0]
    return Span(low, high, f"The prefill itself takes {number(float(prefill_ms))} ms.")


def tokens_covered(data: Data, *, tokens_out: str) -> Computed:
    """TTFT over ITL in every row of the lab's table: how many tokens the first column covers."""
    ratios = [float(row["ttft_p50_ms"]) / float(row["itl_p50_ms"]) for row in data.lab_serving]
    whole = sum(round(ratio) == int(tokens_out) for ratio in ratios)
    return Span(min(ratios), max(ratios), f"In {whole} of {len(ratios)} rows it is the time of all {tokens_out} tokens of a reply.")


def itl_without_prefill(
    data: Data, *, gpu: str, tensor_parallel: str, rate: str, tokens_out: str, model: str, card: str, share: str, tokens_in: str
) -> Computed:
    """ITL in ms when the reply's time, less the floor of prefill for the shortest and the longest prompt, is shared by all
    tokens but the first."""
    whole = float(_lab(data, gpu, tensor_parallel, rate)["ttft_p50_ms"])
    floor = prefill_floor_ms(data, model=model, tokens=tokens_in, gpu=card, share=share)
    assert isinstance(floor, Span)
    low, high = ((whole - prefill) / (int(tokens_out) - 1) for prefill in (floor.high, floor.low))
    return Span(low, high, f"Up to {100 * (whole / int(tokens_out) / low - 1):.0f} % of it is prefill.")


def contention_ms(data: Data, *, gpu: str, tensor_parallel: str, rates: str) -> Computed:
    """What load added to a reply's time, in ms, at the higher of two rates: the line through both, back to no load."""
    slow, fast = ((float(rate), float(_lab(data, gpu, tensor_parallel, rate)["ttft_p50_ms"])) for rate in rates.split(","))
    alone, _ = formulas.line_through(slow, fast)
    return Estimate(
        exact(fast[1] - alone), f"{number(alone)} of {number(fast[1])} ms are there without load: the reply's own tokens."
    )


def tp_gain(data: Data, *, gpu: str, rates: str) -> Computed:
    """Change in % of a reply's time from TP=1 to TP=2, for a first and a last rate."""
    changes = []
    for rate in rates.split(","):
        two, one = (float(_lab(data, gpu, size, rate)["ttft_p50_ms"]) for size in ("2", "1"))
        changes.append(100 * formulas.relative_change(two, one))
    return Span(min(changes), max(changes))


def output_rate(data: Data, *, gpu: str, tensor_parallel: str, rate: str, tokens_out: str) -> Computed:
    """Output tokens/s of a row from its duration and the tokens that all other rows sent."""
    row = _lab(data, gpu, tensor_parallel, rate)
    others = [as_written(r["output_tok_s"]) * as_written(r["duration_s"]) for r in data.lab_serving if r is not row]
    tokens = Bounded(sum(o.value for o in others) / len(others), min(o.low for o in others), max(o.high for o in others))
    offered = float(rate) * int(tokens_out)
    sent = f"{number(tokens.value)} tokens, {number(tokens.value / int(tokens_out))} replies, in every row"
    return Estimate(
        tokens / as_written(row["duration_s"]), f"{sent}; {number(offered)} tok/s were offered: the load's rate, no capacity."
    )


def reach_of_contention(
    data: Data, *, model: str, link: str, gpu: str, tensor_parallel: str, rates: str, claimed_penalty_ms: str
) -> Computed:
    """Prompt tokens whose KV takes as long to move as contention costs: by our figure for contention, and by the text's."""
    ours = contention_ms(data, gpu=gpu, tensor_parallel=tensor_parallel, rates=rates)
    assert isinstance(ours, Estimate)
    each = data.models[model].kv_bytes_per_token(BF16)
    low, high = (penalty / 1e3 * data.link(link) / each for penalty in (ours.value.value, float(claimed_penalty_ms)))
    return Span(low, high, "By the text's own rule disaggregation pays for prompts shorter than this, not longer.")


def _lab(data: Data, gpu: str, tensor_parallel: str, rate: str) -> Row:
    return _one(data.lab_serving, gpu=gpu, tensor_parallel=tensor_parallel, rate_per_s=rate)


def _one(rows: tuple[Row, ...], **wanted: str) -> Row:
    """The only row with these values. Raises ValueError when there is none, or more than one."""
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row
