"""A set whose engines are ready in; what each of them resolved out, kept in the run's fairness.json, where arms are compared."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pdslurm.measure import telemetry
from pdslurm.measure.health import get_many
from pdslurm.measure.journal import Journal
from pdslurm.measure.resolved import resolved
from pdslurm.measure.watch import Watch
from pdslurm.node.process_logs import log_lines
from pdslurm.node.processes import logs_by_instance
from pdslurm.plan.deployment import BoundSet, Deployment
from pdslurm.plan.fairness import Compared, as_json, compare, differences, values_text
from pdslurm.plan.what_ran import UNKNOWN, Told, compare_told
from pdslurm.records.run_folder import RunFolder
from pdslurm.records.shapes import misfit
from pdslurm.records.whole_file import set_aside, write_json

TIMEOUT_S = 10.0  # /server_info, where it is open, collects the facts of its host for seconds
Facts = Mapping[str, Mapping[str, str]]  # engine → fact → value


class WhatRan:
    """One for a run. What earlier sets told, in an earlier session too, stays."""

    def __init__(self, deployment: Deployment, folder: RunFolder, watch: Watch, journal: Journal) -> None:
        self.deployment, self.folder, self.watch, self.journal = deployment, folder, watch, journal
        self.compared = compare(deployment)
        self.told: dict[str, Facts] = dict(told_before(folder, deployment))
        self.said: set[str] = set()

    def read(self, bound: BoundSet) -> Facts:
        """What every engine of a set that is ready resolved. Writes it down, and says what differs."""
        facts = self.watch.wait(lambda: self._ask(bound))
        self.told[bound.set.name] = facts
        found = compare_told(self.deployment, self.told)
        write_json(self.folder.path / "fairness.json", fairness_json(self.compared, found, self.told))
        for finding in differences(found):
            line = f"{finding.field}: {values_text(finding.values)}"
            if line not in self.said:
                self.said.add(line)
                self.journal.say(f"what ran differs between arms: {line}; {_worth(finding)}")
        return facts

    def _ask(self, bound: BoundSet) -> Facts:
        urls = {engine.name: str(engine.url) for engine in bound.engines if engine.url}
        logs = logs_by_instance(self.watch.processes.running, urls)
        metrics = telemetry.scrape(bound.engines, timeout_s=TIMEOUT_S)
        versions = get_many({name: f"{url}/version" for name, url in urls.items()}, timeout_s=TIMEOUT_S)
        infos = get_many({name: f"{url}/server_info?config_format=json" for name, url in urls.items()}, timeout_s=TIMEOUT_S)
        return {name: resolved(log_lines(logs[name]), metrics.get(name), versions[name], infos[name]) for name in urls}


def _worth(finding: Compared) -> str:
    return f"explained: {finding.explained}" if finding.explained else f"UNEXPLAINED: {finding.why}"


def write_fairness(folder: RunFolder, deployment: Deployment, compared: Sequence[Compared]) -> None:
    """fairness.json at the start of a session, with what the sets told in the sessions before."""
    told = told_before(folder, deployment)
    write_json(folder.path / "fairness.json", fairness_json(compared, compare_told(deployment, told), told))


def fairness_json(compared: Sequence[Compared], found: Sequence[Compared], told: Told) -> dict[str, Any]:
    """What was asked for and what ran. `unknown`: facts that some engine did not tell; `resolved`: what each one told."""
    value = as_json([*compared, *found])
    if told:
        value["unknown"] = [{"field": c.field, "values": dict(c.values)} for c in found if c.verdict == UNKNOWN]
        value["resolved"] = {name: {engine: dict(facts) for engine, facts in some.items()} for name, some in told.items()}
    return value


def told_before(folder: RunFolder, deployment: Deployment) -> dict[str, Facts]:
    """What fairness.json has of the sets of this run; empty where there is none. One that cannot be read is set aside by name."""
    path = folder.path / "fairness.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8")).get("resolved") or {}
        if not (why := misfit(told, Mapping[str, Mapping[str, Mapping[str, str]]], "resolved")):
            return {bound.set.name: told[bound.set.name] for bound in deployment.sets if bound.set.name in told}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        why = str(error)
    print(f"pdslurm: {path} cannot be read ({why}); pdslurm set it aside as {set_aside(path).name}", file=sys.stderr)
    return {}
