"""Judged records in, parts of the report out: numbers, TTFT taken apart, validity, every measurement with its files."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures.panels import NAMES, fixed_text
from analysis.load.frame import SETTING
from analysis.report.markup import Markup, href, html_table, join, link, tag
from analysis.report.summary import number_text
from analysis.report.svg_chart import CHART_METRICS, Group, Key
from analysis.stats import repeats
from pdslurm.records.measurement import TTFT_PARTS, TTFT_SHARES, TTFT_SUMS, TTFT_UNSPLIT, Check, Measurement, ttft_shares

MOST_JSON = 4_000_000  # bytes of records in the page; beyond that the links have to do
PART_WORDS = {part: part for part in TTFT_SHARES} | {
    TTFT_UNSPLIT: "API server and queue", "api_server": "API server", "queue": "scheduler queue",
    "handover": "hand-over", "first_decode": "first decode step",
}  # fmt: skip
COLOURS = {name: f"var(--k{i})" for name, i in zip(TTFT_SHARES, (4, 7, 2, 1, 3, 5, 6), strict=True)}

Row = Mapping[str, Any]  # of the judged frame


@dataclass(frozen=True)
class Page:
    """What the parts of a page share: judged records, each with its file's content, and where the page will lie."""

    judged: pd.DataFrame
    records: Mapping[str, Measurement]  # by path
    start: Path
    rows: Mapping[Key, Sequence[Row]]  # of each arm at each setting, in the order of settings
    groups: Mapping[Key, Group]

    @cached_property
    def varied(self) -> list[str]:
        """The parts of a setting that differ somewhere; the lengths where none does."""
        return [name for name in SETTING if self.judged[name].nunique() > 1] or list(SETTING[:2])

    def headings(self) -> list[str]:
        return [NAMES[name][0] if name in NAMES else name for name in self.varied]

    def setting(self, key: Key) -> list[str]:
        values = dict(zip(SETTING, key[1:], strict=True))
        return [cell(values[name]) for name in self.varied]


def page_of(judged: pd.DataFrame, records: Mapping[str, Measurement], start: Path) -> Page:
    """Judged records by arm and setting, each with an anchor and links to the files of its used repeats."""
    rows: dict[Key, list[Row]] = {}
    for row in judged.sort_values([*SETTING, "series"], kind="stable").to_dict("records"):
        rows.setdefault((row["series"], *(row[name] for name in SETTING)), []).append({str(k): v for k, v in row.items()})
    groups = {key: Group(f"g{n}", tuple(_links(some, records, start))) for n, (key, some) in enumerate(rows.items())}
    return Page(judged, records, start, rows, groups)


def _links(rows: Sequence[Row], records: Mapping[str, Measurement], start: Path) -> Iterator[tuple[str, str]]:
    for row in rows:
        if row["use"] == "used":
            yield f"repeat {row['repeat']}: record", href(Path(row["path"]), start)
            if raw := raw_file(records[row["path"]], Path(row["folder"])):
                yield f"repeat {row['repeat']}: raw data", href(raw, start)


def cell(value: Any) -> str:
    """`-` for what is not known."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return value if isinstance(value, str) else "∞" if value == math.inf else f"{value:g}"


def raw_file(record: Measurement, folder: Path) -> Path | None:
    """The client's whole result, where it is there."""
    raw = record.provenance.get("raw")
    path = folder / str(raw) if raw else None
    return path if path and path.is_file() else None


def numbers(page: Page) -> Markup:
    """Means and intervals of every measure, a row for each arm at each setting; each leads to its measurements."""
    used = page.judged[page.judged["use"] == "used"]
    if used.empty:
        return Markup()
    found = {m.metric: _means(used, m.metric) for m in CHART_METRICS}
    rows = []
    for key, group in page.groups.items():
        cells: list[object] = []
        for measure in CHART_METRICS:
            mean = found[measure.metric].get(key)
            cells.append(_spread(mean, group) if mean else "-")
        n = sum(row["use"] == "used" for row in page.rows[key])
        rows.append([*page.setting(key), key[0], tag("a", n, href=f"#{group.anchor}"), *cells])
    heading = [*page.headings(), "arm", "measurements", *(f"{m.axis} ({m.unit})" for m in CHART_METRICS)]
    fixed = ", ".join(fixed_text(name, used[name].iloc[0]) for name in SETTING if name not in page.varied)
    unit = repeats.plurals(repeats.units(used, ("series", *SETTING)))
    caption = f"Mean over {unit} [95 % t interval of the mean from 3 {unit} on]"
    return html_table(heading, rows, caption=f"{caption}; {fixed}" if fixed else caption, numbers=len(CHART_METRICS) + 1)


def _means(used: pd.DataFrame, metric: str) -> dict[Key, Row]:
    rows = repeats.aggregate(used, metric, ["series", *SETTING]).to_dict("records")
    return {(row["series"], *(row[name] for name in SETTING)): {str(k): v for k, v in row.items()} for row in rows}


def _spread(row: Row, group: Group) -> Markup:
    text = tag("a", number_text(row["mean"]), href=f"#{group.anchor}")
    if pd.isna(row["low"]):
        return text
    return join([text, " ", tag("span", f"[{number_text(row['low'])}, {number_text(row['high'])}]", class_="soft")])


def ttft(page: Page) -> Markup:
    """TTFT taken apart as the engines' metrics have it; nothing where no record has it."""
    rows = []
    shares = _shares(page)
    for key, group in page.groups.items():
        taken = [ttft_shares(page.records[row["path"]].telemetry) for row in page.rows[key] if row["use"] == "used"]
        known = [parts for parts in taken if parts]
        if known:
            means = {name: mean_of([parts.get(f"{name}_ms") for parts in known]) for name in (*shares, *TTFT_SUMS)}
            cells = [_part_cell(name, value, group) for name, value in means.items()]
            rows.append([*page.setting(key), key[0], bar(means), *cells])
    if not rows:
        return Markup()
    heading = [*page.headings(), "arm", "share", *(PART_WORDS[name] for name in shares), *TTFT_SUMS]
    caption = (
        "Milliseconds, means per request over repeats; error, empty in the strip: measured less the sum; -: no such part. A part "
        "below 0 is none that time can have: the strip leaves it out"
    )
    legend = (join([tag("span", "■ ", style=f"color: {COLOURS[name]}"), f"{PART_WORDS[name]}  "]) for name in shares)
    return join([tag("p", *legend), html_table(heading, rows, caption=caption, numbers=len(shares) + len(TTFT_SUMS))])


def _shares(page: Page) -> tuple[str, ...]:
    """The parts that the table has columns for: TTFT_UNSPLIT only where some record does not tell what it consists of."""
    is_told = page.judged.loc[page.judged["use"] == "used", f"ttft_{TTFT_UNSPLIT}_ms"].isna().all()
    return TTFT_PARTS if is_told else TTFT_SHARES


def _part_cell(name: str, value: float | None, group: Group) -> object:
    """A number that leads to its measurements, marked where a part is below 0."""
    is_wrong = value is not None and value < 0 and name in TTFT_SHARES
    how = "bad" if is_wrong else None
    return "-" if value is None else tag("a", number_text(value), href=f"#{group.anchor}", class_=how)


def bar(means: Mapping[str, float | None]) -> Markup:
    """The parts' shares of the measured TTFT as a strip, empty where no part explains it; the numbers stand beside it."""
    known = {name: means[name] or 0.0 for name in TTFT_SHARES if name in means}
    whole = max(sum(known.values()), means["measured"] or 0.0)
    if whole <= 0:
        return Markup("-")
    widths = {name: 100 * value / whole for name, value in known.items()}
    spans = (tag("span", style=f"width: {width:.1f}%; background: {COLOURS[name]}") for name, width in widths.items() if width > 0)
    said = ", ".join(f"{PART_WORDS[name]} {width:.0f} %" for name, width in widths.items())
    return tag("div", *spans, class_="parts", role="img", aria_label=said, title=said)


def mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def validity(page: Page) -> Markup:
    """How many measurements may be used, which not and why, and how each check went in each arm."""
    judged = page.judged
    out: list[object] = [tag("p", f"{repeats.left_out_text(judged)}.")]
    lost = judged[judged["use"] != "used"]
    if len(lost):
        rows = [_left_out_row(page, row) for some in page.rows.values() for row in some if row["use"] != "used"]
        out.append(html_table(["arm", "point", "", "why", "record"], rows, caption="Left out of every figure, mean and verdict"))
    changed = [row for some in page.rows.values() for row in some if row["disagrees"] != ""]
    if changed:
        rows = [
            [row["series"], str(page.records[row["path"]].point.get("id")), row["disagrees"], _link(page, row)] for row in changed
        ]
        out.append(
            html_table(
                ["arm", "point", "difference", "record"],
                rows,
                caption="Judged otherwise by today's rules than in the record's file",
            )
        )
    lacking = [row for some in page.rows.values() for row in some if row["unverified"]]
    if lacking:
        rows = [
            [row["series"], str(page.records[row["path"]].point.get("id")), ", ".join(row["unverified"]), _link(page, row)]
            for row in lacking
        ]
        out.append(
            html_table(["arm", "point", "unverified", "record"], rows, caption="Without the evidence that a decisive check needs")
        )
    out.append(_checks(page))
    return join(out)


def _left_out_row(page: Page, row: Row) -> list[object]:
    record = page.records[row["path"]]
    failed = [check for check in record.checks if check.ok is False]
    reasons = [str(reason) for reason in record.invalid_reasons]
    if row["use"] == "failed":
        reasons = [str(record.error or "unknown").strip().splitlines()[0], *reasons]
    if row["use"] == "superseded":
        reasons = ["measured again under another key: something that changes the number was changed; the newest stands"]
    why: list[object] = [tag("div", reason) for reason in dict.fromkeys(reasons)]
    proof = [tag("div", tag("strong", c.name), ": ", c.said, tag("pre", pretty(c.evidence), class_="wrap")) for c in failed]
    why += [tag("details", tag("summary", "evidence"), *proof)] if proof else []
    why += (
        [tag("details", tag("summary", "error"), tag("pre", record.error, class_="wrap"))] if "\n" in (record.error or "") else []
    )
    return [row["series"], str(record.point.get("id")), tag("span", row["use"], class_="bad"), join(why), _link(page, row)]


def _checks(page: Page) -> Markup:
    """A row for each check, a column for each arm: how often it was passed, failed, or could not be known."""
    arms = list(dict.fromkeys(page.judged["series"]))
    counts: dict[str, dict[str, list[Check]]] = {}
    for row in page.judged[["series", "path"]].itertuples():
        for check in page.records[str(row.path)].checks:
            counts.setdefault(check.name, {}).setdefault(str(row.series), []).append(check)
    if not counts:
        return tag("p", "No measurement was finished, so that no check was made.", class_="soft")
    rows = [[name, *(_outcome(by_arm.get(arm, [])) for arm in arms)] for name, by_arm in counts.items()]
    return html_table(
        ["check", *arms], rows, caption="Checks passed, over all measurements; the evidence of each stands with its measurement"
    )


def _outcome(checks: Sequence[Check]) -> Markup:
    """How often one check was passed; where it never applied, what it said most often."""
    if checks and all(check.ok is None and not check.unverified for check in checks):
        return tag("span", Counter(check.said for check in checks).most_common(1)[0][0], class_="soft")
    return _tally(checks)


def _tally(checks: Sequence[Check]) -> Markup:
    """`20 of 21, 1 failed`: of the checks that apply, how many were passed, failed, or could not be made for want of evidence."""
    asked = [check for check in checks if check.ok is not None or check.unverified]
    passed, failed = (sum(check.ok is outcome for check in asked) for outcome in (True, False))
    parts: list[object] = [tag("span", f"{passed} of {len(asked)}", class_="good" if passed == len(asked) else None)]
    parts += [tag("span", f", {failed} failed", class_="bad")] if failed else []
    parts += [f", {len(asked) - passed - failed} unverified"] if passed + failed < len(asked) else []
    return join(parts) if asked else Markup("-")


def _in_words(check: Check) -> str:
    return "unverified" if check.unverified else {True: "ok", False: "failed", None: "does not apply"}[check.ok]


def measurements(page: Page) -> Markup:
    """Every record, grouped as the marks are: its numbers, its files, its JSON."""
    size = sum(Path(path).stat().st_size for path in page.records)
    heading = [
        "repeat",
        "use",
        "seed",
        "completed",
        "output tok/s",
        "mean TTFT ms",
        "mean TPOT ms",
        "mean ITL ms",
        "checks",
        "files",
    ]
    kinds = ["n" if 4 <= i <= 7 else None for i in range(len(heading))]
    head = tag("thead", tag("tr", *(tag("th", h, scope="col", class_=kind) for h, kind in zip(heading, kinds, strict=True))))
    bodies = []
    for key, group in page.groups.items():
        values = dict(zip(SETTING, key[1:], strict=True))
        words = (
            f"{key[0]}: {', '.join(fixed_text(name, float(str(v))) if not isinstance(v, str) else v for name, v in values.items())}"
        )
        title = tag("tr", tag("th", words, colspan=len(heading), scope="rowgroup"), class_="group")
        ordered = sorted(page.rows[key], key=lambda row: (row["repeat"], str(row["started_at"])))
        body = (_measurement(page, row, embed=size <= MOST_JSON) for row in ordered)
        bodies.append(tag("tbody", title, *body, id=group.anchor))
    note = (
        ""
        if size <= MOST_JSON
        else " Their JSON and what each check found are not in this page: there are too many; the links lead to them."
    )
    caption = f"Links lead to the files while this page lies where it was written.{note}"
    inner = tag("table", tag("caption", caption), head, *bodies)
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label="Measurements")


def _measurement(page: Page, row: Row, *, embed: bool) -> Markup:
    record = page.records[row["path"]]
    files: list[object] = [_link(page, row)]
    if raw := raw_file(record, Path(row["folder"])):
        files += [" ", link(raw, page.start, "raw")]
    if embed:
        files += [" ", tag("details", tag("summary", "JSON"), tag("pre", pretty(asdict(record))))]
    numbers = (row["output_throughput_tok_s"], row["mean_ttft_ms"], row["mean_tpot_ms"], row["mean_itl_ms"])
    cells = [
        row["repeat"], tag("span", row["use"], class_=None if row["use"] == "used" else "bad"), row["seed"],
        f"{cell(row['completed'])} of {row['num_prompts']}", *(number_text(n) if pd.notna(n) else "-" for n in numbers),
        _check_details(record, embed=embed), join(files),
    ]  # fmt: skip
    return tag("tr", *(tag("td", c, class_="n" if 4 <= i <= 7 else None) for i, c in enumerate(cells)))


def _check_details(record: Measurement, *, embed: bool) -> Markup:
    """The checks of one measurement with what each found."""
    if not embed or not record.checks:
        return _tally(record.checks)
    rows = [[c.name, _in_words(c), c.said, pretty(c.evidence)] for c in record.checks]
    return tag(
        "details", tag("summary", _tally(record.checks)),
        html_table(["check", "", "found", "evidence"], rows, caption="Checks of this measurement"),
    )  # fmt: skip


def _link(page: Page, row: Row) -> Markup:
    return tag("a", "record", href=href(Path(row["path"]), page.start), title=Path(row["path"]).name)


def pretty(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)


def gpus(page: Page) -> Markup | None:
    """What the GPUs did in each arm at each setting, over its used measurements; None where no record tells it."""
    used = page.judged[page.judged["use"] == "used"]
    known = used.dropna(subset=["energy_j"])
    if known.empty:
        return None
    rows = []
    for key, mine in known.sort_values([*SETTING, "series"], kind="stable").groupby(["series", *SETTING], sort=False):
        watts = mine["energy_j"].sum() / mine["duration_s"].sum()
        cap = mine["power_cap_s"].sum(min_count=1) / mine["gpu_s"].sum(min_count=1)
        numbers = [number_text(watts), number_text(mine["j_per_token"].mean()), number_text(mine["mean_sm_mhz"].mean())]
        rows.append([key[0], *page.setting(key), *numbers, "not told" if pd.isna(cap) else f"{cap:.0%}"])
    heading = ["arm", *page.headings(), "power of all GPUs, W", "J per output token", "mean SM clock, MHz", "held by the power cap"]
    said = (
        "All GPUs that an arm is charged for count, idle ones too. The power cap's share is the part of the GPUs' time in which it "
        "held their clocks down."
    )
    return join([tag("p", said, class_="soft"), html_table(heading, rows, caption="What the GPUs did", numbers=4)])
