"""Records' timeline files in, what each instance did over time out: prefill, decode and KV bytes by second, requests that wait."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.load.frame import SETTING
from analysis.stats.repeats import evenly_spaced
from pdslurm.errors import ResultsError
from pdslurm.records.measurement import TIMELINE_COLUMNS

MOST_STEPS = 300  # of a drawn line: about as many as a printed figure's width can show
RATES = {"prefill_tok_s": "prompt_tokens", "decode_tok_s": "generation_tokens", "kv_bytes_s": "nixl_bytes"}
ACTIVITY = ("series", "engine", "role", "start_s", "end_s", *RATES, "waiting")
# What a role's counters count that is not its work: a decode instance counts the prompts whose KV it fetched as prompt tokens, and
# a prefill instance generates the one token with which a prefill ends.
NOT_ITS_WORK = {"decode": ("prefill_tok_s",), "prefill": ("decode_tok_s",)}


def records_to_show(judged: pd.DataFrame, most: int) -> pd.DataFrame:
    """The records to look at: one for each series (at most so many) at one setting, the one that most of them have a timeline of;
    of several one whose requests arrive at a rate, and then the one with most requests in flight."""
    have = judged[(judged["use"] == "used") & judged["timeline_file"].notna()]
    if have.empty:
        return have
    # Little's law: as many are in flight as come in the time that one takes.
    crowded = have.assign(in_flight=have["request_throughput_per_s"] * have["mean_e2el_ms"], paced=have["request_rate"] < np.inf)
    order = ["series", "paced", "in_flight"]
    counted = {"series": ("series", "nunique"), "paced": ("paced", "max"), "in_flight": ("in_flight", "mean")}
    settings = crowded.groupby(list(SETTING)).agg(**counted).reset_index()
    best = settings.sort_values(order, ascending=False, kind="stable").head(1)[list(SETTING)]
    mine = have.reset_index().merge(best, on=list(SETTING)).set_index("index")
    once = mine.sort_values(["series", "repeat"], kind="stable").drop_duplicates("series")
    return once.iloc[evenly_spaced(range(len(once)), most)]


def activity(records: pd.DataFrame) -> pd.DataFrame:
    """Columns ACTIVITY of some records' timelines: what each instance did between two looks, unknown as NaN."""
    files = zip(records.get("timeline_file", ()), records.get("series", ()), strict=True)
    parts = [activity_of(read(Path(path))).assign(series=label) for path, label in files]
    return pd.concat(parts)[list(ACTIVITY)].reset_index(drop=True) if parts else pd.DataFrame(columns=list(ACTIVITY))


def read(path: Path) -> pd.DataFrame:
    """TIMELINE_COLUMNS of one file. Raises ResultsError naming the file when it is none of pdslurm's."""
    try:
        table = pd.read_csv(path)
    except (OSError, EOFError, ValueError) as error:
        raise ResultsError(f"{path}: not a timeline ({type(error).__name__}: {error})") from error
    if missing := set(TIMELINE_COLUMNS) - set(table.columns):
        raise ResultsError(f"{path}: has no column {sorted(missing)[0]}; a timeline has {', '.join(TIMELINE_COLUMNS)}")
    return table[list(TIMELINE_COLUMNS)]


def activity_of(table: pd.DataFrame) -> pd.DataFrame:
    """The rates of one timeline, instance by instance, in at most MOST_STEPS steps each."""
    parts = []
    for (engine, role), samples in table.sort_values("t_s", kind="stable").groupby(["engine", "role"], sort=True):
        samples = samples.drop_duplicates("t_s", keep="last")
        if len(samples) < 2:
            continue
        at = samples["t_s"].to_numpy(dtype=float)
        edges = at if len(at) <= MOST_STEPS + 1 else np.linspace(at[0], at[-1], MOST_STEPS + 1)
        rates = {name: _rate(at, samples[counter].to_numpy(dtype=float), edges) for name, counter in RATES.items()}
        rates |= {name: np.full(len(edges) - 1, np.nan) for name in NOT_ITS_WORK.get(str(role), ())}
        waiting = samples["waiting"].to_numpy(dtype=float)[np.searchsorted(at, edges[1:], side="right") - 1]
        part = pd.DataFrame({"start_s": edges[:-1], "end_s": edges[1:], **rates, "waiting": waiting})
        parts.append(part.assign(engine=str(engine), role=str(role)))
    return pd.concat(parts) if parts else pd.DataFrame(columns=[name for name in ACTIVITY if name != "series"])


def _rate(at: npt.NDArray[np.float64], counted: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A counter's growth by second between the edges; NaN where it is not known or fell (an engine that started anew)."""
    grown = np.diff(np.interp(edges, at, counted)) / np.diff(edges)
    return np.where(grown >= 0, grown, np.nan)
