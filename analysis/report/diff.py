"""Two run folders in, text out: what differs between them in configuration, versions, command lines and results.

Results are compared where both runs have valid measurements of the same arm at the same setting: as the ratio of the second run to
the first over their starts, by the criterion that every other answer uses (analysis.stats.inference)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.load import notes
from analysis.load.frame import SETTING, load_runs, one_run
from analysis.load.provenance import Provenance, option_texts
from analysis.report.columns import aligned
from analysis.report.summary import cell_text, number_text
from analysis.stats import repeats
from analysis.stats.inference import BETTER, INTEREST, ONE_START, SAME, WORSE, Score, compare, of_repeats, ratio_text
from analysis.stats.sweeps import interest_of
from analysis.stats.verdict import SAME_WITHIN, with_interest
from pdslurm.records.command_line import options

METRICS = {
    "output_throughput_tok_s": "output tok/s",
    "mean_ttft_ms": "mean TTFT ms",
    "mean_tpot_ms": "mean TPOT ms",
    "mean_itl_ms": "mean ITL ms (between chunks)",
    "p99_ttft_ms": "p99 TTFT ms",
}
PLACE = ("run_dir", "run_root")  # where a run lies
MOMENT = ("code.command", "host.shm_free", "host.free", "started_at", "sessions")  # of the machine when it began
# What a node or a free port decides, in command lines and environments.
PLACES = frozenset(
    {"--host", "--port", "--prometheus-host", "--prometheus-port", "--data-parallel-address", "--data-parallel-rpc-port"}
    | {"--master-addr", "--master-port", "VLLM_HOST_IP", "VLLM_NIXL_SIDE_CHANNEL_HOST", "VLLM_NIXL_SIDE_CHANNEL_PORT"}
)
LONGEST = 300  # characters of a value; what is longer is cut


DIFFERS, WITHIN_A_START = "differs", "one start each: cannot be told"
WORDS = {BETTER: DIFFERS, WORSE: DIFFERS, SAME: SAME_WITHIN, ONE_START: WITHIN_A_START}


def diff(first: Path, second: Path, *, strict: bool = False) -> str:
    """The whole text. Raises ResultsError when a path is not exactly one run's folder. `strict`: what is unverified is invalid."""
    a, b = (Provenance(one_run(path).folder) for path in (first, second))
    frames = [load_runs([run.path]) for run in (a, b)]
    for frame in frames:
        notes.say(frame)
    out = [f"{name}: {run.path}{_withdrawn(frame)}" for name, run, frame in zip("AB", (a, b), frames, strict=True)]
    for heading, found in (
        ("configuration (config.yaml)", between(a.config, b.config, skipped=PLACE)),
        ("versions, host and code (versions.json)", between(a.versions, b.versions, skipped=MOMENT)),
        ("command lines (plan.json), without hosts and ports", _commands(a, b)),
    ):
        out += [
            "",
            f"{heading}: {'the same' if found == [] else ''}".rstrip()
            if found is not None
            else f"{heading}: unknown: {_missing(a, b)}",
        ]
        out += [f"  {line}" for line in found or ()]
    judged = [repeats.strict(frame) if strict else frame for frame in frames]
    interest = min(map(interest_of, frames))
    return "\n".join([*out, "", *results(*judged, interest=interest), ""])


def _withdrawn(frame: pd.DataFrame) -> str:
    said = repeats.withdrawn_text(frame)
    return f"  {said}" if said else ""


def _missing(a: Provenance, b: Provenance) -> str:
    return f"a file is missing in {a.path if len(a.present()) <= len(b.present()) else b.path}"


# --- what was set


def between(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None, *, skipped: Sequence[str] = ()) -> list[str] | None:
    """`a.b: 1 | 2` for each value that differs, by its path; None where a side is not known."""
    if a is None or b is None:
        return None
    left, right = flat(a), flat(b)
    keys = [key for key in dict.fromkeys((*left, *right)) if not any(f"{key}.".startswith(f"{name}.") for name in skipped)]
    absent = object()
    return [f"{key}: {_shown(left, key)} | {_shown(right, key)}" for key in keys if left.get(key, absent) != right.get(key, absent)]


def _shown(values: Mapping[str, Any], key: str) -> str:
    text = " ".join(str(values[key]).split()) if key in values else "(not there)"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def flat(value: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted paths; lists are values."""
    out: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            out |= flat(inner, f"{path}{key}.")
        else:
            out[f"{path}{key}"] = inner
    return out


# --- what was run


def _commands(a: Provenance, b: Provenance) -> list[str] | None:
    if a.plan is None or b.plan is None:
        return None
    left, right = arms_of(a.plan), arms_of(b.plan)
    out = [
        f"arm {arm}: only in {'A' if arm in left else 'B'}"
        for arm in dict.fromkeys((*left, *right))
        if not (arm in left and arm in right)
    ]
    for arm in left:
        if arm in right:
            out += _grouped(arm, left[arm], right[arm])
    return out


def arms_of(plan: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, str]]]:
    """Arm → process → its options, variables and place in words, as far as no host or port decides them."""
    out: dict[str, dict[str, Mapping[str, str]]] = {arm: {} for group in plan.get("sets", []) for arm in group["arms"]}
    for process in plan.get("processes", []):
        arms = process.get("roles") or ({process["arm"]: process["role"]} if "arm" in process else {})
        for arm, role in arms.items():
            out.setdefault(arm, {})[process["name"]] = {"role": role, **words_of(process)}
    return out


def words_of(process: Mapping[str, Any]) -> dict[str, str]:
    argv = [re.sub(r"https?://[^\s\"']+", "URL", str(word)) for word in process.get("argv", [])]
    program = next((option.words for option in options(argv) if not option.name), ())
    values = {"command": " ".join(program), **option_texts(argv)}
    values |= {str(name): str(value) for name, value in process.get("env", {}).items()}
    values["GPUs"] = str(len(process.get("gpus", [])))
    return {name: value for name, value in values.items() if name not in PLACES}


def _grouped(arm: str, left: Mapping[str, Mapping[str, str]], right: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """One line for each thing that differs, with the processes that it differs in."""
    lines: dict[str, list[str]] = {}
    for name in dict.fromkeys((*left, *right)):
        if name in left and name in right:
            for line in between(left[name], right[name]) or ():
                lines.setdefault(line, []).append(name)
        else:
            lines.setdefault(f"process only in {'A' if name in left else 'B'}", []).append(name)
    for line, names in lines.items():
        yield f"{arm} ({', '.join(names) if len(names) <= 4 else f'{len(names)} processes'}): {line}"


# --- what came out


def results(first: pd.DataFrame, second: pd.DataFrame, *, interest: float = INTEREST) -> list[str]:
    """A table of both means and their ratio for each arm, setting and metric that both runs have. `interest`: the smallest
    difference that matters; where the runs name different ones, the smaller."""
    a, b = (_samples(frame) for frame in (first, second))
    shared = [key for key in a if key in b]
    only = [f"{len([k for k in some if k not in other])} only in {name}" for name, some, other in (("A", a, b), ("B", b, a))]
    head = f"results: {len(shared)} arms at settings in both, {', '.join(only)}"
    if not shared:
        return [f"{head}; nothing to compare"]
    varied = [i for i, _ in enumerate(SETTING) if len({key[1:][i] for key in shared}) > 1] or [0, 1]
    cells = [["arm", *(SETTING[i] for i in varied), "", "A", "starts", "B", "starts", "B/A", ""]]
    verdicts = []
    for key in sorted(shared, key=str):
        for metric, words in METRICS.items():
            x, y = a[key].get(metric), b[key].get(metric)
            if not x or not y:
                continue
            found = compare({"B": scores(y)}, {"A": scores(x)}, interest=interest)
            assert found
            verdicts.append(with_interest(WORDS.get(found.outcome, "cannot be told"), interest))
            setting = [cell_text(key[1:][i]) for i in varied]
            numbers = [number_text(mean(x)), str(len(x)), number_text(mean(y)), str(len(y)), ratio_text(found)]
            cells.append([str(key[0]), *setting, words, *numbers, verdicts[-1]])
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in dict.fromkeys(verdicts))
    chance = f"of {len(verdicts)} ratios {len(verdicts) / 20:.1g} would seem to differ by chance alone"
    return [f"{head}; {counts} (95 % intervals: {chance})", *_directions(cells, place=1 + len(varied)), *aligned(cells, left=0)]


def _directions(cells: Sequence[Sequence[str]], *, place: int) -> Iterator[str]:
    """How often B lies above A: single ratios that cannot be told from noise may still all point one way."""
    for words in METRICS.values():
        ratios = [float(row[place + 5].split()[0]) for row in cells[1:] if row[place] == words]
        if ratios:
            yield f"  {words}: B above A at {sum(ratio > 1 for ratio in ratios)} of {len(ratios)}"


Starts = dict[int, list[float]]  # a start's number → the values of its repeats


def _samples(frame: pd.DataFrame) -> dict[tuple[Any, ...], dict[str, Starts]]:
    """(arm, setting…) → metric → its values in each start; of numbers above 0 alone, for they are compared as ratios."""
    judged = repeats.judge(frame)
    out: dict[tuple[Any, ...], dict[str, Starts]] = {}
    for row in judged[judged["use"] == "used"].to_dict("records"):
        values = out.setdefault((row["arm"], *(row[name] for name in SETTING)), {})
        for metric in METRICS:
            if row[metric] > 0:
                values.setdefault(metric, {}).setdefault(row["start"], []).append(float(row[metric]))
    return out


def scores(starts: Starts) -> list[Score]:
    return [of_repeats([math.log(value) for value in values]) for values in starts.values()]


def mean(starts: Starts) -> float:
    """Over all repeats."""
    values = [value for some in starts.values() for value in some]
    return sum(values) / len(values)
