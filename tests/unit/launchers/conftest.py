"""Slurm's programs are stand-ins here, and pdslurm's times are tenths of seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdslurm.launchers import slurm_submit, slurm_wait
from pdslurm.slurm import job_states
from tests.slurm_stand_ins import SlurmStandIn


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmStandIn:
    """Stand-ins for Slurm's programs, the first in PATH."""
    stand_in = SlurmStandIn(tmp_path / "slurm-stand-in")
    monkeypatch.setenv("PATH", f"{stand_in.bin}:/bin:/usr/bin")
    for module, name, value in (
        (job_states, "ASK_AGAIN_S", 0.1), (slurm_submit, "SETTLE_S", 0.6), (slurm_wait, "POLL_S", 0.02),
        (slurm_wait, "JOB_EVERY_S", 0.05), (slurm_wait, "SILENT_S", 0.1), (slurm_wait, "FILES_S", 1.0),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    return stand_in
