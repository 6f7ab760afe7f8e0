"""Everything pdslurm raises on purpose; each error's text says what is wrong, what is allowed and what to do.

PdslurmError
├── ConfigError        the configuration cannot be run; lists every problem found
├── PreflightError     this machine or the engine's environment cannot run the plan
├── UnknownEngine      the engine's benchmark is not as pdslurm knows it
├── ProcessDied        an engine, router or client ended by itself
├── NotReady           a process did not answer before its deadline
├── PointFailed        one point could not be measured; the others go on
├── LimitReached       the run's limit of wall time or GPU-hours is used up; what was measured is kept
├── Interrupted        Ctrl-C or TERM
├── AllocationEnding   Slurm warns of the time limit or a preemption; what was measured is kept
├── JobEnded           a Slurm job that was waited for ended otherwise than by its own end
├── CleanUpFailed      the run has ended, and something that it started could not be removed
├── SlurmUnreachable   Slurm gave no answer, so that it is not known what it did
└── ResultsError       a run folder or record cannot be read or written
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class PdslurmError(Exception):
    """The root of the tree; `python -m pdslurm` prints its text and exits with `exit_code`."""

    exit_code = 1


class ConfigError(PdslurmError):
    """All problems of a configuration at once, one line each."""

    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{count} in the configuration; nothing was started\n" + "\n".join(f"  - {p}" for p in problems))


class PreflightError(PdslurmError):
    """What was found missing before any engine started, one line each."""

    exit_code = 3

    def __init__(self, findings: Sequence[str]) -> None:
        self.findings = tuple(findings)
        super().__init__("preflight failed; no engine was started\n" + "\n".join(f"  - {f}" for f in findings))


class UnknownEngine(PdslurmError):
    """vLLM's benchmark has changed where pdslurm's client takes hold of it; one line says what is missing."""

    exit_code = 3


class ProcessDied(PdslurmError):
    """A process of the run ended by itself: who, where, how, and the last lines of its log."""

    exit_code = 4

    def __init__(self, name: str, *, node: str, cause: str, log: Path | None, log_tail: str = "") -> None:
        self.name, self.node, self.cause, self.log, self.log_tail = name, node, cause, log, log_tail
        tail = "".join(f"\n  | {line}" for line in log_tail.splitlines())
        where = f"\n  log: {log}" if log else ""
        super().__init__(f"{name} on {node} died: {cause}{where}{tail}")


class NotReady(PdslurmError):
    """A deadline passed; the text names the processes that were waited for and their logs."""

    exit_code = 5


class PointFailed(PdslurmError):
    """One point could not be measured; its record carries this text."""


class LimitReached(PdslurmError):
    """A limit of hours or GPU-hours is used up by all sessions of the run, or `limits.session_hours` by this one."""

    exit_code = 6


class Interrupted(PdslurmError):
    """A signal asked the run to end."""

    exit_code = 130


class AllocationEnding(PdslurmError):
    """Slurm's warning (USR2) that the allocation ends soon. 75 is sysexits.h's `try again`."""

    exit_code = 75


class JobEnded(PdslurmError):
    """Slurm ended the job: cancelled, out of time, a node failed; or it never wrote how it ended."""

    exit_code = 8


class CleanUpFailed(PdslurmError):
    """The run has ended and its results are complete; what is still there on which node, and how to remove it, one line each."""

    exit_code = 10

    def __init__(self, left: Sequence[str], before: str = "") -> None:
        """`before`: how the run ended, in words that come first."""
        self.left = tuple(left)
        lines = "\n".join(f"  - {line}" for line in left)
        ended = f"{before}\n" if before else ""
        super().__init__(f"{ended}the run has ended, but pdslurm could not remove everything that it had started\n{lines}")


class SlurmUnreachable(PdslurmError):
    """Slurm gave no answer: slurmctld is away, restarts, or is too busy. The text names the command and what was said."""

    exit_code = 9


class SmokeFailed(PdslurmError):
    """A run with workload=smoke has ended, and names the arms that would not have been measured."""

    exit_code = 11

    def __init__(self, arms: Sequence[str], of: int) -> None:
        super().__init__(f"{len(arms)} of {of} arm(s) would not have been measured: {', '.join(arms)}")


class ResultsError(PdslurmError):
    """A run folder cannot be used as it is."""

    exit_code = 7
