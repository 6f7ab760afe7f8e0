"""Transfers that share links."""

from __future__ import annotations

import math

from pdslurm.predict.links import Links


def ends(speeds: dict[str, float], *transfers: tuple[float, float, str, str]) -> dict[int, float]:
    """When each transfer ends, by its number, from (start in s, bytes, source, target)."""
    links, at_s = Links[int](speeds), 0.0
    found: dict[int, float] = {}
    starts = [(start_s, number) for number, (start_s, *_) in enumerate(transfers)]
    while starts or links.active:
        at_s = min(starts[0][0] if starts else math.inf, links.next_end_s)
        if starts and at_s == starts[0][0]:
            number = starts.pop(0)[1]
            _, size, source, target = transfers[number]
            links.start(number, size, source, target, now_s=at_s)
        else:
            found |= dict.fromkeys(links.ended(at_s), at_s)
    return found


def test_alone() -> None:
    assert ends({"a": 4.0, "b": 2.0}, (1.0, 8.0, "a", "b")) == {0: 5.0}


def test_what_leaves_one_link_shares_it() -> None:
    speeds = {"p": 4.0, "d": 4.0, "e": 4.0}
    assert ends(speeds, (0.0, 8.0, "p", "d"), (1.0, 8.0, "p", "e")) == {0: 3.0, 1: 4.0}


def test_what_enters_one_link_shares_it() -> None:
    assert ends({"p": 4.0, "q": 4.0, "d": 4.0}, (0.0, 8.0, "p", "d"), (0.0, 4.0, "q", "d")) == {1: 2.0, 0: 3.0}


def test_the_two_directions_of_a_link_do_not_share() -> None:
    assert ends({"a": 4.0, "b": 4.0}, (0.0, 8.0, "a", "b"), (0.0, 8.0, "b", "a")) == {0: 2.0, 1: 2.0}


def test_nothing_takes_no_time() -> None:
    assert ends({"a": 4.0}, (1.0, 0.0, "a", "a")) == {0: 1.0}


def test_many_end_once_each_in_spite_of_rounding() -> None:
    found = ends({"a": 3.3e10, "b": 1e11}, *[(0.01 * n, 268_435_456.0 + n, "a", "b") for n in range(50)])
    assert sorted(found) == list(range(50))
    assert max(found.values()) >= 50 * 268_435_456 / 3.3e10
