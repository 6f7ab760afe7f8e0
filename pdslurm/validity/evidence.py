"""A record and its request lines in; the evidence that every check of the point looks at, out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pdslurm.records.good_requests import Requests
from pdslurm.records.measurement import Measurement, is_smoke
from pdslurm.validity.demand import Demand, demand_of_record

NO_CLIENT = "the record does not hold the client's result"
NO_REQUESTS = "the file with a line for each request is not there"


@dataclass(frozen=True)
class Evidence:
    """What is known of one point.

    `client` is the benchmark client's result without its lists, {} where the record does not hold it; `metrics` are the record's
    own; `telemetry` is the record's; `requests` is None where the request file is not there; `wall_s` is the whole point's."""

    demand: Demand
    client: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    telemetry: Mapping[str, Any] = field(default_factory=dict)
    requests: Requests | None = None
    itl_bins: Mapping[str, int] = field(default_factory=dict)
    completed: int = 0
    wall_s: float | None = None
    is_smoke: bool = False

    @cached_property
    def engines(self) -> Mapping[str, Mapping[str, Any]]:
        return self.telemetry.get("engines") or {}

    def unless_told(self, why: str) -> str:
        """Why an engine's counters are missing: what its /metrics did during the point where the record tells that, else `why`."""
        return "; ".join(self.no_counters.values()) or why

    @cached_property
    def no_counters(self) -> Mapping[str, str]:
        """Engine → what its /metrics answered in place of counters."""
        found = self.telemetry.get("no_counters") or {}
        return {name: text for name, text in found.items() if name in self.engines}

    def of_role(self, *roles: str) -> list[Mapping[str, Any]]:
        return [engine for engine in self.engines.values() if engine.get("role") in roles]

    @cached_property
    def answered(self) -> Requests | None:
        """The requests that were answered, in the order of their start; None where the file is not there."""
        if self.requests is None:
            return None
        kept = [i for i, ok in enumerate(self.requests["ok"]) if ok == 1]
        return {name: [column[i] for i in kept] for name, column in self.requests.items()}

    @cached_property
    def spans(self) -> list[tuple[float, float]] | None:
        """Begin and end of every request that was answered, s from the first request; None where the file is not there."""
        found = self.answered
        if found is None:
            return None
        return [(start, start + e2el / 1000) for start, e2el in zip(found["start_s"], found["e2el_ms"], strict=True) if e2el >= 0]


def evidence_of(record: Measurement, requests: Requests | None) -> Evidence:
    return Evidence(
        demand=demand_of_record(record),
        client=record.provenance.get("client") or {},
        metrics=record.metrics,
        telemetry=record.telemetry,
        requests=requests,
        itl_bins=record.distributions.get("itl_ms") or {},
        completed=record.completed or 0,
        wall_s=record.wall_s or None,
        is_smoke=is_smoke(record),
    )
