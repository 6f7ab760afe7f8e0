"""What was measured with earlier versions, in results/, is still read, found by its content key, and not measured again.

In: the raw data of results/h100x2/should_i. Out: every number of that half of its README which tells how it was run, recomputed.
A section is a function that yields words of the page with the numbers that the data give. All of them have to stand on it, and no
number may stand there that neither a section nor NOT_RECOMPUTED covers: whoever edits a number breaks a test. The half with the
answer is recomputed in tests/unit/analysis/test_h100x2_readme.py."""

from __future__ import annotations

import json
import math
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.load.frame import load_runs
from pdslurm.config import Config, from_dict
from pdslurm.errors import ConfigError
from pdslurm.launchers.run_path import run_path
from pdslurm.measure.schedule import Schedule
from pdslurm.plan.outline import make_outline
from pdslurm.plan.tasks import Tasks
from pdslurm.records.measurement import BINS_PER_DECADE, Measurement, is_overloaded, ttft_shares
from pdslurm.records.run_folder import RunFolder

RESULTS = Path(__file__).parents[3] / "results"
RUNS = sorted(path.parent for path in RESULTS.glob("*/*/config.yaml"))

H100 = RESULTS / "h100x2" / "should_i"
README = (H100.parent / "README.md").read_text(encoding="utf-8")
NEWER, FIRST, HOW = "## The answer, from three starts\n", "## The first run, from one start\n", "## How it was run\n"
PAGE = README[README.index(HOW) :]
ROUTE, PD = "route_2", "pd_1p1d"
ARMS = {ROUTE: "Route 2", PD: "1P1D"}
NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?!\w)")

# What this half of the page says and this run's data cannot: phrase → why not.
NOT_RECOMPUTED = {
    "Route 2": "the name of an arm",
    "(seed 004's grid on two GPUs)": "the name of a seed",
    "budget.gpu_hours=0.42": "versions.json keeps the second command alone",
    "(times rounded to 1 µs afterwards)": "what was done to the files when they were published",
    "450 GB/s": "NVLink of an H100 in one direction, by its data sheet",
}


def config_of(run: Path) -> Config:
    return from_dict(yaml.safe_load((run / "config.yaml").read_text()))


def test_there_are_runs() -> None:
    assert {run.relative_to(RESULTS).as_posix() for run in RUNS} >= {"h100x2/should_i", "h200x4/tokenizer_trial"}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_its_records_are_read(run: Path) -> None:
    records = list(RunFolder(run).records())
    assert len(records) == len(list(run.glob("points/*/*.json"))) == len(load_runs([run])) > 0
    for record in records:
        assert not record.valid or record.metrics["duration_s"], "a valid record has numbers"


def test_the_trial_whose_tokenizer_held_tokens_up_is_withdrawn_and_still_loads() -> None:
    frame = load_runs([RESULTS])
    withdrawn = {Path(str(folder)).name: set(some) for folder, some in frame.groupby("folder")["withdrawn"]}
    assert {name for name, some in withdrawn.items() if some != {""}} == {"tokenizer_trial"}
    (why,) = withdrawn["tokenizer_trial"]
    assert "outside the engines" in why
    assert (frame["withdrawn"] != "").sum() == 5


def test_the_request_files_of_before_are_found() -> None:
    run = RunFolder(RESULTS / "h100x2" / "should_i")
    assert all(run.beside_raw(record, "requests").is_file() for record in run.records())


def test_a_run_of_before_goes_on_where_it_was() -> None:
    """Every record has the key that its task has today. A valid one is done, and so is one that shows that its arm does not serve
    the rate; another invalid one keeps its place beside the next."""
    run = RESULTS / "h100x2" / "should_i"
    config = config_of(run)
    versions = json.loads((run / "versions.json").read_text())["engine"]
    symbolic = make_outline(config).deployment
    tasks = Tasks(symbolic, symbolic, versions)
    schedule = Schedule(tasks, RunFolder(run))
    arms = {arm.arm.name: arm for arm in tasks.deployment.arms}
    points = {point.id: point for point in tasks.deployment.plan.points}
    records = list(RunFolder(run).records())
    assert [tasks.of(arms[r.arm], points[r.point["id"]]).key for r in records] == [r.key for r in records]
    assert schedule.done() == len({(r.arm, r.point["id"]) for r in records if r.valid or is_overloaded(r)})
    assert not {(t.arm.arm.name, t.point.id) for arm in schedule.arms for t in schedule.open_tasks(arm)} & {
        (r.arm, r.point["id"]) for r in records if r.valid
    }


def test_the_same_command_finds_the_same_folder() -> None:
    """The folder of a run that names none is made from what is measured: a name for it that changed would lose every run."""
    config = config_of(RESULTS / "h100x2" / "should_i")
    config.run_dir = None
    assert run_path(config).name == "should_i-f6b17c4b"


def test_a_configuration_of_before_that_is_refused_says_what_took_its_place() -> None:
    with pytest.raises(ConfigError, match=r"use the configuration's workload\.prefix_caching"):
        make_outline(config_of(RESULTS / "h200x4" / "tokenizer_trial"))


@cache
def h100_records() -> tuple[Measurement, ...]:
    return tuple(RunFolder(H100).records())


def h100_at(arm: str, rate: float | None = None) -> list[Measurement]:
    """Valid measurements of an arm, at one rate where one is given."""
    return [r for r in h100_records() if r.arm == arm and r.valid and rate in (None, r.point["request_rate"])]


def read_json(name: str) -> Any:
    return json.loads((H100 / name).read_text())


def digits(value: float) -> str:
    """Three digits."""
    return f"{value:#.3g}".rstrip(".")


def span(values: Sequence[float], text: Callable[[float], str] = digits) -> str:
    """`11.4 to 11.7`, or one number where both ends read alike."""
    return " to ".join(dict.fromkeys(map(text, (min(values), max(values)))))


def metric(records: Iterable[Measurement], name: str) -> list[float]:
    return [float(r.metrics[name] or math.nan) for r in records]


def uncovered(page: str, said: Iterable[str]) -> list[str]:
    """The numbers of a page that stand in none of the texts, each with the line that it stands in."""
    covered: set[int] = set()
    for text in said:
        covered |= {place for hit in re.finditer(re.escape(text), page) for place in range(*hit.span())}
    lone = (hit.start() for hit in NUMBER.finditer(page) if hit.start() not in covered)
    return [page[page.rfind("\n", 0, at) + 1 : page.find("\n", at)] for at in lone]


def how() -> Iterator[str]:
    versions, config = read_json("versions.json"), yaml.safe_load((H100 / "config.yaml").read_text())
    host, engine = versions["host"], versions["engine"]
    assert {name[:17] for name in host["gpu_names"]} == {"NVIDIA H100 80GB "}
    (links,) = set(re.findall(r"NV\d+", host["gpu_topology"]))
    yield f"The host had {len(host['gpu_names'])} × H100 80 GB ({links} between them), {host['cores']} cores, and no Slurm."
    yield f"vLLM {engine['vllm']} with vllm-router {engine['vllm-router']}, NIXL {engine['nixl']} and torch {engine['torch']}, and"
    command = versions["code"]["command"][1:]
    options = [word for word in command if not word.startswith(("run_dir=", "budget.", "experiment=", "launcher="))]
    assert PAGE.partition('S="')[2].partition('"')[0].split() == options
    yield from (*options, *(word for word in command if word.startswith("budget.")))
    now = yaml.safe_load((RESULTS.parent / "conf" / "experiment" / "should_i.yaml").read_text())["workload"]
    fine, step = now["search"]["step"] ** (1 / now["search"]["fine"]), config["workload"]["search"]["step"]
    yield f"starts each arm {now['starts']} times and measures rates {100 * fine - 100:.1f} % apart near the capacity, "
    yield f"where this run took steps of {100 * step - 100:.0f} %."
    yield "--only output_len=128 --formats png"


def tries() -> Iterator[str]:
    bad = [r for r in h100_records() if not r.valid]
    tried, points = len(h100_records()), {(r.arm, r.point["id"]) for r in bad}
    yield f"Of {tried} measurements that were tried {tried - len(bad)} are valid, {len(points)} are invalid, "
    yield f"and {len(bad) - len(points)} was superseded by a second try."
    rates = {arm: sorted({r.point["request_rate"] for r in bad if r.arm == arm}) for arm in ARMS}
    assert sum(r.point["request_rate"] == rates[ROUTE][0] for r in bad) == 1
    yield f"Route 2 at {rates[ROUTE][1]:g} requests/s and once at {rates[ROUTE][0]:g}, and 1P1D at {rates[PD][0]:g}, "
    waited = span([ms / 1000 for ms in metric((r for r in bad if r.arm == PD), "mean_ttft_ms")], "{:.1f}".format)
    yield f"where the mean TTFT of the two tries was {waited} s; in all three the queue grew."


def ttft_parts() -> Iterator[str]:
    names = ("api_server", "queue", "prefill", "handover", "transfer", "first_decode", "error", "measured")
    yield "At 9.54 requests/s, one measurement of each arm, as the engines count it (mean, ms):"
    for arm, name in ARMS.items():
        (record,) = h100_at(arm, 9.54)
        parts = [ttft_shares(record.telemetry)[f"{each}_ms"] for each in names]
        yield f"| {name} |{'|'.join(' ' if ms is None else f' {ms:.0f} ' for ms in parts)}|"
    yield f"## Why a transfer takes {parts[4]:.0f} ms"


def transfers() -> Iterator[str]:
    records = [r for r in h100_records() if r.arm == PD]
    of = [r.telemetry["totals"] for r in records]
    kv = next(check.evidence for check in records[0].checks if check.name == "kv_bytes")
    block, size = kv["block_size"], kv["bytes_per_token"] * 2048
    yield f"It was {size / 1e6:.0f} MB a request ({kv['bytes_per_token']:,.0f} bytes × 2048 tokens), to the byte in all"
    more = [(r.point["request_rate"], t["nixl_bytes"] - size * t["nixl_transfers"]) for r, t in zip(records, of, strict=True)]
    ((rate, extra), other) = sorted(set(more), reverse=True)[0], {some for _, some in more}
    assert (other, sum(some > 0 for _, some in more)) == ({0.0, extra}, 2)
    yield f"but the two tries at {rate:g} requests/s, which moved {extra / (block * kv['bytes_per_token']):.0f} blocks too many."
    yield f"that would take {1000 * size / 450e9:.1f} ms."


def posting() -> Iterator[str]:
    records = [r for r in h100_records() if r.arm == PD]
    of = [r.telemetry["totals"] for r in records]
    layers = yaml.safe_load((H100 / "config.yaml").read_text())["model"]["hf_config"]["num_hidden_layers"]
    block = records[0].telemetry["engines"]["engine1"]["block_size"]
    descriptors = 2 * layers * 2048 // block
    assert {t["nixl_descriptors"] / t["nixl_transfers"] for r, t in zip(records, of, strict=True) if r.valid} == {descriptors}
    yield f"for each block of {block} tokens, which are {descriptors:,} descriptors for a prompt."
    posts, times = ([1000 * t[f"nixl_{name}_time_s"] / t["nixl_transfers"] for t in of] for name in ("post", "transfer"))
    each = [1e6 * t["nixl_post_time_s"] / t["nixl_descriptors"] for t in of]
    yield f"Posting them takes {span(posts, '{:.0f}'.format)} ms (`nixl_post_time_s`) of the {span(times, '{:.0f}'.format)} ms"
    yield f"a transfer takes, at every load: {span(each, '{:.1f}'.format)} µs for each descriptor."
    larger = [f"{2 * layers * 2048 // tokens:,}" for tokens in (64, 128)]
    yield f"`topology.extra_args=[--block-size,64]` makes it {larger[0]}, and 128 makes it {larger[1]}."
    yield f"no other ratio than 1P1D, and no other block size than {block} tokens."


def long_gaps() -> Iterator[str]:
    first = math.floor(math.log10(25) * BINS_PER_DECADE) + 1  # the first bin whose values are all above 25 ms
    ratios = []
    for record in (record for rate in (9.54, 11.9, 14.9) for record in h100_at(PD, rate)):
        gaps = sum(count for place, count in record.distributions["itl_ms"].items() if int(place) >= first)
        ratios.append(gaps / ((record.completed or 0) * record.telemetry["starved_decode"]["decoding_per_instance"]))
    yield "At 9.54, 11.9 and 14.9 requests/s the number of gaps of 25 ms and more is "
    yield f"is {span(ratios, '{:.2f}'.format)} times that product."
    pairs = [(h100_at(PD, rate)[0], rate) for rate in (9.54, 18.6)]
    shares = [100 * r.telemetry["totals"]["nixl_post_time_s"] / metric([r], "duration_s")[0] for r, _ in pairs]
    yield f"Posting took {shares[0]:.0f} % of the time at 9.54 requests/s and {shares[1]:.0f} % at 18.6, "


def client() -> Iterator[str]:
    busy = [100 * r.provenance["client"]["client_busy"] for r in h100_records()]
    yield f"The client's thread used {span(busy, '{:.0f}'.format)} % of a core."
    found = [check.evidence for r in h100_records() for check in r.checks if check.name == "delivery" and check.ok is not None]
    most = max(abs(each["client_ms_a_token"] / each["engine_ms_a_token"] - 1) for each in found)
    yield f"within {math.ceil(1000 * most) / 10:.1f} % in all {len(found)} measurements that have tokens to compare"
    around = [r.provenance["client"]["client_wall_s"] - metric([r], "duration_s")[0] for r in h100_records()]
    yield f"The client needed {span(around, '{:.1f}'.format)} s around each measurement, "


def gpu_time() -> Iterator[str]:
    events = [json.loads(line) for line in (H100 / "events.jsonl").read_text().splitlines()]
    at = {(e["event"].partition(" after ")[0], e.get("set")): datetime.fromisoformat(e["at"]) for e in events}  # the last of a kind
    loads, measuring, shares, total = [], [], [], 0.0
    for arm in ARMS:
        began, stopped = at[f"{arm}: starting 2 engine process(es)", None], at["set stopped", arm]
        ready_s = (stopped - at[f"{arm}: 2 instance(s) ready", None]).total_seconds()
        seconds = sum(metric((r for r in h100_records() if r.arm == arm), "duration_s"))
        loads += re.findall(rf"{arm}: 2 instance\(s\) ready after (\d+ s)", "\n".join(e["event"] for e in events))
        measuring.append(f"{seconds:.0f} of {ready_s:.0f} s, {100 * seconds / ready_s:.0f} %")
        shares.append(f"{100 * seconds / (stopped - began).total_seconds():.0f} %")
        total += (stopped - began).total_seconds()
    yield f"| engines ready after | {' | '.join(loads)} |"
    yield f"to engines stopped | {' | '.join(measuring)} |"
    yield f"with loading | {' | '.join(shares)} |"
    yield f"Both parts together took {2 * total / 3600:.2f} GPU-hours."


def limits() -> Iterator[str]:
    rates = {arm: {r.point["request_rate"] for r in h100_records() if r.arm == arm} for arm in ARMS}
    (only,) = {rate for rate in rates[PD] - rates[ROUTE] if rate}
    lowest = min(rate for each in rates.values() for rate in each if rate)
    yield f"It does not show Route 2 at {only:g} requests/s, nor either arm below {lowest:g}."
    with tarfile.open(H100 / "logs.tar.xz") as logs:
        sent = [
            re.findall(r"num_prompts=(\d+), dataset.*?random_output_len=(\d+)", logs.extractfile(f"./{name}").read().decode())  # type: ignore[union-attr]
            for name in ("client.log", "client.2.log")
        ]
    assert sent[0][:3] == [("64", "1"), ("512", "1"), ("512", "128")]
    assert sent[1][:2] == [("64", "1"), ("191", "128")]
    yield "the warm-up sent 64 requests of one output token to each arm, and Route 2 alone then had 2 bursts of 512 requests"


SECTIONS = (how, tries, ttft_parts, transfers, posting, long_gaps, client, gpu_time, limits)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_the_page_says_what_the_raw_data_say(section: Callable[[], Iterator[str]]) -> None:
    assert [text for text in section() if text not in PAGE] == []


def test_every_number_of_the_page_is_recomputed() -> None:
    assert [phrase for phrase in NOT_RECOMPUTED if phrase not in PAGE] == []
    assert uncovered(PAGE, [*NOT_RECOMPUTED, *(text for section in SECTIONS for text in section())]) == []


@pytest.mark.parametrize(("text", "alone"), [("up to 24.9 ms", 0), ("up to 24.8 ms", 1), ("up to 24.9 ms or 3", 1)])
def test_an_edited_number_is_noticed(text: str, alone: int) -> None:
    assert uncovered(f"1P1D on an H100\n{text}\n", ["up to 24.9 ms"]) == [text] * alone


def test_the_pictures_of_the_page_are_there() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert len(pictures) == 5
    assert [name for name in pictures if not (H100.parent / name).read_bytes().startswith(b"\x89PNG")] == []
