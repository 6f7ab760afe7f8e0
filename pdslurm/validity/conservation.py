"""Laws that hold for every point whatever the engines do: what was sent was counted, what was counted was sent, sums add up.
Pure.

A record that breaks one of them does not describe one measurement."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from pdslurm.records.measurement import LATENCIES, Check, metrics_of
from pdslurm.validity.answer import judged, missing, not_asked
from pdslurm.validity.counters import total_of
from pdslurm.validity.evidence import NO_CLIENT, NO_REQUESTS, Evidence

MAX_TOKEN_DRIFT = 0.01  # random prompts and texts that are tokenised again move the token count a little
MAX_PROMPT_DRIFT = 0.05  # of the mean prompt's ordered length: special tokens and a chat template add to it …
PROMPT_FLOOR = 16.0  # … so many tokens at least
ROUNDED_MS = 0.01  # request files hold 0.1 µs, raw files 1 µs
ROUNDED = 1e-3  # of a sum or a statistic that is computed from rounded times
LATE_START_S, LATE_START = 1.0, 0.05  # from the client's start to its first request: s, and of the duration
ARRIVALS = 12.0  # mean gaps between arrivals that the first one may take: e^-12 is one in 160,000


def completed(e: Evidence) -> Check:
    done, error = e.completed, e.client.get("first_error")
    asked = e.demand.num_prompts
    why = f"; the first error: {error.strip().splitlines()[-1][:300]}" if error and done != asked else ""
    return Check("completed", done == asked, f"{done} of {asked} requests completed{why}", {"completed": done, "asked": asked})


def output_tokens(e: Evidence) -> Check:
    """The answers' tokens against those that were ordered: the sum within 1 %, and each answer to the token where all have one
    length. `ordered_output_tokens` is the sum over the requests that were answered, where the client tells it."""
    done, got = e.completed, e.client.get("total_output_tokens")
    ordered = e.client.get("ordered_output_tokens") or done * e.demand.output_len
    lengths = e.answered["output_len"] if e.answered else []
    other = sum(length != e.demand.output_len for length in lengths) if e.demand.output_len else 0
    evidence = {"got": got, "ordered": ordered or None, "of_another_length": other}
    if not e.client:
        return missing("output_tokens", NO_CLIENT)
    if not done or not ordered:
        return not_asked("output_tokens", "no output length was ordered" if done else "no request completed", evidence)
    wrong = [f"{got or 0} output tokens instead of {ordered}"] if abs((got or 0) - ordered) > MAX_TOKEN_DRIFT * ordered else []
    if other:
        first = next(length for length in lengths if length != e.demand.output_len)
        wrong.append(f"{other} answers are not of the {e.demand.output_len} tokens that were ordered; the first has {first:g}")
    return judged("output_tokens", wrong, f"{got} output tokens", evidence)


def requests_counted(e: Evidence) -> Check:
    """Every request that was answered was counted once by the engines of each role that it goes through, and by no other."""
    counted = {role: total_of(e.of_role(role), "requests") for role in _roles(e)}
    evidence = {"completed": e.completed, "counted": counted}
    if e.completed != e.demand.num_prompts or not e.completed:
        return not_asked("requests_counted", "not every request was answered", evidence)
    if not counted or None in counted.values():
        return missing("requests_counted", e.unless_told("an engine does not tell how many requests it had"), evidence)
    wrong = [
        f"{_of_role(role)} counted {count:g} requests for {e.completed} that were completed"
        for role, count in counted.items()
        if count != e.completed
    ]
    return judged("requests_counted", wrong, f"each of {e.completed} requests was counted once by each role", evidence)


def tokens_counted(e: Evidence) -> Check:
    """Prompt tokens and output tokens as the engines counted them against what the client sent and got, by role: a prefill instance
    makes one token of each request, all other instances make all of them."""
    prompts, outputs = e.client.get("total_input_tokens"), e.client.get("total_output_tokens")
    due = {
        role: {"prompt_tokens": prompts, "generation_tokens": e.completed if role == "prefill" else outputs} for role in _roles(e)
    }
    counted = {role: {name: total_of(e.of_role(role), name) for name in names} for role, names in due.items()}
    evidence = {"sent": prompts, "got": outputs, "counted": counted}
    if not e.client:
        return missing("tokens_counted", NO_CLIENT)
    if e.completed != e.demand.num_prompts or not e.completed:
        return not_asked("tokens_counted", "not every request was answered", evidence)
    pairs = [(role, name, counted[role][name], want) for role, names in due.items() for name, want in names.items()]
    if not pairs or any(have is None or want is None for _, _, have, want in pairs):
        return missing("tokens_counted", e.unless_told("an engine or the client does not tell its tokens"), evidence)
    wrong = [
        f"{_of_role(role)} counted {have:,.0f} {name.replace('_', ' ')}, the client {want:,.0f}"
        for role, name, have, want in pairs
        if have is not None and want is not None and abs(have - want) > MAX_TOKEN_DRIFT * want
    ]
    if e.demand.input_len and e.completed:
        mean = prompts / e.completed if prompts else 0.0
        if abs(mean - e.demand.input_len) > max(PROMPT_FLOOR, MAX_PROMPT_DRIFT * e.demand.input_len):
            wrong.append(f"the mean prompt has {mean:.5g} tokens, {e.demand.input_len} were ordered")
    return judged("tokens_counted", wrong, "client and engines counted the same tokens", evidence)


def request_lines(e: Evidence) -> Check:
    """The request file against the client's sums: a line for each request, in the order of their start, no two the same."""
    if e.requests is None or e.answered is None:
        return missing("request_lines", NO_REQUESTS)
    lines, done = len(e.requests["ok"]), len(e.answered["ok"])
    asked = e.client.get("asked") or e.demand.num_prompts
    starts = e.requests["start_s"]
    evidence: dict[str, Any] = {"lines": lines, "answered": done, "asked": asked, "completed": e.completed}
    wrong = [f"{lines} lines for {asked} requests"] if lines != asked else []
    wrong += [f"{done} lines of answered requests, {e.completed} were completed"] if done != e.completed else []
    if starts and not (starts[0] == 0 and all(a <= b for a, b in itertools.pairwise(starts))):
        wrong.append("its lines are not in the order of their start, from 0")
    for column, name in (("input_len", "total_input_tokens"), ("output_len", "total_output_tokens")):
        total, told = math.fsum(e.answered[column]), e.client.get(name)
        evidence[name] = total
        if told is not None and total != told:
            wrong.append(f"its {column} add up to {total:,.0f}, the client says {told:,.0f}")
    same = len(starts) - len(set(zip(starts, e.requests["e2el_ms"], e.requests["ttft_ms"], strict=True)))
    wrong += [f"{same} lines are there twice"] if same and done == lines else []
    return judged("request_lines", wrong, f"{lines} lines agree with the client's sums", evidence)


def latencies(e: Evidence) -> Check:
    """Every latency of a request is finite and positive, none is longer than what contains it, and they agree with each other."""
    summary = {name: value for name, value in e.metrics.items() if name.endswith("_ms") and value is not None}
    wrong = [f"{name} is {value:g}" for name, value in summary.items() if not math.isfinite(value) or value < 0][:3]
    if e.answered is None:
        return judged("latencies", wrong, "", {}) if wrong else missing("latencies", NO_REQUESTS)
    counts = {text: n for text, n in _odd_requests(e).items() if n}
    wrong += [f"{n} of {len(e.answered['ok'])} requests {text}" for text, n in counts.items()]
    return judged("latencies", wrong, "every latency is finite, positive and within the request's time", {"odd": counts})


def _odd_requests(e: Evidence) -> dict[str, int]:
    """How many requests have what no request can have, by what that is."""
    assert e.answered is not None
    odd = dict.fromkeys(
        (
            "have no end-to-end latency above 0",
            "have no time to first token above 0",
            "have their first token after their last",
            "have a time per output token that is not (E2E - TTFT) / (tokens - 1)",
            "have a gap between tokens that is longer than all of them, or shorter than their mean",
        ),
        0,
    )
    no_e2el, no_ttft, late, tpot_apart, gap_apart = odd
    columns = ("output_len", "ttft_ms", "tpot_ms", "itl_max_ms", "e2el_ms")
    for tokens, ttft, tpot, gap, e2el in zip(*(e.answered[name] for name in columns), strict=True):
        odd[no_e2el] += not 0 < e2el < math.inf
        if not e.demand.stream:
            continue
        odd[no_ttft] += not 0 < ttft < math.inf
        odd[late] += ttft > e2el + ROUNDED_MS
        if tokens > 1:
            decoding = e2el - ttft
            each = decoding / (tokens - 1)
            odd[tpot_apart] += not abs(tpot - each) <= ROUNDED_MS + ROUNDED * abs(each)
            odd[gap_apart] += bool(gap > decoding + ROUNDED_MS or gap < each - ROUNDED_MS or (gap != gap and decoding > ROUNDED_MS))
    return odd


def token_times(e: Evidence) -> Check:
    """The gaps between chunks, taken together, are the time from first token to last, and there are no more of them than tokens
    after the first. A chunk may carry several tokens: how many is told, for the mean ITL is then longer than the mean TPOT."""
    gaps, mean_ms = sum(e.itl_bins.values()), e.client.get("mean_itl_ms")
    decode_s, tokens = e.client.get("decode_s"), e.client.get("decode_tokens")
    if e.answered is not None:
        decode_s = math.fsum(b - a for a, b in zip(e.answered["ttft_ms"], e.answered["e2el_ms"], strict=True)) / 1000
        tokens = sum(max(0.0, n - 1) for n in e.answered["output_len"])
    evidence = {"gaps": gaps, "tokens_after_the_first": tokens, "gaps_s": gaps * (mean_ms or 0) / 1000, "decode_s": decode_s}
    if not e.demand.stream or e.demand.output_len == 1 or tokens == 0:
        return not_asked("token_times", "no token after the first, or none is seen", evidence)
    if e.completed != e.demand.num_prompts:
        return not_asked("token_times", "not every request was answered", evidence)
    if not gaps or mean_ms is None or decode_s is None or tokens is None:
        return missing("token_times", "the times between tokens are not in the record", evidence)
    evidence["tokens_a_chunk"] = tokens / gaps
    wrong = []
    if gaps > tokens:
        wrong.append(f"{gaps:,.0f} gaps between chunks for {tokens:,.0f} tokens after the first")
    if not abs(gaps * mean_ms / 1000 - decode_s) <= ROUNDED * decode_s + ROUNDED_MS / 1000:
        wrong.append(f"the gaps between chunks add up to {gaps * mean_ms / 1000:.5g} s, first to last token to {decode_s:.5g} s")
    return judged("token_times", wrong, f"{tokens / gaps:.3f} tokens a chunk", evidence)


def duration(e: Evidence) -> Check:
    """The point lasted as long as its requests: not less than until the last answer, and hardly more. Throughput times duration
    gives what was completed. After a fixed time both mean the time until the last answer, which the client keeps beside it."""
    whole = {**e.client, **(e.client.get("until_last_answer") or {})}
    lasted = whole.get("duration")
    if not lasted:
        return missing("duration", NO_CLIENT if not e.client else "the client does not tell how long it measured")
    wrong, evidence = [], {"duration_s": lasted, "sending_s": e.client.get("sending_s"), "wall_s": e.wall_s}
    for rate, what in (("request_throughput", e.completed), ("output_throughput", e.client.get("total_output_tokens"))):
        if what is not None and whole.get(rate) is not None and not _close(whole[rate], what / lasted):
            wrong.append(f"{rate} {_number(whole.get(rate))} times {lasted:.5g} s is not {what:g}")
    both = (e.client.get("total_input_tokens") or 0) + (e.client.get("total_output_tokens") or 0)
    total = whole.get("total_token_throughput")
    if total is not None and not _close(total, both / lasted):
        wrong.append(f"total_token_throughput {_number(total)} times {lasted:.5g} s is not {both:g}")
    if (sending := e.client.get("sending_s")) is not None and sending > lasted * (1 + ROUNDED):
        wrong.append(f"sending took {sending:.5g} s, longer than the whole measurement of {lasted:.5g} s")
    if e.wall_s and lasted > e.wall_s + ROUNDED:
        wrong.append(f"the client measured for {lasted:.5g} s, the driver waited {e.wall_s:.5g} s for all of it")
    if e.spans:
        last = max(end for _, end in e.spans)
        before = max(LATE_START_S, LATE_START * lasted, ARRIVALS / (e.demand.request_rate or math.inf))
        evidence["last_answer_s"] = last
        if not last - 0.01 <= lasted <= last + before:
            wrong.append(f"the last answer came {last:.5g} s after the first request, the measurement took {lasted:.5g} s")
    return judged("duration", wrong, f"{lasted:.4g} s, as its requests and its throughput say", evidence)


def summary(e: Evidence) -> Check:
    """The record's metrics are the client's, and the client's latencies are those of the request lines: mean, spread, percentiles.
    (Percentiles as numpy's `percentile` has them. The gaps between chunks are not in the lines; `--deep` reads them.)"""
    if not e.client:
        return missing("summary", NO_CLIENT)
    wrong = [
        f"{name} is {_number(e.metrics.get(name))} in the record and {_number(value)} in the client's result"
        for name, value in metrics_of(e.client).items()
        if not _same(e.metrics.get(name), value)
    ][:3]
    if e.answered is None:
        return judged("summary", wrong, "", {}) if wrong else missing("summary", NO_REQUESTS)
    compared = 0
    for what in LATENCIES:
        column = "e2el_ms" if what == "e2el" else f"{what}_ms"
        if column not in e.answered or what == "itl":
            continue
        if what == "tpot":
            values = [v for v, n in zip(e.answered[column], e.answered["output_len"], strict=True) if n > 1]
        else:
            values = e.answered[column]
        for name, value in statistics_of(values).items():
            told = e.client.get(f"{name}_{what}_ms")
            if told is None or not values or (what != "e2el" and not e.demand.stream):
                continue
            compared += 1
            if not abs(told - value) <= ROUNDED_MS + ROUNDED * abs(value):
                wrong.append(f"{name}_{what}_ms is {_number(told)}, by the request lines {_number(value)}")
    return judged("summary", wrong[:5], f"{compared} statistics agree with the request lines", {"compared": compared})


def statistics_of(values: Sequence[float]) -> dict[str, float]:
    """Mean, population standard deviation and percentiles of a column; NaN of an empty one."""
    if not values:
        return {}
    ordered, n = sorted(values), len(values)
    mean = math.fsum(values) / n
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / n)

    def percentile(p: float) -> float:
        place = (n - 1) * p / 100
        low = math.floor(place)
        high = min(low + 1, n - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

    return {"mean": mean, "std": spread, **{f"p{p}": percentile(p) for p in (50, 90, 95, 99)}}


def counters(e: Evidence) -> Check:
    """Counters of a process only rise. One that fell names an engine or a router that was started anew during the point."""
    found = {**e.engines, "router": e.telemetry.get("router_requests") or {}}
    fell = {
        name: sorted(key for key, value in counts.items() if isinstance(value, int | float) and value < 0)
        for name, counts in found.items()
    }
    restarted = sorted(e.telemetry.get("restarted") or ())
    wrong = [f"{', '.join(keys)} of {name} fell: it was started anew" for name, keys in fell.items() if keys]
    wrong += [f"{name} was started anew" for name in restarted if not fell.get(name)]
    off = [
        name for name, total in (e.telemetry.get("totals") or {}).items() if not _same(total, total_of(e.engines.values(), name))
    ]
    wrong += [f"the engines' {', '.join(off)} do not add up to the totals in the record"] if off and e.engines else []
    if not e.engines:
        return missing("counters", "the engines' counters are not in the record")
    if not wrong and e.no_counters:
        return missing("counters", e.unless_told(""))
    return judged("counters", wrong, "no counter fell", {"fell": {k: v for k, v in fell.items() if v}, "restarted": restarted})


def _roles(e: Evidence) -> Iterable[str]:
    return dict.fromkeys(str(engine.get("role")) for engine in e.engines.values())


def _of_role(role: str) -> str:
    return "the engines" if role == "both" else f"the {role} instances"


def _close(have: float, want: float) -> bool:
    return abs(have - want) <= ROUNDED * abs(want)


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= 1e-6 * max(abs(one), abs(other)) + 1e-9


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.5g}"
