"""A record's file in, a Measurement out; or NoRecord, which says why the file is no record that pdslurm can use."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from pdslurm.errors import ResultsError
from pdslurm.records import shapes
from pdslurm.records.measurement import READABLE, Check, Measurement

SHAPES = {"point": shapes.Point, "arm_info": shapes.ArmInfo, "telemetry": shapes.Telemetry, "provenance": shapes.Provenance}


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
        value = json.loads(text)
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
    return _status_problem(value) or _time_problem(value["started_at"]) or _check_problem(value.get("checks", ()))


def _time_problem(text: str) -> str | None:
    try:
        datetime.fromisoformat(text or "2026-01-01")
    except ValueError:
        return f"started_at is {text!r}, which is no time"
    return None


def _status_problem(value: dict[str, Any]) -> str | None:
    if value["status"] not in ("done", "failed"):
        return f"status is {value['status']!r}, neither done nor failed"
    return "it is valid though it failed" if value["valid"] and value["status"] == "failed" else None


def _check_problem(checks: Any) -> str | None:
    known = shapes.hints(Check)
    for n, check in enumerate(checks):
        if wrong := sorted({"name", "ok", "said"} - check.keys()) or sorted(check.keys() - known.keys()):
            return f"checks[{n}] has {'no' if wrong[0] not in check else 'an unknown'} {wrong[0]}"
        if why := next(filter(None, (shapes.misfit(each, known[key], f"checks[{n}].{key}") for key, each in check.items())), None):
            return why
    return None
