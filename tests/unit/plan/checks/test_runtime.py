"""What is wrong with a configuration's runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pdslurm.config import Config, RuntimeKind
from pdslurm.plan.checks import runtime as runtime_checks
from pdslurm.plan.checks.configuration import problems
from tests.unit.node.test_container import runtime


@pytest.mark.parametrize(
    ("kind", "fields", "problem"),
    [
        ("bare", {}, "runtime.image=sha256:abc: runtime.kind=bare starts no container"),
        ("bare", {"image": None}, None),
        ("docker", {"image": None}, "runtime.image=null: runtime.kind=docker needs a reference or a path"),
        ("docker", {"image": "registry/name:tag"}, None),
        ("docker", {"image": "image.tar.gz"}, "looks like a file; give its path from / on"),
        ("docker", {"image": "./image"}, "looks like a file; give its path from / on"),
        ("apptainer", {"image": "name:tag"}, "apptainer needs a file"),
        ("pyxis", {"image": "nvcr.io#org/name:tag"}, None),
        ("pyxis", {"privileged": True}, "runtime.privileged=true: pyxis knows no such thing"),
        ("pyxis", {"program": ["x"]}, "runtime.program=['x']: with pyxis it is srun"),
        ("docker", {"mounts": ["x"]}, "runtime.mounts=x: use /host"),
        ("docker", {"devices": ["gpu"]}, "runtime.devices=gpu: use paths in /dev, or the word nvidia"),
        ("docker", {"devices": ["nvidia", "/dev/gdrdrv"]}, None),
    ],
)
def test_findings(kind: str, fields: dict[str, Any], problem: str | None) -> None:
    found = list(runtime_checks.problems(runtime(kind, **fields)))
    assert len(found) == (problem is not None)
    assert problem is None or problem in found[0]


def test_findings_are_among_a_configurations_problems(make_config: Callable[..., Config]) -> None:
    assert [p for p in problems(make_config({"runtime.kind": RuntimeKind.podman})) if p.startswith("runtime.image=null")]
