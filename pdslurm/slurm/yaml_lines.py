"""A key, its value and where the value is from in; a line of YAML that comes back as it was out. Pure."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf


def entry(key: str, value: Any, comment: str) -> str:
    """A line of YAML."""
    return f"{key}: {scalar(value)}" + (f"  # {clean(comment)}" if comment else "")


def scalar(value: Any) -> str:
    """As YAML that comes back as it is: `0123`, `on`, `1e3` and `4:00:00` stay text."""
    if isinstance(value, list):
        return f"[{', '.join(map(scalar, value))}]"
    if isinstance(value, str):
        value = value.replace("${", "\\${")
    return OmegaConf.to_yaml(OmegaConf.create({"v": value})).removeprefix("v: ").strip()


def clean(text: Any) -> str:
    """On one line, for a comment."""
    return " ".join(str(text).split())
