"""Judged records in, panels out: one for each thing that the workload varied, with everything else fixed. Pure.

Nothing is assumed about a sweep's name: what varies in its points decides the x axis, and a second thing that varies makes a panel
for each of its values, so that no panel mixes settings."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import pandas as pd

from pdslurm.records.split_ratio import SATURATED

CALIBRATION = "calibration"  # `use` of a valid record that a search was calibrated with, where others were swept
# In the order of preference for the x axis, and in the order of the panels.
DIMENSIONS = ("input_len", "output_len", "max_concurrency", "request_rate")
ARMS = "series"  # the x axis of a workload with one setting: the arms themselves
NAMES = {  # in a title, on an axis, on a short axis
    "input_len": ("Input length", "Input length (tokens)", "Input length (tokens)"),
    "output_len": ("Output length", "Output length (tokens)", "Output length (tokens)"),
    "max_concurrency": ("Concurrency", "Requests in flight, at most", "Concurrency"),
    "request_rate": ("Request rate", "Request rate (requests/s)", "Request rate (1/s)"),
    ARMS: ("One setting", "", ""),
}

FOLLOWED = ("max_concurrency", "request_rate")  # by the number of prompts, in a workload that lasts a given time

Fixed = tuple[tuple[str, float | str], ...]


@dataclass(frozen=True, eq=False)
class Panel:
    """Rows that differ in `x`, series and repeat alone; `fixed` holds the other dimensions' values."""

    x: str
    fixed: Fixed
    rows: pd.DataFrame

    @property
    def order(self) -> tuple[int, Fixed]:
        return (*DIMENSIONS, ARMS).index(self.x), self.fixed


def calibrates(judged: pd.DataFrame) -> pd.Series[bool]:
    """Whether a record belongs to the calibration of a search alone: all requests at once, prompts alone or whole answers. No
    figure draws it together with what was swept. False everywhere where nothing else was measured."""
    alone = judged["sweeps"].map(lambda sweeps: set(sweeps) == {SATURATED}).astype(bool)
    return alone & (not alone.all())


def set_apart(judged: pd.DataFrame) -> pd.DataFrame:
    """The judged records, in which a used one that calibrates a search has the `use` CALIBRATION."""
    return judged.assign(use=judged["use"].mask((judged["use"] == "used") & calibrates(judged), CALIBRATION))


def panels(judged: pd.DataFrame) -> tuple[Panel, ...]:
    """The panels of all sweeps in all runs, in reading order. A sweep's shape is taken from all its records, failed ones too."""
    judged = judged[~calibrates(judged)]
    members: dict[tuple[str, Fixed], set[Hashable]] = {}
    for x, rows in _by_sweep(judged):
        for fixed, part in _by_fixed(rows, x):
            members.setdefault((x, fixed), set()).update(part.index)
    found = [
        panel
        for (x, values), index in members.items()
        for panel in _by_prompts(x, values, judged.loc[judged.index.isin(list(index))])
    ]
    return tuple(sorted((panel for panel in found if not _is_shown_elsewhere(panel, found)), key=lambda panel: panel.order))


def over(judged: pd.DataFrame, x: str) -> tuple[Panel, ...]:
    """The panels that have `x` on their axis, whatever the sweeps varied most: every group of records that differ in it. Where some
    have three values or more, those with two are left out: they come from points that two sweeps of something else share."""
    swept = judged[~calibrates(judged)]
    found = [panel for fixed, part in _by_fixed(swept, x) for panel in _by_prompts(x, fixed, part)]
    values = [panel.rows[x].nunique() for panel in found]
    least = min(3, max(values, default=0))
    kept = (panel for panel, count in zip(found, values, strict=True) if count >= max(2, least))
    return tuple(sorted(kept, key=lambda panel: panel.order))


def _by_fixed(rows: pd.DataFrame, x: str) -> Iterator[tuple[Fixed, pd.DataFrame]]:
    """The rows that agree in everything but x (and the number of prompts), with what they agree in."""
    names = [*(name for name in DIMENSIONS if name != x), "load"]
    for values, part in rows.groupby(names):
        yield tuple(zip(names, cast("tuple[float | str, ...]", values), strict=True)), part


def _by_sweep(judged: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each sweep with the dimension that it varies. Runs are taken one by one, for two may use one name for different
    sweeps; a run with a single point of a sweep (a multirun over lengths) joins the others of that name."""
    out: list[tuple[str, pd.DataFrame]] = []
    exploded = judged.explode("sweeps")
    for _, named in exploded.groupby("sweeps", dropna=False, sort=False):
        varied = [(varied_in(part), part) for _, part in named.groupby(["folder", "load"], sort=False)]
        known = {x for x, _ in varied if x}
        rest = [part for x, part in varied if not x]
        out += [(x, part) for x, part in varied if x]
        if rest:
            alone = pd.concat(rest)
            out.append((known.pop() if len(known) == 1 else varied_in(alone) or ARMS, alone))
    return out


def varied_in(rows: pd.DataFrame) -> str | None:
    """The dimension with the most values, or None when nothing varies."""
    counts = {name: rows[name].nunique() for name in DIMENSIONS}
    best = max(DIMENSIONS, key=lambda name: counts[name])  # the first of equals
    return best if counts[best] > 1 else None


def _by_prompts(x: str, fixed: Fixed, rows: pd.DataFrame) -> list[Panel]:
    """One panel, or one for each number of prompts where x does not account for it: a higher rate sends more prompts in the same
    time, but a longer prompt is no reason for another number of them."""
    several = rows.groupby(x)["num_prompts"] if x in FOLLOWED else rows.assign(all=0).groupby("all")["num_prompts"]
    if several.nunique().max() <= 1:
        return [Panel(x, fixed, rows)]
    return [Panel(x, (*fixed, ("num_prompts", float(n))), part) for n, part in rows.groupby("num_prompts")]  # type: ignore[arg-type]


def _is_shown_elsewhere(panel: Panel, found: list[Panel]) -> bool:
    """Whether a panel with a single value of x shows nothing that another panel does not."""
    if panel.x != ARMS and panel.rows[panel.x].nunique() > 1:
        return False
    mine = set(panel.rows.index)
    return any(other is not panel and mine < set(other.rows.index) for other in found)


def title(panel: Panel, among: Sequence[Panel], characters: int, what: str = "", *, brief: bool = False) -> str:
    """What varies (or `what`) and what is fixed: the other lengths always, the rest where the panels of a figure differ in it.
    Lines are broken between the parts, to at most so many characters. `brief`: without what the axis says, or has no bound."""
    names = [(name, value) for name, value in panel.fixed if name in varied_dimensions(among) or name.endswith("_len")]
    if brief:
        fixed = [fixed_text(name, value, brief=True) for name, value in names if value != math.inf]
        return title_lines([what, *fixed] if what else fixed, characters)
    fixed = [fixed_text(name, value) for name, value in names]
    varied = f"{NAMES[panel.x][0]} varied" if panel.x != ARMS else NAMES[ARMS][0]
    return title_lines([what or varied, *fixed], characters)


def settings_titles(settings: pd.DataFrame, characters: int, *, brief: bool = False) -> list[str]:
    """A title for each row of SETTING: both lengths, and whatever else the rows differ in. `brief`: what they differ in alone, or
    the lengths where there is nothing of the kind, and not what has no bound."""
    apart = told_apart_by(settings)
    names = [name for name in map(str, settings) if name in apart or (name.endswith("_len") and not (brief and apart))]
    rows = [list(zip(names, row, strict=True)) for row in settings[names].itertuples(index=False)]
    said = [[fixed_text(*one, brief=brief) for one in row if not brief or one[1] != math.inf] for row in rows]
    return [title_lines(parts or [fixed_text(*row[0])], characters) for parts, row in zip(said, rows, strict=True)]


def told_apart_by(settings: pd.DataFrame) -> list[str]:
    """The columns in which settings differ, without the number of prompts where the others tell all of them apart."""
    varied = [name for name in map(str, settings) if settings[name].nunique() > 1]
    others = [name for name in varied if name != "num_prompts"]
    is_enough = bool(others) and len(settings[others].drop_duplicates()) == len(settings.drop_duplicates())
    return others if is_enough else varied


def title_lines(parts: Sequence[str], characters: int) -> str:
    """The parts with commas between, on lines of at most so many characters where a part is not longer; a capital first."""
    lines = [parts[0][:1].upper() + parts[0][1:]]
    for part in parts[1:]:
        joined = f"{lines[-1]}, {part}"
        lines[-1:] = [joined] if len(joined) < characters else [f"{lines[-1]},", part]
    return "\n".join(lines)


def varied_dimensions(among: Sequence[Panel]) -> frozenset[str]:
    """The dimensions in whose fixed values the panels differ."""
    values: dict[str, set[float | str]] = {}
    for panel in among:
        for name, value in panel.fixed:
            values.setdefault(name, set()).add(value)
    return frozenset(name for name, some in values.items() if len(some) > 1)


def fixed_text(name: str, value: float | str, *, brief: bool = False) -> str:
    """`output 256 tokens`, `2 requests/s`, `at most 16 in flight`, `1024 prompts`; a load in its own words."""
    if isinstance(value, str):
        return value
    if brief and name in ("request_rate", "max_concurrency") and not math.isinf(value):
        return f"{value:g} request{'' if value == 1 else 's'}/s" if name == "request_rate" else f"≤ {value:g} in flight"
    if name == "request_rate":
        return "request rate unbounded" if math.isinf(value) else f"{value:g} request{'' if value == 1 else 's'}/s"
    if name == "max_concurrency":
        return "no bound in flight" if math.isinf(value) else f"at most {value:g} in flight"
    if name == "num_prompts":
        return f"{value:.0f} prompts"
    kind = name.removesuffix("_len")
    return f"{kind} {value:.0f} token{'' if value == 1 else 's'}" if value else f"{kind} as in the data set"
