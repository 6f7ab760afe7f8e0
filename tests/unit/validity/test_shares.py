"""Which shares of the work chance explains, and which it does not."""

from __future__ import annotations

import random

from pdslurm.validity.shares import uneven_requests, uneven_tokens


def test_half_of_the_tokens_of_one_instance_moved() -> None:
    tokens = {"a": 7616.0, "b": 22848.0}
    assert set(uneven_tokens({"a": 119.0, "b": 119.0}, tokens, [128.0] * 238, "cache_aware")) == {"a", "b"}


def test_equal_lengths_and_equal_shares_pass() -> None:
    tokens = {"a": 15232.0, "b": 15232.0}
    assert uneven_tokens({"a": 119.0, "b": 119.0}, tokens, [128.0] * 238, "round_robin") == {}


def test_unequal_requests_with_their_own_tokens_pass() -> None:
    assert uneven_tokens({"a": 60.0, "b": 40.0}, {"a": 7680.0, "b": 5120.0}, [128.0] * 100, "random") == {}


def test_mixed_lengths_dealt_by_chance_pass_and_a_third_moved_does_not() -> None:
    for seed in range(200):
        chance = random.Random(seed)
        lengths = [chance.lognormvariate(6, 0.5) for _ in range(1024)]
        at = [chance.choice("ab") for _ in lengths]
        requests = {name: float(at.count(name)) for name in "ab"}
        tokens = {name: sum(n for n, where in zip(lengths, at, strict=True) if where == name) for name in "ab"}
        assert uneven_tokens(requests, tokens, lengths, "random") == {}
        moved = {"a": tokens["a"] * 2 / 3, "b": tokens["b"] + tokens["a"] / 3}
        assert set(uneven_tokens(requests, moved, lengths, "random")) == {"a", "b"}


def test_requests_dealt_by_chance_pass_and_an_idle_instance_does_not() -> None:
    for seed in range(200):
        chance = random.Random(seed)
        counts = dict.fromkeys("abcdefgh", 0.0)
        for _ in range(256):
            counts[chance.choice("abcdefgh")] += 1
        assert uneven_requests(counts, 0.5) == {}
    assert "a" in uneven_requests({"a": 0.0, **dict.fromkeys("bcdefgh", 36.6)}, 0.5)


def test_round_robin_stays_at_ten_per_cent() -> None:
    assert set(uneven_requests({"a": 70.0, "b": 30.0}, 0.1)) == {"a", "b"}
