"""What a run with workload=smoke says of each arm at its end, from records made for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.load.frame import load_runs
from pdslurm.errors import ResultsError, SmokeFailed
from pdslurm.launchers.smoke import NOTHING, check, smoke_text
from pdslurm.records.measurement import Check, Measurement
from pdslurm.records.run_folder import RunFolder
from pdslurm.validity.checks import checks
from pdslurm.validity.demand import Demand
from pdslurm.validity.evidence import Evidence
from tests.unit.analysis.records_made import record

WAY = {"peer": "intra-node", "lanes": ["cuda_ipc/cuda", "cuda_ipc/cuda"], "how": "zero-copy"}
MOVED = {"transport": {"kinds": ["shm"], "engines": {"engine1": [WAY], "engine2": [WAY]}}}
GOOD = (Check("transport", True, "KV went over shm"), Check("text", True, "36 answers are the plain instance's"))
UNSURE = Check("text", None, "nobody asked this arm for its text", unverified=True)


def smoke(arm: str = "pd_1p1d", **changes: Any) -> Measurement:
    return record(arm, (128, 16), concurrency=2, sweeps=("smoke",), prompts=8, **changes)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            smoke(checks=GOOD, telemetry=MOVED),
            "pd_1p1d served 8 of 8 requests, its KV moved over shm (cuda_ipc), its text is a plain instance's; "
            "nothing would have gone wrong",
        ),
        (smoke("route_2"), "route_2 served 8 of 8 requests; nothing would have gone wrong"),
        (
            smoke(checks=(GOOD[0], UNSURE), telemetry=MOVED),
            "pd_1p1d served 8 of 8 requests, its KV moved over shm (cuda_ipc); it would have been unverified in text (nobody asked "
            "this arm for its text)",
        ),
        (
            smoke(valid=False, invalid_reasons=("3 NIXL transfers for 8 requests", "KV went over tcp")),
            "pd_1p1d would have been INVALID: 3 NIXL transfers for 8 requests; KV went over tcp",
        ),
        (
            smoke(status="failed", valid=False, completed=None, error="\nHTTP 500: no such model\n  | Traceback"),
            "pd_1p1d would have FAILED: HTTP 500: no such model",
        ),
    ],
)
def test_an_arm_s_line(made: Measurement, said: str) -> None:
    assert smoke_text([made.arm], [made]) == f"smoke: {said}\n{NOTHING}\n"


def test_a_script_sees_which_arms_would_not_have_been_measured() -> None:
    good, bad = smoke("route_2"), smoke(valid=False, invalid_reasons=("KV went over tcp",))
    failed = smoke("pd_2p2d", status="failed", valid=False, completed=None, error="HTTP 500")
    check(["route_2"], [good, bad])
    check(["pd_1p1d"], [bad, replace(smoke(), started_at="2027-01-01T00:00:00+00:00")])
    with pytest.raises(SmokeFailed, match=r"^3 of 4 arm\(s\) would not have been measured: pd_1p1d, pd_2p2d, dp$") as caught:
        check(["route_2", "pd_1p1d", "pd_2p2d", "dp"], [good, bad, failed, record("dp")])
    assert caught.value.exit_code == 11


def test_the_latest_record_of_each_arm_counts() -> None:
    bad = smoke("route_2", valid=False, invalid_reasons=("a fault",), started_at="2026-03-10T00:00:00+00:00")
    good = replace(smoke("route_2"), started_at="2026-03-10T00:01:00+00:00")
    text = smoke_text(["route_2", "pd_1p1d"], [good, record("pd_1p1d"), bad])
    assert text.splitlines()[:2] == [
        "smoke: route_2 served 8 of 8 requests; nothing would have gone wrong",
        "smoke: pd_1p1d sent no request: the run ended before, and its error says why",
    ]
    assert smoke_text(["route_2"], [record("route_2")]) == ""


def test_no_analysis_reads_them(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save(smoke("route_2"))
    with pytest.raises(ResultsError, match="workload=smoke measures nothing to compare; there are no other records there"):
        load_runs([tmp_path])
    folder.save(record("route_2"))
    assert list(load_runs([tmp_path])["input_len"]) == [512]


@pytest.mark.parametrize("is_smoke", [True, False])
def test_means_over_many_requests_are_not_judged_of_few(is_smoke: bool) -> None:
    """Only the checks of the client's pace are let go: what did not complete still counts."""
    demand = Demand(num_prompts=8, stream=True, gpus=True)
    client = {"client_busy": 0.99, "duration": 2.0, "mean_ttft_ms": 10.0, "completed": 7}
    found = {c.name: c for c in checks(Evidence(demand, client, completed=7, is_smoke=is_smoke))}
    assert found["client"].ok is (None if is_smoke else False)
    assert found["client"].said.startswith("not judged of so few requests: the client used 0.99") is is_smoke
    assert found["completed"].ok is False
