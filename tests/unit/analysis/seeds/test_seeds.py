"""The seeds' claims: the rule that judges them as tables, the whole output against tests/golden/seeds.txt, and changes of every
kind of input that have to show.

`pytest tests/unit/analysis/seeds --accept` writes the golden file and the table in docs/seeds.md anew; read their diff in git
before you commit it."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.__main__ import main
from analysis.seeds import claims
from analysis.seeds.claims import Claim, Computed, Count, Estimate, Faulty, Points, Span, Unknown, Words, judge
from analysis.seeds.claims_table import FORMULAS, Line, check
from analysis.seeds.inputs import FOLDER, Data, Row, load
from analysis.stats.bounds import exact, within

GOLDEN = Path(__file__).parents[3] / "golden" / "seeds.txt"
PAGE = Path(__file__).parents[4] / "docs" / "seeds.md"


@pytest.fixture(scope="module")
def data() -> Data:
    return load()


def claim(claimed: str, *, about: bool = False, unit: str = "ms") -> Claim:
    return Claim("x-1", "a text", "something", claimed, unit, about, "formula")


@pytest.mark.parametrize(
    ("text", "digits", "half"),
    [
        ("7.6", 2, 0.05),
        ("276.07", 5, 0.005),
        ("13000", 2, 500),
        ("500", 1, 5),
        ("2", 1, 0.05),
        ("10", 1, 0.5),
        ("287", 3, 0.5),
        ("-29", 2, 0.5),
        ("0.068", 2, 0.0005),
        ("524288", 6, 0.5),
        ("0", 1, 0.5),
    ],
)
def test_digits_that_count(text: str, digits: int, half: float) -> None:
    assert claims.significant_digits(text) == digits
    assert claims.half_unit(text) == pytest.approx(half)


@pytest.mark.parametrize(
    ("claimed", "about", "found", "verdict"),
    [
        # a number against a number: the claim's own digits, then 1 % or 10 %, then what the inputs' rounding explains
        ("7.6", False, Estimate(exact(7.649)), "agrees"),
        ("7.6", False, Estimate(exact(7.66)), "rounding"),
        ("7.6", False, Estimate(exact(7.7)), "wrong: 1.3 % too low"),
        ("7.6", True, Estimate(exact(7.7)), "rounding"),
        ("10.0", True, Estimate(exact(11.06)), "rounding"),
        ("10.0", True, Estimate(exact(11.2)), "wrong: 1.1 times too low"),
        ("2", False, Estimate(exact(2.147)), "rounding"),
        ("2", False, Estimate(exact(2.3)), "wrong: 1.1 times too low"),
        ("0.7", False, Estimate(within(0.852, 0.2)), "rounding"),
        ("0.72", False, Estimate(within(0.852, 0.1)), "wrong: 1.2 times too low"),
        ("65.5", False, Estimate(exact(131.072)), "wrong: 2.0 times too low"),
        ("830", True, Estimate(exact(35.9)), "wrong: 23 times too high"),
        ("830", True, Estimate(exact(-2.0)), "wrong: by 832 ms"),
        ("-29", False, Estimate(exact(-14.0)), "wrong: 2.1 times too high"),
        # a number against all that is possible
        ("890", True, Span(859, 934), "agrees"),
        ("65", True, Span(68.2, 86.3), "rounding"),
        ("280", True, Span(200, 320), "cannot be checked: anything from 200 to 320 is possible"),
        ("11", True, Span(21.5, 23.3), "wrong: 2.0 times too low"),
        ("30", True, Span(21.5, 23.3), "wrong: 1.3 times too high"),
        ("-29", False, Span(-28.98, -28.72), "agrees"),
        # two ends against two ends: the worse counts
        ("1.34..10.7", False, Span(1.342, 10.737), "agrees"),
        ("287..2300", True, Span(299, 3013), "wrong: 1.3 times too low"),
        ("2.2..17.8", True, Span(0.74, 17.8), "wrong: 3.0 times too high"),
        ("8.4..134.2", True, Span(8.5, 134.2), "rounding"),
        # a bound
        (">37", False, Estimate(within(37.38, 0.03)), "agrees"),
        (">37", False, Estimate(within(37.01, 0.03)), "cannot be checked: the bound lies within our error"),
        (">37", False, Estimate(exact(18.5)), "wrong: 2.0 times too high"),
        # a range said to hold at every point
        ("25..29", False, Points({"a": 24.84, "b": 28.7}), "agrees"),
        ("25..29", True, Points({"a": 23.5, "b": 28.7}), "rounding"),
        ("25..29", False, Points({"a": 23.5, "b": 28.7}), "wrong: at 1 of 2, a (23.5)"),
        ("25..29", False, Points({"a": 26.0}, ("b",)), "cannot be checked: within it at 1 of 2; not digitised: b"),
        ("25..29", False, Points({"a": 40.0}, ("b",)), "wrong: at 1 of 2, a (40)"),
        # a statement said to hold at every point
        ("5 of 5", False, Count(5, ()), "agrees"),
        ("5 of 5", False, Count(3, ("a", "b")), "wrong: fails at 2 of 5, a, b"),
        ("5 of 5", False, Count(3, ("a",), "not digitised: x"), "wrong: fails at 1 of 5, a"),
        ("5 of 5", False, Count(5, (), "not digitised: x"), "cannot be checked: holds at 5 of 5; not digitised: x"),
        ("5 of 5", False, Count(0, (), "not digitised: x"), "cannot be checked: not digitised: x"),
        # words, and what cannot be judged
        ("no", False, Words("no"), "agrees"),
        ("TTFT", False, Words("ITL"), "wrong: it is ITL"),
        ("100", True, Words("none"), "wrong: there is none"),
        ("14", False, Unknown("nobody counted"), "cannot be checked: nobody counted"),
        ("29.3", False, Faulty(exact(29.3), "4 requests"), "invalid sample: 4 requests"),
    ],
)
def test_the_rule(claimed: str, about: bool, found: Computed, verdict: str) -> None:
    assert str(judge(claim(claimed, about=about), found)) == verdict


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Estimate(exact(524288)), "524,288"),
        (Estimate(exact(0.07421)), "0.07421"),
        (Estimate(exact(0)), "0"),
        (Estimate(exact(2.0)), "2"),
        (Span(127.97, 128.04), "128"),
        (Span(4.4801, 53.6), "4.48..53.6"),
        (Points({}, ("a",)), "-"),
        (Points({"a": 3.0, "b": 1.0}), "1..3"),
        (Count(1, ("a",)), "1 of 2"),
        (Faulty(within(29.41, 2), "few"), "29.41"),
    ],
)
def test_ours_as_printed(found: Computed, text: str) -> None:
    assert claims.shown(found) == text


def test_the_list_is_whole(data: Data) -> None:
    assert len(data.claims) == len({c.id for c in data.claims}) == 56
    assert {c.formula for c in data.claims} == set(FORMULAS)
    assert all(function.__doc__ for function in FORMULAS.values())
    per_source = {"PCIe A/B post": 7, "simulator page": 2, "lesson": 10, "lab notes": 20, "silver bullet blog": 17}
    assert {source: sum(c.source == source for c in data.claims) for source in per_source} == per_source


def test_shapes_are_those_of_conf_model(hf_configs: Mapping[str, Mapping[str, Any]]) -> None:
    """analysis has no YAML to read conf/model with, so that its copy of two of them is held to the originals here."""
    ours = json.loads((FOLDER / "architectures.json").read_text())
    for name in ("llama_3_1_8b", "deepseek_v2_lite"):
        assert ours[name] == {key: hf_configs[name][key] for key in ours[name]}


def test_the_printed_table(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["seeds"]) == 0
    found = capsys.readouterr().out
    assert max(map(len, found.splitlines())) <= 132
    table = found[: found.index("\nnotes\n")]
    if request.config.getoption("--accept"):
        GOLDEN.write_text(found)
        before, _, after = PAGE.read_text().partition("```text\n")
        PAGE.write_text(f"{before}```text\n{table}```{after.partition('```')[2]}")
    assert f"```text\n{table}```" in PAGE.read_text(), (
        "docs/seeds.md shows another table: pytest tests/unit/analysis/seeds --accept"
    )
    expected = GOLDEN.read_text()
    if found != expected:
        diff = difflib.unified_diff(expected.splitlines(), found.splitlines(), GOLDEN.name, "analysis seeds", n=0, lineterm="")
        pytest.fail("\n".join(["if it should have changed: pytest tests/unit/analysis/seeds --accept", *diff]), pytrace=False)


def test_csv_has_a_line_for_each_claim(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["seeds", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["id"] for row in rows] == [c.id for c in data.claims]
    assert {row["verdict"] for row in rows} == set(claims.KINDS)
    by = {row["id"]: row for row in rows}
    assert (by["lab-3"]["ours"], by["lab-3"]["verdict"], by["lab-3"]["detail"]) == ("131072", "wrong", "4.0 times too high")


def lines_of(data: Data) -> dict[str, Line]:
    return {line.claim.id: line for line in check(data)}


def with_model(data: Data, name: str, **changes: Any) -> Data:
    return replace(data, models={**data.models, name: replace(data.models[name], **changes)})


def with_hardware(data: Data, item: str, quantity: str, value: float) -> Data:
    assert (item, quantity) in data.hardware
    return replace(data, hardware={**data.hardware, (item, quantity): value})


def with_row(rows: tuple[Row, ...], at: Mapping[str, str], **changes: str) -> tuple[Row, ...]:
    """The rows with one of them changed, or a new one where none has these keys."""
    hit = [i for i, row in enumerate(rows) if at.items() <= row.items()] or [len(rows)]
    (i,) = hit
    old = rows[i] if i < len(rows) else {**dict.fromkeys(rows[0], ""), **at}
    return (*rows[:i], {**old, **changes}, *rows[i + 1 :])


def read_off(data: Data, arm: str, lengths: tuple[int, int], **changes: str) -> Data:
    at = {"config": arm, "input_len": str(lengths[0]), "output_len": str(lengths[1])}
    return replace(data, silver_bullet=with_row(data.silver_bullet, at, **changes))


def with_input(data: Data, id: str, **changes: str) -> Data:
    changed = [replace(c, inputs={**c.inputs, **changes}) if c.id == id else c for c in data.claims]
    return replace(data, claims=tuple(changed))


def all_read_off(data: Data) -> Data:
    """As if every point of every arm had been digitised, with figures that bear the blog's words out."""
    for output in (256, 512, 1024, 2048, 4096):
        for arm, rate in {"pd_2p2d": 1, "baseline_dp4": 2, "route2": 3, "pd_1p3d": 4, "route4": 5}.items():
            data = read_off(data, arm, (512, output), output_tok_s=str(rate), output_tok_s_err="0")
    return data


def posted(data: Data, concurrency: str, **changes: str) -> Data:
    """The A/B post with another number at one concurrency."""
    return replace(data, pcie_ab=with_row(data.pcie_ab, {"concurrency": concurrency}, **changes))


def true_ttft(data: Data) -> Data:
    """The lab's table as if its first column covered one token."""
    return replace(data, lab_serving=tuple({**row, "ttft_p50_ms": row["itl_p50_ms"]} for row in data.lab_serving))


def baseline_at_4096(data: Data) -> Data:
    return read_off(data, "baseline_dp4", (4096, 256), mean_itl_ms="138", mean_itl_err="1")


def fast_first_tokens(data: Data) -> Data:
    """1P3D as the blog describes its TTFT."""
    for output in (256, 512, 1024, 2048):
        data = read_off(data, "pd_1p3d", (512, output), mean_ttft_ms="900")
    return data


MUTATIONS: list[tuple[str, str, str, Any]] = [
    ("ab-1", "agrees", "wrong: 1.7 times too high", lambda d: posted(d, "8", pd_rps="0.642")),
    ("ab-1", "agrees", "invalid sample", lambda d: posted(d, "8", pd_p50_ms="16000")),
    ("ab-1", "agrees", "invalid sample", lambda d: with_input(d, "ab-1", seconds="10")),
    ("ab-6", "agrees", "wrong: it is yes", lambda d: with_hardware(d, "rtx_3090", "memory_bytes", 48e9)),
    ("ab-7", "agrees", "wrong: it is yes", lambda d: with_model(d, "deepseek_v2_lite", heads=18)),
    ("sim-2", "wrong", "agrees", lambda d: with_input(d, "sim-2", upstream="step,P,D,prompt_t,decode_t,npu_mem")),
    ("lesson-4", "wrong", "rounding", lambda d: with_hardware(d, "nvlink_4", "lanes", 36)),
    ("lesson-8", "wrong", "agrees", lambda d: with_input(d, "lesson-8", first_token_ms="420")),
    ("lesson-9", "cannot be checked", "agrees", lambda d: with_input(d, "lesson-9", arrival_ms="120", first_token_ms="400")),
    ("lab-1", "wrong", "agrees", lambda d: with_model(d, "llama_3_1_8b", kv_heads=4)),
    ("lab-3", "wrong", "agrees", lambda d: with_model(d, "llama_3_1_8b", kv_heads=32)),
    ("lab-5", "wrong", "agrees", true_ttft),
    ("lab-17", "wrong: there is none", "wrong", lambda d: with_hardware(d, "rdma_100g", "gigabit_per_s", 30)),
    ("blog-3", "cannot be checked", "agrees", baseline_at_4096),
    ("blog-6", "wrong", "cannot be checked", lambda d: read_off(d, "route4", (512, 256), mean_itl_ms="20.1")),
    ("blog-9", "cannot be checked", "wrong", lambda d: read_off(d, "pd_1p3d", (4096, 256), output_tok_s="9100")),
    ("blog-10", "cannot be checked", "agrees", all_read_off),
    ("blog-10", "cannot be checked", "wrong", lambda d: read_off(all_read_off(d), "route2", (512, 512), output_tok_s="9")),
    ("blog-11", "cannot be checked", "agrees", all_read_off),
    ("blog-11", "cannot be checked", "wrong", lambda d: read_off(all_read_off(d), "pd_2p2d", (512, 512), output_tok_s="2.5")),
    ("blog-13", "wrong", "agrees", fast_first_tokens),
    ("blog-14", "cannot be checked", "wrong", lambda d: read_off(d, "pd_1p3d", (512, 256), mean_ttft_ms="9000")),
    ("blog-15", "wrong", "agrees", lambda d: read_off(d, "pd_1p3d", (2048, 256), req_s="60")),
]  # fmt: skip


@pytest.mark.parametrize(("id", "before", "after", "change"), MUTATIONS)
def test_a_changed_input_changes_the_verdict(data: Data, id: str, before: str, after: str, change: Any) -> None:
    old, new = lines_of(data)[id].verdict, lines_of(change(data))[id].verdict
    assert old != new
    assert (str(old).startswith(before), str(new).startswith(after)) == (True, True), (old, new)


def shaken(data: Data) -> Data:
    """Every input times something else."""
    times = {
        "pd_rps": 1.3,
        "colocated_rps": 1.7,
        "ttft_p50_ms": 1.9,
        "duration_s": 0.6,
        "mean_itl_ms": 1.2,
        "mean_ttft_ms": 1.4,
        "req_s": 2,
    }

    def shake(rows: tuple[Row, ...]) -> tuple[Row, ...]:
        shaken = []
        for i, row in enumerate(rows):
            new = {key: f"{float(row[key]) * by ** (1 + i % 3):.3f}" for key, by in times.items() if row.get(key)}
            shaken.append({**row, **new})
        return tuple(shaken)

    models = {
        name: replace(shape, layers=2 * shape.layers, dense_parameters=3 * shape.dense_parameters)
        for name, shape in data.models.items()
    }
    hardware = {key: value * (2 if key[1] in ("lanes", "in_use") else 1.37) for key, value in data.hardware.items()}
    posted, lab, blog = map(shake, (data.pcie_ab, data.lab_serving, data.silver_bullet))
    return replace(data, models=models, hardware=hardware, pcie_ab=posted, lab_serving=lab, silver_bullet=blog)


def test_no_number_of_ours_is_a_copy(data: Data) -> None:
    """Whatever is printed as ours moves when all inputs do, or is shown to move by one of the changes above."""
    before, after = lines_of(data), lines_of(shaken(data))
    stays = {id for id, line in before.items() if claims.shown(line.computed) == claims.shown(after[id].computed) != "-"}
    assert stays <= {id for id, *_ in MUTATIONS}
    unknown = {id for id, line in before.items() if isinstance(line.computed, Unknown)}
    assert unknown == {"sim-1", "blog-3", "blog-16", "blog-17"}
    assert all(before[id].note != after[id].note for id in ("sim-1", "blog-16"))


@pytest.mark.parametrize("id", [id for id, line in lines_of(load()).items() if isinstance(line.computed, Estimate | Span | Points)])
def test_a_claim_three_times_as_large_does_not_agree(data: Data, id: str) -> None:
    line = lines_of(data)[id]
    ends = [f"{3 * float(end):g}" for end in line.claim.claimed.lstrip(">").split("..")]
    claimed = (">" if line.claim.claimed.startswith(">") else "") + "..".join(ends)
    verdict = judge(replace(line.claim, claimed=claimed), line.computed)
    assert verdict != line.verdict
    assert verdict.kind not in (claims.AGREES, claims.ROUNDING)
