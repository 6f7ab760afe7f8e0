"""Which worker a router's policy chooses."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from pdslurm.predict.routing import POLICIES, Policy

TEXT = (("a", 100),)


def policy(name: str, count: int = 3) -> Policy:
    return Policy(name, count, Random(0))


@pytest.mark.parametrize("name", POLICIES)
def test_a_single_worker_gets_everything(name: str) -> None:
    assert policy(name, 1).choose(TEXT, None, [7]) == 0


def test_round_robin_takes_turns() -> None:
    turns = policy("round_robin")
    assert [turns.choose(TEXT, None, [9, 0, 0]) for _ in range(5)] == [0, 1, 2, 0, 1]


def test_random_is_even() -> None:
    draws = policy("random")
    counts = Counter(draws.choose(TEXT, None, [9, 0, 0]) for _ in range(3000))
    assert all(count == pytest.approx(1000, rel=0.1) for count in counts.values())


def test_power_of_two_takes_the_lesser_load_of_two_that_are_drawn() -> None:
    draws = policy("power_of_two")
    counts = Counter(draws.choose(TEXT, None, [1, 2, 3]) for _ in range(3000))
    assert counts[2] == 0
    assert counts[0] == pytest.approx(2000, rel=0.05)  # of the three pairs it is the lesser one in two


def test_consistent_hash_keeps_sessions_and_spreads_them() -> None:
    hashed = policy("consistent_hash")
    first = [hashed.choose(TEXT, session, [0, 0, 0]) for session in range(3000)]
    assert first == [hashed.choose((("b", 5),), session, [9, 0, 0]) for session in range(3000)]
    assert all(count == pytest.approx(1000, rel=0.1) for count in Counter(first).values())


def test_without_sessions_consistent_hash_sends_all_to_one() -> None:
    assert len({policy("consistent_hash").choose(((n, 5),), None, [0, 0, 0]) for n in range(20)}) == 1


def test_cache_aware_follows_what_it_sent_before() -> None:
    aware, idle = policy("cache_aware"), [0, 0, 0]
    assert aware.choose((("system", 50), ("x", 50)), None, idle) == 0
    assert aware.choose((("other", 100),), None, idle) == 1  # nothing in common: the worker with the least text
    assert aware.choose((("system", 50), ("y", 50)), None, idle) == 0
    assert aware.choose((("system", 29), ("z", 71)), None, idle) == 2  # 29 % in common, not more than 30 %
    assert aware.choose((("system", 40), ("z", 60)), None, idle) == 0


def test_cache_aware_leaves_a_worker_that_has_far_more_requests() -> None:
    aware = policy("cache_aware")
    assert aware.choose(TEXT, None, [0, 0, 0]) == 0
    assert aware.choose(TEXT, None, [64, 3, 0]) == 0  # 64 more than the idlest, not more than that
    assert aware.choose(TEXT, None, [65, 3, 0]) == 2
