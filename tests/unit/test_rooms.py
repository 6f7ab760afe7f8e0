"""The folders of the code stand in an order, and each imports only what stands before it."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# From the ground up. Modules of a package's own folder are "": errors, signals and config below everything, the programs above it.
PDSLURM = ("records", "validity", "bench", "plan", "predict", "node", "slurm", "measure", "launchers")
ANALYSIS = ("load", "stats", "figures", "report")
GROUND = ("pdslurm", "pdslurm.errors", "pdslurm.signals", "pdslurm.config")
PROGRAMS = ("pdslurm.__main__", "pdslurm.status", "pdslurm.doctor")
# Imported at the end of a run, where it is installed; a cluster's nodes need not have it.
MAY_ASK_ANALYSIS = "pdslurm.launchers.answer"


def modules() -> Iterator[tuple[str, ast.Module]]:
    for package in ("pdslurm", "analysis"):
        for file in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield name, ast.parse(file.read_text())


def imported(tree: ast.Module) -> Iterator[str]:
    """Modules named by `import` and `from`, but for those that only a type checker sees."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            files = [alias.name for alias in node.names if (ROOT / node.module.replace(".", "/") / f"{alias.name}.py").is_file()]
            yield from (f"{node.module}.{name}" for name in files)
            if len(files) < len(node.names):
                yield node.module


def room(module: str, rooms: tuple[str, ...]) -> str | None:
    """The folder of a module, None for one that lies in none of `rooms`."""
    part = module.split(".")[1:2]
    return part[0] if part and part[0] in rooms else None


IMPORTS = [(name, other) for name, tree in modules() for other in imported(tree) if other.startswith(("pdslurm", "analysis"))]


@pytest.mark.parametrize(("package", "rooms"), [("pdslurm", PDSLURM), ("analysis", ANALYSIS)])
def test_imports_run_in_one_direction(package: str, rooms: tuple[str, ...]) -> None:
    up = [
        f"{name} imports {other}"
        for name, other in IMPORTS
        if name.startswith(package) and other.startswith(package)
        if (here := room(name, rooms)) and (there := room(other, rooms)) and rooms.index(there) > rooms.index(here)
    ]
    assert up == []


def test_the_ground_imports_nothing_above_it_and_nobody_imports_the_programs() -> None:
    assert [pair for pair in IMPORTS if pair[0] in GROUND and pair[1] not in GROUND] == []
    assert [pair for pair in IMPORTS if pair[1] in PROGRAMS and pair[0] not in PROGRAMS] == []


def test_analysis_takes_of_pdslurm_records_and_sizes_of_models_alone() -> None:
    taken = {other for name, other in IMPORTS if name.startswith("analysis") and other.startswith("pdslurm")}
    elsewhere = {m for m in taken if not m.startswith(("pdslurm.records.", "pdslurm.validity", "pdslurm.bench.result_files"))}
    assert elsewhere <= {"pdslurm.errors", "pdslurm.plan.model"}
    assert {name for name, other in IMPORTS if name.startswith("pdslurm") and other.startswith("analysis")} == {MAY_ASK_ANALYSIS}


def test_what_runs_in_the_engine_s_environment_needs_the_standard_library_alone() -> None:
    taken = {other for name, other in IMPORTS if name.startswith(("pdslurm.bench", "pdslurm.records"))}
    assert {m for m in taken if not m.startswith(("pdslurm.bench", "pdslurm.records"))} <= {"pdslurm.errors"}


def test_every_folder_says_what_goes_in_and_what_comes_out() -> None:
    folders = {file.parent for package in ("pdslurm", "analysis") for file in (ROOT / package).rglob("*.py")}
    for folder in sorted(folders - {ROOT / "pdslurm", ROOT / "analysis"}):
        said = (ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or "").splitlines()
        assert said, folder
        assert " in; " in said[0] or " in, " in said[0], folder


def test_git_ignores_no_source() -> None:
    """Figures that users draw are ignored, the code that draws them is not. Ruff, too, passes over what git ignores."""
    files = [str(file) for package in ("pdslurm", "analysis", "tests") for file in (ROOT / package).rglob("*.py")]
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("no checkout, or no git to ask")
    ignored = subprocess.run(["git", "check-ignore", "--no-index", *files], capture_output=True, text=True, check=False, cwd=ROOT)
    if ignored.returncode == 128:
        pytest.skip(f"git does not answer: {ignored.stderr.strip()}")
    assert ignored.stdout == ""


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "results").rglob("README.md"))]
SOURCES = [
    file for folder in ("pdslurm", "analysis", "tests", "conf", "docker", "sbatch") for file in sorted((ROOT / folder).rglob("*"))
]


@pytest.mark.parametrize("file", [*PAGES, ROOT / "Makefile"], ids=lambda file: str(file.relative_to(ROOT)))
def test_a_page_names_only_what_is_there(file: Path) -> None:
    assert [name for name in named(file) if not (ROOT / name).exists()] == []


def test_the_code_names_only_files_that_are_there() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in SOURCES
        if file.suffix in (".py", ".yaml", ".sh", ".sbatch", ".js", ".css")
        for name in named(file)
        if not (ROOT / name).exists() and "NAME" not in name
    ]
    assert wrong == []


def named(file: Path) -> list[str]:
    """Paths and modules of this project's code that a text names, as paths."""
    text = file.read_text()
    paths = re.findall(r"(?<![\w./-])((?:pdslurm|analysis|tests)/[\w./-]*\w\.(?:py|csv|json|css|js))\b", text)
    modules = re.findall(r"python3? -m ((?:pdslurm|analysis)(?:\.\w+)+)", text)
    return [*paths, *(f"{name.replace('.', '/')}.py" for name in modules)]
