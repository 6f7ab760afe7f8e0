"""Loaded records and their run folders in, one HTML page out that needs nothing else: verdict, figures, evidence, provenance.

Nothing is fetched: style and script are in the page, and its own policy forbids the browser anything else, scripts that came in
with a record too. Links lead to the records where the page lies in or beside the runs; where
they are few their JSON is in the page as well."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd

from analysis.figures.all_figures import drawings
from analysis.figures.by_workload import MAX_PANELS
from analysis.figures.figure_files import Drawing
from analysis.figures.panels import fixed_text, panels
from analysis.figures.style import series_styles
from analysis.load import slo
from analysis.load.frame import SETTING
from analysis.load.provenance import Provenance
from analysis.load.recheck import judge_records
from analysis.report import diagnosis, measurement_sections, setup_sections, tuning
from analysis.report.capacity_table import capacity_tables
from analysis.report.markup import Markup, html_table, join, tag
from analysis.report.slo_panel import slo_panels
from analysis.report.summary import paragraphs, tables
from analysis.report.svg_chart import CHART_METRICS, Group, Key, chart, swatch
from analysis.stats import repeats
from analysis.stats.inference import ratio_text
from analysis.stats.repeats import comparable
from analysis.stats.sweeps import Sweep, interest_of, slo_of, sweeps_of
from analysis.stats.verdict import SAME, SAME_WITHIN, Decision, decide_capacity, decisions_of, with_interest
from pdslurm.errors import ResultsError
from pdslurm.records.whole_file import write_text

HERE = Path(__file__).parent
MOST_MARKS = 1000  # in a vector figure; one with more goes in as a picture
MOST_DECISIONS = 200  # settings whose comparisons are listed
OPEN_CHARTS = 3  # of CHART_METRICS; the others are folded
Section = tuple[str, str, Callable[[], object]]  # anchor, heading, what is in it
# In the menu, where it is not the heading.
SHORT = {"ttft": "TTFT", "plans": "Arms", "slo": "SLO", "capacities": "Capacity", "diagnosis": "Diagnosis", "gpus": "GPUs"}


def page_html(frame: pd.DataFrame, out: Path) -> str:
    """The page that will lie at `out`. Raises ResultsError when a record or a run's file cannot be read."""
    judged = repeats.judge(frame)
    files = zip(map(Path, judged["path"]), map(Path, judged["folder"]), strict=True)
    records = {str(today.path): today.record for today in judge_records(files)}
    runs = [Provenance(Path(folder)) for folder in dict.fromkeys(judged["folder"])]
    page = measurement_sections.page_of(judged, records, out.parent)
    sweeps, known = sweeps_of(judged), slo_of(judged)
    sections: list[Section] = [
        ("verdict", "Verdict", lambda: verdict(judged, sweeps)),
        ("slo", "Which SLO?", lambda: slo_panels(sweeps, known, interest=interest_of(judged))),
        ("capacities", "Capacity of each arm", lambda: capacity_tables(sweeps, known)),
        ("tuning", "Tuning", lambda: tuning.section(judged)),
        ("diagnosis", "What each arm suffers from", lambda: diagnosis.section(judged)),
        ("figures", "Figures", lambda: interactive_charts(judged, page.groups)),
        ("numbers", "Numbers", lambda: measurement_sections.numbers(page)),
        ("ttft", "Where the time to first token goes", lambda: measurement_sections.ttft(page)),
        ("gpus", "What the GPUs did", lambda: measurement_sections.gpus(page)),
        ("print", "Figures for print", lambda: figures_for_print(frame)),
        ("validity", "Validity", lambda: measurement_sections.validity(page)),
        ("fairness", "Fairness", lambda: setup_sections.fairness(runs)),
        ("plans", "Arms and processes", lambda: setup_sections.plans(runs, out.parent)),
        ("provenance", "Provenance", lambda: setup_sections.provenance(runs, out.parent)),
        ("measurements", "Measurements", lambda: measurement_sections.measurements(page)),
    ]
    made = [(anchor, heading, content()) for anchor, heading, content in sections]
    shown = [(anchor, heading, content) for anchor, heading, content in made if content]
    body = join(
        tag("section", tag("h2", heading, id=anchor), content, aria_labelledby=anchor) for anchor, heading, content in shown
    )
    menu = tag("nav", tag("ul", *(tag("li", tag("a", SHORT.get(a, h), href=f"#{a}")) for a, h, _ in shown)), aria_label="Sections")
    return document(title_of(judged), menu, head(judged, runs), body)


def document(title: str, menu: Markup, header: Markup, body: Markup) -> str:
    """The whole file. The policy names the script by its hash, so that no other runs."""
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    meta = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(style)),
    ]
    foot = tag(
        "footer",
        "Made by pdslurm (python -m analysis report). Values of marks are means over repeats; folded sections open by a click.",
    )
    tip = tag("div", id="tip", role="dialog", aria_label="About this point", tabindex="-1", hidden=True)
    content = [tag("header", header), menu, tag("main", body), foot, tip, tag("script", Markup(script))]
    return f"<!DOCTYPE html>\n{tag('html', tag('head', *meta), tag('body', *content), lang='en')}\n"


def title_of(judged: pd.DataFrame) -> str:
    return f"pdslurm report: {', '.join(dict.fromkeys(judged['run'].astype(str)))}"


def head(judged: pd.DataFrame, runs: Sequence[Provenance]) -> Markup:
    """What was measured, where, when, and what limits its worth."""
    where = [f"{(r.plan or {}).get('model', 'unknown model')} on cluster {(r.plan or {}).get('cluster', 'unknown')}" for r in runs]
    arms = list(dict.fromkeys(judged["series"]))
    when = sorted(judged["started_at"].astype(str))
    days = f"{when[0][:16].replace('T', ' ')} to {when[-1][:16].replace('T', ' ')} UTC"
    line = f"{'; '.join(dict.fromkeys(where))} · {repeats.plural(len(arms), 'arm')} · {days} · {repeats.left_out_text(judged)}"
    cautions, gone = repeats.cautions(judged), repeats.withdrawn_text(judged)
    banner = tag("p", tag("strong", gone), class_="caution", role="alert") if gone else None
    caution = tag("p", tag("strong", "Limits of the evidence: "), "; ".join(cautions), class_="caution") if cautions else None
    return join([tag("h1", title_of(judged)), banner, tag("p", line, class_="soft"), caution])


def verdict(judged: pd.DataFrame, sweeps: Sequence[Sweep]) -> Markup:
    """The verdict's paragraphs as prose, each decision behind it as a row, the text's own tables as they are."""
    frame = judged.drop(columns=["use", "series"])
    said = [tag("p", " ".join(p.split()), class_="verdict" if i == 0 else None) for i, p in enumerate(paragraphs(frame))]
    text = "\n\n".join(tables(frame))
    folded = tag("details", tag("summary", "The same as tables of text"), tag("pre", text, tabindex="0")) if text else None
    return join([*said, decisions(judged, sweeps), folded])


def decisions(judged: pd.DataFrame, sweeps: Sequence[Sweep]) -> Markup | None:
    """The best P/D arm's number as a multiple of the best other arm's, at every setting; nothing where arms of one kind are
    missing."""
    used = comparable(judged[judged["use"] == "used"])
    settings = used.groupby(list(SETTING)).ngroups
    if settings > MOST_DECISIONS:
        return tag("p", f"The comparisons at each of {settings} settings are not listed: there are too many.", class_="soft")
    known, interest = slo_of(judged), interest_of(judged)
    by_capacity = decide_capacity(sweeps, *known, interest=interest) if known else ()
    found = decisions_of(used, by_capacity, interest=interest)
    if not found:
        return None
    over = repeats.transports(used)
    words = [", ".join(fixed_text(name, value) for name, value in d.setting.items()) for d in found]
    rows = [
        [
            setting,
            f"{d.measure.words}, {d.measure.better} is better",
            d.pd_arm,
            over.get(d.pd_arm, "unknown"),
            d.plain_arm,
            f"{ratio_text(d.ratio)} times the other's",
            " and ".join(map(str, d.ratio.starts)),
            answer_text(d),
        ]
        for d, setting in zip(found, words, strict=True)
    ]
    heading = ["workload", "by", "best P/D arm", "its KV over", "best other arm", "P/D's number is", "starts", "answer"]
    caption = (
        "The P/D arm's number over the other's: ratio over starts with its 95 % interval, of one start within that start. "
        "Above 1 it is better by what should be high, and worse by a latency"
    )
    count = tag("summary", repeats.plural(len(rows), "comparison"))
    return tag("details", count, html_table(heading, rows, caption=caption))


def answer_text(decision: Decision) -> str:
    """`disaggregate`, `the same within 5 %`."""
    return with_interest(SAME_WITHIN, decision.ratio.interest) if decision.outcome == SAME else decision.outcome


def interactive_charts(judged: pd.DataFrame, groups: Mapping[Key, Group]) -> Markup:
    """A legend that switches arms, and a chart for each measure and panel; what is asked first is open."""
    every = panels(judged)
    found = every[:MAX_PANELS]
    styles = series_styles(judged)
    legend = tag(
        "div", *(swatch(label, style) for label, style in styles.items()), class_="legend", role="group", aria_label="Arms"
    )
    out: list[object] = [
        tag(
            "p",
            "Point at a mark, or move to it with Tab, for its value, interval and records; click to keep that open.",
            class_="soft",
        )
    ]
    for i, measure in enumerate(CHART_METRICS):
        drawn = tag("div", *(chart(panel, found, measure, styles, groups.get) for panel in found), class_="charts")
        heading = f"{measure.heading}: {measure.better} is better"
        if i < OPEN_CHARTS:
            out += [tag("h3", heading), legend if i == 0 else None, drawn]
        else:
            out.append(tag("details", tag("summary", heading), drawn))
    if len(every) > MAX_PANELS:
        out.append(tag("p", f"{len(every) - MAX_PANELS} more panels are not drawn; give fewer runs."))
    return join(out)


def figures_for_print(frame: pd.DataFrame) -> Markup:
    """Every figure of `python -m analysis figures`, as it goes into a paper."""
    shown, missing = [], []
    try:
        for name, drawing in drawings(frame, slo=slo.of_runs(sorted(frame["folder"].unique()))):
            if isinstance(drawing, str):
                missing.append(tag("li", f"{name}: not drawn; it needs {drawing}"))
                continue
            words = " ".join(" ".join(text.get_text().split()) for text in drawing.figure.texts)
            shown.append(tag("figure", tag("img", src=picture(drawing), alt=f"{name}: {words}", loading="lazy")))
    except ResultsError as error:
        return tag("p", str(error))
    how = "As vector files: python -m analysis figures RUN --out DIR."
    return join([tag("p", how, class_="soft"), tag("div", *shown, class_="print"), tag("ul", *missing, class_="soft")])


def picture(drawing: Drawing) -> str:
    """A data: address of the figure; as an image its text cannot become part of the page."""
    figure = drawing.figure
    marks = sum(len(line.get_xdata()) for ax in figure.axes for line in ax.lines)  # type: ignore[arg-type, misc]
    kind, mime = ("svg", "image/svg+xml") if marks <= MOST_MARKS else ("png", "image/png")
    file = io.BytesIO()
    with mpl.rc_context({**drawing.rc, "svg.hashsalt": "pdslurm"}):
        figure.savefig(file, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return f"data:{mime};base64,{base64.b64encode(file.getvalue()).decode()}"


def write_page(frame: pd.DataFrame, out: Path) -> Path:
    """Writes the page. Raises ResultsError when it cannot."""
    return write_text(out, page_html(frame, out), advice="choose another --out")
