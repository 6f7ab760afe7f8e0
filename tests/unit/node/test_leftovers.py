"""What an earlier run left: below nobody of pdslurm any more, by the mark that guards give to what they start."""

from __future__ import annotations

import pytest

from pdslurm.node.leftovers import ProcessInfo, leftover_findings


def process(pid: int, ppid: int, *command: str, marked: bool = False) -> ProcessInfo:
    return ProcessInfo(pid, ppid, "".join(f"{word}\0" for word in command), marked)


INIT = process(1, 0, "/sbin/init")
AGENT = process(10, 1, "/venv/bin/python", "-m", "pdslurm.slurm.agent", "10.0.0.1:4000", "/r/.key")
GUARD = process(20, 10, "/venv/bin/python", "-I", "-S", "/src/pdslurm/node/guard.py", "15", "vllm", "serve")
ENGINE = process(30, 20, "/venv/bin/python", "/e/bin/vllm", "serve", marked=True)
CORE = process(31, 30, "VLLM::EngineCore", marked=True)


@pytest.mark.parametrize(
    ("processes", "left"),
    [
        pytest.param([INIT, AGENT, GUARD, ENGINE, CORE], [], id="a run that lives"),
        pytest.param([INIT, GUARD, ENGINE], [], id="a guard that still ends its own"),
        pytest.param([INIT, process(31, 1, "VLLM::EngineCore", marked=True)], [31], id="nobody above"),
        pytest.param([INIT, process(30, 1, "vllm", "serve", marked=True), CORE], [30, 31], id="a whole engine"),
        pytest.param([INIT, process(31, 1, "VLLM::EngineCore")], [], id="somebody's own vLLM"),
        pytest.param(
            [process(40, 1, "python", "-m", "submitit.core._submit"), process(41, 40, "x", marked=True)], [], id="submitit",
        ),
        pytest.param([process(42, 1, "python", "/src/pdslurm/bench/client.py", marked=True)], [], id="the client ends by itself"),
        pytest.param(
            [process(44, 1, "python", "-m", "pdslurm.agent", "10.0.0.1:4000", "/r/.key"), process(45, 44, "x", marked=True)], [],
            id="an agent of before the folders",
        ),
        pytest.param(
            [process(46, 1, "python", "-I", "-S", "/src/pdslurm/guard.py", "15", "vllm"), process(47, 46, "vllm", marked=True)],
            [], id="a guard of before the folders",
        ),
        pytest.param([process(43, 1, "cat", "-m", "pdslurmish-notes.txt", marked=True)], [43], id="not by any name"),
    ],
)  # fmt: skip
def test_leftovers(processes: list[ProcessInfo], left: list[int]) -> None:
    found = leftover_findings(processes)
    assert [int(text.split()[1]) for text in found] == left


def test_the_finding_says_how_to_end_it() -> None:
    (text,) = leftover_findings([INIT, process(31, 1, "VLLM::EngineCore", marked=True)])
    assert text == "process 31 (VLLM::EngineCore) is left of an earlier run of yours; end it with `kill -KILL 31`"
