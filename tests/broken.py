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
    "a raw file that is a number": (_changed(provenance={"raw": 1}), "provenance.raw is a whole number, not a text"),
}


def broken(path: Path, kind: str) -> str:
    """Writes what `kind` stands for in place of a record; a part of what is said of it."""
    edit, said = RECORDS[kind]
    path.write_bytes(edit(json.loads(path.read_text())))
    return said
