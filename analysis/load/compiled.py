"""A run's folder in; for how long the engines of an arm set compiled while they loaded, as vLLM says in its log, out."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

# `init engine (profile, create kv cache, warmup model) took 56.13 s (compilation: 23.84 s)`: vLLM 0.24 and 0.32, v1/engine/core.py;
# without what is in brackets where nothing was compiled
LOADED = re.compile(r"init engine \(.*\) took [\d.]+ s(?: \(compilation: (?P<compiled_s>[\d.]+) s)?")


def compiled_s(folder: Path, arm_set: str) -> float | None:
    """Seconds over all loads of the set, of the engine that compiled longest, for engines load side by side; None where no log
    tells. An engine has a log for each load: engine0.log, engine0.2.log."""
    by_engine: dict[str, float] = defaultdict(float)
    for log in sorted((folder / "logs" / arm_set).glob("*.log")):
        if said := _loaded(log):
            by_engine[log.name.partition(".")[0]] += float(said["compiled_s"] or 0)
    return max(by_engine.values(), default=None)


def _loaded(log: Path) -> re.Match[str] | None:
    """The line of a load that came to its end; None where there is none, or the log cannot be read."""
    try:
        with log.open(errors="replace") as lines:
            return next(filter(None, map(LOADED.search, lines)), None)
    except OSError:
        return None
