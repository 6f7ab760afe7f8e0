"""What a record's counters tell (analysis.load.symptoms) in; which ailments they show, by which numbers, and which option may cure
each, out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analysis.load.symptoms import Symptoms

MIN_POSTING = 0.05  # of the decode instances' time: less moves TPOT by less than the difference that arms are compared for
LEAST_GAPS, MOST_GAPS = 0.5, 1.5  # by handoffs times answers: two postings make one gap when they meet, other causes make more
LARGE_BLOCK = 128  # tokens: 1,024 descriptors for 2048 tokens of an 8B model, 3 ms at 3.1 µs each; blocks of 16 make 8,192, 26 ms
MIN_PREEMPTED = 0.01  # of the requests: at an SLO for 99 % of them those alone can miss it
ONE = 1.0  # request that waits or is served on the average: somebody is always there
MIN_QUEUE = 0.25  # of the TTFT; instances that keep up have a queue of at most 1 % in the published runs
MIN_BUSY = 0.75  # of the time: a prompt then waits 1.5 times as long as its own prefill takes (M/D/1), and soon much longer
MIN_PLACE = 0.25  # the same for a place on a decode instance; with postings that stall it up to 9 %
MIN_SERVER = 0.5  # of what the engines see of the TTFT; a 2048-token prompt takes 25 to 29 % of it on an H100
MIN_OUTSIDE = 0.2  # of the TTFT; up to 10 % in 21 points on GPUs with nothing wrong
TOKEN_BUDGET = 16384  # max_num_batched_tokens to try where nobody knows the present one


@dataclass(frozen=True)
class Ailment:
    """How one ailment is told from a record (`seen`; the second argument says whether requests came at a rate), and said of all the
    records of an arm that show it."""

    name: str
    seen: Callable[[Symptoms, bool], bool]
    evidence: Callable[[Sequence[Symptoms]], str]
    cure: Callable[[Sequence[Symptoms]], tuple[str, str]]  # a sentence, and the option


def span(values: Sequence[float | None], form: str = ".3g", unit: float = 1.0) -> str:
    """`25.2 to 26.7`, or `25.2`, of those that are known."""
    known = sorted(value * unit for value in values if value is not None)
    if not known:
        return "an unknown number"
    low, high = f"{known[0]:{form}}", f"{known[-1]:{form}}"
    return low if low == high else f"{low} to {high}"


def told(seen: Sequence[Symptoms], name: str, form: str = ".3g", unit: float = 1.0) -> str:
    """`span` of one field of Symptoms."""
    return span([getattr(s, name) for s in seen], form, unit)


def _at_least(value: float | None, least: float) -> bool:
    return value is not None and value >= least


def _posting_seen(s: Symptoms, _: bool) -> bool:
    return _at_least(s.posting, MIN_POSTING) and s.gaps is not None and LEAST_GAPS <= s.gaps <= MOST_GAPS


def _posting_evidence(seen: Sequence[Symptoms]) -> str:
    return (
        f"each decode instance spends {told(seen, 'posting', '.0f', 100)} % of its time posting "
        f"{told(seen, 'descriptors', ',.0f')} descriptors for each handoff, "
        f"{told(seen, 'post_ms')} ms each time, and seems to decode nothing meanwhile: the gaps between tokens that are as "
        f"long number {told(seen, 'gaps', '.2f')} times the handoffs times the answers in decoding"
    )


def _posting_cure(seen: Sequence[Symptoms]) -> tuple[str, str]:
    blocks = [s.block_size for s in seen]
    known = [block for block in blocks if block is not None]
    if len(known) < len(blocks) or max(known) >= LARGE_BLOCK:
        return "More decode instances would share the postings, each of which stops its own instance only", ""
    option = f"topology.extra_args=[--block-size,{LARGE_BLOCK}]"
    fewer = span([s.descriptors * s.block_size / LARGE_BLOCK for s in seen if s.descriptors and s.block_size], ",.0f")
    return f"With {option} it posts {fewer} descriptors, which may cure it", option


def _preempted_seen(s: Symptoms, _: bool) -> bool:
    return _at_least(s.preempted, MIN_PREEMPTED)


def _preempted_evidence(seen: Sequence[Symptoms]) -> str:
    roles = {"both": "instances", "prefill": "prefill instances", "decode": "decode instances"}
    who = " and ".join(sorted({roles.get(role, role) for s in seen for role in s.preempting}))
    return f"its {who} ran out of KV memory and threw out {told(seen, 'preempted', '.2g', 100)} preemptions per 100 requests"


def _preempted_cure(seen: Sequence[Symptoms]) -> tuple[str, str]:
    fitting = [s.fitting for s in seen]
    least = min((count for count in fitting if count), default=None) if None not in fitting else None
    shares = {s.memory_share for s in seen} - {None}
    more = f"more KV memory (cluster.engine_args.gpu_memory_utilization above {span(list(shares))})" if shares else "more KV memory"
    if least is None:
        option = "topology.extra_args with a lower --max-num-seqs"
        return f"Fewer requests in flight ({option}) or {more} may cure it", option
    option = f"topology.extra_args=[--max-num-seqs,{least}]"
    return f"Fewer requests in flight ({option}, as many as its KV memory holds to their end) or {more} may cure it", option


def _prefill_seen(s: Symptoms, at_rate: bool) -> bool:
    if not at_rate or s.starved or s.placing is None or s.placing >= ONE:
        return False
    is_full = s.busy is not None and s.busy.share >= MIN_BUSY
    return is_full or (_at_least(s.queueing, ONE) and _at_least(s.prefilling, ONE) and _at_least(s.first_queue, MIN_QUEUE))


def _prefill_evidence(seen: Sequence[Symptoms]) -> str:
    idle = "while hardly any waits for a decode instance"
    full = [s.busy for s in seen if s.busy]
    if len(full) < len(seen):
        return (
            f"{told(seen, 'prefilling')} requests are in prefill on each of its prefill instances on the average and "
            f"{told(seen, 'queueing')} more wait there, which is {told(seen, 'first_queue', '.0f', 100)} % of the TTFT, {idle}"
        )
    return (
        f"each prefill instance works for about {span([b.share for b in full], '.0f', 100)} % of the time and is full at "
        f"{span([b.limit_per_s for b in full])} requests/s, for a prompt keeps it at work for "
        f"{span([b.prompt_ms for b in full])} ms; {span([b.waiting for b in full])} prompts wait there on the average, {idle}"
    )


def _prefill_cure(seen: Sequence[Symptoms]) -> tuple[str, str]:
    """Where a prompt takes as long at every rate, a step with more of them is longer by as much."""
    if all(s.busy for s in seen):
        return f"{_more_prefill(seen)} may cure it", ""
    budgets = {s.token_budget for s in seen}
    known = [budget for budget in budgets if budget]
    value = 2 * max(known) if len(known) == len(budgets) else TOKEN_BUDGET
    option = f"topology.as_prefill.extra_args=[--max-num-batched-tokens,{value}]"
    return f"{_more_prefill(seen)} or {option} may cure it", option


def _more_prefill(seen: Sequence[Symptoms]) -> str:
    prefill, decode = seen[0].prefill, seen[0].decode
    if decode > 1:
        return f"The ratio {prefill + 1}P{decode - 1}D"
    return f"One more prefill instance ({prefill + 1}P{decode}D)"


def _starved_seen(s: Symptoms, _: bool) -> bool:
    return s.starved


def _starved_evidence(seen: Sequence[Symptoms]) -> str:
    return (
        f"{told(seen, 'waiting_for_prefill')} requests wait for prefill on the average and "
        f"{told(seen, 'decoding_in_all')} are decoded, so that its ITL is low because little arrives"
    )


def _starved_cure(seen: Sequence[Symptoms]) -> tuple[str, str]:
    return f"{_more_prefill(seen)} may cure it", ""


def _place_seen(s: Symptoms, at_rate: bool) -> bool:
    return at_rate and _at_least(s.placing, ONE) and _at_least(s.place_share, MIN_PLACE)


def _place_evidence(seen: Sequence[Symptoms]) -> str:
    return (
        f"{told(seen, 'placing')} requests wait on the average for a place on each decode instance after their KV has come, "
        f"which is {told(seen, 'place_share', '.0f', 100)} % of the TTFT"
    )


def _place_cure(seen: Sequence[Symptoms]) -> tuple[str, str]:
    prefill, decode = seen[0].prefill, seen[0].decode
    more = f"The ratio {prefill - 1}P{decode + 1}D" if prefill > 1 else f"One more decode instance ({prefill}P{decode + 1}D)"
    return f"{more} may cure it", ""


def _server_seen(s: Symptoms, _: bool) -> bool:
    busy = _at_least(s.serving, ONE) and _at_least(s.server_share, MIN_SERVER)
    return busy and s.scheduler_share is not None and s.server_share is not None and s.scheduler_share < s.server_share / 2


def _server_evidence(seen: Sequence[Symptoms]) -> str:
    return (
        f"{told(seen, 'server_share', '.0f', 100)} % of the TTFT that the engines see passes in their API servers, where "
        f"{told(seen, 'serving')} requests are on the average, and {told(seen, 'scheduler_share', '.0f', 100)} % "
        "in the queues for the GPU"
    )


def _server_cure(_: Sequence[Symptoms]) -> tuple[str, str]:
    option = "topology.extra_args=[--api-server-count,2]"
    return f"With {option} two processes share its work, which may cure it where CPU cores are idle", option


def _router_seen(s: Symptoms, at_rate: bool) -> bool:
    """A burst waits there for an API server to accept it, too."""
    return at_rate and _at_least(s.outside, ONE) and _at_least(s.outside_share, MIN_OUTSIDE)


def _router_evidence(seen: Sequence[Symptoms]) -> str:
    return (
        f"{told(seen, 'outside_share', '.0f', 100)} % of the TTFT passes between the client and the engines, where "
        f"{told(seen, 'outside')} requests are on the average"
    )


def _router_cure(_: Sequence[Symptoms]) -> tuple[str, str]:
    option = "another topology.router.policy"
    return f"A router process for each group of instances (topology.route) or {option} may cure it", option


def _held_up_seen(s: Symptoms, _: bool) -> bool:
    return "delivery" in s.wrong and _at_least(s.held_up, 0.0)


def _held_up_evidence(seen: Sequence[Symptoms]) -> str:
    places = "API servers or router" if all(s.is_client_free for s in seen) else "API servers, router or client"
    return (
        f"a token takes {told(seen, 'client_token_ms')} ms at the client and {told(seen, 'engine_token_ms')} ms in the engine "
        f"cores, so that {told(seen, 'held_up', '.0f', 100)} % of its time passes in {places}"
    )


def _held_up_cure(_: Sequence[Symptoms]) -> tuple[str, str]:
    option = "topology.extra_args=[--api-server-count,2]"
    return (
        f"{option} may cure it if it is the API servers and CPU cores are idle, and shows that it is not if nothing changes",
        option,
    )


AILMENTS = (
    Ailment("the posting of transfers", _posting_seen, _posting_evidence, _posting_cure),
    Ailment("preemptions", _preempted_seen, _preempted_evidence, _preempted_cure),
    Ailment("prefill at its limit", _prefill_seen, _prefill_evidence, _prefill_cure),
    Ailment("starved decode", _starved_seen, _starved_evidence, _starved_cure),
    Ailment("decode at its limit", _place_seen, _place_evidence, _place_cure),
    Ailment("an API server at its limit", _server_seen, _server_evidence, _server_cure),
    Ailment("tokens that are held up behind the engine cores", _held_up_seen, _held_up_evidence, _held_up_cure),
    Ailment("a router at its limit", _router_seen, _router_evidence, _router_cure),
)
