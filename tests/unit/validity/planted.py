"""Lies for a run folder: each changes records, and the files behind them, of a copy of results/h100x2/should_i in place, and says
what has to come of it. Plain data and file edits; nothing here knows how pdslurm checks.

    for lie in LIES:
        folder = copy_run(RESULTS, tmp_path / "run", raw=lie.raw)
        edited = lie.plant(folder)      # paths of the records that lie now
        load_runs([folder, *second(folder)])

A consistent lie changes the summary, the client's result and the request lines alike: only another source contradicts it."""

from __future__ import annotations

import csv
import gzip
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COLUMNS = ("start_s", "input_len", "output_len", "ttft_ms", "tpot_ms", "itl_max_ms", "e2el_ms", "ok")
ROUTE, PD = "route_2", "pd_1p1d"
# What has to come of a lie. invalid: every edited record; unverified: at least that; finding: said beside figures and verdict;
# refused: no table, figure or verdict over these records together; verdict: the records are right, what is concluded changes;
# unseen: the record alone cannot tell, and `why` says so.
INVALID, UNVERIFIED, FINDING, REFUSED, VERDICT, UNSEEN = "invalid", "unverified", "finding", "refused", "verdict", "unseen"
LEFT_OUT = "left out"


@dataclass
class Point:
    """A record of a run folder with the lines of its request file; `save` writes both back."""

    path: Path
    record: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Point:
        point = cls(path, json.loads(path.read_text()))
        with gzip.open(point.requests, "rt") as lines:
            point.rows = [{k: float(v) if v else math.nan for k, v in row.items()} for row in csv.DictReader(lines)]
        return point

    @property
    def folder(self) -> Path:
        return self.path.parents[2]

    @property
    def raw(self) -> Path:
        return self.folder / str(self.record["provenance"]["raw"])

    @property
    def requests(self) -> Path:
        return self.raw.with_name(self.raw.name.replace(".json.gz", ".requests.csv.gz"))

    @property
    def client(self) -> dict[str, Any]:
        return self.record["provenance"]["client"]  # type: ignore[no-any-return]

    @property
    def metrics(self) -> dict[str, Any]:
        return self.record["metrics"]  # type: ignore[no-any-return]

    @property
    def engines(self) -> dict[str, dict[str, Any]]:
        return self.record["telemetry"]["engines"]  # type: ignore[no-any-return]

    def write_requests(self, lines: list[str] | None = None) -> None:
        text = [",".join(_text(row[name]) for name in COLUMNS) for row in self.rows] if lines is None else lines
        with gzip.open(self.requests, "wt") as out:
            out.write("\n".join([",".join(COLUMNS), *text]) + "\n")

    def save(self, *, requests: bool = True) -> Path:
        self.path.write_text(json.dumps(self.record))
        if requests:
            self.write_requests()
        return self.path

    def set(self, ours: str, value: Any, theirs: str = "") -> None:
        """A number of the summary, in the record's metrics and in the client's result."""
        self.metrics[ours] = self.client[theirs or ours] = value

    def engine_sums(self) -> None:
        """The totals made from the engines again, None where an engine does not tell."""
        totals = self.record["telemetry"]["totals"]
        for name in totals:
            counts = [engine.get(name) for engine in self.engines.values()]
            totals[name] = None if None in counts else sum(count or 0 for count in counts)

    def scale_engines(self, factors: dict[str, float], only: str = "") -> None:
        for name, engine in self.engines.items():
            if only in ("", name):
                engine |= {k: engine[k] * f for k, f in factors.items() if engine.get(k) is not None}
        self.engine_sums()

    def _scale_gaps(self, factor: float) -> None:
        """Statistics and distribution of ITL, which the lines do not hold, follow the time from first token to last."""
        if factor <= 0 or abs(factor - 1) < 1e-3:
            return
        for name in [name for name in self.metrics if name.endswith("_itl_ms")]:
            self.set(name, self.metrics[name] * factor)
        self.client["median_itl_ms"] *= factor
        shift = round(50 * math.log10(factor))
        self.record["distributions"]["itl_ms"] = {
            str(int(edge) + shift): tokens for edge, tokens in self.record["distributions"]["itl_ms"].items()
        }

    def restate(self) -> None:
        """The summary made from the request lines again, as an honest client would: a lie in the lines becomes consistent."""
        rows, n = self.rows, len(self.rows)
        self._scale_gaps(sum(row["e2el_ms"] - row["ttft_ms"] for row in rows) / 1e3 / self.client["decode_s"])
        for what in ("ttft", "tpot", "e2el"):
            values = sorted(row[f"{what}_ms"] for row in rows if not math.isnan(row[f"{what}_ms"]))
            mean = sum(values) / len(values)
            self.set(f"mean_{what}_ms", mean)
            self.set(f"std_{what}_ms", math.sqrt(sum((v - mean) ** 2 for v in values) / len(values)))
            for share in (50, 90, 95, 99):
                self.set(f"p{share}_{what}_ms", _percentile(values, share / 100))
            self.client[f"median_{what}_ms"] = _percentile(values, 0.5)
        duration = max(row["start_s"] + row["e2el_ms"] / 1e3 for row in rows) - min(row["start_s"] for row in rows)
        given, made = (int(sum(row[name] for row in rows)) for name in ("input_len", "output_len"))
        self.set("duration_s", duration, "duration")
        self.set("request_throughput_per_s", n / duration, "request_throughput")
        self.set("output_throughput_tok_s", made / duration, "output_throughput")
        self.set("total_throughput_tok_s", (given + made) / duration, "total_token_throughput")
        self.record["completed"] = self.client["completed"] = n
        self.client.update(
            {
                "total_input_tokens": given,
                "total_output_tokens": made,
                "decode_s": sum(row["e2el_ms"] - row["ttft_ms"] for row in rows) / 1e3,
                "decode_tokens": made - n,
            }
        )


def _text(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) else f"{value:.10g}"


def _percentile(values: list[float], share: float) -> float:
    """Linear between ranks, as numpy's default; `values` rise."""
    at = share * (len(values) - 1)
    low = int(at)
    return values[low] + (at - low) * (values[min(low + 1, len(values) - 1)] - values[low])


@dataclass(frozen=True)
class Lie:
    name: str
    plant: Callable[[Path], list[Path]]
    outcome: str  # INVALID, UNVERIFIED, FINDING, REFUSED, VERDICT, UNSEEN or LEFT_OUT
    why: str  # what contradicts the lie, or why nothing does
    raw: bool = False  # whether it needs the raw files, which are large
    deep: bool = False  # whether only the raw files contradict it


def copy_run(source: Path, target: Path, *, raw: bool = False) -> Path:
    """A run folder without logs and, unless `raw`, without the time of every token."""
    left_out = ("logs*", "*.txt") if raw else ("logs*", "*.txt", "*[0-9a-f].json.gz", "*-[0-9].json.gz")
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*left_out))
    return target


def second(folder: Path) -> list[Path]:
    """The second run folder of a lie that needs two, else none."""
    other = folder.with_name(folder.name + "-second")
    return [other] if other.is_dir() else []


def points(folder: Path, arm: str = "", rate: float | None = None) -> Iterator[Point]:
    """The valid points of a paced load."""
    for path in sorted(folder.glob(f"points/{arm or '*'}/*.json")):
        record = json.loads(path.read_text())
        ordered = record["point"]["request_rate"]
        if record["valid"] and ordered and rate in (None, ordered):
            yield Point.read(path)


LIES: list[Lie] = []


def lie(
    name: str, outcome: str, why: str, *, raw: bool = False, deep: bool = False
) -> Callable[[Callable[[Path], list[Path]]], Callable[[Path], list[Path]]]:
    def keep(plant: Callable[[Path], list[Path]]) -> Callable[[Path], list[Path]]:
        LIES.append(Lie(name, plant, outcome, why, raw, deep))
        return plant

    return keep


def each(name: str, outcome: str, why: str, *, arm: str = "", rate: float | None = None, deep: bool = False) -> Callable[..., Any]:
    """A lie told point by point: the function changes a Point, and what it returns is not used."""

    def keep(change: Callable[[Point], Any]) -> Callable[[Point], Any]:
        def plant(folder: Path) -> list[Path]:
            found = []
            for point in list(points(folder, arm, rate)):
                change(point)
                found.append(point.save())
            return found

        LIES.append(Lie(name, plant, outcome, why, False, deep))
        return change

    return keep


# ------------------------------------------------------------------ what an audit edited


@each(
    "01 client's clock 15 % fast in one arm",
    INVALID,
    "engine cores' decode time, and engines' TTFT, are 15 % below the client's",
    arm=PD,
)
def clock_skew(p: Point) -> None:
    for row in p.rows:
        for name in ("ttft_ms", "tpot_ms", "itl_max_ms", "e2el_ms"):
            row[name] *= 1.15
    p.restate()


@each("02 router sends half of the requests twice", INVALID, "engines counted 1.5 times the requests and tokens", arm=ROUTE)
def router_retries(p: Point) -> None:
    p.scale_engines(dict.fromkeys(COUNTS, 1.5))
    p.record["telemetry"]["router_requests"] = {k: v * 1.5 for k, v in p.record["telemetry"]["router_requests"].items()}


@each("03 engines cut prompts to half", INVALID, "engines' prompt tokens are half of those sent; half of the KV moved")
def truncated_prompts(p: Point) -> None:
    p.scale_engines({"prompt_tokens": 0.5, "nixl_bytes": 0.5, "nixl_descriptors": 0.5})


@each("04a output tokens counted twice", INVALID, "twice the tokens that were ordered and that engines made", arm=PD)
def output_twice(p: Point) -> None:
    p.client["total_output_tokens"] *= 2
    p.set("output_throughput_tok_s", p.metrics["output_throughput_tok_s"] * 2, "output_throughput")


@each("04b input tokens counted twice", INVALID, "twice the prompt tokens of request lines and engines")
def input_twice(p: Point) -> None:
    p.client["total_input_tokens"] *= 2
    p.set("total_throughput_tok_s", p.metrics["total_throughput_tok_s"] * 1.9, "total_token_throughput")


@each(
    "06 prefix cache hits while its counters are missing",
    INVALID,
    "counters that decide are missing (unverified at least); half of the prompts were sent before (prompts_again)",
    arm=ROUTE,
)
def prefix_cache_null(p: Point) -> None:
    for row in p.rows:
        row["e2el_ms"] -= 0.9 * row["ttft_ms"]
        row["ttft_ms"] *= 0.1
    p.restate()
    p.client["prompts_again"] = p.record["completed"] // 2
    for engine in p.engines.values():
        engine["prefix_cache_queries"] = engine["prefix_cache_hits"] = None
    p.engine_sums()


@each("07a KV over TCP where any transport will do", FINDING, "the verdict's line names the transport", arm=PD)
def nixl_over_tcp(p: Point) -> None:
    lanes = {"peer": "intra-node", "lanes": ["tcp/lo"], "how": "software emulation"}
    p.record["telemetry"]["transport"] = {"kinds": ["tcp"], "engines": {"engine1": [lanes]}}
    p.scale_engines({"nixl_transfer_time_s": 10})


@each("07b the log says nothing of the transport", UNVERIFIED, "which way KV went is not known", arm=PD)
def transport_silent(p: Point) -> None:
    p.record["telemetry"]["transport"] = None


@each("09 another GPU model in one arm", FINDING, "max_sm_mhz differs between the arms' GPUs, and no two H100 differ so", arm=PD)
def other_gpu(p: Point) -> None:
    for states in p.record["telemetry"]["gpus"].values():
        for gpu in states:
            gpu["max_sm_mhz"] = gpu["sm_mhz"] = 1410


@each("11a NaN in the summary", LEFT_OUT, "no number of a record is NaN", arm=PD, rate=9.54)
def nan_summary(p: Point) -> None:
    for name in p.metrics:
        if name.endswith(("_ttft_ms", "_e2el_ms", "_tpot_ms")):
            p.set(name, math.nan)


@lie("11b one NaN in the request files of lost rungs", INVALID, "each latency of a completed request is finite")
def nan_request(folder: Path) -> list[Path]:
    found = []
    for path in sorted(folder.glob("points/route_2/*.json")):
        if json.loads(path.read_text())["point"]["request_rate"] in (29.1, 36.4):
            point = Point.read(path)
            point.rows[0]["tpot_ms"] = math.nan
            point.write_requests([",".join("nan" if math.isnan(row[c]) else _text(row[c]) for c in COLUMNS) for row in point.rows])
            found.append(path)
    return found


@each("14 foreign traffic on the engines", INVALID, "engines counted twice the requests and half as many tokens again", arm=ROUTE)
def foreign_traffic(p: Point) -> None:
    p.scale_engines({"requests": 2, "prompt_tokens": 1.5, "generation_tokens": 1.5, "decode_time_s": 1.5, "ttft_s": 1.6,
                     "prefill_time_s": 1.6})  # fmt: skip


@each(
    "15 router adds 400 ms to each TTFT",
    INVALID,
    "error_ms is 400 ms, bounded absolutely, relatively and against the other arm",
    arm=ROUTE,
)
def router_latency(p: Point) -> None:
    for row in p.rows:
        row["ttft_ms"] += 400
        row["e2el_ms"] += 400
    p.restate()
    parts = p.record["telemetry"]["ttft"]
    parts["measured_ms"] = p.metrics["mean_ttft_ms"]
    parts["error_ms"] += 400


@each(
    "17 failed check in a record that says valid",
    INVALID,
    "checks are recomputed; 3 of 191 completed stands in the record",
    arm=PD,
    rate=9.54,
)
def not_redone(p: Point) -> None:
    p.record["completed"] = p.client["completed"] = 3
    p.record["checks"][0] |= {"ok": False, "said": "3 of 191 requests completed"}


@each("18 wrong number of GPUs", INVALID, "telemetry saw two GPUs where arm_info has one", arm=PD)
def gpus_wrong(p: Point) -> None:
    p.record["arm_info"]["gpus"] = 1


@lie("19 identical rungs in each repeat", VERDICT, "the true rate lies anywhere between rungs; nothing to edit in a record")
def identical_rungs(folder: Path) -> list[Path]:
    return []


@each(
    "23 slowest tenth left out of everything, open loop",
    INVALID,
    "completed is below what the point ordered; engines counted more",
    arm=PD,
    rate=14.9,
)
def dropped_slow(p: Point) -> None:
    _drop_slowest(p, int(0.9 * len(p.rows)))


@each("23b the same, and the plan's number follows", INVALID, "engines still counted every request and token", arm=PD, rate=14.9)
def dropped_slow_in_plan(p: Point) -> None:
    _drop_slowest(p, int(0.9 * len(p.rows)))
    p.record["point"]["num_prompts"] = len(p.rows)
    for blocks, count in p.client["prompt_blocks"].items():
        p.client["prompt_blocks"][blocks] = count * len(p.rows) // p.client["num_prompts"]
    p.client["num_prompts"] = len(p.rows)


@lie("24 two models and GPUs in one verdict", REFUSED, "arm_info.model, arm_info.cluster and config.yaml differ between the runs")
def two_models(folder: Path) -> list[Path]:
    other = _split(folder)
    text = (other / "config.yaml").read_text().replace("name: llama-3.1-8b", "name: tiny").replace("h100x2", "a100x2")
    (other / "config.yaml").write_text(text)
    found = []
    for path in sorted(other.glob("points/*/*.json")):
        record = json.loads(path.read_text())
        record["arm_info"] |= {"model": "tiny", "cluster": "a100x2"}
        record["run"] = "a100-tiny"
        path.write_text(json.dumps(record))
        found.append(path)
    return found


@lie("25 both arms hold the highest rung", VERDICT, "a censored rate is a bound; no record is wrong")
def right_censored(folder: Path) -> list[Path]:
    return []


@lie("26 ladder of one rung", VERDICT, "the rungs above the highest are not there; two repeats have one measurement, all held")
def one_rung(folder: Path) -> list[Path]:
    for path in folder.glob("points/route_2/*.json"):
        if json.loads(path.read_text())["point"]["request_rate"] in (29.1, 36.4):
            path.unlink()
    return []


@lie("27 two runs whose SLOs differ in their share", REFUSED, "slo.share is 0.9 in one config.yaml and 0.99 in the other")
def two_shares(folder: Path) -> list[Path]:
    other = _split(folder)
    lines, inside = [], False
    for line in (other / "config.yaml").read_text().splitlines():
        inside = line == "slo:" or (inside and line.startswith(" "))
        lines.append("  share: 0.99" if inside and line.startswith("  share:") else line)
    (other / "config.yaml").write_text("\n".join(lines) + "\n")
    return sorted(other.glob("points/*/*.json"))


# ------------------------------------------------------------------ laws of conservation, and what nobody named

COUNTS = ("requests", "prompt_tokens", "generation_tokens")


def _drop_slowest(p: Point, kept: int) -> None:
    order = sorted(range(len(p.rows)), key=lambda i: p.rows[i]["e2el_ms"])[:kept]
    p.rows = [p.rows[i] for i in sorted(order)]
    p.restate()
    p.client["asked"] = kept
    p.client["ordered_output_tokens"] = p.client["total_output_tokens"]


def _split(folder: Path) -> Path:
    """The P/D arm moved to a second run folder."""
    other = folder.with_name(folder.name + "-second")
    shutil.copytree(folder, other)
    shutil.rmtree(other / "points" / ROUTE)
    shutil.rmtree(folder / "points" / PD)
    return other


@each(
    "TTFT and TPOT columns swapped in the request lines",
    INVALID,
    "the summary differs from the lines; E2E differs from TTFT + TPOT·(n-1)",
)
def swapped_columns(p: Point) -> None:
    for row in p.rows:
        row["ttft_ms"], row["tpot_ms"] = row["tpot_ms"], row["ttft_ms"]


@each("the same, and the summary follows", INVALID, "E2E differs from TTFT + TPOT·(n-1); engines' TTFT is ten times larger")
def swapped_everywhere(p: Point) -> None:
    swapped_columns(p)
    p.restate()


@each("E2E and TTFT columns swapped", INVALID, "TTFT above E2E")
def ttft_above_e2el(p: Point) -> None:
    for row in p.rows:
        row["ttft_ms"], row["e2el_ms"] = row["e2el_ms"], row["ttft_ms"]


@each("seconds for milliseconds in the lines", INVALID, "the summary is a thousand times larger")
def seconds_in_lines(p: Point) -> None:
    for row in p.rows:
        for name in ("ttft_ms", "tpot_ms", "itl_max_ms", "e2el_ms"):
            row[name] /= 1e3


@each(
    "seconds for milliseconds in lines and summary",
    INVALID,
    "engines' times are a thousand times longer; duration is the sending's",
)
def seconds_everywhere(p: Point) -> None:
    seconds_in_lines(p)
    p.restate()


@each("seconds for milliseconds in the summary's TTFT", INVALID, "the lines are a thousand times larger")
def seconds_in_summary(p: Point) -> None:
    for name in p.metrics:
        if name.endswith("_ttft_ms"):
            p.set(name, p.metrics[name] / 1e3)


@each("milliseconds for seconds in start_s", INVALID, "sending took a thousand times the point's duration")
def start_in_ms(p: Point) -> None:
    for row in p.rows:
        row["start_s"] *= 1e3


@lie("request lines of another point of the arm", INVALID, "their number or their latencies differ from the summary")
def lines_of_another(folder: Path) -> list[Path]:
    found = list(points(folder, PD))
    shutil.copyfile(found[1].requests, found[0].requests)
    return [found[0].path]


@lie("request lines of another repeat of the same point", INVALID, "as many lines, other latencies; two records share their lines")
def lines_of_another_repeat(folder: Path) -> list[Path]:
    a, b = list(points(folder, PD, 14.9))[:2]
    shutil.copyfile(b.requests, a.requests)
    return [a.path]


@lie("two records name one raw file", INVALID, "no two records share their raw file")
def one_raw_file(folder: Path) -> list[Path]:
    a, b = list(points(folder, PD, 14.9))[:2]
    a.record["provenance"]["raw"] = b.record["provenance"]["raw"]
    a.path.write_text(json.dumps(a.record))
    return [a.path]


@lie("a repeat is a copy of another under a new name", INVALID, "same start, same lines under two names; the seed is another's")
def copied_repeat(folder: Path) -> list[Path]:
    a, b = list(points(folder, PD, 14.9))[:2]
    shutil.copyfile(b.requests, a.requests)
    raw = a.record["provenance"]["raw"]
    a.record = {
        **b.record,
        "point": a.record["point"],
        "key": a.record["key"],
        "provenance": {**b.record["provenance"], "raw": raw},
    }
    a.path.write_text(json.dumps(a.record))
    return [a.path]


@lie("the same copy with a later start", INVALID, "the lines are those of another record to the last digit")
def copied_repeat_later(folder: Path) -> list[Path]:
    (path,) = copied_repeat(folder)
    record = json.loads(path.read_text())
    record["started_at"] = "2026-11-25T23:00:00.000+00:00"
    path.write_text(json.dumps(record))
    return [path]


@lie("two records start at one moment", INVALID, "no two records share their start")
def one_start(folder: Path) -> list[Path]:
    a, b = list(points(folder, PD))[:2]
    a.record["started_at"] = b.record["started_at"]
    a.path.write_text(json.dumps(a.record))
    return [a.path]


@lie(
    "the next point starts before the last ended",
    FINDING,
    "started_at and wall_s overlap within one run: both loaded the same engines",
)
def overlapping(folder: Path) -> list[Path]:
    a = next(points(folder, PD))
    a.record["wall_s"] = 3600.0
    a.path.write_text(json.dumps(a.record))
    return [a.path]


@each("last request line doubled", INVALID, "one line more than requests completed", arm=PD)
def doubled_line(p: Point) -> None:
    p.rows.append(dict(p.rows[-1]))


@each(
    "a request line doubled in the place of another", INVALID, "the summary differs from the lines; two lines are the same", arm=PD
)
def doubled_in_place(p: Point) -> None:
    p.rows[-1] = dict(p.rows[0])


@each("request file ends in the middle", INVALID, "half as many lines as requests completed")
def half_of_the_lines(p: Point) -> None:
    p.rows = p.rows[: len(p.rows) // 2]


@lie(
    "gzip of the request file cut off",
    INVALID,
    "the file cannot be read to its end: unverified at least, never valid without a word",
)
def cut_gzip(folder: Path) -> list[Path]:
    point = next(points(folder, PD))
    whole = point.requests.read_bytes()
    point.requests.write_bytes(whole[: len(whole) // 2])
    return [point.path]


@lie("request file is gone", UNVERIFIED, "nothing of the summary can be recomputed")
def no_request_file(folder: Path) -> list[Path]:
    found = list(points(folder, PD))
    for point in found:
        point.requests.unlink()
    return [point.path for point in found]


@lie("request file is empty", INVALID, "no line for any request that completed")
def empty_request_file(folder: Path) -> list[Path]:
    point = next(points(folder, PD))
    point.requests.write_bytes(gzip.compress(b""))
    return [point.path]


@lie("a column of the request file has another name", INVALID, "the header is not the one that this version writes")
def other_header(folder: Path) -> list[Path]:
    point = next(points(folder, PD))
    text = gzip.decompress(point.requests.read_bytes()).replace(b"ttft_ms", b"ttft_s", 1)
    point.requests.write_bytes(gzip.compress(text))
    return [point.path]


@each(
    "request lines in another order", INVALID, "lines stand in the order of their start; the numbers are right all the same", arm=PD
)
def reordered(p: Point) -> None:
    p.rows.reverse()


@each(
    "latencies dealt to other requests",
    UNSEEN,
    "all lines stay whole but for their start: sums are the same; --deep sees it",
    arm=PD,
    rate=9.54,
    deep=True,
)
def dealt_anew(p: Point) -> None:
    a, b = p.rows[60], p.rows[100]
    a["start_s"], b["start_s"] = b["start_s"], a["start_s"]
    p.rows[60], p.rows[100] = b, a


@each("one output token less in each line", INVALID, "each output length is what was ordered", arm=ROUTE)
def one_token_less(p: Point) -> None:
    for row in p.rows:
        row["output_len"] -= 1


@each(
    "one output token less everywhere at the client",
    INVALID,
    "each output length is what was ordered (128), though 0.8 % is within 1 %",
)
def one_token_less_everywhere(p: Point) -> None:
    one_token_less(p)
    p.restate()


@each(
    "half of the requests one token short, half one long",
    INVALID,
    "each output length is what was ordered, though their sum is right",
)
def lengths_cancel(p: Point) -> None:
    for i, row in enumerate(p.rows):
        row["output_len"] += 1 if i % 2 else -1


@each("prompts of half the length, in lines and summary", INVALID, "point.input_len and engines' prompt tokens are twice that")
def prompts_half(p: Point) -> None:
    for row in p.rows:
        row["input_len"] /= 2
    p.restate()


@each("a point's order was edited to twice the output", LEFT_OUT, "the point's id has half of it")
def ordered_twice(p: Point) -> None:
    p.record["point"]["output_len"] *= 2


@each("a point says a rate of twice what was sent", INVALID, "sending took twice as long as num_prompts/rate")
def rate_twice(p: Point) -> None:
    p.record["point"]["request_rate"] *= 2


@each(
    "all starts shifted by 5 s", INVALID, "start_s counts from the first request: the first is not 0; ends lie beyond the duration"
)
def shifted_start(p: Point) -> None:
    for row in p.rows:
        row["start_s"] += 5.0


@each("negative start", INVALID, "start_s counts from the first request", arm=PD)
def negative_start(p: Point) -> None:
    p.rows[5]["start_s"] = -1.0


def _one(what: str, value: float, column: str) -> None:
    def change(p: Point) -> None:
        p.rows[7][column] = value

    each(f"one {column} is {what}", INVALID, "each latency is finite and positive, and TTFT is at most E2E", arm=PD)(change)


for _what, _value in (("infinite", math.inf), ("negative", -1.0), ("zero", 0.0), ("NaN", math.nan), ("1e9 ms", 1e9)):
    for _column in ("ttft_ms", "e2el_ms"):
        _one(_what, _value, _column)


@each(
    "one request failed in its line and completed in the summary", INVALID, "lines with ok=1 are one fewer than completed", arm=PD
)
def line_not_ok(p: Point) -> None:
    p.rows[3]["ok"] = 0


@each("half of the generated tokens moved from one instance to the other", INVALID, "share of tokens of each instance", arm=ROUTE)
def half_in_one_instance(p: Point) -> None:
    a, b = list(p.engines.values())[:2]
    moved = a["generation_tokens"] / 2
    a["generation_tokens"] -= moved
    b["generation_tokens"] += moved


@each("all requests in one instance", INVALID, "share of requests of each instance", arm=ROUTE)
def all_in_one_instance(p: Point) -> None:
    a, b = list(p.engines.values())[:2]
    for name in COUNTS:
        a[name], b[name] = a[name] + b[name], 0.0


@each("totals are not the sum of engines", INVALID, "totals are the sum of the engines, by their making", arm=PD)
def totals_apart(p: Point) -> None:
    p.record["telemetry"]["totals"]["nixl_bytes"] *= 2


@each("an engine restarted: a counter fell", INVALID, "no counter falls", arm=PD)
def counter_fell(p: Point) -> None:
    p.engines["engine1"]["generation_tokens"] = -5000.0
    p.engine_sums()


@each("an engine restarted in the middle and counted up again", INVALID, "engines counted fewer requests than completed", arm=ROUTE)
def restarted(p: Point) -> None:
    first = next(iter(p.engines))
    p.scale_engines(dict.fromkeys((*COUNTS, "decode_time_s", "ttft_s", "prefill_time_s", "e2e_s"), 0.4), only=first)


@each("decode instances computed a tenth of prompts again", INVALID, "a tenth of transfers is missing", arm=PD)
def computed_again(p: Point) -> None:
    p.scale_engines({"nixl_transfers": 0.9, "nixl_bytes": 0.9, "nixl_descriptors": 0.9})


@each("transfers right, a tenth of the bytes missing", INVALID, "bytes agree with prompts in whole blocks", arm=PD)
def bytes_missing(p: Point) -> None:
    p.scale_engines({"nixl_bytes": 0.9})


@each("bytes 3 % too many", INVALID, "bytes agree with prompts in whole blocks, within 1 %", arm=PD)
def bytes_many(p: Point) -> None:
    p.scale_engines({"nixl_bytes": 1.03})


@each("an engine tells nothing", INVALID, "all counters of an instance are missing, NIXL's too, which may not be", arm=PD)
def silent_engine(p: Point) -> None:
    engine = p.engines["engine1"]
    p.engines["engine1"] = dict.fromkeys(engine) | {"role": engine["role"]}
    p.engine_sums()


@each("no telemetry at all", UNVERIFIED, "nothing but the client's word is left", arm=ROUTE)
def no_telemetry(p: Point) -> None:
    p.record["telemetry"]["engines"] = {}
    p.record["telemetry"]["totals"] = dict.fromkeys(p.record["telemetry"]["totals"])


@each(
    "an instance of the arm is missing from the telemetry",
    INVALID,
    "arm_info has two instances, telemetry one; half of the requests",
    arm=ROUTE,
)
def missing_engine(p: Point) -> None:
    p.engines.popitem()
    p.engine_sums()


@each("roles of prefill and decode swapped", INVALID, "the instance that prefills fetched KV and made the tokens", arm=PD)
def swapped_roles(p: Point) -> None:
    for engine in p.engines.values():
        engine["role"] = {"prefill": "decode", "decode": "prefill"}[engine["role"]]


@each("throughput raised by a fifth in the summary", INVALID, "throughput times duration is not the tokens", arm=ROUTE)
def throughput_raised(p: Point) -> None:
    for ours, theirs in (("output_throughput_tok_s", "output_throughput"), ("request_throughput_per_s", "request_throughput")):
        p.set(ours, p.metrics[ours] * 1.2, theirs)


@each("duration and throughput changed together", INVALID, "duration is shorter than sending", arm=ROUTE)
def shorter_duration(p: Point) -> None:
    p.set("duration_s", p.metrics["duration_s"] / 1.2, "duration")
    for ours, theirs in (("output_throughput_tok_s", "output_throughput"), ("request_throughput_per_s", "request_throughput"),
                         ("total_throughput_tok_s", "total_token_throughput")):  # fmt: skip
        p.set(ours, p.metrics[ours] * 1.2, theirs)


@each("duration longer by half, throughput with it", INVALID, "duration is longer than the last answer of the lines", arm=ROUTE)
def longer_duration(p: Point) -> None:
    p.set("duration_s", p.metrics["duration_s"] * 1.5, "duration")
    for ours, theirs in (("output_throughput_tok_s", "output_throughput"), ("request_throughput_per_s", "request_throughput"),
                         ("total_throughput_tok_s", "total_token_throughput")):  # fmt: skip
        p.set(ours, p.metrics[ours] / 1.5, theirs)


@each("metrics changed and the client's result not", INVALID, "the record contradicts itself, and the lines", arm=PD)
def metrics_alone(p: Point) -> None:
    for name in ("mean_ttft_ms", "p50_ttft_ms", "p99_ttft_ms", "mean_tpot_ms"):
        p.metrics[name] *= 0.5


@each("p99 of TTFT below its p50", INVALID, "percentiles rise, and the lines give others", arm=PD)
def p99_below(p: Point) -> None:
    p.set("p99_ttft_ms", p.metrics["p50_ttft_ms"] / 2)


@each("mean ITL halved", INVALID, "ITLs add up to E2E - TTFT: mean times chunks does not, nor does the distribution", arm=PD)
def itl_halved(p: Point) -> None:
    for name in p.metrics:
        if name.endswith("_itl_ms"):
            p.set(name, p.metrics[name] / 2)


@each("ITL's distribution has half of its tokens", INVALID, "the number of ITLs agrees with the tokens after the first", arm=PD)
def itl_bins_half(p: Point) -> None:
    bins = p.record["distributions"]["itl_ms"]
    p.record["distributions"]["itl_ms"] = {k: v // 2 for k, v in bins.items()}


@each("longest ITL of a request above its whole decode", INVALID, "itl_max is at most E2E - TTFT", arm=PD)
def itl_max_above(p: Point) -> None:
    p.rows[0]["itl_max_ms"] = 2 * p.rows[0]["e2el_ms"]


@each(
    "latencies of one arm a tenth lower in lines and summary",
    INVALID,
    "engines' own decode time and TTFT are higher than the client's",
    arm=PD,
)
def latencies_lower(p: Point) -> None:
    for row in p.rows:
        for name in ("ttft_ms", "tpot_ms", "itl_max_ms", "e2el_ms"):
            row[name] *= 0.9
    p.restate()


@each(
    "TTFT lower by 60 ms everywhere at the client",
    INVALID,
    "the parts of TTFT add up to more than was measured: a negative part",
    arm=PD,
)
def ttft_lower(p: Point) -> None:
    for row in p.rows:
        row["ttft_ms"] = max(row["ttft_ms"] - 60, 1.0)
        row["tpot_ms"] = (row["e2el_ms"] - row["ttft_ms"]) / (row["output_len"] - 1)
    p.restate()
    parts = p.record["telemetry"]["ttft"]
    parts["measured_ms"] = p.metrics["mean_ttft_ms"]
    parts["error_ms"] = parts["measured_ms"] - parts["sum_ms"]


@each(
    "TTFT of one arm lower by 3 ms everywhere at the client",
    UNSEEN,
    "within what router and HTTP add; no second clock is that exact",
    arm=PD,
)
def ttft_slightly_lower(p: Point) -> None:
    for row in p.rows:
        row["ttft_ms"] -= 3
        row["tpot_ms"] = (row["e2el_ms"] - row["ttft_ms"]) / (row["output_len"] - 1)
    p.restate()
    parts = p.record["telemetry"]["ttft"]
    parts["measured_ms"] = p.metrics["mean_ttft_ms"]
    parts["error_ms"] = parts["measured_ms"] - parts["sum_ms"]


@each("a negative part of TTFT clipped to zero", INVALID, "the parts do not add up to sum_ms", arm=PD)
def part_clipped(p: Point) -> None:
    p.record["telemetry"]["ttft"]["handover_ms"] = 0.0


@lie("an invalid record is renamed and called valid", INVALID, "checks are recomputed: the queue grows")
def invalid_called_valid(folder: Path) -> list[Path]:
    found = []
    for path in sorted(folder.glob("points/*/*.invalid*.json")):
        record = json.loads(path.read_text()) | {"valid": True, "invalid_reasons": []}
        for check in record["checks"]:
            check["ok"] = True
        path.unlink()
        path = path.with_name(path.name.replace(".invalid-2.json", "-2.json").replace(".invalid.json", ".json"))
        path.write_text(json.dumps(record))
        found.append(path)
    return found


@lie("an invalid record's queue no longer grows: holds_rate edited", INVALID, "steady_state is recomputed from the lines")
def holds_rate_edited(folder: Path) -> list[Path]:
    found = []
    for path in sorted(folder.glob("points/route_2/*.invalid.json")):
        record = json.loads(path.read_text())
        for check in record["checks"]:
            if check["name"] == "steady_state":
                check |= {"ok": True, "said": "served as fast as it arrived"}
                check["evidence"]["holds_rate"] = True
        path.write_text(json.dumps(record | {"valid": True, "invalid_reasons": []}))
        found.append(path)
    return found


@each(
    "a check is taken out of the record",
    UNVERIFIED,
    "bytes a token stands in that check alone in records without a demand",
    arm=PD,
    rate=9.54,
)
def check_taken_out(p: Point) -> None:
    p.record["checks"] = [check for check in p.record["checks"] if check["name"] != "kv_bytes"]


@each("GPUs held by heat for half of the point", INVALID, "slowed_s tells of 50 %", arm=PD)
def heat(p: Point) -> None:
    for states in p.record["telemetry"]["gpus"].values():
        for gpu in states:
            gpu["slowed_s"]["HW thermal"] = p.metrics["duration_s"] / 2


@each("power cap held one arm's clocks all the time, the other's never", FINDING, "the share of time is compared between the arms")
def power_cap(p: Point) -> None:
    held = 0.0 if p.record["arm"] == ROUTE else p.metrics["duration_s"]
    for states in p.record["telemetry"]["gpus"].values():
        for gpu in states:
            gpu["slowed_s"]["power cap"] = held


@each("clocks of the GPUs are not told", UNVERIFIED, "a GPU cluster's clocks decide", arm=PD)
def gpus_silent(p: Point) -> None:
    p.record["telemetry"]["gpus"] = None


@each("another engine version in one arm", REFUSED, "provenance.versions differ between the arms", arm=PD)
def other_engine(p: Point) -> None:
    p.record["provenance"]["versions"]["vllm"] = "0.11.0"


@each("several max_concurrency in one rate sweep", FINDING, "bounds on concurrency never share a rate sweep", arm=ROUTE, rate=23.3)
def mixed_concurrency(p: Point) -> None:
    p.record["point"]["max_concurrency"] = 512


@each("the client was the bottleneck and says 0", UNSEEN, "only the client tells how busy it was", arm=PD)
def client_busy(p: Point) -> None:
    p.client.update({"client_busy": 0.0, "loop_lag_ms": 0.0})


@each("the client does not tell how busy it was", UNVERIFIED, "whether it was the bottleneck decides", arm=PD)
def client_silent(p: Point) -> None:
    p.client.update({"client_busy": None, "loop_lag_ms": None})


@each(
    "a whole arm is simulated",
    UNSEEN,
    "client, lines and engines scaled alike in all their times are another machine's numbers",
    arm=PD,
)
def whole_arm(p: Point) -> None:
    for row in p.rows:
        for name in ("ttft_ms", "tpot_ms", "itl_max_ms", "e2el_ms"):
            row[name] *= 0.98
    p.restate()
    p.scale_engines(dict.fromkeys(("decode_time_s", "ttft_s", "prefill_time_s", "e2e_s", "queue_time_s", "http_s"), 0.98))


@lie("raw ITLs halved", INVALID, "--deep: raw ITLs do not add up to E2E - TTFT", raw=True, deep=True)
def raw_itls(folder: Path) -> list[Path]:
    point = next(points(folder, PD))
    with gzip.open(point.raw, "rt") as file:
        value = json.load(file)
    value["itls"] = [[gap / 2 for gap in gaps] for gaps in value["itls"]]
    with gzip.open(point.raw, "wt") as file:
        json.dump(value, file)
    return [point.path]


@lie("identical raw files under two names", INVALID, "the request lines are another record's, and so is the start", raw=True)
def identical_raw(folder: Path) -> list[Path]:
    a, b = list(points(folder, PD, 14.9))[:2]
    shutil.copyfile(b.raw, a.raw)
    shutil.copyfile(b.requests, a.requests)
    return [a.path]
