"""A made model: every id that it may answer with is a token, and its weights lie in files of a bounded size."""

from __future__ import annotations

import pytest

from pdslurm.bench import make_weights
from pdslurm.bench.make_model import filled

# As a byte-level BPE has them: special tokens, single bytes, words with and without the blank before them.
LEARNT = ["<|begin|>", "<|endoftext|>", "!", "Ġ", "Ã", "a", "b", "Ġa", "ab", "def", "Ġself", "(self"]


@pytest.mark.parametrize("size", [5, len(LEARNT), len(LEARNT) + 1, len(LEARNT) + 17])
def test_every_id_below_the_size_becomes_a_token(size: int) -> None:
    vocab = {token: i for i, token in enumerate(LEARNT)}
    joined = [a + b for a, b in filled(vocab, size)]
    assert len(vocab) + len(joined) == max(size, len(LEARNT))
    assert len({*vocab, *joined}) == len(vocab) + len(joined), "no token twice"


def test_only_whole_words_are_joined() -> None:
    """A token that ends within a character, or a special one, would hold text back."""
    pairs = list(filled({token: i for i, token in enumerate(LEARNT)}, 25))
    assert {word for word, _ in pairs} <= {"a", "b", "Ġa", "ab", "def", "Ġself"}
    assert {tail for _, tail in pairs} <= {"a", "b", "ab", "def"}


@pytest.mark.parametrize(
    ("sizes", "shards"),
    [
        ({"a": 40, "b": 60, "c": 1}, [["a", "b"], ["c"]]),
        ({"a": 250, "b": 10}, [["a"], ["b"]]),
        ({"a": 10, "b": 250, "c": 10}, [["a"], ["b"], ["c"]]),
        ({}, [[]]),
    ],
)
def test_a_file_is_full_at_its_size_and_a_larger_tensor_has_one_to_itself(
    monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int], shards: list[list[str]]
) -> None:
    monkeypatch.setattr(make_weights, "SHARD_BYTES", 100)
    assert make_weights.shards_of(sizes) == shards
