"""A trace or lines of JSON in, rows out; before a run to check them, and in the benchmark client to send them.

Standard library only: it runs in the engine's environment, too."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """A request of a trace."""

    at_s: float  # after the first one's
    input_len: int
    output_len: int
    hash_ids: tuple[Any, ...] = ()


def read_trace(trace: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of a .csv or .jsonl file, whose columns `trace` names; those without input or output are failures of what was traced
    and left out. Raises ValueError naming the line and the column."""
    first: float | None = None
    last = -math.inf
    for line, row in _rows(Path(trace["path"])):
        try:
            at = seconds(row[trace["timestamp"]]) * trace["seconds"]
            lengths = int(row[trace["input_len"]]), int(row[trace["output_len"]])
        except KeyError as missing:
            raise ValueError(f"line {line} has no column {missing}; it has {', '.join(map(str, row))}") from None
        except (TypeError, ValueError) as bad:
            raise ValueError(f"line {line}: {bad}") from None
        if at < last:
            raise ValueError(f"line {line}: its time is before that of the line above; sort the file by {trace['timestamp']}")
        last = at
        if min(lengths) < 1:
            continue
        first = at if first is None else first
        ids = row.get(trace["hash_ids"]) or ()
        yield Row(at - first, *lengths, tuple(ids.split() if isinstance(ids, str) else ids))  # a .csv has them apart by blanks


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if path.suffix != ".csv":
        yield from json_lines(path)
        return
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from enumerate(csv.DictReader(file), 2)


def json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line, object) of a .jsonl file; empty lines are passed over. Raises ValueError naming the line."""
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            try:
                row = json.loads(text) if text.strip() else {}
            except ValueError as bad:
                raise ValueError(f"line {number} is not JSON ({bad})") from None
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no JSON object")
            if row:
                yield number, row


def seconds(value: Any) -> float:
    """A number, or a date and time."""
    try:
        return float(value)
    except ValueError:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()  # noqa: UP017
