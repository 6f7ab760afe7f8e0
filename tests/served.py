"""A request rate and an arm's speed in; the requests of a simulated server out, as a request file has them.

Prompts are prefilled one after the other in the order in which they arrive; then each answer is decoded beside all others, and a
token takes longer the more of them there are. That is enough to make queues, autocorrelated latencies and a sharp limit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pdslurm.records.measurement import REQUEST_COLUMNS

Column = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Server:
    """What an arm does when nothing else happens, at speed 1."""

    prefill_s: float = 0.05
    spread: float = 0.3  # of the prefill time, as a share: prompts differ in length
    token_s: float = 0.008  # alone …
    per_answer_s: float = 0.0003  # … and for each other answer that is being decoded
    tokens: int = 128


def requests_of(server: Server, speed: float, rate_per_s: float, duration_s: float, rng: np.random.Generator) -> dict[str, Column]:
    """Poisson arrivals over duration_s, all of them answered. They are stretched so that exactly as many arrive in that time as the
    rate says, for `vllm bench serve` does so (get_request in vllm/benchmarks/serve.py)."""
    count = max(int(np.ceil(rate_per_s * duration_s)), 2)
    arrival = np.cumsum(rng.exponential(1.0, count))
    arrival *= count / rate_per_s / arrival[-1]
    service = server.prefill_s / speed * (1 + server.spread * rng.uniform(-1, 1, count))
    busy = np.cumsum(service)
    first = busy + np.maximum.accumulate(arrival - np.concatenate([[0.0], busy[:-1]]))  # Lindley
    token = np.full(count, server.token_s / speed)
    for _ in range(3):  # how many are decoded meanwhile depends on how long that takes
        end = first + token * (server.tokens - 1)
        middle = (first + end) / 2
        beside = np.searchsorted(first, middle) - np.searchsorted(np.sort(end), middle) - 1
        token = (server.token_s + server.per_answer_s * np.maximum(beside, 0)) / speed
    ttft, tpot = 1000 * (first - arrival), 1000 * token
    length = np.full(count, float(server.tokens))
    columns = (arrival - arrival[0], length, length, ttft, tpot, tpot, ttft + tpot * (server.tokens - 1), np.ones(count))
    return dict(zip(REQUEST_COLUMNS, columns, strict=True))
