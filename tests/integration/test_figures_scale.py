"""Ten thousand made-up records on disk, request files behind some of them; how long drawing takes, and in how much memory, out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from analysis.load.frame import load_runs
from tests.machine import unit_s
from tests.synthetic import ARMS, Setting, record, requests, write

WITH_FILES = tuple(Setting(rate=rate, input_len=n, prompts=500, sweep="rate") for n in (512, 2048) for rate in (1.0, 4.0, 16.0))
LENGTHS = tuple(
    Setting(input_len=128 * i, output_len=32 * o, prompts=60, sweep="input") for i in range(1, 43) for o in range(1, 21)
)
ENOUGH = 10_000
UNITS = 700.0  # of CPU time, of tests.machine.unit_s: 200 to 300 were measured
LOADING_UNITS = 100.0  # about 30 were measured
MEMORY_MIB = 1024
MEASURED = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[2:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
json.dump([used.ru_utime, used.ru_maxrss], open(sys.argv[1], "w"))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scale")
    write(root / "files", WITH_FILES, repeats=3, timelines=True)
    folder = root / "many" / "points"
    for arm in ARMS:
        (folder / arm.name).mkdir(parents=True)
        for at in LENGTHS:
            made = asdict(record(arm, at, 0, requests(arm, at, 0)))
            for repeat in range(3):
                # The same numbers again: it is their count that matters here. Not by RunFolder.save, which waits for the disk.
                point = {**made["point"], "repeat": repeat, "seed": repeat}
                value = {
                    **made,
                    "point": point,
                    "key": f"{made['key']}{repeat}",
                    "started_at": f"{made['started_at'][:17]}{repeat:02d}{made['started_at'][19:]}",
                }
                (folder / arm.name / f"{at.input_len}-{at.output_len}-{repeat}.json").write_text(json.dumps(value))
    return root


def test_ten_thousand_records_are_loaded_and_drawn_in_time_and_memory(runs: Path, tmp_path: Path) -> None:
    figures = [sys.executable, "-m", "analysis", "figures", str(runs), "--out", str(tmp_path), "--slo", "ttft_ms=500,tpot_ms=50"]
    # by a process of its own: this one has had other children, engines among them
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "used.json"), *figures]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 2 * 17  # PDF and PNG of all but the floor's neighbour, latency by concurrency
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["latency_concurrency"]
    cpu_s, largest_kib = json.loads((tmp_path / "used.json").read_text())
    print({"cpu_s": cpu_s, "unit_s": (unit := unit_s()), "largest_mib": largest_kib / 1024})
    assert cpu_s < UNITS * unit
    assert largest_kib / 1024 < MEMORY_MIB


def test_ten_thousand_records_are_loaded_in_little_time(runs: Path) -> None:
    begun = time.process_time()
    assert len(load_runs([runs])) >= ENOUGH
    assert time.process_time() - begun < LOADING_UNITS * unit_s()
