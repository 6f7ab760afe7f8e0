"""Records in; what is read back from the drawn axes, legends and captions, and from the files, out."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.__main__ import main
from analysis.figures import axis
from analysis.figures.by_workload import QUANTITIES, by_gpu, draw, require_used
from analysis.figures.figure_files import Drawing
from analysis.figures.panels import panels
from analysis.load.frame import load_runs
from analysis.stats import repeats
from pdslurm.errors import ResultsError
from pdslurm.records.measurement import Measurement
from tests.unit.analysis.records_made import failed, invalid, record, write

LENGTHS = ((512, 256), (1024, 256), (512, 512))


def draw_all(frame: pd.DataFrame) -> dict[str, Drawing]:
    """All of QUANTITIES by the names of their files."""
    judged = by_gpu(repeats.judge(frame))
    require_used(judged)
    return {quantity.file: draw(judged, quantity, panels(judged)) for quantity in QUANTITIES}


def figure_of(folder: Path, records: list[Measurement], name: str = "itl") -> Figure:
    return draw_all(load_runs([write(folder, records)]))[name].figure


def line(ax: Axes, label: str) -> Line2D:
    (found,) = [line for line in ax.lines if line.get_label() == label]
    return found


def points(ax: Axes, label: str) -> list[tuple[float, float]]:
    drawn = line(ax, label)
    return list(zip(map(float, drawn.get_xdata()), map(float, drawn.get_ydata()), strict=True))  # type: ignore[arg-type]


def caption(figure: Figure) -> str:
    return " ".join(" ".join(text.get_text() for text in figure.texts).split())


def bars(ax: Axes) -> list[tuple[float, float]]:
    """Low and high of every error bar."""
    segments = [segment for collection in ax.collections for segment in collection.get_segments()]  # type: ignore[attr-defined]
    return [(float(segment[0][1]), float(segment[1][1])) for segment in segments]


def test_two_panels_hold_the_means_of_the_repeats(tmp_path: Path) -> None:
    values = {"route_2": (10.0, 11.0, 12.0), "pd_1p1d": (4.0, 8.0)}
    records = [
        record(arm, at, i, value=v * k)
        for arm, some in values.items()
        for k, at in enumerate(LENGTHS, 1)
        for i, v in enumerate(some)
    ]
    figure = figure_of(tmp_path, records)
    left, right = figure.axes
    assert (left.get_title("left"), right.get_title("left")) == (
        "Input length varied, output 256 tokens",
        "Output length varied, input 512 tokens",
    )
    assert points(left, "route_2") == [(512, 11), (1024, 22)]
    assert points(right, "route_2") == [(256, 11), (512, 33)]
    assert points(left, "pd_1p1d") == [(512, 6), (1024, 12)]
    half = 4.30265 / 3**0.5  # s = 1, t(2) = 4.303; the arm of two repeats has no bars
    assert bars(left) == [pytest.approx((k * (11 - half), k * (11 + half)), abs=1e-3) for k in (1, 2)]
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["512", "1024"]
    assert (left.get_xlabel(), left.get_ylabel()) == ("Input length (tokens)", "Mean ITL (ms)")
    assert left.get_ylim() == right.get_ylim() == pytest.approx((0, 1.08 * 3 * (11 + half)), abs=1e-3)
    assert left.get_xscale() == "log"
    assert caption(figure).partition("; 15 unverified")[0] == (
        "Mean ITL, the gap between two chunks: lower is better ITL is the gap between two chunks of an answer, and a chunk may "
        "carry several tokens; TPOT counts every token. Mean of 2 to 3 repeats per point; bars: 95 % t interval of the mean (3 "
        "repeats or more); no bars: fewer than three repeats. Model unknown, engine unknown, GPU unknown, 2 GPUs an arm. Input "
        "512 to 1024 tokens, output 256 to 512 tokens. 24 prompts a measurement, all sent at once. 15 valid of 15 tried"
    )


def test_three_repeats_get_the_t_interval(tmp_path: Path) -> None:
    figure = figure_of(tmp_path, [record(repeat=i, value=v) for i, v in enumerate((10.0, 12.0, 14.0))])
    assert bars(figure.axes[0]) == [pytest.approx((12 - 4.9687, 12 + 4.9687), abs=1e-3)]
    assert "bars: 95 % t interval of the mean (3 repeats or more)." in caption(figure)


def test_failed_and_invalid_are_not_drawn_but_counted_and_break_the_line(tmp_path: Path) -> None:
    done = [record("a", (n, 256), value=n / 8, sweeps=("input",)) for n in (512, 4096)]
    figure = figure_of(tmp_path, [*done, invalid("a", (1024, 256)), failed("a", (2048, 256)), invalid("a", (512, 256), 1)])
    (ax,) = [ax for ax in figure.axes if ax.get_xlabel() == "Input length (tokens)"]
    assert [x for x, _ in points(ax, "a")] == [512, 1024, 2048, 4096]
    assert [y for _, y in points(ax, "a")] == pytest.approx([64, math.nan, math.nan, 512], nan_ok=True)
    assert "2 valid of 4 tried; left out: 1 failed, 2 invalid" in caption(figure)
    assert "Mean of 1 repeat per point; no bars: fewer than three repeats." in caption(figure)


def test_nothing_valid_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        ResultsError, match=r"nothing to draw: 0 valid of 1 tried; left out: 1 failed, 1 invalid; most often: client ex"
    ):
        figure_of(tmp_path, [failed("a"), invalid("a", repeat=1)])


def test_a_number_that_is_not_known_is_said_and_not_drawn(tmp_path: Path) -> None:
    figure = figure_of(tmp_path, [record("a", value=None)])
    assert "1 valid without this number." in caption(figure)
    assert [text.get_text() for text in figure.axes[0].texts] == ["no valid measurement"]


def many(name: str, **axes: list[float | None]) -> list[Measurement]:
    return [
        record("a", (int(i or 0), int(o or 0)), rate=r, concurrency=None if c is None else int(c), sweeps=(name,))
        for i in axes.get("i", [512])
        for o in axes.get("o", [256])
        for r in axes.get("r", [None])
        for c in axes.get("c", [None])
    ]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (many("s", i=[1, 2, 4]), [("input_len", {"output_len": 256})]),
        (many("s", c=[1, 4, 16, None]), [("max_concurrency", {"input_len": 512})]),
        (many("s", r=[1, 2]), [("request_rate", {"output_len": 256})]),
        (many("s", i=[128, 256, 512], r=[2, 6]), [("input_len", {"request_rate": 2}), ("input_len", {"request_rate": 6})]),
        (many("s", i=[128, 256], r=[1, 2, 4]), [("request_rate", {"input_len": 128}), ("request_rate", {"input_len": 256})]),
        ([record("a", (128, 256)), record("a", sweeps=("input", "one"))], [("input_len", {"output_len": 256})]),
        (many("s"), [("series", {"input_len": 512, "output_len": 256})]),
        ([record("a", sweeps=())], [("series", {"input_len": 512})]),
        (
            [record("a", (n, 256), prompts=p, sweeps=("s",)) for n in (512, 1024) for p in (10, 20)],
            [("input_len", {"num_prompts": 10}), ("input_len", {"num_prompts": 20})],
        ),
    ],
)
def test_panels_follow_what_varies(
    tmp_path: Path, records: list[Measurement], expected: list[tuple[str, dict[str, float]]]
) -> None:
    judged = repeats.judge(load_runs([write(tmp_path, records)]))
    found = panels(judged)
    assert [panel.x for panel in found] == [x for x, _ in expected]
    for panel, (x, fixed) in zip(found, expected, strict=True):
        assert fixed.items() <= dict(panel.fixed).items()
        assert panel.rows.groupby([x] if x != "series" else ["arm"]).size().tolist() == [1] * len(panel.rows)  # nothing is averaged
    draw_all(judged)


def test_runs_that_use_a_sweep_s_name_differently_get_panels_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "a", many("s", i=[128, 512]))
    write(tmp_path / "b", many("s", o=[256, 512, 1024]))
    assert [panel.x for panel in panels(repeats.judge(load_runs([tmp_path])))] == ["input_len", "output_len"]


def test_one_run_for_each_length_makes_one_panel(tmp_path: Path) -> None:
    for n in (128, 512):
        write(tmp_path / str(n), many("s", i=[n]))
    assert [panel.x for panel in panels(repeats.judge(load_runs([tmp_path])))] == ["input_len"]


def test_arms_differ_in_marker_dash_and_colour_and_predictions_are_hollow(tmp_path: Path) -> None:
    records = [record(f"arm_{i}", at) for i in range(5) for at in LENGTHS] + [record("arm_0", value=2.0, source="simulated")]
    ax = figure_of(tmp_path, records).axes[0]
    lines = [line(ax, f"arm_{i}") for i in range(5)]
    assert len({drawn.get_marker() for drawn in lines}) == len({str(drawn.get_color()) for drawn in lines}) == 5
    assert len({str(drawn._dash_pattern) for drawn in lines}) == 5  # type: ignore[attr-defined]
    predicted = line(ax, "arm_0 (simulated)")
    assert (predicted.get_color(), predicted.get_marker()) == (lines[0].get_color(), lines[0].get_marker())
    assert (predicted.get_linestyle(), predicted.get_markerfacecolor()) == (":", "white")


@pytest.mark.parametrize("arms", [1, 5, 14])
@pytest.mark.parametrize("lengths", [LENGTHS[:1], LENGTHS])
def test_legend_and_caption_cover_no_axes_and_are_not_clipped(
    tmp_path: Path, arms: int, lengths: tuple[tuple[int, int], ...]
) -> None:
    figure = figure_of(tmp_path, [record(f"a_rather_long_${i}_name", at) for i in range(arms) for at in lengths], "throughput")
    figure.draw_without_rendering()
    outer = [box.get_window_extent() for box in (*figure.legends, *figure.texts)]
    inner = [box for ax in figure.axes if (box := ax.get_tightbbox()) is not None]
    assert not [1 for box in outer for other in inner if box.overlaps(other)]
    assert all(
        figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1
        for box in (*outer, *inner)
    )
    assert len(figure.legends[0].texts) == arms


@pytest.mark.parametrize(("value", "unit", "drawn"), [(1999.0, "ms", 1999.0), (37380.0, "s", 37.38)])
def test_latency_is_in_seconds_where_it_is_large(tmp_path: Path, value: float, unit: str, drawn: float) -> None:
    ax = figure_of(tmp_path, [record("a", at, value=value) for at in LENGTHS], "ttft").axes[0]
    assert ax.get_ylabel() == f"Mean TTFT ({unit})"
    assert points(ax, "a")[0][1] == pytest.approx(drawn)


def test_no_bound_lies_an_octave_past_the_largest(tmp_path: Path) -> None:
    assert axis.positions([4, math.inf, 1]) == {1: 1, 4: 4, math.inf: 8}
    assert [axis.value_text(v) for v in (512, 2.5, 16384, 131072, math.inf)] == ["512", "2.5", "16k", "128k", "∞"]
    ax = figure_of(tmp_path, many("s", c=[1, 4, None])).axes[0]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "4", "∞"]


def test_labels_without_room_are_left_out() -> None:
    assert axis.fitting_labels(["1000", "1001", "2000"], [0.1, 0.11, 0.9], 0.021) == ["1000", "", "2000"]


def test_the_command_writes_pdf_with_truetype_and_png(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path / "run", [record(arm, at) for arm in ("pd", "route") for at in LENGTHS])
    assert main(["figures", str(run), "--out", str(tmp_path / "out" / "deep"), "--jobs", "1"]) == 0
    paths = [Path(path) for path in capsys.readouterr().out.split()]
    names = [*(q.file for q in QUANTITIES), "pareto", "crossover"]
    assert [path.name for path in paths] == [f"{name}.{kind}" for name in names for kind in ("pdf", "png")]
    for path in paths:
        data = path.read_bytes()
        assert data.startswith(b"%PDF" if path.suffix == ".pdf" else b"\x89PNG")
        if path.suffix == ".pdf":
            assert b"/CIDFontType2" in data
            assert not re.search(rb"/Subtype /Type3|/CreationDate", data)


def test_a_thousand_records_are_loaded_and_drawn_fast(tmp_path: Path) -> None:
    """10,000 load in 0.5 s and are drawn and saved in 5 s on one core; the bound is for a slow and shared one."""
    arms, lengths = [f"arm_{i}" for i in range(5)], [(128 + 16 * k, 256) for k in range(20)]
    write(tmp_path, [record(arm, at, i, value=float(i), sweeps=("input",)) for arm in arms for at in lengths for i in range(10)])
    begun = time.monotonic()
    figure = draw_all(load_runs([tmp_path]))["itl"].figure
    assert time.monotonic() - begun < 10
    assert len(points(figure.axes[0], "arm_3")) == 20
