"""From a plan and the addresses of what runs already to a deployment in which only the client has to be started. Pure.

Engines keep their roles, groups and sizes, for the topology says them; their command lines are not known here and stay empty."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from pdslurm.config import Config
from pdslurm.plan.checks.attach import URL, addresses
from pdslurm.plan.deployment import LOOPBACK, BoundArm, BoundSet, Deployment, Process, client_of
from pdslurm.plan.plan import Arm, InstanceSet, Plan


def attached_deployment(plan: Plan) -> Deployment:
    """Every arm by itself, each on its own endpoint of the configuration, which `problems` found in order."""
    sets = tuple(_set(plan.config, instances, arm) for instances in plan.sets for arm in instances.arms)
    urls = [url for end in plan.config.attach.values() for url in (end.url, *end.both, *end.prefill, *end.decode)]
    direct = tuple(dict.fromkeys(str(urlsplit(url).hostname) for url in urls))
    return Deployment(plan, sets, client_of(plan.config, LOOPBACK, direct))


def _set(config: Config, instances: InstanceSet, arm: Arm) -> BoundSet:
    endpoint = config.attach[arm.name]
    urls = {role: iter(urls) for role, urls in addresses(endpoint).items()}
    engines = tuple(
        _engine(f"engine{n}", role, instance.group, next(urls[role]))
        for n, (role, instance) in enumerate(zip(arm.roles, instances.instances, strict=True))
    )
    router = Process("router", "router", "router", None, 0, LOOPBACK, (), None, (), {}, endpoint.router_metrics)
    routers = (router,) if endpoint.router_metrics else ()
    bound = BoundArm(arm, {e.name: e.role for e in engines}, routers, endpoint.url)
    measure_s, warm_s = (each / len(instances.arms) for each in (instances.measure_s, instances.warm_s))
    alone = replace(instances, name=arm.name, arms=(arm,), load_s=0.0, measure_s=measure_s, warm_s=warm_s)
    return BoundSet(alone, engines, (bound,))


def _engine(name: str, role: str, group: int, url: str) -> Process:
    found = URL.fullmatch(url)
    assert found
    return Process(name, "engine", role, group, 0, found[1], (), int(found[2]), (), {}, f"{url}/metrics")
