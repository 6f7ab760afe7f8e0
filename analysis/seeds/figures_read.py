"""The points read off the blog's figures in; what they say to the claims that the blog makes in words out. Each function is a
`formula` of seed_claims.csv, as in sizes.py."""

from __future__ import annotations

from itertools import pairwise

from analysis.seeds import formulas
from analysis.seeds.claims import Computed, Count, Estimate, Points, Unknown, number
from analysis.seeds.inputs import Data
from analysis.seeds.sizes import BF16, GIGA, MEGA
from analysis.stats.bounds import Bounded

INPUT = tuple((n, 256) for n in (512, 1024, 2048, 4096))
OUTPUT = tuple((512, n) for n in (256, 512, 1024, 2048, 4096))
PANELS = {"input": INPUT, "output": OUTPUT, "all": INPUT + OUTPUT[1:], "short_output": OUTPUT[:2]}


def read_value(data: Data, *, arm: str, at: str, column: str, divide_by: str = "1") -> Computed:
    """One point's value."""
    value = data.digitised(arm, *_lengths(at), column)
    return Estimate(value / float(divide_by)) if value else _not_digitised(arm, at)


def read_values(data: Data, *, arm: str, panel: str, column: str) -> Computed:
    """A column over one panel."""
    return _points(panel, {at: data.digitised(arm, *at, column) for at in PANELS[panel]})


def ratio_at(data: Data, *, over: str, under: str, at: str, column: str) -> Computed:
    """How many times `over` has of `under`."""
    above, below = (data.digitised(arm, *_lengths(at), column) for arm in (over, under))
    if above and below:
        return Estimate(above / below)
    return _not_digitised(under if above else over, at)


def ratios(data: Data, *, over: str, under: str, panel: str, column: str) -> Computed:
    """`over` / `under` over one panel."""
    both = {at: [data.digitised(arm, *at, column) for arm in (over, under)] for at in PANELS[panel]}
    return _points(panel, {at: a / b if a and b else None for at, (a, b) in both.items()})


def seconds_above(data: Data, *, arm: str, base: str, panel: str, model: str, link: str) -> Computed:
    """TTFT of `arm` less that of `base`, in s; the note has the transfer that is blamed for it."""
    both = {at: [data.digitised(name, *at, "mean_ttft_ms") for name in (arm, base)] for at in PANELS[panel]}
    apart = {at: (a - b) / 1e3 if a and b else None for at, (a, b) in both.items()}
    moved = formulas.transfer_s(PANELS[panel][0][0] * data.models[model].kv_bytes_per_token(BF16), data.link(link))
    trend = [(at[1], value) for at in OUTPUT if (value := data.digitised(arm, *at, "mean_ttft_ms"))]
    falls = " ".join(number(value.value) for _, value in trend)
    cause = f"Moving the prompt's KV takes {number(1e3 * moved)} ms a rank at the link's peak, whatever the output's length"
    return _points(panel, apart, f"{cause}; the same prompts' TTFT goes {falls} ms as outputs grow: warm-up or prefix cache.")


def ranked(data: Data, *, arm: str, rivals: str, panel: str, column: str, place: str = "1") -> Computed:
    """At how many points `arm` stands at `place` among itself and its rivals, 1 the best. Points are compared where enough was
    digitised to prove the place wrong: by more rivals that are better than it allows, or, with all known, fewer."""
    names, allowed, total = rivals.split(","), int(place) - 1, len(PANELS[panel])
    held, failed, lacking = 0, [], dict.fromkeys([arm, *names], 0)
    for at in PANELS[panel]:
        values = {name: data.digitised(name, *at, column) for name in lacking}
        for name, value in values.items():
            lacking[name] += value is None
        mine, others = values[arm], [value for name, value in values.items() if value and name != arm]
        complete = len(others) == len(names)
        if mine is None or not (complete or len(others) > allowed):
            continue
        better = sum(_better(value, mine, column) for value in others)
        if better > allowed or (complete and better < allowed):
            failed.append(_label(at))
        else:
            held += 1
    missing = ", ".join(f"{name} at {n} of {total}" for name, n in lacking.items() if n)
    return Count(held, tuple(failed), f"not digitised: {missing}" if missing else "")


def falls_below(data: Data, *, arm: str, column: str, share: str) -> Computed:
    """The input length at which a column is first below `share` of what it was at the shortest."""
    values = [(at[0], value.value) for at in INPUT if (value := data.digitised(arm, *at, column))]
    found = formulas.first_below(values, float(share))
    said = ", ".join(f"{number(value)} at {n}" for n, value in values)
    return Unknown("it never does", said) if found is None else Estimate(Bounded(found, found, found), f"{said}.")


def transfer_in_ttft(data: Data, *, arm: str, at: str, model: str, link: str) -> Computed:
    """Nothing in the figures splits TTFT; the bytes alone bound what a lone transfer can add."""
    ttft = data.digitised(arm, *_lengths(at), "mean_ttft_ms")
    if ttft is None:
        return _not_digitised(arm, at)
    size = _lengths(at)[0] * data.models[model].kv_bytes_per_token(BF16)
    fast, slow = (
        1e3 * formulas.transfer_s(size, speed) for speed in (data.link(link), data.hardware["nixl_in_service", "bytes_per_s"])
    )
    amount = f"{number(size / MEGA)} MB a rank, {number(fast)} to {number(slow)} ms of {number(ttft.value)}"
    speeds = f"{number(data.link(link) / GIGA)} and {number(data.hardware['nixl_in_service', 'bytes_per_s'] / GIGA)} GB/s"
    return Unknown(
        f"no transfer was timed; a lone one moves {amount}", f"At {speeds}; waiting behind other transfers is not in it."
    )


def hit_rate(data: Data, *, inputs: str, block: str) -> Computed:
    """What the prefix cache can hold of a sweep's prompts when all points have one seed."""
    lengths = [int(n) for n in inputs.split(",")]
    longer = [formulas.shared_prefix(a, b, block=int(block)) for a, b in pairwise(lengths)]
    again = formulas.shared_prefix(lengths[0], lengths[0], block=int(block))
    shares = f"{100 * min(longer):.0f} % over input lengths and {100 * again:.0f} % over output lengths"
    why = "the engines' counters were not published"
    return Unknown(
        why, f"Doubtful: with the client's default, one seed for all points, up to {shares} of a prompt was sent before."
    )


def _points(panel: str, values: dict[tuple[int, int], Bounded | None], note: str = "") -> Points:
    known = {_label(at): value.value for at, value in values.items() if value}
    return Points(known, tuple(_label(at) for at, value in values.items() if not value), note)


def _better(one: Bounded, other: Bounded, column: str) -> bool:
    """Latencies are better when smaller, rates when larger."""
    return one.value < other.value if column.endswith("_ms") else one.value > other.value


def _not_digitised(arm: str, at: str) -> Unknown:
    return Unknown(f"{arm} at {at} was not digitised")


def _lengths(at: str) -> tuple[int, int]:
    first, last = at.split("/")
    return int(first), int(last)


def _label(at: tuple[int, int]) -> str:
    return f"{at[0]}/{at[1]}"
