"""What YAML makes of a variable's value: the sentence that a user reads where it is not what was written, else the text itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from pdslurm import __main__ as program
from pdslurm.config import register, to_config
from pdslurm.plan.checks.spelling import problems
from tests.unit.plan.test_golden import ROOT

ENV = "must be text, and YAML reads"
QUOTES = "write what you mean in quotes, such as"


@contextmanager
def composed(site: str, folder: Path, *overrides: str) -> Iterator[DictConfig]:
    """A cluster's file, which is a user's own, and more words of the command line; Hydra's part of it is taken out."""
    (folder / "cluster").mkdir()
    (folder / "cluster" / "mine.yaml").write_text(f"defaults: [laptop]\n{site}\n")
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        words = ["experiment=demo", "cluster=mine", "launcher=plan", f"hydra.searchpath=[file://{folder}]", *overrides]
        cfg = compose("config", words, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        try:
            with open_dict(cfg):
                del cfg["hydra"]
            yield cfg
        finally:
            HydraConfig.instance().cfg = None


def found(cfg: DictConfig) -> list[str]:
    return list(problems(cfg, HydraConfig.get(), GlobalHydra.instance().config_loader()))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("010", "8"), ("1:30", "90"), ("0x10", "16"), ("1_000", "1000"), ("+5", "5"), ("on", "True"), ("no", "False"),
        ("true", "True"), ("1e3", "1000.0"), ("1.5", "1.5"), (".inf", "inf"), ("", "None"), ("null", "None"),
    ],
)  # fmt: skip
def test_a_file_s_value_that_yaml_changes(text: str, read: str, tmp_path: Path) -> None:
    with composed(f"env: {{MINE: {text}}}", tmp_path) as cfg:
        assert found(cfg) == [f'cluster.env.MINE={text}: {ENV} {read}; {QUOTES} "{text}"']


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("+cluster.env.MINE=1e3", f"cluster.env.MINE=1e3: {ENV} 1000.0; {QUOTES} '+cluster.env.MINE=\"1e3\"'"),
        ("++runtime.env.MINE=true", f"runtime.env.MINE=true: {ENV} True; {QUOTES} '++runtime.env.MINE=\"true\"'"),
        ("+runtime.env.MINE=1_000", f"runtime.env.MINE=1_000: {ENV} 1000; {QUOTES} '+runtime.env.MINE=\"1_000\"'"),
        ("+runtime.env={MINE: 1.5}", f'runtime.env.MINE=1.5: {ENV} 1.5; {QUOTES} "1.5"'),
        ("+cluster={env: {MINE: [1]}}", f'cluster.env.MINE=[1]: {ENV} [1]; {QUOTES} "[1]"'),
    ],
)
def test_a_value_of_the_command_line(word: str, said: str, tmp_path: Path) -> None:
    with composed("", tmp_path, word) as cfg:
        assert found(cfg) == [said]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", "1"), ("-1", "-1"), ("16384", "16384"), ('"010"', "010"), ("'on'", "on"), ('"1e3"', "1e3"), ('""', ""), ("08", "08"),
        ("nobind", "nobind"), ("2026-01-01", "2026-01-01"), ("0:a", "0:a"), ('"${cluster.gpus_per_node}"', "1"),
    ],
)  # fmt: skip
def test_what_is_text_or_a_plain_whole_number_reaches_engines_as_written(text: str, value: str, tmp_path: Path) -> None:
    with composed(f"env: {{MINE: {text}}}", tmp_path) as cfg:
        assert found(cfg) == []
        assert to_config(cfg).cluster.env["MINE"] == value


def test_the_value_that_counts_is_the_last_one(tmp_path: Path) -> None:
    with composed("env: {MINE: 010}", tmp_path, "cluster.env.MINE=8") as cfg:
        assert found(cfg) == []
        assert to_config(cfg).cluster.env["MINE"] == "8"


def test_a_value_that_may_be_a_secret_is_left_to_the_check_that_does_not_print_it(tmp_path: Path) -> None:
    with composed("env: {HF_TOKEN: 0123456712}", tmp_path) as cfg:
        assert found(cfg) == []


def test_nothing_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with composed("env: {MINE: 010}", tmp_path) as cfg:
        assert program.run(cfg) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f'  - cluster.env.MINE=010: {ENV} 8; {QUOTES} "010"' in err.splitlines()
