"""Which requests warm the pairs of ranks up, against a server that notes what it is asked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pdslurm.errors import NotReady
from pdslurm.measure import warm_up
from pdslurm.measure.warm_up import Instance, RequestOptions, warm_pairs

HOW = RequestOptions("m", None, 1.0)


class Engines:
    """In place of HTTP: a prefill answers with the engine id of the rank that was asked, a decode notes which rank got whose."""

    def __init__(self, ranks: dict[str, int], *, obey: bool) -> None:
        self.ranks, self.obey = ranks, obey
        self.moved: list[tuple[str, str]] = []
        self.prompts: list[tuple[str, tuple[int, ...]]] = []

    def post(self, url: str, value: Any, *, headers: dict[str, str], **_: Any) -> tuple[int, str]:
        base = url.removesuffix("/v1/completions")
        asked = headers.get("X-data-parallel-rank")
        if self.obey and asked is not None and int(asked) >= self.ranks[base]:
            return 400, "data_parallel_rank is out of range"
        rank = int(asked) if self.obey and asked is not None else 0
        kv = value.get("kv_transfer_params")
        if kv and kv.get("do_remote_decode"):
            self.prompts.append((base, tuple(value["prompt"])))
            return 200, json.dumps({"kv_transfer_params": {"remote_engine_id": f"{base}_dp{rank}"}})
        if kv:
            self.moved.append((kv["remote_engine_id"], f"{base}_dp{rank}"))
        return 200, "{}"


def test_every_rank_hands_over_to_every_rank_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = Engines({"p": 2, "q": 1, "d": 3}, obey=True)
    monkeypatch.setattr(warm_up, "post_json", engines.post)
    found = warm_pairs([Instance("p", 2), Instance("q")], [Instance("d", 3)], HOW)
    assert found == (9, [])
    assert sorted(engines.moved) == sorted((s, f"d_dp{n}") for s in ("p_dp0", "p_dp1", "q_dp0") for n in range(3))
    assert len({prompt for _, prompt in engines.prompts}) == 9, "a prompt that is in a cache is not moved"


def test_a_server_that_places_requests_itself_is_asked_more_often_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = Engines({"p": 2, "d": 2}, obey=False)
    monkeypatch.setattr(warm_up, "post_json", engines.post)
    assert warm_pairs([Instance("p", 2)], [Instance("d", 2)], HOW) == (4, ["p", "d"])
    assert len(engines.moved) == 4 * warm_up.ROUNDS


def test_instances_of_one_rank_are_asked_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    def post(url: str, value: Any, *, headers: dict[str, str], **_: Any) -> tuple[int, str]:
        seen.append(headers)
        return 200, "{}"

    monkeypatch.setattr(warm_up, "post_json", post)
    assert warm_pairs([Instance("p")], [Instance("d")], HOW) == (1, [])
    assert seen == [{}, {}]


def test_a_thousand_prompts_are_a_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = Engines({"p": 32, "d": 32}, obey=True)
    monkeypatch.setattr(warm_up, "post_json", engines.post)
    warm_pairs([Instance("p", 32)], [Instance("d", 32)], HOW)
    assert len({prompt[:16] for _, prompt in engines.prompts}) == 1024, "told apart within one block"


def test_an_answer_that_is_none_says_whose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_up, "post_json", lambda *_, **__: (503, "no such engine"))
    with pytest.raises(NotReady, match="p answers 503 to a request of 200 tokens: no such engine"):
        warm_pairs([Instance("p")], [Instance("d")], HOW)
