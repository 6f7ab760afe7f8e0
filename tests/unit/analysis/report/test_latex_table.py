"""Records in; the rows, the comment and the syntax of the LaTeX table out."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from analysis.__main__ import main
from analysis.load.frame import load_runs
from analysis.report.latex_table import ESCAPES, cell_text, escaped, to_latex, to_text
from pdslurm.records.measurement import Measurement
from tests.unit.analysis.records_made import failed, record, two_arms, write

LATEX = next((name for name in ("pdflatex", "lualatex", "xelatex", "tectonic") if shutil.which(name)), None)
DOCUMENT = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n%s\n\\end{document}\n"
ODD = "a_1 & b% #2 {x} $y ~^\\"


def latex_of(folder: Path, records: list[Measurement]) -> str:
    return to_latex(load_runs([write(folder, records)]))


def rows_of(text: str) -> list[list[str]]:
    """The cells of every row, the heading first."""
    body = [line for line in text.splitlines() if line.endswith("\\\\")]
    return [re.split(r"(?<!\\) & ", line.removesuffix(" \\\\")) for line in body]


def comment_of(text: str) -> str:
    return " ".join(line.removeprefix("% ") for line in text.splitlines() if line.startswith("%"))


def check(text: str, folder: Path) -> None:
    """Compiles the table where LaTeX is installed; counts braces, columns and bare special characters in any case."""
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    bare = re.sub(r"\\[\\{}&%$#_]", "", "\n".join(lines))
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert re.findall(r"[%#_~^]", bare) == []
    (columns,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)
    assert {len(row) for row in rows_of(text)} == {len(columns)}
    order = [line for line in lines if (line.startswith("\\") and "rule" in line) or "tabular" in line]
    assert [re.sub(r"\{[lr]+\}$", "", line) for line in order] == [
        "\\begin{tabular}", "\\toprule", "\\midrule", "\\bottomrule", "\\end{tabular}",
    ]  # fmt: skip
    if LATEX:
        (folder / "t.tex").write_text(DOCUMENT % text, encoding="utf-8")
        options = [] if LATEX == "tectonic" else ["-interaction=nonstopmode", "-halt-on-error"]
        subprocess.run([LATEX, *options, "t.tex"], cwd=folder, check=True, capture_output=True, timeout=120)


def test_a_row_for_each_setting_and_arm(tmp_path: Path) -> None:
    """s = 2, t(2) = 4.303: 12 ± 4.303 · 2 / √3; 2 GPUs; two repeats have no interval."""
    records = two_arms({"pd_1p": [10.0, 12.0, 14.0], "route_2": [5.0, 6.0]}) + two_arms({"pd_1p": [3.0]}, (1024, 256))
    text = latex_of(tmp_path / "run", [*records, failed("route_2", (1024, 256))])
    assert rows_of(text) == [
        ["Input length (tokens)", "Arm", "Repeats", "Output tokens/s/GPU", "Mean TTFT (ms)", "Mean TPOT (ms)", "p99 TTFT (ms)"],
        ["512", r"pd\_1p", "3", "6.00 [3.52, 8.48]", *["12.00 [7.03, 16.97]"] * 3],
        ["512", r"route\_2", "2", "2.75", *["5.50"] * 3],
        ["1024", r"pd\_1p", "1", "1.50", *["3.00"] * 3],
    ]
    assert text.count("\\addlinespace") == 1
    check(text, tmp_path)
    said = comment_of(text)
    assert said.startswith(
        "Mean of 1 to 3 repeats per point; in brackets the 95 % t interval of the mean over repeats, from 3 repeats on. Model "
        "unknown, engine unknown, GPU unknown, 2 GPUs an arm. Input 512 to 1024 tokens, output 256 tokens. 24 prompts a "
        "measurement, all sent at once. 6 valid of 6 tried; left out: 1 failed"
    )
    assert said.endswith("Needs \\usepackage{booktabs}.")


def test_what_never_varies_is_no_column_and_calibration_no_row(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("slo:\n  ttft_ms: 500.0\n")
    swept = [record(arm, rate=rate, prompts=int(20 * rate)) for arm in ("pd", "route") for rate in (1.0, 2.5)]
    text = latex_of(tmp_path / "run", [*swept, record("route", prompts=512, sweeps=("saturated",))])
    assert [row[:2] for row in rows_of(text)[1:]] == [["1", "pd"], ["1", "route"], ["2.5", "pd"], ["2.5", "route"]]
    assert rows_of(text)[0][0] == "Request rate (requests/s)", "the number of prompts follows from the rate"
    said = comment_of(text)
    for part in (
        "At a fixed request rate throughput is the load that was offered, and judges no arm.",
        "Input 512 tokens, output 256 tokens. SLO: TTFT at most 500 ms.",
        "20 to 50 prompts a measurement, no bound in flight.",
        "1 of the valid ones calibrates the search, with all requests at once, and is not shown.",
    ):
        assert part in said
    check(text, tmp_path)


def test_special_characters_are_escaped(tmp_path: Path) -> None:
    text = latex_of(tmp_path / "run", [record("a_1 & b% #2 {x} $y ~^", concurrency=c, value=None) for c in (4, None)])
    check(text, tmp_path)
    assert [row[0] for row in rows_of(text)] == ["Requests in flight, at most", "4", r"$\infty$"]
    assert rows_of(text)[1][1:] == [r"a\_1 \& b\% \#2 \{x\} \$y \textasciitilde{}\textasciicircum{}", "1", "-", "-", "-", "-"]
    assert escaped(ODD).endswith(r"\textasciicircum{}\textbackslash{}")
    assert all(escaped(character) == written != character for character, written in ESCAPES.items())


def test_text_has_the_same_rows_and_words(tmp_path: Path) -> None:
    frame = load_runs([write(tmp_path, two_arms({"pd": [1.0, 2.0, 3.0], "route": [4.0]}))])
    text = to_text(frame)
    assert [line.split()[:2] for line in text.splitlines()[-2:]] == [["pd", "3"], ["route", "1"]]
    assert " ".join(text.partition("\n\n")[0].split()) == comment_of(to_latex(frame)).removesuffix(" Needs \\usepackage{booktabs}.")


@pytest.mark.parametrize(
    ("cell", "text"), [(512, "512"), (131072, "131072"), (9.54, "9.54"), (float("inf"), "∞"), (float("nan"), "-"), ("a", "a")]
)
def test_cells(cell: object, text: str) -> None:
    assert cell_text(cell) == text


def test_the_command_prints_csv_unless_it_is_told_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(write(tmp_path, [record()]))
    printed = []
    for option in ([], ["--format", "csv"], ["--format", "latex"], ["--format", "text"]):
        assert main(["table", run, *option]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert [text.split()[0][:3] for text in printed] == ["arm", "arm", "%", "Mea"]
    assert main(["table", str(write(tmp_path / "none", [failed("a")])), "--format", "latex"]) == 2
    assert "nothing to draw" in capsys.readouterr().err
