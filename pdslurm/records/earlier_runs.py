"""The folder of all runs in; out comes what loads and points of the same cluster and model took, for a plan's estimate.

Reads only, and passes over whatever is broken: an estimate may miss a run, and must not fail."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pdslurm.records.gpu_time import loads_of, measuring_s
from pdslurm.records.measurement import Measurement, is_smoke
from pdslurm.records.record_file import NoRecord, load_record
from pdslurm.records.run_folder import RunFolder

MOST_FOLDERS = 200  # of which one record is read to see whether cluster and model are the same
MOST_RUNS = 5  # of those that are, the newest
MOST_RECORDS = 200  # of each
MOST_POINTS = 100  # of what a point takes beside its measuring, the newest


@dataclass(frozen=True)
class ArmShape:
    """The role of each instance, and how many GPUs each has."""

    roles: tuple[str, ...]
    gpus_each: float


@dataclass(frozen=True)
class LoadSeen:
    arm: ArmShape
    load_s: float


@dataclass(frozen=True)
class PointTime:
    """A point that was measured; fields as those of pdslurm.plan.points.Point."""

    arm: ArmShape
    input_len: int
    output_len: int
    request_rate: float | None
    max_concurrency: int | None
    num_prompts: int
    duration_s: float | None
    load: str
    measuring_s: float

    @property
    def is_work(self) -> bool:
        """Whether it took as long as its requests did, and not as long as their arrivals: with known lengths and nothing paced."""
        is_plain = self.load == "random" and self.input_len > 0 and self.num_prompts > 0
        return is_plain and self.request_rate is None and self.duration_s is None


@dataclass(frozen=True)
class EarlierRuns:
    """Nothing, where there is no such run."""

    runs: tuple[str, ...] = ()  # folders, the newest first
    loads: tuple[LoadSeen, ...] = ()
    points: tuple[PointTime, ...] = ()
    beside_s: tuple[float, ...] = ()  # what each of the newest points took beside its measuring


NO_RUNS = EarlierRuns()


def earlier_runs(root: Path, cluster: str, model: str, own: Path | None = None) -> EarlierRuns:
    """What the newest runs under `root` of this cluster and model took, and before them the run in `own`, which goes on."""
    others = [folder for folder in _newest(root) if own is None or folder.resolve() != own.resolve()]
    found = [folder for folder in (*filter(None, [own]), *others) if _is_of(folder, cluster, model)][:MOST_RUNS]
    loads: list[LoadSeen] = []
    records: list[Measurement] = []
    for folder in found:
        with suppress(OSError):
            mine = [r for r in _records(folder) if r.status == "done" and measuring_s(r) > 0 and not is_smoke(r)]
            records += sorted(mine, key=lambda record: record.started_at, reverse=True)
            loads += _loads(folder, mine)
    return EarlierRuns(
        tuple(str(folder) for folder in found),
        tuple(loads),
        tuple(_point_time(record) for record in records),
        tuple(max(record.wall_s - measuring_s(record), 0.0) for record in records[:MOST_POINTS]),
    )


def _newest(root: Path) -> list[Path]:
    """Folders that may be runs, the newest first."""
    with suppress(OSError):
        with os.scandir(root) as entries:
            dated = [(entry.stat().st_mtime, entry.path) for entry in entries if entry.is_dir()]
        return [Path(path) for _, path in heapq.nlargest(MOST_FOLDERS, dated)]
    return []


def _is_of(folder: Path, cluster: str, model: str) -> bool:
    with suppress(OSError):
        first = next(_read(folder.glob("points/*/*.json")), None)
        return first is not None and (first.arm_info.get("cluster"), first.arm_info.get("model")) == (cluster, model)
    return False


def _records(folder: Path) -> Iterator[Measurement]:
    """At most MOST_RECORDS, evenly from all arms."""
    files = RunFolder(folder).record_files()
    return _read(files[:: -(-len(files) // MOST_RECORDS) or 1])


def _read(paths: Iterable[Path]) -> Iterator[Measurement]:
    for path in paths:
        with suppress(NoRecord):
            yield load_record(path)


def _loads(folder: Path, records: list[Measurement]) -> Iterator[LoadSeen]:
    """Each load by the arms that it measured."""
    loads = loads_of(RunFolder(folder), records)
    for n, load in enumerate(loads):
        end = loads[n + 1].ready_at.isoformat() if n + 1 < len(loads) else "9"
        arms = {_arm_of(record) for record in records if load.ready_at.isoformat() <= record.started_at < end}
        yield from (LoadSeen(arm, load.load_s) for arm in sorted(arms, key=str))


def _arm_of(record: Measurement) -> ArmShape:
    roles, gpus = tuple(record.arm_info.get("roles") or ()), record.arm_info.get("gpus") or 0
    return ArmShape(roles, gpus / max(len(roles), 1))


def _point_time(record: Measurement) -> PointTime:
    point = record.point
    return PointTime(
        _arm_of(record), point.get("input_len", 0), point.get("output_len", 0), point.get("request_rate"),
        point.get("max_concurrency"), point.get("num_prompts", 0), point.get("duration_s"), point.get("load", "random"),
        measuring_s(record),
    )  # fmt: skip
