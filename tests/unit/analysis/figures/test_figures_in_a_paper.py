"""Records in; what a reader of a paper relies on, read back from the drawn figures and their captions, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from analysis.figures import breakdown, captions, distributions, goodput, panels
from analysis.figures.all_figures import drawings
from analysis.figures.by_workload import QUANTITIES, by_gpu, draw
from analysis.figures.figure_files import Drawing, lay_out
from analysis.figures.style import PAPER, SCREEN, STYLES, Style
from analysis.load.frame import load_runs
from analysis.stats import metrics, repeats
from analysis.stats.repeats import MIXED, OFFERED
from pdslurm.records.measurement import BINS_PER_DECADE, Measurement
from tests.unit.analysis.records_made import record, write

ABSURD = 9e6  # of a record that no figure shows
PARTS = {
    "api_server_ms": 1.0,
    "queue_ms": 3.0,
    "prefill_ms": 5.0,
    "handover_ms": None,
    "transfer_ms": None,
    "first_decode_ms": None,
}


def judged_of(folder: Path, records: Sequence[Measurement]) -> pd.DataFrame:
    return panels.set_apart(by_gpu(repeats.judge(load_runs([write(folder, records)]))))


def drawn_of(folder: Path, records: Sequence[Measurement], style: Style = SCREEN) -> Mapping[str, Drawing]:
    frame = load_runs([write(folder, records)])
    return {name: drawing for name, drawing in drawings(frame, style) if isinstance(drawing, Drawing)}


def quantity(folder: Path, records: Sequence[Measurement], file: str, style: Style = SCREEN) -> Drawing:
    judged = judged_of(folder, records)
    (mine,) = (one for one in QUANTITIES if one.file == file)
    return draw(judged, mine, panels.panels(judged), style)


def values(ax: Axes) -> list[float]:
    ys = [float(y) for line in ax.lines for y in np.asarray(line.get_ydata(), dtype=float)]
    return [y for y in ys if not np.isnan(y)]


def calibration(**changes: Any) -> list[Measurement]:
    """Prompts alone and whole answers, all at once, as a search measures them."""
    made = {"value": ABSURD, "sweeps": ("saturated",), "prompts": 512, "telemetry": telemetry(ABSURD), **changes}
    return [record("route_2", (2048, n), **made) for n in (1, 128)]


def telemetry(ttft: float) -> dict[str, Any]:
    return {"ttft": {**PARTS, "sum_ms": 9.0, "measured_ms": ttft, "error_ms": ttft - 9.0}}


def at_rates(*rates: float, value: float = 10.0, repeats: int = 1, lengths: tuple[int, int] = (2048, 128)) -> list[Measurement]:
    return [
        record(arm, lengths, n, value=value + n, rate=rate, sweeps=("chat",), prompts=int(20 * rate), telemetry=telemetry(value))
        for arm in ("pd_1p1d", "route_2")
        for rate in rates
        for n in range(repeats)
    ]


# --- calibration


def test_no_figure_draws_calibration_beside_what_was_swept(tmp_path: Path) -> None:
    drawn = drawn_of(tmp_path, [*calibration(), *at_rates(1.0, 2.0, 4.0)])
    assert {*(q.file for q in QUANTITIES), "pareto", "ttft_breakdown", "crossover"} <= set(drawn)
    for name, drawing in drawn.items():
        tops = [ax.dataLim.max for ax in drawing.figure.axes if np.isfinite(ax.dataLim.max).all()]
        assert np.max(tops) < ABSURD / 1000, name
        assert "8 valid of 8 tried" in drawing.caption, name
        assert "2 of the valid ones calibrate the search, with all requests at once, and are not shown" in drawing.caption, name
    assert [ax.get_xlabel() for ax in drawn["ttft"].figure.axes] == ["Request rate (requests/s)"]


@pytest.mark.parametrize(
    ("records", "used"),
    [
        (calibration(), 2),  # nothing else was measured yet
        ([*calibration(sweeps=("saturated", "chat")), *at_rates(1.0)], 4),  # the points are swept, too
        ([*calibration(), *at_rates(1.0)], 2),
        ([*calibration(valid=False, invalid_reasons=("hit",)), *at_rates(1.0)], 2),
    ],
)
def test_calibration_is_what_belongs_to_that_sweep_alone(tmp_path: Path, records: list[Measurement], used: int) -> None:
    judged = judged_of(tmp_path, records)
    assert int((judged["use"] == "used").sum()) == used
    found = panels.panels(judged)
    assert len(pd.concat([panel.rows for panel in found]).index.unique()) == used


def test_a_line_joins_no_points_with_other_numbers_of_prompts_unless_the_rate_explains_them(tmp_path: Path) -> None:
    lengths = [record("a", (n, 256), prompts=p, sweeps=("s",)) for n, p in ((512, 10), (1024, 10), (2048, 99))]
    found = panels.panels(judged_of(tmp_path / "lengths", lengths))
    assert [panel.rows["input_len"].tolist() for panel in found] == [[1024, 512], [2048]]
    (at_rate,) = panels.panels(judged_of(tmp_path / "rates", at_rates(1.0, 2.0)))
    assert at_rate.rows["num_prompts"].nunique() == 2


def test_the_tradeoff_joins_no_points_of_the_same_load(tmp_path: Path) -> None:
    """Two numbers of prompts at one rate are two measurements, not two steps of a sweep."""
    records = [record("a", rate=rate, prompts=p, sweeps=("s",), value=rate + p) for rate in (1.0, 2.0) for p in (10, 20)]
    made = goodput.pareto(metrics.with_rates(judged_of(tmp_path, records)))
    assert made
    lines = [line for line in made.figure.axes[0].lines if line.get_label() == "a"]
    assert [len(np.asarray(line.get_xdata())) for line in lines] == [2, 2]
    assert goodput.OFFERED_GPU in made.caption


def test_the_tradeoff_without_a_rate_was_not_offered(tmp_path: Path) -> None:
    records = [record("a", concurrency=c, sweeps=("s",), value=float(c)) for c in (1, 2)]
    made = goodput.pareto(metrics.with_rates(judged_of(tmp_path, records)))
    assert made
    assert goodput.OFFERED_GPU not in made.caption


# --- the same axes


def test_panels_share_the_axes_of_what_they_share(tmp_path: Path) -> None:
    records = [*at_rates(1.0, 2.0, value=10.0), *at_rates(2.0, 8.0, value=90.0, lengths=(4096, 128))]
    left, right = quantity(tmp_path, records, "ttft").figure.axes
    assert max(values(left)) == 10.0
    assert max(values(right)) == 90.0
    assert left.get_ylim() == right.get_ylim() == pytest.approx((0, 1.08 * 90))
    assert left.get_xlim() == right.get_xlim()
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["1", "2", "8"]


def test_distributions_and_tradeoffs_share_both_axes(tmp_path: Path) -> None:
    made = [*at_rates(1.0, value=10.0), *at_rates(4.0, value=400.0), *at_rates(1.0, 4.0, value=90.0, lengths=(4096, 128))]
    judged = judged_of(tmp_path, made)
    bins = pd.Series([np.array([[int(50 * np.log10(v)), 9]]) for v in judged["mean_ttft_ms"]], index=judged.index)
    for drawing in (
        distributions.cdf(judged, bins, BINS_PER_DECADE, "TTFT"),
        goodput.pareto(metrics.with_rates(judged)),
    ):
        assert drawing
        axes = drawing.figure.axes
        assert len(axes) >= 2
        assert len({ax.get_xlim() for ax in axes}) == len({ax.get_ylim() for ax in axes}) == 1


@pytest.mark.parametrize(("other", "is_shared"), [(70.0, True), (90.0, False)])
def test_bars_of_the_ttft_share_a_scale_unless_one_panel_would_be_unreadable(tmp_path: Path, other: float, is_shared: bool) -> None:
    judged = judged_of(tmp_path, [*at_rates(1.0, value=10.0), *at_rates(4.0, value=other)])
    made = breakdown.ttft_parts(judged)
    assert made
    assert (len({ax.get_xlim() for ax in made.figure.axes}) == 1) is is_shared
    assert (breakdown.OWN_SCALES in made.caption) is not is_shared


# --- bars


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([1, 1], "Mean of 1 repeat per point; no bars: fewer than three repeats"),
        ([2, 2], "Mean of 2 repeats per point; no bars: fewer than three repeats"),
        ([3, 5], "Mean of 3 to 5 repeats per point; bars: 95 % t interval of the mean (3 repeats or more)"),
        (
            [2, 3],
            "Mean of 2 to 3 repeats per point; bars: 95 % t interval of the mean (3 repeats or more); "
            "no bars: fewer than three repeats",
        ),
    ],
)
def test_a_caption_says_what_bars_are(counts: list[int], said: str) -> None:
    assert captions.bars_text(pd.Series(counts, name="repeat")) == said
    assert captions.bars_text(pd.Series(counts, name="start")) == said.replace("repeat", "start")
    mixed = captions.bars_text(pd.Series(counts, name=MIXED))
    assert mixed.endswith("; where an arm was started once, its repeats count, and its bar holds within that start")


@pytest.mark.parametrize(("count", "bars"), [(1, 0), (2, 0), (3, 2)])
def test_bars_are_drawn_from_three_repeats_on(tmp_path: Path, count: int, bars: int) -> None:
    """Of means, and of percentiles."""
    judged = judged_of(tmp_path, at_rates(1.0, repeats=count))
    mean = draw(judged, QUANTITIES[0], panels.panels(judged)).figure.axes[0]
    bins = pd.Series([np.array([[40, 5], [60, 5]])] * len(judged), index=judged.index)
    made = distributions.cdf(judged, bins, BINS_PER_DECADE, "TTFT")
    assert made
    for ax in (mean, made.figure.axes[0]):
        assert sum(len(found.get_segments()) > 0 for found in ax.collections) == bars  # type: ignore[attr-defined]


# --- throughput


def test_throughput_by_gpu_divides_by_the_arm_s_gpus(tmp_path: Path) -> None:
    figure = quantity(tmp_path, [record("a", value=100.0, arm_info={"gpus": 4})], "throughput_per_gpu").figure
    assert values(figure.axes[0]) == [25.0]
    assert figure.axes[0].get_ylabel() == "Output (tokens/s/GPU)"


@pytest.mark.parametrize("file", ["throughput", "throughput_per_gpu", "request_throughput", "tpot"])
@pytest.mark.parametrize("rate", [None, 2.0])
def test_no_throughput_is_ranked_at_a_fixed_rate(tmp_path: Path, file: str, rate: float | None) -> None:
    drawing = quantity(tmp_path, [record("a", rate=rate), record("b", rate=rate)], file)
    is_offered = rate is not None and file != "tpot"
    assert ("is better" in drawing.figure.texts[0].get_text()) is not is_offered
    assert (OFFERED in drawing.caption) is is_offered


# --- captions and labels


def test_a_caption_says_what_ran(tmp_path: Path) -> None:
    judged = judged_of(tmp_path, [*at_rates(1.0), *at_rates(1.0, lengths=(4096, 128))])
    known = judged.assign(model="llama", engine="vllm 1.0", gpu="H100", slo="TTFT at most 500 ms")
    caption = captions.caption_of(known, known, "First")
    assert caption.startswith(
        "First. Model llama, engine vllm 1.0, GPU H100, 2 GPUs an arm. Input 2048 to 4096 tokens, output 128 tokens. "
        "SLO: TTFT at most 500 ms. 20 prompts a measurement, 1 request/s, no bound in flight. 4 valid of 4 tried"
    )
    assert captions.caption_of(known, known, "Good: TTFT at most 500 ms").count("at most 500 ms") == 1
    assert captions.setup_text(known.assign(gpu=None, gpus=[1.0, 2.0, 4.0, 4.0])) == (
        "model llama, engine vllm 1.0, GPU unknown, 1 to 4 GPUs an arm"
    )
    assert captions.setup_text(known.assign(gpu="CPU", gpus=2.0)) == "model llama, engine vllm 1.0, on CPU, 2 CPU slots an arm"


@pytest.mark.parametrize("style", STYLES.values(), ids=list(STYLES))
def test_every_label_of_a_single_panel_fits(tmp_path: Path, style: Style) -> None:
    for name, drawing in drawn_of(tmp_path, at_rates(1.0, 2.0, 4.0, repeats=3), style).items():
        figure = drawing.figure
        lay_out(figure)
        edges = figure.bbox.padded(1)
        side = [] if figure._supylabel is None else [figure._supylabel]  # type: ignore[attr-defined]
        boxes = [text.get_window_extent() for text in (*figure.legends, *figure.texts, *side)]
        boxes += [box for ax in figure.axes if (box := ax.get_tightbbox()) is not None]
        outside = [box for box in boxes if box.x0 < edges.x0 or box.x1 > edges.x1 or box.y0 < edges.y0 or box.y1 > edges.y1]
        assert outside == [], name


def test_titles_of_several_lines_take_nothing_from_the_axes(tmp_path: Path) -> None:
    records = [record("a", (n, 256), concurrency=c, sweeps=("s",)) for n in (512, 1024) for c in (1, 2, 4)]
    heights = []
    for some in (records[:3], records):
        figure = quantity(tmp_path / str(len(some)), some, "ttft", PAPER).figure
        lay_out(figure)
        heights.append(figure.axes[0].get_position().height * figure.get_figheight())
    assert heights[1] == pytest.approx(heights[0], abs=0.05)


@pytest.mark.parametrize(
    ("settings", "titles"),
    [
        ([(512, 256, 1.0, 20), (512, 256, 4.0, 80)], ["1 request/s", "4 requests/s"]),
        ([(512, 256, np.inf, 20), (512, 256, 4.0, 80)], ["Request rate unbounded", "4 requests/s"]),
        ([(512, 256, 4.0, 20), (512, 256, 4.0, 80)], ["20 prompts", "80 prompts"]),
        ([(512, 1, 4.0, 20)], ["Input 512 tokens,\noutput 1 token"]),
        ([(512, 1, 4.0, 20), (1024, 1, 4.0, 20)], ["Input 512 tokens", "Input 1024 tokens"]),
    ],
)
def test_a_brief_title_says_what_tells_the_panels_apart(settings: list[tuple[float, ...]], titles: list[str]) -> None:
    frame = pd.DataFrame(settings, columns=["input_len", "output_len", "request_rate", "num_prompts"])
    assert panels.settings_titles(frame, 24, brief=True) == titles
