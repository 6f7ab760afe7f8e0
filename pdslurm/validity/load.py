"""From what the client tells of itself and of its requests to two checks: was it the bottleneck, was the load steady. Pure; bounds
and their reasons stand in docs/validity.md."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import pvariance

from pdslurm.records.measurement import Check
from pdslurm.validity.answer import missing
from pdslurm.validity.evidence import NO_REQUESTS, Evidence

MAX_BUSY = 0.8  # of one core: the client is one thread, its mean hides the busiest second, and above this it answers late
BUSY_FROM_S = 1.0  # a shorter measurement is little more than sending its requests, which is work
MAX_LAG = 0.2  # of the mean TTFT, to which it adds
FEW_LOOKS = 20  # at the event loop, of which a mean says nothing: a point of less than a second
LAG_FLOOR_MS = 10.0  # a scheduler's slice: a machine that engines and client share wakes the client that late
MAX_SLOWER = 0.01  # of the time of sending: the rate was then lower than ordered; one late wake-up is not that
WINDOWS = 4  # how often a mean request has to fit into the time of sending, and how many rounds a closed loop needs
MAX_UNSERVED = 0.1  # of the requests may be held back by a bound on concurrency, in points too short to tell less
FEW = 8  # requests that are too few to tell steady from not
BUSY_AND_STEADY = 0.95  # the busiest server whose queue must seldom look as if it grew
FALSE_ALARM = 0.03  # how often that server's queue may look so
SERVICE_VARIANCE = 1.0  # squared coefficient of variation of the time that a server takes for a request: 1 is exponential


def client_process(e: Evidence) -> Check:
    """Its thread's share of a core while it measured, and how late it was: its event loop on the average, and against the schedule
    where requests had to go out at a rate (vLLM's benchmark scales its arrivals so that the last is due after num_prompts/rate)."""
    client, num_prompts = e.client, e.demand.num_prompts
    rate = e.demand.request_rate if e.demand.even and not e.demand.max_concurrency else None
    busy, lag, sending = (client.get(name) for name in ("client_busy", "loop_lag_ms", "sending_s"))
    looks = client.get("loop_looks") or 0
    late = 1e3 * (sending - num_prompts / rate) if rate and sending is not None else None
    patience = client.get("mean_ttft_ms") or client.get("mean_e2el_ms")
    evidence = {
        "busy": busy, "loop_lag_ms": lag, "loop_lag_max_ms": client.get("loop_lag_max_ms"), "loop_looks": looks,
        "last_request_late_ms": late,
        "mean_ttft_ms": patience,
    }  # fmt: skip
    if busy is None and lag is None:
        return missing("client", "the client does not tell how busy and how late it was", evidence)
    wrong = []
    if busy is not None and busy > MAX_BUSY and (client.get("duration") or 0.0) >= BUSY_FROM_S:
        wrong.append(f"the client used {busy:.2f} of one core, more than {MAX_BUSY:g}: it was the bottleneck")
    bound = max(LAG_FLOOR_MS, MAX_LAG * (patience or 0.0))
    slower = max(bound, 1e3 * MAX_SLOWER * (sending or 0.0))
    for what, ms, most in (
        ("its event loop was", lag if looks >= FEW_LOOKS else None, bound),
        ("its last request went out", late, slower),
    ):
        if ms is not None and ms > most:
            wrong.append(f"{what} {ms:.1f} ms late, more than {most:.1f} ms")
    return Check("client", not wrong, "; ".join(wrong) or "the client had time to spare", evidence)


def steady(e: Evidence) -> Check:
    """`steady_state` of the point's requests."""
    if e.spans is None:
        return missing("steady_state", NO_REQUESTS)
    return steady_state(e.spans, rate=e.demand.request_rate, concurrency=e.demand.max_concurrency, even=e.demand.even)


def steady_state(
    spans: Sequence[Sequence[float]] | None, *, rate: float | None, concurrency: int | None, even: bool = True
) -> Check:
    """`spans`: begin and end of every request that was answered, s. An open loop is steady when what arrives is served as fast,
    over a time that a request fits into several times; a closed loop when it goes round several times; a burst never is."""
    n = len(spans or ())
    if not spans:
        return Check("steady_state", None, "unknown")
    if rate is None and (concurrency is None or concurrency >= n) and even:
        return Check("steady_state", None, f"{n} requests at once: a burst has no steady state", {"requests": n})
    if n < FEW or not even:
        return Check("steady_state", None, f"{n} requests are too few to tell" if even else "the load is not meant to be steady")
    if not all(math.isfinite(moment) for span in spans for moment in span):
        return missing("steady_state", "a request's begin or end is not a finite number")
    return _open_loop(spans, rate, concurrency) if rate else _closed_loop(n, concurrency or n)


def _closed_loop(n: int, concurrency: int) -> Check:
    rounds = n / concurrency
    steady = concurrency == 1 or rounds >= WINDOWS
    said = f"{n} requests in {rounds:.3g} rounds of {concurrency}"
    wrong = f", fewer than {WINDOWS}: its beginning and its end weigh too much"
    return Check("steady_state", steady, said + ("" if steady else wrong), {"requests": n, "rounds": rounds})


def _open_loop(spans: Sequence[Sequence[float]], rate: float, concurrency: int | None) -> Check:
    """Whether more requests are in flight at the end of sending than the queue of a server that keeps up would have by chance.

    In flight is counted after a quarter of sending, and when the last request goes out. Under overload the difference grows as
    the number of requests; by chance alone it grows as the root of that number at most. So the longer the point, the smaller the
    overload that is noticed. Chance explains the larger of two bounds: `most_growth` of a queue, and two standard errors of the
    difference of two Poisson numbers, for requests that are in flight and do not wait. What the instances still fill up after the
    first quarter comes on top of it (`_filling`)."""
    n, mean_s = len(spans), sum(end - begin for begin, end in spans) / len(spans)
    first, last = min(begin for begin, _ in spans), max(begin for begin, _ in spans)
    sending_s, middle_s = last - first, (last - first) / 2
    counted_from = first + sending_s / 4
    early, late = _in_flight(spans, counted_from), _in_flight(spans, last)
    filling = _filling(spans, first, last)
    chance = max(most_growth(sorted(begin for begin, _ in spans if begin > counted_from)), 2 * math.sqrt(early + late))
    middle = [sum(middle_s / 2 < t - first <= 1.5 * middle_s for t in times) for times in zip(*spans, strict=True)]
    evidence: dict[str, float | bool | None] = {
        "sending_s": sending_s, "mean_e2el_s": mean_s, "ordered_per_s": rate, "sent_per_s": middle[0] / (middle_s or 1),
        "served_per_s": middle[1] / (middle_s or 1), "in_flight_early": early, "in_flight_late": late, "filling": filling,
        "growth_by_chance": chance,
    }  # fmt: skip
    wrong = []
    if late - early > filling + chance:
        grows = f"{early} requests in flight after a quarter of sending, {late} at its end"
        wrong.append(f"the queue grows: {grows}; filling up and chance explain {filling + chance:.3g} of the difference")
    if concurrency and sending_s * rate - n > min(MAX_UNSERVED * n, chance):
        wrong.append(f"at {concurrency} in flight it takes {n / sending_s:.3g} requests/s, not {rate:g}")
    short = sending_s < WINDOWS * mean_s
    evidence["holds_rate"] = False if wrong else None if short else True
    if short:
        wrong.append(f"sending took {sending_s:.3g} s, less than {WINDOWS} times a mean request of {mean_s:.3g} s")
    return Check("steady_state", not wrong, "; ".join(wrong) or "served as fast as it arrived", evidence)


def _in_flight(spans: Sequence[Sequence[float]], moment: float) -> int:
    return sum(begin <= moment < end for begin, end in spans)


def _filling(spans: Sequence[Sequence[float]], first: float, last: float) -> float:
    """How many requests more are in flight at the end of sending than after its first quarter when nothing ever waits: those that
    take longer than a quarter of sending pile up until the first of them end. The requests of the first quarter tell how long a
    request takes before a queue is long. Seconds beyond the quarter (at most until the end) times requests/s, by Little's law."""
    quarter = (last - first) / 4
    beyond = [min(max(end - begin - quarter, 0.0), 3 * quarter) for begin, end in spans if begin - first <= quarter]
    return sum(beyond) / len(beyond) * len(spans) / (4 * quarter) if quarter else 0.0


def most_growth(arrivals: Sequence[float]) -> float:
    """By how many requests the queue of a server that is BUSY_AND_STEADY busy grows over `arrivals` (moments, s, rising), with a
    probability of FALSE_ALARM that it grows by more.

    The queue goes up by one with each arrival and down by one with each answer. Over n arrivals that is a random walk with a mean
    of -drift·n, where drift = 1 - BUSY_AND_STEADY, and a variance of v·n. v is the squared coefficient of variation of the gaps
    between arrivals (measured here; 1 for Poisson arrivals) plus that of the service (SERVICE_VARIANCE, since nobody sees it).
    A queue cannot fall below zero. One that begins empty is therefore as long after n arrivals as the walk's highest point within n
    (Lindley), whose distribution is known for a Brownian motion; one that does not begin empty grows by less. The bound grows as
    the root of n at first and then stays: v·ln(1/FALSE_ALARM)/(2·drift), about 70 requests with Poisson arrivals."""
    n, drift = len(arrivals), 1 - BUSY_AND_STEADY
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    mean = sum(gaps) / len(gaps) if gaps else 0.0
    variance = SERVICE_VARIANCE + (pvariance(gaps) / mean**2 if mean else 1.0)
    low, high = 0.0, 10 * math.sqrt(variance * n) or 1.0
    for _ in range(40):  # halves the interval that holds the bound each time
        bound = (low + high) / 2
        low, high = (bound, high) if _chance_of_more(bound, n, drift, variance) > FALSE_ALARM else (low, bound)
    return high


def _chance_of_more(bound: float, n: int, drift: float, variance: float) -> float:
    """That a Brownian motion with a mean of -drift·t and a variance of variance·t is above `bound` at some t of 0 to n."""
    spread = math.sqrt(2 * variance * n) or 1.0
    above = math.erfc((bound + drift * n) / spread) / 2
    return above + math.exp(-2 * drift * bound / variance) * math.erfc((bound - drift * n) / spread) / 2
