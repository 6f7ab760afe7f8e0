"""launcher=slurm in the job: what it leaves for whoever waits, and when it has Slurm queue it again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdslurm import config as c
from pdslurm.errors import AllocationEnding, Interrupted, PdslurmError, ProcessDied
from pdslurm.launchers import allocation
from pdslurm.launchers import slurm as launcher
from pdslurm.records.measurement import Measurement
from pdslurm.records.run_folder import RunFolder
from tests.slurm_stand_ins import SlurmStandIn

DIED = ProcessDied("engine1", node="n1", cause="exit code 1", log=None)


@pytest.fixture
def in_job(
    slurm: SlurmStandIn, tmp_path: Path, make_config: Callable[..., c.Config], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """in_job(error, adds="done"): the job runs, adds a record, ends by the error; what ended.json says then."""
    run = RunFolder(tmp_path / "run")
    (run.path / "slurm").mkdir(parents=True)
    (run.path / "slurm" / "ended.json").write_text("of before")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")

    def go(error: Exception | None, *, adds: str = "done", requeue: bool = True) -> dict[str, Any]:
        def carry_out(_: c.Config) -> str:
            assert not (run.path / "slurm" / "ended.json").exists()
            status, valid = ("failed", False) if adds == "failed" else ("done", adds == "done")
            run.save(
                Measurement(
                    "k1",
                    "r",
                    "pd",
                    "measured",
                    status,
                    valid,
                    (),
                    {"id": "p1"},
                    {},
                    "2026-01-01T00:00:00Z",
                    1.0,
                    metrics={"mean_ttft_ms": 1.0},
                )
            )
            if error:
                raise error
            return "1 points measured"

        monkeypatch.setattr(allocation, "carry_out", carry_out)
        values = c.as_dict(make_config({"run_dir": str(run.path), "cluster.slurm": c.Slurm(requeue=requeue)}))
        if error:
            with pytest.raises(SystemExit) as left:
                launcher.carry_out(values)
            assert left.value.code == getattr(error, "exit_code", 1)
        else:
            launcher.carry_out(values)
        found: dict[str, Any] = json.loads((run.path / "slurm" / "ended.json").read_text())
        return found

    return go


@pytest.mark.parametrize(
    ("error", "adds", "requeue", "queued", "may_go_on"),
    [
        (None, "done", True, False, False),
        (DIED, "done", True, False, False),
        (Interrupted("stopped by SIGTERM"), "done", True, False, True),  # by scancel, or by Slurm, which queues it again
        (Interrupted("stopped by SIGTERM"), "done", False, False, False),
        (AllocationEnding("ends soon"), "done", True, True, True),
        (AllocationEnding("ends soon"), "done", False, False, False),
        (AllocationEnding("ends soon"), "failed", True, False, False),
        (AllocationEnding("ends soon"), "invalid", True, False, False),
    ],
)
def test_what_a_job_leaves(
    slurm: SlurmStandIn, in_job: Callable[..., dict[str, Any]], error: PdslurmError | None, adds: str, requeue: bool, queued: bool,
    may_go_on: bool,
) -> None:  # fmt: skip
    """A job that adds nothing valid is not queued again: it would be for ever."""
    left = in_job(error, adds=adds, requeue=requeue)
    assert (left["job_id"], left["restarts"], left["exit_code"]) == ("7", 1, error.exit_code if error else 0)
    assert (left["queued_again"], left["may_go_on"]) == (queued, may_go_on)
    assert ("job 7 is queued again and goes on where it was" in left["text"]) is queued
    assert (slurm.root / "requeued").exists() is queued


def test_slurm_is_away_when_a_job_is_to_be_queued_again(slurm: SlurmStandIn, in_job: Callable[..., dict[str, Any]]) -> None:
    slurm.told(scontrol="away")
    threading.Timer(0.5, slurm.told).start()
    assert in_job(AllocationEnding("ends soon"))["queued_again"]
    assert (slurm.root / "requeued").read_text() == "7"
    assert len(slurm.calls("scontrol")) > 1


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("refuse Requested operation is presently disabled for job 7", "Requested operation is presently disabled for job 7"),
        ("refuse Unexpected message received for job 7", "slurmctld does not answer: `scontrol requeue 7`: Unexpected message"),
        ("away", "Unable to contact slurm controller"),
    ],
)
def test_slurm_does_not_queue_it_again(
    slurm: SlurmStandIn, in_job: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, told: str, said: str
) -> None:
    monkeypatch.setattr(launcher, "REQUEUE_S", 0.2)
    slurm.told(scontrol=told)
    left = in_job(AllocationEnding("ends soon"))
    assert (left["queued_again"], left["may_go_on"]) == (False, False)
    assert "is queued again" not in left["text"]
    assert "Slurm did not queue job 7 again: " in left["text"]
    assert said in left["text"]
    assert left["text"].endswith("run the same command again to go on")


def test_a_job_that_pends_already_is_queued(slurm: SlurmStandIn) -> None:
    slurm.told(scontrol="refuse Job is pending execution for job 7")
    assert launcher.requeue("7") is None


def test_a_mistake_of_pdslurms_reaches_whoever_waits(in_job: Callable[..., dict[str, Any]]) -> None:
    found = in_job(RuntimeError("a mistake"))
    assert (found["exit_code"], found["restarts"], found["may_go_on"]) == (1, 1, False)
    assert "RuntimeError: a mistake" in found["text"]
