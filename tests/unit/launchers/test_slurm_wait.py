"""What is said while a job is waited for, and how it ended: by Slurm's answers, by the run's files while Slurm gives none."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdslurm import config as c
from pdslurm.launchers import slurm_wait
from pdslurm.measure.progress import State
from pdslurm.plan.plan import build_plan
from pdslurm.records.run_folder import RunFolder
from pdslurm.slurm import job_states
from pdslurm.slurm.job_states import JobState
from tests.slurm_stand_ins import SlurmStandIn

Follow = Callable[[], tuple[int, str]]


@pytest.fixture
def follow(slurm: SlurmStandIn, tmp_path: Path, make_config: Callable[..., c.Config]) -> Follow:
    """follow(): the exit code and the last words of job 1."""
    (tmp_path / "run" / "slurm").mkdir(parents=True)
    plan = build_plan(make_config())
    return lambda: slurm_wait.follow_job(plan, RunFolder(tmp_path / "run"), "1")


@pytest.fixture
def ends(tmp_path: Path) -> Callable[..., None]:
    """ends(exit_code=0, text="…"): what job 1 writes last."""

    def write(**words: Any) -> None:
        what = {"job_id": "1", "restarts": 0, "exit_code": 0, "text": "3 points measured", **words}
        new = tmp_path / "new"
        new.write_text(json.dumps(what))
        new.replace(tmp_path / "run" / "slurm" / "ended.json")

    return write


def then(slurm: SlurmStandIn, *steps: Callable[[], None], questions: int = 4) -> None:
    """Does these things one after another, each when Slurm has been asked so many times again."""

    def go() -> None:
        for step in steps:
            wanted = len(slurm.calls("scontrol")) + questions
            while len(slurm.calls("scontrol")) < wanted:
                time.sleep(0.02)
            step()

    threading.Thread(target=go, daemon=True).start()


@pytest.mark.parametrize("how", ["away", "hang"])
def test_slurm_is_away_and_comes_back(
    slurm: SlurmStandIn, follow: Follow, ends: Callable[..., None], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, how: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(job_states, "TIMEOUT_S", 0.3 if how == "hang" else 60.0)
    slurm.job("1", "RUNNING")
    then(slurm, lambda: slurm.told(all=how), slurm.told, ends, lambda: slurm.job("1", "COMPLETED"))
    assert follow() == (0, "3 points measured")
    said = capsys.readouterr().err
    assert "s; job 1 goes on without it, and pdslurm asks again" in said
    assert "slurmctld answers again after" in said
    assert "job 1 is RUNNING" in said


def test_the_run_ends_while_slurm_is_away(slurm: SlurmStandIn, follow: Follow, ends: Callable[..., None]) -> None:
    """Words after which Slurm may run the job again are not its last."""
    slurm.job("1", "RUNNING")
    again = lambda: ends(exit_code=75, text="ends soon\njob 1 is queued again", queued_again=True, may_go_on=True)  # noqa: E731
    stopped = lambda: ends(exit_code=130, text="stopped by SIGTERM", may_go_on=True)  # noqa: E731
    another = lambda: ends(job_id="0", text="of another job")  # noqa: E731
    last = lambda: ends(exit_code=4, text="engine1 died", restarts=1, may_go_on=False)  # noqa: E731
    then(slurm, lambda: slurm.told(all="away"), another, again, stopped, last)
    assert follow() == (4, "engine1 died")
    assert slurm.jobs == ["1"]


def test_a_job_that_is_queued_again_is_waited_for(slurm: SlurmStandIn, follow: Follow, ends: Callable[..., None]) -> None:
    slurm.job("1", "RUNNING")
    ends(exit_code=75, text="job 1 is queued again", queued_again=True, may_go_on=True)
    then(
        slurm,
        lambda: slurm.job("1", "PENDING", reason="BeginTime", restarts=1),
        lambda: slurm.job("1", "RUNNING", restarts=1),
        lambda: ends(restarts=1),
        lambda: slurm.job("1", "COMPLETED", restarts=1),
    )
    assert follow() == (0, "3 points measured")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("COMPLETED", "Slurm says COMPLETED of job 1; it did not write how it ended"),
        ("FAILED", "Slurm says FAILED (NonZeroExitCode) of job 1; it did not write how it ended"),
        ("CANCELLED", "Slurm says CANCELLED of job 1: somebody cancelled it; "),
        ("TIMEOUT", "Slurm says TIMEOUT (TimeLimit) of job 1: its time limit was over; raise cluster.slurm.time_min; "),
        ("NODE_FAIL", "Slurm says NODE_FAIL of job 1: one of its nodes failed; "),
        ("OUT_OF_MEMORY", "Slurm says OUT_OF_MEMORY of job 1: it used more memory than Slurm gave it; "),
        ("PREEMPTED", "Slurm says PREEMPTED of job 1: another job took its nodes; "),
        ("BOOT_FAIL", "Slurm says BOOT_FAIL of job 1: one of its nodes did not start; "),
        ("DEADLINE", "Slurm says DEADLINE of job 1: its deadline was over; "),
    ],
)
@pytest.mark.parametrize("before", [False, True], ids=["no words", "words of before"])
def test_each_end_without_words(
    slurm: SlurmStandIn, follow: Follow, ends: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str,
    said: str, before: bool,
) -> None:  # fmt: skip
    """What the job wrote before Slurm queued it again is not how it ended."""
    monkeypatch.setattr(slurm_wait, "FILES_S", 0.05)
    monkeypatch.setattr(slurm_wait, "WORDS_S", 0.05)
    if before:
        ends(exit_code=130, text="stopped by SIGTERM", may_go_on=True)
    reason = {"FAILED": "NonZeroExitCode", "TIMEOUT": "TimeLimit"}.get(word, "None")
    slurm.job("1", word, reason=reason, restarts=int(before))
    (tmp_path / "run" / "slurm" / "1_0_log.out").write_text("its last line\n")
    code, text = follow()
    assert (code, said in text) == (8, True), text
    assert text.endswith("  | its last line")
    error = slurm_wait.job_error(code, "1", tmp_path)
    assert (error.exit_code, str(error)[:33]) == (8, "job 1 failed with exit code 8; lo")


@pytest.mark.parametrize(
    ("word", "code"), [("COMPLETED", 0), ("FAILED", 3), ("TIMEOUT", 75), ("CANCELLED", 130), ("NODE_FAIL", 4), ("UNKNOWN", 6)]
)
def test_the_runs_own_words_come_first(
    slurm: SlurmStandIn, follow: Follow, ends: Callable[..., None], word: str, code: int
) -> None:
    ends(exit_code=code, text="its own words")
    if word != "UNKNOWN":
        slurm.job("1", word)
    assert follow() == (code, "its own words")


@pytest.mark.parametrize(
    ("accounts", "said"),
    [
        (None, "pdslurm: Slurm has forgotten job 1, and sacct does not know how it ended; it did not write how it ended"),
        ("CANCELLED by 1000|0:0", "slurmctld has forgotten the job; sacct says CANCELLED by 1000 of job 1: somebody cancelled it"),
        ("OUT_OF_MEMORY|0:125", "sacct says OUT_OF_MEMORY (exit code 0:125) of job 1: it used more memory"),
    ],
)
def test_a_job_that_slurm_has_forgotten(
    slurm: SlurmStandIn, follow: Follow, monkeypatch: pytest.MonkeyPatch, accounts: str | None, said: str
) -> None:
    monkeypatch.setattr(slurm_wait, "WORDS_S", 0.1)
    if accounts:
        slurm.accounts(accounts)
    code, text = follow()
    assert (code, said in text) == (8, True), text


def test_a_controller_that_does_not_know_the_job_once(slurm: SlurmStandIn, follow: Follow, ends: Callable[..., None]) -> None:
    """One that has just taken over may not know it yet; it runs on all the same."""
    slurm.job("1", "RUNNING")
    once = lambda: slurm.told(scontrol="once forgotten")  # noqa: E731
    then(slurm, once, once, lambda: ends(text="the end"), lambda: slurm.job("1", "COMPLETED"))
    assert follow() == (0, "the end")


def test_a_job_that_must_be_released(slurm: SlurmStandIn, follow: Follow, ends: Callable[..., None], capsys: Any) -> None:
    slurm.job("1", "PENDING", reason="JobHeldUser")
    then(slurm, lambda: slurm.job("1", "RUNNING"), ends, lambda: slurm.job("1", "COMPLETED"))
    assert follow()[0] == 0
    assert capsys.readouterr().err.count("job 1 is PENDING (JobHeldUser): it waits until `scontrol release 1` lets it start") == 1


ODD: dict[str, list[Any]] = {
    "exit_code": [True, -1, 256, 10**300, None], "restarts": [None, "1", []], "job_id": [1, None, []],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in ODD.items() for value in values],
    ids=str,
)
def test_odd_last_words_are_none(tmp_path: Path, follow: Follow, ends: Callable[..., None], name: str, value: Any) -> None:
    ends()
    assert slurm_wait.last_words(tmp_path / "run", "1") is not None
    ends(**{name: value})
    assert slurm_wait.last_words(tmp_path / "run", "1") is None


def test_last_words_that_are_nested_deep_or_a_folder_are_none(tmp_path: Path) -> None:
    file = tmp_path / "slurm" / "ended.json"
    file.parent.mkdir()
    file.write_text("[" * 100_000)
    assert slurm_wait.last_words(tmp_path, "1") is None
    file.unlink()
    file.mkdir()
    assert slurm_wait.last_words(tmp_path, "1") is None


@pytest.mark.parametrize(
    "text", ["[" * 100_000, json.dumps(State("t", 3).as_json(0.0) | {"began": 10**400})], ids=["deep", "400 digits"]
)
def test_progress_that_is_nested_deep_or_of_400_digits_is_no_news(tmp_path: Path, text: str) -> None:
    (tmp_path / "progress.json").write_text(text)
    state = State("t", 3)
    slurm_wait.show(state, tmp_path, "1", JobState("RUNNING"))
    assert state.points_total == 3
    events = slurm_wait.Events(tmp_path / "events.jsonl")
    (tmp_path / "events.jsonl").write_text("[" * 100_000 + '\n{"said": true, "event": "x"}\n')
    assert events.new() == ["x"]


def test_odd_files_of_the_run(slurm: SlurmStandIn, follow: Follow, ends: Callable[..., None], tmp_path: Path) -> None:
    """Whatever stands in progress.json, events.jsonl and ended.json, the wait goes on until Slurm says that the job has ended."""
    slurm.job("1", "RUNNING")
    wrong = State("t", 3).as_json(0.0) | {"point_times_s": ["1"], "points_done": "one"}
    for name, text in (("progress.json", json.dumps(wrong)), ("slurm/ended.json", '["1"]')):
        (tmp_path / "run" / name).write_text(text)
    (tmp_path / "run" / "events.jsonl").write_bytes(b"")

    def odd() -> None:
        (tmp_path / "run" / "progress.json").write_text("[1]")
        (tmp_path / "run" / "events.jsonl").write_bytes(b'\xff\n[1]\n{"said": true}\n{"event": "x", "sa')

    then(slurm, odd, ends, lambda: slurm.job("1", "COMPLETED"))
    assert follow() == (0, "3 points measured")
