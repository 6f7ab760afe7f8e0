"""Closed forms of queueing theory, and what is conserved whatever happens."""

from __future__ import annotations

from random import Random
from statistics import fmean

import pytest

from pdslurm.predict.cluster import ClusterSpec, Event, InstanceSpec, Request, simulate
from tests.unit.predict.clusters import PULL, Cost, engine, plain


def poisson(rate_per_s: float, count: int, seed: int) -> list[Request]:
    random, at_s, given = Random(seed), 0.0, []
    for n in range(count):
        at_s += random.expovariate(rate_per_s)
        given.append(Request(n, ((n, 4),), 1, at_s))
    return given


@pytest.mark.parametrize("load", [0.3, 0.5, 0.7])
def test_the_mean_wait_is_that_of_m_d_1(load: float) -> None:
    """One request at a time, each a step of 1 s: the wait is load/(2·(1-load)) s (Pollaczek and Khinchine)."""
    outcome = simulate(plain(max_num_seqs=1), poisson(load, 20_000, seed=1))
    assert fmean(each.ttft_s - 1.0 for each in outcome.served) == pytest.approx(load / (2 * (1 - load)), rel=0.04)


def test_round_robin_over_two_is_two_queues_of_half_the_load() -> None:
    """Each queue gets every second request: arrivals of Erlang-2, whose wait is less than that of M/D/1 at the same load."""
    load = 0.7
    two = simulate(plain(2, max_num_seqs=1), poisson(2 * load, 20_000, seed=2))
    random = simulate(plain(2, max_num_seqs=1, policy="random"), poisson(2 * load, 20_000, seed=2))
    assert fmean(each.ttft_s - 1.0 for each in random.served) == pytest.approx(load / (2 * (1 - load)), rel=0.06)
    assert fmean(each.ttft_s for each in two.served) < fmean(each.ttft_s for each in random.served)


def mixed(random: Random, count: int) -> list[Request]:
    given = []
    for n in range(count):
        text = (f"shared {random.randrange(3)}", random.randint(1, 40)), (n, random.randint(1, 40))
        after = random.randrange(n) if n and random.random() < 0.2 else None
        given.append(Request(n, text, random.randint(1, 30), 20 * random.random(), random.randrange(5), after, random.random()))
    return given


def some_cluster(random: Random) -> ClusterSpec:
    """Of any kind, with blocks so few that requests are preempted."""
    policies = ["round_robin", "random", "consistent_hash", "power_of_two", "cache_aware"]
    has_split = random.random() < 0.6

    def instance(name: str, role: str, group: int) -> InstanceSpec:
        spec = engine(
            num_blocks=random.randint(30, 60),
            max_num_batched_tokens=random.randint(8, 100),
            max_num_seqs=random.randint(1, 10),
            enable_prefix_caching=random.random() < 0.5,
            async_scheduling=random.random() < 0.5,
        )
        ranks = random.choice([1, 1, 2, 3])
        cost = Cost(0.01, 0.001)
        return InstanceSpec(
            name, role, cost, spec, ranks, random.random() < 0.5, group, 0, name, pull=PULL if role == "decode" else None
        )

    if has_split:
        names = [
            (f"{role} {group} {n}", role, group)
            for group in range(random.randint(1, 2))
            for role in ("prefill", "decode")
            for n in range(random.randint(1, 2))
        ]
    else:
        names = [(f"plain {n}", "both", n) for n in range(random.randint(1, 4))]
    instances = tuple(instance(*each) for each in names)
    return ClusterSpec(instances, {each.name: 1000.0 for each in instances}, random.choice(policies), None, random.choice(policies))


@pytest.mark.parametrize("seed", range(30))
def test_requests_and_tokens_are_conserved(seed: int) -> None:
    random = Random(seed)
    spec, given, log = some_cluster(random), mixed(random, 60), list[Event]()
    outcome = simulate(spec, given, max_concurrency=random.choice([None, 1, 7]), seed=seed, log=log)
    assert [each.id for each in outcome.served] == list(range(60))
    for request, served in zip(given, outcome.served, strict=True):
        assert len(served.token_times_s) == request.output_tokens
        assert served.start_s >= request.arrival_s
        assert list(served.token_times_s) == sorted(served.token_times_s)
    roles = {each.name: each.role for each in spec.instances}
    answers = [counters for name, counters in outcome.counters.items() if roles[name] != "prefill"]
    prefills = [counters for name, counters in outcome.counters.items() if roles[name] == "prefill"]
    assert sum(counters.requests for counters in answers) == 60
    assert sum(counters.generation_tokens for counters in answers) == sum(each.output_tokens for each in given)
    assert sum(counters.prompt_tokens for counters in answers) == sum(each.prompt_tokens for each in given)
    assert sum(counters.requests for counters in prefills) == (60 if prefills else 0)
    assert sum(counters.nixl_transfers for counters in answers) == (60 if prefills else 0)
    assert sum(counters.preemptions for counters in [*answers, *prefills]) == sum(event[2] == "preempt" for event in log)
    assert [time_s for time_s, *_ in log] == sorted(time_s for time_s, *_ in log)
    assert in_flight(log) == pytest.approx(sum(served.end_s - served.start_s for served in outcome.served))


def in_flight(log: list[Event]) -> float:
    """Little's law: the number of requests in flight, integrated over time, is the sum of their times."""
    total, number, before_s = 0.0, 0, 0.0
    for time_s, _, what, _ in log:
        total, before_s = total + number * (time_s - before_s), time_s
        number += {"send": 1, "end": -1}.get(what, 0)
    return total
