"""Records that are none, raw files that are gone and other files that were cut: every command of analysis reads the rest, and says
once what it left out."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.__main__ import main
from analysis.load import slo
from analysis.load.frame import load_runs
from analysis.load.notes import sentences
from pdslurm.errors import ResultsError
from pdslurm.records.run_folder import RunFolder
from tests.broken import RECORDS, broken
from tests.unit.analysis.records_made import record, write
from tests.unit.measure.test_resume import measured, path_of

FILES = ("config.yaml", "plan.json", "fairness.json", "versions.json", "nodes.json", "state.json")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "run", [record(arm, repeat=n) for arm in ("route_2", "pd") for n in range(3)])


@pytest.mark.parametrize("kind", RECORDS)
def test_one_record_that_is_none_is_passed_over(run: Path, kind: str) -> None:
    path = RunFolder(run).record_files()[0]
    said = broken(path, kind)
    frame = load_runs([run])
    assert len(frame) == 5
    (note,) = sentences(frame)
    assert note.startswith(f"1 of 6 files is no record that pdslurm can read, and left out: {path} (")
    assert said in note


@pytest.mark.parametrize(
    ("telemetry", "said"),
    [
        ({"gpus": {"n0": [{"name": "H100", "slowed_s": 3}]}}, "(its evidence cannot be judged: AttributeError: "),
        ({"gpus": {"n0": [{"name": ["H100"]}]}}, "(it holds what is not expected there: TypeError: "),
    ],
)
def test_types_deep_in_a_record_hide_no_other(run: Path, telemetry: dict[str, object], said: str) -> None:
    path = RunFolder(run).record_files()[0]
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"telemetry": telemetry}))
    frame = load_runs([run])
    assert len(frame) == 5
    assert said in sentences(frame)[0]


COMMANDS: list[Callable[[Path, Path], list[str]]] = [
    lambda run, out: ["table", str(run)],
    lambda run, out: ["table", "--format", "text", str(run)],
    lambda run, out: ["summary", str(run)],
    lambda run, out: ["summary", "--deep", str(run)],
    lambda run, out: ["report", str(run), "--out", str(out / "r.html")],
    lambda run, out: ["export", "--format", "csv", "--out", str(out), str(run)],
    lambda run, out: ["export", "--format", "llmd-benchmark-report", "--out", str(out), str(run)],
    lambda run, out: ["figures", str(run), "--out", str(out), "--formats", "svg", "--jobs", "1", "--only", "arm=pd"],
    lambda run, out: ["diff", str(run), str(run)],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command(Path("run"), Path("out"))[:3]))
def test_every_command_says_once_what_it_left_out(
    run: Path, tmp_path: Path, command: Callable[[Path, Path], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    names = [path for path in RunFolder(run).record_files() if path.parent.name == "route_2"]
    for path, kind in zip(names, ("cut short", "metrics as a list", "a future schema"), strict=True):
        broken(path, kind)
    for name in FILES:
        (run / name).write_text('{"a": [1, ' if name.endswith("json") else "a: {b")
    assert main(command(run, tmp_path / "out")) == 0
    out, err = capsys.readouterr()
    argv = command(run, tmp_path / "out")
    times = 2 if argv[0] == "diff" else 1  # of each of two runs
    assert err.count("analysis: 3 of 6 files are no records that pdslurm can read, and left out: ") == times
    assert err.count("analysis: these files cannot be read and count as not there: ") == times
    assert all(err.count(str(path)) == times for path in names)
    assert "Traceback" not in err
    if argv[0] == "summary":
        assert "3 of 6 files are no records that pdslurm can read" in " ".join(out.split())
    if argv[0] == "report":
        assert "3 of 6 files are no records that pdslurm can read" in (tmp_path / "out" / "r.html").read_text()


def test_where_no_record_can_be_read_there_is_one_error(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in RunFolder(run).record_files():
        broken(path, "empty")
    with pytest.raises(ResultsError, match=r"^none of 6 records can be read: .* \(it is empty\); .*; and 3 more$"):
        load_runs([run])
    assert main(["summary", str(run)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_run_whose_records_are_all_none_hides_no_other_run(run: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", [record("route_2")])
    broken(RunFolder(other).record_files()[0], "null")
    frame = load_runs([run, other])
    assert len(frame) == 6
    assert sentences(frame)[0].startswith("1 of 7 files")


@pytest.mark.parametrize("end", [".json.gz", ".requests.csv.gz"])
@pytest.mark.parametrize("is_gone", [True, False])
def test_a_raw_file_that_is_gone_or_cut_is_said(tmp_path: Path, end: str, is_gone: bool) -> None:
    folder = RunFolder(tmp_path / "run")
    good, bad = measured(folder), measured(folder, repeat=1)
    assert sentences(load_runs([folder.path])) == ()
    path = folder.path / f"{str(bad.provenance['raw']).removesuffix('.json.gz')}{end}"
    if is_gone:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9])
    (note,) = sentences(load_runs([folder.path]))
    what = "lacks a raw, request or timeline file, or has one that was cut short"
    assert note == f"1 of 2 measurements {what}: {path_of(folder, bad)}"
    assert path_of(folder, good).is_file()


def test_a_timeline_that_was_cut_counts_as_not_there(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    path = folder.beside_raw(measured(folder), "timeline")
    path.write_bytes(gzip.compress(b"t_s,engine\n"))
    frame = load_runs([folder.path])
    assert (sentences(frame), frame["timeline_file"].tolist()) == ((), [str(path)])
    path.write_bytes(path.read_bytes()[:-9])
    frame = load_runs([folder.path])
    assert (len(sentences(frame)), frame["timeline_file"].tolist()) == (1, [None])


def test_records_that_name_no_raw_file_lack_none(tmp_path: Path) -> None:
    made = replace(record(), provenance={})
    assert sentences(load_runs([write(tmp_path, [made])])) == ()


def test_half_a_number_at_the_end_of_a_cut_configuration_is_none(run: Path) -> None:
    (run / "config.yaml").write_text("slo:\n  tpot_ms: 50.0\n  ttft_ms: 50")
    assert slo.of_runs([str(run)]) == {"tpot_ms": 50.0}
    (run / "config.yaml").write_bytes(b"\xff\xfe\nslo:\n  ttft_ms: 9.0\n")
    assert slo.of_runs([str(run)]) == {"ttft_ms": 9.0}
