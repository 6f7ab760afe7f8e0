"""A command line in, its options with their values out: one parser, whatever is done with them then."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """`--x=1 2`: the name --x as it was written, the values 1 and 2, and the words `--x=1`, `2` of the command line."""

    name: str
    values: tuple[str, ...]
    words: tuple[str, ...]


def options(argv: Iterable[Any]) -> Iterator[Option]:
    """The options in their order. An option is a word that begins with a dash, unless a digit follows, for that is a number; its
    values are what stands behind its = and the words up to the next option. Words before the first option come under an empty name
    and are missing where there are none."""
    name, values, words = "", list[str](), list[str]()
    for word in map(str, argv):
        if word.startswith("-") and not word[1:2].isdigit():
            if words:
                yield Option(name, tuple(values), tuple(words))
            name, equals, value = word.partition("=")
            values, words = [value] if equals else [], [word]
        else:
            values.append(word)
            words.append(word)
    if words:
        yield Option(name, tuple(values), tuple(words))
