"""A multirun is refused before Hydra writes what it composed, and what is printed of an override is masked."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from pdslurm import __main__ as program
from pdslurm.config import Config, Topology
from pdslurm.errors import ConfigError
from pdslurm.multirun import RefuseSecrets

VALUE = "abc-very-secret"


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"cluster": {"env": {"HF_TOKEN": VALUE}}}, "cluster.env.HF_TOKEN"),
        ({"cluster": {"slurm": {"setup": [f"export WANDB_API_KEY={VALUE}"]}}}, "cluster.slurm.setup"),
        ({"hydra": {"overrides": {"task": [f"topology.extra_args=[--hf-token,{VALUE}]"]}}}, "hydra.overrides.task"),
        ({"runtime": {"env": {"MINE": VALUE}}}, "runtime.env.MINE"),
        ({"runtime": {"env": {"MY_TOKEN": 12345678}}}, "runtime.env.MY_TOKEN"),
    ],
)
def test_a_secret_ends_a_multirun(
    values: dict[str, Any], place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_SECRET", VALUE)
    with pytest.raises(SystemExit) as ended:
        RefuseSecrets().on_multirun_start(OmegaConf.create(values))
    assert ended.value.code == ConfigError.exit_code
    said = capsys.readouterr().err
    assert said.startswith(f"pdslurm: 1 problem in the configuration; nothing was started\n  - {place}: ")
    assert VALUE not in said


def test_an_interpolation_is_not_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", VALUE)
    RefuseSecrets().on_multirun_start(OmegaConf.create({"runtime": {"env": {"MINE": "${oc.env:MY_SECRET}"}}, "seed": "???"}))


def test_an_override_that_would_be_lost_is_named_without_its_secret(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    hydra = SimpleNamespace(overrides=SimpleNamespace(task=[f"topology.extra_args=[--hf-token,{VALUE}]"]))
    monkeypatch.setattr(program, "HydraConfig", SimpleNamespace(get=lambda: hydra))
    with pytest.raises(ConfigError, match=r"topology.extra_args=\[--hf-token,\*\*\*\]: this experiment measures arms \(a\)"):
        program.refuse_lost_overrides(make_config({"arms": {"a": Topology()}}))
