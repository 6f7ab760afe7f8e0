"""What arms differ in though their topologies do not force it, in sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.load.frame import load_runs
from analysis.report.summary import summary
from analysis.stats import repeats
from analysis.stats.findings import findings
from pdslurm.records.measurement import METRICS, Measurement
from tests.unit.analysis.records_made import record, write

RESULTS = Path(__file__).parents[4] / "results"


def made(arm: str, *, held: float | None = None, error: float | None = None, **gpu: Any) -> Measurement:
    """On one GPU, 100 s long, with a TTFT of 500 ms. `held`: seconds of the power cap; `error`: ms that no engine saw."""
    state = {"gpu": 0, "slowed_s": None if held is None else {"power cap": held}, **gpu}
    metrics = dict.fromkeys(METRICS, 100.0) | {"mean_ttft_ms": 500.0}
    return record(arm, metrics=metrics, telemetry={"gpus": {"n0": [state]}, "ttft": {"error_ms": error}})


def found(folder: Path, *records: Measurement, across: tuple[str, ...] = ()) -> list[str]:
    return findings(repeats.judge(load_runs([write(folder, records)], across)))


def test_nothing_to_say(tmp_path: Path) -> None:
    assert found(tmp_path, made("route_2"), made("pd_1p1d")) == []


@pytest.mark.parametrize(("other", "apart"), [(55.0, False), (56.0, True)])
def test_the_power_cap(tmp_path: Path, other: float, apart: bool) -> None:
    (said,) = found(tmp_path, made("route_2", held=50.0), made("pd_1p1d", held=other))
    assert "route_2 50%" in said
    assert f"pd_1p1d {other:.0f}%" in said
    assert ("differ by more than 5 percentage points" in said) is apart


def test_energy_is_compared_at_the_settings_that_arms_share(tmp_path: Path) -> None:
    def used(arm: str, joules: float, rate: float) -> Measurement:
        metrics = {"duration_s": 100.0, "output_throughput_tok_s": 50.0}
        looks = [{"gpu": n, "energy_j": joules / 2, "mean_sm_mhz": 1500.0} for n in range(2)]
        return record(arm, rate=rate, metrics=metrics, telemetry={"gpu_use": {"n0": looks}})

    said = found(tmp_path, used("route_2", 10000.0, 4.0), used("pd_1p1d", 12000.0, 4.0), used("pd_1p1d", 90000.0, 8.0))
    assert said[-1].endswith("that these arms share: pd_1p1d 2.4 J at 1500 MHz, route_2 2 J at 1500 MHz")


@pytest.mark.parametrize(("other", "apart"), [(110.0, False), (112.0, True)])
def test_what_router_and_http_add(tmp_path: Path, other: float, apart: bool) -> None:
    """20 % of a TTFT of 500 ms is 100 ms."""
    said = found(tmp_path, made("route_2", error=10.0), made("pd_1p1d", error=other))
    assert len(said) == apart
    assert all("TTFT of pd_1p1d" in text and "102 ms more, of 500 ms, than 10 ms in route_2" in text for text in said)


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ({"power_limit_w": 700.0}, {"power_limit_w": 500.0}, "different power limits: 500 W (pd_1p1d), 700 W (route_2)"),
        ({"driver": "580.1"}, {"driver": "570.2"}, "different drivers: 570.2 (pd_1p1d), 580.1 (route_2)"),
        ({"max_sm_mhz": 1980}, {"max_sm_mhz": 1410}, "different highest clocks: 1410 MHz (pd_1p1d), 1980 MHz (route_2)"),
        ({"numa": "0"}, {"numa": "1"}, "different NUMA nodes: 1 (pd_1p1d), 0 (route_2)"),
        ({"name": "H100"}, {"name": "A100"}, "different GPUs: A100 (pd_1p1d), H100 (route_2)"),
        ({"name": "H100"}, {}, "The GPU of 1 measurement is not known (pd_1p1d)"),
    ],
)
def test_gpus(tmp_path: Path, one: dict[str, Any], other: dict[str, Any], words: str) -> None:
    (said,) = found(tmp_path, made("route_2", **one), made("pd_1p1d", **other), across=("gpu",))
    assert words in said


def test_what_ran_is_a_sentence_of_the_summary(tmp_path: Path) -> None:
    item = {"field": "resolved attention_backend", "values": {"route_2": "FLASH_ATTN", "pd_1p1d": "FLASHINFER"}, "why": "slow"}
    differs = [{**item, "explained": None}, {**item, "field": "gpus", "explained": "meant"}]
    write(tmp_path, [made("route_2"), made("pd_1p1d")])
    (tmp_path / "fairness.json").write_text(json.dumps({"differs": differs, "forced": [], "same": {}}))
    said = findings(repeats.judge(load_runs([tmp_path])))
    assert said == [
        "The arms differ in what no topology forces, unexplained: resolved attention_backend: FLASH_ATTN (route_2), "
        "FLASHINFER (pd_1p1d)",
        "The arms differ in gpus, which the configuration explains",
    ]
    assert all(text in " ".join(summary(load_runs([tmp_path])).split()) for text in said)


def test_the_published_run_on_two_h100s() -> None:
    """The decode instance never meets its power cap, the others nearly always do."""
    (said,) = findings(repeats.judge(load_runs([RESULTS / "h100x2" / "should_i"])))
    assert "pd_1p1d 48%, route_2 95%; at 3 of 3 settings" in said
