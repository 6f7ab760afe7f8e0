"""Which records count, which may be averaged, and the mean and spread over repeats."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.load.frame import load_runs
from analysis.stats import repeats
from tests.unit.analysis.records_made import failed, invalid, record, write


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((10.0,), (1, 10.0, math.nan, math.nan)),
        ((10.0, 14.0), (2, 12.0, math.nan, math.nan)),
        # s = 2, t(2) = 4.303: 12 ± 4.303 · 2 / √3
        ((10.0, 12.0, 14.0), (3, 12.0, 12 - 4.96828, 12 + 4.96828)),
    ],
)
def test_aggregate(values: tuple[float, ...], expected: tuple[float, ...]) -> None:
    frame = pd.DataFrame({"x": "a", "start": 0, "m": [*values, math.nan]})
    assert repeats.aggregate(frame, "m", ["x"]).iloc[0].tolist()[1:] == pytest.approx(expected, abs=1e-3, nan_ok=True)
    assert repeats.units(frame.dropna(), ["x"]).name == "repeat"


def test_starts_are_the_unit_where_there_are_several() -> None:
    """Three starts with means 10, 12, 14, and one arm that was started once: 12 ± 4.303 · 2 / √3 as of three numbers."""
    several = pd.DataFrame({"x": "a", "start": [0, 0, 1, 1, 2], "m": [9.0, 11.0, 11.5, 12.5, 14.0]})
    once = pd.DataFrame({"x": "b", "start": 0, "m": [1.0, 2.0, 3.0]})
    both = pd.concat([several, once])
    found = repeats.aggregate(both, "m", ["x"])
    assert found.iloc[0].tolist()[1:] == pytest.approx((3, 12.0, 12 - 4.96828, 12 + 4.96828), abs=1e-3)
    assert found.iloc[1].tolist()[1:] == pytest.approx((3, 2.0, 2 - 2.48414, 2 + 2.48414), abs=1e-3)
    counts = repeats.units(both, ["x"])
    assert (counts.name, counts.tolist()) == ("start or repeat", [3, 3])
    assert repeats.repeats_text(counts) == "3 starts or repeats per point"
    assert repeats.repeats_text(repeats.units(several, ["x"])) == "3 starts per point"
    assert repeats.repeats_text(repeats.units(once, ["x"])) == "3 repeats per point"
    two = repeats.aggregate(several[several["start"] < 2], "m", ["x"])
    assert two["n"].tolist() == [2]
    assert two["low"].isna().all(), "four repeats of two starts are two values"


def test_an_interval_over_starts_holds_the_truth_where_one_over_repeats_would_not() -> None:
    """Starts differ by 5 %, three repeats of each by 1 %."""
    rng = np.random.default_rng(1)
    over_starts, over_repeats, runs = 0, 0, 300
    for _ in range(runs):
        values = np.repeat(rng.normal(1, 0.05, 3), 3) + rng.normal(0, 0.01, 9)
        frame = pd.DataFrame({"x": "a", "start": np.repeat(range(3), 3), "m": values})
        good, bad = (repeats.aggregate(each, "m", ["x"]).iloc[0] for each in (frame, frame.assign(start=0)))
        over_starts += good["low"] <= 1 <= good["high"]
        over_repeats += bad["low"] <= 1 <= bad["high"]
    assert over_starts / runs > 0.95 - 3 * 0.0126
    assert over_repeats / runs < 0.85


def test_judge_leaves_out_failed_invalid_and_superseded(tmp_path: Path) -> None:
    again = record(value=2.0, started_at="2026-03-11")
    judged = repeats.judge(load_runs([write(tmp_path, [record(value=1.0), again, failed("pd"), invalid("pd", repeat=1)])]))
    assert repeats.left_out(judged) == {"failed": 1, "invalid": 1, "superseded": 1}
    assert judged[judged["use"] == "used"]["mean_ttft_ms"].tolist() == [2.0]
    assert repeats.left_out_text(judged).startswith("1 valid of 3 tried; left out: 1 failed, 1 invalid, 1 superseded; 1 unverified")
    assert repeats.reasons(judged) == {"client exited with code 1": 1, "prefix cache hits": 1, "3 requests failed": 1}


def test_an_invalid_try_that_was_measured_again_stays_a_try(tmp_path: Path) -> None:
    given = [invalid("pd"), record("pd", started_at="2026-03-11"), record("route_2")]
    judged = repeats.judge(load_runs([write(tmp_path, given)]))
    assert repeats.left_out_text(judged).startswith("2 valid of 3 tried; left out: 1 superseded; 2 unverified")


def test_what_is_unverified_or_judged_anew_is_counted(tmp_path: Path) -> None:
    frame = load_runs([write(tmp_path, [record("a"), record("b"), record("c"), invalid("d")])])
    frame["unverified"] = [("text",), ("text", "clocks"), (), ("text",)]
    frame["disagrees"] = ["", "", "today it is valid", ""]
    assert repeats.left_out_text(repeats.judge(frame)) == (
        "3 valid of 4 tried; left out: 1 invalid; 2 unverified: text (2), clocks (1); "
        "1 record judged otherwise by today's rules than in its file"
    )
    names = pd.Series([tuple("abcde"), ("a",), (), ()], dtype=object)
    many = repeats.judge(frame.assign(unverified=names))
    assert repeats.unverified_text(many) == "2 unverified: a (2), b (1), c (1) and 2 more checks"
    strict = repeats.judge(repeats.strict(frame))
    assert strict["use"].tolist() == ["invalid", "invalid", "used", "invalid"]
    assert repeats.reasons(strict)["unverified: text"] == 2
    assert frame["valid"].tolist() == [True, True, True, False], "the frame itself is as it was"


def test_series_of_two_runs_or_sources_are_not_averaged(tmp_path: Path) -> None:
    write(tmp_path / "a", [record(run="a"), record("pd", run="a"), record(value=1.0, run="a", source="simulated")])
    write(tmp_path / "b", [record(run="b")])
    labels = repeats.judge(load_runs([tmp_path]))["series"].tolist()
    assert sorted(labels) == ["pd", "route_2 (simulated)", "route_2 [a]", "route_2 [b]"]
