"""The planted lies are what they say: each changes the records that it names, and its copy of the run, and nothing of results/."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.unit.validity.planted import LIES, UNSEEN, VERDICT, Lie, Point, copy_run, points, second

RUN = Path(__file__).parents[3] / "results" / "h100x2" / "should_i"


def hashes(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
def test_a_lie_changes_the_records_that_it_names(lie: Lie, tmp_path: Path) -> None:
    folder = copy_run(RUN, tmp_path / "run", raw=lie.raw)
    before = hashes(folder)
    edited = lie.plant(folder)
    assert all(path.is_file() for path in edited)
    assert edited or lie.outcome == VERDICT
    if edited:
        assert hashes(folder) != before or second(folder)
    assert lie.why


def test_names_are_unique_and_what_cannot_be_seen_is_said() -> None:
    assert len({lie.name for lie in LIES}) == len(LIES) > 70
    assert {lie.name for lie in LIES if lie.outcome == UNSEEN} == {
        "latencies dealt to other requests",
        "TTFT of one arm lower by 3 ms everywhere at the client",
        "the client was the bottleneck and says 0",
        "a whole arm is simulated",
    }


def test_a_summary_made_from_honest_lines_is_the_summary(tmp_path: Path) -> None:
    """Else each consistent lie would be caught for its own bad arithmetic."""
    folder = copy_run(RUN, tmp_path / "run")
    for path in [point.path for point in points(folder)]:
        honest, again = Point.read(path), Point.read(path)
        again.restate()
        assert again.metrics == pytest.approx(honest.metrics, rel=0.015)  # the client ends up to 0.2 s after the last answer
        assert again.client["decode_s"] == pytest.approx(honest.client["decode_s"], rel=1e-3)
        assert again.client["decode_tokens"] == honest.client["decode_tokens"]
