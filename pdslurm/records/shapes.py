"""A value of JSON and the Python type that it should have in; in what it is no such thing, in words, out.

The TypedDicts are the shapes of a record's own objects, as far as pdslurm and its analysis rely on them; more keys are allowed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

Numbers = Mapping[str, float | None]
WORDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
WORDS[NoneType] = "null"


class Named(TypedDict):
    """What every Measurement.point has; analysis asks for more of what it shows."""

    id: str


class Point(Named, total=False):
    """Measurement.point."""

    input_len: int
    output_len: int
    request_rate: float | None
    max_concurrency: int | None
    num_prompts: int
    repeat: int
    seed: int
    sweeps: list[str]
    start: int
    load: str
    duration_s: float | None


class ArmInfo(TypedDict, total=False):
    """Measurement.arm_info."""

    disaggregated: bool | None
    gpus: float | None
    nodes: float | None
    instances: int | None
    roles: list[str] | None
    model: str | None
    cluster: str | None
    tuned_arm: str | None  # the configuration's name of the arm that this is a variant of; none where arms are not tuned
    setting: Mapping[str, Any] | None  # the options in which it differs from that arm


class Lane(TypedDict, total=False):
    """One way over which KV was fetched."""

    lanes: list[str] | None


class Transport(TypedDict, total=False):
    """Measurement.telemetry["transport"]."""

    kinds: list[str] | None
    engines: Mapping[str, list[Lane] | None] | None


class Telemetry(TypedDict, total=False):
    """Measurement.telemetry."""

    engines: Mapping[str, Mapping[str, Any]] | None
    totals: Numbers | None
    router_requests: Numbers | None
    ttft: Numbers | None
    ttft_spans: Mapping[str, Numbers | None] | None
    starved_decode: Mapping[str, Any] | None
    gpus: Mapping[str, list[Mapping[str, Any]]] | None
    gpu_use: Mapping[str, list[Mapping[str, Any]]] | None
    transport: Transport | None
    resolved: Mapping[str, Mapping[str, Any]] | None
    text: Mapping[str, Any] | None


class Provenance(TypedDict, total=False):
    """Measurement.provenance."""

    raw: str | None
    bytes: Mapping[str, int] | None  # of the raw file and of the request file when the record was written
    bench_args: list[str] | None
    client: Mapping[str, Any] | None
    versions: Mapping[str, str | None] | None
    cautions: list[str] | None
    warm_up: Mapping[str, Any] | None
    engines: Mapping[str, Any] | None
    tries: int


def misfit(value: Any, kind: Any, name: str) -> str | None:
    """Why `value`, which stands at `name`, is not of this type: `metrics is a list, not an object`. None where it is. A tuple is a
    list in JSON, a whole number is a number, and true is none."""
    plain = plain_types(kind)
    if kind is Any or type(value) in plain:
        return None
    if isinstance(value, (dict, list)) and (inner := _inner(kind, type(value))):
        each = value.values() if isinstance(value, dict) else value
        if Any in inner or all(type(one) in inner for one in each):
            return None
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _misfit_of_all(value, arguments, name)
    if is_typeddict(kind):
        return misfit(value, Mapping[str, Any], name) or _misfit_of_keys(value, kind, name)
    if origin in (list, tuple):
        items = ((each, f"{name}[{n}]") for n, each in enumerate(value)) if isinstance(value, list) else None
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        origin, arguments = dict, arguments[1:]
        items = ((each, f"{name}.{key}") for key, each in value.items()) if isinstance(value, dict) else None
    else:
        return f"{name} is {_word(value)}, not {WORDS[kind]}"
    if items is None:
        return f"{name} is {_word(value)}, not {WORDS[dict if origin is dict else list]}"
    return next(filter(None, (misfit(each, arguments[0], where) for each, where in items)), None)


def _misfit_of_all(value: Any, kinds: tuple[Any, ...], name: str) -> str | None:
    """Of the kind that a value comes nearest to: nothing is said of null where something else is there."""
    if value is None and NoneType in kinds:
        return None
    found = [misfit(value, kind, name) for kind in kinds if kind is not NoneType]
    return None if None in found else found[0]


def _misfit_of_keys(value: Mapping[str, Any], kind: Any, name: str) -> str | None:
    for key in sorted(kind.__required_keys__ - value.keys()):
        return f"{name} has no {key}"
    known = hints(kind)
    return next(filter(None, (misfit(value[key], known[key], f"{name}.{key}") for key in known if key in value)), None)


@cache
def plain_types(kind: Any) -> frozenset[Any]:
    """The types of texts, numbers, true, false and null that `kind` allows, Any for Any; empty for what is made of others."""
    if get_origin(kind) in (Union, UnionType):
        return frozenset().union(*map(plain_types, get_args(kind)))
    return (
        frozenset((int, float)) if kind is float else frozenset([kind]) if kind in (str, bool, int, NoneType, Any) else frozenset()
    )


@cache
def _inner(kind: Any, outer: type) -> frozenset[Any]:
    """What plain_types gives of the values in an object or a list of this kind."""
    if get_origin(kind) in (Union, UnionType):
        return frozenset().union(*(_inner(each, outer) for each in get_args(kind)))
    origin, arguments = get_origin(kind), get_args(kind)
    is_object = isinstance(origin, type) and issubclass(origin, Mapping)
    return plain_types(arguments[-1 if is_object else 0]) if origin and is_object == (outer is dict) else frozenset()


@cache
def hints(kind: Any) -> Mapping[str, Any]:
    """The types of a class's fields."""
    return get_type_hints(kind)


def _word(value: Any) -> str:
    return WORDS[type(value)]
