"""A valid record's JSON in; what somebody may find in its place, out: every kind of record that is none."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

Value = dict[str, Any]


def _cut(value: Value) -> bytes:
    whole = json.dumps(value).encode()
    return whole[: len(whole) // 2]


def _changed(**changes: Any) -> Callable[[Value], bytes]:
    return lambda value: json.dumps(value | changes).encode()


def _within(field: str, **changes: Any) -> Callable[[Value], bytes]:
    return lambda value: json.dumps(value | {field: value[field] | changes}).encode()


def _without(*keys: str) -> Callable[[Value], bytes]:
    def edit(value: Value) -> bytes:
        *outer, last = keys
        inner = value
        for key in outer:
            inner = inner[key]
        del inner[last]
        return json.dumps(value).encode()

    return edit


# kind → what is written, and a part of what is said of it
RECORDS: dict[str, tuple[Callable[[Value], bytes], str]] = {
    "cut short": (_cut, "its JSON ends at character "),
    "empty": (lambda _: b"", "it is empty"),
    "blank": (lambda _: b" \n", "it is empty"),
    "random bytes": (lambda _: b"\xff\xfe" + random.Random(0).randbytes(300), "it is no text: byte 0 is no UTF-8"),
    "zeros, as after a crash": (lambda _: bytes(300), "it is no JSON from character 0 on"),
    "words": (lambda _: b"no record", "it is no JSON from character 0 on"),
    "nested too deep": (lambda _: b"[" * 100_000, "it is no JSON"),
    "null": (lambda _: b"null", "it is null, not an object"),
    "a list": (lambda _: b"[]", "it is a list, not an object"),
    "a number": (lambda _: b"3", "it is a whole number, not an object"),
    "an empty object": (lambda _: b"{}", "schema_version=None"),
    "a future schema": (_changed(schema_version=4), "schema_version=4, this pdslurm reads 1 to 3; use the version that wrote it"),
    "a schema in words": (_changed(schema_version="3"), "schema_version='3', this"),
    "a schema that is true": (_changed(schema_version=True), "schema_version=True, this"),
    "an unknown field": (_changed(more=1), "it has a field that this pdslurm does not know: more"),
    "no reasons": (_without("invalid_reasons"), "it has no invalid_reasons"),
    "a point without id": (_without("point", "id"), "point has no id"),
    "a point with a rate in words": (_within("point", request_rate="inf"), "point.request_rate is a text, not a number"),
    "a point that is a text": (_changed(point="p"), "point is a text, not an object"),
    "metrics as a list": (_changed(metrics=[]), "metrics is a list, not an object"),
    "a metric in words": (_changed(metrics={"mean_ttft_ms": "fast"}), "metrics.mean_ttft_ms is a text, not a number"),
    "an arm that is a number": (_changed(arm=3), "arm is a whole number, not a text"),
    "valid in words": (_changed(valid="yes"), "valid is a text, not true or false"),
    "completed that is true": (_changed(completed=True), "completed is true or false, not a whole number"),
    "a reason that is a number": (_changed(invalid_reasons=[1]), "invalid_reasons[0] is a whole number, not a text"),
    "another status": (_changed(status="doing"), "status is 'doing', neither done nor failed"),
    "valid and failed": (_changed(status="failed"), "it is valid though it failed"),
    "no time": (_changed(started_at="yesterday"), "started_at is 'yesterday', which is no time"),
    "telemetry as a list": (_changed(telemetry=[]), "telemetry is a list, not an object"),
    "totals as a list": (_changed(telemetry={"totals": []}), "telemetry.totals is a list, not an object"),
    "gpus as a list": (_changed(telemetry={"gpus": [1]}), "telemetry.gpus is a list, not an object"),
    "bins in words": (_changed(distributions={"itl_ms": {"1": "x"}}), "distributions.itl_ms.1 is a text, not a whole number"),
    "a check that is a text": (_changed(checks=["x"]), "checks[0] is a text, not an object"),
    "a check without a name": (_changed(checks=[{"ok": True, "said": ""}]), "checks[0] has no name"),
    "a check that is unsure": (_changed(checks=[{"name": "x", "ok": 1, "said": ""}]), "checks[0].ok is a whole number"),
    "a metric that is NaN": (_changed(metrics={"mean_ttft_ms": float("nan")}), "it is no JSON: NaN is no finite number"),
    "an endless metric": (_changed(metrics={"mean_ttft_ms": float("-inf")}), "it is no JSON: -Infinity is no finite number"),
    "a metric too large for a float": (
        lambda value: _changed(wall_s="X")(value).replace(b'"X"', b"1e999"),
        "1e999 is no finite number",
    ),
    "a number of 400 digits": (_changed(completed=10**400), "it is no JSON: 10000000000000000000… is too large a whole number"),
    "a number over 2**63": (_changed(completed=-(2**63) - 1), "it is no JSON: -9223372036854775809… is too large a whole number"),
    "no metrics": (_changed(metrics={}), "it is valid though it has no metrics"),
    "completed less than none": (_changed(completed=-1), "completed is -1, less than 0"),
    "failed less than none": (_changed(failed=-1), "failed is -1, less than 0"),
    "valid with reasons": (_changed(invalid_reasons=["x"]), "it is valid though it has invalid_reasons"),
    "another source": (_changed(source="guessed"), "source is 'guessed', neither measured nor simulated"),
    "no GPU": (_changed(arm_info={"gpus": 0}), "it is valid though arm_info.gpus is 0"),
    "a raw file that is null": (_changed(provenance={"raw": None}), "it is valid though provenance.raw is null"),
    "a raw file elsewhere": (
        _changed(provenance={"raw": "/raw/a.json.gz"}),
        "its raw file is '/raw/a.json.gz', which is no path below",
    ),
    "a raw file above": (_changed(provenance={"raw": "raw/../../a"}), "which is no path below the run's folder"),
    "a raw file of a long name": (_changed(provenance={"raw": "raw/" + "a" * 300}), "which is no path below the run's folder"),
    "a raw file of a long path": (_changed(provenance={"raw": "raw/" * 2000}), "which is no path below the run's folder"),
    "a raw file with a NUL": (_changed(provenance={"raw": "raw/\0"}), "which is no path below the run's folder"),
    "a raw file of no text": (_changed(provenance={"raw": "raw/\ud800"}), "which is no path below the run's folder"),
    "a length that is not the id's": (_within("point", id="i7-o9-rep0", input_len=8), "point.input_len is 8, by its id 7"),
    "a length that was not ordered": (
        lambda value: _within("point", id="p", output_len=8)({**value, "demand": {"num_prompts": 1, "output_len": 9}}),
        "point.output_len is 8, and 9 was ordered",
    ),
    "a raw file that is a number": (_changed(provenance={"raw": 1}), "provenance.raw is a whole number, not a text"),
}


def broken(path: Path, kind: str) -> str:
    """Writes what `kind` stands for in place of a record; a part of what is said of it."""
    edit, said = RECORDS[kind]
    path.write_bytes(edit(json.loads(path.read_text())))
    return said
