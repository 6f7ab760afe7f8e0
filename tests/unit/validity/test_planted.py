"""The planted lies are what they say: each changes the records that it names, and its copy of the run, and nothing of results/."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.load.frame import load_runs
from analysis.load.notes import sentences
from analysis.load.recheck import judge_records
from analysis.report.summary import summary
from pdslurm.errors import ResultsError
from tests.unit.validity.planted import (
    INVALID,
    LEFT_OUT,
    LIES,
    REFUSED,
    UNSEEN,
    UNVERIFIED,
    VERDICT,
    Lie,
    Point,
    copy_run,
    points,
    second,
)

RUN = Path(__file__).parents[3] / "results" / "h100x2" / "should_i"


def hashes(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="session", autouse=True)
def no_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Checks are made anew here, whatever the user's cache holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize(
    "lie", [lie for lie in LIES if lie.outcome in (INVALID, UNVERIFIED, REFUSED, UNSEEN, LEFT_OUT)], ids=lambda lie: lie.name
)
def test_what_comes_of_a_lie(lie: Lie, tmp_path: Path) -> None:
    folder = copy_run(RUN, tmp_path / "run", raw=lie.raw)
    edited = {path.resolve() for path in lie.plant(folder)}
    if lie.outcome == REFUSED:
        with pytest.raises(ResultsError):
            summary(load_runs([folder, *second(folder)]))
        return
    frame = load_runs([folder, *second(folder)], deep=lie.raw)
    mine = frame[[Path(path).resolve() in edited for path in frame["path"]]]
    text_alone = mine["unverified"].map(lambda names: set(names) <= {"text"})  # no record of that run asked for the text
    if lie.outcome == LEFT_OUT:
        assert mine.empty
        assert all(any(path.name in note for note in sentences(frame)) for path in sorted(edited)[:1])
    elif lie.outcome == INVALID:
        assert len(mine) == len(edited)
        assert not mine["valid"].any(), list(mine["invalid_reasons"])
    elif lie.outcome == UNVERIFIED:
        assert not text_alone.any()
    else:
        assert (mine["valid"] == mine["stored_valid"]).all()


def test_no_check_alarms_at_the_published_records() -> None:
    """The false alarms of every check on results/h100x2: 17 of 21 are valid as they were when they were stored, and what is wrong
    with the others is that more requests arrived than were served."""
    frame = load_runs([RUN])
    assert (len(frame), int(frame["valid"].sum())) == (21, 17)
    assert (frame["valid"] == frame["stored_valid"]).all()
    assert set(frame["disagrees"]) == {""}
    judged = judge_records((Path(path), RUN) for path in frame["path"])
    failed = [check.name for one in judged for check in one.record.checks if check.ok is False]
    assert failed == ["steady_state"] * 4
    assert {name for names in frame["unverified"] for name in names} == {"text"}


def test_the_withdrawn_trial_is_invalid_by_today_s_rules() -> None:
    trial = load_runs([RUN.parents[1] / "h200x4" / "tokenizer_trial"])
    assert list(trial["stored_valid"]) == [True] * 5
    assert not trial["valid"].any()
    assert trial["disagrees"].str.contains("API servers, router or client held the tokens up").all()


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
def test_a_lie_changes_the_records_that_it_names(lie: Lie, tmp_path: Path) -> None:
    folder = copy_run(RUN, tmp_path / "run", raw=lie.raw)
    before = hashes(folder)
    edited = lie.plant(folder)
    assert all(path.is_file() for path in edited)
    assert edited or lie.outcome == VERDICT
    if edited:
        assert hashes(folder) != before or second(folder)
    assert lie.why


def test_names_are_unique_and_what_cannot_be_seen_is_said() -> None:
    assert len({lie.name for lie in LIES}) == len(LIES) > 70
    assert {lie.name for lie in LIES if lie.outcome == UNSEEN} == {
        "latencies dealt to other requests",
        "TTFT of one arm lower by 3 ms everywhere at the client",
        "the client was the bottleneck and says 0",
        "a whole arm is simulated",
    }


def test_a_summary_made_from_honest_lines_is_the_summary(tmp_path: Path) -> None:
    """Else each consistent lie would be caught for its own bad arithmetic."""
    folder = copy_run(RUN, tmp_path / "run")
    for path in [point.path for point in points(folder)]:
        honest, again = Point.read(path), Point.read(path)
        again.restate()
        assert again.metrics == pytest.approx(honest.metrics, rel=0.015)  # the client ends up to 0.2 s after the last answer
        assert again.client["decode_s"] == pytest.approx(honest.client["decode_s"], rel=1e-3)
        assert again.client["decode_tokens"] == honest.client["decode_tokens"]
