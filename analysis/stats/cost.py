"""GPUs, a token rate and, where there is one, a price in; GPU-hours and money out, for a run and per million tokens."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.stats.bounds import Bounded, exact

HOUR_S = 3600
MILLION = 1e6


@dataclass(frozen=True)
class Cost:
    """What a million tokens cost on `gpus` GPUs. The price is None where none was given, never 0."""

    gpus: int
    gpu_hours_per_million: Bounded
    price_per_million: Bounded | None


def gpu_hours(gpus: int, seconds: Bounded | float) -> Bounded:
    """GPU-hours of holding `gpus` for that long, idle or not: what an allocation is charged."""
    if gpus < 1:
        raise ValueError(f"gpus={gpus}: a cost needs one at least")
    return exact(seconds) * (gpus / HOUR_S)


def cost(gpus: int, tokens_per_s: Bounded, *, price_per_gpu_hour: float | None = None) -> Cost:
    """GPU-hours and price per million tokens of an arm that holds `gpus` and makes `tokens_per_s` on all of them together.

    Which tokens is for the caller to say: output tokens, or input and output, and the same for all arms. Known error: the rate is
    taken to be held for all hours that are paid; a cluster that idles half the day costs twice as much a token."""
    if tokens_per_s.low <= 0:
        raise ValueError(f"tokens_per_s: may be {tokens_per_s.low:g} by its interval; a rate above 0 is needed")
    if price_per_gpu_hour is not None and price_per_gpu_hour <= 0:
        raise ValueError(f"price_per_gpu_hour={price_per_gpu_hour:g}: must be above 0; leave it out where there is none")
    hours = gpu_hours(gpus, exact(MILLION) / tokens_per_s)
    return Cost(gpus, hours, None if price_per_gpu_hour is None else hours * price_per_gpu_hour)
