"""What the client takes from inside vLLM's benchmark, checked by name and signature when it starts: where
a vLLM has changed there, one line is said instead of a number that is wrong.

Part of the benchmark client, so standard library only; vLLM is imported where it is checked."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

VERSIONS = "vLLM 0.24 to 0.32"
PARSER = "vllm.utils.argparse_utils"
SERVE, SENDER, DATASETS = "vllm.benchmarks.serve", "vllm.benchmarks.lib.endpoint_request_func", "vllm.benchmarks.datasets"
# Functions that the client calls or puts itself in the place of → the parameters that it gives them, or is given by name.
FUNCTIONS = {
    f"{SERVE}.add_cli_args": ("parser",),
    f"{SERVE}.main_async": ("args",),
    f"{SERVE}.get_samples": ("args", "tokenizer"),
    f"{SERVE}.get_tokenizer": ("tokenizer_mode", "trust_remote_code"),
    f"{SERVE}.get_request": ("input_requests", "request_rate", "burstiness"),
    f"{SENDER}.StreamedResponseHandler.add_chunk": ("self", "chunk_bytes"),
    f"{SENDER}.async_request_openai_completions": ("request_func_input", "session", "pbar"),
}
BY_POSITION = (f"{SERVE}.add_cli_args", f"{SENDER}.StreamedResponseHandler.add_chunk")  # their parameters' names do not matter
CALLED = (f"{SERVE}.main_async", f"{SERVE}.get_samples", f"{SENDER}.async_request_openai_completions")  # with these and no others
# Data classes → the fields that the client reads or sets.
FIELDS = {
    f"{SENDER}.RequestFuncInput": (
        "prompt", "api_url", "prompt_len", "output_len", "model", "model_name", "logprobs", "extra_headers", "extra_body",
        "ignore_eos", "request_id",
    ),
    f"{SENDER}.RequestFuncOutput": (
        "generated_text", "success", "latency", "output_tokens", "ttft", "itl", "prompt_len", "error", "start_time",
    ),
    f"{DATASETS}.SampleRequest": ("prompt", "prompt_len", "expected_output_len", "request_id"),
}  # fmt: skip
# Of a point's result: numbers, and lists with an entry for each request.
NUMBERS = ("completed", "duration", "total_input_tokens", "total_output_tokens")
LISTS = ("start_times", "ttfts", "itls", "input_lens", "output_lens", "errors")
SOMETIMES = ("latencies",)  # vLLM 0.24 leaves them out, and they are made of the others


class SeamError(Exception):
    """This vLLM is not the one that the client was written for; the text is one line for whoever started the run."""


def imported() -> dict[str, Any]:
    """The modules of vLLM that the client takes something from, by name. Raises SeamError where one cannot be imported."""
    modules, wrong = {}, []
    for name in (SERVE, SENDER, DATASETS, PARSER):
        try:
            modules[name] = importlib.import_module(name)
        except ImportError as error:
            wrong.append(f"{name} cannot be imported ({error})")
    refuse_if(wrong)
    return modules


def check(modules: Mapping[str, Any]) -> None:
    """`modules`: as `imported` has them. Raises SeamError with everything that is missing or has changed."""
    refuse_if([*_functions(modules), *_fields(modules), *_patched(modules)])


def check_result(result: Mapping[str, Any]) -> None:
    """Raises SeamError when a point's result lacks what is measured, or its lists do not tell the same requests."""
    wrong = [f"the result has no {name}" for name in (*NUMBERS, *LISTS) if name not in result]
    lengths = {name: len(result[name]) for name in (*LISTS, *SOMETIMES) if isinstance(result.get(name), Sequence)}
    wrong += [f"the result's {name} is no list" for name in LISTS if name in result and name not in lengths]
    if len(set(lengths.values())) > 1:
        wrong += [f"the result's lists have different lengths ({', '.join(f'{k} {v}' for k, v in lengths.items())})"]
    refuse_if(wrong)


def refuse_if(wrong: Sequence[str]) -> None:
    if wrong:
        raise SeamError(f"vllm {_version()}: {'; '.join(wrong)}; this pdslurm knows {VERSIONS}")


def _functions(modules: Mapping[str, Any]) -> Iterator[str]:
    for path, parameters in FUNCTIONS.items():
        function = _find(modules, path)
        if not callable(function):
            yield f"there is no {path}"
            continue
        has = inspect.signature(function).parameters
        if path in BY_POSITION:
            if len(has) != len(parameters):
                yield f"{path} has the parameters {', '.join(has)} instead of {', '.join(parameters)}"
            continue
        takes_any = any(p.kind is p.VAR_KEYWORD for p in has.values())
        yield from (f"{path} has no parameter {name}" for name in parameters if name not in has and not takes_any)
        needed = [n for n, p in has.items() if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        yield from (f"{path} needs a parameter {n}" for n in needed if path in CALLED and n not in parameters)


def _fields(modules: Mapping[str, Any]) -> Iterator[str]:
    for path, names in FIELDS.items():
        found = _find(modules, path)
        if not dataclasses.is_dataclass(found):
            yield f"there is no data class {path}"
            continue
        has = {field.name for field in dataclasses.fields(found)}
        yield from (f"{path} has no field {name}" for name in names if name not in has)


def _patched(modules: Mapping[str, Any]) -> Iterator[str]:
    """What the client puts something else in place of has to be there: under another name nobody would use it."""
    if not hasattr(modules[SERVE], "tqdm"):
        yield f"there is no {SERVE}.tqdm"
    if not hasattr(modules[PARSER], "FlexibleArgumentParser"):
        yield f"there is no {PARSER}.FlexibleArgumentParser"
    senders = getattr(modules[SERVE], "ASYNC_REQUEST_FUNCS", None)
    if not isinstance(senders, dict) or "vllm" not in senders:
        yield f"{SERVE}.ASYNC_REQUEST_FUNCS has no back end vllm"
    handler = getattr(modules[SENDER], "StreamedResponseHandler", None)
    try:
        if handler is not None and handler().buffer != "":
            yield f"{SENDER}.StreamedResponseHandler does not begin with an empty text as its buffer"
    except (AttributeError, TypeError):
        yield f"{SENDER}.StreamedResponseHandler has no buffer"


def _find(modules: Mapping[str, Any], path: str) -> Any:
    name = max((name for name in modules if path.startswith(f"{name}.")), key=len)
    found = modules[name]
    for part in path.removeprefix(f"{name}.").split("."):
        found = getattr(found, part, None)
    return found


def _version() -> str:
    try:
        return version("vllm")
    except PackageNotFoundError:
        return "unknown"
