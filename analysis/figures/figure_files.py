"""Drawings by name in, files of them out: PDF, PNG or SVG, and the caption as text where the figure does not carry it.

Writing takes longer than drawing, and each figure can be written without the others: with several jobs, processes share them. They
import this module alone, so it needs neither pandas nor seaborn."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from pdslurm.errors import ResultsError

FORMATS = ("pdf", "png", "svg")
# No date inside: the same records give the same bytes.
METADATA: dict[str, dict[str, None]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
PNG_DPI = 200
MOST_JOBS = 4  # each takes 100 MiB and half a second to start


@dataclass(frozen=True)
class Drawing:
    """A figure, and what must be said beside it."""

    figure: Figure
    caption: str
    inside: bool  # whether the figure carries its caption; otherwise the document does
    rc: Any  # matplotlib's settings that it was made with and is to be written with


def cores() -> int:
    """How many jobs are worth their start here."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, MOST_JOBS)


def write_all(drawings: Iterable[tuple[str, Drawing]], folder: Path, formats: Sequence[str], jobs: int) -> Iterator[Path]:
    """Writes the drawings as they come; the paths in their order. Raises ResultsError when one cannot be written."""
    if jobs == 1:
        for name, drawing in drawings:
            yield from write(drawing, folder, name, formats)
        return
    # Not forked: numpy's threads would not live on in the child, and whoever held a lock with them.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        pending = [pool.submit(write, drawing, folder, name, formats) for name, drawing in drawings]
        for one in pending:
            yield from one.result()


def write(drawing: Drawing, folder: Path, name: str, formats: Sequence[str]) -> list[Path]:
    """Writes NAME.pdf and so on, and NAME.txt with the caption if it is not inside. Raises ResultsError when it cannot."""
    paths = [folder / f"{name}.{kind}" for kind in formats]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(drawing.rc):
            lay_out(drawing.figure)
            for path in paths:
                drawing.figure.savefig(path, dpi=PNG_DPI, metadata=METADATA[path.suffix[1:]])
        if not drawing.inside:
            paths.append(folder / f"{name}.txt")
            paths[-1].write_text(drawing.caption + "\n", encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from error
    return paths


def lay_out(figure: Figure) -> None:
    """Lays the axes out once, not once for each format. Without an engine, savefig also does not draw each figure twice."""
    if engine := figure.get_layout_engine():
        engine.execute(figure)
        figure.set_layout_engine(None)
