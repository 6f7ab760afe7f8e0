"""A record's file in, a Measurement out; or NoRecord, which says why the file is no record that pdslurm can use."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import MISSING, fields
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from pdslurm.errors import ResultsError
from pdslurm.records import shapes
from pdslurm.records.measurement import READABLE, Check, Measurement

SHAPES = {"point": shapes.Point, "arm_info": shapes.ArmInfo, "telemetry": shapes.Telemetry, "provenance": shapes.Provenance}
SOURCES = ("measured", "simulated")
LARGEST = 2**63  # no whole number of a record comes near it
MAX_NAME, MAX_PATH = 255 - len(".requests.csv.gz"), 1024  # bytes; names of the files behind a record get that end


class NoRecord(ResultsError):
    """A file among records that is none: cut short, of another schema or of another shape."""

    def __init__(self, path: Path, why: str) -> None:
        self.path, self.why = path, why
        super().__init__(f"{path} is no record that pdslurm can read ({why})")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.why)


def load_record(path: Path) -> Measurement:
    """Reads one record, every field of the type that Measurement gives it. Raises NoRecord."""
    value = _object(path)
    version = value.pop("schema_version", None)
    if type(version) is not int or version not in READABLE:
        known = f"{READABLE[0]} to {READABLE[-1]}"
        raise NoRecord(path, f"schema_version={version!r}, this pdslurm reads {known}; use the version that wrote it")
    if why := _problem(value):
        raise NoRecord(path, why)
    value["invalid_reasons"] = tuple(value["invalid_reasons"])
    value["checks"] = tuple(Check(**check) for check in value.get("checks", ()))
    return Measurement(**value)


def named_kind(record: Measurement, path: Path) -> str:
    """What a record's folder and name say that it is: valid, invalid or failed; "other" where they are not the record's own, as
    those of a copy."""
    stem = re.escape(f"{record.point['id']}-{record.key}")
    end = re.fullmatch(rf"{stem}(?:\.(failed|invalid)(?:-\d+)?)?\.json", path.name)
    return "other" if end is None or path.parent.name != record.arm else end[1] or "valid"


def _object(path: Path) -> dict[str, Any]:
    """The JSON of the file, an object."""
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_no_number)
    except OSError as error:
        raise NoRecord(path, f"it cannot be opened: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise NoRecord(path, f"it is no text: byte {error.start} is no UTF-8") from error
    except json.JSONDecodeError as error:
        raise NoRecord(path, _where(error)) from error
    except (ValueError, RecursionError) as error:
        raise NoRecord(path, f"it is no JSON: {error}") from error
    if why := shapes.misfit(value, dict[str, Any], "it"):
        raise NoRecord(path, why)
    found: dict[str, Any] = value
    return found


def _whole(text: str) -> int:
    if len(text) > len(str(-LARGEST)) or abs(number := int(text)) > LARGEST:
        raise ValueError(f"{text[:20]}… is too large a whole number")
    return number


def _finite(text: str) -> float:
    return number if math.isfinite(number := float(text)) else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is no finite number")


def _where(error: json.JSONDecodeError) -> str:
    if not error.doc.strip():
        return "it is empty"
    is_cut = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")
    return f"its JSON ends at character {len(error.doc)}" if is_cut else f"it is no JSON from character {error.pos} on"


def _problem(value: dict[str, Any]) -> str | None:
    """What is wrong with the record's fields."""
    known = {each.name: each for each in fields(Measurement)}
    needed = {name for name, each in known.items() if each.default is MISSING and each.default_factory is MISSING}
    if more := sorted(value.keys() - known.keys()):
        return f"it has a field that this pdslurm does not know: {more[0]}"
    if missing := [name for name in known if name in needed - value.keys()]:
        return f"it has no {missing[0]}"
    kinds = {**shapes.hints(Measurement), **SHAPES, "checks": list[dict[str, Any]]}
    for name, each in value.items():
        if why := shapes.misfit(each, kinds[name], name):
            return why
    return (
        _status_problem(value)
        or _count_problem(value)
        or _raw_problem(value)
        or _length_problem(value["point"], value.get("demand", {}))
        or _time_problem(value["started_at"])
        or _check_problem(value.get("checks", ()))
        or (_valid_problem(value) if value["valid"] else None)
    )


def _time_problem(text: str) -> str | None:
    try:
        datetime.fromisoformat(text or "2026-01-01")
    except ValueError:
        return f"started_at is {text!r}, which is no time"
    return None


def _status_problem(value: dict[str, Any]) -> str | None:
    if value["status"] not in ("done", "failed"):
        return f"status is {value['status']!r}, neither done nor failed"
    if value["source"] not in SOURCES:
        return f"source is {value['source']!r}, neither {' nor '.join(SOURCES)}"
    return "it is valid though it failed" if value["valid"] and value["status"] == "failed" else None


def _count_problem(value: dict[str, Any]) -> str | None:
    wrong = next((name for name in ("completed", "failed") if (value.get(name) or 0) < 0), None)
    return f"{wrong} is {value[wrong]}, less than 0" if wrong else None


def _raw_problem(value: dict[str, Any]) -> str | None:
    """What is wrong with the path below the run's folder that the names of the files behind the record are made from."""
    raw = value.get("provenance", {}).get("raw") or f"raw/{value['arm']}/{value['point']['id']}-{value['key']}.json.gz"
    said = f"its raw file is {raw[:60]!r}, which is no path below the run's folder"
    try:
        whole = os.fsencode(raw.removesuffix(".json.gz"))
    except UnicodeEncodeError:
        return said
    is_short = len(whole) <= MAX_PATH and all(len(name) <= MAX_NAME for name in whole.split(b"/"))
    path = PurePosixPath(raw)
    return None if is_short and b"\0" not in whole and not path.is_absolute() and ".." not in path.parts else said


def _valid_problem(value: dict[str, Any]) -> str | None:
    """What a valid record cannot say."""
    if value["invalid_reasons"]:
        return "it is valid though it has invalid_reasons"
    if (gpus := value["arm_info"].get("gpus")) is not None and gpus <= 0:
        return f"it is valid though arm_info.gpus is {gpus}"
    if value["source"] == "measured" and not value.get("metrics"):
        return "it is valid though it has no metrics"
    if value["source"] == "measured" and value.get("provenance", {}).get("raw", "") is None:
        return "it is valid though provenance.raw is null"
    return None


def _length_problem(point: dict[str, Any], demand: dict[str, Any]) -> str | None:
    """Where the point's lengths are not those of its id, `i512-o256-…`, or of what was ordered; 0 is the data set's own length."""
    named = re.match(r"(?:i(\d{1,18})-)?(?:o(\d{1,18})-)?r", point["id"])
    for n, name in enumerate(("input_len", "output_len"), 1):
        have, of_id = point.get(name), named and named[n]
        if have is None:
            continue
        if of_id and have != int(of_id):
            return f"point.{name} is {have}, by its id {of_id}"
        if demand.get(name) not in (None, 0, have):
            return f"point.{name} is {have}, and {demand[name]} was ordered"
    return None


def _check_problem(checks: Any) -> str | None:
    known = shapes.hints(Check)
    for n, check in enumerate(checks):
        if wrong := sorted({"name", "ok", "said"} - check.keys()) or sorted(check.keys() - known.keys()):
            return f"checks[{n}] has {'no' if wrong[0] not in check else 'an unknown'} {wrong[0]}"
        if why := next(filter(None, (shapes.misfit(each, known[key], f"checks[{n}].{key}") for key, each in check.items())), None):
            return why
    return None
