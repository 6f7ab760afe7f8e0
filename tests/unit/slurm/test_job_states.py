"""What Slurm's words mean: a state, a job that it does not know, or no answer, which is neither. Its words are those of 22.05."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pdslurm.errors import ConfigError, SlurmUnreachable
from pdslurm.slurm import job_states, jobs
from pdslurm.slurm.job_states import JobState
from tests.slurm_stand_ins import SlurmStandIn

AWAY = (
    "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
    "slurm_load_jobs error: Socket timed out on send/recv operation",
    "slurm_load_jobs error: Zero Bytes were transmitted or received",
    "scontrol: error: _slurm_connect: Connection refused",
    "slurm_load_jobs error: Protocol authentication error",
    "slurm_load_jobs error: Access/permission denied",
    "",
)


def script(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


@pytest.mark.parametrize(
    ("text", "state", "alive"),
    [
        ("JobId=7 JobName=x JobState=RUNNING Reason=None Restarts=2", JobState("RUNNING", "None", "x", 2), True),
        (
            "JobId=7 JobName=x JobState=RUNNING Reason=None Restarts=0 StdIn=/dev/null StdOut=/a b/7_0_log.out TresPerNode=gpu:8",
            JobState("RUNNING", "None", "x", 0, "/a b/7_0_log.out"),
            True,
        ),
        ("JobId=7 JobState=RUNNING Reason=None StdOut=/a/7.out", JobState("RUNNING", stdout="/a/7.out"), True),
        ("JobId=7 JobState=PENDING Reason=Resources Dependency=(null)", JobState("PENDING", "Resources"), True),
        ("JobId=7 JobState=REVOKED Reason=None", JobState("REVOKED"), True),  # it runs on another cluster of the federation
        ("JobId=7 JobState=NODE_FAIL Reason=NodeDown", JobState("NODE_FAIL", "NodeDown"), False),
        ("slurm_load_jobs error: Invalid job id specified", JobState("UNKNOWN"), False),
        ("No jobs in the system", JobState("UNKNOWN"), False),
        ("Job 7 not found", JobState("UNKNOWN"), False),
    ],
)
def test_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, state: JobState, alive: bool) -> None:
    script(tmp_path, monkeypatch, "scontrol", f"echo '{text}'" + (" >&2; exit 1" if "error" in text else ""))
    assert job_states.job_state("7") == state
    assert state.is_alive is alive


@pytest.mark.parametrize("words", AWAY)
def test_no_answer_is_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    for name in ("scontrol", "squeue"):
        script(tmp_path, monkeypatch, name, f"echo '{words}' >&2; exit 1")
    for ask in (job_states.job_state, job_states.jobs_by_name, lambda job: job_states.job_states([job])):
        with pytest.raises(SlurmUnreachable, match="slurmctld does not answer: ") as caught:
            ask("7")
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "echo 'squeue: error: Invalid user: 1000' >&2",
        "echo 'squeue: Unable to contact slurm controller (connect failure)' >&2",
        "echo 'slurm_load_jobs error: Socket timed out'",
        "true",
        "echo '1|RUNNING|None'",
        "echo 'JOBID|STATE|REASON'; echo '1|RUN'",
        "echo 'JOBID|STATE|REASON'; echo '1|RUNNING|None'; echo 'squeue: error: cluster b: no answer' >&2; exit 1",
        "echo 'JOBID|STATE|REASON'; echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
        "echo 'JOBID PARTITION NAME USER ST TIME NODES'; echo '1 gpu x me R 0:01 1'",
    ],
)
def test_what_is_no_queue_is_no_empty_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    script(tmp_path, monkeypatch, "squeue", text)
    with pytest.raises(SlurmUnreachable, match="slurmctld does not answer: `squeue --name=x`: "):
        job_states.jobs_by_name("x")


def test_a_site_s_own_lines_around_a_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ("Welcome to the cluster|today", "CLUSTER: a", "JOBID|STATE|REASON", " 1 | RUNNING | None ", "2_3|PENDING|None")
    script(tmp_path, monkeypatch, "squeue", "\n".join(f"echo '{line}'" for line in lines))
    assert job_states.jobs_by_name("x") == {"1": JobState("RUNNING")}


def test_a_command_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, "scontrol", "exec sleep 600")
    began = time.monotonic()
    with pytest.raises(SlurmUnreachable, match=r"`scontrol --oneliner show job 7` took more than 0.2 s"):
        job_states.job_state("7", timeout_s=0.2)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "scontrol is not on PATH: no Slurm on this machine"),
     ("scontrol: fatal: Could not establish a configuration source", "Slurm is not set up on this machine")],
)  # fmt: skip
def test_no_slurm_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, said: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if text:
        script(tmp_path, monkeypatch, "scontrol", f"echo '{text}' >&2; exit 1")
    with pytest.raises(ConfigError, match=said):
        job_states.job_state("7")


def test_one_question_for_many_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = SlurmStandIn(tmp_path / "s")
    monkeypatch.setenv("PATH", f"{slurm.bin}:/bin:/usr/bin")
    slurm.job("1", "RUNNING")
    slurm.job("2", "PENDING", reason="(Nodes required are DOWN, DRAINED)")
    found = job_states.job_states(["1", "2", "9", "1", "x"])
    assert found == {"1": JobState("RUNNING"), "2": JobState("PENDING", "(Nodes required are DOWN, DRAINED)")}
    assert job_states.job_states(["9"]) == {}
    assert job_states.job_states([]) == {}
    assert len(slurm.calls("squeue")) == 2


def test_a_users_own_filters_hide_no_job() -> None:
    given = {"PATH": "/bin", "SQUEUE_PARTITION": "debug", "SQUEUE_FORMAT": "%i", "SACCT_FORMAT": "User", "SLURM_CONF": "/c"}
    assert job_states.questions_environment(given) == {"PATH": "/bin", "SLURM_CONF": "/c"}
    assert job_states.questions_environment({"SBATCH_CLUSTERS": "b"})["SLURM_CLUSTERS"] == "b"


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("CANCELLED by 1000|0:0", JobState("CANCELLED by 1000")),
        ("FAILED|3:0", JobState("FAILED", "exit code 3:0")),
        ("", None),
        (None, None),
    ],
)
def test_sacct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str | None, state: JobState | None) -> None:
    slurm = SlurmStandIn(tmp_path / "s")
    monkeypatch.setenv("PATH", f"{slurm.bin}:/bin:/usr/bin")
    if line is not None:
        slurm.accounts(line)
    assert job_states.accounted_state("7") == state


def test_a_command_of_a_running_job_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job_states, "ASK_AGAIN_S", 0.05)
    away = f"[ -e {tmp_path}/back ] && echo n1 || {{ touch {tmp_path}/back; echo '{AWAY[0]}' >&2; exit 1; }}"
    script(tmp_path, monkeypatch, "squeue", away)
    assert jobs.run_slurm_command("squeue") == "n1\n"
    assert "pdslurm asks again every 0.05 s; the run goes on when Slurm answers" in capsys.readouterr().err
