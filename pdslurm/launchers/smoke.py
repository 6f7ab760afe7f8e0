"""The records of a run with workload=smoke in; a line for each arm that says what worked, or what would have gone wrong, out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pdslurm.errors import SmokeFailed
from pdslurm.records.measurement import Check, Measurement, is_smoke

NOT_REACHED = "sent no request: the run ended before, and its error says why"
NOTHING = "smoke: workload=smoke measures nothing, so no number of this run is a result"


def smoke_text(arms: Sequence[str], records: Iterable[Measurement]) -> str:
    """Of every arm its latest record counts. Empty where no arm has one: the error that ended the run says it all then."""
    latest = latest_of(records)
    if not latest:
        return ""
    said = (arm_line(latest[arm]) if arm in latest else f"{arm} {NOT_REACHED}" for arm in arms)
    return "\n".join([*(f"smoke: {line}" for line in said), NOTHING, ""])


def latest_of(records: Iterable[Measurement]) -> dict[str, Measurement]:
    """The latest record with workload=smoke of each arm that has one."""
    latest: dict[str, Measurement] = {}
    for record in records:
        known = latest.get(record.arm)
        if is_smoke(record) and (known is None or record.started_at >= known.started_at):
            latest[record.arm] = record
    return latest


def check(arms: Sequence[str], records: Iterable[Measurement]) -> None:
    """Raises SmokeFailed where an arm has no valid record, so that a script sees what smoke_text says."""
    latest = latest_of(records)
    if failed := [arm for arm in arms if arm not in latest or not latest[arm].valid]:
        raise SmokeFailed(failed, len(arms))


def arm_line(record: Measurement) -> str:
    if record.status == "failed":
        return f"{record.arm} would have FAILED: {first_line(record.error)}"
    if not record.valid:
        return f"{record.arm} would have been INVALID: {'; '.join(record.invalid_reasons)}"
    unsure = [f"{check.name} ({check.said})" for check in record.checks if check.unverified]
    end = f"it would have been unverified in {'; '.join(unsure)}" if unsure else "nothing would have gone wrong"
    return f"{record.arm} served {record.completed} of {record.point.get('num_prompts')} requests{''.join(_kv(record))}; {end}"


def _kv(record: Measurement) -> Iterator[str]:
    """What is known of the KV cache's way and of the text that came of it."""
    checks = {check.name: check for check in record.checks}
    if _is_ok(checks.get("transport")):
        kinds = (record.telemetry.get("transport") or {}).get("kinds") or ()
        yield f", its KV moved over {', '.join(kinds)} ({', '.join(dict.fromkeys(_lanes(record)))})"
    if _is_ok(checks.get("text")):
        yield ", its text is a plain instance's"


def _lanes(record: Measurement) -> Iterator[str]:
    """The transports as UCX and libfabric name them, such as cuda_ipc and rc_mlx5."""
    for ways in ((record.telemetry.get("transport") or {}).get("engines") or {}).values():
        for way in ways or ():
            yield from (lane.removeprefix("libfabric/").partition("/")[0] for lane in way["lanes"])


def _is_ok(check: Check | None) -> bool:
    return check is not None and check.ok is True


def first_line(text: str | None) -> str:
    return next((line.strip() for line in (text or "").splitlines() if line.strip()), "no reason is stored")
