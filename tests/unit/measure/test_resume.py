"""What a session that resumes a run sets aside, and what counts."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdslurm.measure.resume import raw_files, set_broken_aside
from pdslurm.measure.usage import Session
from pdslurm.records.measurement import REQUEST_COLUMNS, Measurement
from pdslurm.records.run_folder import RunFolder
from tests.broken import RECORDS, broken
from tests.unit.analysis.records_made import failed, invalid, record

TABLE = f"{','.join(REQUEST_COLUMNS)}\n0,512,256,9,9,9,99,1\n".encode()


def measured(folder: RunFolder, arm: str = "route_2", repeat: int = 0, *, is_older: bool = False, **changes: Any) -> Measurement:
    """A valid record with the files behind it. `is_older`: it does not say how long they are."""
    made = record(arm, repeat=repeat, **changes)
    raw = folder.raw_name(arm, made.point["id"], made.key)
    made = replace(made, provenance={"raw": f"{raw}.json.gz"})
    for path in (folder.path / f"{raw}.json.gz", folder.beside_raw(made, "requests")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(TABLE))
    made = made if is_older else replace(made, provenance={**made.provenance, "bytes": folder.raw_bytes(made)})
    folder.save(made)
    return made


def path_of(folder: RunFolder, made: Measurement) -> Path:
    return folder.record_path(made.arm, made.point["id"], made.key)


def is_done(folder: RunFolder, made: Measurement) -> bool:
    return folder.is_done(made.arm, made.point["id"], made.key)


def look_over(folder: RunFolder, *planned: Measurement, sessions: tuple[Session, ...] = (), searching: bool = False) -> list[str]:
    files = raw_files(folder, sessions, searching=searching)
    return set_broken_aside(files, {path_of(folder, made) for made in planned})


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_that_is_none_is_not_done_and_is_set_aside_by_name(tmp_path: Path, kind: str) -> None:
    folder = RunFolder(tmp_path)
    good, bad = measured(folder), measured(folder, repeat=1)
    path = path_of(folder, bad)
    said, whole = broken(path, kind), path.read_bytes()
    assert (is_done(folder, good), is_done(folder, bad), folder.valid_of_tried()) == (True, False, (1, 1))
    (sentence,) = look_over(folder, good, bad)
    assert sentence.startswith(f"points/route_2/{path.name} is no record that pdslurm can read (")
    assert said in sentence
    assert sentence.endswith(f"); pdslurm set it aside as {path.name}.broken and measures the point again")
    assert path.with_name(f"{path.name}.broken").read_bytes() == whole
    assert look_over(folder, good, bad) == [], "it is said once"
    assert [left.key for left in folder.records()] == [good.key]


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")], ids=["a folder", "a link to nothing"])
def test_what_cannot_be_opened_is_set_aside_too(tmp_path: Path, make: Callable[[Path], None]) -> None:
    folder = RunFolder(tmp_path)
    path = path_of(folder, made := measured(folder))
    path.unlink()
    make(path)
    assert not is_done(folder, made)
    assert "it cannot be opened: " in look_over(folder, made)[0]
    assert os.path.lexists(f"{path}.broken")
    assert not os.path.lexists(path)


@pytest.mark.parametrize(
    ("made", "name", "said"),
    [
        (invalid("a"), "{}.json", "is a record that is invalid, and its name is that of one that is valid"),
        (failed("a"), "{}.json", "is a record that is failed, and its name is that of one that is valid"),
        (record("a"), "{}.invalid.json", "is a record that is valid, and its name is that of one that is invalid"),
        (record("a"), "{}.failed.json", "is a record that is valid, and its name is that of one that is failed"),
        (record("a"), "{} copy.json", "holds the record of arm a, point i512-o256-rinf-cinf-rep0, key "),
        (record("a"), "{}-2.json", "holds the record of arm a, point i512-o256-rinf-cinf-rep0, key "),
        (record("a"), "other-{}.json", "which has another name; pdslurm set it aside as other-i512-"),
    ],
)
def test_a_record_under_a_name_that_is_not_its_own_is_not_done(tmp_path: Path, made: Measurement, name: str, said: str) -> None:
    folder = RunFolder(tmp_path)
    path = folder.save(made)
    own = path_of(folder, made)
    path.rename(path.with_name(name.format(own.name.removesuffix(".json"))))
    assert (is_done(folder, made), folder.valid_of_tried()) == (False, (0, 0))
    assert said in look_over(folder, made)[0]
    assert list(folder.records()) == []


def test_a_record_in_another_arm_s_folder_is_not_done_there(tmp_path: Path) -> None:
    folder, made = RunFolder(tmp_path), record("a")
    path = folder.save(made)
    copy = path.parents[1] / "b" / path.name
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    assert (is_done(folder, made), is_done(folder, replace(made, arm="b")), folder.valid_of_tried()) == (True, False, (1, 1))
    (said,) = look_over(folder, made)
    assert said.startswith(f"points/b/{path.name} holds the record of arm a, ")


def test_what_was_set_aside_before_stays(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for n in range(3):
        path = path_of(folder, made := measured(folder))
        path.write_text(str(n))
        look_over(folder, made)
    names = [f"{path.name}.broken{end}" for end in ("", "-2", "-3")]
    assert [path.with_name(name).read_text() for name in names] == ["0", "1", "2"]
    raws = sorted(raw.name.removeprefix(path.stem) for raw in tmp_path.glob("raw/*/*.json.gz"))
    assert raws == ["-2.json.gz", "-3.json.gz", ".json.gz"], "the raw files behind them are not written over"


def test_an_invalid_try_that_is_broken_stays_a_try(tmp_path: Path) -> None:
    folder, made = RunFolder(tmp_path), invalid("a")
    which = made.arm, made.point["id"], made.key
    first, second = folder.save(made), folder.save(made)
    first.write_text("")
    look_over(folder)
    assert folder.tries(*which) == 2
    assert folder.save(made).name.endswith(".invalid-3.json")
    assert second.is_file()


# --- the files behind a record


def gone(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def test_a_request_file_of_zeros_is_none(tmp_path: Path) -> None:
    """It is as long as the record says."""
    folder = RunFolder(tmp_path)
    made = measured(folder)
    requests = folder.beside_raw(made, "requests")
    requests.write_bytes(bytes(requests.stat().st_size))
    (sentence,) = look_over(folder, made)
    assert f"{requests.name} is cut short or damaged)" in sentence
    assert not is_done(folder, made)


@pytest.mark.parametrize("is_older", [False, True])
@pytest.mark.parametrize("end", [".json.gz", ".requests.csv.gz"])
@pytest.mark.parametrize("harm", [gone, empty, cut])
def test_a_valid_record_needs_the_files_behind_it(tmp_path: Path, harm: Callable[[Path], None], end: str, is_older: bool) -> None:
    folder = RunFolder(tmp_path)
    good, bad = measured(folder, is_older=is_older), measured(folder, repeat=1, is_older=is_older)
    raw = str(bad.provenance["raw"]).removesuffix(".json.gz")
    harm(folder.path / f"{raw}{end}")
    said = look_over(folder, good, bad)
    if is_older and harm is cut and end == ".json.gz":
        assert said == [], "nobody knows how long the raw file of an older record was, and to read all of them would take minutes"
        return
    (sentence,) = said
    assert "cannot be followed to what was measured (its " in sentence
    words: dict[object, str] = {
        gone: "is not there",
        empty: "is cut short" if is_older else "has 0 of ",
        cut: "is cut short" if is_older else " bytes)",
    }
    assert f"{raw}{end} " in sentence
    assert words[harm] in sentence
    assert (is_done(folder, good), is_done(folder, bad)) == (True, False)


def test_records_of_a_folder_without_any_raw_file_count_and_go_on_counting(tmp_path: Path) -> None:
    """A folder that was copied or published without raw/: what the next sessions measure has raw files again."""
    folder = RunFolder(tmp_path)
    old = measured(folder, started_at="2026-03-01T00:00:00+00:00")
    for path in tmp_path.glob("raw/*/*"):
        path.unlink()
    assert look_over(folder, old) == []
    session = Session("2026-03-02T00:00:00+00:00", 1, 5.0, without=("raw", "requests"))
    new = [measured(folder, repeat=n, started_at=f"2026-03-02T00:0{n}:00+00:00") for n in (1, 2)]
    assert look_over(folder, old, *new, sessions=(session,)) == []
    (folder.path / str(new[0].provenance["raw"])).unlink()
    assert [f"rep{n}" in said for said in look_over(folder, old, *new, sessions=(session,)) for n in (0, 1, 2)] == [
        False,
        True,
        False,
    ]
    assert is_done(folder, old)


def test_a_search_needs_request_files_whatever_the_folder_has(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    made = measured(folder)
    folder.beside_raw(made, "requests").unlink()
    assert look_over(folder, made) == []
    assert "request file raw/route_2/" in look_over(folder, made, searching=True)[0]


def test_a_record_of_no_point_of_this_run_is_set_aside_too(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    path = path_of(folder, measured(folder))
    path.write_text("")
    assert look_over(folder)[0].endswith(f"pdslurm set it aside as {path.name}.broken")


def test_thousands_of_records_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    made = measured(folder)
    assert folder.valid_of_tried() == (1, 1)
    monkeypatch.setattr("pdslurm.records.run_folder.load_record", lambda path: pytest.fail("read again"))
    assert folder.valid_of_tried() == (1, 1)
    assert is_done(folder, made)
    monkeypatch.undo()
    value = json.loads(path_of(folder, made).read_text())
    path_of(folder, made).write_text(json.dumps(value | {"valid": False, "invalid_reasons": ["changed"]}))
    assert folder.valid_of_tried() == (0, 0)
