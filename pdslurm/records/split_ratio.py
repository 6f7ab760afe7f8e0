"""What saturated instances do, and an SLO, in; the requests/s of a prefill and of a decode instance within the SLO, and how many
instances should prefill, out: one rule for the driver and for the analysis.

    a prefill instance   λ = θ / (exp(θ/μ) - 1) with θ = ln(1/(1-s)) / (T - 1/μ); no TTFT bound: μ; T ≤ 1/μ: 0
    a decode instance    B / (L · t(B)) with t(B) = t0 + k·B, B + z·√B = (P - t0) / k; no TPOT bound: 1 / (1/whole - 1/μ)
    p prefill and d decode instances serve min(p · prefill, d · decode) requests/s

μ: requests/s that one saturated instance prefills. T and P: the bounds on TTFT and TPOT. s: the share of requests that have to
keep them. L: output tokens of a request. z: the normal quantile of s. t(B): the time of a decode step with B requests in the
batch.

Source: arXiv 2603.04716 ("SLO-Aware Compute Resource Allocation for Prefill-Decode Disaggregated LLM Inference") takes prefill as
an M/M/1 queue whose service rate is the largest measured prefill rate, so that λ = μ - ln(1/(1-s)) / T, and decode by the largest
batch within the TPOT bound, (P - t0) / k. Two things differ here. The prompts of a point have one length and take nearly the same
time, so that M/D/1 fits better than M/M/1: a request waits, and then its own prefill takes 1/μ. Lundberg's inequality says P(wait
> x) ≤ exp(-θx) where λ · (exp(θ/μ) - 1) = θ, and T - 1/μ is left for the wait; solving for λ gives the formula. It is a bound, so
that λ is a little too small. The number of requests in a batch varies about as a Poisson number does, and the share s of them has
to keep P: so the mean batch B stays z·√B below the largest. It is also never above the largest batch that was measured, for the
line is not extended.

The line goes through two measured points, many requests in flight and few. Their instance also prefills, which takes the share
whole/μ of its time: B = whole · L · TPOT by Little's law, and t(B) = TPOT · (1 - whole/μ) = TPOT - B / (L · μ).

Known errors: moving KV, the hand-over, the first decode step and uneven routing are left out and make P/D worse. A router that
takes instances in turn sends each a more even stream than Poisson's, so that several prefill instances serve more than this says,
above all at a tight TTFT. A prompt alone may take longer than 1/μ where a saturated instance prefills several at once. Chunked
prefill rides along with decode steps that wait for memory, so that decode alone is slower than this says. In a burst prefill
comes early, so that B and t(B) are both too small by the same factor; B / t(B) stays right. The requests that miss TTFT and those
that miss TPOT are not added up. A bound on E2E latency couples both roles and is left out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

SATURATED = "saturated"  # the sweep of points that show how fast an instance is at most
MOST_SHARE = 0.999  # an SLO for all requests counts as one for so many: the largest of endlessly many waits has no bound


@dataclass(frozen=True)
class Limits:
    """What an SLO demands of a share of the requests; None demands nothing."""

    share: float = 0.9
    ttft_ms: float | None = None
    tpot_ms: float | None = None


@dataclass(frozen=True)
class Answers:
    """What one saturated instance did at some number of requests in flight. `tpot_ms`: the mean; None where it is not known."""

    per_s: float
    tpot_ms: float | None = None


@dataclass(frozen=True)
class Served:
    """Requests/s of one prefill instance and of one decode instance within the SLO; 0 where it cannot meet the SLO."""

    prefill_per_s: float
    decode_per_s: float


def served(prompts_per_s: float, whole: Answers, *, few: Answers | None, output_len: float, limits: Limits) -> Served:
    """`prompts_per_s`: prompts alone, all at once; `whole`: whole answers, all at once; `few`: whole answers with few in flight,
    None where that was not measured. All of one instance of an arm without P/D."""
    decode_per_s = decode_within(whole, few, prompts_per_s=prompts_per_s, output_len=output_len, limits=limits)
    return Served(prefill_within(prompts_per_s, limits), decode_per_s)


def prefill_within(prompts_per_s: float, limits: Limits) -> float:
    """Requests/s at which the share of requests has its first token within the TTFT bound."""
    if limits.ttft_ms is None:
        return prompts_per_s
    wait_s = limits.ttft_ms / 1000 - 1 / prompts_per_s
    if wait_s <= 0:
        return 0.0
    decay = -math.log(1 - min(limits.share, MOST_SHARE)) / wait_s
    if decay / prompts_per_s > 700:  # exp() ends there, and the rate is 0 to any digit
        return 0.0
    return decay / math.expm1(decay / prompts_per_s) if decay > 0 else prompts_per_s


def decode_within(whole: Answers, few: Answers | None, *, prompts_per_s: float, output_len: float, limits: Limits) -> float:
    """Requests/s at which the share of requests keeps the TPOT bound; decode_rate without one, or where `knows_tpot` is false."""
    saturated = decode_rate(prompts_per_s, whole.per_s)
    if limits.tpot_ms is None or few is None or not knows_tpot(whole, few) or math.isinf(saturated):
        return saturated
    small, large = (_batch(answers, prompts_per_s, output_len=output_len) for answers in (few, whole))
    base_ms, each_ms = _line(small, large)
    room_ms = limits.tpot_ms - base_ms
    if room_ms < each_ms:  # not even a request alone
        return 0.0
    largest = room_ms / each_ms if each_ms else math.inf
    batch = min(_mean_batch(largest, limits.share), large[0])
    return min(1000 * batch / (output_len * (base_ms + each_ms * batch)), saturated)


def knows_tpot(whole: Answers, few: Answers | None) -> bool:
    """Whether two points show how a decode step grows with its batch. Records of pdslurm before the third point do not."""
    return bool(few and few.per_s and few.tpot_ms and whole.tpot_ms)


def _batch(answers: Answers, prompts_per_s: float, *, output_len: float) -> tuple[float, float]:
    """(requests in a decode batch, ms of a decode step without the prefill of others); at least 1, for an idle instance decodes
    nothing."""
    tpot_ms = answers.tpot_ms or 0.0
    share = min(answers.per_s / prompts_per_s, 1.0)
    return max(answers.per_s * output_len * tpot_ms / 1000, 1.0), tpot_ms * (1 - share)


def _line(few: tuple[float, float], many: tuple[float, float]) -> tuple[float, float]:
    """(t0, k) in ms of the line through two batches. Where noise makes one of them negative, it is 0 and the line goes through the
    larger batch, which the decode rate stands on."""
    batch, step_ms = many
    each_ms = (step_ms - few[1]) / (batch - few[0]) if batch > few[0] else 0.0
    each_ms = min(max(each_ms, 0.0), step_ms / batch)
    return step_ms - each_ms * batch, each_ms


def _mean_batch(largest: float, share: float) -> float:
    """B of B + z·√B = largest."""
    if math.isinf(largest):
        return largest
    z = max(NormalDist().inv_cdf(min(share, MOST_SHARE)), 0.0)
    return float(((math.sqrt(z * z + 4 * largest) - z) / 2) ** 2)


def decode_rate(prefill_per_s: float, together_per_s: float) -> float:
    """Requests/s that one saturated instance decodes which does nothing else; infinite where prefill seems to take all of its time.

    `prefill_per_s`: requests/s that one saturated instance prefills; `together_per_s`: that one saturated instance answers whole.
    An instance that does both shares its time: 1/together = 1/prefill + 1/decode."""
    return 1 / (1 / together_per_s - 1 / prefill_per_s) if together_per_s < prefill_per_s else math.inf


def best_prefill(instances: int, prefill_per_s: float, decode_per_s: float) -> int:
    """How many of `instances` should prefill so that neither side waits for the other; the rates are those of one instance.

    p prefill instances serve min(p · prefill, (instances - p) · decode) requests/s; the largest of these is taken, of two equals
    the smaller p, which leaves more memory for KV to decode. Where prefill serves nothing, as many as there can be.

    It can only grow with decode / prefill, for min(p, (instances - p) · ratio) does: so the best splits over an interval of ratios
    are all those between the best of its ends."""
    if prefill_per_s <= 0:
        return instances - 1
    return max(range(1, instances), key=lambda p: min(p * prefill_per_s, (instances - p) * decode_per_s))


def suggested_prefill(instances: int, one: Served) -> int | None:
    """How many of `instances` should prefill; None where no split meets the SLO, or there is no split."""
    if instances < 2 or min(one.prefill_per_s, one.decode_per_s) <= 0:
        return None
    return best_prefill(instances, one.prefill_per_s, one.decode_per_s)
