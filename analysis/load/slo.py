"""Words of the command line or a run's config.yaml in, a service level objective out: bounds that each request must keep."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pdslurm.errors import ResultsError
from pdslurm.records.good_requests import LIMITED

Slo = Mapping[str, float]  # one of LIMITED → its bound in ms
SHARE = 0.9  # of a point's requests that have to be good, where the run's configuration does not say
EXAMPLE = "ttft_ms=500,tpot_ms=50"


def parse(text: str) -> Slo:
    """`ttft_ms=500,tpot_ms=50`. Raises ResultsError naming what is not a bound."""
    return checked((part.partition("=")[::2] for part in text.split(",")), f"slo={text}")


def of_runs(folders: Iterable[str]) -> Slo | None:
    """The SLO that the runs' config.yaml name, None where none does. Raises ResultsError when they name different ones, also in the
    share of requests that has to be good."""
    named = {folder: slo for folder in folders if (slo := of_config(Path(folder) / "config.yaml"))}
    shares = {folder: float(scalar_of_runs([folder], "slo", "share") or SHARE) for folder in named}
    if len({(*sorted(slo.items()), shares[folder]) for folder, slo in named.items()}) > 1:
        said = "; ".join(f"{folder}: {slo_text(slo)}, of {shares[folder]:.3g} of the requests" for folder, slo in named.items())
        raise ResultsError(f"slo: the runs' config.yaml name different ones ({said}); give --slo {EXAMPLE}")
    return next(iter(named.values()), None)


def of_config(path: Path) -> Slo | None:
    """The bounds under `slo` in a config.yaml as pdslurm writes it, a scalar a line. (Figures must be possible on a laptop that has
    no YAML parser.) None where there is no such key, or no bound under it."""
    if not path.is_file():
        return None
    block = re.search(r"^slo:\n((?: +.*\n?)+)", _whole_lines(path), re.MULTILINE)
    lines = re.findall(r"^  (\w+_ms): (\S+)$", block[1], re.MULTILINE) if block else []
    given = [(name, value) for name, value in lines if value not in ("null", "~")]
    return checked(given, str(path)) if given else None


def _whole_lines(path: Path) -> str:
    """The text up to its last whole line: half a number at the end of a file that was cut short would be another number."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return text[: text.rfind("\n") + 1]


def scalar_of_runs(folders: Iterable[str], block: str, name: str) -> str | None:
    """`name` under `block` in the first run's config.yaml that has it; None where none has, or it is null."""
    for folder in folders:
        path = Path(folder) / "config.yaml"
        text = _whole_lines(path) if path.is_file() else ""
        found = re.search(rf"^{block}:\n(?: +.*\n)*?  {name}: (\S+)$", text, re.MULTILINE)
        if found and found[1] not in ("null", "~"):
            return found[1]
    return None


def smallest_difference_of_runs(folders: Iterable[str], usual: float) -> float:
    """`slo.smallest_difference` of the runs' config.yaml, `usual` for those that do not name it. Raises ResultsError when they name
    different ones, or one that is none."""
    named = {folder: _smallest_difference(folder, usual) for folder in folders}
    if len(set(named.values())) > 1:
        said = "; ".join(f"{folder}: {value:g}" for folder, value in named.items())
        raise ResultsError(f"slo.smallest_difference: the runs' config.yaml name different ones ({said}); give runs that name one")
    return next(iter(named.values()), usual)


def _smallest_difference(folder: str, usual: float) -> float:
    text = scalar_of_runs([folder], "slo", "smallest_difference")
    try:
        value = usual if text is None else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        where = f"{Path(folder) / 'config.yaml'}: slo.smallest_difference={text}"
        raise ResultsError(f"{where}: must be a number, at least 0 and below 1, as 0.05 for 5 %")
    return value


def checked(given: Iterable[tuple[str, str]], where: str) -> Slo:
    """The bounds as numbers."""
    out = {}
    for name, value in given:
        try:
            out[name.strip()] = bound = float(value)
        except ValueError:
            bound = 0.0
        if name.strip() not in LIMITED or not 0 < bound < float("inf"):
            allowed = f"a bound in ms above 0 for one or more of {', '.join(LIMITED)}"
            raise ResultsError(f"{where}: {name.strip()}={value} is no bound; give {allowed}, as in {EXAMPLE}")
    return out


def slo_text(slo: Slo) -> str:
    """`TTFT at most 500 ms, TPOT at most 50 ms`."""
    words = {"itl_max_ms": "longest gap between chunks (ITL)", "e2el_ms": "E2E"}
    return ", ".join(f"{words.get(name, name.removesuffix('_ms').upper())} at most {bound:g} ms" for name, bound in slo.items())
