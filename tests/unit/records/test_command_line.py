"""Command lines taken apart into options and their values."""

from __future__ import annotations

import pytest

from pdslurm.records.command_line import Option, options


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        ([], []),
        (["vllm", "serve"], [("", ["vllm", "serve"])]),
        (["m", "--a", "1", "-b", "--c=2", "3"], [("", ["m"]), ("--a", ["1"]), ("-b", []), ("--c", ["2", "3"])]),
        (["--n", "-1", "--kv", '{"a": "--b"}', "--kv=x=y"], [("--n", ["-1"]), ("--kv", ['{"a": "--b"}']), ("--kv", ["x=y"])]),
        (["--empty=", "--port", 8000], [("--empty", [""]), ("--port", ["8000"])]),
    ],
)
def test_options(argv: list[object], found: list[tuple[str, list[str]]]) -> None:
    assert [(option.name, list(option.values)) for option in options(argv)] == found
    assert [word for option in options(argv) for word in option.words] == list(map(str, argv)), "none is lost"


def test_an_option_s_own_words() -> None:
    assert list(options(["--c=2", "3"])) == [Option("--c", ("2", "3"), ("--c=2", "3"))]
