"""A run folder in, what it says of itself beside its records out: configuration, plan, fairness, versions, state.

A file that is not there is None (an older run, or one copied in part); one that cannot be read is an error."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pdslurm.errors import ResultsError
from pdslurm.records.command_line import options

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
        import yaml

        text = self._text("config.yaml")
        try:
            value = None if text is None else yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ResultsError(f"{self.path / 'config.yaml'}: not YAML ({error})") from error
        if value is not None and not isinstance(value, dict):
            raise ResultsError(f"{self.path / 'config.yaml'}: no configuration; it holds a {type(value).__name__}")
        return value

    def present(self) -> tuple[Path, ...]:
        """Those of NAMES that are there."""
        return tuple(self.path / name for name in NAMES if (self.path / name).is_file())

    def _text(self, name: str) -> str | None:
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ResultsError(f"{self.path / name}: cannot be read ({error})") from error

    def _json(self, name: str) -> dict[str, Any] | None:
        text = self._text(name)
        if text is None:
            return None
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ResultsError(
                f"{self.path / name}: not JSON ({error}); the run was cut off while it wrote, or it was edited"
            ) from error
        if not isinstance(value, dict):
            raise ResultsError(f"{self.path / name}: an object is expected, it holds a {type(value).__name__}")
        return value
