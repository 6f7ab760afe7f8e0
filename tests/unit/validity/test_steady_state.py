"""How often the check for steady state throws a point out: simulated queues under loads that are held and loads that are not.

The bounds are loose: what a simulation of some hundred points gave (docs/validity.md), and room for its chance."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from pdslurm.validity.load import most_growth, steady_state

Spans = list[list[float]]
Service = Callable[[random.Random], float]


@dataclass(frozen=True)
class Queue:
    """Requests at a number of servers, first come first served, and then `after_s` in which nothing waits."""

    servers: int
    service: Service  # seconds of one request at one server, 1 on the average
    after_s: float = 0.0
    burstiness: float = 1.0  # of the arrivals, as vLLM's benchmark has it: 1 is Poisson, less comes in bursts

    def spans(self, n: int, load: float, seed: int) -> Spans:
        """Begin and end of n requests, s; `load` is the rate of arrivals over what the servers can take."""
        chance, now, found = random.Random(seed), 0.0, []
        mean_gap, free = 1 / (self.servers * load), [0.0] * self.servers
        for _ in range(n):
            begin = max(now, free[0])
            end = begin + self.service(chance)
            heapq.heapreplace(free, end)
            found.append([now, end + self.after_s])
            now += chance.gammavariate(self.burstiness, mean_gap / self.burstiness)
        return found

    def share_that_grows(self, n: int, load: float, points: int = 60) -> float:
        """Of `points` simulated points the share of those that the check finds to grow."""
        grows = 0
        for seed in range(points):
            spans = self.spans(n, load, seed)
            grows += steady_state(spans, rate=self.servers * load, concurrency=None).evidence["holds_rate"] is False
        return grows / points


def exponential(chance: random.Random) -> float:
    return chance.expovariate(1.0)


QUEUES = {
    "M/M/1": Queue(1, exponential),
    "M/D/1": Queue(1, lambda _: 1.0),
    "eight servers": Queue(8, exponential),
    "prefill queue, then decoding": Queue(1, lambda _: 1.0, after_s=10.0),
    "arrivals in bursts": Queue(1, exponential, burstiness=0.5),
    "arrivals spread evenly": Queue(1, exponential, burstiness=2.0),
}
queues = pytest.mark.parametrize("queue", QUEUES.values(), ids=QUEUES.keys())


@queues
@pytest.mark.parametrize("n", [100, 256, 1024])
@pytest.mark.parametrize("load", [0.8, 0.95])
def test_a_rate_that_is_held_seldom_looks_as_if_the_queue_grew(queue: Queue, n: int, load: float) -> None:
    assert queue.share_that_grows(n, load) <= 0.1


@queues
def test_a_rate_half_above_capacity_is_noticed_from_256_requests_on(queue: Queue) -> None:
    assert queue.share_that_grows(256, 1.5) >= 0.8


@queues
def test_more_requests_notice_a_smaller_overload(queue: Queue) -> None:
    few, many = queue.share_that_grows(256, 1.1), queue.share_that_grows(4096, 1.1, points=12)
    assert few <= 0.5
    assert many >= 0.9


def test_five_per_cent_of_overload_is_noticed_with_4096_requests() -> None:
    assert QUEUES["M/D/1"].share_that_grows(4096, 1.05, points=12) >= 0.8
    assert QUEUES["M/M/1"].share_that_grows(4096, 1.05, points=12) >= 0.5


def test_many_requests_that_never_wait_do_not_grow() -> None:
    """Two hundred in flight at every moment, each for as long as chance says: their number varies, and no queue is behind it."""
    for seed in range(20):
        chance, now, spans = random.Random(seed), 0.0, []
        for _ in range(1024):
            spans.append([now, now + chance.expovariate(1 / 200)])
            now += chance.expovariate(1.0)
        assert steady_state(spans, rate=1.0, concurrency=None).evidence["holds_rate"] is True


def test_instances_that_still_fill_up_are_no_queue_that_grows() -> None:
    """Requests of 60 s sent over 100 s: nothing ends in the first half, and more and more are in flight whatever the rate."""
    spans = [[i / 4, i / 4 + 60] for i in range(400)]
    found = steady_state(spans, rate=4.0, concurrency=None)
    assert (found.ok, found.evidence["holds_rate"]) == (False, None)
    assert found.said == "sending took 99.8 s, less than 4 times a mean request of 60 s"


def test_the_order_and_the_beginning_of_the_spans_do_not_matter() -> None:
    spans = QUEUES["M/M/1"].spans(256, 1.5, 1)
    later = [[begin + 1e4, end + 1e4] for begin, end in reversed(spans)]
    here, there = (steady_state(each, rate=1.5, concurrency=None) for each in (spans, later))
    assert here.evidence == pytest.approx(there.evidence)
    assert here.ok is False


def test_the_growth_that_chance_explains_rises_as_the_root_and_then_stays() -> None:
    bounds = [most_growth([float(i) for i in range(n)]) for n in (100, 400, 10_000, 1_000_000)]
    assert 1.5 < bounds[1] / bounds[0] < 2
    assert bounds[3] == pytest.approx(35.07, abs=0.01)  # ln(1/0.03)/(2·0.05): evenly spaced arrivals, exponential service
    assert bounds[2] == pytest.approx(bounds[3], rel=0.01)


def test_a_bound_on_concurrency_that_holds_requests_back_is_noticed_the_sooner_the_more_requests_there_are() -> None:
    """Four per cent slower than ordered."""
    held = []
    for n in (200, 4000):
        spans = [[1.04 * i / 10, 1.04 * i / 10 + 0.5] for i in range(n)]
        held.append(steady_state(spans, rate=10.0, concurrency=5).evidence["holds_rate"])
    assert held == [True, False]


@pytest.mark.parametrize("moment", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_a_moment_that_is_no_number_is_not_called_steady(moment: float, which: int) -> None:
    spans = [[i / 4, i / 4 + 0.4] for i in range(100)]
    spans[50][which] = moment
    found = steady_state(spans, rate=4.0, concurrency=None)
    assert (found.ok, found.unverified) == (None, True)
