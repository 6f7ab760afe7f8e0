"""What one saturated plain instance was measured to do, and an SLO, in; the requests/s that every P:D split of N instances should
serve within the SLO, with intervals, the best of them and which others may be the best, out.

    P prefill and D decode instances serve min(P · prefill, D · decode) requests/s

The requests/s of one prefill and of one decode instance come from pdslurm.records.split_ratio, which the driver asks, too; its
formulas, their source and their known errors stand there. Here every measured number has an interval, and what is computed is
known within the smallest and the largest that the ends of these intervals give. One measured number stands in several formulas, so
these intervals are too wide rather than too narrow.

Source of the balance: DistServe (Zhong et al. 2024, section 4) sizes its pools so."""

from __future__ import annotations

from dataclasses import dataclass, fields

from analysis.stats.bounds import Bounded, exact, least, over
from pdslurm.records.split_ratio import Answers, Limits, best_prefill, decode_within, prefill_within

PREFILL, DECODE, EITHER = "prefill", "decode", "prefill or decode"


@dataclass(frozen=True)
class Saturated:
    """What one plain instance did: prompts alone and whole answers, all at once, and whole answers with few requests in flight.
    None: not measured, or measured without the times of tokens. `output_len`: tokens, the workload's mean."""

    prompts_per_s: Bounded
    whole_per_s: Bounded
    output_len: float
    whole_tpot_ms: Bounded | None = None
    few_per_s: Bounded | None = None
    few_tpot_ms: Bounded | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Bounded) and value.low <= 0:
                raise ValueError(f"{field.name}: may be {value.low:g} by its interval; it must be above 0, measure more repeats")
        if self.output_len <= 0:
            raise ValueError(f"output_len={self.output_len:g}: must be above 0; give the mean of the data set where lengths vary")

    @property
    def knows_tpot(self) -> bool:
        """Whether the decode instance's rate heeds a bound on TPOT."""
        return None not in (self.whole_tpot_ms, self.few_per_s, self.few_tpot_ms)


@dataclass(frozen=True)
class Split:
    """P prefill and D decode instances, the requests/s they should serve within the SLO, and the side that bounds them. `bound` is
    "prefill or decode" where the measurements' intervals leave that open."""

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

    `best`: None where no split meets the SLO. `candidates`: the splits that are the best for some pair of rates within the
    intervals."""

    splits: tuple[Split, ...]
    best: Split | None
    candidates: tuple[Split, ...]
    prefill_per_s: Bounded
    decode_per_s: Bounded
    knows_tpot: bool = True


def suggest(one: Saturated, instances: int, *, limits: Limits) -> Suggestion:
    """The split of `instances` equal instances that should serve most within the limits. Raises ValueError for fewer than two."""
    if instances < 2:
        raise ValueError(f"instances={instances}: P/D needs two at least, one for each role")
    prefill, decode = prefill_of(one, limits), decode_of(one, limits)
    splits = tuple(_split(prefill, decode, counts=(p, instances - p)) for p in range(1, instances))
    if min(prefill.value, decode.value) <= 0:
        return Suggestion(splits, None, (), prefill, decode, one.knows_tpot)
    best = splits[best_prefill(instances, prefill.value, decode.value) - 1]
    first, last = best_prefill(instances, prefill.high, decode.low), best_prefill(instances, prefill.low, decode.high)
    return Suggestion(splits, best, splits[first - 1 : last], prefill, decode, one.knows_tpot)


def prefill_of(one: Saturated, limits: Limits) -> Bounded:
    """Requests/s of one prefill instance within the limit on TTFT."""
    return over(lambda prompts_per_s: prefill_within(prompts_per_s, limits), one.prompts_per_s)


def decode_of(one: Saturated, limits: Limits) -> Bounded:
    """Requests/s of one decode instance within the limit on TPOT; what it does saturated where `one` knows no TPOT."""

    def rate(prompts_per_s: float, whole_per_s: float, *known: float) -> float:
        whole, few = (Answers(whole_per_s, known[0]), Answers(*known[1:])) if known else (Answers(whole_per_s), None)
        return decode_within(whole, few, prompts_per_s=prompts_per_s, output_len=one.output_len, limits=limits)

    known = [each for each in (one.whole_tpot_ms, one.few_per_s, one.few_tpot_ms) if each is not None]
    return over(rate, one.prompts_per_s, one.whole_per_s, *(known if one.knows_tpot else []))


def _split(prefill_per_s: Bounded, decode_per_s: Bounded, *, counts: tuple[int, int]) -> Split:
    ahead, behind = prefill_per_s * exact(counts[0]), decode_per_s * exact(counts[1])
    bound = EITHER if ahead.overlaps(behind) else PREFILL if ahead.value < behind.value else DECODE
    return Split(*counts, least(ahead, behind), bound)
