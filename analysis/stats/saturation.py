"""What one saturated prefill instance and one saturated decode instance were measured to do in; the P:D split of N instances that
balances them, what every split and Route N should serve, and which splits may be the best, out.

    a = prompt tokens/s / input_len       requests/s that one prefill instance serves
    b = output tokens/s / output_len      requests/s that one decode instance serves
    P prefill and D decode instances      min(P·a, D·b), most at P:D = b:a
    Route N, prefill and decode in turn   N·a·b / (a + b)

Both last lines are the same number where P can be a fraction: by this arithmetic P/D never serves more than Route N. What it can
gain is latency, and the requests that a colocated instance must refuse to keep its ITL: give `colocated_per_s`, measured
under the same SLO, where that is the question.

Source: the balance of a pipeline's stages; DistServe (Zhong et al. 2024, section 4) sizes its pools so.
Known error: steady state and lengths close to their mean are assumed. Moving KV, the hand-over and uneven routing are left
out and make P/D worse; a decode instance that gets fewer requests than it could batch makes it better in latency, not in rate.
Chunked prefill rides on decode steps that wait for memory, so that Route N may serve up to N·min(a, b)."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.stats.bounds import Bounded, exact, least
from pdslurm.records.split_ratio import best_prefill

PREFILL, DECODE, EITHER = "prefill", "decode", "prefill or decode"


@dataclass(frozen=True)
class Saturated:
    """One prefill and one decode instance at saturation. Rates with their intervals (analysis.stats.bounds); `decode_tok_s` at the
    concurrency that still keeps the ITL's SLO. Lengths in tokens, means of the workload.

    A decode instance makes all `output_len` tokens: with vLLM's NixlConnector the token that prefill samples is dropped."""

    prefill_tok_s: Bounded
    decode_tok_s: Bounded
    input_len: float
    output_len: float

    def __post_init__(self) -> None:
        for field in ("prefill_tok_s", "decode_tok_s"):
            low = getattr(self, field).low
            if low <= 0:
                raise ValueError(f"{field}: may be {low:g} by its interval; a rate above 0 is needed, measure more repeats")
        for field in ("input_len", "output_len"):
            length = getattr(self, field)
            if length <= 0:
                raise ValueError(f"{field}={length:g}: must be above 0; give the mean of the data set where lengths vary")

    @property
    def prefill_per_s(self) -> Bounded:
        """Requests/s of one prefill instance."""
        return self.prefill_tok_s / self.input_len

    @property
    def decode_per_s(self) -> Bounded:
        """Requests/s of one decode instance."""
        return self.decode_tok_s / self.output_len

    @property
    def prefill_for_a_decode(self) -> Bounded:
        """Prefill instances for one decode instance that balance it, P/D = b/a."""
        return self.decode_per_s / self.prefill_per_s


@dataclass(frozen=True)
class Split:
    """P prefill and D decode instances, the requests/s they should serve, and the side that bounds them. `bound` is "prefill or
    decode" where the measurements' intervals leave that open."""

    prefill: int
    decode: int
    per_s: Bounded
    bound: str

    @property
    def name(self) -> str:
        return f"{self.prefill}P{self.decode}D"


@dataclass(frozen=True)
class Suggestion:
    """Every split of N instances by number of prefill instances, the best by the mean values, and how sure that is.

    `candidates`: the splits that are the best for some pair of rates within the intervals. `route`: Route N's requests/s."""

    splits: tuple[Split, ...]
    best: Split
    candidates: tuple[Split, ...]
    route: Bounded


def suggest(one: Saturated, instances: int, *, colocated_per_s: Bounded | None = None) -> Suggestion:
    """The split of `instances` equal instances that should serve most. `colocated_per_s`: requests/s of one colocated instance
    where it was measured; otherwise Route N is computed from the two rates. Raises ValueError for fewer than two instances."""
    if instances < 2:
        raise ValueError(f"instances={instances}: P/D needs two at least, one for each role")
    splits = tuple(_split(one, p, instances - p) for p in range(1, instances))
    ratio = one.prefill_for_a_decode
    best = splits[best_prefill(instances, 1.0, ratio.value) - 1]
    first, last = (best_prefill(instances, 1.0, end) for end in (ratio.low, ratio.high))
    route = (colocated_per_s or in_turn(one.prefill_per_s, one.decode_per_s)) * instances
    return Suggestion(splits, best, splits[first - 1 : last], route)


def in_turn(a: Bounded, b: Bounded) -> Bounded:
    """a·b / (a + b): requests/s of an instance that prefills at `a` and decodes at `b`, one after the other. It grows with both, so
    that bounds go through; products and quotients of intervals would count each error twice."""

    def rate(x: float, y: float) -> float:
        return x * y / (x + y)

    return Bounded(rate(a.value, b.value), rate(a.low, b.low), rate(a.high, b.high))


def _split(one: Saturated, prefill: int, decode: int) -> Split:
    ahead, behind = one.prefill_per_s * exact(prefill), one.decode_per_s * exact(decode)
    bound = EITHER if ahead.overlaps(behind) else PREFILL if ahead.value < behind.value else DECODE
    return Split(prefill, decode, least(ahead, behind), bound)
