"""Loaded records in, files for other programs out: CSV, or the format of llm-d's benchmark reports, one file for each measurement.

That format (PyPI's llmd-benchmark-report, schema 0.2.1) describes one measurement: who served, with which load, what came out.
Failed and invalid measurements are not exported as reports: there they would lose what says that they must not be used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from analysis.load.frame import SETTING
from analysis.load.provenance import Provenance, option_texts
from analysis.report.csv_table import to_csv
from analysis.stats import repeats
from pdslurm.errors import ResultsError
from pdslurm.records.measurement import STATISTICS, Measurement, content_key
from pdslurm.records.record_file import load_record
from pdslurm.records.whole_file import write_text

ADVICE = "choose another --out"
FORMATS = ("csv", "llmd-benchmark-report")
SCHEMA = "0.2.1"
ROLES = {"prefill": "prefill", "decode": "decode"}  # any other is what they call a replica
LATENCIES = {  # theirs → ours and the unit
    "time_to_first_token": ("ttft", "ms"), "time_per_output_token": ("tpot", "ms/token"),
    "inter_token_latency": ("itl", "ms/token"), "request_latency": ("e2el", "ms"),
}  # fmt: skip
RATES = {
    "output_token_rate": ("output_throughput_tok_s", "tokens/s"), "total_token_rate": ("total_throughput_tok_s", "tokens/s"),
    "request_rate": ("request_throughput_per_s", "queries/s"),
}  # fmt: skip


def export(frame: pd.DataFrame, kind: str, out: Path) -> list[Path]:
    """Writes measurements.csv, or RUN/ARM/POINT-KEY.yaml for each valid measurement. Raises ResultsError when it cannot."""
    if kind == "csv":
        return [write_text(out / "measurements.csv", to_csv(frame), advice=ADVICE)]
    judged = repeats.judge(frame)
    runs = {folder: Provenance(Path(folder)) for folder in judged["folder"].unique()}
    paths = []
    for row in judged[judged["use"] == "used"].itertuples():
        record = load_record(Path(str(row.path)))
        value = benchmark_report(record, runs[row.folder], str(row.withdrawn))
        name = out / record.run / record.arm / f"{record.point['id']}-{record.key}.yaml"
        paths.append(write_text(name, yaml.safe_dump(value, sort_keys=False, allow_unicode=True), advice=ADVICE))
    if not paths:
        raise ResultsError(f"nothing to export: {repeats.left_out_text(judged)}")
    return paths


def benchmark_report(record: Measurement, run: Provenance, withdrawn: str = "") -> dict[str, Any]:
    """One measurement in schema 0.2.1; what is not known is left out. `withdrawn`: why its run was withdrawn, empty if not."""
    began = datetime.fromisoformat(record.started_at)
    ended = began + timedelta(seconds=record.wall_s)
    aggregate = {"requests": requests(record), "latency": latency(record), "throughput": rates(record)}
    info, cautions = record.arm_info, record.provenance.get("cautions") or []
    gone = f"WITHDRAWN, not to be relied on: {withdrawn}; " if withdrawn else ""
    limits = f"; limits of the evidence: {'; '.join(cautions)}" if cautions else ""
    value = {
        "version": SCHEMA,
        "run": {
            "uid": content_key([record.run, record.arm, record.key, record.started_at]),
            "eid": record.run,
            "cid": info.get("cluster"),
            "time": {"start": began.isoformat(), "end": ended.isoformat(), "duration": f"PT{record.wall_s}S"},
            "description": f"{gone}{info.get('model', 'unknown model')}, arm {record.arm}, {record.source} by pdslurm{limits}",
            "keywords": ["pdslurm", record.source, record.arm, *(["withdrawn"] if withdrawn else [])],
        },
        "scenario": {"stack": stack(record, run) or None, "load": load_section(record)},
        "results": {"request_performance": {"aggregate": aggregate}},
    }  # fmt: skip
    return dict(without_none(value))


def without_none(value: Any) -> Any:
    """Without None, at any depth."""
    if isinstance(value, Mapping):
        return {key: without_none(inner) for key, inner in value.items() if inner is not None}
    return [without_none(item) for item in value] if isinstance(value, list) else value


# --- who served


def stack(record: Measurement, run: Provenance) -> list[dict[str, Any]]:
    """Each engine of the arm with all its parts, then its routers, from plan.json."""
    processes = (run.plan or {}).get("processes", [])
    engines = [p for p in processes if p["kind"] == "engine" and record.arm in (p.get("roles") or {})]
    out = []
    for head in (p for p in engines if p.get("port") is not None):
        parts = [p for p in engines if p.get("set") == head.get("set") and p["name"].partition("-part")[0] == head["name"]]
        out.append(component(head, engine(head, parts, record, run)))
    for router in (p for p in processes if p["kind"] == "router" and p.get("arm") == record.arm):
        tool = {"kind": "generic", "tool": "vllm-router", "tool_version": version(record, "vllm-router"), "kind_draft": "router"}
        out.append(component(router, tool))
    return out


def component(process: Mapping[str, Any], standardized: Mapping[str, Any]) -> dict[str, Any]:
    argv, env = list(process.get("argv", [])), dict(process.get("env", {}))
    return {
        "metadata": {"label": process["name"], "cfg_id": content_key([argv, env])},
        "standardized": dict(standardized),
        "native": {"args": {"command": " ".join(map(str, argv)), **option_texts(argv)}, "envars": env},
    }


def engine(head: Mapping[str, Any], parts: Sequence[Mapping[str, Any]], record: Measurement, run: Provenance) -> dict[str, Any]:
    """vLLM's own defaults are 1 for every kind of parallelism; with expert parallel it spans TP × DP."""
    said = option_texts(head.get("argv", []))
    tp, dp, pp = (int(said.get(f"--{name}-parallel-size", 1)) for name in ("tensor", "data", "pipeline"))
    gpu = ((run.config or {}).get("cluster") or {}).get("gpu")
    return {
        "kind": "inference_engine",
        "tool": "vllm",
        "tool_version": version(record, "vllm"),
        "role": ROLES.get(head["roles"][record.arm], "replica"),
        "replicas": 1,
        "model": {"name": str(record.arm_info.get("model", "unknown"))},
        "accelerator": {
            "model": str(gpu or "unknown"),
            "count": sum(len(part.get("gpus", [])) for part in parts),
            "parallelism": {
                "tp": tp, "dp": dp, "pp": pp, "dp_local": int(said.get("--data-parallel-size-local", dp)),
                "ep": tp * dp if "--enable-expert-parallel" in said else 1, "workers": len(parts),
            },
        },
    }  # fmt: skip


def version(record: Measurement, name: str) -> str:
    return str((record.provenance.get("versions") or {}).get(name) or "unknown")


# --- with which load, and what came out


def load_section(record: Measurement) -> dict[str, Any]:
    point, client = record.point, record.provenance.get("client") or {}
    args = option_texts(record.provenance.get("bench_args") or [])
    random = point.get("load", args.get("--dataset-name", "random")) == "random"
    setting = {name: point.get(name) for name in (*SETTING, "load")}
    return {
        "metadata": {
            "cfg_id": content_key(setting),
            "description": f"point {point['id']}, repeat {point['repeat']}, seed {point['seed']}",
        },
        "standardized": {
            "tool": "vllm-benchmark",
            "tool_version": version(record, "vllm"),
            "source": "random" if random else "sampled",
            "input_seq_len": length(point["input_len"], mean_tokens(client, "input", record)),
            "output_seq_len": length(point["output_len"], mean_tokens(client, "output", record)),
            "rate_qps": point.get("request_rate"),
            "concurrency": point.get("max_concurrency") or math.inf,
        },
        "native": {"args": args},
    }


def length(ordered: int, mean: float | None) -> dict[str, Any]:
    """A point's length is 0 where the data set decides it: then the mean of what was seen."""
    return {"distribution": "fixed", "value": ordered} if ordered else {"distribution": "other", "value": mean or 0}


def mean_tokens(client: Mapping[str, Any], which: str, record: Measurement) -> float | None:
    total = client.get(f"total_{which}_tokens")
    return total / record.completed if total and record.completed else None


def requests(record: Measurement) -> dict[str, Any]:
    client = record.provenance.get("client") or {}
    seen = {f"{which}_length": mean_tokens(client, which, record) for which in ("input", "output")}
    lengths = {name: {"units": "count", "mean": value} for name, value in seen.items() if value is not None}
    return {"total": record.point["num_prompts"], "failures": record.failed, **lengths}


def latency(record: Measurement) -> dict[str, Any]:
    out = {}
    for theirs, (ours, units) in LATENCIES.items():
        values = {"stddev" if stat == "std" else stat: record.metrics.get(f"{stat}_{ours}_ms") for stat in STATISTICS}
        if values["mean"] is not None:
            out[theirs] = {"units": units, **values}
    return out


def rates(record: Measurement) -> dict[str, Any]:
    values = {theirs: (record.metrics.get(ours), units) for theirs, (ours, units) in RATES.items()}
    return {theirs: {"units": units, "mean": mean} for theirs, (mean, units) in values.items() if mean is not None}
