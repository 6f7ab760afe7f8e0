"""A model's folder: config.json from stdin's JSON, a small trained tokenizer and weights, into the folder named by argv[1].

Runs by itself in the engine's environment (`tokenizers` lives there). `--no-weights` is for vLLM's --load-format dummy."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).parents[2])
if not __package__:  # run by itself
    sys.path[:] = [ROOT, *(p for p in sys.path if p != str(Path(__file__).parent))]
from pdslurm.bench import make_weights  # noqa: E402

END_OF_TEXT = "<|endoftext|>"
LEARNT = 4096  # tokens: twice the smallest useful vocabulary is enough to make prompts of an exact length; more only train longer
WORD = re.compile(r"Ġ?[A-Za-z]+")  # Ġ is the byte-level alphabet's blank


def texts() -> list[str]:
    """Something to learn merges from that every Python has: the source of its standard library's larger modules."""
    import argparse
    import ast
    import asyncio.events
    import datetime
    import decimal
    import email.message
    import subprocess
    import tarfile
    import typing

    return [
        inspect.getsource(m) for m in (argparse, ast, asyncio.events, datetime, decimal, email.message, subprocess, tarfile, typing)
    ]


def filled(vocab: dict[str, int], size: int) -> Iterator[tuple[str, str]]:
    """Pairs of known words whose joins, added to `vocab` in turn, give every id below `size` a token.

    A model with random weights answers with any id of its own vocabulary. For one that the tokenizer does not have, tokenizers'
    DecodeStream gets no text and so decodes prompt and answer anew at every token: with 256 requests of 4096 tokens that is 226 ms
    a step in the API server (results/h200x4/README.md), against 2 ms where every id is known."""
    words = [token for token in vocab if WORD.fullmatch(token)]
    tails = [word for word in words if not word.startswith("Ġ")]
    known = set(vocab)
    missing = size - len(vocab)
    for shift, (i, word) in itertools.product(range(len(tails)), enumerate(words)):
        if missing <= 0:
            return
        tail = tails[(i + shift) % len(tails)]
        if word + tail not in known:
            known.add(word + tail)
            missing -= 1
            yield word, tail


def make(folder: Path, config: dict[str, Any], *, weights: bool) -> None:
    """Writes config.json last: a folder that has it is complete. Raises make_weights.CannotMake."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir(parents=True, exist_ok=True)
    if weights:
        make_weights.write(folder, config)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(config["vocab_size"], LEARNT),
        special_tokens=["<|begin|>", END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    content = json.loads(tokenizer.to_str())
    bpe = content["model"]
    for pair in list(filled(bpe["vocab"], config["vocab_size"])):
        bpe["vocab"]["".join(pair)] = len(bpe["vocab"])
        bpe["merges"].append(list(pair) if isinstance(bpe["merges"][0], list) else " ".join(pair))
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    names = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "bos_token": "<|begin|>",
        "pad_token": END_OF_TEXT,
    }
    names["model_max_length"] = config["max_position_embeddings"]
    (folder / "tokenizer_config.json").write_text(json.dumps(names, indent=1))
    temporary = folder / ".config.json.tmp"
    temporary.write_text(json.dumps(config, indent=1))
    temporary.replace(folder / "config.json")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:  # importing transformers makes a cache of compiled code, which nobody needs here
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        try:
            make(Path(sys.argv[1]), json.load(sys.stdin), weights="--no-weights" not in sys.argv[2:])
        except make_weights.CannotMake as error:
            sys.exit(str(error))
