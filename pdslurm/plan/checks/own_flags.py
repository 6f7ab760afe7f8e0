"""Options that pdslurm sets itself, given again as extra arguments: one sentence for each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping


def own_flags(field: str, args: Iterable[str], own: Mapping[str, str]) -> Iterator[str]:
    for arg in args:
        flag = arg.split("=")[0]
        known = flag.replace("_", "-").replace("--no-", "--", 1)  # vLLM takes all these spellings
        if known in own:
            yield f"{field}={arg}: pdslurm sets {flag} itself; use the configuration's {own[known]}"


def as_flags(engine_args: Mapping[str, object]) -> list[str]:
    return [f"--{name}" for name in engine_args]
