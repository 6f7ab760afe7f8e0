"""What is wrong in where a configuration says that its arms run already: one sentence for each problem. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from pdslurm.config import Config, Endpoint, LauncherKind, Topology
from pdslurm.plan.placement import place

URL = re.compile(r"http://([A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*):([0-9]{1,5})")
ROLES = ("both", "prefill", "decode")
EXAMPLE = "'+attach={{{}: {{url: http://HOST:PORT, both: [http://HOST:PORT]}}}}', or prefill and decode for both"
STARTERS = (LauncherKind.local, LauncherKind.slurm, LauncherKind.allocation, LauncherKind.script)


def addresses(endpoint: Endpoint) -> Mapping[str, list[str]]:
    """Its engines by role."""
    return {role: getattr(endpoint, role) for role in ROLES}


def problems(config: Config, arms: Mapping[str, Topology]) -> Iterator[str]:
    """`arms` are those whose topology can be placed at all."""
    kind = config.launcher.kind
    if config.attach and kind in STARTERS:
        yield f"launcher={kind.value}: starts engines itself, and attach says where they run already; use launcher=attach"
    if not config.attach and kind is not LauncherKind.attach:
        return
    if config.workload.starts > 1:
        yield (
            f"workload.starts={config.workload.starts}: attach measures engines that run already, which pdslurm cannot load again; "
            "use workload.starts=1"
        )
    for name in config.attach:
        if name not in arms:
            yield f"attach.{name}: no such arm; use {', '.join(arms)}"
    for name, topology in arms.items():
        if name not in config.attach:
            yield f"attach.{name}: missing; say where it runs: {EXAMPLE.format(name)}"
            continue
        yield from _endpoint(f"attach.{name}", config.attach[name], [i.role for i in place(topology, config.cluster)])


def is_address(url: str) -> bool:
    found = URL.fullmatch(url)
    return found is not None and 0 < int(found[2]) <= 65535


def _endpoint(field: str, endpoint: Endpoint, roles: list[str]) -> Iterator[str]:
    if not is_address(endpoint.url):
        yield f"{field}.url={endpoint.url}: must be http://HOST:PORT, without a path"
    every = [url for urls in addresses(endpoint).values() for url in urls]
    for url in dict.fromkeys(url for url in every if every.count(url) > 1):
        yield f"{field}: {url} is named {every.count(url)} times; each engine has an address of its own"
    for role, urls in addresses(endpoint).items():
        for url in urls:
            if not is_address(url):
                yield f"{field}.{role}={url}: must be http://HOST:PORT, without a path"
        if len(urls) != roles.count(role):
            yield f"{field}.{role}: {len(urls)} addresses, where the topology has {roles.count(role)} such instances; name each"
    if (metrics := endpoint.router_metrics) and not re.fullmatch(URL.pattern + "/.*", metrics):
        yield f"{field}.router_metrics={metrics}: must be http://HOST:PORT/metrics, or null"
