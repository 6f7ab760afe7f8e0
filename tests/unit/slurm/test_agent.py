"""What an agent decides by itself; what it does with processes and the driver is in tests/cluster."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

import pytest

from pdslurm.errors import CleanUpFailed, ConfigError, ProcessDied
from pdslurm.node.processes import LocalProcesses, Started
from pdslurm.plan.deployment import Process
from pdslurm.slurm.agent import Agent
from pdslurm.slurm.agents import CREDENTIALS, SRUN_FAILURES, named_in
from pdslurm.slurm.wire import Wire


class Sent:
    """In place of a connection: keeps what the agent sends."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def send(self, **message: Any) -> None:
        self.messages.append(message)


class Broken:
    """In place of LocalProcesses: whatever it is asked for fails."""

    running: tuple[Started, ...] = ()
    left_behind: tuple[int, ...] = ()

    def __init__(self, error: Exception, at_exit: Exception | None = None) -> None:
        self.error, self.at_exit = error, at_exit

    def __enter__(self) -> Broken:
        return self

    def __exit__(self, *_: object) -> None:
        if self.at_exit:
            raise self.at_exit

    def start(self, *_: object) -> None:
        raise self.error


def agent_with(processes: Broken) -> tuple[Agent, Sent]:
    sent = Sent()
    agent = Agent(cast(Wire, sent), "00")
    agent.processes = cast(LocalProcesses, processes)
    return agent, sent


ENGINE = Process("engine0", "engine", "both", 0, 0, "h", (0,), 8000, ("vllm", "serve"), {"CUDA_VISIBLE_DEVICES": "0"})
START = {"id": 1, "do": "start", "process": asdict(ENGINE), "log": "engine0.log"}


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ProcessDied("engine0", node="h", cause="cannot start vllm: No such file", log=None), "cannot start vllm: No such file"),
        (PermissionError(13, "Permission denied"), "cannot be started: [Errno 13] Permission denied"),
        (ConfigError(["runtime.mounts: no"]), "cannot be started: 1 problem in the configuration"),
        (RuntimeError("anything else"), "cannot be started: anything else"),
    ],
)
def test_whatever_keeps_a_process_from_starting_is_told_as_its_death(error: Exception, cause: str) -> None:
    agent, sent = agent_with(Broken(error))
    agent._carry_out(dict(START))
    died = [message for message in sent.messages if "died" in message]
    assert [(m["died"], m["cause"].startswith(cause)) for m in died] == [("engine0", True)]


def test_what_cannot_be_removed_is_told_and_ends_nothing_else() -> None:
    agent, sent = agent_with(Broken(RuntimeError(), at_exit=CleanUpFailed(["containers of run r cannot be removed"])))
    agent.ending = True
    agent._work()
    assert sent.messages == [{"left": ["containers of run r cannot be removed"]}]


def test_an_agent_whose_worker_fails_says_so_and_ends() -> None:
    agent, sent = agent_with(Broken(RuntimeError()))
    agent._report_deaths = lambda: (_ for _ in ()).throw(OSError("stale file handle"))  # type: ignore[method-assign]
    agent._work()
    assert sent.messages == [{"failed": "OSError: stale file handle"}]
    assert agent.ending


@pytest.mark.parametrize(
    ("said", "failure", "munge"),
    [
        ("srun: error: n2: task 1: Exited with exit code 2\n", "n2: task 1: Exited with exit code 2", False),
        ("12:00:00 n1: x\nsrun: error: n[2-3]: tasks 1-2: Killed\n", "n[2-3]: tasks 1-2: Killed", False),
        (
            "srun: error: slurm_receive_msgs: [[n2]:6818] failed: Zero Bytes were transmitted or received\n"
            "srun: error: Task launch for StepId=4.0 failed on node n2: Zero Bytes were transmitted or received\n",
            "Task launch for StepId=4.0 failed on node n2: Zero Bytes were transmitted or received",
            True,
        ),
        (
            "srun: error: Application launch failed: Invalid job credential\n",
            "Application launch failed: Invalid job credential",
            True,
        ),
        ("srun: Job step creation temporarily disabled, retrying (Requested nodes are busy)\n", None, False),
        ("", None, False),
    ],
)
def test_what_srun_says_of_a_task_that_will_not_join(said: str, failure: str | None, munge: bool) -> None:
    match = SRUN_FAILURES.search(said)
    assert (match and match[1]) == failure
    assert bool(CREDENTIALS.search(said)) is munge


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("srun says: n2: task 1: Exited with exit code 1", ["n2"]),
        ("srun says: Task launch for StepId=4.0 failed on node n2: Zero Bytes were transmitted", ["n2"]),
        ("srun says: n[1-2]: tasks 0-1: Killed", []),
        ("srun ended with exit code 1", []),
        ("srun says: n22: task 2: Exited with exit code 1", ["n22"]),
        ("srun says: gpu-n2: task 1: Exited", []),
    ],
)
def test_only_a_node_that_srun_names_has_failed(text: str, named: list[str]) -> None:
    assert named_in(text, ["n1", "n2", "n22"]) == named
