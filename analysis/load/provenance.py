"""A run folder in, what it says of itself beside its records out: configuration, plan, fairness, versions, state.

A file that is not there is None (an older run, or one copied in part), and so is one that cannot be read; `problems` names it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from analysis.load.file_shapes import SHAPES
from pdslurm.records.command_line import options
from pdslurm.records.shapes import misfit

NAMES = ("config.yaml", "plan.json", "fairness.json", "versions.json", "nodes.json", "state.json", "events.jsonl")


def option_texts(argv: Sequence[Any]) -> dict[str, str]:
    """The options of a command line by name, `--x=1` like `--x 1`, one without a value as an empty text; several values are joined,
    and so are those of an option that is given several times."""
    found: dict[str, str] = {}
    for option in options(argv):
        if option.name:
            found[option.name] = " ".join([found.get(option.name, ""), *option.values]).strip()
    return found


@dataclass(frozen=True)
class Provenance:
    """The files of one run folder, each read when it is asked for."""

    path: Path

    @cached_property
    def plan(self) -> dict[str, Any] | None:
        return self._json("plan.json")

    @cached_property
    def versions(self) -> dict[str, Any] | None:
        return self._json("versions.json")

    @cached_property
    def nodes(self) -> dict[str, Any] | None:
        return self._json("nodes.json")

    @cached_property
    def fairness(self) -> dict[str, Any] | None:
        """What pdslurm.plan.fairness.as_json wrote: differs, forced, same; None where no one compared the arms."""
        return self._json("fairness.json") or (self.plan or {}).get("fairness")

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """config.yaml as plain values."""
        return self._read("config.yaml")[0]

    def problems(self) -> tuple[str, ...]:
        """Each of NAMES that is there and cannot be read, with the reason: the run was cut off, or copied, while it was written. Of
        config.yaml only the end is looked at, for figures need no YAML parser."""
        jsons = [name for name in NAMES if name.endswith(".json") and (self.path / name).exists()]
        found = [*((name, self._read(name)[1]) for name in jsons), ("config.yaml", self._cut("config.yaml"))]
        return tuple(f"{self.path / name} ({why})" for name, why in found if why)

    def _cut(self, name: str) -> str:
        try:
            return "" if (self.path / name).read_bytes().endswith(b"\n") else "it is cut short"
        except FileNotFoundError:
            return ""
        except OSError as error:
            return str(error)

    def present(self) -> tuple[Path, ...]:
        """Those of NAMES that are there."""
        return tuple(self.path / name for name in NAMES if (self.path / name).is_file())

    def _json(self, name: str) -> dict[str, Any] | None:
        return self._read(name)[0]

    def _read(self, name: str) -> tuple[dict[str, Any] | None, str]:
        """What a file holds, and why it cannot be read: empty where it can, or is not there."""
        try:
            value = _parsed(name, (self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None, ""
        except (OSError, ValueError, RecursionError) as error:
            return None, " ".join(str(error).split())
        if not isinstance(value, dict):
            return None, f"it holds a {type(value).__name__}, not an object"
        why = misfit(value, SHAPES[name], name.removesuffix(".json")) if name in SHAPES else None
        return (None, why) if why else (value, "")


def _parsed(name: str, text: str) -> Any:
    """Raises ValueError."""
    if not name.endswith(".yaml"):
        return json.loads(text)
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from error
