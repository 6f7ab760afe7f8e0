"""From what the client tells of itself and of its requests to two checks: was it the bottleneck, was the load steady. Pure; bounds
and their reasons stand in docs/validity.md."""

from __future__ import annotations

from collections.abc import Sequence

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
MAX_UNSERVED = 0.1  # of what arrives may stay in the queue
FEW = 8  # requests that are too few to tell steady from not


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
    return _open_loop(spans, rate, concurrency) if rate else _closed_loop(n, concurrency or n)


def _closed_loop(n: int, concurrency: int) -> Check:
    rounds = n / concurrency
    steady = concurrency == 1 or rounds >= WINDOWS
    said = f"{n} requests in {rounds:.3g} rounds of {concurrency}"
    wrong = f", fewer than {WINDOWS}: its beginning and its end weigh too much"
    return Check("steady_state", steady, said + ("" if steady else wrong), {"requests": n, "rounds": rounds})


def _open_loop(spans: Sequence[Sequence[float]], rate: float, concurrency: int | None) -> Check:
    """Requests in flight, averaged over the second and the last quarter of sending: their growth is what was not served. Two
    standard errors of a Poisson number are allowed beside MAX_UNSERVED, since a short point cannot tell more."""
    n, mean_s = len(spans), sum(end - begin for begin, end in spans) / len(spans)
    sending_s = max(begin for begin, _ in spans)
    quarter = sending_s / 4
    early, late = _in_flight(spans, quarter, 2 * quarter), _in_flight(spans, 3 * quarter, sending_s)
    middle = [sum(quarter < t <= 3 * quarter for t in times) for times in zip(*spans, strict=True)]
    evidence: dict[str, float | bool | None] = {
        "sending_s": sending_s, "mean_e2el_s": mean_s, "ordered_per_s": rate, "sent_per_s": middle[0] / (2 * quarter or 1),
        "served_per_s": middle[1] / (2 * quarter or 1), "in_flight_early": early, "in_flight_late": late,
    }  # fmt: skip
    allowed = max(MAX_UNSERVED * n / 2, 2 * (early + late) ** 0.5)
    wrong = []
    if late - early > allowed:
        wrong.append(f"the queue grows: {early:.3g} requests in flight in the second quarter, {late:.3g} in the last")
    if concurrency and sending_s * rate > (1 + MAX_UNSERVED) * n:
        wrong.append(f"at {concurrency} in flight it takes {n / sending_s:.3g} requests/s, not {rate:g}")
    short = sending_s < WINDOWS * mean_s
    evidence["holds_rate"] = False if wrong else None if short else True
    if short:
        wrong.append(f"sending took {sending_s:.3g} s, less than {WINDOWS} times a mean request of {mean_s:.3g} s")
    return Check("steady_state", not wrong, "; ".join(wrong) or "served as fast as it arrived", evidence)


def _in_flight(spans: Sequence[Sequence[float]], since: float, until: float) -> float:
    """The mean number of requests in flight between two moments."""
    inside = sum(max(0.0, min(end, until) - max(begin, since)) for begin, end in spans)
    return inside / (until - since) if until > since else 0.0
