"""Exported files as their readers take them: CSV, and llm-d's benchmark reports through that format's own validator."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from analysis.__main__ import main
from analysis.load.provenance import Provenance, option_texts
from analysis.report.export import benchmark_report
from pdslurm.records.measurement import Measurement
from pdslurm.records.whole_file import write_json
from tests.unit.analysis.records_made import failed, invalid, record, write

ENGINE = {"kind": "engine", "set": "s", "node": 0, "host": "n0", "env": {"X": "1"}, "gpus": list(range(8))}
PREFILL = {**ENGINE, "name": "engine0", "role": "prefill", "roles": {"pd_1p1d": "prefill"}, "port": 8000}
DECODE = {**ENGINE, "name": "engine1", "role": "decode", "roles": {"pd_1p1d": "decode"}, "port": 8001}
DP = ["--tensor-parallel-size", "4", "--data-parallel-size", "4", "--data-parallel-size-local", "2"]
PLAN = {
    "sets": [{"name": "s", "arms": ["pd_1p1d"], "gpus": 24}],
    "processes": [
        {**PREFILL, "argv": ["vllm", "serve", "m", "--tensor-parallel-size", "8", "--enable-expert-parallel"]},
        {**DECODE, "argv": ["vllm", "serve", "m", *DP]},
        {**DECODE, "name": "engine1-part1", "port": None, "argv": []},
        {"kind": "router", "name": "router", "role": "router", "arm": "pd_1p1d", "argv": ["vllm-router"], "port": 8002},
        {**ENGINE, "name": "engine0", "set": "other", "role": "both", "roles": {"route_2": "both"}, "port": 8000, "argv": []},
        {"kind": "client", "name": "client", "role": "client", "argv": []},
    ],
}
PROVENANCE = {
    "versions": {"vllm": "0.32.0", "vllm-router": "0.1.17"},
    "bench_args": ["--dataset-name", "random", "--seed", "7"],
    "client": {"total_input_tokens": 24 * 500, "total_output_tokens": 24 * 256},
    "cautions": ["dummy weights"],
}


def made(**changes: Any) -> Measurement:
    more = {"provenance": PROVENANCE, "arm_info": {"gpus": 24, "model": "m", "cluster": "c", "disaggregated": True}, "value": 12.5}
    return record("pd_1p1d", **{**more, **changes})


def written(**changes: Any) -> Measurement:
    """`made` without the client's result, which would have to agree with the metrics to be valid."""
    return made(provenance={**PROVENANCE, "client": {}}, **changes)


def run_of(folder: Path) -> Provenance:
    write_json(folder / "plan.json", PLAN)
    (folder / "config.yaml").write_text("cluster: {gpu: H100-80GB}\n")
    return Provenance(folder)


def test_a_report_says_who_served_what_load_and_what_came_out(tmp_path: Path) -> None:
    report = benchmark_report(made(concurrency=16, rate=2.5), run_of(tmp_path))
    prefill, decode, router = report["scenario"]["stack"]
    assert [c["metadata"]["label"] for c in (prefill, decode, router)] == ["engine0", "engine1", "router"]
    assert prefill["standardized"]["role"] == "prefill"
    assert prefill["standardized"]["accelerator"]["parallelism"] == {
        "tp": 8,
        "dp": 1,
        "pp": 1,
        "dp_local": 1,
        "ep": 8,
        "workers": 1,
    }
    assert decode["standardized"]["accelerator"] == {
        "model": "H100-80GB", "count": 16, "parallelism": {"tp": 4, "dp": 4, "pp": 1, "dp_local": 2, "ep": 1, "workers": 2},
    }  # fmt: skip
    assert router["standardized"]["tool_version"] == "0.1.17"
    assert prefill["native"]["args"]["--enable-expert-parallel"] == ""
    load = report["scenario"]["load"]["standardized"]
    assert (load["rate_qps"], load["concurrency"], load["source"]) == (2.5, 16, "random")
    assert load["input_seq_len"] == {"distribution": "fixed", "value": 512}
    result = report["results"]["request_performance"]["aggregate"]
    lengths = {"input_length": {"units": "count", "mean": 500.0}, "output_length": {"units": "count", "mean": 256.0}}
    assert result["requests"] == {"total": 24, "failures": 0, **lengths}
    assert result["latency"]["time_to_first_token"] == {
        "units": "ms", "mean": 12.5, "stddev": 12.5, "p50": 12.5, "p90": 12.5, "p95": 12.5, "p99": 12.5,
    }  # fmt: skip
    assert result["throughput"]["output_token_rate"] == {"units": "tokens/s", "mean": 12.5}
    assert "dummy weights" in report["run"]["description"]


def test_what_is_not_known_is_left_out_and_never_zero(tmp_path: Path) -> None:
    report = benchmark_report(made(value=None, provenance={}, completed=None, failed=None), Provenance(tmp_path))
    assert "stack" not in report["scenario"]
    assert report["results"]["request_performance"]["aggregate"] == {"requests": {"total": 24}, "latency": {}, "throughput": {}}
    assert report["scenario"]["load"]["standardized"]["concurrency"] == math.inf
    assert "rate_qps" not in report["scenario"]["load"]["standardized"]


def test_lengths_of_a_data_set_are_those_that_were_seen(tmp_path: Path) -> None:
    report = benchmark_report(
        made(lengths=(0, 0), provenance={**PROVENANCE, "bench_args": ["--dataset-name", "sharegpt"]}), Provenance(tmp_path)
    )
    load = report["scenario"]["load"]["standardized"]
    assert (load["source"], load["input_seq_len"]) == ("sampled", {"distribution": "other", "value": 500.0})


def test_the_formats_own_validator_takes_every_exported_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    validator = pytest.importorskip(
        "llmd_benchmark_report", reason="llmd-benchmark-report is not installed: pip install -e '.[dev]'"
    )
    run_of(tmp_path / "run")
    items = [written(repeat=i, rate=rate, concurrency=c) for i, (rate, c) in enumerate([(None, None), (2.5, None), (None, 4)])]
    write(tmp_path / "run", [*items, record("route_2", value=None), failed("pd_1p1d", repeat=7), invalid("pd_1p1d", repeat=8)])
    assert main(["export", str(tmp_path / "run"), "--format", "llmd-benchmark-report", "--out", str(tmp_path / "out")]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert len(paths) == 4
    uids = set()
    for path in paths:
        report = validator.import_benchmark_report(str(path))
        assert (report.version, report.scenario.load.standardized.tool) == ("0.2.1", "vllm-benchmark")
        uids.add(report.run.uid)
        # The validator forbids unknown fields, so that it is worth asking: one more is refused.
        with pytest.raises(ValueError, match="extra_forbidden"):
            validator.load_benchmark_report({**yaml.safe_load(path.read_text()), "more": 1})
    assert len(uids) == 4


def test_csv_has_a_line_for_each_record(tmp_path: Path) -> None:
    write(tmp_path / "run", [made(), failed("route_2")])
    assert main(["export", str(tmp_path / "run"), "--format", "csv", "--out", str(tmp_path / "out")]) == 0
    assert pd.read_csv(tmp_path / "out" / "measurements.csv")["status"].tolist() == ["done", "failed"]


@pytest.mark.parametrize(
    ("out", "message"), [("file/x", "choose another --out"), ("out", "nothing to export: 0 valid of 0 tried; left out: 1 failed")]
)
def test_what_cannot_be_exported_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    write(tmp_path / "run", [failed("a") if out == "out" else written()])
    assert main(["export", str(tmp_path / "run"), "--format", "llmd-benchmark-report", "--out", str(tmp_path / out)]) == 2
    assert message in capsys.readouterr().err


def test_options_of_a_command_line() -> None:
    argv = ["vllm", "serve", "m", "--a", "1", "--b", "--c=2", "--d", "x", "y", "--d", "z", "--n", "-1"]
    assert option_texts(argv) == {"--a": "1", "--b": "", "--c": "2", "--d": "x y z", "--n": "-1"}
    assert json.dumps(option_texts(argv))
