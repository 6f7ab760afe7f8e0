"""What is wrong in how a configuration asks for its arms to be tuned: a sentence for each problem. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pdslurm.config import Config, arms_of
from pdslurm.plan.commands import OWN_FLAGS
from pdslurm.plan.tuning import KINDS, PARALLEL, ROLES, is_tuned, kind_of, options_of, room
from pdslurm.records.settings import DISAGGREGATED


def problems(config: Config) -> Iterator[str]:
    """Every problem of `tune`; the topologies that its settings make are checked with those of the arms."""
    tune = config.tune
    if tune.settings < 1:
        yield f"tune.settings={tune.settings}: must be 1 or more; 1 tunes no arm"
    if tune.rounds is not None and tune.rounds < 1:
        yield f"tune.rounds={tune.rounds}: must be 1 or more; tune.settings=1 leaves tuning out"
    for name in ("duration_s", "rate"):
        value = getattr(tune, name)
        if value is not None and value <= 0:
            yield f"tune.{name}={value:g}: must be above 0"
    for kind in KINDS:
        for option, values in options_of(tune, kind).items():
            yield from _option(f"tune.{kind}.{option}", option, values, kind)
    if not is_tuned(config):
        return
    yield from _room(config)
    yield from _rate(config)


def _option(field: str, option: str, values: Any, kind: str) -> Iterator[str]:
    role, _, name = option.rpartition(".")
    if role and (role not in ROLES or kind != DISAGGREGATED):
        yield f"{field}: begins with {role}; use OPTION, or in tune.{DISAGGREGATED} prefill.OPTION or decode.OPTION"
    flag = "--" + name.replace("_", "-")
    if name != PARALLEL and flag in OWN_FLAGS:
        yield f"{field}: pdslurm sets {flag} from {OWN_FLAGS[flag]}, which is not tuned; leave it out"
    if not isinstance(values, list) or not values:
        yield f"{field}={values}: must be a list of the values to try beside the arm's own, such as [64, 128]"
        return
    if wrong := [value for value in values if isinstance(value, list | Mapping)]:
        yield f"{field}={wrong[0]}: a value must be one number, text, true or false"
    elif len({repr(value) for value in values}) < len(values):
        yield f"{field}={values}: names a value twice"
    elif name == PARALLEL and (bad := [value for value in values if not isinstance(value, int) or value < 1]):
        yield f"{field}={bad[0]}: must be a whole number, 1 or more"


def _room(config: Config) -> Iterator[str]:
    """Every kind that has arms needs options enough, for each is tried with equally many settings."""
    settings = config.tune.settings
    for kind in dict.fromkeys(kind_of(topology) for topology in arms_of(config).values()):
        options = {name: values if isinstance(values, list) else [] for name, values in options_of(config.tune, kind).items()}
        if (most := room(options)) < settings:
            yield (
                f"tune.settings={settings}: tune.{kind} has options for {most} setting(s), and every kind of arm is tried with "
                f"equally many; give tune.{kind} more values, or set tune.settings={max(most, 1)}"
            )


def _rate(config: Config) -> Iterator[str]:
    workload, search = config.workload, config.workload.search
    plain = any(not topology.prefill for topology in arms_of(config).values())
    if config.tune.rate is None and (search.lowest is None or search.neighbours is None or not plain):
        yield (
            "tune.rate=null: is taken from the saturated plain arm, which only a search with workload.search.neighbours measures; "
            "set tune.rate in requests/s"
        )
    if workload.dataset == "trace" or workload.ramp_up:
        yield "tune.settings with a trace or workload.ramp_up: settings are tried at one rate; set tune.settings=1"
    if not workload.stream:
        yield "tune.settings with workload.stream=false: whole answers show neither TTFT nor TPOT; set tune.settings=1"
