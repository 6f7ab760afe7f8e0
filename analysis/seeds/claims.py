"""A claim as its text writes it, and what was computed, in; a verdict by one rule out. docs/seeds.md states the rule.

Claim ─┐
       ├─ judge ─> Verdict
Computed ─┘   Computed = Estimate | Span | Points | Count | Words | Unknown | Faulty"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from analysis.stats.bounds import Bounded

ABOUT = 0.10  # a claim that its text marks with ~ or "about", or writes with one significant digit
PLAIN = 0.01
NARROW = 1.25  # a span wider than this says too little to confirm a number within it
AGREES, ROUNDING, WRONG, UNCHECKED, INVALID = "agrees", "rounding", "wrong", "cannot be checked", "invalid sample"
KINDS = (AGREES, ROUNDING, WRONG, UNCHECKED, INVALID)
ORDER = {kind: i for i, kind in enumerate((AGREES, ROUNDING, WRONG))}


@dataclass(frozen=True)
class Claim:
    """One claim in our words. `claimed` keeps the text's own digits: 7.6, 25..29, >37, 5 of 5, or a word."""

    id: str
    source: str
    claim: str
    claimed: str
    unit: str
    about: bool
    formula: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""


@dataclass(frozen=True)
class Estimate:
    """One value, and the interval that the inputs' own rounding or reading error leaves it."""

    value: Bounded
    note: str = ""


@dataclass(frozen=True)
class Span:
    """All values that the known inputs allow, or those of the first and the last case of a list."""

    low: float
    high: float
    note: str = ""


@dataclass(frozen=True)
class Points:
    """A value for each measured point that the claim speaks of; `missing` names those without."""

    values: Mapping[str, float]
    missing: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Count:
    """At how many of the points that can be compared something holds; `missing` says what could not be compared."""

    holds: int
    failed: tuple[str, ...]
    missing: str = ""
    note: str = ""

    @property
    def of(self) -> int:
        return self.holds + len(self.failed)


@dataclass(frozen=True)
class Words:
    """What is no number: yes, no, none, TTFT."""

    words: str
    note: str = ""


@dataclass(frozen=True)
class Unknown:
    """The inputs for it are not there, and why."""

    why: str
    note: str = ""


@dataclass(frozen=True)
class Faulty:
    """The value as it would be, from a sample that cannot be right, and why."""

    value: Bounded
    why: str
    note: str = ""


Computed = Estimate | Span | Points | Count | Words | Unknown | Faulty


@dataclass(frozen=True)
class Verdict:
    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


def judge(claim: Claim, computed: Computed) -> Verdict:
    """The verdict on `claim`. Raises ValueError where claim and formula do not speak of the same kind of thing."""
    match computed:
        case Unknown(why):
            return Verdict(UNCHECKED, why)
        case Faulty(_, why):
            return Verdict(INVALID, why)
        case Words(words):
            return (
                Verdict(AGREES)
                if claim.claimed == words
                else Verdict(WRONG, "there is none" if words == "none" else f"it is {words}")
            )
        case Count():
            return _count(claim, computed)
        case Points():
            return _points(claim, computed)
        case Estimate(value):
            return _bound(claim, value) if claim.claimed.startswith(">") else _number(claim, claim.claimed, value)
        case Span(low, high):
            ends = claim.claimed.split("..")
            if len(ends) == 1:
                return _in_span(claim, low, high)
            first, last = (_number(claim, text, Bounded(end, end, end)) for text, end in zip(ends, (low, high), strict=True))
            return max(first, last, key=lambda verdict: (ORDER[verdict.kind], _size(verdict)))


def tolerance(claim: Claim, text: str) -> float:
    """By how much of ours a claim may be off and still be called rounding."""
    return ABOUT if claim.about or significant_digits(text) == 1 else PLAIN


def significant_digits(text: str) -> int:
    """Of a number as written; zeros at the end of a whole number do not count: 13000 has 2, 1.0 has 2, 500 has 1."""
    digits = re.sub(r"[^0-9.]", "", text)
    return max(1, len((digits.replace(".", "") if "." in digits else digits.rstrip("0")).lstrip("0")))


def half_unit(text: str) -> float:
    """Half a unit of the last digit that counts, of two at least: 0.05 for 7.6, 500 for 13000, 0.5 for 10, 0.05 for 2."""
    number = float(text)
    if "." in text:
        return float(0.5 * 10 ** -len(text.split(".")[1]))
    digits = max(2, significant_digits(text))
    return 0.5 * 10.0 ** (math.floor(math.log10(abs(number))) - digits + 1) if number else 0.5


def _number(claim: Claim, text: str, ours: Bounded) -> Verdict:
    said, half = float(text), half_unit(text)
    off = abs(said - ours.value)
    if off <= half * (1 + 1e-9):
        return Verdict(AGREES)
    if off <= tolerance(claim, text) * abs(ours.value) or Bounded(said, said - half, said + half).overlaps(ours):
        return Verdict(ROUNDING)
    return Verdict(WRONG, _by(said, ours.value, claim.unit))


def _in_span(claim: Claim, low: float, high: float) -> Verdict:
    """A single number against all that is possible."""
    said, half = float(claim.claimed), half_unit(claim.claimed)
    if low - half <= said <= high + half:
        is_narrow = low * high > 0 and max(abs(low), abs(high)) <= NARROW * min(abs(low), abs(high))
        return Verdict(AGREES) if is_narrow else Verdict(UNCHECKED, f"anything from {number(low)} to {number(high)} is possible")
    nearest = low if said < low else high
    return _number(claim, claim.claimed, Bounded(nearest, nearest, nearest))


def _bound(claim: Claim, ours: Bounded) -> Verdict:
    bound = float(claim.claimed[1:])
    if ours.low > bound:
        return Verdict(AGREES)
    return (
        Verdict(UNCHECKED, "the bound lies within our error")
        if ours.high > bound
        else Verdict(WRONG, _by(bound, ours.value, claim.unit))
    )


def _points(claim: Claim, computed: Points) -> Verdict:
    """A range that is said to hold at every point."""
    first, last = claim.claimed.split("..")

    def outside(value: float, *, allowed: bool) -> bool:
        room = {text: max(half_unit(text), tolerance(claim, text) * abs(value) if allowed else 0.0) for text in (first, last)}
        return not float(first) - room[first] <= value <= float(last) + room[last]

    failed = [f"{label} ({number(value)})" for label, value in computed.values.items() if outside(value, allowed=True)]
    total = len(computed.values) + len(computed.missing)
    if failed:
        return Verdict(WRONG, f"at {len(failed)} of {total}, {', '.join(failed)}")
    if computed.missing:
        return Verdict(UNCHECKED, f"within it at {len(computed.values)} of {total}; not digitised: {', '.join(computed.missing)}")
    return Verdict(ROUNDING if any(outside(value, allowed=False) for value in computed.values.values()) else AGREES)


def _count(claim: Claim, computed: Count) -> Verdict:
    """A statement that is said to hold at all of some points."""
    claimed, of = map(int, claim.claimed.split(" of "))
    if computed.failed:
        return Verdict(WRONG, f"fails at {len(computed.failed)} of {of}, {', '.join(computed.failed)}")
    if computed.missing or computed.of < of:
        return Verdict(UNCHECKED, f"holds at {computed.holds} of {of}; {computed.missing}" if computed.holds else computed.missing)
    return Verdict(AGREES) if computed.holds == claimed else Verdict(WRONG, f"holds at {computed.holds}")


def _by(said: float, ours: float, unit: str) -> str:
    """`2.0 times too low`; the difference where there is no factor to speak of."""
    if said * ours <= 0:
        return f"by {number(abs(said - ours))} {unit}".rstrip()
    factor = said / ours
    size, side = max(factor, 1 / factor), "high" if factor > 1 else "low"
    if size < 1.1:
        return f"{100 * (size - 1):.1f} % too {side}"
    return f"{size:.1f} times too {side}" if size < 10 else f"{size:.0f} times too {side}"


def _size(verdict: Verdict) -> float:
    """The factor that a verdict names, to tell the worse of two."""
    factor = re.match(r"[0-9.]+(?= times)", verdict.detail)
    return float(factor[0]) if factor else 0.0


def number(value: float) -> str:
    """Four significant digits, thousands apart, never an exponent."""
    if value == 0:
        return "0"
    decimals = max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def shown(computed: Computed) -> str:
    """`ours` as the table prints it."""
    match computed:
        case Estimate(value) | Faulty(value):
            return number(value.value)
        case Span(low, high):
            return _range(low, high)
        case Points(values):
            return _range(min(values.values()), max(values.values())) if values else "-"
        case Count():
            return f"{computed.holds} of {computed.of}" if computed.of else "-"
        case Words(words):
            return words
        case Unknown():
            return "-"


def _range(low: float, high: float) -> str:
    ends = dict.fromkeys((number(low), number(high)))
    return "..".join(ends)
