"""From what an arm and a plain instance answered to the same prompts to whether the arm's text is right. Pure.

A decode instance that was handed wrong KV answers 200 at full speed with another text. The evidence, which
pdslurm/measure/text_check.py gathers after each load of a P/D arm:

    {"dtype": "float32", "plain": "engine1", "problem": null, "plain_hits": 0, "transfers": 36,
     "rows": [{"prompt": "long", "tokens": 1024, "position": 0, "forced": "1234", "plain": LIST, "arm": LIST,
               "again": {"together": LIST, …}, "changed": LIST}, …]}

`plain_hits` are tokens that plain instances took from their prefix caches meanwhile, and `transfers` what NIXL counted while the
arm was asked; null where nobody counts. Each row is one place in one prompt at which the next token is asked for. A LIST maps token
ids, as text, to log-probabilities: the likeliest tokens there, and `forced`, the token that the plain instance liked best. `again`
are other ways in which a plain instance came to the same place: in a batch, decoded instead of prefilled, on the prefill instance.
They differ by rounding alone, and are what the tolerances are made of. `changed` is the plain answer to the prompt with one
early block of other tokens.

Two answers are compared twice. The distance between them over a whole prompt is the root of the mean square, over its places, of
the difference in the forced token's log-probability: bfloat16's rounding averages out there, and what a changed block does remains.
At each place by itself the largest difference of any told token counts, and which token is the likeliest."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pdslurm.records.measurement import Check

Row = Mapping[str, Any]
List = Mapping[str, float]
FACTOR = 2.0  # a tolerance: so many times the largest difference that was seen between plain answers
FLOORS = {
    "float32": 1e-4,
    "float16": 0.01,
    "bfloat16": 0.05,
}  # and this at least; logits of bfloat16 between 4 and 8 are 0.03 apart
PROOF = 10.0  # tolerances by which the answer to a changed prompt must differ
PROVING = 1024  # tokens of the longest prompt that proves it; in 3,000 one block moves answers of bfloat16 by 4 to 12 tolerances
LIKELIEST = 4  # tokens of a list, beside the forced one
MOST_NAMED = 3  # differences in the check's words


def text(evidence: Mapping[str, Any] | None, disaggregated: bool) -> Check:
    """Whether the arm gave the plain instance's log-probabilities. Unverified where they could not be compared, or where the
    comparison would not have noticed a changed block."""
    if not disaggregated:
        return Check("text", None, "no KV is handed over in this arm")
    if not evidence:
        return Check("text", None, "nobody asked this arm for its text", unverified=True)
    rows: Sequence[Row] = evidence.get("rows") or ()
    if problem := _problem(evidence, rows):
        return Check("text", None, f"the text could not be compared: {problem}", {"problem": problem}, unverified=True)
    limit, there = tolerance(rows, evidence.get("dtype")), place_tolerance(rows, evidence.get("dtype"))
    moved, proven = distances((row, row["arm"]) for row in rows), proof(rows, limit)
    found = {
        "tolerance": limit,
        "largest": max(moved.values()),
        "place_tolerance": there,
        "largest_at_a_place": max(apart(row["plain"], row["arm"]) for row in rows),
        "proof": proven,
        "rows": len(rows),
    }
    far = [f"the answers to prompt {name} are {by:.3g} apart, {limit:.2g} is allowed" for name, by in moved.items() if by > limit]
    if wrong := [*differences(rows, there), *far]:
        more = f" and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
        return Check("text", False, f"the text is wrong: {'; '.join(wrong[:MOST_NAMED])}{more}", found)
    if proven is None:
        return Check("text", None, "no prompt was asked with a changed block", found, unverified=True)
    if proven < PROOF:
        weak = f"a changed block moves log-probabilities by {proven:.3g} tolerances, and {PROOF:g} are needed"
        return Check("text", None, f"wrong KV would not be noticed: {weak}", found, unverified=True)
    said = f"{len(rows)} answers are the plain instance's within {limit:.2g}; a changed block moves them by {proven:.3g} times that"
    return Check("text", True, said, found)


def _problem(evidence: Mapping[str, Any], rows: Sequence[Row]) -> str | None:
    """Why the arm's answers and the plain ones say nothing of each other."""
    if evidence.get("problem"):
        return str(evidence["problem"])
    if not rows:
        return "no prompt was asked"
    if evidence.get("plain_hits"):
        return f"{evidence['plain_hits']:g} tokens of the plain instances' prompts came from their prefix caches"
    if evidence.get("transfers") == 0:
        return "the arm moved no KV while it was asked"
    return None


def tolerance(rows: Sequence[Row], dtype: str | None) -> float:
    """How far apart two right answers to a prompt may be. A way of coming to the answer counts where it has half the places: the
    fewer there are, the less rounding averages out."""
    places = Counter(row["prompt"] for row in rows)
    seen = []
    for way in sorted({way for row in rows for way in row.get("again", {})}):
        known = [row for row in rows if way in row.get("again", {})]
        count = Counter(row["prompt"] for row in known)
        found = distances((row, row["again"][way]) for row in known)
        seen += [by for prompt, by in found.items() if 2 * count[prompt] >= places[prompt]]
    return _at_least(seen, dtype)


def place_tolerance(rows: Sequence[Row], dtype: str | None) -> float:
    """How far apart a token's log-probabilities may be in two right answers at one place."""
    return _at_least([apart(row["plain"], other) for row in rows for other in row.get("again", {}).values()], dtype)


def _at_least(seen: Sequence[float], dtype: str | None) -> float:
    return max(FACTOR * max(seen, default=0.0), FLOORS.get(dtype or "", FLOORS["bfloat16"]))


def distances(answers: Iterable[tuple[Row, List]]) -> dict[str, float]:
    """By prompt: how far other answers, each beside its row, are from the plain ones."""
    squares: dict[str, list[float]] = defaultdict(list)
    for row, other in answers:
        squares[row["prompt"]].append(_moved(row["forced"], row["plain"], other) ** 2)
    return {prompt: math.sqrt(sum(found) / len(found)) for prompt, found in squares.items()}


def proof(rows: Sequence[Row], limit: float) -> float | None:
    """By how many tolerances a changed block moves the answers, in the prompt that it moves least; None where none was changed."""
    moved = distances((row, row["changed"]) for row in rows if row.get("changed") and row["tokens"] <= PROVING)
    return min(moved.values()) / limit if moved else None


def differences(rows: Sequence[Row], limit: float) -> Iterator[str]:
    """One line for each place where the arm's answer is another. A first token that differs counts only where the plain instance
    preferred its own by more than the tolerance."""
    for row in rows:
        plain, arm, forced = row["plain"], row["arm"], row["forced"]
        first, second, *_ = sorted(plain.values(), reverse=True)
        best, moved = max(arm, key=arm.__getitem__), apart(plain, arm)
        if moved > limit or (best != max(plain, key=plain.__getitem__) and first - second > limit):
            place = f"prompt {row['prompt']} of {row['tokens']} tokens, position {row['position']}"
            there = f"{arm[forced]:.6g}" if forced in arm else f"below {min(arm.values()):.6g}"
            yield (
                f"{place}: token {forced} has log-probability {there} instead of {plain[forced]:.6g}"
                f" (likeliest there: {best}; up to {moved:.3g} apart, {limit:.2g} is allowed)"
            )


def apart(one: List, other: List) -> float:
    """The largest difference of a token's log-probability between two lists."""
    return max(max(_moved(token, *pair) for token in pair[0]) for pair in ((one, other), (other, one)))


def _moved(token: str, one: List, other: List) -> float:
    """By how much the log-probability of a token of `one` differs in `other`. A token that `other` lacks is no likelier there than
    the last of its likeliest, so the difference is at least the one to that."""
    if token in other:
        return abs(one[token] - other[token])
    return max(0.0, one[token] - sorted(other.values(), reverse=True)[:LIKELIEST][-1])
