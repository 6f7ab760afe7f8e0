"""Trials in; sentences and a table on what tuning tried, what it chose and what that changed, out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from analysis.load.trials import Trial, of_frame
from analysis.report.markup import Markup, html_table
from pdslurm.errors import ResultsError
from pdslurm.records.settings import DISAGGREGATED, PLAIN

KIND_WORDS = {PLAIN: "plain", DISAGGREGATED: "P/D"}
MEASURED = {"tpot_ms": "TPOT", "ttft_ms": "TTFT"}
UNTUNED = (
    "No arm was tuned: each ran with the options that it is configured with, and another option may turn the answer. "
    "tune.settings tries some for each kind of arm before arms are compared."
)
HEADING = ["kind", "arm", "setting", "round", "requests/s", "requests", "p90 TPOT, ms", "p90 TTFT, ms", "compared", "wrong with it"]


def sentences(judged: pd.DataFrame) -> list[str]:
    """What tuning chose for each kind of arm; that no arm was tuned where arms of both kinds are compared and none was."""
    found = of_frame(judged)
    if found:
        return [" ".join(_sentences(found, set(judged["arm"])))]
    return [UNTUNED] if judged["disaggregated"].nunique() > 1 else []


def _sentences(found: Sequence[Trial], compared: set[str]) -> Iterator[str]:
    rates = " and ".join(sorted({f"{each.rate:g}" for each in found if each.rate}))
    count = max(len({t.setting for t in found if t.kind == kind}) for kind in KIND_WORDS)
    yield f"Each kind of arm was tuned before, with {count} settings at {rates} requests/s."
    for kind, words in KIND_WORDS.items():
        mine = [each for each in found if each.kind == kind]
        chosen = [each for each in _last(mine) if each.name in compared]
        arms = ", ".join(dict.fromkeys(each.arm for each in mine))
        if chosen:
            yield f"Of the {words} arm ({arms}) these settings are compared: {'; '.join(_said(each, mine) for each in chosen)}."
        elif mine:
            yield f"Which setting of the {words} arm ({arms}) is the best is not known yet."


def _last(trials: Sequence[Trial]) -> list[Trial]:
    """The last trial of each setting."""
    return list({each.name: each for each in sorted(trials, key=lambda each: each.round)}.values())


def _said(chosen: Trial, mine: Sequence[Trial]) -> str:
    """`block_size=128 (p90 TPOT 8.6 ms, as configured 18.4; p90 TTFT 384 ms, as configured 515)`, by the first round, which has
    both."""
    first = {each.name: each for each in mine if each.round == 0}
    ours, configured = first.get(chosen.name, chosen), first.get(chosen.arm)
    parts = []
    for field, words in MEASURED.items():
        value, before = getattr(ours, field), getattr(configured, field) if configured else None
        if value is not None:
            than = f", as configured {before:.3g}" if before is not None and not chosen.is_configured else ""
            parts.append(f"p90 {words} {value:.3g} ms{than}")
    return f"{chosen.setting} ({'; '.join(parts)})" if parts else chosen.setting


def rows(judged: pd.DataFrame) -> list[list[str]]:
    """The cells under HEADING, a row for each trial."""
    compared, found = set(judged["arm"]), of_frame(judged)
    last = {each.name: each.round for each in _last(found)}
    return [
        [
            KIND_WORDS[each.kind],
            each.arm,
            each.setting,
            str(each.round + 1),
            "" if each.rate is None else f"{each.rate:g}",
            str(each.prompts),
            *("" if value is None else f"{value:.1f}" for value in (each.tpot_ms, each.ttft_ms)),
            "yes" if each.name in compared and each.round == last[each.name] else "",
            each.wrong,
        ]
        for each in found
    ]


def section(judged: pd.DataFrame) -> Markup | None:
    """The report's part on tuning; None where no arm was tuned."""
    cells = rows(judged)
    return html_table(HEADING, cells, caption="Every trial of a setting") if cells else None


def text(frame: pd.DataFrame) -> str:
    """The table as text. Raises ResultsError where no arm was tuned."""
    from analysis.report.columns import aligned

    cells = rows(frame)
    if not cells:
        raise ResultsError("no arm was tuned in these runs: there is no trial of a setting; tune.settings=4 makes some")
    return "\n".join([*aligned([HEADING, *cells], left=2), ""])
