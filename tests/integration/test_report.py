"""Records and run folders from a small factory in; what the report's page holds out, as an HTML parser reads it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.figures.all_figures import drawings
from analysis.figures.by_workload import require_used
from analysis.figures.figure_files import Drawing
from analysis.figures.style import COLOURS, MARKERS
from analysis.load.frame import load_runs
from analysis.report import measurement_sections
from analysis.report.html_page import HERE, page_html
from analysis.report.markup import Markup, href, tag
from analysis.report.svg_chart import SHAPES, nice_step
from analysis.stats import repeats
from pdslurm.records.measurement import Check, Measurement
from pdslurm.records.whole_file import write_json
from tests.swept import write_run
from tests.unit.analysis.records_made import failed, invalid, record, two_arms, write

EVIL = '<script>alert("1")</script>'
TTFT = {
    "api_server_ms": 3.0, "queue_ms": 7.0, "prefill_ms": 20.0, "handover_ms": 1.5, "transfer_ms": 4.25, "first_decode_ms": None,
    "sum_ms": 35.75, "measured_ms": 36.0, "error_ms": 0.25,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_figures_for_print(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real ones take most of a second; they have tests of their own, and one below."""

    def none(frame: pd.DataFrame, **_: object) -> Iterator[tuple[str, Drawing | str]]:
        require_used(repeats.judge(frame))
        return iter(())

    monkeypatch.setattr("analysis.report.html_page.drawings", none)


@dataclass
class Read(HTMLParser):
    """Elements with their attributes, and the text outside of style and script."""

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    inside: str = ""
    scripts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside != "style":
            (self.scripts if self.inside == "script" else self.texts).append(data)

    def all(self, name: str, **attributes: str) -> list[dict[str, str]]:
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}
        return [found for tag, found in self.elements if tag == name and wanted.items() <= found.items()]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def read(page: str) -> Read:
    reader = Read()
    reader.feed(page)
    return reader


def page_of(folder: Path, records: list[Measurement], **files: Any) -> str:
    write(folder, records)
    for name, value in files.items():
        write_json(folder / f"{name}.json", value)
    return page_html(load_runs([folder]), folder / "report.html")


def four(**more: Any) -> list[Measurement]:
    return [
        record(arm, at, i, value=v + i, **more)
        for arm, v in (("a", 10.0), ("b", 20.0))
        for at in ((512, 256), (1024, 256))
        for i in (0, 1)
    ]


def test_nothing_outside_the_page_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.report.html_page.drawings", drawings)
    page = page_of(tmp_path, four())
    assert not re.search(r"(https?|ftp|file|wss?):", page)
    found = read(page)
    addresses = [e[name] for _, e in found.elements for name in ("href", "src", "srcset", "action", "data", "poster") if name in e]
    assert addresses
    assert [a for a in addresses if not re.match(r"#|\./|\.\./|data:image/(svg\+xml|png);base64,", a)] == []
    assert not re.search(r"@import|url\(", page)
    assert not found.all("link")
    assert not found.all("iframe")
    assert len(found.all("img")) >= 4
    for image in found.all("img"):
        # An XML namespace is a name that no one fetches, so that pictures may have some.
        drawing = base64.b64decode(image["src"].partition(",")[2]).decode()
        assert not re.search(r"""(href|src)\s*=\s*["'](?!#)|url\((?!#)""", drawing)
        assert image["alt"]


def test_the_policy_allows_the_pages_own_script_alone(tmp_path: Path) -> None:
    found = read(page_of(tmp_path, four()))
    (script,) = found.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [e["content"] for e in found.all("meta") if e.get("http-equiv") == "Content-Security-Policy"]
    assert f"script-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert not [name for _, e in found.elements for name in e if name.startswith("on")]


def test_whatever_a_record_says_is_text(tmp_path: Path) -> None:
    checks = (Check(EVIL, False, EVIL, {EVIL: EVIL}),)
    evil = [
        record(
            EVIL,
            value=1.0,
            repeat=0,
            checks=(Check(EVIL, True, EVIL, {EVIL: EVIL}),),
            telemetry={"ttft": TTFT},
            provenance={"cautions": [EVIL], "raw": EVIL},
            run=EVIL,
        ),
        failed("b"),
        invalid("c"),
    ]
    evil[1] = Measurement(**{**vars(evil[1]), "error": f"{EVIL}\n{EVIL}"})
    evil[2] = Measurement(**{**vars(evil[2]), "invalid_reasons": (EVIL,), "checks": checks})
    for item in evil:
        write_json(
            tmp_path / "points" / "x" / f"{item.arm[0].replace('<', 'e')}-{item.key}.json",
            json.loads(json.dumps(vars(item), default=vars)),
        )
    process = {
        "name": EVIL,
        "kind": "engine",
        "role": EVIL,
        "set": "s",
        "port": 1,
        "argv": [EVIL],
        "env": {EVIL: EVIL},
        "roles": {EVIL: EVIL},
    }
    write_json(
        tmp_path / "plan.json",
        {"model": EVIL, "cluster": EVIL, "sets": [{"name": "s", "arms": [EVIL], "gpus": EVIL}], "processes": [process]},
    )
    finding = {"field": EVIL, "values": {EVIL: EVIL}, "why": EVIL, "explained": EVIL}
    write_json(tmp_path / "fairness.json", {"differs": [finding], "forced": [finding], "same": {EVIL: EVIL}})
    versions = {
        "code": {"commit": EVIL, "command": [EVIL]},
        "host": {"hostname": EVIL, "gpus": [EVIL], "gpu_topology": EVIL},
        "engine": {EVIL: EVIL},
    }
    write_json(tmp_path / "versions.json", versions)
    page = page_html(load_runs([tmp_path]), tmp_path / "report.html")
    found = read(page)
    assert page.count("<script") == 1
    assert len(found.scripts) == 1
    assert EVIL not in found.scripts[0]
    assert found.text.count("alert(") > 20
    assert {json.loads(e["data-tip"])["arm"] for e in found.all("a", class_="point")} == {EVIL}


def test_every_number_leads_to_its_records(tmp_path: Path) -> None:
    found = read(page_of(tmp_path, four()))
    ids = [e["id"] for _, e in found.elements if "id" in e]
    assert len(ids) == len(set(ids))
    inner = [e["href"][1:] for e in found.all("a") if e.get("href", "").startswith("#")]
    assert inner
    assert set(inner) <= set(ids)
    files = [unquote(e["href"]) for e in found.all("a") if e.get("href", "").startswith("./")]
    records = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("points/*/*.json")}
    assert len(records) == 8
    assert records <= {file.removeprefix("./") for file in files}
    assert all((tmp_path / file).is_file() for file in files)


def test_a_mark_says_arm_setting_value_interval_and_repeats(tmp_path: Path) -> None:
    found = read(
        page_of(tmp_path, [record("a", (n, 256), i, value=v) for n in (512, 1024) for i, v in enumerate((10.0, 12.0, 14.0))])
    )
    marks = found.all("a", class_="point")
    tips = [json.loads(e["data-tip"]) for e in marks]
    (tip,) = [t for t in tips if t["measure"] == "Output token throughput" and t["setting"].startswith("input 512")]
    assert (tip["arm"], tip["value"], tip["n"]) == ("a", "12.00 tokens/s", "3 repeats")
    assert tip["setting"] == "input 512 tokens, output 256 tokens, request rate unbounded, no bound in flight, 24 prompts, random"
    # mean 12, standard deviation 2, t = 4.303 with 2 degrees of freedom: 12 ± 4.303·2/√3
    assert tip["spread"] == "95 % interval of the mean within the one start: 7.03 to 16.97 tokens/s"
    assert [text for text, _ in tip["links"]] == ["repeat 0: record", "repeat 1: record", "repeat 2: record"]
    assert all((tmp_path / unquote(address)).is_file() for _, address in tip["links"])
    assert all(e["aria-label"] and e["href"].startswith("#g") for e in marks)


def test_failed_and_invalid_points_are_listed_with_reason_and_evidence(tmp_path: Path) -> None:
    bad = Check("preemptions", False, "3 transfers failed", {"failed_transfers": 3})
    items = [
        *four(checks=(Check("completed", True, "24 of 24"), Check("clocks", None, "no nvidia-smi"))),
        failed("a", (512, 256), 7),
    ]
    items.append(record("b", (512, 256), 8, valid=False, invalid_reasons=("3 transfers failed",), checks=(bad,)))
    page = page_of(tmp_path, items)
    text = read(page).text
    assert "8 valid of 9 tried; left out: 1 failed, 1 invalid" in text
    assert "client exited with code 1" in text
    assert '"failed_transfers": 3' in text
    section = page[page.index('id="validity"') : page.index('id="fairness"')]
    assert "4 of 4" in section
    assert "no KV is handed over in this arm" in section, "what does not apply is said, not counted"
    assert "1 failed" in section


def test_ttft_is_taken_apart_where_records_have_it(tmp_path: Path) -> None:
    assert 'id="ttft"' not in page_of(tmp_path / "without", four())
    page = page_of(tmp_path / "with", four(telemetry={"ttft": TTFT}))
    section = page[page.index('id="ttft"') : page.index('id="print"')]
    text = read(section).text
    assert "API server scheduler queue prefill hand-over transfer first decode step sum measured error" in text
    assert "3.00 7.00 20.00 1.50 4.25 - 35.75 36.00 0.2500" in text.replace("[", "")
    assert "API server 8 %, scheduler queue 19 %, prefill 56 %, hand-over 4 %, transfer 12 %, first decode step 0 %" in section


def test_fairness_plans_and_provenance_come_from_the_run_folder(tmp_path: Path) -> None:
    differs = [
        {"field": "router_policy", "values": {"a": "round_robin", "b": "random"}, "why": "it spreads load", "explained": None}
    ]
    engine = {"kind": "engine", "set": "s", "argv": ["vllm", "serve"], "env": {"X": "a b"}, "node": 0, "host": "n", "gpus": [0, 1]}
    plan = {
        "model": "m", "cluster": "c", "nodes": 1, "gpus": 4, "sets": [{"name": "s", "arms": ["a", "b"], "gpus": 4}],
        "processes": [
            {**engine, "name": "engine0", "role": "any", "port": 8000, "roles": {"a": "prefill", "b": "decode"}},
            {**engine, "name": "engine1", "role": "decode", "port": 8001, "roles": {"a": "decode", "b": "decode"}},
            {"kind": "router", "name": "router", "role": "router", "arm": "a", "argv": ["vllm-router"], "port": 8002},
        ],
    }  # fmt: skip
    versions = {
        "engine": {"vllm": "0.32.0", "nixl": None},
        "code": {"commit": "abc", "dirty": True, "command": ["pdslurm", "x y"]},
        "host": {"hostname": "h"},
    }
    text = read(
        page_of(tmp_path, four(), fairness={"differs": differs, "forced": [], "same": {"gpus": "4"}}, plan=plan, versions=versions)
    ).text
    assert "1 difference between the arms that their topologies do not force: router_policy : round_robin (a); random (b)" in text
    assert "Unexplained: it spreads load" in text
    assert "1 prefill, 1 decode" in text
    assert "2 decode" in text
    assert "X='a b' vllm serve" in text
    assert "abc with changes that are in no commit" in text
    assert "pdslurm 'x y'" in text
    assert "vllm 0.32.0" in text


def test_runs_beside_each_other_are_compared_too(tmp_path: Path) -> None:
    for name, value in (("one", "0.9"), ("two", "0.8")):
        page_of(
            tmp_path / name,
            [record(value=float(value))],
            fairness={"differs": [], "forced": [], "same": {"memory_share": value, "gpus": "4"}},
        )
    page = page_html(load_runs([tmp_path]), tmp_path / "report.html")
    section = read(page[page.index("Between the runs") : page.index('id="plans"')]).text
    assert "memory_share 0.9 0.8" in section
    assert "gpus" not in section


def test_an_old_folder_with_records_alone_makes_a_page(tmp_path: Path) -> None:
    text = read(page_of(tmp_path, four())).text
    assert "does not say what its arms were compared by" in text
    assert "no plan.json" in text
    assert "summary 0 of 4 , 4 unverified 0 of 4 , 4 unverified" in text, "not one of them can be made anew"


def test_a_run_with_nothing_valid_makes_a_page_that_says_so(tmp_path: Path) -> None:
    text = read(page_of(tmp_path, [failed("a"), invalid("b")])).text
    assert "No valid measurement: there is nothing to compare." in text
    assert "nothing to draw" in text
    assert "3 requests failed" in text


def test_each_decision_behind_the_verdict_is_a_row(tmp_path: Path) -> None:
    records = [record(arm, repeat=i, start=i, value=v) for arm, v in (("pd_1p1d", 30.0), ("route_2", 20.0)) for i in range(3)]
    page = page_of(tmp_path, records)
    section = read(page[page.index('id="verdict"') : page.index('id="figures"')]).text
    assert "Disaggregate, by output tokens/s per GPU" in section
    assert (
        "output tokens/s per GPU, higher is better pd_1p1d unknown route_2 1.5 [1.48, 1.52] times the other's 3 and 3 disaggregate"
        in section
    )
    latency = "mean TTFT, lower is better pd_1p1d unknown route_2 1.5 [1.48, 1.52] times the other's 3 and 3 do not disaggregate"
    assert latency in section


def test_a_run_whose_rates_were_swept_answers_for_every_slo(tmp_path: Path) -> None:
    write_run(tmp_path, starts=1, rates=(3.0, 9.0, 16.0), duration_s=40.0)
    page = page_html(load_runs([tmp_path]), tmp_path / "report.html")
    places = [page.index(f'id="{anchor}"') for anchor in ("verdict", "slo", "capacities", "figures")]
    assert places == sorted(places)
    panel = read(page[places[1] : places[2]])
    (box,) = panel.all("div", class_="which")
    assert json.loads(box["data-map"])["arms"] == ["pd_2p2d", "route_4"]
    own = panel.text.partition("For TTFT ≤ 500 ms and TPOT ≤ 25 ms for 90 % of the requests: ")[2]
    assert "one start of each arm" in own[:40]
    assert (
        "TTFT at most 500 ms, TPOT at most 25 ms, for 90 % of the requests; input 128 tokens"
        in read(page[places[2] : places[3]]).text
    )
    assert 'id="slo"' not in page_of(tmp_path / "unswept", four())


def test_many_records_are_linked_and_not_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "schema_version" in page_of(tmp_path, four())
    monkeypatch.setattr(measurement_sections, "MOST_JSON", 1000)
    page = page_html(load_runs([tmp_path]), tmp_path / "report.html")
    assert "schema_version" not in page
    assert "there are too many" in page


def test_links_stay_right_from_another_folder(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "a:b #1", four())
    found = read(page_html(load_runs([tmp_path / "runs"]), tmp_path / "pages" / "r.html"))
    addresses = [e["href"] for e in found.all("a") if e.get("href", "").startswith("..")]
    assert len(addresses) >= 8
    assert all(":" not in a and "#" not in a for a in addresses)
    assert all((tmp_path / "pages" / unquote(a)).resolve().is_file() for a in addresses)


def test_the_command_writes_beside_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "run", two_arms({"a": (1.0, 2.0), "b": (3.0, 4.0)}))
    assert main(["report", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "report.html")
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "new" / "x.html")]) == 0
    assert (tmp_path / "new" / "x.html").read_text().startswith("<!DOCTYPE html>")
    (tmp_path / "run" / "plan.json").write_text("{")
    assert main(["report", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().err.startswith("analysis: these files cannot be read and count as not there: ")


def test_the_pages_colours_are_the_figures() -> None:
    style = (HERE / "report.css").read_text()
    light = style.partition("@media")[0]
    assert re.findall(r"--k\d: (#\w+)", light) == list(COLOURS)
    assert {f".s{i} {{ --c: var(--k{i}); }}" for i in range(len(COLOURS))} <= set(
        re.findall(r"\.s\d \{ --c: var\(--k\d\); \}", style)
    )
    assert set(SHAPES) == set(MARKERS)


@pytest.mark.parametrize(("rough", "step"), [(0.7, 1), (1.0, 1), (1.1, 2), (2.2, 2.5), (3, 5), (700, 1000), (0.03, 0.05)])
def test_ticks_are_round(rough: float, step: float) -> None:
    assert nice_step(rough) == pytest.approx(step)


def test_markup_escapes_what_is_not_markup() -> None:
    assert tag("p", "<b>", Markup("<i>"), title='"&', hidden=True, lang=None) == '<p title="&quot;&amp;" hidden>&lt;b&gt;<i></p>'
    assert tag("a", class_="x", data_tip="y") == '<a class="x" data-tip="y"></a>'
    assert tag("br") == "<br>"


def test_a_name_is_never_read_as_a_scheme(tmp_path: Path) -> None:
    assert href(tmp_path / "javascript:alert(1)", tmp_path) == "./javascript%3Aalert%281%29"


def test_a_file_that_is_no_object_counts_as_not_there_and_the_page_says_so(tmp_path: Path) -> None:
    page = page_of(tmp_path, four(), fairness=[1])
    assert "fairness.json (it holds a list, not an object)" in page
