"""What a point was to be, as far as its checks compare with it; and the same from a record that does not say it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pdslurm.records.measurement import Measurement

UNEVEN = ("trace", "ramp")  # words of a load whose arrivals are not meant to be even


@dataclass(frozen=True)
class Demand:
    """What was ordered of one point on one arm. It stands in the record, so that today's rules can be asked of it again."""

    num_prompts: int
    input_len: int = 0  # tokens of each prompt; 0: as the data set has it
    output_len: int = 0  # tokens of each answer; 0: as the data set has it
    request_rate: float | None = None  # requests/s; None: all at once
    max_concurrency: int | None = None
    duration_s: float | None = None  # for how long requests were sent; None: until num_prompts were
    even: bool = True  # arrivals at that rate from beginning to end, not ramped up nor from a trace
    stream: bool = True  # false: only whole answers are seen, without the times of their tokens
    prefix_hit_rate: float | None = 0.0  # of prompt tokens, the most that can hit if the cache is empty before; None: not known
    disaggregated: bool = False  # prefill and decode on instances of their own
    nixl: bool = False  # KV has to move by NIXL
    transport: str = "any"
    kv_bytes_per_token: float | None = None  # over all ranks of a decode instance, in the dtype that its engine tells
    kv_ranks: int = 1  # of a decode instance: each fetches its own part
    kv_unknown: str = ""  # why kv_bytes_per_token is not known
    policies: Mapping[str, str] = field(default_factory=dict)  # role → the router's policy among its instances
    gpus: bool = False  # whether engines run on GPUs
    gpu_count: float | None = None  # GPUs that the arm's results are divided by
    strict: bool = False  # what cannot be verified counts as invalid

    @property
    def is_burst(self) -> bool:
        """Whether all requests are sent at once."""
        bound = self.max_concurrency
        return self.request_rate is None and self.even and not self.duration_s and (bound is None or bound >= self.num_prompts)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def demand_of_record(record: Measurement) -> Demand:
    """The demand that a record carries. One of schema 1 or 2 carries none; there it is put together from the point, the arm, and
    the evidence of the checks that were stored."""
    if record.demand:
        known = {f.name for f in fields(Demand)}
        return Demand(**{name: value for name, value in record.demand.items() if name in known})
    point, client = record.point, record.provenance.get("client") or {}
    stored = {check.name: check for check in record.checks}
    load = str(point.get("load", "random"))
    kv, nixl, moved = (
        _evidence(stored, "kv_bytes"),
        _evidence(stored, "nixl"),
        (record.telemetry.get("totals") or {}).get("nixl_bytes"),
    )
    disaggregated = bool(record.arm_info.get("disaggregated"))
    duration_s = point.get("duration_s")
    return Demand(
        num_prompts=(client.get("asked") or 0) if duration_s else point.get("num_prompts") or 0,
        input_len=point.get("input_len") or 0,
        output_len=point.get("output_len") or 0,
        request_rate=point.get("request_rate"),
        max_concurrency=point.get("max_concurrency"),
        duration_s=duration_s,
        even=not any(word in load for word in UNEVEN),
        stream="--pdslurm-no-stream" not in (record.provenance.get("bench_args") or ()),
        prefix_hit_rate=_evidence(stored, "prefix_cache").get("expected", 0.0 if load == "random" else None),
        disaggregated=disaggregated,
        nixl=bool(nixl) if stored else disaggregated and moved is not None,
        transport=str(_evidence(stored, "transport").get("asked", "any")),
        kv_bytes_per_token=kv.get("bytes_per_token"),
        kv_ranks=int(nixl.get("ranks") or 1),
        kv_unknown=stored["kv_bytes"].said if "kv_bytes" in stored and stored["kv_bytes"].ok is None else "",
        policies=_evidence(stored, "workers").get("policies") or {},
        gpus=bool(record.telemetry.get("gpus")) or ("clocks" in stored and stored["clocks"].said != "no GPU"),
        gpu_count=record.arm_info.get("gpus"),
    )


def _evidence(stored: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return stored[name].evidence if name in stored else {}
