"""Records in, what the summary says of them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.load.frame import load_runs
from analysis.report.summary import summary
from pdslurm.records.measurement import Measurement
from tests.unit.analysis.records_made import failed, record, two_arms, write


@pytest.mark.parametrize(
    ("records", "said", "unsaid"),
    [
        (
            two_arms({"pd": [1.0, 1.1, 1.2], "route": [5.0, 6.0, 5.5]}, starts=True)
            + two_arms({"pd": [1.0, 5.0, 3.0], "route": [4.0, 6.0, 5.0]}, (512, 512), starts=True),
            [
                "2 arms at 2 settings",
                "Highest output throughput: route at 2 of 2 (better than every other arm at 1).",
                "Lowest mean TPOT: pd at 2 of 2 (better than every other arm at 1).",
                "Lowest mean ITL, the gap between two chunks: pd at 2 of 2 (better than every other arm at 1).",
                "Better means that the 95 % interval of the ratio over starts excludes equality.",
                "12 valid of 12 tried; 12 unverified: ",
                "Evidence: 3 starts per point, measured, pd KV over unknown.",
                "512 pd 3 3.00 [-1.97, 7.97]",
                "everywhere: input_len 512, request_rate inf, max_concurrency inf, num_prompts 24",
            ],
            ["not a result", "(distinguishable"],
        ),
        (
            two_arms({"pd": [1.0], "route": [900.0]}),
            ["route at 1 of 1 (better at none)", "Each arm was started once, so that no arm is called better"],
            ["better than every"],
        ),
        (
            two_arms({"pd": [1.0, 1.1, 1.2], "route": [5.0, 5.1, 5.2]}),
            ["Each arm was started once", "in the one start of each arm route is better at 1", "Evidence: 3 repeats per point"],
            ["better than every"],
        ),
        ([record("pd")], ["One arm, pd, at 1 setting: nothing to compare it with.", "1 valid of 1 tried"], ["Highest"]),
        ([record("pd"), record("route", (512, 512))], ["no setting that two of them have a valid measurement of"], ["Highest"]),
        (
            [*two_arms({"pd": [1.0, 2.0], "route": [5.0, 6.0]}), failed("pd", (512, 512)), record("route", (512, 512))],
            [
                "Not every arm",
                "pd at 1 of 2",
                "5 valid of 5 tried; left out: 1 failed; 5 unverified: ",
                "Reasons: client exited with code 1 (1).",
            ],
            ["Traceback"],
        ),
        (
            [failed("pd")],
            ["No valid measurement: there is nothing to compare.", "0 valid of 0 tried; left out: 1 failed"],
            ["Highest"],
        ),
        (
            [*two_arms({"pd": [1.0, 2.0], "route": [5.0, 6.0]}), record("pd", value=99.0, source="simulated")],
            ["Highest output throughput: route at 1 of 1", "measured and simulated", "pd (simulated) 1 99.00"],
            [],
        ),
        (
            [record(arm, repeat=n, rate=2.0, value=value) for arm, value in (("pd", 1.0), ("route", 2.0)) for n in range(3)],
            ["At a fixed request rate throughput is the load that was offered", "Lowest mean TTFT: pd at 1 of 1"],
            ["Highest output throughput"],
        ),
        (
            [record("pd", provenance={"cautions": ["dummy weights", "one host"]}), record("route", arm_info={"gpus": 4})],
            ["dummy weights, one host, arms with different numbers of GPUs (pd 2, route 4)", "it is not a result"],
            [],
        ),
    ],
)
def test_summary(tmp_path: Path, records: list[Measurement], said: list[str], unsaid: list[str]) -> None:
    text = " ".join(summary(load_runs([write(tmp_path, records)])).split())
    assert [part for part in said if part not in text] == [], text
    assert [part for part in unsaid if part in text] == [], text
