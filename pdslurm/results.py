"""The one shape of a result: one JSON record per arm, point and repeat, and the folder of a run that holds them.

Standard library only: `analysis` imports this module and, for models' sizes, model.py, and nothing else of pdslurm. An unknown
measurement is None, never 0."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pdslurm.errors import ResultsError

SCHEMA_VERSION = 2  # 1 had no checks and no distributions; such a record is read as one that has none
READABLE = (1, SCHEMA_VERSION)
# What `vllm bench serve` reports, under our names with units. Each latency has mean, std, p50, p90, p95, p99.
LATENCIES = ("ttft", "tpot", "itl", "e2el")
STATISTICS = ("mean", "std", "p50", "p90", "p95", "p99")
THROUGHPUTS = {
    "request_throughput_per_s": "request_throughput",
    "output_throughput_tok_s": "output_throughput",
    "total_throughput_tok_s": "total_token_throughput",
    "duration_s": "duration",
}


# The columns of requests_path's file, a line for each request in the order of their start; ok is 1 or 0, what is unknown is empty.
# start_s counts from the first request of the point; tpot_ms is (e2el - ttft) / (output_len - 1).
REQUEST_COLUMNS = ("start_s", "input_len", "output_len", "ttft_ms", "tpot_ms", "itl_max_ms", "e2el_ms", "ok")
# The columns of timeline_path's file, a line for each look at an engine; t_s counts from the same moment, what is counted from the
# point's beginning.
TIMELINE_COLUMNS = ("t_s", "engine", "role", "running", "waiting", "prompt_tokens", "generation_tokens", "nixl_bytes")
INVALID = tuple("invalid" if n == 1 else f"invalid-{n}" for n in range(1, 100))  # the ends of records that were tried again
BINS_PER_DECADE = 50  # of a distribution: bin i holds what lies from 10**(i/50) to 10**((i+1)/50), 4.7 % wide

METRICS = (*THROUGHPUTS, *(f"{stat}_{what}_ms" for what in LATENCIES for stat in STATISTICS))


@dataclass(frozen=True)
class Check:
    """One question that a measurement has to answer before it may be used. `ok` is None where nothing could be known of it."""

    name: str
    ok: bool | None
    said: str  # what was found, in words; of a check that is not ok the reason why the measurement must not be used
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """One repeat of one point on one arm, done or failed. The fields are the keys of the JSON record."""

    key: str  # content key: a hash of everything that could change the number
    run: str
    arm: str
    source: str  # measured or simulated
    status: str  # done or failed
    valid: bool
    invalid_reasons: tuple[str, ...]
    point: Mapping[str, Any]  # input_len, output_len, request_rate, max_concurrency, num_prompts, repeat, seed, sweeps, id, …
    arm_info: Mapping[str, Any]  # disaggregated, gpus, instances, roles, nodes
    started_at: str  # ISO 8601, UTC
    wall_s: float  # of the whole point
    completed: int | None = None
    failed: int | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)  # see metrics_of
    telemetry: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)  # bench_args, versions key, raw file
    error: str | None = None
    checks: tuple[Check, ...] = ()
    distributions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # itl_ms: bin → tokens; see BINS_PER_DECADE
    schema_version: int = SCHEMA_VERSION


def metrics_of(client: Mapping[str, Any]) -> dict[str, float | None]:
    """Means and percentiles by our names (`mean_ttft_ms`, `p99_itl_ms`, `output_throughput_tok_s`, …) from the client's result.
    With no request completed every one of them is None, and so is a latency of zero (one output token has no ITL): the client
    writes zeros then."""
    none_done = not client.get("completed")
    values: dict[str, float | None] = {ours: client.get(theirs) for ours, theirs in THROUGHPUTS.items()}
    for what in LATENCIES:
        known = bool(client.get(f"mean_{what}_ms"))
        values |= {f"{stat}_{what}_ms": client.get(f"{stat}_{what}_ms") if known else None for stat in STATISTICS}
    return dict.fromkeys(values) if none_done else values


def content_key(material: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(material, sort_keys=True, default=str).encode()).hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """Writes under a temporary name and renames, so that a file that exists is whole. Raises ResultsError when it cannot."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, default=str)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError, UnboundLocalError):
            temporary.unlink()
        raise ResultsError(
            f"cannot write {path}: {error.strerror or error}; free space or fix permissions, then run again"
        ) from error


def is_overloaded(record: Measurement) -> bool:
    """Whether the one thing wrong with a measurement is that more requests arrived than were served: no number to be shown, for it
    depends on how long one looks, but an answer to whether the rate is held."""
    wrong = [check for check in record.checks if check.ok is False]
    return record.status == "done" and bool(wrong) and all(check.evidence.get("holds_rate") is False for check in wrong)


def is_unsteady(record: Measurement) -> bool:
    """Whether the one thing wrong with a measurement is that it was over before a steady state was reached. Its queues began empty,
    so its latencies are below those of a longer one: an SLO that was missed there is missed, and one that was kept says nothing."""
    wrong = [check.name for check in record.checks if check.ok is False]
    return record.status == "done" and wrong == ["steady_state"]


@dataclass(frozen=True)
class RunFolder:
    """The files of one run:

    config.yaml        the resolved configuration
    plan.json          sets, processes, points as bound to this machine's hosts and ports
    fairness.json      differs: what arms differ in though no topology forces it, each {field, values: arm → words, why, explained};
                       forced: the same of what one forces; same: {field: words}, everything where there is one arm
    versions.json      engine, NIXL, router, driver, host, git commit
    state.json         running, done, failed or interrupted; times; what stopped it
    events.jsonl       what the driver did, when
    points/ARM/*.json  one record per point and repeat (ends in .failed.json, .invalid.json, .invalid-2.json if it is)
    raw/ARM/*.json.gz  the client's whole result, with the time of every token
    raw/ARM/*.requests.csv.gz and *.timeline.csv.gz: a line for each request, and for each look at an engine (REQUEST_COLUMNS, …)
    logs/SET/*.log     one log a process
    """

    path: Path

    def record_path(self, arm: str, point_id: str, key: str, *, kind: str = "") -> Path:
        """`kind`: failed, invalid or invalid-2, …; empty for a valid one."""
        return self.path / "points" / arm / f"{point_id}-{key}{kind and '.'}{kind}.json"

    def raw_name(self, arm: str, point_id: str, key: str) -> str:
        """What the files behind the next measurement of this point are called, below the run's folder and without their ends: those
        behind its invalid ones stay."""
        number = self._tries(arm, point_id, key) + 1
        return f"raw/{arm}/{point_id}-{key}{'' if number == 1 else f'-{number}'}"

    def _tries(self, arm: str, point_id: str, key: str) -> int:
        """How many invalid records there are."""
        kept = (self.record_path(arm, point_id, key, kind=kind).is_file() for kind in INVALID)
        return sum(1 for _ in itertools.takewhile(bool, kept))

    def requests_path(self, arm: str, point_id: str, key: str) -> Path:
        """Of the next measurement of this point; a record's own is `beside_raw`."""
        return self.path / f"{self.raw_name(arm, point_id, key)}.requests.csv.gz"

    def timeline_path(self, arm: str, point_id: str, key: str) -> Path:
        return self.path / f"{self.raw_name(arm, point_id, key)}.timeline.csv.gz"

    def beside_raw(self, record: Measurement, what: str) -> Path:
        """The file with a record's `requests` or `timeline`, whether it exists or not."""
        raw = record.provenance.get("raw") or f"raw/{record.arm}/{record.point.get('id')}-{record.key}.json.gz"
        return self.path / f"{raw.removesuffix('.json.gz')}.{what}.csv.gz"

    def save(self, measurement: Measurement) -> Path:
        """Writes one record; raw data must be there before: a record that exists has everything behind it. A later
        measurement takes the place of a failed one; none takes that of an invalid one."""
        which = measurement.arm, measurement.point["id"], measurement.key
        kinds = [""]
        if measurement.status == "failed":
            kinds = ["failed"]
        elif not measurement.valid:
            kinds = [INVALID[self._tries(*which)]]
        path = self.record_path(*which, kind=kinds[0])
        write_json(path, asdict(measurement))
        if measurement.status != "failed":
            self.record_path(*which, kind="failed").unlink(missing_ok=True)
        return path

    def is_done(self, arm: str, point_id: str, key: str) -> bool:
        """Whether there is a valid record."""
        return self.record_path(arm, point_id, key).is_file()

    def records(self) -> Iterator[Measurement]:
        """Every record in the folder, failed and invalid ones too, in a stable order. Raises ResultsError for an unreadable one."""
        for path in sorted(self.path.glob("points/*/*.json")):
            yield load_record(path)


def load_record(path: Path) -> Measurement:
    """Reads one record. Raises ResultsError naming the file when it is no record of a schema this version knows."""
    try:
        value = json.loads(path.read_text())
        version = value.pop("schema_version")
        if version not in READABLE:
            known = f"{READABLE[0]} to {READABLE[-1]}"
            raise ResultsError(f"{path}: schema_version={version}, this pdslurm reads {known}; use the version that wrote it")
        value["invalid_reasons"] = tuple(value["invalid_reasons"])
        value["checks"] = tuple(Check(**check) for check in value.get("checks", ()))
        return Measurement(**value)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{path}: not a record of pdslurm ({type(error).__name__}: {error})") from error
