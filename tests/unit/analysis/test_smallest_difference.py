"""The smallest difference that matters, as a run's config.yaml names it, in; what every answer says by it, out."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from analysis.__main__ import main
from analysis.figures import slo_map as slo_figure
from analysis.figures.crossover import FIELDS, crossover
from analysis.load.frame import load_runs
from analysis.load.slo import smallest_difference_of_runs
from analysis.report.diff import diff
from analysis.report.html_page import decisions
from analysis.report.markup import Markup
from analysis.report.slo_panel import slo_panels
from analysis.report.summary import summary
from analysis.stats import repeats
from analysis.stats.inference import INTEREST
from analysis.stats.sweeps import interest_of, sweeps_of
from analysis.stats.verdict import DISAGGREGATE, SAME, TOGETHER, UNDECIDED
from pdslurm.config import Slo
from pdslurm.errors import ResultsError
from tests.swept import write_run
from tests.unit.analysis.records_made import two_arms, write

SURE = {"pd_1p1d": [103.0, 103.3, 102.7], "route_2": [100.0, 100.3, 99.7]}  # ratio 1.03 [1.02, 1.04]
NOISY = {"pd_1p1d": [101.0, 103.0, 99.0], "route_2": [100.0, 102.0, 98.0]}  # ratio 1.01 [0.95, 1.07]


def config(interest: float | str | None) -> str:
    return "seed: 0\nslo:\n  name: none\n" + ("" if interest is None else f"  smallest_difference: {interest}\n")


def run(folder: Path, values: dict[str, list[float]], interest: float | str | None) -> Path:
    write(folder, [*two_arms(values, starts=True), *two_arms(values, (1024, 256), starts=True)])
    (folder / "config.yaml").write_text(config(interest))
    return folder


def text_of(folder: Path) -> str:
    return " ".join(summary(load_runs([folder])).split())


def test_the_configuration_and_the_analysis_have_one_default() -> None:
    assert Slo().smallest_difference == INTEREST


@pytest.mark.parametrize(
    ("named", "found"),
    [(None, 0.05), ("0.1", 0.1), ("0", 0.0), ("null", 0.05), ("1e-3", 0.001)],
)
def test_the_run_names_it(tmp_path: Path, named: str | None, found: float) -> None:
    (tmp_path / "config.yaml").write_text(config(named))
    assert smallest_difference_of_runs([str(tmp_path)], INTEREST) == found


@pytest.mark.parametrize("named", ["1", "-0.1", "5%", "nan"])
def test_what_is_none_is_refused(tmp_path: Path, named: str) -> None:
    (tmp_path / "config.yaml").write_text(config(named))
    said = rf"config\.yaml: slo\.smallest_difference={named}: must be a number, at least 0 and below 1, as 0\.05 for 5 %"
    with pytest.raises(ResultsError, match=said):
        smallest_difference_of_runs([str(tmp_path)], INTEREST)


def test_runs_that_name_different_ones_are_refused_as_those_with_different_shares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, usual, other = (run(tmp_path / str(named), made, named) for made, named in ((SURE, None), (NOISY, 0.05), (NOISY, 0.1)))
    assert interest_of(load_runs([old, usual])) == 0.05
    for command in ("summary", "figures", "slo-map", "report"):
        assert main([command, str(old), str(other)]) == 2
        said = capsys.readouterr().err
        assert "slo.smallest_difference: the runs' config.yaml name different ones (" in said, command
        assert f"{old}: 0.05" in said, command
        assert f"{other}: 0.1" in said, command
        assert said.count("\n") == 1, command


@pytest.mark.parametrize(
    ("values", "interest", "said", "better"),
    [
        (SURE, 0.02, "at 2 pd_1p1d is better: pd_1p1d has 1.03 [1.02, 1.04]", True),
        (SURE, None, "at 2 the two are the same within 5 %: pd_1p1d has 1.03 [1.02, 1.04]", False),
        (SURE, 0.1, "at 2 the two are the same within 10 %: pd_1p1d has 1.03 [1.02, 1.04]", False),
        (NOISY, 0.02, "at 2 the two cannot be told apart: pd_1p1d has 1.01 [", False),
        (NOISY, 0.1, "at 2 the two are the same within 10 %: pd_1p1d has 1.01 [", False),
    ],
)
def test_the_summary_judges_by_it(
    tmp_path: Path, values: dict[str, list[float]], interest: float | None, said: str, better: bool
) -> None:
    text = text_of(run(tmp_path, values, interest))
    assert said in text
    assert ("pd_1p1d at 2 of 2 (better than every other arm at 2)" in text) is better
    named = f"{100 * (INTEREST if interest is None else interest):g} %"
    assert f"Arms that surely differ by less than {named} are called the same, and none of them better." in text


@pytest.mark.parametrize(("interest", "said"), [(0.02, "differs"), (0.1, "the same within 10 %")])
def test_diff_judges_by_it(tmp_path: Path, interest: float, said: str) -> None:
    moved = {"pd_1p1d": SURE["pd_1p1d"], "route_2": [106.0, 106.3, 105.7]}
    first, second = run(tmp_path / "a", SURE, interest), run(tmp_path / "b", moved, interest)
    rows = [line for line in diff(first, second).splitlines() if line.startswith("route_2 ")]
    assert len(rows) == 10
    assert all(line.endswith(said) and "1.06 [" in line for line in rows)


def test_diff_of_runs_that_name_different_ones_takes_the_smaller(tmp_path: Path) -> None:
    text = diff(run(tmp_path / "a", SURE, 0.1), run(tmp_path / "b", SURE, 0.03))
    assert "slo.smallest_difference: 0.1 | 0.03" in text
    assert "20 the same within 3 %" in text


@pytest.mark.parametrize(
    ("interest", "outcomes", "label"),
    [(0.02, (DISAGGREGATE, TOGETHER), "P/D is better"), (0.1, (SAME, SAME), "the same within 10 %")],
)
def test_the_crossover_is_coloured_by_it(tmp_path: Path, interest: float, outcomes: tuple[str, str], label: str) -> None:
    made = crossover(judged_of(run(tmp_path, SURE, interest)), interest=interest)
    assert made
    throughput, ttft, _ = made.figure.axes
    for ax, outcome in zip((throughput, ttft), outcomes, strict=True):
        assert {to_hex(patch.get_facecolor()).upper() for patch in ax.patches} == {FIELDS[outcome]["facecolor"]}
    assert label in [text.get_text() for text in made.figure.legends[0].texts]


def test_every_figure_takes_it_from_the_run(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", SURE, 0.1)
    assert main(["figures", str(folder), "--out", str(tmp_path / "out"), "--formats", "svg"]) == 0
    assert "the same within 10 %" in (tmp_path / "out" / "crossover.svg").read_text()


def judged_of(folder: Path) -> pd.DataFrame:
    return repeats.judge(load_runs([folder]))


def test_the_rows_behind_the_verdict_say_it(tmp_path: Path) -> None:
    made = decisions(judged_of(run(tmp_path, SURE, 0.1)), ())
    assert isinstance(made, Markup)
    assert made.count("the same within 10 %") == 6


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Under the run's own SLO the P/D arm has about 0.7 times the other's capacity."""
    slo = "  ttft_ms: 500.0\n  tpot_ms: 25.0\n  share: 0.9\n  smallest_difference: 0.95\n"
    return write_run(tmp_path_factory.mktemp("swept"), rates=(3.0, 7.0, 11.0, 16.0, 24.0), duration_s=15, slo=slo)


def test_the_map_of_slos_and_its_words_follow(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slo-map", str(swept), "--format", "csv"]) == 0
    rows = [row.split(",") for row in capsys.readouterr().out.splitlines()]
    assert [row[7] for row in rows if row[5:7] == ["500", "25"]] == [SAME]
    assert main(["slo-map", str(swept)]) == 0
    assert "the two are the same within 95 % (pd_2p2d meets it at" in " ".join(capsys.readouterr().out.split())
    text = text_of(swept)
    assert "at 1 the two are the same within 95 %: pd_2p2d meets the SLO at" in text
    assert "ms and more the two are the same within 95 % (pd_2p2d meets it at" in text


def test_the_figure_and_the_panel_of_the_map_follow(swept: Path) -> None:
    judged = judged_of(swept)
    sweeps, slo = sweeps_of(judged), {"ttft_ms": 500.0, "tpot_ms": 25.0}
    made = slo_figure.of_sweeps(judged, sweeps, slo, 0.9, interest=interest_of(judged))
    assert made
    assert "the same within 95 %" in [text.get_text() for text in made.figure.legends[0].texts]
    page = slo_panels(sweeps, (slo, 0.9), interest=interest_of(judged))
    assert page
    assert page.count("it makes no difference of 95 %: pd_2p2d meets it at") == 1
    assert "the same within 95 %, ×0.7" in page
    assert "{within}" not in page
    usual = slo_panels(sweeps, (slo, 0.9))
    assert usual
    assert "difference of 95 %" not in usual
    assert f"it makes no difference of {100 * INTEREST:g} %" in usual


@pytest.mark.parametrize(
    ("interest", "outcome"),
    [(0.02, UNDECIDED), (0.1, SAME)],
)
def test_noise_is_told_from_sameness_by_it(tmp_path: Path, interest: float, outcome: str) -> None:
    made = decisions(judged_of(run(tmp_path, NOISY, interest)), ())
    assert isinstance(made, Markup)
    assert made.count(outcome) == 6
