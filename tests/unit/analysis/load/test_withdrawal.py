"""A run that somebody withdrew: it still loads, and everything drawn from it says so."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
import yaml

from analysis.__main__ import main
from analysis.load import withdrawal
from analysis.load.frame import load_runs
from pdslurm.errors import ResultsError
from tests.unit.analysis.records_made import record, two_arms, write

WHY = "The client was the limit"


def withdrawn(folder: Path) -> Path:
    write(folder, two_arms({"pd": [1.0, 2.0], "route_2": [5.0, 6.0]}))
    assert main(["withdraw", str(folder), "--why", WHY]) == 0
    return folder


def test_it_is_written_read_and_taken_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = withdrawn(tmp_path / "run")
    value = json.loads((folder / "withdrawn.json").read_text())
    assert set(value) == {"why", "at", "by"}
    assert (value["why"], bool(value["by"]), value["at"].endswith("+00:00")) == (WHY, True, True)
    assert set(load_runs([folder])["withdrawn"]) == {WHY}
    assert main(["withdraw", str(folder), "--undo"]) == 0
    assert set(load_runs([folder])["withdrawn"]) == {""}
    capsys.readouterr()
    assert main(["withdraw", str(folder), "--undo"]) == 2
    assert "nothing to take back" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not a withdrawal"),
        ("[]", "it is a list, not an object"),
        ("[" * 100_000, "not a withdrawal"),
        ('{"why": [1], "at": "", "by": ""}', "it.why is a list, not a text"),
        ('{"why": " ", "at": "", "by": ""}', "why is empty"),
    ],
)
def test_a_file_that_does_not_say_why_is_not_taken_for_absent(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "withdrawn.json").write_text(text)
    with pytest.raises(ResultsError, match=why):
        withdrawal.of_folder(tmp_path)


def test_a_reason_and_one_run_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a", [record()])
    write(tmp_path / "b", [record()])
    assert main(["withdraw", str(tmp_path / "a"), "--why", " "]) == 2
    assert main(["withdraw", str(tmp_path), "--why", WHY]) == 2
    said = capsys.readouterr().err
    assert "--why is empty" in said
    assert "holds 2 runs" in said
    assert not list(tmp_path.glob("*/withdrawn.json"))


def test_a_copy_of_a_withdrawn_run_is_withdrawn_too(tmp_path: Path) -> None:
    """Both hold the same records, which count once, whichever comes first."""
    write(tmp_path / "a", two_arms({"pd": [1.0, 2.0], "route_2": [5.0, 6.0]}))
    withdrawn(tmp_path / "b")
    assert set(load_runs([tmp_path / "a", tmp_path / "b"])["withdrawn"]) == {WHY}
    other = write(tmp_path / "c", [record("other")])
    frame = load_runs([other, tmp_path / "b"])
    assert frame.loc[frame["withdrawn"] == "", "arm"].tolist() == ["other"]


def test_all_that_is_drawn_from_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = withdrawn(tmp_path / "run"), tmp_path / "out"
    said = f"WITHDRAWN, not to be relied on: run demo: {WHY}"
    capsys.readouterr()

    def output(*arguments: str) -> str:
        assert main(list(arguments)) == 0
        return capsys.readouterr().out

    assert " ".join(output("summary", str(folder)).split()).startswith(f"{said}. ")
    assert {row["withdrawn"] for row in csv.DictReader(io.StringIO(output("table", str(folder))))} == {WHY}
    output("export", str(folder), "--format", "csv", "--out", str(out))
    assert {row["withdrawn"] for row in csv.DictReader(io.StringIO((out / "measurements.csv").read_text()))} == {WHY}
    paths = output("export", str(folder), "--format", "llmd-benchmark-report", "--out", str(out)).split()
    run = yaml.safe_load(Path(paths[0]).read_text())["run"]
    assert run["description"].startswith(f"WITHDRAWN, not to be relied on: {WHY}; ")
    assert "withdrawn" in run["keywords"]
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "withdrawn.json").unlink()
    first, second = output("diff", str(folder), str(copy)).splitlines()[:2]
    assert first.endswith(said)
    assert second == f"B: {copy}"


def test_captions_and_report_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = withdrawn(tmp_path / "run"), tmp_path / "figures"
    assert main(["figures", str(folder), "--style", "paper", "--formats", "svg", "--jobs", "1", "--out", str(out)]) == 0
    captions = sorted(out.glob("*.txt"))
    assert {path.stem for path in captions} >= {"throughput", "ttft", "tpot", "itl"}
    assert [
        path.stem for path in captions if not path.read_text().startswith(f"WITHDRAWN, not to be relied on: run demo: {WHY}.")
    ] == []
    assert main(["report", str(folder), "--out", str(tmp_path / "report.html")]) == 0
    head = (tmp_path / "report.html").read_text().partition("</header>")[0]
    assert f"<strong>WITHDRAWN, not to be relied on: run demo: {WHY}</strong>" in head
    capsys.readouterr()
