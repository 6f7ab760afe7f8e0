"""Loaded records in, a paragraph and a small table of text out: which arm was ahead where, and what that is worth."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.load import notes, slo
from analysis.load.frame import SETTING
from analysis.report import tuning
from analysis.report.columns import aligned
from analysis.report.gpu_time_table import gpu_time_table
from analysis.stats import repeats, suggestion
from analysis.stats.diagnosis import diagnoses, doubts
from analysis.stats.findings import findings
from analysis.stats.inference import BETTER, INTEREST, compare
from analysis.stats.repeats import comparable
from analysis.stats.slo_grid import own_mark
from analysis.stats.slo_map import answer_of_sweeps, mappable
from analysis.stats.sweeps import Sweep, arm_capacities, as_frame, capacity_text, interest_of, load_text, slo_of, sweeps_of
from analysis.stats.verdict import Measure, decide_capacity, decisions_of, scores_of, verdict

WIDTH = 100
KEYS = ("series", *SETTING)
MOST_REASONS = 3
MOST_CHANGED = 3  # records named whose stored verdict differs from today's


@dataclass(frozen=True)
class Criterion:
    """One column of the verdict: what is compared, in whose words, and whether the largest value is the best."""

    metric: str
    best: str
    heading: str
    largest: bool

    @property
    def measure(self) -> Measure:
        return Measure(self.metric, self.heading, "", largest=self.largest)


CRITERIA = (
    Criterion("output_throughput_tok_s", "highest output throughput", "output tok/s", largest=True),
    Criterion("mean_ttft_ms", "lowest mean TTFT", "mean TTFT ms", largest=False),
    Criterion("mean_tpot_ms", "lowest mean TPOT", "mean TPOT ms", largest=False),
    Criterion("mean_itl_ms", "lowest mean ITL, the gap between two chunks", "mean ITL ms", largest=False),
)


def summary(frame: pd.DataFrame) -> str:
    """The whole text, wrapped to WIDTH but for the tables."""
    filled = [textwrap.fill(p, WIDTH, break_long_words=False, break_on_hyphens=False) for p in paragraphs(frame)]
    return "\n\n".join([*filled, *tables(frame)]) + "\n"


def tables(frame: pd.DataFrame) -> list[str]:
    """What was measured at each setting, and what the time of the GPUs went to; those that have a row."""
    judged = repeats.judge(frame)
    used = judged[judged["use"] == "used"]
    made = [table_text(used) if len(used) else "", gpu_time_table([Path(folder) for folder in sorted(judged["folder"].unique())])]
    return [table.rstrip("\n") for table in made if table]


def paragraphs(frame: pd.DataFrame) -> list[str]:
    """The text above the tables, a line a paragraph."""
    judged = repeats.judge(frame)
    used = judged[judged["use"] == "used"]
    known, interest = slo_of(judged), interest_of(judged)
    sweeps = sweeps_of(judged) if known else ()
    decisions = decide_capacity(sweeps, *known, interest=interest) if known else ()
    by_arm = capacity_sentences(judged, used, sweeps) if sweeps else ranking(comparable(used), interest=interest)
    gone = repeats.withdrawn_text(judged)
    by_slo = slo_sentences(sweeps, *known, interest=interest) if known else []
    answer = verdict(comparable(used), decisions, interest=interest)
    found = diagnoses(judged)
    if answer:
        answer += doubts(judged, found, decisions_of(comparable(used), decisions, interest=interest))
    ill = [each.sentence for each in found]
    tuned = tuning.sentences(judged)
    said = ([f"{gone}."] if gone else [], answer, tuned, ill, by_slo, by_arm, evidence(judged, used))
    return [text for sentences in said if (text := " ".join(sentences))]


def capacity_sentences(judged: pd.DataFrame, used: pd.DataFrame, sweeps: Sequence[Sweep]) -> list[str]:
    """Sentences on a rate sweep: the capacity of each arm, which ratio was suggested, what it costs."""
    folders = sorted(judged["folder"].unique())
    known = slo_of(judged)
    assert known
    bounds, share = known
    capacities = arm_capacities(sweeps, bounds, share)
    rates = as_frame(capacities)
    price = slo.scalar_of_runs(folders, "budget", "price_per_gpu_hour")
    currency = slo.scalar_of_runs(folders, "budget", "currency") or ""
    return [
        *capacity_text(capacities),
        *suggestion.suggestion_text(used, capacities, slo=bounds, share=share, interest=interest_of(judged)),
        *suggestion.cost_text(rates, float(price) if price else None, currency),
    ]


def slo_sentences(sweeps: Sequence[Sweep], bounds: slo.Slo, share: float, *, interest: float = INTEREST) -> list[str]:
    """Sentences for the run's bound on TTFT and every bound on TPOT, of each load that has a map; none without such a bound."""
    loads = mappable(sweeps) if "ttft_ms" in bounds else {}
    said = []
    for load, mine in loads.items():
        said += [f"{load_text(load)}:"] if len(loads) > 1 else []
        said += answer_of_sweeps(mine, share, bounds["ttft_ms"], marked=own_mark(bounds, share), interest=interest)
    others = ", ".join(name for name in bounds if name not in ("ttft_ms", "tpot_ms"))
    return [*said, f"These sentences leave out the run's limit on {others}."] if said and others else said


def ranking(used: pd.DataFrame, *, interest: float = INTEREST) -> list[str]:
    """Sentences on which arm was best at how many settings, for each criterion. `interest`: the smallest difference that
    matters."""
    if used.empty:
        return ["No valid measurement: there is nothing to compare."]
    arms = used["series"].nunique()
    settings = used.groupby(list(SETTING))["series"].nunique()
    if arms == 1:
        return [f"One arm, {used['series'].iloc[0]}, at {repeats.plural(len(settings), 'setting')}: nothing to compare it with."]
    shared = int((settings > 1).sum())
    if not shared:
        return [f"{arms} arms, but no setting that two of them have a valid measurement of: nothing can be compared."]
    sentences = [f"{arms} arms at {repeats.plural(len(settings), 'setting')}."]
    if (settings < arms).any():
        sentences.append(f"Not every arm has a valid measurement of every setting: {_missing(used, len(settings))}.")
    telling = {criterion: repeats.telling(used, criterion.metric) for criterion in CRITERIA}
    sentences += [text for criterion, rows in telling.items() if (text := winners(rows, criterion, interest=interest))]
    return [*sentences, *([repeats.OFFERED] if (used["request_rate"] < math.inf).any() else []), grounds(used, interest)]


def _missing(used: pd.DataFrame, settings: int) -> str:
    have = used.drop_duplicates(list(KEYS)).groupby("series").size()
    return ", ".join(f"{label} at {count} of {settings}" for label, count in have.items() if count < settings)


def winners(used: pd.DataFrame, criterion: Criterion, *, interest: float = INTEREST) -> str:
    """`Lowest mean TTFT: pd_1p3d at 7 of 8 (better than every other arm at 5), route_4 at 1.` Empty where nothing of `used` may be
    ranked by it."""
    if used.empty:
        return ""
    best = leaders(used, criterion, interest=interest)
    if best.empty:
        return f"No {criterion.metric} to compare."
    parts: list[str] = []
    counts = best.groupby("series")["apart"].agg(["size", "sum"]).sort_values(["size", "sum"], ascending=False, kind="stable")
    for label, (wins, apart) in zip(counts.index, counts.itertuples(index=False), strict=True):
        worth = f" (better than every other arm at {apart})" if apart else " (better at none)"
        parts.append(f"{label} at {wins}{'' if parts else f' of {len(best)}'}{worth}")
    return f"{criterion.best[0].upper()}{criterion.best[1:]}: {', '.join(parts)}."


def leaders(used: pd.DataFrame, criterion: Criterion, *, interest: float = INTEREST) -> pd.DataFrame:
    """For each setting that two arms or more have: the series with the best mean, and whether it is better than all others."""
    rows = []
    for setting, mine in used.groupby(list(SETTING)):
        arms = scores_of(mine, criterion.measure)
        if len(arms) < 2:
            continue
        first = max(sorted(arms), key=lambda arm: sum(score.value for score in arms[arm]) / len(arms[arm]))
        others = {arm: scores for arm, scores in arms.items() if arm != first}
        found = compare({first: arms[first]}, others, interest=interest)
        rows.append((*setting, first, found is not None and found.outcome == BETTER))
    return pd.DataFrame(rows, columns=[*SETTING, "series", "apart"])


def grounds(used: pd.DataFrame, interest: float = INTEREST) -> str:
    """What `better` stands on."""
    if int(used.groupby(list(KEYS))["start"].nunique().max()) == 1:
        return (
            "Each arm was started once, so that no arm is called better: another start may differ. Measure with workload.starts=3 "
            "before you rely on it."
        )
    better = "Better means that the 95 % interval of the ratio over starts excludes equality."
    return f"{better} Arms that surely differ by less than {100 * interest:g} % are called the same, and none of them better."


def evidence(judged: pd.DataFrame, used: pd.DataFrame) -> list[str]:
    """Sentences on what the numbers stand on: valid measurements, repeats, source and cautions."""
    sentences = [f"{repeats.left_out_text(judged)}.", *(f"{note[0].upper()}{note[1:]}." for note in notes.sentences(judged))]
    if len(used) < len(judged):
        reasons = repeats.reasons(judged)
        said = [f"{reason} ({count})" for reason, count in list(reasons.items())[:MOST_REASONS]]
        sentences += [f"Reasons: {'; '.join(said)}{'; …' if len(reasons) > MOST_REASONS else ''}."] if said else []
    sentences += changed_text(judged)
    basis = [repeats.repeats_text(repeats.units(used, KEYS))] if len(used) else []
    sources = sorted(judged["source"].unique())
    basis += [" and ".join(sources) + (" (the first sentences compare what was measured)" if len(sources) > 1 else "")]
    basis += [text for text in [repeats.transport_text(judged)] if text] + list(repeats.cautions(judged))
    worth = " — this shows that the machinery works; it is not a result" if is_machinery_test(judged) else ""
    return [*sentences, f"Evidence: {', '.join(basis)}{worth}.", *(f"{finding}." for finding in findings(judged))]


def changed_text(judged: pd.DataFrame) -> list[str]:
    """A sentence that names the records whose stored verdict today's rules do not share; none where all agree."""
    changed = judged[judged["disagrees"] != ""]
    each = [
        f"{row.arm} {Path(str(row.path)).name} ({str(row.disagrees).partition(': ')[0]})"
        for row in changed.head(MOST_CHANGED).itertuples()
    ]
    more = f"; {len(changed) - MOST_CHANGED} more" if len(changed) > MOST_CHANGED else ""
    return [f"Judged otherwise today than in its file: {'; '.join(each)}{more}."] if each else []


def is_machinery_test(judged: pd.DataFrame) -> bool:
    """Whether the run's own cautions say that it was no measurement of a real model."""
    return any("dummy" in caution.lower() for caution in repeats.cautions(judged))


def table_text(used: pd.DataFrame) -> str:
    """A row for each setting and arm: mean over repeats, and its interval in brackets. What never varies is said above."""
    varied = [name for name in SETTING if used[name].nunique() > 1]
    order = [*(varied or SETTING[:2]), "series"]
    units = repeats.units(used, KEYS)
    unit, rows = repeats.plurals(units), units.rename("n").reset_index().sort_values(order, kind="stable")
    for criterion in CRITERIA:
        means = repeats.aggregate(used, criterion.metric, KEYS)
        means[criterion.heading] = [spread_text(*row) for row in means[["mean", "low", "high"]].itertuples(index=False)]
        rows = rows.merge(means[[*KEYS, criterion.heading]], how="left", on=list(KEYS))
    shown = rows[[*varied, "series", "n", *(c.heading for c in CRITERIA)]].rename(columns={"series": "arm", "n": unit})
    cells = [list(map(str, shown.columns)), *([cell_text(cell) for cell in row] for row in shown.itertuples(index=False))]
    fixed = ", ".join(f"{name} {cell_text(used[name].iloc[0])}" for name in SETTING if name not in varied)
    above = f"mean over {unit} [95 % t interval from 3 {unit} on]\n{repeats.ITL_IS}"
    return "\n".join([above, *([f"everywhere: {fixed}"] if fixed else []), *aligned(cells, left=len(varied)), ""])


def spread_text(mean: float, low: float, high: float) -> str:
    """`15,451 [15,300, 15,602]`, or the mean alone where its spread is not known."""
    return number_text(mean) if pd.isna(low) else f"{number_text(mean)} [{number_text(low)}, {number_text(high)}]"


def number_text(value: float) -> str:
    """Four digits at least, never an exponent."""
    decimals = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 4
    return f"{value:,.{decimals}f}"


def cell_text(cell: object) -> str:
    """Text for a cell: `-` for what is not known."""
    if isinstance(cell, str):
        return cell
    return "-" if pd.isna(cell) else f"{cell:g}"  # type: ignore[call-overload]
