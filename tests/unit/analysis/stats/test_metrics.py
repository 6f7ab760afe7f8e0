"""Tables of requests, distributions and looks at engines in; goodput, percentiles, fronts, floors, parts and rates out."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.load import request_files, slo
from analysis.load.frame import SETTING, load_runs, only
from analysis.load.request_files import FINE, bins, good_count, reduce
from analysis.stats import metrics, repeats, timeline
from pdslurm.errors import ResultsError
from pdslurm.records.good_requests import is_good, slo_ratio
from pdslurm.records.measurement import REQUEST_COLUMNS, TIMELINE_COLUMNS, Measurement
from tests.synthetic import Arm, Setting, record, write, write_csv
from tests.synthetic import requests as made_up
from tests.unit.analysis.records_made import record as plain
from tests.unit.analysis.records_made import write as save

NAN = math.nan


def columns(**given: list[float]) -> dict[str, Any]:
    n = len(next(iter(given.values())))
    rest = dict.fromkeys(REQUEST_COLUMNS, [NAN] * n) | {"ok": [1.0] * n, "output_len": [8.0] * n}
    return {name: np.array(values, dtype=float) for name, values in (rest | given).items()}


# --- requests


@pytest.mark.parametrize(
    ("given", "bounds", "expected"),
    [
        ({"ttft_ms": [100, 500, 501]}, {"ttft_ms": 500.0}, 2),
        ({"ttft_ms": [100, 500, 501], "tpot_ms": [60, 50, 10]}, {"ttft_ms": 500.0, "tpot_ms": 50.0}, 1),
        ({"ttft_ms": [100, 100, 100], "ok": [1, 0, 1]}, {"ttft_ms": 500.0}, 2),
        ({"ttft_ms": [100, NAN], "ok": [1, 0]}, {"ttft_ms": 500.0}, 1),
        ({"ttft_ms": [100, NAN]}, {"ttft_ms": 500.0}, 1),
        ({"ttft_ms": [NAN, NAN]}, {"ttft_ms": 500.0}, NAN),
        ({"tpot_ms": [NAN, 20], "output_len": [1, 8]}, {"tpot_ms": 50.0}, 2),
        ({"ttft_ms": [100]}, {}, NAN),
    ],
    ids=["a bound is kept at it", "every bound", "a failed one is not good", "of a failed one nothing need be known",
         "what one does not show is not good", "what none shows is not known",
         "one token has no TPOT", "no SLO"],
)  # fmt: skip
def test_good_requests(given: dict[str, list[float]], bounds: slo.Slo, expected: float) -> None:
    table = columns(**given)
    assert good_count(table, bounds) == pytest.approx(expected, nan_ok=True)
    if bounds:  # the driver's rule is the same one
        rows = [
            {name: None if np.isnan(column[i]) else float(column[i]) for name, column in table.items()}
            for i in range(len(table["ok"]))
        ]
        is_known = slo_ratio({**{name: list(table[name]) for name in table}, "start_s": [0.0] * len(rows)}, bounds, 0.5) is not None
        good = sum(is_good(row, bounds) for row in rows) if is_known else NAN
        assert good == pytest.approx(expected, nan_ok=True)


def test_a_request_file_is_read_and_reduced(tmp_path: Path) -> None:
    path = tmp_path / "x.requests.csv.gz"
    write_csv(
        path, REQUEST_COLUMNS, [(0, 64, 8, 10.5, 2, 3, 24.5, 1), (0.5, 64, 8, "", "", "", "", 0), (1, 64, 8, 99, 9, 9, 162, 1)]
    )
    row = reduce(pd.DataFrame({"requests_file": [None, str(path)]}, index=[3, 7]), {"ttft_ms": 50.0}).loc[7]
    assert (row["requests"], row["ok"], row["good"]) == (3, 2, 1)
    assert row["ttft_bins"].tolist() == [[math.floor(FINE * math.log10(v)), 1] for v in (10.5, 99)]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"not gzip", "not a file of requests"),
        (gzip.compress(b"start_s,ok\n1,1\n", mtime=0), "has no column e2el_ms; a file of requests has start_s"),
        (gzip.compress(",".join(REQUEST_COLUMNS).encode() + b"\n1,2,3\n", mtime=0), "not a file of requests"),
        (gzip.compress(",".join(REQUEST_COLUMNS).encode() + b"\n1,2,3,x,5,6,7,1\n", mtime=0), "not a file of requests"),
    ],
)
def test_what_is_no_request_file(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / "bad.csv.gz").write_bytes(data)
    with pytest.raises(ResultsError, match=why) as caught:
        request_files.read(tmp_path / "bad.csv.gz")
    assert "bad.csv.gz" in str(caught.value)


def test_a_request_file_without_a_request(tmp_path: Path) -> None:
    write_csv(tmp_path / "none.csv.gz", REQUEST_COLUMNS, [])
    row = reduce(pd.DataFrame({"requests_file": [str(tmp_path / "none.csv.gz")]}), {"ttft_ms": 1.0}).iloc[0]
    assert (row["requests"], row["good"], row["ttft_bins"]) == (0, 0, None)


# --- SLO


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ttft_ms=500,tpot_ms=50", {"ttft_ms": 500, "tpot_ms": 50}),
        (" e2el_ms = 1e4 ", {"e2el_ms": 10_000}),
        ("itl_max_ms=80", {"itl_max_ms": 80}),
    ],
)
def test_slo_is_read(text: str, expected: dict[str, float]) -> None:
    assert slo.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "ttft=500", "ttft_ms", "ttft_ms=0", "ttft_ms=-1", "ttft_ms=inf", "ttft_ms=nan", "ttft_ms=x", "start_s=3"]
)
def test_what_is_no_slo(text: str) -> None:
    with pytest.raises(ResultsError, match="above 0 for one or more of ttft_ms, tpot_ms, itl_max_ms, e2el_ms, as in ttft_ms=500"):
        slo.parse(text)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("name: a\nslo:\n  ttft_ms: 500.0\n  tpot_ms: null\n  attainment: 0.9\nmodel:\n  tpot_ms: 3\n", {"ttft_ms": 500.0}),
        ("name: a\nworkload:\n  slo:\n    ttft_ms: 5\n", None),
        ("slo: null\nname: a\n", None),
        ("slo:\n  ttft_ms: null\nname: a\n", None),
    ],
)
def test_slo_of_a_run_s_configuration(tmp_path: Path, config: str, expected: dict[str, float] | None) -> None:
    (tmp_path / "config.yaml").write_text(config)
    assert slo.of_runs([str(tmp_path), str(tmp_path / "elsewhere")]) == expected


def test_runs_with_different_slos_need_one_that_is_said(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"slo:\n  ttft_ms: {name}.0\n")
    with pytest.raises(ResultsError, match=r"different ones .*TTFT at most 1 ms.*TTFT at most 2 ms.*give --slo ttft_ms=500"):
        slo.of_runs([str(tmp_path / "1"), str(tmp_path / "2")])


def test_runs_whose_slos_differ_in_the_share_alone_are_refused(tmp_path: Path) -> None:
    for name, share in (("1", "  share: 0.9\n"), ("2", "  share: 0.99\n"), ("default", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"slo:\n  ttft_ms: 500.0\n{share}")
    with pytest.raises(ResultsError, match=r"different ones .*of 0\.9 of the requests.*of 0\.99 of the requests"):
        slo.of_runs([str(tmp_path / "1"), str(tmp_path / "2")])
    assert slo.of_runs([str(tmp_path / "1"), str(tmp_path / "default")]) == {"ttft_ms": 500}


# --- distributions


def binned(values: Any, per_decade: int = FINE) -> request_files.Bins:
    found = bins(np.asarray(values, dtype=float), per_decade)
    assert found is not None
    return found


@pytest.mark.parametrize("q", [0.5, 0.95, 0.99])
def test_quantiles_are_those_of_the_values_within_a_bin(q: float) -> None:
    values = np.random.default_rng(1).lognormal(6, 0.7, 5000)
    found, *ends = metrics.quantile([binned(values)], FINE, q)
    assert found == pytest.approx(np.quantile(values, q), rel=0.012)
    assert np.isnan(ends).all(), "one repeat does not tell how another would differ"


@pytest.mark.parametrize("q", [0.5, 0.9])
def test_the_interval_is_students_over_the_units_own_quantiles(q: float) -> None:
    rng = np.random.default_rng(2)
    values = [rng.lognormal(6 + 0.2 * i, 0.5, 3000) for i in range(3)]
    found, low, high = metrics.quantile([binned(some) for some in values], FINE, q)
    own = np.log([np.quantile(some, q) for some in values])
    half = 4.302653 * own.std(ddof=1) / math.sqrt(3)
    assert math.log(high / found) == pytest.approx(half, rel=0.05)
    assert math.log(found / low) == pytest.approx(half, rel=0.05)


def test_an_interval_of_a_percentile_holds_the_truth() -> None:
    """Starts differ by 5 %, two repeats of each by 1 %: the median of all starts is exp(6)."""
    rng = np.random.default_rng(3)
    covered, runs = 0, 200
    for _ in range(runs):
        starts = np.repeat(rng.normal(6, 0.05, 3), 2)
        bins = pd.Series([binned(rng.lognormal(at + rng.normal(0, 0.01), 0.3, 400)) for at in starts])
        _, low, high = metrics.quantile(metrics.by_start(bins, pd.Series([0, 0, 1, 1, 2, 2])), FINE, 0.5)
        covered += low <= math.exp(6) <= high
    assert covered / runs > 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs)


def test_repeats_that_differ_make_the_interval_wide() -> None:
    rng = np.random.default_rng(3)
    alike = [binned(rng.lognormal(6, 0.3, 400)) for _ in range(3)]
    apart = [binned(rng.lognormal(6 + i, 0.3, 400)) for i in range(3)]
    widths = [high / low for _, low, high in (metrics.quantile(some, FINE, 0.5) for some in (alike, apart))]
    assert widths[0] < 1.15 < 2 < widths[1]


def test_the_cdf_rises_from_0_to_1_over_all_repeats() -> None:
    line = metrics.cdf([binned([10, 10, 20]), binned([40.0])], FINE)
    assert (line["share"].iloc[0], line["share"].iloc[-1]) == (0, 1)
    assert line["share"].is_monotonic_increasing
    assert line["ms"].is_monotonic_increasing
    assert np.interp([15, 30], line["ms"], line["share"]).tolist() == [0.5, 0.75]
    assert len(line) == 6  # the corners alone


def test_percentiles_are_by_series_and_place() -> None:
    used = pd.DataFrame({"series": ["a", "a", "b"], "x": [1, 1, 1], "start": 0}, index=[5, 6, 7])
    of = pd.Series([binned([100.0]), binned([100.0]), None], index=[5, 6, 7])
    out = metrics.percentiles(used, of, FINE, 0.5, ["series", "x"])
    assert out[["series", "x", "n"]].to_numpy().tolist() == [["a", 1, 2]]
    assert out["mean"].iloc[0] == pytest.approx(100, rel=0.012)
    of_starts = metrics.percentiles(used.assign(start=[0, 1, 1]), of, FINE, 0.5, ["series", "x"])
    assert of_starts["n"].tolist() == [2]


def test_the_distributions_of_a_start_are_those_of_its_repeats_together() -> None:
    some = pd.Series([binned([100.0]), binned([100.0, 300.0]), binned([50.0])])
    first, second = metrics.by_start(some, pd.Series([0, 0, 1]))
    assert metrics.cdf([first], FINE).equals(metrics.cdf(list(some[:2]), FINE))
    assert metrics.cdf([second], FINE).equals(metrics.cdf([some[2]], FINE))
    assert len(metrics.by_start(some, pd.Series([1, 1, 1]))) == 3


# --- what is made of records


def judged(tmp_path: Path, **changes: Any) -> pd.DataFrame:
    settings = [Setting(rate=rate, prompts=20) for rate in (1.0, 4.0)]
    return repeats.judge(load_runs([write(tmp_path, settings, repeats=2, **changes)]))


def test_goodput_is_good_requests_by_second_and_gpu(tmp_path: Path) -> None:
    frame = judged(tmp_path)
    reduced = reduce(frame, {"ttft_ms": 1e9})
    out = metrics.with_goodput(frame, reduced.drop(index=frame.index[0]))
    assert math.isnan(out["goodput_per_s_gpu"].iloc[0])
    rest = out.iloc[1:]
    assert (rest["goodput_per_s_gpu"] * rest["gpus"] * rest["duration_s"]).tolist() == pytest.approx([20] * len(rest))
    assert (reduce(frame, {"ttft_ms": 1e-3})["good"] == 0).all()


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(1, 9), (2, 5), (3, 7), (4, 1)], [(1, 9), (3, 7), (4, 1)]),
        ([(1, 1), (1, 2)], [(1, 2)]),
        ([(1, 2), (2, 2)], [(2, 2)]),
        ([(1, 1)], [(1, 1)]),
    ],
)
def test_front(points: list[tuple[float, float]], expected: list[tuple[float, float]]) -> None:
    out = metrics.front(pd.DataFrame(points, columns=["mean_x", "mean_y"]))
    assert [tuple(row) for row in out.to_numpy().tolist()] == expected


def test_tradeoff_is_by_arm_and_setting(tmp_path: Path) -> None:
    one = plain(repeat=0, metrics={"mean_tpot_ms": 20.0, "output_throughput_tok_s": 300.0})
    other = plain(repeat=1, metrics={"mean_tpot_ms": 40.0, "output_throughput_tok_s": 100.0})
    unknown = plain("pd", metrics={"output_throughput_tok_s": 100.0})
    out = metrics.tradeoff(metrics.with_rates(repeats.judge(load_runs([save(tmp_path, [one, other, unknown])]))))
    assert out[["series", "mean_x", "mean_y"]].to_numpy().tolist() == [["route_2", 37.5, 100]]
    assert out[["low_x", "high_x", "low_y", "high_y"]].isna().all(axis=None), "two repeats have no interval"


def test_parts_of_ttft_are_means_over_starts_as_the_whole_is(tmp_path: Path) -> None:
    """Three repeats of one start took 100 ms, the one of the other 200: 150 measured, all of it prefill, and nothing is left."""

    def of(value: float, start: int, repeat: int) -> Measurement:
        parts = {"queue_ms": 0.0, "api_server_ms": 0.0, "prefill_ms": value, "sum_ms": value, "measured_ms": value, "error_ms": 0.0}
        return plain(repeat=repeat, start=start, value=value, telemetry={"ttft": parts})

    given = [of(100.0, 0, n) for n in range(3)] + [of(200.0, 1, 3)]
    out = metrics.parts(repeats.judge(load_runs([save(tmp_path, given)])).query("use == 'used'"))
    assert out[["n", "mean", "prefill", "rest"]].to_numpy().tolist() == [[2, 150, 150, 0]]


def test_the_floor_is_one_instance_alone_with_one_request(tmp_path: Path) -> None:
    alone = {"gpus": 1, "instances": 1, "disaggregated": False}
    given = [
        plain("one", concurrency=1, value=50.0, arm_info=alone),
        plain("one", (512, 512), concurrency=1, value=51.0, arm_info=alone),
        plain("one", (512, 512), concurrency=4, value=1.0, arm_info=alone),
        plain("one", (1024, 512), concurrency=1, value=2.0, arm_info=alone, source="simulated"),
        plain("two", concurrency=1, value=3.0, arm_info=alone | {"instances": 2}),
        plain("old", concurrency=1, value=4.0, arm_info={"gpus": 1}),
    ]
    floors = metrics.floors(repeats.judge(load_runs([save(tmp_path, given)])).query("use == 'used'"))
    assert floors[["series", "output_len", "mean"]].to_numpy().tolist() == [["one", 256, 50], ["one", 512, 51]]
    assert [metrics.floor_for(floors, at, "random")["mean"].tolist() for at in (256, 512, 9)] == [[50], [51], [50]]
    assert metrics.floor_for(floors, 256, "sharegpt").empty


NO_PD = {"handover_ms": None, "transfer_ms": None, "first_decode_ms": None}
SPLIT = {"api_server_ms": -4.0, "queue_ms": 14.0, "prefill_ms": 30.0, **NO_PD, "sum_ms": 40.0, "measured_ms": 50.0}
WHOLE = {"queue_ms": 10.0, "prefill_ms": 30.0, **NO_PD, "sum_ms": 40.0, "measured_ms": 50.0}
SPANS = {"both": {"api_server_ms": 3.0, "scheduler_queue_ms": 7.0}}


@pytest.mark.parametrize(
    ("telemetry", "whole", "server", "queue"),
    [
        pytest.param([{"ttft": SPLIT}], 0, -4, 14, id="a part below 0 is shown as it is"),
        pytest.param([{"ttft": WHOLE, "ttft_spans": SPANS}], 0, 3, 7, id="an older record, split by its spans"),
        pytest.param([{"ttft": WHOLE}], 10, 0, 0, id="an older record without spans"),
        pytest.param(
            [{"ttft": WHOLE, "ttft_spans": {"both": {"api_server_ms": None, "scheduler_queue_ms": 7.0}}}], 10, 0, 0, id="half"
        ),
        pytest.param([{"ttft": WHOLE}, {"ttft": SPLIT}], 10, 0, 0, id="one repeat does not tell, so none does"),
    ],
)
def test_api_server_and_queue(tmp_path: Path, telemetry: list[Any], whole: float, server: float, queue: float) -> None:
    given = [plain(repeat=n, telemetry=one) for n, one in enumerate(telemetry)]
    out = metrics.parts(repeats.judge(load_runs([save(tmp_path, given)])))
    shown = out[["api_server_and_queue", "api_server", "queue", "prefill", "mean", "rest"]].to_numpy().tolist()
    assert shown == [[whole, server, queue, 30, 50, 10]]


def test_parts_and_what_is_left_come_to_the_measured_ttft(tmp_path: Path) -> None:
    ttft = {
        "api_server_ms": 0.0,
        "queue_ms": 10.0,
        "prefill_ms": 30.0,
        "handover_ms": None,
        "transfer_ms": None,
        "first_decode_ms": None,
        "sum_ms": 40.0,
    }
    given = [
        plain(repeat=0, telemetry={"ttft": ttft | {"measured_ms": 50.0, "error_ms": 10.0}}),
        plain(repeat=1, telemetry={"ttft": ttft | {"measured_ms": 20.0, "error_ms": -20.0}}),
        plain("unknown", telemetry={"ttft": dict.fromkeys(ttft) | {"measured_ms": 9.0}}),
        plain("old"),
    ]
    out = metrics.parts(repeats.judge(load_runs([save(tmp_path, given)])))
    assert out[["series", "mean", "queue", "prefill", "transfer", "rest"]].to_numpy().tolist() == [["route_2", 35, 10, 30, 0, -5]]


# --- loading


def test_load_takes_parts_files_and_distributions(tmp_path: Path) -> None:
    frame = load_runs([write(tmp_path, [Setting(load="sharegpt", input_len=0)], repeats=1, timelines=True)])
    row = frame.set_index("arm").loc["synthetic_1p3d"]
    assert (row["load"], row["input_len"], row["instances"]) == ("sharegpt", 0, 4)
    assert row["transfer_ms"] == row["ttft_transfer_ms"] == 3.0
    assert Path(row["requests_file"]).is_file()
    assert Path(row["timeline_file"]).is_file()
    assert row["itl_bins"].shape[1] == 2
    assert row["itl_bins"][:, 1].sum() == 200 * 30


def test_what_an_old_record_lacks_is_unknown_and_its_load_random(tmp_path: Path) -> None:
    made = plain(telemetry={"totals": {"nixl_transfers": 4.0, "nixl_transfer_time_s": 0.02}})
    row = load_runs([save(tmp_path, [made])]).iloc[0]
    assert (row["load"], row["transfer_ms"]) == ("random", 5.0)
    assert (row["itl_bins"], row["requests_file"], row["timeline_file"]) == (None, None, None)
    assert math.isnan(row["ttft_queue_ms"])


def test_different_loads_are_different_settings(tmp_path: Path) -> None:
    arm, at = Arm("synthetic_x"), Setting(prompts=20)
    other = Setting(prompts=20, load="mix")
    save(tmp_path, [record(arm, s, 0, made_up(arm, s, 0)) for s in (at, other)])
    frame = repeats.judge(load_runs([tmp_path]))
    assert repeats.aggregate(frame, "mean_ttft_ms", ["series", *SETTING])["n"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("text", "left"), [("arm=route_2", 2), ("input_len=512,request_rate=inf", 1), ("input_len= 1024", 1), ("load=random", 2)]
)
def test_only_some_records(tmp_path: Path, text: str, left: int) -> None:
    assert len(only(load_runs([save(tmp_path, [plain(), plain(lengths=(1024, 256), rate=2.0)])]), text)) == left


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("repeat=1", "'repeat' cannot be chosen by; use arm, input_len"),
        ("arm=x", "none of 1 records"),
        ("input_len=x", "none of 1 records"),
    ],
)
def test_only_says_what_can_be_chosen(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ResultsError, match=why):
        only(load_runs([save(tmp_path, [plain()])]), text)


# --- timelines


def samples(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(TIMELINE_COLUMNS))


def test_rates_are_what_counters_grew_by_second() -> None:
    table = samples(
        [(0.0, "e0", "both", 1, 0, 0, 0, 0.0), (0.5, "e0", "both", 1, 3, 100, 4, 0.0), (1.5, "e0", "both", 1, 2, 100, 24, 50.0)]
    )
    out = timeline.activity_of(table)
    assert out["prefill_tok_s"].tolist() == [200, 0]
    assert out["decode_tok_s"].tolist() == [8, 20]
    assert out["kv_bytes_s"].tolist() == [0, 50]
    assert out["waiting"].tolist() == [3, 2]


def test_a_counter_that_fell_or_is_unknown_has_no_rate() -> None:
    table = samples(
        [(0.0, "e0", "both", 1, 0, 100, 5, NAN), (1.0, "e0", "both", 1, 0, 0, 6, NAN), (2.0, "e0", "both", 1, 0, 10, 7, NAN)]
    )
    out = timeline.activity_of(table)
    assert out["prefill_tok_s"].tolist() == pytest.approx([NAN, 10], nan_ok=True)
    assert out["kv_bytes_s"].isna().all()


@pytest.mark.parametrize(("role", "unknown"), [("decode", "prefill_tok_s"), ("prefill", "decode_tok_s")])
def test_what_is_not_a_role_s_work_is_not_shown_as_it(role: str, unknown: str) -> None:
    out = timeline.activity_of(samples([(float(t), "e0", role, 1, 0, 9 * t, 8 * t, 7.0 * t) for t in range(3)]))
    assert out[unknown].isna().all()
    assert out[["prefill_tok_s", "decode_tok_s", "kv_bytes_s"]].notna().all().sum() == 2


def test_a_long_timeline_keeps_its_sums() -> None:
    table = samples([(0.1 * t, "e0", "both", 1, 0, 3 * t, 0, 0.0) for t in range(5000)])
    out = timeline.activity_of(table)
    assert len(out) == timeline.MOST_STEPS
    assert (out["prefill_tok_s"] * (out["end_s"] - out["start_s"])).sum() == pytest.approx(3 * 4999)


def test_the_timelines_of_one_setting_are_chosen(tmp_path: Path) -> None:
    frame = judged(tmp_path, timelines=True)
    chosen = timeline.records_to_show(frame, 3)
    assert chosen["request_rate"].tolist() == [4.0] * 3
    assert chosen["repeat"].tolist() == [0] * 3
    assert chosen["series"].nunique() == 3
    assert timeline.records_to_show(frame.assign(valid=False, use="invalid"), 3).empty


def test_what_is_no_timeline(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv.gz", TIMELINE_COLUMNS[:-1], [])
    with pytest.raises(ResultsError, match="has no column nixl_bytes; a timeline has t_s"):
        timeline.read(tmp_path / "x.csv.gz")
