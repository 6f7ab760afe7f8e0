"""What was measured with earlier versions, in results/, is still read, found by its content key, and not measured again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from analysis.load.frame import load_runs
from pdslurm.config import Config, from_dict
from pdslurm.errors import ConfigError
from pdslurm.launchers.run import run_path
from pdslurm.measure.schedule import Schedule
from pdslurm.plan.outline import make_outline
from pdslurm.plan.tasks import Tasks
from pdslurm.records.run_folder import RunFolder

RESULTS = Path(__file__).parents[3] / "results"
RUNS = sorted(path.parent for path in RESULTS.glob("*/*/config.yaml"))


def config_of(run: Path) -> Config:
    return from_dict(yaml.safe_load((run / "config.yaml").read_text()))


def test_there_are_runs() -> None:
    assert {run.relative_to(RESULTS).as_posix() for run in RUNS} >= {"h100x2/should_i", "h200x4/tokenizer_trial"}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_its_records_are_read(run: Path) -> None:
    records = list(RunFolder(run).records())
    assert len(records) == len(list(run.glob("points/*/*.json"))) == len(load_runs([run])) > 0
    for record in records:
        assert not record.valid or record.metrics["duration_s"], "a valid record has numbers"


def test_the_trial_whose_tokenizer_held_tokens_up_is_withdrawn_and_still_loads() -> None:
    frame = load_runs([RESULTS])
    withdrawn = {Path(str(folder)).name: set(some) for folder, some in frame.groupby("folder")["withdrawn"]}
    assert {name for name, some in withdrawn.items() if some != {""}} == {"tokenizer_trial"}
    (why,) = withdrawn["tokenizer_trial"]
    assert "outside the engines" in why
    assert (frame["withdrawn"] != "").sum() == 5


def test_the_request_files_of_before_are_found() -> None:
    run = RunFolder(RESULTS / "h100x2" / "should_i")
    assert all(run.beside_raw(record, "requests").is_file() for record in run.records())


def test_a_run_of_before_goes_on_where_it_was() -> None:
    """Every record has the key that its task has today: a valid one is done, an invalid one keeps its place beside the next."""
    run = RESULTS / "h100x2" / "should_i"
    config = config_of(run)
    versions = json.loads((run / "versions.json").read_text())["engine"]
    symbolic = make_outline(config).deployment
    tasks = Tasks(symbolic, symbolic, versions)
    schedule = Schedule(tasks, RunFolder(run))
    arms = {arm.arm.name: arm for arm in tasks.deployment.arms}
    points = {point.id: point for point in tasks.deployment.plan.points}
    records = list(RunFolder(run).records())
    assert [tasks.of(arms[r.arm], points[r.point["id"]]).key for r in records] == [r.key for r in records]
    assert schedule.done() == sum(record.valid for record in records)
    assert not {(t.arm.arm.name, t.point.id) for arm in schedule.arms for t in schedule.open_tasks(arm)} & {
        (r.arm, r.point["id"]) for r in records if r.valid
    }


def test_the_same_command_finds_the_same_folder() -> None:
    """The folder of a run that names none is made from what is measured: a name for it that changed would lose every run."""
    config = config_of(RESULTS / "h100x2" / "should_i")
    config.run_dir = None
    assert run_path(config).name == "should_i-f6b17c4b"


def test_a_configuration_of_before_that_is_refused_says_what_took_its_place() -> None:
    with pytest.raises(ConfigError, match=r"use the configuration's workload\.prefix_caching"):
        make_outline(config_of(RESULTS / "h200x4" / "tokenizer_trial"))
