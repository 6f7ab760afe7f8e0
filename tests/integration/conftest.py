"""The engine's environment, or one clear line that says what was skipped and how to get it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ENGINE = Path(__file__).parents[2] / os.environ.get("PDSLURM_ENGINE", ".venv-engine")
MISSING = [name for name in ("vllm", "vllm-router", "python") if not (ENGINE / "bin" / name).exists()]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips from one place, so that pytest folds all skips into one line."""
    if MISSING and item.get_closest_marker("engine"):
        pytest.skip(f"no tests with the real engine: {ENGINE}/bin has no {', '.join(MISSING)}; `make setup` makes .venv-engine")


@pytest.fixture(scope="session")
def engine() -> Path:
    """The folder of the engine's environment."""
    return ENGINE
