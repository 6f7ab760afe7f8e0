"""From what each instance counted to whether it had its share of the work: of the requests, and of the tokens. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, pstdev

from pdslurm.records.measurement import Check
from pdslurm.validity.answer import judged, missing
from pdslurm.validity.evidence import Evidence

TOLERANCE = {"round_robin": 0.1}  # of an instance's equal share of the requests; two requests are always allowed
TOLERANCE_ELSE = 0.5  # policies that choose by load or hash: below half of its share an instance's GPUs were hardly there
BY_CHANCE = 4.0  # standard errors
EXACT = 0.01  # of an instance's tokens: what engines and client count differently
BLIND = frozenset({"round_robin", "random", "consistent_hash", "power_of_two"})  # they do not look at a prompt's length
ELSE = 0.5  # of an instance's tokens; cache-aware and unknown policies choose by prefix, and prefixes have lengths
WORK = {"prefill": ("prompt_tokens",), "decode": ("generation_tokens",), "both": ("prompt_tokens", "generation_tokens")}
LENGTHS = {"prompt_tokens": "input_len", "generation_tokens": "output_len"}


def workers(e: Evidence) -> Check:
    """Requests and tokens of each instance, as it counted them, against those of the others of its role."""
    by_role: dict[str, dict[str, Mapping[str, float | None]]] = {}
    for name, engine in e.engines.items():
        by_role.setdefault(str(engine.get("role")), {})[name] = engine
    requests = {role: {name: engine.get("requests") for name, engine in several.items()} for role, several in by_role.items()}
    evidence = {"requests": requests, "router": e.telemetry.get("router_requests"), "policies": dict(e.demand.policies)}
    if not by_role:
        return missing("workers", "the engines' counters are not in the record", evidence)
    if not any(len(several) > 1 for several in by_role.values()):
        return Check("workers", True, "one instance of each role", evidence)
    if None in [count for counts in requests.values() for count in counts.values()]:
        return missing("workers", e.unless_told("an instance does not tell how many requests it had"), evidence)
    wrong = [text for role, several in by_role.items() if len(several) > 1 for text in _lopsided(e, role, several)]
    return judged("workers", wrong, "every instance had its share of the requests and of their tokens", evidence)


def _lopsided(e: Evidence, role: str, engines: Mapping[str, Mapping[str, float | None]]) -> Iterator[str]:
    policy = e.demand.policies.get(role, "")
    which = "" if role == "both" else f"{role} instance "
    counts = {name: engine["requests"] or 0.0 for name, engine in engines.items()}
    equal = sum(counts.values()) / len(counts)
    for name, allowed in uneven_requests(counts, TOLERANCE.get(policy, TOLERANCE_ELSE)).items():
        yield f"{which}{name} had {counts[name]:g} requests; {policy or 'the router'} should give it {equal:g} ± {allowed:.3g}"
    for counter in WORK.get(role, ()):
        tokens = {name: n for name, engine in engines.items() if (n := engine.get(counter)) is not None}
        if e.answered is None or not e.answered["ok"] or len(tokens) < len(engines) or e.completed != e.demand.num_prompts:
            continue
        for name, (due, allowed) in uneven_tokens(counts, tokens, e.answered[LENGTHS[counter]], policy).items():
            what = counter.replace("_", " ")
            share = f"its {counts[name]:g} requests should have {due:,.0f} ± {allowed:,.0f}"
            yield f"{which}{name} had {tokens[name]:,.0f} {what}; {share}"


def uneven_requests(requests: Mapping[str, float], tolerance: float) -> dict[str, float]:
    """Instance → by how many requests its share may differ, for those that differ by more. Of n requests dealt to k instances by
    chance one gets n/k with a variance of n/k·(1 - 1/k)."""
    n, k = sum(requests.values()), len(requests)
    by_chance = BY_CHANCE * math.sqrt(n / k * (1 - 1 / k)) if tolerance > min(TOLERANCE.values()) else 0.0
    allowed = max(2.0, tolerance * n / k, by_chance)
    return {name: allowed for name, had in requests.items() if abs(had - n / k) > allowed}


def uneven_tokens(
    requests: Mapping[str, float], tokens: Mapping[str, float], lengths: Sequence[float], policy: str
) -> dict[str, tuple[float, float]]:
    """Instance → (tokens that its requests should have, allowed difference), for those that differ by more. `lengths`: of every
    request, prompt or output. c requests drawn from n without looking at length have c times the mean; their variance is that of
    the lengths times c·(1 - c/n). Lengths that are all the same leave EXACT alone, whatever the policy."""
    n, mean, spread = len(lengths), fmean(lengths), pstdev(lengths)
    wrong = {}
    for name, had in requests.items():
        due = had * mean
        chance = BY_CHANCE * spread * math.sqrt(had * max(0.0, 1 - had / n))
        wide = ELSE * due if policy not in BLIND and spread else 0.0
        allowed = max(EXACT * due, chance, wide)
        if abs(tokens[name] - due) > allowed:
            wrong[name] = (due, allowed)
    return wrong
