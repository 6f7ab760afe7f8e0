"""What an agent decides by itself; what it does with processes and the driver is in tests/cluster."""

from __future__ import annotations

import pytest

from pdslurm.slurm.agent import visible_gpus


@pytest.mark.parametrize(
    ("planned", "given", "expected"),
    [
        ("0,1,2,3", None, "0,1,2,3"),
        ("0,1", "0,1,2,3,4,5,6,7", "0,1"),
        ("0,1", "4,5,6,7", "4,5"),
        ("3", "GPU-a,GPU-b,GPU-c,MIG-d", "MIG-d"),
        ("6,7", "0,1", "6,7"),  # a step that was given too few: preflight says so
        ("0", "", "0"),
    ],
)
def test_the_plans_gpus_are_those_that_slurm_gave(planned: str, given: str | None, expected: str) -> None:
    assert visible_gpus(planned, given) == expected
