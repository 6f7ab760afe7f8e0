"""Run folders in, one tidy DataFrame out: a row per record (arm × point × repeat), failed and invalid ones too.

An unknown value is NaN, never 0 (of a file or a distribution: None). `transport` is what carried KV, `unknown` where that is not
told, "" where none moves. `withdrawn` is why the run folder was withdrawn, "" where it was not.
`start` is the number of the loading of the arm's engines.
`request_rate` and `max_concurrency` are inf where the
workload sets no bound; a length of 0 is the data set's own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.load import notes, setup, trials, withdrawal
from analysis.load.recheck import UNEXPECTED, Judged, judge_records
from analysis.load.request_files import is_whole
from analysis.load.symptoms import symptoms
from pdslurm.errors import ResultsError
from pdslurm.records.measurement import (
    METRICS,
    SMOKE,
    TTFT_SHARES,
    TTFT_SUMS,
    Measurement,
    is_overloaded,
    is_smoke,
    is_trial,
    is_unsteady,
    ttft_shares,
)
from pdslurm.records.record_file import NoRecord
from pdslurm.records.run_folder import RunFolder

SETTING = ("input_len", "output_len", "request_rate", "max_concurrency", "num_prompts", "load")
TTFT_COLUMNS = tuple(f"ttft_{part}_ms" for part in (*TTFT_SHARES, *TTFT_SUMS))
# itl_bins: an array of (bin, tokens) for pdslurm.records.measurement.BINS_PER_DECADE; the files are there, or None; symptoms: of
# analysis.load.symptoms.
EVIDENCE = ("itl_bins", "requests_file", "timeline_file", "symptoms")
COLUMNS = (
    *("run", "arm", "source", "disaggregated", "gpus", "instances"),
    *SETTING,
    *("sweeps", "start", "repeat", "seed", "status", "valid", "overloaded", "unsteady", "invalid_reasons", "unverified"),
    *("completed", "failed", "stored_valid", "disagrees"),
    *METRICS,
    *TTFT_COLUMNS,
    *("transfer_ms", *EVIDENCE),
    *("transport", "withdrawn"),
    *("error", "key", "started_at", "cautions", "folder", "path"),
    *setup.COLUMNS,
)
NUMBERS = (
    *("gpus", "instances", "request_rate", "max_concurrency", "completed", "failed"),
    *METRICS,
    *TTFT_COLUMNS,
    "transfer_ms",
    *setup.NUMBERS,
)
SAME = ("run", "arm", "key", "status", "started_at")  # two records that agree in these are one
# The same arm, setting, repeat and seed: of two such records in one folder the newest stands.
IDENTITY = ("folder", "arm", "source", *SETTING, "repeat", "seed")
RECORDS = "points/*/*.json"
# Where no run folder is nested, and where walking would be slow.
SKIPPED = frozenset({"raw", "logs", "__pycache__", "node_modules"})


@dataclass(frozen=True)
class RunRecords:
    """A run folder with at least one record."""

    folder: Path
    records: tuple[Path, ...]


def load_runs(runs: Sequence[Path], across: Sequence[str] = (), *, deep: bool = False) -> pd.DataFrame:
    """All records of the run folders (or of folders that contain run folders), in a stable order; columns: COLUMNS.

    A record that is given twice, or lies in a copy of its folder, counts once; one of workload=smoke never does, nor does a trial
    of a setting (analysis.load.trials has those). `deep` compares the raw files, too. What cannot be read is left out, and
    `analysis.load.notes` says so of the frame. Raises ResultsError when a folder is missing or holds no record that can be read,
    or records differ in their model, GPU or engine and `across` does not name that."""
    found = {item.folder.resolve(): item for run in runs for item in find_runs(run)}
    passed: list[NoRecord] = []
    judged = judge_records(((path, item.folder) for item in found.values() for path in item.records), deep=deep, passed=passed)
    results = [each for each in judged if not is_smoke(each.record) and not is_trial(each.record)]
    if judged and not results:
        what = " and trials of settings" if any(is_trial(each.record) for each in judged) else ""
        raise ResultsError(
            f"{', '.join(map(str, runs))}: workload={SMOKE}{what} measures nothing to compare; there are no other records there"
        )
    rows = list(_rows(results, passed))
    if not rows:
        raise ResultsError(f"none of {len(passed)} records can be read: {notes.named([f'{e.path} ({e.why})' for e in passed])}")
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame = frame.astype(dict.fromkeys(NUMBERS, float) | {"valid": bool, "stored_valid": bool})
    frame = frame.assign(withdrawn=_withdrawn(frame))
    frame = frame.drop_duplicates(list(SAME)).reset_index(drop=True)
    setup.refuse_mixed(frame, IDENTITY, across)
    kept = set(frame["path"])
    frame.attrs[notes.NOTES] = notes.notes(
        [each for each in judged if str(each.path) in kept], passed, [item.folder for item in found.values()]
    )
    frame.attrs[trials.TRIALS] = trials.trials(each.record for each in judged if is_trial(each.record))
    return frame


def _rows(judged: Iterable[Judged], passed: list[NoRecord]) -> Iterator[dict[str, Any]]:
    for each in judged:
        try:
            yield row(each)
        except NoRecord as error:
            passed.append(error)
        except UNEXPECTED as error:
            passed.append(NoRecord(each.path, f"it holds what is not expected there: {type(error).__name__}: {error}"))


def _withdrawn(frame: pd.DataFrame) -> pd.Series[str]:
    """Why each record's run folder was withdrawn, or a copy of the record's."""
    reasons = {folder: found.why for folder in frame["folder"].unique() if (found := withdrawal.of_folder(Path(folder)))}
    said = frame["folder"].map(lambda folder: reasons.get(folder, ""))
    return said.groupby([frame[name] for name in SAME]).transform("max") if reasons else said


def only(frame: pd.DataFrame, text: str) -> pd.DataFrame:
    """The records of some arm or setting, given as `input_len=512,arm=route_4`. Raises ResultsError for another column, or when
    none is left."""
    kept = pd.Series(True, index=frame.index)
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in ("arm", *SETTING):
            raise ResultsError(f"only={text}: {name!r} cannot be chosen by; use {', '.join(('arm', *SETTING))}, as input_len=512")
        kept &= frame[name] == (value if name in ("arm", "load") else _number(value))
    if not kept.any():
        raise ResultsError(f"only={text}: none of {len(frame)} records; `python -m analysis table RUN` lists their settings")
    return frame[kept].reset_index(drop=True)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")  # equals nothing


def find_runs(run: Path) -> tuple[RunRecords, ...]:
    """The run folders with records at `run` or below it. Raises ResultsError when there is none."""
    if not run.exists():
        raise ResultsError(f"{run}: no such folder; give a run folder (one that holds points/) or a folder of run folders")
    if not run.is_dir():
        raise ResultsError(f"{run}: a file; give the run folder that holds points/, or a folder of run folders")
    found = tuple(_walk(run))
    if not found:
        raise ResultsError(f"{run}: no records; looked for {RECORDS} in it and in every folder below. {_advice(run)}")
    return found


def one_run(path: Path) -> RunRecords:
    """The one run folder at `path` or below it. Raises ResultsError when there is none, or more than one."""
    found = find_runs(path)
    if len(found) > 1:
        raise ResultsError(f"{path}: holds {len(found)} runs; give one run's folder, such as {found[0].folder}")
    return found[0]


def _walk(run: Path) -> Iterator[RunRecords]:
    for place, folders, _ in os.walk(run):
        if "points" in folders and (records := RunFolder(Path(place)).record_files()):
            yield RunRecords(Path(place), tuple(records))
            folders.clear()
        folders[:] = sorted(name for name in folders if name not in SKIPPED and not name.startswith("."))


def _advice(run: Path) -> str:
    if (run / "state.json").is_file() or (run / "plan.json").is_file():
        return "The run was started but no point has ended yet: see state.json and logs/ there, or start the run again"
    return "Is it the run's own folder, or the folder that holds the runs (usually runs/)?"


def row(judged: Judged) -> dict[str, Any]:
    """One row of the frame. Raises NoRecord when the record lacks a part of its point."""
    record, path, folder = judged.record, judged.path, judged.folder
    point = record.point
    try:
        setting = {name: point[name] for name in SETTING if name != "load"} | {"load": point.get("load", "random")}
        identity = {
            "start": point.get("start", 0),
            "repeat": point["repeat"],
            "seed": point["seed"],
            "sweeps": tuple(point["sweeps"]),
        }
    except KeyError as error:
        raise NoRecord(path, f"its point has no {error}; measure it again with this version of pdslurm") from error
    for bound in ("request_rate", "max_concurrency"):
        setting[bound] = float("inf") if setting[bound] is None else setting[bound]
    cells = {
        **_described(record),
        **setting,
        **identity,
        **{name: record.metrics.get(name) for name in METRICS},
        **_ttft_parts(record),
        **_evidence(record, folder),
        "stored_valid": judged.stored_valid,
        "disagrees": judged.disagrees,
        "unverified": judged.unverified,
        **setup.columns(record, folder),
        "folder": str(folder),
        "path": str(path),
    }
    return cells | {name: None if cells[name] is None else float(cells[name]) for name in NUMBERS}


def _described(record: Measurement) -> Mapping[str, Any]:
    names = ("run", "arm", "source", "status", "valid", "invalid_reasons", "completed", "failed", "error", "key", "started_at")
    return {
        **{name: getattr(record, name) for name in names},
        "overloaded": is_overloaded(record),
        "unsteady": is_unsteady(record),
        "disaggregated": record.arm_info.get("disaggregated"),
        "gpus": record.arm_info.get("gpus"),
        "instances": record.arm_info.get("instances"),
        "cautions": tuple(record.provenance.get("cautions") or ()),
        "transport": transport_text(record),
    }


def transport_text(record: Measurement) -> str:
    """`cuda_ipc (shm)`: the transports that carried KV and their kinds. `unknown` where the record does not tell, or not of every
    engine that fetched KV; empty for an arm in which no KV moves."""
    told = record.telemetry.get("transport") or {}
    ways = [way for some in (told.get("engines") or {}).values() for way in some or ()]
    lanes = [lane for way in ways for lane in way.get("lanes") or ()]
    names = dict.fromkeys(lane if lane.startswith("libfabric/") else lane.partition("/")[0] for lane in lanes)
    if told.get("kinds"):
        kinds = ", ".join(told["kinds"])
        return f"{', '.join(names)} ({kinds})" if names else kinds
    return "unknown" if record.arm_info.get("disaggregated") else ""


def _ttft_parts(record: Measurement) -> Mapping[str, Any]:
    """The parts of the TTFT, and the mean time of a KV transfer: the part of that name or, where the record has no parts, NIXL's
    time by its transfers."""
    parts = ttft_shares(record.telemetry)
    columns = {name: parts.get(name.removeprefix("ttft_")) for name in TTFT_COLUMNS}
    totals = record.telemetry.get("totals") or {}
    transfers, time_s = totals.get("nixl_transfers"), totals.get("nixl_transfer_time_s")
    counted = 1000 * time_s / transfers if transfers and time_s is not None else None
    part = columns["ttft_transfer_ms"]
    return {**columns, "transfer_ms": counted if part is None else part}


def _evidence(record: Measurement, folder: Path) -> Mapping[str, Any]:
    bins = record.distributions.get("itl_ms")
    files = {what: RunFolder(folder).beside_raw(record, what) for what in ("requests", "timeline")}
    return {
        "itl_bins": np.array(sorted((int(i), n) for i, n in bins.items()), dtype=np.int64) if bins else None,
        "requests_file": str(files["requests"]) if files["requests"].is_file() else None,
        "timeline_file": str(files["timeline"]) if is_whole(files["timeline"]) else None,
        "symptoms": symptoms(record),
    }
