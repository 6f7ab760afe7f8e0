"""The suggested split against queues that are simulated: prefill one request after the other, decode in steps of t0 + k·B."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from pdslurm.records.split_ratio import Answers, Limits, Served, served, suggested_prefill

Times = NDArray[np.float64]
REQUESTS = 2000  # that arrive as Poisson does; the first fifth fills the queues and is not judged
IN_STEP = 4  # prompts that a step of a plain instance prefills beside its decode batch


@dataclass(frozen=True)
class Engine:
    """Requests/s of prefill alone, ms of a decode step and of each request in it, output tokens, requests in a batch at most."""

    prompts_per_s: float
    base_ms: float
    each_ms: float
    output_len: int
    most: int = 256

    def step_s(self, batch: int) -> float:
        return (self.base_ms + self.each_ms * batch) / 1000


def plain(engine: Engine, requests: int, in_flight: int) -> Answers:
    """What a plain instance answers in a closed loop: a step prefills some that wait and decodes one token of all others."""
    now, step, sent, running, spent = 0.0, 0, 0, deque[tuple[int, float]](), 0.0
    while sent < requests or running:
        new = min(IN_STEP, requests - sent, min(in_flight, engine.most) - len(running))
        now += (engine.step_s(len(running)) if running else 0.0) + new / engine.prompts_per_s
        step, sent = step + 1, sent + new
        running.extend([(step + engine.output_len, now)] * new)
        while running and running[0][0] == step:
            spent += now - running.popleft()[1]
    return Answers(requests / now, 1000 * spent / requests / engine.output_len)


def prefill(engine: Engine, arrive: Times) -> Times:
    """When each request's first token is there, of one instance."""
    free, ready = 0.0, []
    for moment in arrive:
        free = max(free, moment) + 1 / engine.prompts_per_s
        ready.append(free)
    return np.array(ready)


def decode(engine: Engine, ready: Times) -> Times:
    """ms for each token of each request, of one instance; between two arrivals or ends every step takes as long."""
    now, step, sent, running = 0.0, 0, 0, deque[int]()
    ends: list[float] = []
    while len(ends) < len(ready):
        now = now if running else max(now, ready[sent])
        while sent < len(ready) and ready[sent] <= now:
            running.append(step + engine.output_len)
            sent += 1
        step_s = engine.step_s(len(running))
        until = (ready[sent] - now) / step_s if sent < len(ready) else np.inf
        steps = int(min(running[0] - step, max(np.ceil(until), 1)))
        now, step = now + steps * step_s, step + steps
        while running and running[0] == step:
            running.popleft()
            ends.append(now)
    return (np.array(ends) - ready) * 1000 / engine.output_len


def good_share(engine: Engine, split: tuple[int, int], rate: float, limits: Limits) -> float:
    """The share of requests that keep the SLO where a router sends them to the instances in turn."""
    arrive = np.cumsum(np.random.default_rng(7).exponential(1 / rate, REQUESTS))
    ready, tpot_ms = np.empty(REQUESTS), np.empty(REQUESTS)
    for n in range(split[0]):
        ready[n :: split[0]] = prefill(engine, arrive[n :: split[0]])
    order = np.argsort(ready)
    for n in range(split[1]):
        mine = order[n :: split[1]]
        tpot_ms[mine] = decode(engine, ready[mine])
    is_good = (1000 * (ready - arrive) <= (limits.ttft_ms or np.inf)) & (tpot_ms <= (limits.tpot_ms or np.inf))
    return float(is_good[REQUESTS // 5 :].mean())


def capacity(engine: Engine, split: tuple[int, int], limits: Limits, most: float) -> float:
    """The highest rate at which the share keeps the SLO, to 2 %; `most` is more than any split serves."""
    low, high = most / 1000, most
    while high / low > 1.02:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if good_share(engine, split, middle, limits) >= limits.share else (low, middle)
    return low


def measured(engine: Engine, limits: Limits) -> Served:
    """As the saturated points of four plain instances show one of them."""
    whole, few = plain(engine, 256, 256), plain(engine, 16, 4)
    return served(engine.prompts_per_s, whole, few=few, output_len=engine.output_len, limits=limits)


ENGINES = {
    "chat": Engine(40.0, 8.0, 0.05, 256),
    "long prompts": Engine(8.0, 8.0, 0.1, 128),
    "long answers": Engine(60.0, 10.0, 0.06, 1024),
    "short answers": Engine(20.0, 6.0, 0.08, 32),
}
LIMITS = [Limits(share, ttft, tpot) for share, ttft, tpot in itertools.product((0.9, 0.99), (300.0, 2000.0), (12.0, 25.0))]


@pytest.mark.parametrize("limits", LIMITS, ids=lambda each: f"{each.share}-{each.ttft_ms:g}-{each.tpot_ms:g}")
@pytest.mark.parametrize("name", ENGINES)
def test_the_suggested_split_is_the_best_or_nearly(name: str, limits: Limits) -> None:
    engine = ENGINES[name]
    one = measured(engine, limits)
    found = suggested_prefill(4, one)
    assert found is not None
    true = {p: capacity(engine, (p, 4 - p), limits, 5 * engine.prompts_per_s) for p in (1, 2, 3)}
    assert true[found] >= 0.9 * max(true.values()), (found, true)
    assert min(found * one.prefill_per_s, (4 - found) * one.decode_per_s) <= 1.25 * true[found], (one, true)


def test_a_suggestion_that_knows_no_tpot_would_be_far_from_the_best() -> None:
    engine, limits = ENGINES["chat"], Limits(0.9, 2000.0, 10.0)
    found, blind = (suggested_prefill(4, measured(engine, each)) for each in (limits, Limits(0.9, 2000.0)))
    assert (found, blind) == (1, 2)
    true = {p: capacity(engine, (p, 4 - p), limits, 5 * engine.prompts_per_s) for p in (1, 2)}
    assert true[2] < 0.75 * true[1]


def test_the_simulated_instance_by_hand() -> None:
    """Four in flight go round together: their prefill takes 100 ms, and then 256 steps take 8.2 ms each. A burst of 256 begins to
    decode while 252 prompts wait, and its last step takes 20.8 ms."""
    few, whole = plain(ENGINES["chat"], 16, 4), plain(ENGINES["chat"], 256, 256)
    assert few.per_s == pytest.approx(4 / (0.1 + 256 * 0.0082))
    assert few.tpot_ms == pytest.approx(8.2)
    assert whole.tpot_ms is not None
    assert 256 / (256 / 40 + 320 * 0.0208) < whole.per_s < 256 / (256 / 40 + 256 * 0.008)
    assert 8 + 3000 / 256 < whole.tpot_ms < 20.8 + 3200 / 256
