"""From a configuration to the secrets that stand in it, one sentence each, without their values. Pure.

A configuration is written to config.yaml, plan.json, versions.json and Slurm's files of a run, and is printed. Refusing a secret
is surer than hiding it in each of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pdslurm.config import Config
from pdslurm.errors import ConfigError
from pdslurm.plan.environment import HEADER, HUB_TOKEN, LOGIN, TOKEN, is_proxy_login, is_secret, masked, secret_in

WHY = "a secret must not stand in a configuration, which is written to the run's folder"
SHORTEST = 8  # characters of a value in the environment that is looked for everywhere; a shorter one is found by chance
TEXT_TOKEN = re.compile(r"<.*>|\[.*\]")  # of a tokenizer: `</s>`, `[PAD]`


def problems(config: Config | Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[str]:
    """Every value that holds a secret: by its name, by what it assigns, or because the environment has it under such a name, as
    `${oc.env:HF_TOKEN}` gives it. A mapping is a configuration as Hydra composes it."""
    values = asdict(config) if isinstance(config, Config) else dict(config)
    yield from _walk("", "", values, _known(environ))


def refuse_words(words: Sequence[str], environ: Mapping[str, str]) -> None:
    """Raises ConfigError for a secret on the command line: before Hydra, which writes the overrides of a multirun to a file."""
    known = _known(environ)
    found = [_word(word, known) for word in words]
    if said := list(dict.fromkeys(filter(None, found))):
        raise ConfigError(said)


def _known(environ: Mapping[str, str]) -> dict[str, str]:
    return {value: name for name, value in environ.items() if is_secret(name) and len(value) >= SHORTEST}


def _word(word: str, known: Mapping[str, str]) -> str | None:
    name, equals, value = word.partition("=")
    key, value = name.rpartition(".")[2].lstrip("+~"), value.strip("\"'")
    path = masked(name.lstrip("+~")) if equals else "the command line"
    if equals and is_secret(key):
        return None if value in ("", "null") or value.startswith("$") else f"{path}: {WHY}; {_instead(key)}"
    return next(_text(path, "", word, known), None)


def _walk(path: str, name: str, value: Any, known: Mapping[str, str]) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            text = str(inner) if name == "env" and isinstance(inner, int | float) else inner  # a variable is text
            yield from _walk(f"{path}.{key}" if path else str(key), str(key), text, known)
    elif isinstance(value, list):
        before = ("", *value)
        for last, inner in zip(before, value, strict=False):
            option = last if isinstance(last, str) and last.startswith("--") and not str(inner).startswith("-") else ""
            yield from _walk(path, option, inner, known)
    elif isinstance(value, str) and value:
        yield from _text(path, name, value, known)


def _text(path: str, name: str, value: str, known: Mapping[str, str]) -> Iterator[str]:
    if found := next((variable for secret, variable in known.items() if secret in value), None):
        yield f"{path}: holds the value of {found}; {WHY}; leave it out, {_passed_on(found)}"
    elif is_secret(name) and not TEXT_TOKEN.fullmatch(value):
        yield f"{path}{f' {name}' if name.startswith('-') else ''}: {WHY}; {_instead(name)}"
    elif found := LOGIN if is_proxy_login(name, value) else secret_in(value):
        yield f"{path}: holds {found}; {WHY}; {_instead(found.rpartition('.')[2])}"


def _instead(name: str) -> str:
    if name in (LOGIN, HEADER, TOKEN):
        return "export the variable that holds it in the shell, and pdslurm passes it on by name"
    variable = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").upper()
    if variable in ("API_KEY", "APIKEY", "VLLM_API_KEY"):
        return "pdslurm makes the engines' key itself; leave it out"
    variable = "HF_TOKEN" if name == HUB_TOKEN else variable
    return f"export {variable} in the shell, {_passed_on(variable)}"


def _passed_on(variable: str) -> str:
    return f"and pdslurm passes {variable} on by name to every process of the run"
