"""Run folders in, a small table of text out: what loads took, and which part of the time between ready engines and the last point
was measuring. Where that is less than ENOUGH, a line says what took the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.report.columns import aligned
from pdslurm.records.gpu_time import ENOUGH, SetTime, loads_of, set_times
from pdslurm.records.run_folder import RunFolder

HEAD = "time of the GPUs: loading ends when engines are ready; measuring is from a point's first request to its last answer"
HEADINGS = ("arm set", "loads", "loading s", "ready to last point s", "measuring")
LEAST_NAMED = 0.01  # of the time; what took less is not named


def gpu_time_table(folders: Sequence[Path]) -> str:
    """The table with the lines below it; empty where no folder has events that tell."""
    found = [(folder, each) for folder in folders for each in set_times(loads_of(RunFolder(folder))) if each.measuring_s]
    if not found:
        return ""
    names = [each.set if len(folders) == 1 else f"{folder.name} {each.set}" for folder, each in found]
    cells = [list(HEADINGS), *(_cells(name, each) for name, (_, each) in zip(names, found, strict=True))]
    below = [line for name, (_, each) in zip(names, found, strict=True) if (line := rest_text(name, each))]
    return "\n".join([HEAD, *aligned(cells, left=0), *below, ""])


def _cells(name: str, each: SetTime) -> list[str]:
    return [name, str(each.loads), f"{each.load_s:.0f}", f"{each.ready_s:.0f}", f"{each.share:.0%}"]


def rest_text(name: str, each: SetTime) -> str:
    """`route_2: less than 80% measuring; the rest: prompts 28 %, …`; empty where enough was measuring."""
    if each.share >= ENOUGH:
        return ""
    parts = [f"{what} {s / each.ready_s:.0%}" for what, s in each.rest.items() if s >= LEAST_NAMED * each.ready_s]
    return f"{name}: less than {ENOUGH:.0%} measuring; the rest: {', '.join(parts)}"
