"""From a workload to the points that every arm measures, in the order in which they are measured. Pure."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pdslurm.config import Ramp, RampUp, Slo, Workload
from pdslurm.plan.rate_sweep import rates as swept_rates
from pdslurm.records.split_ratio import SATURATED

RateSweep = tuple[int, int, str, int | None]  # what its points have in common: input and output in tokens, load, max_concurrency
FEW_IN_FLIGHT = 16  # requests that leave a decode batch small: four on each of four instances
ROUNDS = 4  # of a closed loop, so that its beginning and its end do not weigh too much (validity/load.py: WINDOWS)
LEAST_BEYOND = 0.1  # of the requests may miss their limits at the SLO that workload.duration_s is long enough for: share 0.9
ID_LENGTH = 40  # of what a load adds to a point's name, before it is cut
Class = tuple[float, int, int, float]  # share, input and output in tokens, spread of the input


@dataclass(frozen=True)
class Point:
    """One workload setting with its repeat. `seed` is its own, but for workload.one_seed: no two points or repeats send the same
    prompts, and every arm sends the same ones at the same times at the same point and repeat, so that none has easier ones.
    Repeats are numbered through all starts, so that the number says the start too."""

    input_len: int  # tokens; 0: as the data set has it
    output_len: int  # tokens; 0: as the data set has it
    request_rate: float | None  # requests/s; None: all at once, or as a trace or a ramp has it
    max_concurrency: int | None  # requests in flight; None: no bound
    num_prompts: int  # requests; with duration_s as many different prompts, of which fewer or more may be sent
    repeat: int
    seed: int
    sweeps: tuple[str, ...]  # every sweep of the workload that contains it
    load: str = "random"  # what is sent beside lengths and rates, in words
    duration_s: float | None = None  # for how long requests are sent; None: until num_prompts are
    mix: tuple[Class, ...] = ()
    paced: bool = True  # False: all at once, whatever the workload says of time
    start: int = 0  # in which of workload.starts it is measured

    @property
    def setting(self) -> tuple[int, int, float | None, int | None]:
        return self.input_len, self.output_len, self.request_rate, self.max_concurrency

    @property
    def id(self) -> str:
        """A name fit for a file: `i512-o256-rinf-cinf-rep0`, `rinf-c4-sharegpt-60-s-rep0`."""
        rate = "inf" if self.request_rate is None else f"{self.request_rate:g}"
        words = [f"i{self.input_len}"] if self.input_len else []
        words += [f"o{self.output_len}"] if self.output_len else []
        words += [f"r{rate}", f"c{self.max_concurrency or 'inf'}"]
        words += [short_name(self.load.removeprefix("random, "))] if self.load != "random" else []
        return "-".join([*words, f"rep{self.repeat}"])

    def warm_up(self, num_prompts: int) -> Point:
        """What warms an arm up before it: prompts of the same kind that are not its own, all at once."""
        return replace(self, num_prompts=num_prompts, seed=self.seed ^ 1, request_rate=None, duration_s=None, paced=False)


def point_json(point: Point) -> dict[str, Any]:
    """One point as the record and the plan carry it."""
    return {**asdict(point), "sweeps": list(point.sweeps), "id": point.id}


def warm_ups(points: Sequence[Point], repeat: int, num_prompts: int) -> tuple[Point, ...]:
    """What warms every arm up before its points of a repeat: about `num_prompts` requests, equally many of each input length with
    its longest answer, which passes through the lengths of all shorter ones, and of each mix; one such load after the other. They
    depend on the points alone: every arm gets the same."""
    kinds: dict[object, Point] = {}
    for point in points:
        if point.repeat == repeat and SATURATED not in point.sweeps:  # those have one token for an answer, or lengths of the others
            known = kinds.setdefault((point.input_len, point.mix), point)
            if (point.output_len, _most_in_flight(point)) > (known.output_len, _most_in_flight(known)):
                kinds[point.input_len, point.mix] = point
    each = -(-num_prompts // max(len(kinds), 1))
    ordered = sorted(kinds.values(), key=lambda p: (p.input_len, p.output_len, p.mix))
    return tuple(point.warm_up(each) for point in ordered if each)


def _most_in_flight(point: Point) -> float:
    return point.max_concurrency or math.inf


def points_of(workload: Workload, seed: int, *, share: float = Slo.share) -> tuple[Point, ...]:
    """All points of all sweeps, each setting once, repeat by repeat; those from workload.sure_repeats on are measured only where
    workload.until asks for them. Within a repeat the order is shuffled by the run's seed, so that a machine that drifts does not
    look like an effect of length. `share` is the SLO's: how long the points of a search last depends on it."""
    workload = lasting(workload, share)
    once: dict[object, Point] = {}
    for name, sweep in workload.sweeps.items():
        mix = tuple((c.share, c.input_len, c.output_len, c.spread) for c in sweep.mix.values())
        rates = sweep.request_rate if workload.search.lowest is None else swept_rates(workload.search)
        for setting in itertools.product(sweep.input_len, sweep.output_len, rates, sweep.max_concurrency):
            point = _point(workload, *setting, mix, least_requests(workload, share))
            known = once.setdefault((setting, mix), point)
            sweeps = known.sweeps if name in known.sweeps else (*known.sweeps, name)
            once[setting, mix] = replace(known, sweeps=sweeps)

    def seed_of(point: Point, repeat: int) -> int:
        return seed if workload.one_seed else point_seed(seed, point, repeat)

    ordered = [replace(p, seed=seed_of(p, 0)) for p in saturating_points(workload)]
    for start in range(workload.starts):
        for repeat in workload.repeats_of(start):
            round_ = [replace(p, repeat=repeat, start=start, seed=seed_of(p, repeat)) for p in once.values()]
            random.Random(f"{seed}/{repeat}").shuffle(round_)
            ordered += round_
    return tuple(ordered)


def rate_sweeps(points: Sequence[Point]) -> dict[tuple[RateSweep, int], list[Point]]:
    """(rate sweep, repeat) → the points that differ in their rate alone, from the lowest on."""
    found: dict[tuple[RateSweep, int], list[Point]] = defaultdict(list)
    for point in points:
        if SATURATED not in point.sweeps:
            found[(point.input_len, point.output_len, point.load, point.max_concurrency), point.repeat].append(point)
    return {which: sorted(swept, key=lambda p: p.request_rate or 0.0) for which, swept in found.items()}


def saturated_points(points: Sequence[Point]) -> dict[tuple[int, int], tuple[Point, Point, Point]]:
    """Lengths → the points that show how fast prompts alone, whole answers all at once, and whole answers with few requests in
    flight can be had."""
    lone = [point for point in points if SATURATED in point.sweeps]

    def of(input_len: int, output_len: int, is_bound: bool) -> Point:
        wanted = input_len, output_len, is_bound
        return next(p for p in lone if (p.input_len, p.output_len, p.max_concurrency is not None) == wanted)

    lengths = dict.fromkeys((p.input_len, p.output_len) for p in lone if p.output_len > 1)
    return {(i, o): (of(i, 1, False), of(i, o, False), of(i, o, True)) for i, o in lengths}


def saturating_points(workload: Workload) -> list[Point]:
    """For a search that has to suggest a ratio: at all lengths the prompts alone, and the whole answers, all at once; and whole
    answers with few requests in flight, whose time per token shows what a decode step takes with a small batch."""
    if workload.search.lowest is None or workload.search.neighbours is None:
        return []
    prompts = workload.search.saturating_prompts
    few = max(min(FEW_IN_FLIGHT, prompts // ROUNDS), 1)
    lengths = dict.fromkeys((i, o) for sweep in workload.sweeps.values() for i in sweep.input_len for o in sweep.output_len)
    pairs = dict.fromkeys((i, each) for i, o in lengths for each in (1, o))
    loads = [(i, o, None, prompts) for i, o in pairs] + [(i, o, few, few * ROUNDS) for i, o in pairs if o > 1]
    return [Point(i, o, None, bound, count, 0, 0, (SATURATED,), paced=False) for i, o, bound, count in loads]


def _point(
    workload: Workload,
    input_len: int,
    output_len: int,
    rate: float | None,
    concurrency: int | None,
    mix: tuple[Class, ...],
    least: int,
) -> Point:
    prompts = num_prompts(workload, rate, concurrency, least=least)
    duration = workload.duration_s if is_timed(workload, rate) else None
    load = load_words(workload, rate, duration, mix)
    return Point(input_len, output_len, rate, concurrency, prompts, 0, 0, (), load, duration, mix)


def rate_point(workload: Workload, rate: float, duration_s: float) -> Point:
    """A point of the workload's first sweep and lengths at a rate, for so long, without a seed yet."""
    sweep = next(iter(workload.sweeps.values()))
    mix = tuple((c.share, c.input_len, c.output_len, c.spread) for c in sweep.mix.values())
    lasting_so_long = replace(workload, duration_s=duration_s)
    return _point(lasting_so_long, sweep.input_len[0], sweep.output_len[0], rate, sweep.max_concurrency[0], mix, 0)


def point_seed(run_seed: int, point: Point, repeat: int) -> int:
    """A seed below 2³¹ that depends on the run's seed, the setting and the repeat alone."""
    load = "" if point.load == "random" else f"/{point.load}"
    text = f"{run_seed}/{point.setting}/{point.num_prompts}/{repeat}{load}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def tried_again(point: Point, tries: int) -> Point:
    """The point as it is sent after `tries` invalid measurements of it: with a seed of its own for each try, the same in every arm,
    so that neither its prompts nor its arrivals are those of a try that was thrown out."""
    if not tries:
        return point
    digits = hashlib.sha256(f"{point.seed}/try {tries + 1}".encode()).digest()[:4]
    return replace(point, seed=int.from_bytes(digits, "big") >> 1)


# --- how many requests, for how long


def is_timed(workload: Workload, rate: float | None) -> bool:
    """Whether the client stops by the clock: a closed loop or a trace with duration_s. At a rate the number is known before."""
    return bool(workload.duration_s) and rate is None and not workload.ramp_up


def lasting(workload: Workload, share: float) -> Workload:
    """The workload with the time that a point of a search lasts: the nearer the share is to 1, the fewer requests decide on it, and
    the more a queue that begins empty flatters a short point. Without a search, the workload as it is."""
    if workload.search.lowest is None or not workload.duration_s:
        return workload
    return replace(workload, duration_s=workload.duration_s * max(1.0, math.sqrt(LEAST_BEYOND / (1 - share))))


def least_requests(workload: Workload, share: float) -> int:
    """How many requests a point of a search has at least: search.beyond of them lie beyond the share's quantile."""
    return 0 if workload.search.lowest is None else math.ceil(round(workload.search.beyond / (1 - share), 6))


def num_prompts(workload: Workload, rate: float | None, concurrency: int | None, *, least: int = 0) -> int:
    """The requests of a point, `least` or more, or the different prompts of a timed one. With equally many for each prefix where
    prompts share some, for vLLM's client sends no others."""
    prompts = workload.num_prompts or 0
    if workload.duration_s and workload.ramp_up:
        prompts = math.ceil(ramp_requests(workload.ramp_up, workload.duration_s))
    elif workload.duration_s and rate:
        prompts = math.ceil(round(rate * workload.duration_s, 6))
    elif concurrency and workload.prompts_per_concurrency:
        prompts = min(prompts, concurrency * workload.prompts_per_concurrency)
    each = workload.num_prefixes if workload.dataset == "prefix_repetition" and workload.num_prefixes else 1
    return -(-max(prompts, least) // each) * each


def ramp_requests(ramp: RampUp, duration_s: float) -> float:
    """How many requests a ramp sends in a time. vLLM's client lets the rate r grow with the share x of the requests that were sent,
    so that n requests take n · ∫ dx / r(x): n·ln(e/s)/(e − s) for r = s + (e − s)·x, and n·(1/s − 1/e)/ln(e/s) for r = s·(e/s)^x.
    In the mean; arrivals are random, and at a ramp the client does not scale them to the time, so that it varies by 1/√n."""
    start, end = ramp.start_per_s, ramp.end_per_s
    if start == end:
        return start * duration_s
    log = math.log(end / start)
    return duration_s * ((end - start) / log if ramp.shape is Ramp.linear else log / (1 / start - 1 / end))


# --- words


def load_words(workload: Workload, rate: float | None, duration_s: float | None, mix: tuple[Class, ...]) -> str:
    """What is sent beside lengths and rates: `random`, `mix of 90% 128/64, 10% 4000/64`, `sharegpt, burstiness 0.5`. Whatever
    changes a load stands here, for points differ in seed and name by it."""
    words = [workload.dataset]
    if workload.dataset == "mix":
        words = [f"mix of {', '.join(class_words(c) for c in mix)}"]
    if workload.dataset == "prefix_repetition":
        words = [f"{workload.num_prefixes} prefixes of {workload.prefix_len}"]
    if workload.dataset == "trace" and workload.trace.seconds != 1:
        words += [f"{workload.trace.seconds:g} s a unit"]
    if (rate or workload.ramp_up) and workload.burstiness != 1:
        words += [f"burstiness {workload.burstiness:g}"]
    if ramp := workload.ramp_up:
        words += [f"{ramp.shape.value} ramp {ramp.start_per_s} to {ramp.end_per_s} a s"]
    words += [f"{duration_s:g} s"] if duration_s else []
    words += [] if workload.stream else ["not streamed"]
    return ", ".join(words)


def class_words(of_mix: Class) -> str:
    share, input_len, output_len, spread = of_mix
    return f"{100 * share:g}% {input_len}/{output_len}" + (f" ±{100 * spread:g}%" if spread else "")


def short_name(text: str) -> str:
    """Letters, digits, dots and dashes; what is too long ends in a hash of the whole."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")
    return name if len(name) <= ID_LENGTH else f"{name[: ID_LENGTH - 7].strip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


# --- what is to be expected


def typical_lengths(point: Point, unknown: int = 256) -> tuple[float, float]:
    """Mean input and output of a point's requests in tokens, for estimates; `unknown` where only the data set knows. Conversations
    of ShareGPT have about 220 and 190."""
    if point.mix:
        return sum(c[0] * c[1] for c in point.mix), sum(c[0] * c[2] for c in point.mix)
    return point.input_len or unknown, point.output_len or unknown


def expected_hit_rate(workload: Workload, point: Point | None = None) -> float | None:
    """The largest share of prompt tokens that can hit the prefix cache if it is empty before: of one point, or of all points of the
    workload. 0 without prefix caching; what the workload states, if it does; None where nobody knows.

    Prompts that share prefixes: of m prompts with one prefix all but the first find it, (m − 1)/m · prefix_len/input_len. Reality
    stays below: every instance of an arm computes each prefix once itself, and only whole blocks are kept."""
    if not workload.prefix_caching:
        return 0.0
    if workload.prefix_hit_rate is not None:
        return workload.prefix_hit_rate
    if workload.dataset in ("random", "mix"):
        return 0.0
    if workload.dataset != "prefix_repetition" or not workload.num_prefixes or not workload.prefix_len:
        return None
    known = (point,) if point else points_of(replace(workload, starts=1, repeats=1), 0)
    return max((_shared(workload.prefix_len, p.input_len, p.num_prompts / workload.num_prefixes) for p in known), default=None)


def _shared(prefix_len: int, input_len: int, prompts_per_prefix: float) -> float:
    return (1 - 1 / prompts_per_prefix) * prefix_len / input_len
