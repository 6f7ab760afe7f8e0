"""A vLLM that has changed where the client takes hold of it is refused, with the line that says where."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pdslurm.bench import seams
from pdslurm.bench.seams import DATASETS, SENDER, SERVE, SeamError
from tests.stand_ins import write_vllm

Modules = dict[str, Any]


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Modules]:
    monkeypatch.syspath_prepend(str(write_vllm(tmp_path)))
    yield seams.imported()
    for name in [n for n in sys.modules if n.partition(".")[0] == "vllm"]:
        del sys.modules[name]


def test_as_it_is_known_it_passes(modules: Modules) -> None:
    seams.check(modules)


@pytest.mark.parametrize(
    "path",
    [
        *(f"{SERVE}.{name}" for name in ("add_cli_args", "main_async", "get_samples", "get_tokenizer", "get_request", "tqdm")),
        f"{SENDER}.async_request_openai_completions",
        f"{SENDER}.StreamedResponseHandler",
        f"{SENDER}.RequestFuncInput",
        f"{SENDER}.RequestFuncOutput",
        f"{DATASETS}.SampleRequest",
        "vllm.utils.argparse_utils.FlexibleArgumentParser",
    ],
)
def test_what_is_gone_is_named(modules: Modules, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name = path.rsplit(".", 1)
    monkeypatch.delattr(modules[module], name)
    with pytest.raises(SeamError, match=rf"^vllm \S+: there is no .*{path}.*; this pdslurm knows vLLM 0\.24 to 0\.32$"):
        seams.check(modules)


def renamed(args: Any, tokeniser: Any) -> None: ...


def more(args: Any, environment: Any) -> None: ...


def anything(**more: Any) -> None: ...


class OtherBuffer:
    def __init__(self) -> None:
        self.pending = b""

    def add_chunk(self, chunk: bytes) -> list[str]:
        return []


class OtherChunks:
    buffer = ""

    def add_chunk(self, chunk: bytes, last: bool) -> list[str]:
        return []


@pytest.mark.parametrize(
    ("module", "name", "value", "line"),
    [
        (SERVE, "get_samples", renamed, "get_samples has no parameter tokenizer"),
        (SERVE, "main_async", more, "main_async needs a parameter environment"),
        (SERVE, "add_cli_args", more, "add_cli_args has the parameters args, environment instead of parser"),
        (SERVE, "get_request", renamed, "get_request has no parameter input_requests"),
        (SERVE, "ASYNC_REQUEST_FUNCS", {"openai": anything}, "ASYNC_REQUEST_FUNCS has no back end vllm"),
        (SENDER, "async_request_openai_completions", more, "async_request_openai_completions has no parameter session"),
        (SENDER, "StreamedResponseHandler", OtherBuffer, "StreamedResponseHandler has no buffer"),
        (
            SENDER,
            "StreamedResponseHandler",
            OtherChunks,
            "add_chunk has the parameters self, chunk, last instead of self",
        ),
    ],
)
def test_what_has_changed_is_named(
    modules: Modules, module: str, name: str, value: Any, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules[module], name, value)
    with pytest.raises(SeamError) as caught:
        seams.check(modules)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_field_that_is_gone_is_named(modules: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules[SENDER], "RequestFuncOutput", modules[SENDER].RequestFuncInput)
    with pytest.raises(SeamError, match="RequestFuncOutput has no field ttft"):
        seams.check(modules)


def test_parameters_that_are_all_taken_by_name_will_do(modules: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules[SERVE], "get_tokenizer", anything)
    seams.check(modules)


def test_a_module_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, SENDER, None)
    with pytest.raises(SeamError, match=f"{SENDER} cannot be imported"):
        seams.imported()


# --- a point's result


def result(**changes: Any) -> dict[str, Any]:
    lists = {name: [0, 0] for name in (*seams.LISTS, "latencies")}
    return {**dict.fromkeys(seams.NUMBERS, 1), **lists, **changes}


@pytest.mark.parametrize("name", [*seams.NUMBERS, *seams.LISTS])
def test_a_result_without_a_key_is_refused(name: str) -> None:
    seams.check_result(result())
    with pytest.raises(SeamError, match=f"the result has no {name};"):
        seams.check_result({k: v for k, v in result().items() if k != name})


def test_latencies_may_be_missing_for_they_can_be_made() -> None:
    seams.check_result({k: v for k, v in result().items() if k != "latencies"})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"itls": [[0.1]]}, "the result's lists have different lengths"),
        ({"latencies": [0.1] * 3}, "the result's lists have different lengths"),
        ({"ttfts": 0.1}, "the result's ttfts is no list"),
    ],
)
def test_lists_that_tell_other_requests_are_refused(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(SeamError, match=line):
        seams.check_result(result(**changes))
