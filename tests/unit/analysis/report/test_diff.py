"""Two run folders that differ in something; what `diff` says of it, and Welch's interval against values computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.__main__ import main
from analysis.report.diff import diff, flat, scores
from analysis.stats.inference import BETTER, ONE_START, SAME, UNDECIDED, compare
from pdslurm.errors import ResultsError
from pdslurm.records.measurement import Measurement
from pdslurm.records.whole_file import write_json
from tests.unit.analysis.records_made import failed, record, two_arms, write


def run(folder: Path, records: list[Measurement], config: str = "seed: 0\n", **files: Any) -> Path:
    write(folder, records)
    (folder / "config.yaml").write_text(config)
    for name, value in files.items():
        write_json(folder / f"{name}.json", value)
    return folder


def process(name: str = "engine0", port: int = 8000, host: str = "n0", **more: Any) -> dict[str, Any]:
    argv = ["vllm", "serve", "m", "--host", host, "--port", str(port), *more.pop("argv", ["--max-num-seqs", "64"])]
    env = {"VLLM_HOST_IP": host, "VLLM_NIXL_SIDE_CHANNEL_PORT": str(port + 1), **more.pop("env", {})}
    return {
        "name": name,
        "kind": "engine",
        "set": "a",
        "roles": {"a": "both"},
        "role": "both",
        "port": port,
        "gpus": [0],
        "argv": argv,
        "env": env,
        **more,
    }


def plan(*processes: dict[str, Any]) -> dict[str, Any]:
    router = {
        "name": "router",
        "kind": "router",
        "role": "router",
        "arm": "a",
        "argv": ["vllm-router", "--worker-urls", *(f"http://{p['name']}:{p['port']}" for p in processes)],
    }
    return {"sets": [{"name": "a", "arms": ["a"], "gpus": 1}], "processes": [*processes, router]}


def same(tmp_path: Path, *, first: dict[str, Any], second: dict[str, Any]) -> str:
    records = two_arms({"a": (1.0, 2.0)})
    return diff(run(tmp_path / "a", records, **first), run(tmp_path / "b", records, **second))


def test_hosts_ports_and_places_are_no_difference(tmp_path: Path) -> None:
    one, other = plan(process("engine0", 8000, "n0")), plan(process("engine0", 9000, "n7"))
    text = same(
        tmp_path, first={"plan": one, "config": "{seed: 0, run_dir: x}"}, second={"plan": other, "config": "{seed: 0, run_dir: y}"}
    )
    assert "configuration (config.yaml): the same" in text
    assert "command lines (plan.json), without hosts and ports: the same" in text


def test_what_was_set_differently_is_named_with_both_values(tmp_path: Path) -> None:
    one = plan(*(process(f"engine{n}", 8000 + n) for n in range(2)))
    other = plan(
        *(process(f"engine{n}", 8000 + n, argv=["--max-num-seqs", "128", "--enforce-eager"], env={"X": "1"}) for n in range(3))
    )
    versions = {"engine": {"vllm": "0.31.0"}, "code": {"command": ["x"], "commit": "abc"}, "host": {"free": {"/tmp": 1}}}
    newer = {"engine": {"vllm": "0.32.0"}, "code": {"command": ["y"], "commit": "abc"}, "host": {"free": {"/tmp": 2}}}
    config = "{workload: {repeats: 2, sweeps: {s: {input_len: [1]}}}}"
    text = same(
        tmp_path,
        first={"plan": one, "versions": versions, "config": config},
        second={"plan": other, "versions": newer, "config": config.replace("repeats: 2", "repeats: 3").replace("[1]", "[1, 2]")},
    )
    lines = [line.strip() for line in text.splitlines()]
    assert "workload.repeats: 2 | 3" in lines
    assert "workload.sweeps.s.input_len: [1] | [1, 2]" in lines
    assert "engine.vllm: 0.31.0 | 0.32.0" in lines
    assert not [line for line in lines if line.startswith(("code.", "host."))]
    assert "a (engine0, engine1): --max-num-seqs: 64 | 128" in lines
    assert "a (engine0, engine1): --enforce-eager: (not there) |" in lines
    assert "a (engine0, engine1): X: (not there) | 1" in lines
    assert "a (engine2): process only in B" in lines


def test_arms_and_files_that_one_run_lacks_are_named(tmp_path: Path) -> None:
    other = {"sets": [{"name": "b", "arms": ["b"], "gpus": 1}], "processes": []}
    text = same(tmp_path, first={"plan": plan(process())}, second={"plan": other})
    assert "arm a: only in A" in text
    assert "arm b: only in B" in text
    assert "versions, host and code (versions.json): unknown: a file is missing" in text


def test_results_are_means_with_their_ratio_and_its_interval(tmp_path: Path) -> None:
    first = [
        *two_arms({"a": (10.0, 12.0, 14.0)}, starts=True),
        record("a", (1024, 256), value=5.0),
        record("only", value=1.0),
        failed("a", repeat=9),
    ]
    second = [*two_arms({"a": (20.0, 22.0, 24.0)}, starts=True), record("a", (1024, 256), value=6.0)]
    text = diff(run(tmp_path / "a", first), run(tmp_path / "b", second))
    assert "results: 2 arms at settings in both, 1 only in A, 0 only in B; 5 one start each: cannot be told, 5 differs" in text
    row = next(line for line in text.splitlines() if line.startswith("a  ") and " 512 " in line and "output tok/s" in line)
    # exp of the difference of mean logarithms, 0.6128; variances 0.02837 and 0.00832, which makes 3.080 degrees of freedom:
    # t(0.025, 3.080) = 3.136 times the standard error 0.11058
    assert row.split() == ["a", "512", "output", "tok/s", "12.00", "3", "22.00", "3", "1.85", "[1.3,", "2.61]", "differs"]
    assert "output tok/s: B above A at 2 of 2" in text


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ((1.0, 3.0, 2.0), (1.0, 3.0, 2.0), UNDECIDED),
        ((1.0, 2.0, 3.0), (11.0, 11.0, 11.0), BETTER),
        ((1.0, 1.0, 1.0), (1.0001, 1.0001, 1.0001), SAME),
        ((1.0, 1.0), (2.0, 2.0), BETTER),
        ((1.0,), (2.0,), ONE_START),
    ],
)
def test_one_criterion_tells_whether_runs_differ(first: tuple[float, ...], second: tuple[float, ...], outcome: str) -> None:
    a, b = (dict(enumerate([value] for value in values)) for values in (first, second))
    found = compare({"B": scores(b)}, {"A": scores(a)})
    assert found is not None
    assert found.outcome == outcome
    assert found.low < found.value < found.high or outcome == ONE_START, "no interval has a width of zero"


def test_a_folder_of_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "a", [record()])
    run(tmp_path / "b", [record(value=2.0)])
    with pytest.raises(ResultsError, match="holds 2 runs; give one run's folder, such as "):
        diff(tmp_path, tmp_path / "a")
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out.startswith(f"A: {tmp_path / 'a'}\nB: {tmp_path / 'b'}\n")


def test_nothing_in_common_is_said(tmp_path: Path) -> None:
    text = diff(run(tmp_path / "a", [record("a")]), run(tmp_path / "b", [record("b")]))
    assert "results: 0 arms at settings in both, 1 only in A, 1 only in B; nothing to compare" in text


def test_flat() -> None:
    assert flat({"a": {"b": {"c": 1}, "d": []}, "e": {}}) == {"a.b.c": 1, "a.d": [], "e": {}}
