"""Records written by a small factory in; what load, table, summary and the command line make of them out."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.load.frame import COLUMNS, load
from analysis.report.summary import summary
from analysis.report.table import TABLE_COLUMNS, table
from analysis.stats import repeats
from pdslurm.errors import ResultsError
from pdslurm.records.measurement import METRICS, Measurement, content_key
from pdslurm.records.run_folder import RunFolder

SWEEPS = {(512, 256): ("input", "output"), (1024, 256): ("input",), (512, 512): ("output",)}


def record(
    arm: str = "route_2",
    lengths: tuple[int, int] = (512, 256),
    repeat: int = 0,
    *,
    value: float | None = 100.0,
    rate: float | None = None,
    concurrency: int | None = None,
    sweeps: tuple[str, ...] | None = None,
    prompts: int = 24,
    **changes: Any,
) -> Measurement:
    """A valid record whose every metric is `value`; `changes` are fields of Measurement."""
    name = f"i{lengths[0]}-o{lengths[1]}-r{rate or 'inf'}-c{concurrency or 'inf'}-rep{repeat}"
    point = {
        "id": name,
        "input_len": lengths[0],
        "output_len": lengths[1],
        "request_rate": rate,
        "max_concurrency": concurrency,
        "num_prompts": prompts,
        "repeat": repeat,
        "seed": 1000 + repeat,
        "sweeps": SWEEPS.get(lengths, ("input",)) if sweeps is None else sweeps,
    }
    made = Measurement(
        key=content_key([arm, name, prompts, value]),
        run="demo",
        arm=arm,
        source="measured",
        status="done",
        valid=True,
        invalid_reasons=(),
        point=point,
        arm_info={"disaggregated": arm.startswith("pd"), "gpus": 2},
        started_at=f"2026-03-10T00:00:{repeat:02d}+00:00",
        wall_s=2.0,
        completed=prompts,
        failed=0,
        metrics=dict.fromkeys(METRICS, value),
    )
    return replace(made, **changes)


def failed(arm: str, lengths: tuple[int, int] = (512, 256), repeat: int = 0) -> Measurement:
    error = "client exited with code 1\n  | Traceback"
    return record(arm, lengths, repeat, value=None, status="failed", valid=False, completed=None, failed=None, error=error)


def invalid(arm: str, lengths: tuple[int, int] = (512, 256), repeat: int = 0, value: float = 9e9) -> Measurement:
    return record(arm, lengths, repeat, value=value, valid=False, invalid_reasons=("prefix cache hits", "3 requests failed"))


def write(folder: Path, records: Sequence[Measurement]) -> Path:
    for item in records:
        RunFolder(folder).save(item)
    return folder


def two_arms(values: Mapping[str, Sequence[float]], lengths: tuple[int, int] = (512, 256)) -> list[Measurement]:
    return [record(arm, lengths, i, value=value) for arm, some in values.items() for i, value in enumerate(some)]


def test_load_gives_a_row_for_each_record_with_unknown_as_nan(tmp_path: Path) -> None:
    records = [
        record(concurrency=4, rate=2.5),
        record("pd_1p1d", repeat=1, value=7.5),
        failed("pd_1p1d"),
        invalid("route_2", (512, 512)),
    ]
    frame = load([write(tmp_path, records)])
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == 4
    by = {(row["arm"], row["repeat"], row["status"], row["output_len"]): row for _, row in frame.iterrows()}
    done = by["pd_1p1d", 1, "done", 256]
    assert (done["mean_ttft_ms"], done["output_throughput_tok_s"], done["gpus"], done["seed"]) == (7.5, 7.5, 2, 1001)
    assert done["disaggregated"] == True  # noqa: E712  numpy's
    assert (done["request_rate"], done["max_concurrency"]) == (math.inf, math.inf)
    assert done["sweeps"] == ("input", "output")
    lost = by["pd_1p1d", 0, "failed", 256]
    assert lost[[*METRICS, "completed", "failed"]].isna().all()
    assert lost["path"].endswith(".failed.json")
    assert frame[frame["max_concurrency"] == 4]["request_rate"].tolist() == [2.5]
    assert by["route_2", 0, "done", 512]["invalid_reasons"] == ("prefix cache hits", "3 requests failed")


def test_load_finds_runs_below_a_folder_and_counts_none_twice(tmp_path: Path) -> None:
    write(tmp_path / "a" / "one", [record()])
    write(tmp_path / "b", [record("pd_1p1d")])
    (tmp_path / "empty").mkdir()
    assert load([tmp_path])["arm"].tolist() == ["route_2", "pd_1p1d"]
    assert len(load([tmp_path, tmp_path / "b", tmp_path / "a" / "one"])) == 2
    write(tmp_path / "copy of b", [record("pd_1p1d")])
    assert len(load([tmp_path])) == 2


@pytest.mark.parametrize(
    ("made", "text"),
    [
        ([], "no such folder; give a run folder (one that holds points/)"),
        (["run/"], "no records; looked for points/*/*.json in it and in every folder below. Is it the run's own folder"),
        (["run/points/arm/"], "no records; looked for"),
        (["run/state.json"], "The run was started but no point has ended yet: see state.json and logs/"),
        (["run"], "a file; give the run folder"),
        (["run/points/arm/x.json"], "x.json: not a record of pdslurm"),
    ],
)
def test_load_says_what_it_looked_for(tmp_path: Path, made: list[str], text: str) -> None:
    for name in made:
        path = tmp_path / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text("{}")
    with pytest.raises(ResultsError) as caught:
        load([tmp_path / "run"])
    assert text in str(caught.value)
    assert str(tmp_path / "run") in str(caught.value)


def test_load_names_a_record_without_its_point(tmp_path: Path) -> None:
    path = RunFolder(write(tmp_path, [record()])).path.glob("points/*/*.json").__next__()
    value = json.loads(path.read_text())
    del value["point"]["input_len"]
    path.write_text(json.dumps(value))
    with pytest.raises(ResultsError, match="point has no 'input_len'; measure it again"):
        load([tmp_path])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((10.0,), (1, 10.0, math.nan, math.nan)),
        ((10.0, 14.0), (2, 12.0, 10.0, 14.0)),
        # s = 2, t(2) = 4.303: 12 ± 4.303 · 2 / √3
        ((10.0, 12.0, 14.0), (3, 12.0, 12 - 4.9687, 12 + 4.9687)),
    ],
)
def test_aggregate(values: tuple[float, ...], expected: tuple[float, ...]) -> None:
    frame = pd.DataFrame({"x": "a", "m": [*values, math.nan]})
    assert repeats.aggregate(frame, "m", ["x"]).iloc[0].tolist()[1:] == pytest.approx(expected, abs=1e-4, nan_ok=True)


def test_judge_leaves_out_failed_invalid_and_superseded(tmp_path: Path) -> None:
    again = record(value=2.0, started_at="2026-03-11")
    judged = repeats.judge(load([write(tmp_path, [record(value=1.0), again, failed("pd"), invalid("pd", repeat=1)])]))
    assert repeats.left_out(judged) == {"failed": 1, "invalid": 1, "superseded": 1}
    assert judged[judged["use"] == "used"]["mean_ttft_ms"].tolist() == [2.0]
    assert repeats.left_out_text(judged) == "3 of 4 measurements left out: 1 failed, 1 invalid, 1 superseded"
    assert repeats.reasons(judged) == {"client exited with code 1": 1, "prefix cache hits": 1, "3 requests failed": 1}


def test_series_of_two_runs_or_sources_are_not_averaged(tmp_path: Path) -> None:
    write(tmp_path / "a", [record(run="a"), record("pd", run="a"), record(value=1.0, run="a", source="simulated")])
    write(tmp_path / "b", [record(run="b")])
    labels = repeats.judge(load([tmp_path]))["series"].tolist()
    assert sorted(labels) == ["pd", "route_2 (simulated)", "route_2 [a]", "route_2 [b]"]


def test_table_has_the_columns_and_inf_for_no_bound(tmp_path: Path) -> None:
    frame = load([write(tmp_path, [record(concurrency=16, rate=0.5), failed("pd"), invalid("pd", repeat=1, value=3.0)])])
    text = table(frame).to_csv(index=False)
    rows = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    assert tuple(rows.columns) == TABLE_COLUMNS
    assert text.startswith(
        "arm,source,input_len,output_len,request_rate,max_concurrency,repeat,seed,valid,completed,failed,output_thr"
    )
    assert rows[["arm", "request_rate", "max_concurrency", "completed", "valid"]].to_numpy().tolist() == [
        ["route_2", "0.5", "16", "24", "True"],
        ["pd", "inf", "inf", "", "False"],
        ["pd", "inf", "inf", "24", "False"],
    ]
    assert rows["mean_ttft_ms"].tolist() == ["100.0", "", "3.0"]
    assert rows["invalid_reasons"].tolist() == ["", "", "prefix cache hits; 3 requests failed"]


@pytest.mark.parametrize(
    ("records", "said", "unsaid"),
    [
        (
            two_arms({"pd": [1.0, 2.0], "route": [5.0, 6.0]}) + two_arms({"pd": [1.0, 5.0], "route": [4.0, 6.0]}, (512, 512)),
            [
                "2 arms at 2 settings",
                "Highest output throughput: route at 2 of 2 (distinguishable from every other arm at 1).",
                "Lowest mean ITL: pd at 2 of 2 (distinguishable from every other arm at 1).",
                "two equal arms at one setting in three",
                "8 of 8 measurements valid. Evidence: 2 repeats per point, measured.",
                "512 pd 2 3.00 [1.00, 5.00]",
                "everywhere: input_len 512, request_rate inf, max_concurrency inf, num_prompts 24",
            ],
            ["not a result"],
        ),
        (
            two_arms({"pd": [1.0], "route": [900.0]}),
            ["route at 1 of 1 (not distinguishable)", "have one repeat"],
            ["ishable from every"],
        ),
        (
            two_arms({"pd": [1.0, 1.1, 1.2], "route": [5.0, 5.1, 5.2]}),
            ["95 % intervals of the means do not overlap", "route at 1 of 1 (distinguishable", "Evidence: 3 repeats per point"],
            ["one setting in three"],
        ),
        ([record("pd")], ["One arm, pd, at 1 setting: nothing to compare it with.", "1 of 1 measurement valid"], ["Highest"]),
        ([record("pd"), record("route", (512, 512))], ["no setting that two of them have a valid measurement of"], ["Highest"]),
        (
            [*two_arms({"pd": [1.0, 2.0], "route": [5.0, 6.0]}), failed("pd", (512, 512)), record("route", (512, 512))],
            ["Not every arm", "pd at 1 of 2", "1 of 6 measurements left out: 1 failed. Reasons: client exited with code 1 (1)."],
            ["Traceback"],
        ),
        ([failed("pd")], ["No valid measurement: there is nothing to compare.", "1 of 1 measurement left out"], ["Highest"]),
        (
            [*two_arms({"pd": [1.0, 2.0], "route": [5.0, 6.0]}), record("pd", value=99.0, source="simulated")],
            ["Highest output throughput: route at 1 of 1", "measured and simulated", "pd (simulated) 1 99.00"],
            [],
        ),
        (
            [record("pd", provenance={"cautions": ["dummy weights", "one host"]}), record("route", arm_info={"gpus": 4})],
            ["dummy weights, one host, arms with different numbers of GPUs (pd 2, route 4)", "it is not a result"],
            [],
        ),
    ],
)
def test_summary(tmp_path: Path, records: list[Measurement], said: list[str], unsaid: list[str]) -> None:
    text = " ".join(summary(load([write(tmp_path, records)])).split())
    assert [part for part in said if part not in text] == [], text
    assert [part for part in unsaid if part in text] == [], text


def test_commands_print_and_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(write(tmp_path / "run", [record()]))
    assert main(["table", run]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["summary", run]) == 0
    assert "One arm" in capsys.readouterr().out
    (tmp_path / "taken").write_text("")
    for argv in (["table", str(tmp_path / "nowhere")], ["figures", run, "--out", str(tmp_path / "taken"), "--jobs", "1"]):
        assert main(argv) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("analysis: ")


def test_a_reader_that_leaves_early_gets_no_traceback(tmp_path: Path) -> None:
    run = write(tmp_path, [record(repeat=i, value=100 / 3) for i in range(400)])  # more than a pipe holds
    command = f"'{sys.executable}' -m analysis table '{run}' | head -n 1"
    # An unbuffered Python drops what a closed pipe does not take, and so would pass without being tested.
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    shell = ["bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)


@pytest.mark.parametrize(
    ("modules", "of_pdslurm"),
    [
        ("analysis.__main__", set()),
        ("analysis.figures.by_workload, analysis.report.summary, analysis.report.table", set()),
        # sizes of models: one set of formulas, of the standard library alone
        ("analysis.seeds.table", {"pdslurm.plan", "pdslurm.plan.model"}),
    ],
)
def test_analysis_imports_nothing_of_the_driver(modules: str, of_pdslurm: set[str]) -> None:
    code = f"import sys, {modules}; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.split()
    )
    assert not loaded & {"hydra", "omegaconf", "submitit", "vllm", "yaml", "rich"}
    allowed = {"pdslurm", "pdslurm.errors"} | of_pdslurm
    assert {name for name in loaded if name.startswith("pdslurm") and not name.startswith("pdslurm.records")} == allowed & loaded
    if modules in ("analysis.__main__", "analysis.seeds.table"):
        assert not loaded & {"pandas", "matplotlib", "numpy"}
