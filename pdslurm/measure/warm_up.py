"""Before an arm's first point: one real request through its router, and one KV transfer for every prefill × decode pair of ranks.

A pair's first transfer sets up its connection, which must not be measured. A router that answers /health may still not serve."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pdslurm.errors import NotReady
from pdslurm.measure.health import post_json
from pdslurm.plan.environment import proxy_hint
from pdslurm.plan.points import Point

PROMPT_TOKENS = 200  # more than one KV block of any size in use, so that something has to move
RANK_HEADER = "X-data-parallel-rank"  # vLLM 0.32: entrypoints/generate/base/serving.py, `_get_data_parallel_rank`
NO_SUCH_RANK = 1_000_000
ROUNDS = 4  # over all pairs of ranks where a server places requests by itself
# The KV handoff as vLLM's NixlConnector speaks it: the prefill request asks for this, its answer tells decode where the blocks are,
# and which data-parallel rank has them: each has an engine id of its own, which ends in _dp and its number.
PREFILL_HANDOFF: dict[str, Any] = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}


@dataclass(frozen=True)
class RequestOptions:
    """What all requests have in common: the served model, the engines' key, the deadline."""

    model: str
    api_key: str | None
    timeout_s: float


@dataclass(frozen=True)
class Instance:
    """An engine's base URL, and how many data-parallel ranks are behind it, each of which moves KV by itself."""

    url: str
    ranks: int = 1


def sent_json(load: Point, completed: int | None) -> dict[str, Any]:
    """One load of a warm-up as a record has it; lengths are 0 where the data set or the mix has them."""
    names = ("input_len", "output_len", "num_prompts", "seed", "load")
    return {**{name: getattr(load, name) for name in names}, "completed": completed}


def complete(
    base_url: str,
    how: RequestOptions,
    *,
    salt: int,
    max_tokens: int = 2,
    kv: dict[str, Any] | None = None,
    rank: int | None = None,
) -> Any:
    """One completion over a prompt of token ids that `salt` makes unlike any other, by one data-parallel rank where `rank` says
    which. Raises NotReady with the server's answer."""
    status, text = _ask(base_url, how, salt=salt, max_tokens=max_tokens, kv=kv, rank=rank)
    if status != 200:
        said = f"{base_url} answers {status} to a request of {PROMPT_TOKENS} tokens: {text.strip()[:500]}"
        raise NotReady(said + proxy_hint(said, os.environ))
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        said = f"{base_url} answers a request of {PROMPT_TOKENS} tokens with what is no JSON object: {text.strip()[:500]}"
        raise NotReady(said + proxy_hint(said, os.environ))
    return answer


def _ask(
    base_url: str, how: RequestOptions, *, salt: int, max_tokens: int, kv: dict[str, Any] | None, rank: int | None
) -> tuple[int, str]:
    prompt = [3 + (salt * 7919 + i * (31 + 2 * (salt // 250))) % 250 for i in range(PROMPT_TOKENS)]
    headers = {} if rank is None else {RANK_HEADER: str(rank)}
    body = {"model": how.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    if kv:
        body["kv_transfer_params"] = kv
    try:
        return post_json(f"{base_url}/v1/completions", body, timeout_s=how.timeout_s, api_key=how.api_key, headers=headers)
    except OSError as error:
        raise NotReady(
            f"{base_url} did not complete a request of {PROMPT_TOKENS} tokens within {how.timeout_s:g} s: {error}"
        ) from error


def warm_pairs(prefill: Sequence[Instance], decode: Sequence[Instance], how: RequestOptions) -> tuple[int, list[str]]:
    """Moves one prompt's KV from every rank of every prefill instance to every rank of every decode instance, for each two have a
    connection of their own. Returns how many pairs of ranks there are, and the URLs of instances that do not let a request choose
    its rank: there four times as many requests make it likely that every pair had one. Raises NotReady."""
    choosing = {each.url: each.ranks == 1 or _obeys_ranks(each, how) for each in (*prefill, *decode)}
    pairs = salt = 0
    for p, d in itertools.product(prefill, decode):
        ranks = list(itertools.product(range(p.ranks), range(d.ranks)))
        pairs += len(ranks)
        for p_rank, d_rank in ranks * (1 if choosing[p.url] and choosing[d.url] else ROUNDS):
            salt += 1
            by = p_rank if p.ranks > 1 and choosing[p.url] else None
            answer = complete(p.url, how, salt=salt, max_tokens=1, kv=PREFILL_HANDOFF, rank=by)
            to = d_rank if d.ranks > 1 and choosing[d.url] else None
            complete(d.url, how, salt=salt, kv=answer.get("kv_transfer_params"), rank=to)
    return pairs, [url for url, chosen in choosing.items() if not chosen]


def _obeys_ranks(instance: Instance, how: RequestOptions) -> bool:
    """Whether the server refuses a rank that it does not have; one that knows no such header answers as to any request."""
    status, _ = _ask(instance.url, how, salt=0, max_tokens=1, kv=None, rank=NO_SUCH_RANK)
    return status != 200
