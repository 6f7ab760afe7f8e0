"""From a configuration to the list of everything that is wrong with it: each line names field, value and what is allowed.

Looks at files (a model's config.json, a data set) but starts nothing. What only the engine's environment knows is preflight's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pdslurm.config import Cluster, Config, LauncherKind, Model, Tune, Workload
from pdslurm.errors import ConfigError
from pdslurm.plan.checks import attach, environment, runtime, search, secrets, site, topology, tune
from pdslurm.plan.checks import workload as workload_checks
from pdslurm.plan.checks.own_flags import as_flags, own_flags
from pdslurm.plan.commands import OWN_BENCH_FLAGS, OWN_FLAGS
from pdslurm.plan.model import DTYPE_BYTES, ModelShape, is_elsewhere, model_shape
from pdslurm.plan.tuning import variants

# What `explained` may name: what pdslurm/plan/fairness.py compares by name; other options and variables by their kind and name, and
# what pdslurm/plan/what_ran.py compares after `resolved `.
EXPLAINABLE = (
    *("gpus", "model", "dtype", "context", "memory_share", "prefix_cache", "expert_parallel", "tensor_parallel", "api_servers"),
    *("router", "router_hops", "router_policy", "load", "instances", "kv_connector"),
)
MIN_TELEMETRY_S = 0.1


def check(config: Config) -> None:
    """Raises ConfigError with all problems at once."""
    found = list(dict.fromkeys(problems(config)))
    if found:
        raise ConfigError(found)


def problems(config: Config) -> Iterator[str]:
    """Every problem of a configuration, one sentence each."""
    shape = None
    try:
        shape = model_shape(config.model)
    except KeyError as missing:
        yield f"model.hf_config: the key {missing} is missing in the model's config.json; copy it from the model's own"
    except ValueError as bad:
        yield f"model.path={config.model.path}: config.json there is not JSON ({bad})"
    yield from _model(config.model, config.launcher.kind)
    yield from _cluster(config.cluster)
    yield from site.problems(config.cluster)
    yield from _workload(config.workload, config.model, shape)
    yield from search.problems(config)
    yield from runtime.problems(config.runtime)
    yield from environment.problems(config)
    yield from secrets.problems(config, os.environ)
    for field, name in {"name": config.name, **{f"arms.{arm}": arm for arm in config.arms}}.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            yield f"{field}={name}: names a folder; use up to 64 letters, digits, '.', '_' and '-'"
    yield from _explained(config)
    if wrong := list(tune.problems(config)):
        yield from wrong
        config = replace(config, tune=Tune())
    placeable = yield from topology.problems(config, shape)
    if len(placeable) == len(variants(config)):
        yield from attach.problems(config, placeable)
    for limit in ("start_s", "point_s", "stop_s", "wall_hours", "gpu_hours", "session_hours"):
        value = getattr(config.limits, limit)
        if value is not None and value <= 0:
            yield f"limits.{limit}={value}: must be above 0"
    if (every := config.telemetry_every_s) is not None and every < MIN_TELEMETRY_S:
        yield f"telemetry_every_s={every:g}: must be {MIN_TELEMETRY_S:g} or more: every look costs the engines time; null: none"


def _explained(config: Config) -> Iterator[str]:
    for name, reason in config.explained.items():
        if name not in EXPLAINABLE and not re.fullmatch(r"(engine|router) -.+|env .+|resolved .+", name):
            allowed = f"{', '.join(EXPLAINABLE)}, or 'engine --OPTION', 'router --OPTION', 'env VARIABLE', 'resolved FACT'"
            yield f"explained.{name}: nothing that arms are compared by; use {allowed}"
        if not reason.strip():
            yield f"explained.{name}: is empty; say why the arms differ in it on purpose, or leave it out"


def _model(model: Model, launcher: LauncherKind) -> Iterator[str]:
    if model.dtype not in DTYPE_BYTES:
        yield f"model.dtype={model.dtype}: use one of {', '.join(DTYPE_BYTES)}"
    folder = Path(model.path)
    if model.make and not model.hf_config:
        yield "model.make=true: needs model.hf_config, from which the model's folder is made"
    if not model.make and not (folder / "config.json").is_file():
        if folder.is_dir():
            yield f"model.path={model.path}: the folder has no config.json; give a folder of a Hugging Face model"
        elif is_elsewhere(model) and launcher not in (LauncherKind.local, LauncherKind.attach):
            pass  # the nodes' preflight looks at it
        elif model.path.startswith(("/", ".", "~")) or model.path.count("/") > 1:
            yield f"model.path={model.path}: no such folder; give a folder with config.json, or a hub's name such as org/model"
    yield from own_flags("model.engine_args", as_flags(model.engine_args), OWN_FLAGS)


def _cluster(cluster: Cluster) -> Iterator[str]:
    if cluster.gpus_per_node < 1:
        yield f"cluster.gpus_per_node={cluster.gpus_per_node}: must be 1 or more"
    if cluster.gpu_memory_gib <= 0:
        yield f"cluster.gpu_memory_gib={cluster.gpu_memory_gib}: must be above 0"
    yield from _ports(cluster)
    for backend in cluster.kv_backends:
        if backend not in ("UCX", "LIBFABRIC"):
            yield f"cluster.kv_backends={backend}: use UCX or LIBFABRIC"
    yield from own_flags("cluster.engine_args", as_flags(cluster.engine_args), OWN_FLAGS)


def _ports(cluster: Cluster) -> Iterator[str]:
    ranges = {"http": cluster.ports.http, "internal": cluster.ports.internal}
    for name, r in ranges.items():
        if not 1024 <= r.first <= r.last <= 65535:
            yield f"cluster.ports.{name}={r.first}-{r.last}: first must not be above last, both within 1024-65535"
        elif r.first <= 60999 and r.last >= 32768:
            yield (
                f"cluster.ports.{name}={r.first}-{r.last}: overlaps 32768-60999, from which Linux gives ports to outgoing "
                "connections; use a range below 32768"
            )
    http, internal = ranges.values()
    if http.first <= internal.last and internal.first <= http.last:
        yield (
            f"cluster.ports.http={http.first}-{http.last}: overlaps cluster.ports.internal={internal.first}-{internal.last}; "
            "use ranges apart from each other"
        )


def _workload(workload: Workload, model: Model, shape: ModelShape | None) -> Iterator[str]:
    yield from own_flags("workload.extra_args", workload.extra_args, OWN_BENCH_FLAGS)
    context = model.max_model_len or (shape.context if shape else None)
    if shape and model.max_model_len and model.max_model_len > shape.context:
        yield f"model.max_model_len={model.max_model_len}: {model.name} has a context of {shape.context} tokens; use at most that"
    yield from workload_checks.problems(workload, context)
