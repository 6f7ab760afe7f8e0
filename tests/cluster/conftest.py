"""One Slurm cluster of four nodes for all tests here, which leave it as they found it; or one line that says how to get one."""

from __future__ import annotations

import contextlib
import functools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import leftovers
from tests.cluster.cluster_run import DEMO, LIMITS, SERVER, ClusterRun
from tests.cluster.lab import Lab, missing
from tests.stand_ins import write_vllm

ROOT = Path(__file__).parents[2]
what_is_missing = functools.cache(missing)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips from one place, so that pytest folds all skips into one line."""
    if item.get_closest_marker("cluster") and what_is_missing():
        pytest.skip(f"no tests on a real Slurm cluster: this lacks {what_is_missing()}")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """What every machine has to see, should it lie under /tmp: this checkout, its environments and tmp_path."""
    environments = (ROOT / ".venv", ROOT / ".venv-engine", Path(sys.prefix))
    return (ROOT, tmp_path_factory.getbasetemp(), *(path for path in environments if path.exists()))


@pytest.fixture(scope="session")
def lab_root(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Not in pytest's folder, which only root may enter. After a failure it stays, for the logs in it."""
    root = Path(tempfile.mkdtemp(prefix="pdslurm-lab-", dir="/tmp"))
    yield root
    if not request.session.testsfailed:
        shutil.rmtree(root)


@pytest.fixture(scope="session")
def lab(shared: tuple[Path, ...], lab_root: Path) -> Iterator[Lab]:
    with Lab(lab_root, shared=shared) as lab:
        yield lab


@pytest.fixture
def make_lab(lab_root: Path, shared: tuple[Path, ...]) -> Iterator[Callable[..., Lab]]:
    """make_lab(nodes=2, …): another lab with settings of its own, up until the test's end."""
    with contextlib.ExitStack() as labs:

        def make(**settings: Any) -> Lab:
            return labs.enter_context(Lab(Path(tempfile.mkdtemp(prefix="other-", dir=lab_root)), shared=shared, **settings))

        yield make


@pytest.fixture(autouse=True)
def as_found(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that uses the lab leaves no job, process, port, shared memory or container; the next one finds every node usable."""
    if "lab" not in request.fixturenames:
        yield
        return
    lab: Lab = request.getfixturevalue("lab")
    before = leftovers.present(lab)
    yield
    left = leftovers.since(lab, before, patience_s=5)
    leftovers.restore(lab, left)
    if left:
        pytest.fail("left on the cluster:\n" + "\n".join(map(str, left)), pytrace=False)


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The overrides that make a run of two small nodes with stand-ins."""
    root = tmp_path_factory.mktemp("stand-ins")
    write_vllm(root / "lib")
    (root / "model").mkdir()
    (root / "model" / "config.json").write_text("{}")
    (root / "model" / "model.safetensors").write_bytes(b"no weights")  # the preflight looks whether there are some
    program = f"[{sys.executable},-S,{SERVER}]"
    return (
        *DEMO, "model=tiny", "model.make=false", f"model.path={root}/model",
        f"run_root={root}/runs",
        f"runtime.vllm={program}", f"runtime.router={program}", f"runtime.python=[{sys.executable}]",
        f"+runtime.env.PYTHONPATH={root}/lib", *(f"limits.{name}={value}" for name, value in LIMITS.items()),
    )  # fmt: skip


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., None]:
    """told(client="hang:128"): how stand-ins behave from now on; told() is as if nothing had been said."""
    folder = tmp_path / "told"
    folder.mkdir()

    def tell(**behaviours: str) -> None:
        for path in folder.iterdir():
            path.unlink()
        for kind, behaviour in behaviours.items():
            (folder / kind.replace("_", "-")).write_text(behaviour)

    return tell


@pytest.fixture
def start(lab: Lab, tmp_path: Path, stand_ins: tuple[str, ...], told: Callable[..., None]) -> Iterator[Callable[..., ClusterRun]]:
    """start("limits.point_s=3", how="salloc"): a run of three points; the same folder again unless `folder` says otherwise."""
    runs: list[ClusterRun] = []

    def begin(*overrides: str, folder: str = "run", lab: Lab = lab, **how: Any) -> ClusterRun:
        env = {"STAND_INS": str(tmp_path / "told")}
        runs.append(ClusterRun(lab, tmp_path / folder, (*stand_ins, *overrides), env, outputs=tmp_path, **how))
        return runs[-1]

    yield begin
    for run in runs:
        run.close()
