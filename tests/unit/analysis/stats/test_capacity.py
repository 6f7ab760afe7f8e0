"""The highest rate that arms hold, and what is made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import pytest

from analysis.load.frame import COLUMNS
from analysis.stats.capacity import CARRIED, SWEEP, as_settings, capacities, capacity_text
from analysis.stats.verdict import CAPACITY, decide, verdict

Sweeps = Mapping[str, Sequence[Mapping[float, float | None]]]  # arm → for each repeat: rate → share of good requests


Points = frozenset[tuple[str, float]]  # (arm, rate)


def frames(arms: Sweeps, overloaded: Points = frozenset(), unsteady: Points = frozenset()) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Judged records and reduced requests, 100 of them a point; what is in `overloaded` or `unsteady` is invalid for that."""
    rows, counts = [], []
    for arm, repeats in arms.items():
        for repeat, sweep in enumerate(repeats):
            for rate, share in sweep.items():
                over, short = (arm, rate) in overloaded, (arm, rate) in unsteady
                rows.append(
                    {"series": arm, "input_len": 1024, "output_len": 256, "max_concurrency": math.inf, "load": "random",
                     "repeat": repeat, "gpus": 4.0, "disaggregated": arm.startswith("pd"), "folder": "r", "request_rate": rate,
                     "use": "invalid" if over or short else "used", "overloaded": over, "unsteady": short}
                )  # fmt: skip
                counts.append({"requests": 100, "good": math.nan if share is None else 100 * share})
    return pd.DataFrame(rows), pd.DataFrame(counts)


@pytest.mark.parametrize(
    ("sweep", "rate", "missed"),
    [
        ({1.0: 1.0, 2.0: 0.95, 4.0: 0.5}, 2.0, 4.0),
        ({1.0: 1.0, 2.0: 0.9}, 2.0, math.inf),
        ({1.0: 0.5, 2.0: 0.1}, 0.0, 1.0),
        ({1.0: 0.5, 2.0: 1.0}, 0.0, 1.0),
        ({1.0: 1.0, 2.0: 0.5, 4.0: 1.0}, 1.0, 2.0),
        ({1.0: 1.0, 2.0: None, 4.0: 1.0, 8.0: 0.0}, 4.0, 8.0),
    ],
)
def test_capacities(sweep: Mapping[float, float | None], rate: float, missed: float) -> None:
    found = capacities(*frames({"a": [sweep]}), share=0.9)
    assert found[["capacity_per_s", "missed_per_s", "capacity_per_s_gpu"]].to_numpy().tolist() == [[rate, missed, rate / 4]]
    assert set(found.columns) >= {"series", *SWEEP, *CARRIED}


def test_a_point_that_is_invalid_because_it_was_too_much_misses() -> None:
    found = capacities(*frames({"a": [{1.0: 1.0, 2.0: 1.0}]}, frozenset({("a", 2.0)})), share=0.9)
    assert found["capacity_per_s"].tolist() == [1.0]


def test_a_point_that_was_too_short_misses_where_it_missed_the_slo_and_says_nothing_where_it_kept_it() -> None:
    sweep = {1.0: 1.0, 2.0: 0.95, 4.0: 0.1, 8.0: 1.0}
    short = frozenset({("a", 2.0), ("a", 4.0)})
    found = capacities(*frames({"a": [sweep]}, unsteady=short), share=0.9)
    assert found[["capacity_per_s", "missed_per_s"]].to_numpy().tolist() == [[1.0, 4.0]]


def test_what_a_later_measurement_superseded_does_not_miss() -> None:
    judged, counts = frames({"a": [{1.0: 1.0, 2.0: 0.1, 4.0: 1.0}]}, unsteady=frozenset({("a", 2.0)}))
    judged["use"] = ["used", "superseded", "used"]
    assert capacities(judged, counts, share=0.9)["capacity_per_s"].tolist() == [4.0]


def test_one_rate_is_no_sweep() -> None:
    assert capacities(*frames({"a": [{1.0: 1.0}]}), share=0.9).empty


def test_capacities_decide() -> None:
    """Twice the rate in each of three repeats that drift alike."""
    arms = {"pd_1p": [{r: 1.0, 2 * r: 0.0} for r in (2.0, 4.0, 3.0)], "route_2": [{r: 1.0, 2 * r: 0.0} for r in (1.0, 2.0, 1.5)]}
    rates = capacities(*frames(arms), share=0.9)
    (decision,) = decide(as_settings(rates), (CAPACITY,))
    assert (decision.ratio.value, decision.ratio.low, decision.outcome) == pytest.approx((2.0, 2.0, "disaggregate"))
    sentence = verdict(pd.DataFrame(columns=[*COLUMNS, "series"]), rates)[0]
    assert sentence.startswith(
        "Disaggregate, by requests/s per GPU that keep the SLO: of 1 workload, at 1 pd_1p is better: "
        "pd_1p holds 2 [2, 2] times the requests/s per GPU of route_2; pd_1p moved KV over unknown."
    )
    assert capacity_text(rates) == [
        "1024 tokens in, 256 out: pd_1p holds 2 to 4 requests/s, in 3 repeat(s).",
        "1024 tokens in, 256 out: route_2 holds 1 to 2 requests/s, in 3 repeat(s).",
    ]


def test_an_arm_that_holds_nothing_counts_as_the_lowest_rate() -> None:
    arms = {"pd_1p": [{2.0: 0.0, 1.0: 0.0}] * 3, "route_2": [{4.0: 1.0, 8.0: 1.0}] * 3}
    rates = capacities(*frames(arms), share=0.9)
    assert as_settings(rates)["capacity_per_s_gpu"].tolist() == [0.25] * 3 + [2.0] * 3
    assert capacity_text(rates) == [
        "1024 tokens in, 256 out: pd_1p does not hold 1 requests/s, in 3 repeat(s).",
        "1024 tokens in, 256 out: route_2 holds 8 or more requests/s, in 3 repeat(s).",
    ]
