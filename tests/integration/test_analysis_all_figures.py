"""A run folder with made-up numbers in; what is read back from every figure that is drawn from it, in both styles, out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from analysis.__main__ import main
from analysis.figures import all_figures, breakdown, crossover, latency, panels
from analysis.figures.activity import amount
from analysis.figures.all_figures import NEEDS, NO_SLO, drawings
from analysis.figures.breakdown import REST
from analysis.figures.by_workload import QUANTITIES
from analysis.figures.figure_files import Drawing, lay_out
from analysis.figures.style import MARKERS, PAPER, SCREEN, STYLES, Style, columns_of
from analysis.load.frame import load_runs, only
from analysis.load.request_files import FINE, reduce
from analysis.stats import metrics, repeats
from analysis.stats.repeats import evenly_spaced
from pdslurm.records.measurement import METRICS
from pdslurm.records.record_file import load_record
from tests.integration.test_analysis_figures import bars, line, points
from tests.synthetic import ARMS, Setting, write
from tests.unit.analysis.records_made import record
from tests.unit.analysis.records_made import write as save

SLO = {"ttft_ms": 400.0, "tpot_ms": 40.0}
SETTINGS = (
    *(Setting(input_len=n, prompts=30, sweep="input") for n in (512, 2048)),
    *(Setting(input_len=n, prompts=30, concurrency=1, sweep="floor") for n in (512, 2048)),
    *(Setting(prompts=30, concurrency=c, sweep="load") for c in (4, 7)),
    *(Setting(prompts=30, rate=r, sweep="rate") for r in (1.0, 4.0, 16.0)),
)
NAMES = [*(quantity.file for quantity in QUANTITIES), *NEEDS]
Drawn = Mapping[str, Drawing | str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three repeats of three arms; one record is made invalid, and its number is absurd."""
    folder = write(tmp_path_factory.mktemp("synthetic"), SETTINGS, arms=ARMS[:2] + ARMS[3:], timelines=True)
    path = min(folder.glob("points/synthetic_route_4/i512-o256-rinf-c4-*"))
    changed = load_record(path)
    absurd = dict.fromkeys(changed.metrics, 9e9)
    text = path.read_text()
    for name, value in changed.metrics.items():
        text = text.replace(f'"{name}": {value}', f'"{name}": {absurd[name]}')
    path.write_text(text.replace('"valid": true', '"valid": false').replace('"invalid_reasons": []', '"invalid_reasons": ["hit"]'))
    return folder


@pytest.fixture(scope="module")
def frame(run: Path) -> pd.DataFrame:
    return load_runs([run])


@pytest.fixture(scope="module")
def drawn(frame: pd.DataFrame) -> Drawn:
    return dict(drawings(frame, SCREEN, SLO))


def drawing(drawn: Drawn, name: str) -> Drawing:
    found = drawn[name]
    assert isinstance(found, Drawing), f"{name} needs {found}"
    return found


def axes(drawn: Drawn, name: str) -> list[Axes]:
    return drawing(drawn, name).figure.axes


def test_every_figure_is_drawn_once_and_in_order(drawn: Drawn) -> None:
    assert list(drawn) == NAMES
    assert [name for name, found in drawn.items() if isinstance(found, str)] == []


@pytest.mark.parametrize("name", NAMES)
def test_captions_count_what_is_left_out_and_no_figure_shows_it(drawn: Drawn, name: str) -> None:
    found = drawing(drawn, name)
    assert "80 valid of 81 tried; left out: 1 invalid" in found.caption
    assert "Cautions: made-up numbers" in found.caption
    drawn_to = [ax.dataLim.max for ax in found.figure.axes if np.isfinite(ax.dataLim.max).all()]
    assert np.max(drawn_to) < 1e8


@pytest.mark.parametrize("style", STYLES.values(), ids=list(STYLES))
def test_nothing_runs_into_anything(frame: pd.DataFrame, drawn: Drawn, style: Style) -> None:
    found = drawn if style is SCREEN else dict(drawings(frame, style, SLO))
    for name in NEEDS if style is SCREEN else NAMES:
        figure = drawing(found, name).figure
        lay_out(figure)
        side = [] if figure._supylabel is None else [figure._supylabel]  # type: ignore[attr-defined]
        outer = [text.get_window_extent() for text in (*figure.legends, *figure.texts, *side)]
        inner = [box for ax in figure.axes if (box := ax.get_tightbbox()) is not None]
        boxes = [*outer, *inner]
        overlaps = [(a, b) for i, a in enumerate(boxes) for b in boxes[max(i + 1, len(outer)) :] if a.overlaps(b)]
        assert overlaps == [], name
        edges = figure.bbox.padded(1)
        assert [box for box in (*outer, *inner) if not (edges.x0 <= box.x0 and box.x1 <= edges.x1)] == [], name
        assert [box for box in (*outer, *inner) if not (edges.y0 <= box.y0 and box.y1 <= edges.y1)] == [], name


def test_headings_and_captions_of_one_panel_are_not_clipped(frame: pd.DataFrame) -> None:
    for name, found in drawings(only(frame, "input_len=512,request_rate=4"), SCREEN):
        if isinstance(found, Drawing):
            widths = [text.get_window_extent().x1 for text in found.figure.texts]
            assert max(widths) <= found.figure.bbox.x1, name


def test_paper_is_a_column_wide_with_8_pt_and_its_caption_beside_it(frame: pd.DataFrame) -> None:
    figure = next(iter(drawings(frame, PAPER, SLO)))[1]
    assert isinstance(figure, Drawing)
    assert figure.figure.get_figwidth() == 3.4
    ax = figure.figure.axes[0]
    texts = [*ax.get_xticklabels(), *ax.get_yticklabels(), ax.title, ax.xaxis.label, *figure.figure.legends[0].texts]
    assert {text.get_fontsize() for text in texts} == {8.0}
    assert [text for text in figure.figure.texts if "left out" in text.get_text()] == []
    assert not figure.inside


def test_latency_against_concurrency_is_of_all_requests_with_intervals_over_repeats(frame: pd.DataFrame, drawn: Drawn) -> None:
    found = axes(drawn, "latency_concurrency")
    assert [ax.get_title("left").split(",")[0] for ax in found] == ["Median", "Median", "95th percentile", "95th percentile"]
    assert [ax.get_ylabel().split(" ")[0] for ax in found] == ["TTFT", "E2E", "TTFT", "E2E"]
    assert [tick.get_text() for tick in found[0].get_xticklabels()] == ["1", "4", "7", "∞"]
    mine = frame[(frame["arm"] == "synthetic_1p3d") & (frame["max_concurrency"] == 7)]
    ttft = np.concatenate([pd.read_csv(path)["ttft_ms"] for path in mine["requests_file"]])
    (value,) = [y for x, y in points(found[0], "synthetic_1p3d") if x == 7]
    factor = 0.001 if "(s)" in found[0].get_ylabel() else 1
    assert value == pytest.approx(np.median(ttft) * factor, rel=0.03)
    assert (
        "Percentile over all requests of 2 to 3 repeats per point; bars: 95 % t interval over repeats, of the "
        "logarithm (3 repeats or more); no bars: fewer than three repeats." in drawing(drawn, "latency_concurrency").caption
    )
    assert len(bars(found[0])) == 3 * 4 - 1, "one point has two repeats, and no bar"


def latency_of(frame: pd.DataFrame) -> Drawing:
    judged = repeats.judge(frame)
    reduced = reduce(judged, None)
    found = latency.of_concurrency(judged, reduced, panels.over(judged, "max_concurrency"))
    assert found is not None
    return found


def test_without_request_files_percentiles_are_means_over_repeats(frame: pd.DataFrame) -> None:
    found = latency_of(frame.assign(requests_file=None))
    assert "Mean of the percentile of 2 to 3 repeats per point; bars: 95 % t interval" in found.caption


def test_answers_that_were_not_streamed_have_e2e_alone(frame: pd.DataFrame) -> None:
    unknown = frame.copy()
    unknown[[name for name in METRICS if name.endswith("_ttft_ms")]] = np.nan
    assert [ax.get_ylabel() for ax in latency_of(unknown).figure.axes] == ["E2E latency (s)", ""]
    judged = repeats.judge(unknown)
    assert latency.over_floor(judged, panels.over(judged, "input_len")) is None
    assert len(all_figures.with_requests(judged, "e2el")) > len(all_figures.with_requests(judged, "ttft")) == 0


def test_the_floor_and_the_transfers_are_drawn_under_the_ttft(frame: pd.DataFrame, drawn: Drawn) -> None:
    ax = axes(drawn, "ttft_floor")[1]
    alone = frame[(frame["arm"] == "synthetic_alone") & (frame["max_concurrency"] == 1)].groupby("input_len")["mean_ttft_ms"].mean()
    assert dict(points(ax, "floor: synthetic_alone")) == pytest.approx(alone.to_dict())
    assert dict(points(ax, "KV transfer, synthetic_1p3d")) == pytest.approx({512: 4.024, 2048: 7.096})
    assert ax.get_yscale() == "log"


def test_goodput_is_drawn_by_gpu_with_its_slo(frame: pd.DataFrame, drawn: Drawn) -> None:
    (ax,) = axes(drawn, "goodput")
    assert ax.get_ylabel() == "Goodput (requests/s/GPU)"
    mine = frame[(frame["arm"] == "synthetic_route_4") & (frame["request_rate"] == 4)]
    tables = [pd.read_csv(path) for path in mine["requests_file"]]
    kept = [((table["ttft_ms"] <= 400) & (table["tpot_ms"] <= 40)).sum() for table in tables]
    expected = (np.array(kept) / mine["duration_s"].to_numpy() / 4).mean()
    assert dict(points(ax, "synthetic_route_4"))[4.0] == pytest.approx(expected)
    assert "Good requests: TTFT at most 400 ms, TPOT at most 40 ms." in drawing(drawn, "goodput").caption


def test_the_pareto_front_is_a_step_over_the_best_points(frame: pd.DataFrame, drawn: Drawn) -> None:
    ax = axes(drawn, "pareto")[0]
    judged = metrics.with_rates(repeats.judge(frame))
    part = metrics.tradeoff(judged[(judged["use"] == "used") & (judged["input_len"] == 512)])
    best = metrics.front(part)
    assert 2 <= len(best) < len(part)
    front = points(ax, "Pareto front")
    assert front[1:-1] == [tuple(row) for row in best[["mean_x", "mean_y"]].to_numpy().tolist()]
    assert line(ax, "Pareto front").get_drawstyle() == "steps-pre"
    assert (front[0][0], front[-1][1]) == (0, 0)


def test_cdfs_pass_through_their_marked_percentiles(drawn: Drawn) -> None:
    for name in ("cdf_ttft", "cdf_e2el", "cdf_itl"):
        ax = axes(drawn, name)[0]
        functions = [drawn_line for drawn_line in ax.lines if len(np.asarray(drawn_line.get_xdata())) > 3]
        marks = [drawn_line for drawn_line in ax.lines if drawn_line.get_marker() in MARKERS]
        assert len(functions) == len(marks) == 3
        for function, at in zip(functions, marks, strict=True):
            xs, ys = (np.asarray(data, dtype=float) for data in function.get_data())
            assert np.interp(np.asarray(at.get_xdata(), dtype=float), xs, ys) == pytest.approx([0.5, 0.95, 0.99], abs=0.01)
        assert ax.get_xscale() == "log"
        assert len({text.get_text() for text in drawing(drawn, name).figure.legends[0].texts}) == 3


def test_breakdown_bars_end_at_the_measured_ttft(drawn: Drawn) -> None:
    figure = drawing(drawn, "ttft_breakdown").figure
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert labels == ["API server", "scheduler queue", "prefill", "hand-over", "KV transfer", "first decode step", REST, "measured"]
    hatches = [handle.get_hatch() for handle in figure.legends[0].legend_handles if isinstance(handle, Patch)]
    assert len(set(hatches)) == len(hatches) == 7
    for ax in figure.axes:
        measured = np.asarray(ax.lines[-1].get_xdata(), dtype=float)
        ends = [sum(bar.get_width() for bar in ax.patches if round(bar.get_y() + 0.31) == i) for i in range(len(measured))]  # type: ignore[attr-defined]
        known = ~np.isnan(measured)
        assert np.array(ends)[known] == pytest.approx(measured[known])


def test_the_timeline_has_lanes_for_each_instance_of_each_arm(drawn: Drawn) -> None:
    found = axes(drawn, "timeline")
    assert [ax.get_title("left") for ax in found] == ["synthetic_1p3d", "synthetic_alone", "synthetic_route_4"]
    assert [tick.get_text().split()[0] for tick in found[0].get_yticklabels()] == ["engine0", "engine1", "engine2", "engine3"]
    assert "prefill" in found[0].get_yticklabels()[0].get_text()
    assert len({ax.get_xlim() for ax in found}) == 1
    assert "16 requests/s" in drawing(drawn, "timeline").caption


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (1, "requests", "1 request"),
        (12345, "tokens/s", "12.3k tokens/s"),
        (8.36e6, "B/s", "8.36 MB/s"),
        (0.5, "tokens/s", "0.5 tokens/s"),
    ],
)
def test_amounts_have_three_digits(value: float, unit: str, expected: str) -> None:
    assert amount(value, unit) == expected


def test_what_the_data_do_not_allow_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save(tmp_path / "run", [record()])
    out = tmp_path / "out"
    assert main(["figures", str(run), "--out", str(out), "--jobs", "1", "--style", "paper", "--formats", "svg"]) == 0
    said = capsys.readouterr()
    assert [Path(path).name for path in said.out.split()][:2] == ["throughput.svg", "throughput.txt"]
    assert said.err.splitlines() == [
        f"{name}: not drawn; it needs {NO_SLO if name == 'goodput' else needs}" for name, needs in NEEDS.items()
    ]
    assert "1 valid of 1 tried" in (out / "ttft.txt").read_text()
    assert not re.search(rb"<dc:date>", (out / "ttft.svg").read_bytes())


@pytest.mark.parametrize(
    ("option", "why"),
    [
        (["--slo", "ttft=5"], "slo=ttft=5: ttft=5 is no bound"),
        (["--only", "arm=x"], "only=arm=x: none of 1 records"),
        (["--formats", "gif"], "formats=gif: 'gif' is none; use some of pdf, png, svg"),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str], why: str) -> None:
    assert main(["figures", str(save(tmp_path, [record()])), "--out", str(tmp_path / "out"), *option]) == 2
    assert why in capsys.readouterr().err


def test_only_files_behind_what_is_shown_are_read(frame: pd.DataFrame) -> None:
    """Of many settings some panels are drawn; the rest must not cost time."""
    many = pd.concat([frame.assign(output_len=256 + i) for i in range(40)], ignore_index=True)
    wanted = all_figures.records_to_read(repeats.judge(many), SCREEN, None)
    assert 0 < len(wanted) < len(many) / 4
    assert set(many.loc[wanted, "valid"]) == {True}


@pytest.mark.parametrize(
    ("count", "most", "kept"), [(3, 6, [0, 1, 2]), (10, 4, [0, 3, 6, 9]), (9, 2, [0, 8]), (5, 1, [0]), (0, 3, [])]
)
def test_of_very_many_panels_some_at_even_distances_are_drawn(count: int, most: int, kept: list[int]) -> None:
    assert evenly_spaced(range(count), most) == kept


def test_panels_over_a_dimension_leave_out_pairs_that_another_sweep_made(frame: pd.DataFrame) -> None:
    over = panels.over(repeats.judge(frame), "max_concurrency")
    assert [dict(panel.fixed)["input_len"] for panel in over] == [512]
    assert len(panels.over(repeats.judge(frame[frame["max_concurrency"].isin([1, np.inf])]), "max_concurrency")) == 2


def test_loads_get_panels_of_their_own() -> None:
    rows = [
        {"input_len": n, "output_len": 9, "request_rate": np.inf, "max_concurrency": np.inf, "num_prompts": 5, "load": load,
         "sweeps": ("s",), "folder": "f"} for n in (1, 2) for load in ("random", "sharegpt")
    ]  # fmt: skip
    found = panels.panels(pd.DataFrame(rows))
    assert [dict(panel.fixed)["load"] for panel in found] == ["random", "sharegpt"]
    assert [panels.title(panel, found, 99) for panel in found][1] == "Input length varied, output 9 tokens, sharegpt"
    assert panels.fixed_text("input_len", 0) == "input as in the data set"


def test_bins_of_one_decade_are_as_fine_as_the_figures_say() -> None:
    assert pytest.approx(1.012, abs=5e-4) == 10 ** (1 / FINE)


@pytest.mark.parametrize(("lengths", "columns"), [([4, 4], 2), ([4] * 5, 5), ([60, 60], 1), ([], 1)])
def test_legends_have_as_many_columns_as_fit(lengths: list[int], columns: int) -> None:
    assert columns_of(lengths, SCREEN, 7.0) == columns


def test_a_part_below_0_lies_left_of_0_and_is_said(tmp_path: Path) -> None:
    """-1 of the API server, 8 of queue and prefill: the rest goes from 7, their sum, to the 10 that were measured."""
    none = {"handover_ms": None, "transfer_ms": None, "first_decode_ms": None}
    ttft = {"api_server_ms": -1.0, "queue_ms": 3.0, "prefill_ms": 5.0, **none, "sum_ms": 7.0, "measured_ms": 10.0, "error_ms": 3.0}
    judged = repeats.judge(load_runs([save(tmp_path, [record("route_2", value=10.0, telemetry={"ttft": ttft})])]))
    made = breakdown.ttft_parts(judged.assign(use="used"))
    assert made
    spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in made.figure.axes[0].patches if isinstance(bar, Rectangle)]
    assert [span for span in spans if span[0] != span[1]] == [(0, -1), (0, 3), (3, 8), (7, 10)]
    assert made.figure.axes[0].get_xlim()[0] < -1
    assert "In 1 bar a part came out below 0" in made.caption


# --- where disaggregation pays


def test_the_map_has_a_field_for_each_setting_with_the_lead_of_pd(tmp_path: Path) -> None:
    """1.5 times the other arm's number at 512, 0.8 times at 2048, and noise at 1024: better, worse, and of TTFT the contrary."""
    values = {512: (150.0, 151.0, 149.0), 2048: (80.0, 81.0, 79.0), 1024: (130.0, 70.0, 100.0)}
    records = [record("pd_1p", (n, 256), i, start=i, value=v) for n, each in values.items() for i, v in enumerate(each)]
    records += [record("route_2", (n, 256), i, start=i, value=100.0) for n in values for i in range(3)]
    made = crossover.crossover(repeats.judge(load_runs([save(tmp_path, records)])))
    assert made
    throughput, ttft, _ = made.figure.axes
    assert [text.get_text() for text in throughput.texts] == ["×1.5", "×0.969", "×0.8"]
    colours = [patch.get_facecolor() for patch in throughput.patches]
    assert [colours.index(colour) for colour in colours] == [0, 1, 2], "better, not distinguishable, worse"
    said = "a latency's ratio is the P/D arm's over the other's too"
    assert [text.get_text() for text in ttft.texts] == ["×1.5", "×0.969", "×0.8"], said
    assert [label.get_text() for label in throughput.get_xticklabels()] == ["512", "1024", "2048"]


def test_a_map_of_one_setting_is_none(tmp_path: Path) -> None:
    records = [record(arm, (512, 256), i) for arm in ("pd_1p", "route_2") for i in range(3)]
    assert crossover.crossover(repeats.judge(load_runs([save(tmp_path, records)]))) is None
