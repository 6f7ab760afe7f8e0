"""Mounts as a configuration writes them."""

from __future__ import annotations

import pytest

from pdslurm.config import RuntimeKind
from pdslurm.errors import ConfigError
from pdslurm.plan.mounts import Mount, mount_of


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("/a", Mount("/a", "/a")),
        ("/a:/b", Mount("/a", "/b")),
        ("/a:/b:rw", Mount("/a", "/b")),
        ("/a b:/c:ro", Mount("/a b", "/c", read_only=True)),
    ],
)
def test_mounts(text: str, mount: Mount) -> None:
    assert mount_of(text, RuntimeKind.docker) == mount


@pytest.mark.parametrize("text", ["", "a", "a:/b", "/a:b", "/a:/b:rx", "/a:/b:ro:z", "/a:/b:"])
def test_mounts_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.mounts=.*: use /host"):
        mount_of(text, RuntimeKind.docker)
