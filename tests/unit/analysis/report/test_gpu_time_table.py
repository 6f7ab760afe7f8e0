"""Run folders in, the table of what the time of their GPUs went to out."""

from __future__ import annotations

from pathlib import Path

from analysis.report.gpu_time_table import gpu_time_table
from tests.unit.records.test_gpu_time import CLIENT_FACTS, point, ready, write


def test_no_folder_with_events_no_table(tmp_path: Path) -> None:
    assert gpu_time_table([tmp_path]) == ""


def test_the_table_says_what_took_the_rest_where_less_than_80_percent_was_measuring(tmp_path: Path) -> None:
    enough = [point("a", 100, 24.0, 0, {"client_wall_s": 21.0, "prompts_s": 0.5})]
    little = [point("b", 220, 24.0, 0, CLIENT_FACTS)]
    run = write(tmp_path, [ready("a", 99.5, 60.0), ready("b", 210, 61.0)], [*enough, *little])
    assert gpu_time_table([run.path]).splitlines()[1:] == [
        "arm set  loads  loading s  ready to last point s  measuring",
        "a            1         60                     24        82%",
        "b            1         61                     34        59%",
        "b: less than 80% measuring; the rest: other 29%, the client's start and end 6%, prompts 3%, counters 3%",
    ]
