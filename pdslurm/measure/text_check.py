"""Before a P/D arm's first point after a load: asks the arm and plain instances the same prompts; what they answered comes out.

A plain instance is one of the arm's own engines, asked directly without kv_transfer_params, so that it computes the prompt itself.
Log-probabilities are compared at the same forced tokens: after a near-tie free-running texts part for good.
pdslurm/validity/text.py says what the answers mean, and has the shape of the evidence."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from pdslurm.config import Config
from pdslurm.measure import telemetry
from pdslurm.measure.health import post_json
from pdslurm.measure.warm_up import RequestOptions
from pdslurm.plan.deployment import BoundArm, Process
from pdslurm.plan.model import hf_config
from pdslurm.validity.text import LIKELIEST, PROVING

CHUNKS = 3000  # tokens: over every chunk of a prefill in use, 2048 and less
POSITIONS = 6  # next tokens that are asked for after each prompt
BLOCK = 16  # tokens, where no engine tells its own
VOCABULARY = range(3, 30_000)  # plain words in every tokenizer we know
FORCE = 100.0  # the largest logit_bias: the token is chosen, and its log-probability told is the one without the bias
REQUEST_S = 120.0  # for one answer; a first shape may be compiled

List = dict[str, float]


class Refused(Exception):
    """A server's answer that has no log-probabilities by token id, in words."""


@dataclass(frozen=True)
class Prompt:
    """`salt` keeps its KV apart from all other in prefix caches: a request with another salt never finds it."""

    name: str
    tokens: tuple[int, ...]
    salt: str
    forced: int | None = None

    def then(self, tokens: Sequence[int], forced: int | None = None) -> Prompt:
        """The same prompt with these tokens after it, where `forced` is to follow."""
        return replace(self, tokens=(*self.tokens, *tokens), salt=f"{self.salt}+{len(tokens)}", forced=forced)

    def anew(self, salt: str) -> Prompt:
        return replace(self, salt=f"{self.salt}/{salt}")


def prompts_for(block: int, limit: int, vocabulary: int, seed: str) -> list[Prompt]:
    """Fresh prompts of random tokens: shorter than a block of KV, exactly two blocks, one token more, long, and over a prefill's
    chunk. Those that have more than `limit` tokens are left out. The two longest end with half of their first block once more:
    a trained model goes on with what follows there, so its answer depends on that block."""
    draw = random.Random(seed)
    ids = range(VOCABULARY.start, min(vocabulary, VOCABULARY.stop))
    lengths = {"short": max(2, block - 3), "edge": 2 * block, "over": 2 * block + 1}
    lengths["long"] = max(min(PROVING, limit), lengths["over"] + 1)
    lengths["chunks"] = max(min(CHUNKS, limit), lengths["long"] + 1)
    made = []
    for name, length in lengths.items():
        tokens = draw.choices(ids, k=length)
        if name in ("long", "chunks"):
            quoted = min(block // 2, length - block)
            tokens[length - quoted :] = tokens[:quoted]
        made.append(Prompt(name, tuple(tokens), f"{seed}/{name}"))
    return [prompt for prompt in made if len(prompt.tokens) <= limit]


def with_changed_block(prompt: Prompt, block: int, vocabulary: int) -> Prompt:
    """Other tokens in its first block, but for its last token, which a decode instance computes itself."""
    n = min(block, len(prompt.tokens) - 1)
    ids = range(VOCABULARY.start, min(vocabulary, VOCABULARY.stop))
    changed = [ids[(token - ids.start + 1 + i) % len(ids)] for i, token in enumerate(prompt.tokens[:n])]
    return replace(prompt, tokens=(*changed, *prompt.tokens[n:])).anew("changed")


def likeliest(answer: Any, tokens: int) -> tuple[list[int], list[List]]:
    """The tokens of a completion and the log-probabilities at each. Raises Refused."""
    try:
        told = answer["choices"][0]["logprobs"]
        chosen = [_id(token) for token in told["tokens"]]
        lists = [{str(_id(token)): round(float(value), 6) for token, value in top.items()} for top in told["top_logprobs"]]
        for token, value, known in zip(chosen, told["token_logprobs"], lists, strict=True):
            known[str(token)] = round(float(value), 6)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise Refused(f"the answer has no log-probabilities by token id: {json.dumps(answer)[:200]}") from error
    if len(lists) != tokens or min(map(len, lists)) < 2:
        raise Refused(f"{tokens} tokens with {LIKELIEST} log-probabilities each were asked for: {json.dumps(answer)[:200]}")
    return chosen, lists


def _id(token: str) -> int:
    """`token_id:1234` → 1234."""
    return int(token.removeprefix("token_id:"))


@dataclass(frozen=True)
class Server:
    """Who is asked, by its base URL."""

    url: str
    how: RequestOptions

    def ask(self, prompt: Prompt, tokens: int = 1) -> tuple[list[int], list[List]]:
        """The next `tokens` greedy tokens, or the forced one. Raises Refused."""
        salt = hashlib.sha256(prompt.salt.encode()).hexdigest()
        body = {
            "model": self.how.model, "prompt": list(prompt.tokens), "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
            "logprobs": LIKELIEST, "return_tokens_as_token_ids": True, "cache_salt": salt,
        }  # fmt: skip
        if prompt.forced is not None:
            body["logit_bias"] = {str(prompt.forced): FORCE}
        try:
            url, timeout = f"{self.url}/v1/completions", min(self.how.timeout_s, REQUEST_S)
            status, text = post_json(url, body, timeout_s=timeout, api_key=self.how.api_key)
        except OSError as error:
            raise Refused(f"{self.url} did not answer a prompt of {len(prompt.tokens)} tokens: {error}") from error
        if status != 200:
            raise Refused(f"{self.url} answers {status} to a prompt of {len(prompt.tokens)} tokens: {text.strip()[:200]}")
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise Refused(f"{self.url} answers no JSON: {text[:200]}") from error
        return likeliest(answer, tokens)

    def ask_all(self, prompts: Sequence[Prompt], tokens: int = 1) -> list[tuple[list[int], list[List]]]:
        """The same for several at once."""
        with ThreadPoolExecutor(max_workers=len(prompts)) as pool:
            return list(pool.map(lambda prompt: self.ask(prompt, tokens), prompts))


def plain_rows(plain: Server, other: Server, prompts: Sequence[Prompt], block: int, vocabulary: int) -> list[dict[str, Any]]:
    """The evidence's rows without the arm's part. `plain` is the instance that counts, `other` one that serves the other role.
    Raises Refused."""
    rows = []
    together = plain.ask_all([prompt.anew("together") for prompt in prompts], POSITIONS)
    for prompt, in_batch in zip(prompts, together, strict=True):
        chosen, decoded = plain.ask(prompt.anew("decoded"), POSITIONS)
        elsewhere = other.ask(prompt.anew("elsewhere"), POSITIONS)
        for n, forced in enumerate(chosen):
            place = prompt.then(chosen[:n], forced)
            row = {"prompt": prompt.name, "tokens": len(prompt.tokens), "position": n, "forced": str(forced)}
            again = {"decoded": decoded[n]} if n else {}
            for name, (tokens, lists) in (("together", in_batch), ("elsewhere", elsewhere)):
                if tokens[:n] == chosen[:n]:
                    again[name] = lists[n]
            row |= {"plain": plain.ask(place.anew("plain"))[1][0] if n else decoded[0], "again": again}
            row["changed"] = plain.ask(with_changed_block(place, block, vocabulary))[1][0]
            rows.append(row)
    return rows


def ask_arm(arm: Server, prompts: Sequence[Prompt], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the arm's part: each first place by itself, the later ones all at once, and the last prompt's places once more.
    Raises Refused."""
    by_name = {prompt.name: prompt for prompt in prompts}
    chosen = {(row["prompt"], row["position"]): int(row["forced"]) for row in rows}

    def place(row: Mapping[str, Any]) -> Prompt:
        before = [chosen[row["prompt"], n] for n in range(row["position"])]
        return by_name[row["prompt"]].then(before, int(row["forced"]))

    last = prompts[-1].name
    asked = [place(row) for row in rows]
    answers = {n: arm.ask(asked[n]) for n, row in enumerate(rows) if not row["position"]}
    later = [n for n in range(len(rows)) if n not in answers]
    answers |= dict(zip(later, arm.ask_all([asked[n] for n in later]), strict=True))
    told = [{**row, "arm": answers[n][1][0]} for n, row in enumerate(rows)]
    for n, row in enumerate(rows):
        if row["prompt"] == last:
            again = {key: row[key] for key in ("tokens", "position", "forced", "plain")}
            told.append({"prompt": f"{last}, repeated", **again, "arm": arm.ask(asked[n])[1][0]})
    return told


def evidence(config: Config, arm: BoundArm, engines: Sequence[Process], how: RequestOptions, seed: str) -> dict[str, Any]:
    """What the check `text` of this arm stands on, for the load that is up. `seed` must be another for each load."""
    began = time.monotonic()
    serving = {role: [e for e in engines if e.url and arm.engine_roles.get(e.name) == role] for role in ("decode", "prefill")}
    found: dict[str, Any] = {"dtype": dtype_of(config), "seed": seed, "plain": None, "problem": None, "rows": []}
    if not all(serving.values()):
        return {**found, "problem": "the arm's instances cannot be asked by themselves"}
    plain, other = serving["decode"][0], serving["prefill"][0]
    shape = hf_config(config.model)
    vocabulary = int(shape.get("vocab_size") or 256)
    length = config.model.max_model_len or shape.get("max_position_embeddings") or 2048
    scraped = [telemetry.scrape(engines)]
    facts = [telemetry.cache_facts(sample or {})["block_size"] for sample in scraped[0].values()]
    block = max((size for size in facts if size), default=BLOCK)
    prompts = prompts_for(block, length - POSITIONS, vocabulary, seed)
    try:
        rows = plain_rows(Server(str(plain.url), how), Server(str(other.url), how), prompts, block, vocabulary)
        scraped.append(telemetry.scrape(engines))
        found["rows"] = ask_arm(Server(arm.base_url, how), prompts, rows) if rows else []
        deadline = time.monotonic() + telemetry.COUNTED_WITHIN_S
        while True:
            during = [
                telemetry.counted(*pair, arm.engine_roles, ())["totals"] for pair in pairwise([*scraped, telemetry.scrape(engines)])
            ]
            if during[1]["nixl_transfers"] != 0 or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        found |= {"plain_hits": during[0]["prefix_cache_hits"], "transfers": during[1]["nixl_transfers"]}
    except Refused as error:
        found["problem"] = str(error)
    return {**found, "plain": plain.name, "other": other.name, "block_size": block, "seconds": round(time.monotonic() - began, 2)}


def dtype_of(config: Config) -> str:
    """The dtype in which engines compute, as far as the configuration tells."""
    asked = {"dtype": config.model.dtype, **config.cluster.engine_args, **config.model.engine_args}["dtype"]
    shape = hf_config(config.model)
    told = shape.get("dtype") or shape.get("torch_dtype") if asked == "auto" else asked
    return {"float": "float32", "half": "float16"}.get(str(told), str(told))
