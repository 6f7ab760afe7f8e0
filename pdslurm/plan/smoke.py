"""A configuration with workload=smoke in; the same with conf/workload/smoke.yaml alone for its workload out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from pdslurm.config import Config, Tune, Workload
from pdslurm.records.measurement import SMOKE

FILE = Path(__file__).parents[2] / "conf" / "workload" / f"{SMOKE}.yaml"


def is_smoke(config: Config) -> bool:
    """Whether a run only shows that everything works."""
    return config.workload.name == SMOKE


def with_smoke(config: Config, overrides: Sequence[str] = ()) -> Config:
    """An experiment's own search, starts, sweeps and tuning would make the short run a long one, so none of them counts here.
    `overrides`: the command line's, of which those of the workload's values count."""
    if not is_smoke(config):
        return config
    workload = OmegaConf.merge(OmegaConf.structured(Workload), OmegaConf.load(FILE))
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        group, _, key = override.key_or_group.partition(".")
        value = override.value()
        if group != "workload" or override.is_delete():
            continue
        if key:
            OmegaConf.update(workload, key, value)
        elif isinstance(value, dict):  # else it is the name smoke
            workload = OmegaConf.merge(workload, value)
    return replace(config, workload=cast(Workload, OmegaConf.to_object(workload)), tune=Tune())
