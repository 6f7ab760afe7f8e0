"""fairness.json as each set becomes ready: what arms differ in, what the journal says of it, and what stays in a resumed run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pdslurm.config import Config
from pdslurm.measure import what_ran
from pdslurm.measure.health import Answer
from pdslurm.measure.what_ran import WhatRan, write_fairness
from pdslurm.node.processes import Processes
from pdslurm.plan.outline import make_outline
from pdslurm.records.run_folder import RunFolder
from tests.made import watch_over
from tests.unit.plan.test_fairness import pd, plain

MakeConfig = Callable[..., Config]
READY = "Using {} attention backend out of potential backends: ['A']."
SAID = "what ran differs between arms: resolved attention_backend: FLASH_ATTN (route); FLASHINFER (pd); UNEXPLAINED: another kernel"


class Engines:
    """The processes of a run whose engines wrote a log each, and answer nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[Any] = []

    def start(self, engines: Any, backend: str) -> None:
        self.running = []
        for engine in engines:
            log = self.folder / f"{engine.name}-{backend}.log"
            log.write_text(READY.format(backend))
            self.running.append(SimpleNamespace(process=engine, log=log))

    def check(self) -> None:
        pass


def no_answers(urls: Mapping[str, str], **_: Any) -> dict[str, None]:
    return dict.fromkeys(urls)


def test_a_difference_is_written_and_said_once_and_outlives_the_session(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(what_ran, "get_many", no_answers)
    monkeypatch.setattr("pdslurm.measure.telemetry.ask_many", lambda urls, **_: dict.fromkeys(urls, Answer(None, "none")))
    outline = make_outline(make_config({"arms": {"route": plain(), "pd": pd()}}))
    folder, engines = RunFolder(tmp_path), Engines(tmp_path)
    first, second = outline.deployment.sets
    read: Callable[[], Any] = lambda: json.loads((tmp_path / "fairness.json").read_text())  # noqa: E731

    watch = watch_over(make_config(), cast(Processes, engines), tmp_path)

    def session() -> WhatRan:
        write_fairness(folder, outline.deployment, outline.compared)
        return WhatRan(outline.deployment, folder, watch, watch.journal)

    ran = session()
    assert "resolved" not in read()
    engines.start(first.engines, "FLASH_ATTN")
    assert {tuple(facts) for facts in ran.read(first).values()} == {("attention_backend",)}
    assert not any(found["field"].startswith("resolved") for found in read()["differs"])
    ran = session()
    engines.start(second.engines, "FLASHINFER")
    for _ in range(2):
        ran.read(second)
    assert [(f["field"], f["values"]) for f in read()["differs"] if f["field"].startswith("resolved")] == [
        ("resolved attention_backend", {"route": "FLASH_ATTN", "pd": "FLASHINFER"})
    ]
    said = [json.loads(line)["event"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line[: len(SAID)] for line in said] == [SAID]
    session()
    assert set(read()["resolved"]) == {first.set.name, second.set.name}
    assert "resolved attention_backend" in {found["field"] for found in read()["differs"]}
    watch.journal.display.console.file.close()
