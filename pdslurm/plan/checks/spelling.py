"""From what Hydra composed to the variables of cluster.env and runtime.env of which YAML made something else than was written.

A variable is text. YAML reads 010 as 8, 1:30 as 90, on as true and 1e3 as 1000.0, and once composed nothing tells what was written,
so this looks at the files and the command line again. A plain whole number such as 16384 is taken as its digits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.conf import HydraConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pdslurm.plan.environment import is_secret

GROUPS = ("cluster", "runtime")


@dataclass(frozen=True)
class Written:
    """A value as its author wrote it, and how to write it so that it stays so."""

    text: str
    quoted: str


def problems(cfg: DictConfig, hydra: HydraConf, loader: ConfigLoader) -> Iterator[str]:
    """Every variable that would not be what was written, one sentence each. Secrets are left to pdslurm/plan/checks/secrets.py."""
    values = {f"{group}.env.{name}": value for group in GROUPS for name, value in _variables(cfg, group)}
    if not values:
        return
    everything = written(hydra, loader)
    for field, value in values.items():
        one = everything.get(field, _in_yaml(str(value)))
        if type(value) is not int or one.text != str(value):
            yield f"{field}={one.text}: must be text, and YAML reads {value!r}; write what you mean in quotes, such as {one.quoted}"


def _variables(cfg: DictConfig, group: str) -> Iterator[tuple[str, Any]]:
    """Those that are no text, of one group; an interpolation is text as long as it is not resolved."""
    env = OmegaConf.to_container(cfg[group].env, resolve=False)
    assert isinstance(env, dict)
    yield from ((str(name), value) for name, value in env.items() if not isinstance(value, str) and not is_secret(str(name)))


def written(hydra: HydraConf, loader: ConfigLoader) -> dict[str, Written]:
    """Each value of the files that Hydra composed and of the command line, by its field; of several the last, as in Hydra."""
    found: dict[str, Written] = {}
    words = [*hydra.overrides.hydra, *hydra.overrides.task]
    folders = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    for chosen in loader.compute_defaults_list(hydra.job.config_name, words, RunMode.RUN).defaults:
        files = (folder / f"{chosen.config_path}.yaml" for folder in folders)
        if file := next((file for file in files if file.is_file()), None):
            found |= _nodes(yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader), chosen.package or "")
    return found | _overrides(hydra.overrides.task)


def _nodes(node: yaml.Node | None, field: str) -> Iterator[tuple[str, Written]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _nodes(value, f"{field}.{key.value}" if field else str(key.value))
    elif isinstance(node, yaml.ScalarNode):
        yield field, _in_yaml(node.value)


def _overrides(words: Sequence[str]) -> dict[str, Written]:
    found: dict[str, Written] = {}
    for override in OverridesParser.create().parse_overrides(list(words)):
        value, (name, _, text) = override.value(), str(override.input_line).partition("=")
        if isinstance(value, dict):
            found |= _inner(value, override.key_or_group)
        else:
            found[override.key_or_group] = Written(text, f"""'{name}="{text}"'""")
    return found


def _inner(value: Any, field: str) -> Iterator[tuple[str, Written]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _inner(inner, f"{field}.{key}")
    else:
        yield field, _in_yaml(str(value))


def _in_yaml(text: str) -> Written:
    return Written(text, f'"{text}"')
