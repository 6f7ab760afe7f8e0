"""From a finished point's numbers to the checks that it has to pass before it may be used, each with its evidence. Pure.

docs/validity.md lists every check with its bound and the reason for it. A check is ok, not ok (the point is invalid), or None where
nothing can be known of it; what P/D depends on must be known, so NIXL's counters may not be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pdslurm.records.measurement import Check
from pdslurm.validity.clocks import slowdowns
from pdslurm.validity.counters import total_of
from pdslurm.validity.load import client_process, delivery, steady_state

MAX_TOKEN_DRIFT = 0.01  # random prompts and early stops move the token count a little
MAX_KV_DRIFT = 0.01  # of the bytes; beside one block for each prompt token that client and engine count differently
PREFIX_TOLERANCE = 0.01  # above what prompts share: what hits beyond is the cache of an earlier point
SHARE_TOLERANCE = {"round_robin": 0.1}  # of a worker's equal share; two requests are always allowed
SHARE_TOLERANCE_ELSE = 0.5  # policies that choose by load or hash: below half of its share a worker's GPUs were hardly there
MAX_PREEMPTED = 0.05  # of the requests: up to here p95 and less come from requests that were never thrown out


@dataclass(frozen=True)
class Demand:
    """What the point was to be, as far as checks compare with it."""

    num_prompts: int
    output_len: int = 0  # tokens; 0: as the data set has it
    request_rate: float | None = None  # requests/s; None: all at once
    max_concurrency: int | None = None
    even: bool = True  # arrivals at that rate from beginning to end, not ramped up nor from a trace
    prefix_hit_rate: float | None = 0.0  # of prompt tokens, the most that can hit if the cache is empty before; None: not known
    nixl: bool = False  # KV has to move by NIXL
    transport: str = "any"
    kv_bytes_per_token: float | None = None  # over all ranks of a decode instance, in the dtype that its engine tells
    kv_ranks: int = 1  # of a decode instance: each fetches its own part
    kv_unknown: str = ""  # why kv_bytes_per_token is not known
    policies: Mapping[str, str] = field(default_factory=dict)  # role → the router's policy among its instances
    gpus: bool = False


def checks(
    client: Mapping[str, Any], telemetry: Mapping[str, Any], demand: Demand, transport_reasons: Iterable[str] = ()
) -> tuple[Check, ...]:
    """`client` is the benchmark's result, `telemetry` what telemetry.counted gives, with `transport` and `gpus`."""
    totals, engines = telemetry["totals"], telemetry["engines"]
    return (
        completed(client, demand),
        output_tokens(client, demand),
        nixl(client, totals, engines, demand),
        kv_bytes(client, engines, demand),
        transport_used(telemetry.get("transport"), demand, tuple(transport_reasons)),
        prefix_cache(engines, demand),
        workers(engines, telemetry.get("router_requests"), demand),
        preemptions(client, totals),
        client_process(client, num_prompts=demand.num_prompts, rate=_open_loop_rate(demand)),
        delivery(client, engines),
        steady_state(client.get("spans"), rate=demand.request_rate, concurrency=demand.max_concurrency, even=demand.even),
        clocks(telemetry.get("gpus"), client, demand),
    )


def reasons(found: Iterable[Check]) -> tuple[str, ...]:
    """Why the point must not be used; empty means valid."""
    return tuple(check.said for check in found if check.ok is False)


def completed(client: Mapping[str, Any], demand: Demand) -> Check:
    done = client.get("completed") or 0
    error = client.get("first_error")
    why = f"; the first error: {error.strip().splitlines()[-1][:300]}" if error and done != demand.num_prompts else ""
    said = f"{done} of {demand.num_prompts} requests completed{why}"
    return Check("completed", done == demand.num_prompts, said, {"completed": done, "asked": demand.num_prompts})


def output_tokens(client: Mapping[str, Any], demand: Demand) -> Check:
    """`ordered_output_tokens` is the sum over the requests that were answered, where the client tells it."""
    done, got = client.get("completed") or 0, client.get("total_output_tokens") or 0
    ordered = client.get("ordered_output_tokens") or done * demand.output_len
    evidence = {"got": got, "ordered": ordered or None}
    if not done or not ordered:
        return Check("output_tokens", None, "no output length was ordered" if done else "no request completed", evidence)
    right = abs(got - ordered) <= MAX_TOKEN_DRIFT * ordered
    return Check("output_tokens", right, f"{got} output tokens" + ("" if right else f" instead of {ordered}"), evidence)


def nixl(client: Mapping[str, Any], totals: Mapping[str, Any], engines: Mapping[str, Any], demand: Demand) -> Check:
    """A transfer for every request and rank, none failed, expired or read after it had expired on any engine that counts them."""
    names = ("nixl_failed_transfers", "nixl_failed_notifications", "nixl_expired_requests", "nixl_late_notifications")
    if not demand.nixl:
        return Check("nixl", None, "no KV moves by NIXL in this arm")
    done, moved, ranks = client.get("completed") or 0, totals["nixl_transfers"], demand.kv_ranks
    bad = {name: [e[name] for e in engines.values() if e.get(name) is not None] for name in names}
    counted = {name: sum(values) if values else None for name, values in bad.items()}
    evidence = {"transfers": moved, "completed": done, "ranks": ranks, **counted}
    if moved is None:
        unknown = "NIXL transfers unknown: an engine's /metrics has no vllm:nixl_bytes_transferred"
        return Check("nixl", False, unknown, evidence)
    wrong = [f"{name} = {count:g}" for name, count in counted.items() if count]
    if moved < done * ranks:
        each = f" on {ranks} ranks" if ranks > 1 else ""
        again = "some prompts were computed again by the decode instance"
        wrong.insert(0, f"{moved:g} NIXL transfers for {done} requests{each}: {again}")
    return Check("nixl", not wrong, "; ".join(wrong) or f"{moved:g} transfers, none failed", evidence)


def kv_bytes(client: Mapping[str, Any], engines: Mapping[str, Any], demand: Demand) -> Check:
    """Bytes moved against whole blocks of the prompts that were sent, less what decode instances had in their own prefix cache."""
    decode = [engine for engine in engines.values() if engine["role"] == "decode"]
    sizes = {(engine.get("block_size"), engine.get("cache_dtype")) for engine in decode}
    block, dtype = sizes.pop() if len(sizes) == 1 else (None, None)
    blocks = (client.get("prompt_blocks") or {}).get(str(block))
    moved, hits = total_of(decode, "nixl_bytes"), total_of(decode, "prefix_cache_hits")
    each = demand.kv_bytes_per_token
    evidence = {"moved": moved, "bytes_per_token": each, "block_size": block, "blocks": blocks, "cache_dtype": dtype}
    unknown = [
        "no KV moves by NIXL in this arm" if not demand.nixl else "",
        (demand.kv_unknown or "the model's KV size is unknown") if each is None else "",
        "the engines do not tell one block size" if block is None else "",
        f"the client does not tell the prompts' lengths in blocks of {block}" if blocks is None else "",
        "bytes moved are unknown" if moved is None else "",
        "not every request was answered" if client.get("completed") != demand.num_prompts else "",
    ]
    if why := next(filter(None, unknown), None):
        return Check("kv_bytes", None, why, evidence)
    assert moved is not None
    assert each is not None
    assert blocks is not None
    assert block is not None
    counted, sent = total_of(decode, "prompt_tokens"), client.get("total_input_tokens")
    apart = 0 if counted is None or sent is None else abs(counted - sent)
    expected = (blocks * block - (hits or 0)) * each
    slack = MAX_KV_DRIFT * expected + apart * block * each
    right = abs(moved - expected) <= slack
    said = f"{moved:,.0f} bytes of KV moved" + ("" if right else f" instead of {expected:,.0f}")
    return Check("kv_bytes", right, said, {**evidence, "expected": expected, "tokens_apart": apart, "decode_hits": hits})


def transport_used(used: Mapping[str, Any] | None, demand: Demand, wrong: Sequence[str]) -> Check:
    kinds = (used or {}).get("kinds")
    evidence = {"asked": demand.transport, "kinds": kinds}
    if wrong:
        return Check("transport", False, "; ".join(wrong), evidence)
    if not demand.nixl:
        return Check("transport", None, "no KV moves by NIXL in this arm", evidence)
    if kinds is None:
        return Check("transport", None, "the engines do not tell what they fetched KV over, and any will do", evidence)
    return Check("transport", True, f"KV went over {', '.join(kinds)}", evidence)


def prefix_cache(engines: Mapping[str, Any], demand: Demand) -> Check:
    """The hit rate of the instances that compute prompts; where none is expected those that decode must not hit either. Less than
    expected is no fault: each instance computes each prefix once itself, and the more of them, the fewer hits."""
    expected = demand.prefix_hit_rate
    asks = [e for e in engines.values() if not expected or e["role"] != "decode"]
    queries, hits = total_of(asks, "prefix_cache_queries"), total_of(asks, "prefix_cache_hits")
    rate = hits / queries if queries and hits is not None else (0.0 if queries == 0 else None)
    evidence = {"queries": queries, "hits": hits, "rate": rate, "expected": expected}
    if expected is None:
        return Check("prefix_cache", None, "nobody knows how much of this workload's prompts is shared", evidence)
    if rate is None:
        return Check("prefix_cache", None, "an engine does not tell its prefix cache's hits", evidence)
    right = rate <= expected + PREFIX_TOLERANCE
    told = f"prefix cache: {hits:g} of {queries:g} tokens hit"
    wrong = (
        f"; its prompts share {expected:.0%} at most, the rest is of earlier points"
        if expected
        else "; the point measures the cache"
    )
    return Check("prefix_cache", right, told + ("" if right else wrong), evidence)


def workers(engines: Mapping[str, Any], router: Mapping[str, Any] | None, demand: Demand) -> Check:
    """Requests of each instance, as it counted them, against an equal share among those of its role."""
    by_role: dict[str, dict[str, float | None]] = {}
    for name, engine in engines.items():
        by_role.setdefault(engine["role"], {})[name] = engine.get("requests")
    evidence = {"requests": by_role, "router": router, "policies": dict(demand.policies)}
    if not any(len(counts) > 1 for counts in by_role.values()):
        return Check("workers", True, "one instance of each role", evidence)
    if None in [count for counts in by_role.values() for count in counts.values()]:
        return Check("workers", None, "an instance does not tell how many requests it had", evidence)
    wrong = [text for role, counts in by_role.items() for text in _lopsided(role, counts, demand.policies.get(role, ""))]
    return Check("workers", not wrong, "; ".join(wrong) or "every instance had its share of the requests", evidence)


def _lopsided(role: str, counts: Mapping[str, float | None], policy: str) -> list[str]:
    equal = sum(n or 0 for n in counts.values()) / len(counts)
    allowed = max(2.0, SHARE_TOLERANCE.get(policy, SHARE_TOLERANCE_ELSE) * equal)
    which = "" if role == "both" else f"{role} instance "
    return [
        f"{which}{name} had {n:g} requests; {policy or 'the router'} should give it {equal:g} ± {allowed:.3g}"
        for name, n in counts.items()
        if n is not None and abs(n - equal) > allowed
    ]


def preemptions(client: Mapping[str, Any], totals: Mapping[str, Any]) -> Check:
    thrown, done = totals.get("preemptions"), client.get("completed") or 0
    evidence = {"preemptions": thrown, "completed": done}
    if thrown is None or not done:
        return Check("preemptions", None, "unknown" if done else "no request completed", evidence)
    few = thrown <= MAX_PREEMPTED * done
    why = "" if few else ": KV memory is too small, and prompts are computed again"
    return Check("preemptions", few, f"{thrown:g} preemptions in {done} requests{why}", evidence)


def clocks(gpus: Mapping[str, Any] | None, client: Mapping[str, Any], demand: Demand) -> Check:
    """`gpus`: node → each GPU's state before and after the point, from states_during; None where nothing could be read."""
    if not demand.gpus:
        return Check("clocks", None, "no GPU")
    if not gpus or not all(gpus.values()):
        missing = [node for node, states in (gpus or {}).items() if not states]
        return Check("clocks", None, f"nvidia-smi does not tell{' on ' + ', '.join(missing) if missing else ''}", {"gpus": gpus})
    wrong = [f"{node}: {text}" for node, states in gpus.items() for text in slowdowns(states, client.get("duration"))]
    return Check("clocks", not wrong, "; ".join(wrong) or "no GPU was slowed by heat or its power supply", {"gpus": gpus})


def _open_loop_rate(demand: Demand) -> float | None:
    """The rate at which requests had to go out whatever came back."""
    return demand.request_rate if demand.even and not demand.max_concurrency else None
