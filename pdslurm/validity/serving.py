"""From what engines and router counted to the checks of how they served a point: KV, caches, shares of the work. Pure.

docs/validity.md lists every check with its bound and the reason for it."""

from __future__ import annotations

from pdslurm.records.measurement import Check
from pdslurm.validity.answer import judged, missing, not_asked
from pdslurm.validity.clocks import slowdowns
from pdslurm.validity.counters import total_of
from pdslurm.validity.evidence import Evidence
from pdslurm.validity.kv_path import from_json, mismatches

MAX_KV_DRIFT = 0.01  # of the bytes; beside one block for each prompt that client and engine count differently
PREFIX_TOLERANCE = 0.01  # above what prompts share: what hits beyond is the cache of an earlier point
MAX_PREEMPTED = 0.05  # of the requests: up to here p95 and less come from requests that were never thrown out
NO_NIXL = "no KV moves by NIXL in this arm"
NIXL_FAULTS = ("nixl_failed_transfers", "nixl_failed_notifications", "nixl_expired_requests", "nixl_late_notifications")


def nixl(e: Evidence) -> Check:
    """A transfer for every request and rank; none failed, expired or read after it had expired on any engine that counts them."""
    if not e.demand.nixl:
        return not_asked("nixl", NO_NIXL)
    done, moved, ranks = e.completed, total_of(e.engines.values(), "nixl_transfers"), e.demand.kv_ranks
    bad = {name: [n for engine in e.engines.values() if (n := engine.get(name)) is not None] for name in NIXL_FAULTS}
    counted = {name: sum(values) if values else None for name, values in bad.items()}
    evidence = {"transfers": moved, "completed": done, "ranks": ranks, **counted}
    if moved is None and e.no_counters:
        return missing("nixl", e.unless_told(""), evidence)
    if moved is None:
        unknown = "NIXL transfers unknown: an engine's /metrics has no vllm:nixl_bytes_transferred"
        return Check("nixl", False, unknown, evidence)
    wrong = [f"{name} = {count:g}" for name, count in counted.items() if count]
    if moved < done * ranks:
        each = f" on {ranks} ranks" if ranks > 1 else ""
        again = "some prompts were computed again by the decode instance"
        wrong.insert(0, f"{moved:g} NIXL transfers for {done} requests{each}: {again}")
    return judged("nixl", wrong, f"{moved:g} transfers, none failed", evidence)


def kv_bytes(e: Evidence) -> Check:
    """Bytes moved against whole blocks of the prompts that were sent, less what decode instances had in their own prefix cache. A
    prompt that engine and client count differently may fill one block more or less; no other difference is allowed for."""
    if not e.demand.nixl:
        return not_asked("kv_bytes", NO_NIXL)
    decode, sent = e.of_role("decode"), e.client.get("total_input_tokens")
    sizes = {engine.get("block_size") for engine in decode}
    block = sizes.pop() if len(sizes) == 1 else None
    blocks = (e.client.get("prompt_blocks") or {}).get(str(block))
    moved, hits, each = total_of(decode, "nixl_bytes"), total_of(decode, "prefix_cache_hits"), e.demand.kv_bytes_per_token
    dtypes = sorted({str(engine.get("cache_dtype")) for engine in decode})
    evidence = {"moved": moved, "bytes_per_token": each, "block_size": block, "blocks": blocks, "cache_dtype": ", ".join(dtypes)}
    unknown = [
        (e.demand.kv_unknown or "the model's KV size is unknown") if each is None else "",
        e.unless_told("the engines do not tell one block size") if block is None else "",
        f"the client does not tell the prompts' lengths in blocks of {block}" if blocks is None else "",
        e.unless_told("bytes moved are unknown") if moved is None else "",
    ]
    if why := next(filter(None, unknown), None):
        return missing("kv_bytes", why, evidence)
    if e.completed != e.demand.num_prompts:
        return not_asked("kv_bytes", "not every request was answered", evidence)
    assert moved is not None
    assert each is not None
    assert blocks is not None
    assert block is not None
    counted = total_of(decode, "prompt_tokens")
    apart = 0 if counted is None or sent is None else abs(counted - sent)
    expected = (blocks * block - (hits or 0)) * each
    slack = MAX_KV_DRIFT * expected + min(apart, e.completed) * block * each
    right = abs(moved - expected) <= slack
    said = f"{moved:,.0f} bytes of KV moved" + ("" if right else f" instead of {expected:,.0f}")
    return Check("kv_bytes", right, said, {**evidence, "expected": expected, "tokens_apart": apart, "decode_hits": hits})


def transport(e: Evidence) -> Check:
    """What the engines that fetch KV said of the way they fetched it, against cluster.network.transport."""
    if not e.demand.nixl:
        return not_asked("transport", NO_NIXL)
    used = e.telemetry.get("transport")
    kinds = (used or {}).get("kinds")
    evidence = {"asked": e.demand.transport, "kinds": kinds}
    if wrong := list(mismatches(from_json(used), e.demand.transport)):
        return Check("transport", False, "; ".join(wrong), evidence)
    if kinds is None:
        return missing("transport", "the engines do not tell what they fetched KV over", evidence)
    return Check("transport", True, f"KV went over {', '.join(kinds)}", evidence)


def prefix_cache(e: Evidence) -> Check:
    """The hit rate of the instances that compute prompts; where none is expected those that decode must not hit either. Less than
    expected is no fault: each instance computes each prefix once itself, and the more of them, the fewer hits."""
    expected = e.demand.prefix_hit_rate
    asks = [engine for engine in e.engines.values() if not expected or engine.get("role") != "decode"]
    queries, hits = total_of(asks, "prefix_cache_queries"), total_of(asks, "prefix_cache_hits")
    rate = hits / queries if queries and hits is not None else (0.0 if queries == 0 else None)
    again = e.client.get("prompts_again") or 0
    evidence = {"queries": queries, "hits": hits, "rate": rate, "expected": expected, "prompts_again": again}
    if expected is None:
        return not_asked("prefix_cache", "nobody knows how much of this workload's prompts is shared", evidence)
    if rate is None and not expected and not e.demand.duration_s and again > PREFIX_TOLERANCE * max(e.completed, 1):
        said = f"{again} of {e.completed} prompts had been sent before, and an engine does not tell its prefix cache's hits"
        return Check("prefix_cache", False, said, evidence)
    if rate is None:
        return missing("prefix_cache", e.unless_told("an engine does not tell its prefix cache's hits"), evidence)
    right = rate <= expected + PREFIX_TOLERANCE
    told = f"prefix cache: {hits or 0:g} of {queries:g} tokens hit"
    wrong = (
        f"; its prompts share {expected:.0%} at most, the rest is of earlier points"
        if expected
        else "; the point measures the cache"
    )
    return Check("prefix_cache", right, told + ("" if right else wrong), evidence)


def preemptions(e: Evidence) -> Check:
    thrown, done = total_of(e.engines.values(), "preemptions"), e.completed
    evidence = {"preemptions": thrown, "completed": done}
    if not done:
        return not_asked("preemptions", "no request completed", evidence)
    if thrown is None:
        return missing("preemptions", e.unless_told("an engine does not tell how many requests it threw out"), evidence)
    few = thrown <= MAX_PREEMPTED * done
    why = "" if few else ": KV memory is too small, and prompts are computed again"
    return Check("preemptions", few, f"{thrown:g} preemptions in {done} requests{why}", evidence)


def clocks(e: Evidence) -> Check:
    """telemetry["gpus"]: node → each GPU's state before and after the point; None where nothing could be read."""
    gpus = e.telemetry.get("gpus")
    if not e.demand.gpus:
        return not_asked("clocks", "no GPU")
    if not gpus or not all(gpus.values()):
        without = [node for node, states in (gpus or {}).items() if not states]
        return missing("clocks", f"nvidia-smi does not tell{' on ' + ', '.join(without) if without else ''}", {"gpus": gpus})
    wrong = [f"{node}: {text}" for node, states in gpus.items() for text in slowdowns(states, e.client.get("duration"))]
    return judged("clocks", wrong, "no GPU was slowed by heat or its power supply", {"gpus": gpus})


def gpu_count(e: Evidence) -> Check:
    """The arm's results are divided by as many GPUs as its engines ran on: more than it is charged for would flatter it."""
    gpus, charged = e.telemetry.get("gpus"), e.demand.gpu_count
    if not e.demand.gpus:
        return not_asked("gpu_count", "no GPU")
    if not gpus or charged is None:
        return missing("gpu_count", "nvidia-smi does not tell which GPUs the engines ran on", {"charged": charged})
    seen = sum(len({state.get("gpu") for state in states}) for states in gpus.values())
    said = f"the engines ran on {seen} GPU{'' if seen == 1 else 's'}" + (
        "" if seen <= charged else f", the arm is charged for {charged:g}"
    )
    return Check("gpu_count", seen <= charged, said, {"seen": seen, "charged": charged})
