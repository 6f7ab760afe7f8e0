"""What nvidia-smi says of GPUs' clocks, as four H200s print it (driver 580), and what slowed a GPU during a point."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pdslurm.node.gpu_states import (
    COUNTERS,
    FACT_FIELDS,
    STATE_FIELDS,
    parse_facts,
    parse_numa,
    parse_states,
    query_known,
    states_during,
    throttle_reasons,
)
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


COUNTED = (*STATE_FIELDS, *COUNTERS.values())
STATES = """\
0, 1980, 1980, 61, Enabled, 0x0000000000000004, 120, {hot}, 0, 9000000
1, [N/A], [N/A], [N/A], Disabled, 0x0000000000000060, [N/A], [N/A], [N/A], [N/A]
"""


def test_clocks_with_the_driver_s_counters() -> None:
    first, second = parse_states(STATES.format(hot=5), COUNTED)
    assert first["clocks_held_by"] == ["power cap"]
    assert first["slowed_us"] == {"SW thermal": 120, "HW thermal": 5, "HW power brake": 0, "power cap": 9_000_000}
    assert (second["sm_mhz"], set(second["slowed_us"].values())) == (None, {None})
    assert parse_states('Field "clocks_event_reasons_counters.sw_power_cap" is not a valid field to query.', COUNTED) == []
    assert parse_states("0, 1980, 1980, 61, Enabled, 0x0000000000000004", COUNTED) == []


def test_what_slowed_a_gpu_during_a_point() -> None:
    before, after = (parse_states(STATES.format(hot=us), COUNTED) for us in (5, 2_000_005))
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


def test_a_gpu_s_own_facts_and_what_a_driver_does_not_tell() -> None:
    fields, line = ("index", *FACT_FIELDS), "0, NVIDIA H100 80GB HBM3, 700.00, 580.159.04, 00000000:19:00.0, GPU-6f2a\n"
    told = parse_facts(line, fields)
    assert told == {
        0: {"name": "NVIDIA H100 80GB HBM3", "power_limit_w": 700.0, "driver": "580.159.04", "bus_id": "00000000:19:00.0",
            "uuid": "GPU-6f2a"}
    }  # fmt: skip
    (state,) = parse_states("0, 345, 1980, 31, Enabled, 0x0000000000000001\n")
    assert states_during([state], [state | told[0]])[0]["name"] == "NVIDIA H100 80GB HBM3", "they go into the record"
    assert set(parse_facts(line.replace("700.00", "[N/A]"), fields)[0]) == {"name", "driver", "bus_id", "uuid"}
    assert parse_facts("0, 345, 1980, 31, Enabled, 0x0000000000000001\n", fields) == {}, "another query's answer"


def test_a_field_that_a_driver_does_not_know_takes_nothing_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdslurm.node.gpu_states._unknown", set())
    asked: list[tuple[str, ...]] = []

    def driver(fields: Sequence[str]) -> str:
        asked.append(tuple(fields))
        unknown = next((field for field in fields if field.startswith("clocks_event_reasons_counters")), None)
        if unknown:
            return f'Field "{unknown}" is not a valid field to query.\n'
        said = {"index": "1", "clocks.max.sm": "1410"}
        return ", ".join(said.get(field, "[N/A]") for field in fields)

    text, known = query_known((*STATE_FIELDS, *COUNTERS.values()), driver)
    (state,) = parse_states(text, known)
    assert (state["gpu"], state["max_sm_mhz"]) == (1, 1410)
    assert "slowed_us" not in state
    assert len(asked) == len(COUNTERS) + 1
    query_known((*STATE_FIELDS, *COUNTERS.values()), driver)
    assert len(asked) == len(COUNTERS) + 2, "what a driver does not know is asked once"


def test_numa_nodes_as_two_h100s_print_them() -> None:
    heading = "\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID"
    text = f"{heading}\nGPU0\t X \tNV18\t0-31\t0\t\tN/A\nGPU1\tNV18\t X \t0-31\tN/A\t\tN/A\n\nLegend:\n"
    assert parse_numa(text) == {0: {"numa": "0", "cpus": "0-31"}, 1: {"cpus": "0-31"}}
    assert parse_numa("") == {}
