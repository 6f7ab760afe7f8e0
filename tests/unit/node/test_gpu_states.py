"""What nvidia-smi says of GPUs' clocks, as four H200s print it (driver 580), and what slowed a GPU during a point."""

from __future__ import annotations

import pytest

from pdslurm.node.gpu_states import parse_states, states_during, throttle_reasons
from pdslurm.validity.clocks import slowdowns


@pytest.mark.parametrize(
    ("mask", "names"),
    [
        ("0x0000000000000000", []), ("0x0000000000000001", ["idle"]), ("0x0000000000000044", ["power cap", "HW thermal"]),
        ("0x0000000000001008", ["HW slowdown", "0x1000"]), ("[N/A]", None), ("Active", None),
    ],
)  # fmt: skip
def test_throttle_reasons(mask: str, names: list[str] | None) -> None:
    assert throttle_reasons(mask) == names


def test_states_are_facts_and_an_older_driver_gives_none() -> None:
    assert parse_states("0, 345, 1980, 31, Enabled, 0x0000000000000001\n") == [
        {"gpu": 0, "sm_mhz": 345, "max_sm_mhz": 1980, "temperature_c": 31, "persistence": True, "clocks_held_by": ["idle"]}
    ]
    assert parse_states('Field "clocks_throttle_reasons.active" is not a valid field to query.\n') == []


STATES = """\
0, 1980, 1980, 61, Enabled, 0x0000000000000004, 120, {hot}, 0, 9000000
1, [N/A], [N/A], [N/A], Disabled, 0x0000000000000060, [N/A], [N/A], [N/A], [N/A]
"""


def test_clocks_with_the_driver_s_counters() -> None:
    first, second = parse_states(STATES.format(hot=5), counters=True)
    assert first["clocks_held_by"] == ["power cap"]
    assert first["slowed_us"] == {"SW thermal": 120, "HW thermal": 5, "HW power brake": 0, "power cap": 9_000_000}
    assert (second["sm_mhz"], set(second["slowed_us"].values())) == (None, {None})
    assert parse_states('Field "clocks_event_reasons_counters.sw_power_cap" is not a valid field to query.', counters=True) == []
    assert parse_states("0, 1980, 1980, 61, Enabled, 0x0000000000000004", counters=True) == []


def test_what_slowed_a_gpu_during_a_point() -> None:
    before, after = (parse_states(STATES.format(hot=us), counters=True) for us in (5, 2_000_005))
    during_it = states_during(before, after)
    assert during_it[0]["slowed_s"] == {"SW thermal": 0, "HW thermal": 2, "HW power brake": 0, "power cap": 0}
    assert during_it[1]["slowed_s"] is None
    assert list(slowdowns(during_it, 100.0)) == [
        "GPU 0 was slowed by HW thermal for 2 of 100 s",
        "GPU 1 was slowed by SW thermal",
        "GPU 1 was slowed by HW thermal",
    ]
    assert list(slowdowns(during_it[:1], 201.0)) == [], "below 1 % of the time"
    assert states_during(before[:1], after[1:]) == [], "a GPU that was read once"


def test_clocks_of_a_driver_without_counters() -> None:
    (state,) = parse_states("3, 345, 1980, 88, Enabled, 0x0000000000000001\n")
    assert states_during([state], [state])[0]["slowed_s"] is None
    assert list(slowdowns(states_during([state], [state]), 10.0)) == []
