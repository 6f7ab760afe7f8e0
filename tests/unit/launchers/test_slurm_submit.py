"""One run, one job: whatever Slurm answers, whoever is killed, nothing is submitted twice and no job is forgotten."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdslurm import config as c
from pdslurm.errors import ConfigError, Interrupted, LimitReached, PdslurmError, ResultsError, SlurmUnreachable
from pdslurm.launchers import slurm_submit
from pdslurm.launchers.slurm import carry_out
from pdslurm.launchers.slurm_submit import check_request, find_or_submit, job_name, submission_environment
from pdslurm.plan.plan import build_plan
from pdslurm.signals import raising
from pdslurm.slurm import job_states
from tests.slurm_stand_ins import SlurmStandIn

Find = Callable[[], str]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "a b"


@pytest.fixture
def find(slurm: SlurmStandIn, run: Path, make_config: Callable[..., c.Config]) -> Find:
    """find(): the id of the run's job, as the command would have it."""
    plan = build_plan(make_config({"run_dir": str(run)}))
    return lambda: find_or_submit(plan, run, carry_out)[0]


def files(run: Path) -> set[str]:
    return {path.name for path in (run / "slurm").iterdir()} - {".submit.lock"}


def own_name(run: Path, make_config: Callable[..., c.Config]) -> str:
    return job_name(build_plan(make_config()), run)


TAKEN = {"job.json", "1_submitted.pkl", "1_submission.sh"}


@pytest.mark.parametrize(
    ("told", "times"),
    [
        ("", 1),
        ("accept, away", 1),
        ("accept, hang", 1),
        ("accept, silent", 1),
        ("accept, refuse", 1),
        ("late", 1),
        ("once away", 2),
    ],
)
def test_one_job_whatever_sbatch_says(
    slurm: SlurmStandIn, run: Path, find: Find, monkeypatch: pytest.MonkeyPatch, told: str, times: int
) -> None:
    monkeypatch.setattr(slurm_submit, "SBATCH_S", 1.0)
    slurm.told(sbatch=told)
    assert find() == "1"
    assert slurm.jobs == ["1"]
    assert len(slurm.calls("sbatch")) == times
    assert files(run) == TAKEN
    note = json.loads((run / "slurm" / "job.json").read_text())
    assert (note["job_id"], note["log"]) == ("1", f"{run}/slurm/1_0_log.out")
    slurm.told()
    assert find() == "1"
    assert len(slurm.calls("sbatch")) == times


@pytest.mark.parametrize(
    ("told", "error", "code", "said"),
    [
        (
            "refuse sbatch: error: invalid partition specified: nope",
            ConfigError,
            2,
            "sbatch refuses: sbatch: error: invalid partition",
        ),
        ("away", SlurmUnreachable, 9, "sbatch was tried 3 times, and Slurm has no job named test-"),
    ],
)
def test_no_job_leaves_nothing(
    slurm: SlurmStandIn, run: Path, find: Find, monkeypatch: pytest.MonkeyPatch, told: str, error: type[PdslurmError], code: int,
    said: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(slurm_submit, "SETTLE_S", 0.0)
    slurm.told(sbatch=told)
    with pytest.raises(error, match=said) as caught:
        find()
    assert caught.value.exit_code == code
    assert ("nothing was started" in str(caught.value)) is (error is ConfigError)
    assert (slurm.jobs, files(run)) == ([], set())


def test_nothing_is_submitted_while_slurm_is_away(
    slurm: SlurmStandIn, find: Find, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job_states, "GIVE_UP_S", 0.3)
    slurm.told(all="away")
    with pytest.raises(SlurmUnreachable, match=r"Slurm has not answered for .* s; pdslurm submits nothing until Slurm has told"):
        find()
    assert slurm.calls("sbatch") == []
    assert "Unable to contact slurm controller" in capsys.readouterr().err
    monkeypatch.setattr(job_states, "GIVE_UP_S", 60.0)
    back = threading.Timer(0.5, slurm.told)
    back.start()
    assert find() == "1"
    assert len(slurm.calls("sbatch")) == 1


def test_slurm_goes_away_with_the_answer_and_comes_back(
    slurm: SlurmStandIn, run: Path, find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command gives up, the files stay for the job that may be there, and the next command finds it."""
    monkeypatch.setattr(job_states, "GIVE_UP_S", 0.3)
    real = slurm_submit.try_sbatch

    def away(*args: Any) -> str:
        slurm.told(squeue="away", sbatch="accept, away")
        return real(*args)

    monkeypatch.setattr(slurm_submit, "try_sbatch", away)
    with pytest.raises(
        SlurmUnreachable, match="it is not known whether Slurm took the job; the same command asks for it by its name"
    ):
        find()
    assert files(run) == {"next.pkl", "next.sh"}
    slurm.told()
    assert find() == "1"
    assert files(run) == TAKEN
    assert len(slurm.calls("sbatch")) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("told", "said", "left"),
    [
        ("accept, hang", "Slurm took job 1, which goes on; `scancel 1` ends it", TAKEN),
        ("hang", "Slurm has no job of this run; the same command submits it", set()),
    ],
)
def test_a_signal_while_sbatch_runs(
    slurm: SlurmStandIn, run: Path, find: Find, number: signal.Signals, told: str, said: str, left: set[str]
) -> None:
    slurm.told(sbatch=told)

    def interrupt() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not (slurm.jobs if left else slurm.calls("sbatch")):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    with pytest.raises(Interrupted, match=f"stopped by {number.name}; {said}"), raising():
        find()
    assert files(run) == left


def test_pdslurm_is_killed_while_sbatch_runs(slurm: SlurmStandIn, run: Path, find: Find) -> None:
    """The next command finds the job by its name, though sbatch has not even ended yet."""
    slurm.told(sbatch="accept, hang")
    child = forked(find)
    deadline = time.monotonic() + 30
    while not slurm.jobs and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert files(run) == {"next.pkl", "next.sh"}
    slurm.told()
    assert find() == "1"
    assert len(slurm.calls("sbatch")) == 1
    assert files(run) == TAKEN


def forked(do: Callable[[], str]) -> int:
    """A process that does it, with exit code 0 when that gives job 1."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        code = 0 if do() == "1" else 2
    finally:
        os._exit(code)


def test_three_commands_at_once(slurm: SlurmStandIn, run: Path, find: Find) -> None:
    slurm.told(sbatch="slow")
    commands = [forked(find) for _ in range(3)]
    assert [os.waitpid(command, 0)[1] for command in commands] == [0, 0, 0]
    assert len(slurm.calls("sbatch")) == 1
    assert files(run) == TAKEN


@pytest.mark.parametrize(
    ("note", "known", "expected"),
    [
        (None, {"1": ("PENDING", True)}, "1"),
        ("[]", {"1": ("RUNNING", True)}, "1"),
        ('{"job_id": null}', {"1": ("COMPLETED", True), "2": ("RUNNING", True)}, "2"),
        ("{", {"1": ("PREEMPTED", True)}, "new"),
        ('{"job_id": "1"}', {"1": ("COMPLETING", False)}, "1"),  # of a pdslurm that did not note names
        ('{"job_id": "1", "name": "own"}', {"1": ("RUNNING", False)}, "new"),  # another's: Slurm counts from 1 again
        ('{"job_id": "9", "name": "own"}', {"1": ("A_WORD_OF_A_LATER_SLURM", True)}, "1"),
    ],
)
def test_the_job_that_is_there(
    slurm: SlurmStandIn, run: Path, find: Find, make_config: Callable[..., c.Config], note: str | None,
    known: dict[str, tuple[str, bool]], expected: str,
) -> None:  # fmt: skip
    name = own_name(run, make_config)
    for job, (state, own) in known.items():
        slurm.job(job, state, name if own else "another")
    (run / "slurm").mkdir(parents=True)
    if note:
        (run / "slurm" / "job.json").write_text(note.replace('"own"', json.dumps(name)))
    assert find() == (expected if expected != "new" else str(len(known) + 1))
    assert len(slurm.calls("sbatch")) == (expected == "new")


def test_a_job_that_somebody_gave_another_name(slurm: SlurmStandIn, run: Path, find: Find) -> None:
    """Its log tells it from a job of another with its number."""
    assert find() == "1"
    (log,) = (option.partition("=")[2] for option in slurm.calls("sbatch")[0] if option.startswith("--output="))
    slurm.job("1", "PENDING", "renamed", log=log.replace("%j", "1"))
    assert find() == "1"
    slurm.job("1", "RUNNING", "renamed", log=log.replace("%j", "7"))
    assert find() == "2"
    assert len(slurm.calls("sbatch")) == 2


def test_a_folder_that_cannot_be_written(slurm: SlurmStandIn, run: Path, find: Find) -> None:
    """A job in it can be watched, and none is submitted."""
    (run / "slurm" / ".submit.lock").mkdir(parents=True)  # root may write into every folder
    with pytest.raises(ResultsError, match=r"cannot be written \(Is a directory\); choose another with run_dir=…"):
        find()
    slurm.job("1", "RUNNING")
    (run / "slurm" / "job.json").write_text('{"job_id": "1"}')
    assert find() == "1"
    assert slurm.calls("sbatch") == []


def test_what_is_used_up_submits_nothing(slurm: SlurmStandIn, run: Path, make_config: Callable[..., c.Config]) -> None:
    config = make_config({"run_dir": str(run), "limits.wall_hours": 1.0})
    plan = build_plan(config)
    (run / "used").mkdir(parents=True)
    lines = [json.dumps({"began": "2026-01-01T00:00:00Z", "gpus": 8, "seconds": seconds}) for seconds in (3000, 3601)]
    (run / "used" / "a.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(LimitReached, match=r"wall_hours=1 is used up \(1 h in 1 earlier session, 0 h in this one\); raise"):
        find_or_submit(plan, run, carry_out)
    assert slurm.jobs == []
    config.limits.wall_hours = 2.0
    assert find_or_submit(plan, run, carry_out)[0] == "1"
    config.limits.wall_hours = 1.0
    assert find_or_submit(plan, run, carry_out)[0] == "1"  # what runs is followed


def test_the_name_is_the_folder_s_own_and_wins(
    slurm: SlurmStandIn, tmp_path: Path, run: Path, find: Find, make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_JOB_NAME", "other")
    find()
    name = next(option for option in slurm.calls("sbatch")[0] if option.startswith("--job-name="))
    assert name == f"--job-name={own_name(run, make_config)}"
    (tmp_path / "link").symlink_to(run.parent)
    assert own_name(tmp_path / "link" / run.name, make_config) == own_name(run, make_config)
    assert own_name(run.with_name("b"), make_config) != own_name(run, make_config)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"run_dir": "/runs/%j/a"},
            "run_dir=/runs/%j/a: Slurm does not take the character '%' in the name of a log's folder; allowed",
        ),
        ({"run_dir": "/runs/a\\b"}, r"the character '\\'"),
        ({"run_root": "/runs/a\nb"}, "run_root=/runs/a\\nb: Slurm does not take the character '\\n'"),
        ({"run_dir": "/runs/\udcff"}, "Slurm does not take the character"),
        ({"run_dir": "/runs/a b'c\"d ü#$;,{}="}, None),
    ],
)
def test_what_slurm_would_read_otherwise(make_config: Callable[..., c.Config], changes: dict[str, Any], said: str | None) -> None:
    config = make_config(changes)
    path = Path(config.run_dir or f"{config.run_root}/x")
    if said is None:
        check_request(config, path)
        return
    with pytest.raises(ConfigError) as caught:
        check_request(config, path)
    (problem,) = caught.value.problems
    assert said in problem


def test_what_the_run_asks_for_counts_before_a_users_variables() -> None:
    script = "#!/bin/bash\n#SBATCH --partition=gpu\n#SBATCH --time=30\n#SBATCH --no-requeue\n#SBATCH --ntasks-per-node=1\n"
    dropped = ("PARTITION", "TIMELIMIT", "REQUEUE", "NO_REQUEUE", "NTASKS_PER_NODE", "WAIT", "TEST_ONLY")
    kept = {"PATH": "/bin", "SBATCH_ACCOUNT": "mine", "SLURM_CONF": "/c", "SLURM_JOB_ID": "7"}
    given = {**kept, **{f"SBATCH_{name}": "x" for name in dropped}, "SLURM_HET_SIZE": "2", "SLURM_PACK_SIZE": "2"}
    assert submission_environment(script, given) == kept
