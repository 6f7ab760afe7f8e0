"""From a deployment to what `launcher=plan` prints: text for people, JSON for programs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from pdslurm.config import Config, Device, Search, Workload
from pdslurm.plan.commands import vllm_alone
from pdslurm.plan.deployment import BoundArm, BoundSet, Deployment, Process
from pdslurm.plan.fairness import Compared, as_json, stale, values_text
from pdslurm.plan.fairness import lines as fairness_lines
from pdslurm.plan.outline import Outline
from pdslurm.plan.plan import Plan
from pdslurm.plan.points import Point, point_json, rate_sweeps
from pdslurm.plan.power import as_json as power_json
from pdslurm.plan.power import power_of, sentence
from pdslurm.plan.smoke import is_smoke
from pdslurm.plan.tuning import OF_SATURATED, Setting, kind_of, rounds
from pdslurm.plan.unchecked import unchecked
from pdslurm.records.settings import setting_text
from pdslurm.records.split_ratio import SATURATED

STEADY_S = 60.0  # workload.duration_s from which on a point of a search is long enough to be little flattered by its beginning
MANY = 32  # processes of a set beyond which the text shows the first and the last few


def process_json(process: Process, **more: Any) -> dict[str, Any]:
    """One entry of `processes[]`."""
    return {
        "name": process.name, "kind": process.kind, "role": process.role, "group": process.group,
        "node": process.node, "host": process.host, "gpus": list(process.gpus), "port": process.port,
        "argv": list(process.argv), "env": dict(process.env), **more,
    }  # fmt: skip


def plan_json(deployment: Deployment, compared: Sequence[Compared]) -> dict[str, Any]:
    """The whole plan: sets of instances loaded together, arms, every process, every point with its benchmark command. `compared` is
    what fairness says of it."""
    plan = deployment.plan
    processes, points = [], []
    for bound in deployment.sets:
        for engine in bound.engines:
            head = engine.name.split("-part")[0]
            roles = {b.arm.name: b.engine_roles[head] for b in bound.arms}
            processes.append(process_json(engine, set=bound.set.name, roles=roles))
        for bound_arm in bound.arms:
            processes += [process_json(r, set=bound.set.name, arm=bound_arm.arm.name) for r in bound_arm.routers]
            for point in plan.points:
                args = list(deployment.bench_args(bound_arm, point))
                points.append({"arm": bound_arm.arm.name, "set": bound.set.name, **point_json(point), "bench_args": args})
    return {
        "name": plan.name,
        "nodes": plan.nodes,
        "gpus": plan.gpus,
        "cluster": plan.config.cluster.name,
        "model": plan.config.model.name,
        "sets": [{"name": s.set.name, "arms": [a.arm.name for a in s.arms], "gpus": s.set.gpu_count} for s in deployment.sets],
        "estimate": {"seconds": round(plan.estimate_s), "gpu_hours": round(plan.estimate_gpu_hours, 2), "from": plan.estimate_from},
        "power": power_json(power_of(plan.config)),
        "cautions": list(_cautions(plan.config)),
        "not_checked": list(unchecked(plan.config)),
        "fairness": as_json(compared),
        "processes": [*processes, process_json(deployment.client)],
        "points": points,
        **({"trials": [point_json(point) for point in plan.trials]} if plan.trials else {}),
    }


def dump_json(outline: Outline) -> str:
    return json.dumps(plan_json(outline.deployment, outline.compared), indent=1)


def plan_text(outline: Outline) -> str:
    """The plan for a person: the cost first, then where everything runs, then what is measured."""
    return "\n".join(_lines(outline))


def _lines(outline: Outline) -> Iterator[str]:
    deployment, plan = outline.deployment, outline.plan
    yield opening(outline)
    yield from _alike_lines(outline)
    if power := power_of(plan.config):
        yield sentence(power)
    for bound in deployment.sets:
        if bound.arms[0].arm.setting:  # it differs from an arm above in one or two options
            continue
        yield ""
        slots = f"{bound.set.gpu_count} {'CPU slots' if _on_cpu(plan) else 'GPUs'}"
        yield f"{bound.set.name}: {len(bound.set.instances)} instance(s) on {slots}, loaded {_times(plan.config.workload.starts)}"
        yield from _engine_lines(bound, "slot" if _on_cpu(plan) else "GPU")
        for arm in bound.arms:
            yield from _arm_lines(arm)
    yield from _tuning_lines(plan)
    yield ""
    yield f"client on node {deployment.client.node}: {shlex.join(deployment.client.argv)}"
    yield from _point_lines(plan)
    if plan.points:
        args = deployment.bench_args(deployment.arms[0], plan.points[0])
        theirs = vllm_alone(args) == args
        yield f"the first of them, as a command{'' if theirs else ' (of which only pdslurm knows the options --pdslurm-…)'}:"
        yield "  " + shlex.join([*plan.config.runtime.vllm, "bench", "serve", *args])
    yield ""
    yield from (f"not checked here: {text}" for text in unchecked(plan.config))


def _tuning_lines(plan: Plan) -> Iterator[str]:
    """Which settings are tried before arms are compared; nothing where none are."""
    if not plan.trials:
        return
    tune, numbers = plan.config.tune, rounds(plan.config.tune)
    rate = f"{tune.rate:g} requests/s" if tune.rate else f"{OF_SATURATED:.0%} of what the plain arm answers when saturated"
    first, *later = (f"{count} for {tune.duration_s * 2**n:g} s" for n, count in enumerate(numbers))
    tried = ", then ".join([first.replace(" for", " settings for"), *later])
    yield ""
    yield f"before that each kind of arm is tuned at {rate}: {tried}; the best for TPOT and the best for TTFT are compared"
    settings: dict[str, dict[Setting, None]] = {}
    for arm in (arm for each in plan.sets for arm in each.arms):
        settings.setdefault(kind_of(arm.topology), {})[arm.setting] = None
    for kind, mine in settings.items():
        yield f"  {kind}: {'; '.join(map(setting_text, mine))}"


def _point_lines(plan: Plan) -> Iterator[str]:
    """Every point, those of a search as the rate sweeps that they belong to."""
    workload = plan.config.workload
    swept = rate_sweeps(plan.points) if workload.search.lowest is not None else {}
    listed = [point for point in plan.points if not swept or SATURATED in point.sweeps]
    if listed:
        yield f"points, in this order, for each arm ({len(listed)}):" if not swept else "sent to the plain arm first:"
    for point in listed:
        later = "" if point.repeat < workload.sure_repeats else ", if workload.until asks for it"
        yield f"  {point.id:<34} {_amount(point)}, seed {point.seed}, sweeps: {', '.join(point.sweeps)}{later}"
    for (which, repeat), sweep in swept.items():
        if repeat == 0:
            low, high, prompts = sweep[0], sweep[-1], f"{sweep[0].num_prompts} to {sweep[-1].num_prompts} prompts"
            bound = f", at most {which[3]} in flight" if which[3] else ""
            yield (
                f"{which[0]} tokens in, {which[1]} out, {which[2]}{bound}: {len(sweep)} rates from {low.request_rate:g} to "
                f"{high.request_rate:g} requests/s ({prompts}), of which each arm measures what leads to the highest that meets "
                f"slo={plan.config.slo.name}{_around(workload.search)}, {_repeated(workload)}"
            )


def _around(search: Search) -> str:
    """Which rates a search measures beside those that lead to the capacity."""
    words = [f"{search.beside} beside it on each side"] if search.beside else []
    words += [f"what other SLOs need, down to 1/{search.cover:g} of it"] if search.cover is not None else []
    return "".join(f", {each}" for each in words)


def _repeated(workload: Workload) -> str:
    if workload.starts == 1:
        return _times(workload.repeats)
    return f"{_times(workload.repeats)} in each of {workload.starts} starts"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _amount(point: Point) -> str:
    return (
        f"{point.duration_s:g} s with {point.num_prompts} different prompts" if point.duration_s else f"{point.num_prompts} prompts"
    )


def opening(outline: Outline) -> str:
    """What a run says first: the summary, what its arms differ in, and what limits its answer."""
    differing = fairness_lines(outline.compared, stale(outline.deployment, outline.compared))
    cautions = (f"caution: {text}" for text in _cautions(outline.plan.config))
    plan = outline.plan
    estimate = [] if plan.config.attach else [f"estimate: {plan.estimate_from}"]
    return "\n".join([summary(plan), *estimate, *differing, *cautions])


def _cautions(config: Config) -> Iterator[str]:
    """What a plan makes less certain than it needs to be, and is no error."""
    duration_s = config.workload.duration_s
    if is_smoke(config):
        yield "workload=smoke measures nothing; it shows whether every arm works"
    if config.workload.search.lowest is not None and duration_s and duration_s < STEADY_S:
        yield (
            f"workload.duration_s={duration_s:g} is below {STEADY_S:g}: a queue that begins empty flatters a short point, and a "
            "search then finds too high a capacity (by 4 % at 60 s and a share of 0.9, by 10 % at 20 s and a share of 0.99)"
        )


def _alike_lines(outline: Outline) -> Iterator[str]:
    """What the topologies force, and what every arm has; nothing where there is one arm."""
    if len(outline.deployment.arms) < 2:
        return
    if forced := [c for c in outline.compared if c.verdict == "forced"]:
        yield "  forced by the topologies: " + " | ".join(f"{c.field}: {values_text(c.values)}" for c in forced)
    if same := [c for c in outline.compared if c.verdict == "same"]:
        named = [f"{c.field} {next(iter(c.values.values()))}" for c in same if " " not in c.field]
        yield f"  the same in every arm: {', '.join(named)}; and {len(same) - len(named)} other options and variables"


def _on_cpu(plan: Plan) -> bool:
    return plan.config.cluster.device is Device.cpu


def summary(plan: Plan) -> str:
    """One line: what, where, how much."""
    arms = [arm.name for s in plan.sets for arm in s.arms if not arm.setting]
    cpu = _on_cpu(plan)
    where = f"{plan.nodes} node(s) × {plan.config.cluster.gpus_per_node} {'CPU slot(s)' if cpu else plan.config.cluster.gpu}"
    hours = plan.estimate_gpu_hours
    count, most = len(plan.sure_points), len(plan.points)
    if plan.config.workload.search.lowest is not None:
        points = f"about {count}"
    else:
        points = f"{count} to {most}" if most > count else f"{count}"
    cost = f"{plan.estimate_s / 60:.0f} min" if cpu else f"{plan.estimate_s / 60:.0f} min, {hours:.3g} GPU-hours"
    return (
        f"{plan.name}: {plan.config.model.name} on {where} (cluster {plan.config.cluster.name}); "
        f"{len(arms)} arm(s): {', '.join(arms)}; {points} points each; roughly {cost}"
    )


def _engine_lines(bound: BoundSet, slot: str) -> Iterator[str]:
    shown = list(bound.engines)
    hidden = len(shown) - MANY
    for n, engine in enumerate(shown):
        if hidden > 0 and MANY // 2 <= n < len(shown) - MANY // 2:
            if n == MANY // 2:
                yield f"  … {hidden} more of the same kind (launcher.format=json shows all)"
            continue
        gpus = f"{slot} {','.join(map(str, engine.gpus))}"
        at = f"port {engine.port}" if engine.port else "headless"
        if not engine.argv:
            yield f"  {engine.name:<14} {engine.role:<8} group {engine.group}  runs already at {engine.url}"
            continue
        yield f"  {engine.name:<14} {engine.role:<8} group {engine.group}  node {engine.node}  {gpus:<19} {at}"
        if n == 0 or hidden <= 0:
            env = " ".join(f"{k}={shlex.quote(v)}" for k, v in engine.env.items())
            yield f"      {env} {shlex.join(engine.argv)}"


def _arm_lines(bound: BoundArm) -> Iterator[str]:
    counts = [f"{list(bound.engine_roles.values()).count(role)} {role}" for role in dict.fromkeys(bound.engine_roles.values())]
    yield f"  arm {bound.arm.name}: {', '.join(counts)}; the client talks to {bound.base_url}"
    for router in bound.routers:
        if not router.argv:
            yield f"      {router.name}: runs already; its counters are at {router.metrics_url}"
            continue
        text = shlex.join(router.argv)
        yield f"      {router.name}: {text if len(text) < 2000 else text[:2000] + ' …'}"
