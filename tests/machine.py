"""What a fixed piece of work costs this machine now, so that a bound on CPU time holds on a slow and busy one too."""

from __future__ import annotations

import json
import time

RECORDS = json.dumps([{"a": number, "b": [number] * 10, "c": str(number)} for number in range(100_000)])


def unit_s() -> float:
    """CPU seconds that reading 100,000 small records takes by the slowest of three tries. It makes many objects, which is what is
    slow on a machine that others share: 0.15 s on a quiet one, and 0.5 s on one where additions were as quick as ever."""
    return max(_read_s() for _ in range(3))


def _read_s() -> float:
    begun = time.process_time()
    json.loads(RECORDS)
    return time.process_time() - begun
