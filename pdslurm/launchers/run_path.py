"""From a configuration to its run's folder and to what earlier runs tell of its time. A plan imports it, so it is quick."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pdslurm.config import Config, Search, Tune, Workload, as_dict
from pdslurm.records.earlier_runs import EarlierRuns, earlier_runs
from pdslurm.records.measurement import content_key

NOT_MEASURED = ("launcher", "limits", "run_root", "run_dir", "run_access", "slo", "budget", "explained", "strict")


def run_path(config: Config) -> Path:
    """The run's folder: `run_dir`, or one named by a hash of what is measured, so that the same command finds it again."""
    if config.run_dir:
        return Path(config.run_dir)
    measured = {k: v for k, v in as_dict(config).items() if k not in NOT_MEASURED}
    network = measured["cluster"].pop("network")
    named = {name: network[name] for name in ("interface", "cidr") if network[name] and not config.cluster.one_host}
    measured["cluster"] |= {"network": named} if named else {}  # two networks are two experiments
    for asked_of_slurm in ("slurm", "ports"):
        measured["cluster"].pop(asked_of_slurm)
    _drop_defaults(measured["workload"], Workload, ("starts",))
    _drop_defaults(measured["workload"]["search"], Search, ("fine", "beside", "cover", "beyond"))
    if measured["tune"] == as_dict(Config())["tune"]:
        measured.pop("tune")
    else:
        _drop_defaults(measured["tune"], Tune, ("rounds",))
    return Path(config.run_root) / f"{config.name}-{content_key(measured)[:8]}"


def earlier_runs_of(config: Config) -> EarlierRuns:
    """What earlier runs took on the same cluster with the same model, for the plan's estimate; this run too, where it goes on."""
    return earlier_runs(Path(config.run_root), config.cluster.name, config.model.name, run_path(config))


def _drop_defaults(values: dict[str, Any], schema: type, added: Sequence[str]) -> None:
    """Takes fields out of `values` that the schema got later and that have their defaults: folders of before keep their names."""
    for name in added:
        if values[name] == getattr(schema, name):
            values.pop(name)
