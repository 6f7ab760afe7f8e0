"""Before an arm's first point: one real request through its router, and one KV transfer for every prefill × decode pair.

A pair's first transfer sets up its connection, which must not be measured. A router that answers /health may still not serve."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pdslurm.errors import NotReady
from pdslurm.measure.health import post_json

PROMPT_TOKENS = 200  # more than one KV block of any size in use, so that something has to move
# The KV handoff as vLLM's NixlConnector speaks it: the prefill request asks for this, its answer tells decode where the blocks are.
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


def complete(base_url: str, how: RequestOptions, *, salt: int, max_tokens: int = 2, kv: dict[str, Any] | None = None) -> Any:
    """One completion over a prompt of token ids that `salt` makes unlike any other. Raises NotReady with the server's answer."""
    prompt = [3 + (salt * 7919 + i * 31) % 250 for i in range(PROMPT_TOKENS)]
    body = {"model": how.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    if kv:
        body["kv_transfer_params"] = kv
    try:
        status, text = post_json(f"{base_url}/v1/completions", body, timeout_s=how.timeout_s, api_key=how.api_key)
    except OSError as error:
        raise NotReady(
            f"{base_url} did not complete a request of {PROMPT_TOKENS} tokens within {how.timeout_s:g} s: {error}"
        ) from error
    if status != 200:
        raise NotReady(f"{base_url} answers {status} to a request of {PROMPT_TOKENS} tokens: {text.strip()[:500]}")
    return json.loads(text)


def warm_pairs(prefill: Sequence[str], decode: Sequence[str], how: RequestOptions) -> int:
    """Moves one prompt's KV from every prefill to every decode instance (base URLs); returns how many pairs. Raises NotReady."""
    for p, prefill_url in enumerate(prefill):
        for d, decode_url in enumerate(decode):
            salt = 1 + p * len(decode) + d
            answer = complete(prefill_url, how, salt=salt, max_tokens=1, kv=PREFILL_HANDOFF)
            complete(decode_url, how, salt=salt, kv=answer.get("kv_transfer_params"))
    return len(prefill) * len(decode)
