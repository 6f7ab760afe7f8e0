"""Records in, the trials among them out: what each setting of an arm measured before arms were compared.

They go with the frame, as the notes do, and are no rows of it: a trial chooses a setting and is no result of the comparison."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pdslurm.records.measurement import Measurement
from pdslurm.records.settings import DISAGGREGATED, PLAIN, setting_text

TRIALS = "trials"


@dataclass(frozen=True)
class Trial:
    """Latencies in ms at the 90th percentile, None where they are not known; `rate` in requests/s. `arm`: as the configuration has
    it; `name`: with its setting, as records of the comparison have it. `wrong`: why the measurement is invalid or failed."""

    run: str
    kind: str
    arm: str
    name: str
    setting: str
    round: int
    rate: float | None
    prompts: int
    tpot_ms: float | None
    ttft_ms: float | None
    wrong: str = ""

    @property
    def is_configured(self) -> bool:
        """Whether the arm was tried as it is configured."""
        return self.name == self.arm


def trial(record: Measurement) -> Trial:
    """One record of a trial as a trial."""
    info, point, metrics = record.arm_info, record.point, record.metrics
    return Trial(
        run=record.run,
        kind=DISAGGREGATED if info.get("disaggregated") else PLAIN,
        arm=str(info.get("tuned_arm") or record.arm),
        name=record.arm,
        setting=setting_text((info.get("setting") or {}).items()),
        round=int(point.get("repeat", 0)),
        rate=point.get("request_rate"),
        prompts=int(point.get("num_prompts", 0)),
        tpot_ms=metrics.get("p90_tpot_ms"),
        ttft_ms=metrics.get("p90_ttft_ms"),
        wrong="" if record.valid else "; ".join(record.invalid_reasons) or str(record.error or record.status),
    )


def trials(records: Iterable[Measurement]) -> tuple[Trial, ...]:
    """In the order in which they are read: kind by kind, round by round, the quickest TPOT first."""
    found = [trial(record) for record in records]
    return tuple(sorted(found, key=lambda t: (t.run, t.kind != PLAIN, t.round, t.tpot_ms is None, t.tpot_ms or 0.0)))


def of_frame(frame: pd.DataFrame) -> tuple[Trial, ...]:
    """The trials of the runs that were loaded; none where no arm was tuned."""
    found: Any = frame.attrs.get(TRIALS, ())
    return tuple(found)
