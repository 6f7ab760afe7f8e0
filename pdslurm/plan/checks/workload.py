"""From a workload to the list of everything that is wrong with it, the beginning of its data file included."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pdslurm.bench.request_trace import read_trace
from pdslurm.config import PromptClass, RampUp, Sweep, Workload

# Each data set, and whether a sweep gives it input and output lengths: yes, no, or may (else they are as the file has them).
LENGTHS = {
    "random": ("yes", "yes"), "mix": ("no", "no"), "prefix_repetition": ("yes", "yes"), "sharegpt": ("no", "may"),
    "custom": ("no", "may"), "trace": ("no", "no"),
}  # fmt: skip
FROM_FILE = ("sharegpt", "custom", "trace")
GLANCE = 2**20  # characters of a JSON file that are looked at


def problems(workload: Workload, context: int | None) -> Iterator[str]:
    """Every problem, one sentence each; `context` is the model's in tokens."""
    if workload.dataset not in LENGTHS:
        hint = "; what has recorded times and lengths is a trace here" if workload.dataset in ("timed_trace", "burstgpt") else ""
        yield f"workload.dataset={workload.dataset}: use one of {', '.join(LENGTHS)}{hint}"
        return
    if not workload.sweeps:
        yield "workload.sweeps: empty; give at least one sweep of input_len and output_len"
    numbers = list(_numbers(workload))
    yield from numbers
    yield from _prefixes(workload)
    if workload.ramp_up:
        yield from _ramp(workload.ramp_up)
    for name, sweep in workload.sweeps.items():
        field = f"workload.sweeps.{name}"
        yield from _lengths(field, sweep, workload, context)
        yield from _mix(field, sweep, workload, context)
        yield from _arrivals(field, sweep, workload)
    paths = list(_path(workload))
    yield from paths
    if workload.dataset_path and not paths and not numbers:
        yield from (f"workload.dataset_path={workload.dataset_path}: {what}" for what in _content(workload, context))


def _numbers(workload: Workload) -> Iterator[str]:
    for field, least in (("num_prompts", 1), ("prompts_per_concurrency", 1), ("repeats", 1), ("warmup_prompts", 0)):
        value = getattr(workload, field)
        if value is not None and value < least:
            yield f"workload.{field}={value}: must be {least} or more"
    for field in ("duration_s", "burstiness"):
        value = getattr(workload, field)
        if value is not None and value <= 0:
            yield f"workload.{field}={value}: must be above 0"
    counted = workload.duration_s and (
        bool(workload.ramp_up) or all(r is not None for s in workload.sweeps.values() for r in s.request_rate)
    )
    if workload.num_prompts is None and not counted:
        what = "how many different prompts to make for the time" if workload.duration_s else "how many requests a point has"
        yield f"workload.num_prompts=null: say {what}; only duration_s with a rate tells it by itself"


def _prefixes(workload: Workload) -> Iterator[str]:
    for field in ("prefix_len", "num_prefixes"):
        value = getattr(workload, field)
        if workload.dataset != "prefix_repetition" and value is not None:
            yield f"workload.{field}={value}: belongs to workload.dataset=prefix_repetition alone; leave it out"
        elif workload.dataset == "prefix_repetition" and (value is None or value < 1):
            yield f"workload.{field}={'null' if value is None else value}: workload.dataset=prefix_repetition needs 1 or more"
    rate = workload.prefix_hit_rate
    if rate is not None and not 0 <= rate <= 1:
        yield f"workload.prefix_hit_rate={rate}: a share of the prompt tokens, from 0 to 1"
    if rate is not None and not workload.prefix_caching:
        yield f"workload.prefix_hit_rate={rate}: nothing can hit with workload.prefix_caching=false"
    if rate is None and workload.prefix_caching and workload.dataset in FROM_FILE:
        yield (
            f"workload.prefix_hit_rate=null: with prefix_caching=true say which share of the prompt tokens may hit; "
            f"of workload.dataset={workload.dataset} nothing else tells"
        )


def _ramp(ramp: RampUp) -> Iterator[str]:
    if ramp.start_per_s < 1:
        yield f"workload.ramp_up.start_per_s={ramp.start_per_s}: must be 1 or more"
    if ramp.end_per_s < ramp.start_per_s:
        yield f"workload.ramp_up.end_per_s={ramp.end_per_s}: must not be below start_per_s={ramp.start_per_s}"


def _lengths(field: str, sweep: Sweep, workload: Workload, context: int | None) -> Iterator[str]:
    lists: dict[str, list[float | None]] = {
        "input_len": [*sweep.input_len], "output_len": [*sweep.output_len],
        "request_rate": sweep.request_rate, "max_concurrency": [*sweep.max_concurrency],
    }  # fmt: skip
    wanted = dict(zip(lists, (*LENGTHS[workload.dataset], "yes", "yes"), strict=True))
    for name, values in lists.items():
        if not values:
            yield f"{field}.{name}: empty; give at least one value"
        for value in values:
            if value is not None and (value < 0 or (value == 0 and wanted[name] == "yes")):
                yield f"{field}.{name}={value}: must be above 0"
            elif value and wanted[name] == "no":
                yield f"{field}.{name}={value}: workload.dataset={workload.dataset} has lengths of its own; leave it out"
    if context and sweep.input_len and sweep.output_len:
        longest = max(sweep.input_len), max(sweep.output_len)
        if sum(longest) > context:
            yield (
                f"{field}: input_len={longest[0]} plus output_len={longest[1]} is {sum(longest)} tokens, longer than the model's "
                f"context of {context}; shorten the sweep or raise model.max_model_len"
            )
    for value in sweep.input_len:
        if workload.dataset == "prefix_repetition" and workload.prefix_len and 0 < value <= workload.prefix_len:
            yield f"{field}.input_len={value}: must be above workload.prefix_len={workload.prefix_len}, which it includes"


def _mix(field: str, sweep: Sweep, workload: Workload, context: int | None) -> Iterator[str]:
    if workload.dataset != "mix":
        if sweep.mix:
            yield f"{field}.mix: belongs to workload.dataset=mix, and workload.dataset={workload.dataset}"
        return
    if not sweep.mix:
        yield f"{field}.mix: empty; give classes such as short: {{share: 0.9, input_len: 128, output_len: 64}}"
        return
    for name, one in sweep.mix.items():
        yield from _class(f"{field}.mix.{name}", one, context)
    total = sum(one.share for one in sweep.mix.values())
    if abs(total - 1) > 1e-6:
        yield f"{field}.mix: the shares add up to {total:g}; they must to 1"


def _class(field: str, one: PromptClass, context: int | None) -> Iterator[str]:
    for name, low, high in (("share", 0, 1), ("input_len", 0, None), ("output_len", 0, None)):
        value = getattr(one, name)
        if value <= low or (high and value > high):
            yield f"{field}.{name}={value}: must be above 0" + (f" and at most {high}" if high else "")
    if not 0 <= one.spread < 1:
        yield f"{field}.spread={one.spread}: must be 0 or more and below 1"
    longest = int(one.input_len * (1 + one.spread)) + one.output_len
    if context and longest > context:
        yield f"{field}: up to {longest} tokens with the output, longer than the model's context of {context}; shorten them"


def _arrivals(field: str, sweep: Sweep, workload: Workload) -> Iterator[str]:
    rates = [rate for rate in sweep.request_rate if rate is not None]
    for what, given in (("ramp_up", workload.ramp_up), ("dataset=trace", workload.dataset == "trace")):
        if given and rates:
            yield f"{field}.request_rate={rates[0]}: workload.{what} has times of its own; leave it out"
    if workload.ramp_up and workload.dataset == "trace":
        yield "workload.ramp_up: workload.dataset=trace has times of its own; leave it out"
    timed = workload.ramp_up or workload.dataset == "trace" or workload.search.lowest
    if workload.duration_s and not timed and len(rates) < len(sweep.request_rate) and None in sweep.max_concurrency:
        yield (
            f"workload.duration_s={workload.duration_s:g}: {field} without request_rate and max_concurrency sends everything at "
            "once, which takes no time; give either"
        )


def _path(workload: Workload) -> Iterator[str]:
    path, dataset = workload.dataset_path, workload.dataset
    if path is None and dataset in FROM_FILE:
        yield f"workload.dataset_path=null: workload.dataset={dataset} reads a file; give its path"
    elif path is not None and dataset not in FROM_FILE:
        yield f"workload.dataset_path={path}: workload.dataset={dataset} reads no file; leave it out, or choose another data set"
    elif path is not None and not Path(path).is_file():
        yield f"workload.dataset_path={path}: no such file"
    elif path is not None and dataset == "custom" and not path.endswith(".jsonl"):
        yield f"workload.dataset_path={path}: workload.dataset=custom reads JSON lines; name the file .jsonl"
    elif path is not None and dataset == "trace" and not path.endswith((".jsonl", ".csv")):
        yield f"workload.dataset_path={path}: workload.dataset=trace reads .jsonl and .csv"


def _content(workload: Workload, context: int | None) -> Iterator[str]:
    """What is wrong with the file, as far as its beginning tells; of a trace with every request that will be sent."""
    path = Path(str(workload.dataset_path))
    try:
        if workload.dataset == "trace":
            yield from _trace(workload, context)
        with path.open(encoding="utf-8") as file:
            if workload.dataset == "sharegpt":
                yield from _sharegpt(file.read(GLANCE))
            elif workload.dataset == "custom":
                yield from _custom(file.readline(), workload)
    except (OSError, ValueError) as error:
        yield str(error)


def _sharegpt(text: str) -> Iterator[str]:
    shape = 'a JSON list of {"conversations": [{"value": prompt}, {"value": answer}, …]}'
    if not text.lstrip().startswith("["):
        yield f"does not begin with [; workload.dataset=sharegpt reads {shape}"
        return
    try:
        first, _ = json.JSONDecoder().raw_decode(text, text.index("[") + 1 + _blanks(text[text.index("[") + 1 :]))
    except ValueError as bad:
        if len(text) < GLANCE:
            yield f"is not JSON ({bad})"
        return
    turns = first.get("conversations") if isinstance(first, dict) else None
    if not isinstance(turns, list) or not all(isinstance(turn, dict) and "value" in turn for turn in turns):
        yield f"its first entry has no conversations with values; workload.dataset=sharegpt reads {shape}"


def _blanks(text: str) -> int:
    return len(text) - len(text.lstrip())


def _custom(line: str, workload: Workload) -> Iterator[str]:
    try:
        first: Any = json.loads(line)
    except ValueError as bad:
        yield f"its first line is not JSON ({bad})"
        return
    if not isinstance(first, dict) or not isinstance(first.get("prompt"), str):
        yield "its first line has no text under 'prompt'"
    elif 0 in [n for s in workload.sweeps.values() for n in s.output_len] and "output_tokens" not in first:
        yield "its first line has no 'output_tokens'; add them, or give workload.sweeps an output_len"


def _trace(workload: Workload, context: int | None) -> Iterator[str]:
    most = workload.num_prompts or 0
    rows = list(itertools.islice(read_trace({"path": workload.dataset_path, **asdict(workload.trace)}), most))
    if len(rows) < most:
        yield f"has {len(rows)} requests, and workload.num_prompts={most}"
    if long := [row for row in rows if context and row.input_len + row.output_len > context]:
        first = f"the first of {long[0].input_len} + {long[0].output_len} tokens"
        yield f"{len(long)} of its first {len(rows)} requests, {first}, are longer than the model's context of {context}"
