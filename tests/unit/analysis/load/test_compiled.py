"""Engines' logs in, for how long they compiled and what is said of it out."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from analysis.load.compiled import compiled_s
from analysis.stats.diagnosis import compiling

H100 = Path(__file__).parents[4] / "results" / "h100x2" / "should_i"
CORE = "(EngineCore pid=1) INFO 11-25 05:55:55 [core.py:337] init engine (profile, create kv cache, warmup model) took"


def log(folder: Path, name: str, *lines: str) -> None:
    path = folder / "logs" / "tp" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in ("starting", *lines)))


def load(folder: Path, load_s: float, *, loads: int = 1) -> None:
    said = [
        {"at": f"2026-11-25T0{i}:00:00.000+00:00", "event": "tp: 2 instance(s) ready after", "set": "tp", "load_s": load_s}
        for i in range(loads)
    ]
    (folder / "events.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in said))


def test_engines_load_side_by_side_and_once_for_each_log(tmp_path: Path) -> None:
    log(tmp_path, "engine0.log", f"{CORE} 56.13 s (compilation: 20.50 s)")
    log(tmp_path, "engine0.2.log", f"{CORE} 46.13 s (compilation: 10.25 s — language_model: 9.00 s, encoder: 1.25 s)")
    log(tmp_path, "engine1.log", f"{CORE} 56.13 s (compilation: 24.00 s)")
    log(tmp_path, "engine1.2.log", f"{CORE} 6.04 s")
    log(tmp_path, "tp-router.log")
    assert compiled_s(tmp_path, "tp") == 30.75
    assert compiled_s(tmp_path, "another") is None


def test_an_engine_that_never_got_ready_tells_nothing(tmp_path: Path) -> None:
    log(tmp_path, "engine0.log", "torch.compile took 23.84 s in total")
    (tmp_path / "logs" / "tp" / "engine1.log").mkdir()  # nor does one that cannot be read
    assert compiled_s(tmp_path, "tp") is None


@pytest.mark.parametrize(("load_s", "named"), [(395.0, True), (518.0, True), (519.0, False)])
def test_compile_time_is_named_from_half_of_the_loading_on(tmp_path: Path, load_s: float, named: bool) -> None:
    """259 of 395 s were seen on two H100s with tensor parallelism over both, from a cold cache."""
    log(tmp_path, "engine0.log", f"{CORE} 300.00 s (compilation: 259.00 s)")
    load(tmp_path, load_s)
    found = list(compiling(tmp_path))
    assert len(found) == named
    for each in found:
        assert (each.arm, each.ailment, each.where, each.option) == ("tp", "compile time", "in 1 load", "")
        assert f"259 of the {load_s:.0f} s" in each.evidence


def test_nothing_is_said_without_logs_or_loads(tmp_path: Path) -> None:
    load(tmp_path, 395.0)
    assert list(compiling(tmp_path)) == []
    log(tmp_path, "engine0.log", f"{CORE} 300.00 s (compilation: 259.00 s)")
    (tmp_path / "events.jsonl").unlink()
    assert list(compiling(tmp_path)) == []


def test_the_published_loads_compiled_for_a_fifth_of_their_time(tmp_path: Path) -> None:
    with tarfile.open(H100 / "logs.tar.xz") as logs:
        logs.extractall(tmp_path / "logs", filter="data")
    (tmp_path / "events.jsonl").write_bytes((H100 / "events.jsonl").read_bytes())
    assert compiled_s(tmp_path, "route_2") == 23.86
    assert compiled_s(tmp_path, "pd_1p1d") == 24.03
    assert list(compiling(tmp_path)) == []
