"""The engine's environment, or one clear line that says what was skipped and how to get it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.browser import Browser

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


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def browser(chromium: Browser, page: Path) -> Iterator[Browser]:
    """The module's page, loaded anew; what the console has against it fails the test."""
    chromium.problems.clear()
    chromium.resize(1280, 900)
    chromium.scheme("light")
    chromium.ask("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    chromium.open(page.as_uri())
    yield chromium
    assert chromium.problems == []
