"""Run folders with rate sweeps in, the map of SLOs as CSV and text, and the summary's sentences, out."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from analysis.__main__ import main
from analysis.load.frame import load_runs
from analysis.report.slo_table import capacity_text
from analysis.report.summary import summary
from analysis.stats import repeats
from analysis.stats.slo_map import slo_maps
from analysis.stats.sweeps import sweeps_of
from tests.swept import SEPARATE, write_run

RATES = (3.0, 7.0, 11.0, 16.0, 24.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("swept"), starts=2, rates=RATES, duration_s=15)


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["slo-map", *argv]) == 0
    return capsys.readouterr().out


def test_csv_has_every_cell(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(printed(capsys, str(run), "--share", "0.95", "--ttft", "321", "--format", "csv"))))
    sweeps = sweeps_of(repeats.judge(load_runs([run])))
    places = {(float(row["ttft_ms"]), float(row["tpot_ms"])) for row in rows}
    assert {(500.0, 25.0), (321.0, 25.0)} <= places
    (one,) = slo_maps(sweeps, 0.95, ttft_ms=[321, 500]).values()
    compared = 0
    for row in rows:
        cell = one.cells.get((float(row["ttft_ms"]), float(row["tpot_ms"])))
        if cell is None:
            continue
        compared += 1
        assert (row["outcome"], row["leaning"], row["share"]) == (cell.outcome, cell.leaning or "", "0.95")
        assert row["ratio"] == (f"{cell.ratio.value:.6g}" if cell.ratio else "")
        assert [float(row[f"route_4_per_s_gpu{end}"]) for end in ("", "_low", "_high")] == pytest.approx(
            list(cell.capacities["route_4"]), rel=1e-5
        )
    assert compared >= 20
    assert len({row["outcome"] for row in rows}) >= 3


def test_text_has_the_answer_and_a_row_for_each_cell(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(capsys, str(run))
    lines = said.splitlines()
    assert lines[0] == "128 tokens in, 128 out, 90 % of the requests"
    assert lines[1].startswith("For TTFT ≤ 500 ms for 90 % of the requests: for TPOT bounds of ")
    (head,) = [line.split() for line in lines if line.startswith("ttft_ms")]
    assert head[-3:] == ["ratio", "pd_2p2d", "route_4"]
    assert sum(line.split()[:2] == ["500", "25"] for line in lines) == 1
    assert printed(capsys, str(run), "--ttft", "300").splitlines()[1].startswith("For TTFT ≤ 300 ms for 90 %")


def test_the_summary_says_the_answer_for_the_runs_bound_on_ttft(run: Path, tmp_path: Path) -> None:
    said = " ".join(summary(load_runs([run])).split())
    assert "For TTFT ≤ 500 ms for 90 % of the requests: for TPOT bounds of " in said
    assert said.count("Each of these is a 95 % statement by itself") == 1
    e2el = write_run(tmp_path / "e2el", starts=1, rates=RATES, duration_s=10, slo="  ttft_ms: 500.0\n  e2el_ms: 9000.0\n")
    assert "These sentences leave out the run's limit on e2el_ms." in " ".join(summary(load_runs([e2el])).split())
    alone = write_run(tmp_path / "alone", arms=[SEPARATE], starts=1, rates=RATES, duration_s=10)
    assert "For TTFT" not in summary(load_runs([alone]))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--share", "90"], "share=90: must be above 0 and below 1"),
        (["--ttft", "-1"], "ttft=-1: must be a number of ms above 0"),
    ],
)
def test_a_wrong_option_is_one_line(run: Path, capsys: pytest.CaptureFixture[str], options: list[str], why: str) -> None:
    assert main(["slo-map", str(run), *options]) == 2
    assert why in capsys.readouterr().err


def test_arms_of_one_kind_have_no_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = write_run(tmp_path, arms=[SEPARATE], starts=1, rates=RATES, duration_s=10)
    assert main(["slo-map", str(alone)]) == 2
    assert "slo-map: at no load were two request rates or more measured on both kinds of arms" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ((1.0, 0.5, 2.0), "1.00 [0.5000, 2.00]"),
        ((1.0, 0.5, float("inf")), "0.5000 or more"),
        ((1.0, 0.0, 2.0), "2.00 or less"),
        ((1.0, 0.0, float("inf")), "-"),
    ],
)
def test_capacities_as_text(known: tuple[float, float, float], text: str) -> None:
    assert capacity_text(known) == text
