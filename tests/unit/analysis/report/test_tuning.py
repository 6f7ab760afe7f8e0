"""What summary, report and table say of the trials that chose each arm's setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.__main__ import main
from analysis.load.frame import load_runs
from analysis.report.html_page import page_html
from analysis.report.summary import summary
from analysis.report.tuning import UNTUNED
from pdslurm.records.measurement import Measurement
from tests.unit.analysis.records_made import record, two_arms, write

BLOCK = {"block_size": 128}


def trial(arm: str, setting: dict[str, Any], round_: int, tpot: float | None, ttft: float | None, **changes: Any) -> Measurement:
    base, disaggregated = arm.partition("-")[0], arm.startswith("pd")
    made = record(arm, repeat=round_, rate=4.0, sweeps=("tuning",), prompts=80 * 2**round_, value=float(1 + len(arm) + round_))
    info = {"disaggregated": disaggregated, "gpus": 2, "tuned_arm": base, "setting": setting}
    point = {**made.point, "id": f"i512-o256-r4-cinf-tuning-rep{round_}", "load": "random, tuning"}
    fields = {"arm_info": info, "point": point, "metrics": {"p90_tpot_ms": tpot, "p90_ttft_ms": ttft}, **changes}
    return record(arm, repeat=round_, rate=4.0, value=float(1 + len(arm) + round_), **fields)


TRIALS = [
    trial("route_2", {}, 0, 20.0, 100.0),
    trial("route_2-chunk", {"max_num_batched_tokens": 2048}, 0, 25.0, 150.0),
    trial("pd_1p1d", {}, 0, 18.4, 515.0),
    trial("pd_1p1d-block", BLOCK, 0, 8.6, 384.0),
    trial("pd_1p1d-block", BLOCK, 1, 8.7, 380.0),
    trial("pd_1p1d-big", {"block_size": 4096}, 0, None, None, status="failed", valid=False, invalid_reasons=("engine1 died",)),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    compared = two_arms({"route_2": [100.0, 101.0, 102.0], "pd_1p1d-block": [120.0, 121.0, 122.0]}, starts=True)
    return write(tmp_path / "run", [*TRIALS, *compared])


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_summary_says_what_was_chosen_and_what_it_changed(run: Path) -> None:
    said = words(summary(load_runs([run])))
    assert "Each kind of arm was tuned before, with 3 settings at 4 requests/s." in said
    assert (
        "Of the P/D arm (pd_1p1d) these settings are compared: block_size=128 (p90 TPOT 8.6 ms, as configured 18.4; "
        "p90 TTFT 384 ms, as configured 515)." in said
    )
    assert "Of the plain arm (route_2) these settings are compared: as configured (p90 TPOT 20 ms; p90 TTFT 100 ms)." in said
    assert UNTUNED not in said


def test_trials_are_no_measurements_of_the_comparison(run: Path) -> None:
    frame = load_runs([run])
    assert len(frame) == 6
    assert set(frame["arm"]) == {"route_2", "pd_1p1d-block"}


def test_an_answer_for_untuned_arms_says_so(tmp_path: Path) -> None:
    both = write(tmp_path / "both", two_arms({"route_2": [100.0], "pd_1p1d": [120.0]}))
    assert UNTUNED in words(summary(load_runs([both])))
    one = write(tmp_path / "one", two_arms({"route_2": [100.0], "route_4": [120.0]}))
    assert UNTUNED not in words(summary(load_runs([one])))


def test_the_table_has_every_trial(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tuning", str(run)]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split()[:2] == ["kind", "arm"]
    assert len(lines) == len(TRIALS)
    rows = [line.split() for line in lines]
    assert [row[:2] for row in rows] == [["plain", "route_2"]] * 2 + [["P/D", "pd_1p1d"]] * 4
    assert [row[2] for row in rows if "yes" in row] == ["as", "block_size=128"]
    assert "engine1 died" in lines[-2]


def test_where_nothing_was_tuned_the_table_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "run", two_arms({"route_2": [100.0], "pd_1p1d": [120.0]}))
    assert main(["tuning", str(folder)]) == 2
    assert "no arm was tuned in these runs" in capsys.readouterr().err


def test_the_report_has_a_section_on_it(run: Path) -> None:
    page = page_html(load_runs([run]), run / "report.html")
    assert '<h2 id="tuning">Tuning</h2>' in page
    assert "<td>block_size=128</td>" in page


def test_trials_alone_compare_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "run", TRIALS)
    assert main(["summary", str(folder)]) == 2
    assert "nothing to compare" in capsys.readouterr().err
