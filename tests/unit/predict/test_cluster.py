"""Whole clusters: event logs computed by hand, the client, the counters, and what cannot be simulated."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdslurm.errors import ConfigError, PointFailed
from pdslurm.predict.cluster import ClusterSpec, Event, InstanceSpec, Outcome, Request, simulate
from pdslurm.predict.cost import Batch
from tests.unit.predict.clusters import PULL, Cost, engine, plain, requests, split


def times(outcome: Outcome) -> list[tuple[float, ...]]:
    return [each.token_times_s for each in outcome.served]


def test_one_request_through_one_instance() -> None:
    log: list[Event] = []
    spec = replace(plain(max_num_batched_tokens=8), server_s=0.25)
    outcome = simulate(spec, requests((1.0, 12, 3)), log=log)
    assert log == [
        (1.0, "client", "send", 0),
        (1.25, "a", "step", ((0, 8),)),
        (2.25, "a", "step", ((0, 4),)),
        (3.25, "a", "step", ((0, 1),)),
        (4.25, "a", "step", ((0, 1),)),
        (5.25, "client", "end", 0),
    ]
    (served,) = outcome.served
    assert (served.start_s, served.ttft_s, served.itls_s, served.end_s) == (1.0, 2.25, (1.0, 1.0), 5.25)
    counters = outcome.counters["a"]
    assert (counters.requests, counters.prompt_tokens, counters.generation_tokens) == (1, 12, 3)
    assert (counters.queue_time_s, counters.prefill_time_s, counters.decode_time_s) == (0.0, 2.0, 2.0)
    assert (counters.ttft_s, counters.e2e_s, counters.steps, counters.busy_s) == (2.25, 4.25, 4, 4.0)


def test_preemption_in_time() -> None:
    log: list[Event] = []
    outcome = simulate(plain(num_blocks=4), requests((0.0, 7, 4), (0.0, 7, 4)), log=log)
    assert times(outcome) == [(1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 5.0, 6.0)]
    assert (2.0, "a", "preempt", 1) in log
    assert outcome.counters["a"].preemptions == 1
    assert outcome.counters["a"].queue_time_s == 0.0  # up to the first time that it was scheduled


def test_a_request_that_comes_during_a_step_waits_for_one_more_with_asynchronous_scheduling() -> None:
    """The step after the one that runs is decided already. vLLM's loop reads no request meanwhile, so that its queue time is 0."""
    given = requests((0.0, 4, 3), (0.5, 4, 1))
    log: list[Event] = []
    outcome = simulate(plain(async_scheduling=True), given, log=log)
    assert [event for event in log if event[1] == "a"] == [
        (0.0, "a", "step", ((0, 4),)),
        (0.0, "a", "step", ((0, 1),)),
        (1.0, "a", "step", ((0, 1), (1, 4))),
    ]
    assert times(outcome) == [(1.0, 2.0, 3.0), (3.0,)]
    assert outcome.counters["a"].queue_time_s == 0.0
    assert times(simulate(plain(), given)) == [(1.0, 2.0, 3.0), (2.0,)]


HANDOFF = [
    (0.0, "client", "send", 0),
    (0.0, "p0", "step", ((0, 8),)),
    (1.0, "d0", "post", (0, 2)),
    (3.5, "d0", "fetched", 0),  # 0.5 s of posting and 2 s of transfer
    (3.5, "d0", "step", ((0, 1),)),
    (4.5, "d0", "step", ((0, 1),)),
    (5.5, "client", "end", 0),
]


def test_prefill_handoff_posting_transfer_decode() -> None:
    log: list[Event] = []
    outcome = simulate(split(), requests((0.0, 8, 2)), log=log)
    assert log == HANDOFF
    assert outcome.served[0].instances == ("p0", "d0")
    decode, prefill = outcome.counters["d0"], outcome.counters["p0"]
    assert (prefill.requests, prefill.generation_tokens, prefill.nixl_bytes) == (1, 1, 0.0)
    assert (decode.requests, decode.prompt_tokens, decode.generation_tokens) == (1, 8, 2)
    assert (decode.nixl_bytes, decode.nixl_transfers, decode.nixl_descriptors) == (8.0, 1, 2)
    assert (decode.nixl_post_time_s, decode.nixl_transfer_time_s) == (0.5, 2.5)  # NIXL counts posting as a part of the transfer
    assert (decode.queue_time_s, decode.prefill_time_s, decode.decode_time_s) == (2.5, 1.0, 1.0)


def test_the_parts_of_a_handoff_s_time() -> None:
    spec = replace(split(pull=replace(PULL, transfer_s=0.125)), server_s=0.25, handoff_s=0.5)
    assert times(simulate(spec, requests((0.0, 8, 1)))) == [(0.25 + 1 + 0.5 + 0.25 + 0.5 + 0.125 + 2 + 1,)]


def test_posting_stops_what_is_being_decoded() -> None:
    """The second prompt is posted at 4.5 s: that step takes 1.5 s. Its transfer ends at 7 s. The rank looks for it when it launches
    the step of 7 s, and its scheduler hears of it when that step ends."""
    log: list[Event] = []
    outcome = simulate(split(), requests((0.0, 8, 6), (3.0, 8, 1)), log=log)
    assert times(outcome) == [(4.5, 6.0, 7.0, 8.0, 9.0, 10.0), (9.0,)]
    assert (4.5, "d0", "post", (1, 2)) in log
    assert (7.0, "d0", "fetched", 1) in log
    assert outcome.counters["d0"].nixl_transfer_time_s == 2.5 + (7.0 - 4.5)


def test_the_prefill_instance_keeps_blocks_until_they_are_fetched() -> None:
    log: list[Event] = []
    simulate(split(prefill=engine(num_blocks=2)), requests((0.0, 8, 1), (0.0, 8, 1)), log=log)
    assert [event for event in log if event[1] == "p0"] == [(0.0, "p0", "step", ((0, 8),)), (3.5, "p0", "step", ((1, 8),))]


def test_a_prompt_is_posted_when_the_decode_instance_has_blocks_for_it() -> None:
    log: list[Event] = []
    simulate(split(decode=engine(num_blocks=3)), requests((0.0, 8, 2), (0.0, 8, 2)), log=log)
    assert [event for event in log if event[2] == "post"] == [(1.0, "d0", "post", (0, 2)), (5.5, "d0", "post", (1, 2))]


def test_blocks_that_the_decode_instance_has_are_not_fetched() -> None:
    given = [Request(0, (("shared", 8), ("own 0", 4)), 1), Request(1, (("shared", 8), ("own 1", 4)), 1, arrival_s=50.0)]
    outcome = simulate(split(decode=engine(enable_prefix_caching=True)), given)
    assert outcome.counters["d0"].nixl_descriptors == 3 + 1
    assert (outcome.counters["d0"].prefix_cache_queries, outcome.counters["d0"].prefix_cache_hits) == (24, 8)


def test_two_transfers_from_one_instance_share_its_link() -> None:
    """Both are posted at 1 s, each at a decode instance of its own, and leave p0 at 2 bytes/s each."""
    log: list[Event] = []
    simulate(split(decodes=2), requests((0.0, 8, 1), (0.0, 8, 1)), log=log)
    assert [event for event in log if event[2] == "fetched"] == [(5.5, "d0", "fetched", 0), (5.5, "d1", "fetched", 1)]


def test_between_nodes_kv_takes_the_network() -> None:
    spec = split()
    prefill, decode = spec.instances
    apart = (replace(prefill, network_link="nic"), replace(decode, node=1, network_link="nic"))
    outcome = simulate(replace(spec, instances=apart, links={"nic": 8.0}), requests((0.0, 8, 1)))
    assert times(outcome) == [(1 + 0.5 + 1 + 1,)]


def test_every_group_decodes_its_own_prompts() -> None:
    outcome = simulate(split(groups=2), requests(*[(0.0, 8, 1)] * 4))
    assert [each.instances for each in outcome.served] == [("p0", "d0"), ("p1", "d1")] * 2


def test_ranks_in_lock_step_take_as_long_as_the_slowest_and_idle_ones_make_a_dummy_pass() -> None:
    cost = Cost(0.0, 0.1)
    spec = plain(cost=cost, ranks=2, lock_step=True)
    assert times(simulate(spec, requests((0.0, 20, 1), (0.0, 5, 2)))) == [(2.0,), (2.0, pytest.approx(2.1))]
    assert cost.asked == [
        Batch(chunks=((20, 0),), sampled=1, group_tokens=25),
        Batch(chunks=((5, 0),), sampled=1, group_tokens=25),
        Batch(decodes=1, decode_context=1, group_tokens=1),
        Batch(decodes=1, decode_context=6, sampled=1, group_tokens=1),
    ]


def test_ranks_without_lock_step_take_their_own_time() -> None:
    spec = plain(cost=Cost(0.0, 0.1), ranks=2)
    assert times(simulate(spec, requests((0.0, 20, 1), (0.0, 5, 2)))) == [(2.0,), (0.5, 0.6)]


def test_a_posting_stops_all_ranks_in_lock_step() -> None:
    spec = split()
    prefill, decode = spec.instances
    spec = replace(spec, instances=(prefill, replace(decode, data_parallel=2, lock_step=True)))
    outcome = simulate(spec, requests((0.0, 8, 6), (3.0, 8, 1)))
    assert times(outcome)[0] == (4.5, 6.0, 7.0, 8.0, 9.0, 10.0)


def test_a_closed_loop_sends_the_next_request_when_one_ends() -> None:
    """A request that is sent at the end of a step comes too late for the step that begins then."""
    outcome = simulate(plain(max_num_seqs=8), requests(*[(0.0, 4, n % 2 + 1) for n in range(5)]), max_concurrency=2)
    assert [(each.start_s, each.end_s) for each in outcome.served] == [(0, 1), (0, 2), (1, 3), (2, 5), (3, 5)]


def test_none_is_sent_after_the_time_for_sending() -> None:
    outcome = simulate(plain(), requests(*[(0.0, 4, 1)] * 9), max_concurrency=1, send_until_s=3.0)
    assert [(each.id, each.end_s) for each in outcome.served] == [(0, 1.0), (1, 2.0), (2, 3.0)]


def test_a_later_turn_follows_its_predecessor_s_answer_and_finds_it_cached() -> None:
    first = Request(0, (("question", 8),), 8)
    second = Request(1, (*first.segments, first.answer, ("reply", 4)), 1, after=0, think_s=2.5)
    log: list[Event] = []
    outcome = simulate(plain(enable_prefix_caching=True), [first, second], log=log)
    assert [each.start_s for each in outcome.served] == [0.0, 10.5]
    assert (10.5, "a", "step", ((1, 8),)) in log  # 20 tokens; the answer's last one was never computed, so that 3 blocks are cached
    assert outcome.counters["a"].prefix_cache_hits == 12


def test_the_same_seed_gives_the_same_outcome() -> None:
    given = requests(*[(0.1 * n, 4 + n % 7, 1 + n % 5) for n in range(60)])
    spec = plain(3, policy="random")
    assert simulate(spec, given, seed=1) == simulate(spec, given, seed=1)
    assert simulate(spec, given, seed=1) != simulate(spec, given, seed=2)


def test_power_of_two_avoids_the_instance_that_is_busy() -> None:
    given = [Request(0, (("long", 4),), 50), *[Request(n, ((n, 4),), 1, arrival_s=float(2 * n)) for n in range(1, 9)]]
    outcome = simulate(plain(2, policy="power_of_two"), given)
    busy = outcome.served[0].instances[0]
    assert busy not in {each.instances[0] for each in outcome.served[1:]}


@pytest.mark.parametrize(
    ("spec", "given", "message"),
    [
        (plain(policy="kv_aware"), [], "policy=kv_aware: its choices are not modelled"),
        (replace(split(), links={"p0": 1.0}), [], "link 'd0': KV crosses it"),
        (ClusterSpec(tuple(replace(each, pull=None) for each in split().instances)), [], "d0: a decode instance needs `pull`"),
        (ClusterSpec(split().instances[:1]), [], "each group needs prefill and decode instances"),
        (ClusterSpec(()), [], "instances: one or more are needed"),
        (ClusterSpec((*split().instances, *plain().instances), {"p0": 1.0, "d0": 1.0}), [], "either none has the role both"),
        (plain(), [Request(0, (("text", 4),), 1, after=7)], "request 0: follows request 7, which is not there"),
        (plain(num_blocks=2), requests((0.0, 8, 2)), "request 0: 9 tokens, and the KV blocks of a hold 8"),
        (plain(enable_chunked_prefill=False, max_num_batched_tokens=8), requests((0.0, 9, 1)), "a computes 8 in a step"),
        (plain(), requests((0.0, 9, 0)), "needs a prompt and an answer"),
        (plain(), requests((0.0, 9, 1)) * 2, "two requests have the same id"),
    ],
)
def test_what_cannot_be_simulated_is_refused(spec: ClusterSpec, given: list[Request], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate(spec, given)


def test_requests_that_preempt_each_other_for_ever_fail_the_point() -> None:
    """As vLLM 0.24 would do: what is computed again in chunks is preempted before its end."""
    small, given = engine(num_blocks=5, async_scheduling=True, long_prefill_token_threshold=8), requests(*[(0.0, 8, 8)] * 2)
    with pytest.raises(PointFailed, match="d0 preempts requests again and again"):
        simulate(split(decode=small), given)
    assert len(simulate(split(decode=replace(small, waits_for_frees=True)), given).served) == 2


def test_a_prefill_instance_needs_blocks_for_the_prompt_alone() -> None:
    outcome = simulate(split(prefill=engine(num_blocks=2)), requests((0.0, 8, 9)))
    assert len(outcome.served[0].token_times_s) == 9


def test_an_instance_has_a_cost_of_its_own() -> None:
    spec = ClusterSpec(tuple(InstanceSpec(f"{s}", "both", Cost(s), engine()) for s in (1.0, 3.0)), server_s=0.0)
    assert times(simulate(spec, requests((0.0, 4, 1), (0.0, 4, 1)))) == [(1.0,), (3.0,)]
