"""Which settings each kind of arm is tried with before arms are compared, and which of them are the best. Pure.

Every kind, plain and P/D, is tried with equally many settings, at one request rate, for equally long. The trials go by successive
halving (K. Jamieson, A. Talwalkar 2016): each round keeps the better half and measures it for twice as long. A setting can be good
for a tight limit on TPOT and bad for a tight one on TTFT, so that a round keeps the best by either, and both are compared in the
end."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pdslurm.config import Config, Topology, Tune, arms_of
from pdslurm.plan.commands import flags
from pdslurm.plan.placement import group_gpus
from pdslurm.plan.points import Point, point_seed, rate_point, short_name
from pdslurm.plan.rate_sweep import rates
from pdslurm.records.measurement import TUNING
from pdslurm.records.settings import DISAGGREGATED, PLAIN

KINDS = (PLAIN, DISAGGREGATED)
ROLES = ("prefill", "decode")
KEPT = 2  # settings of the last round: one may be the best for TPOT, the other for TTFT
LEAST_GAIN = 0.03  # by which a setting must be better than an earlier one to be preferred: two trials of one setting differ by it
OF_SATURATED = 0.5  # of the saturated plain arm's requests/s: about where P/D arms begin to miss an SLO
PARALLEL = "tensor_parallel"

Setting = tuple[tuple[str, Any], ...]  # (option, value); () is the arm as it is configured


@dataclass(frozen=True)
class Variant:
    """An arm of the configuration with one of the settings of its kind."""

    arm: str
    setting: Setting
    topology: Topology


@dataclass(frozen=True)
class Latencies:
    """What one trial measured at the 90th percentile in ms; infinity where it did not serve the rate, or failed."""

    tpot_ms: float
    ttft_ms: float


def is_tuned(config: Config) -> bool:
    """Whether arms are tuned. Engines that somebody else started cannot be."""
    return config.tune.settings > 1 and not config.attach


def kind_of(topology: Topology) -> str:
    return DISAGGREGATED if topology.prefill else PLAIN


def options_of(tune: Tune, kind: str) -> Mapping[str, list[Any]]:
    return tune.plain if kind == PLAIN else tune.disaggregated


def variants(config: Config) -> dict[str, Variant]:
    """Every arm with every setting of its kind, by the name that its records have: an arm as it is configured keeps its own."""
    found: dict[str, Variant] = {}
    for name, topology in arms_of(config).items():
        for setting in _settings_of_kind(config, kind_of(topology)):
            changed = with_setting(topology, setting, config.cluster.gpus_per_node)
            found[variant_name(name, setting)] = Variant(name, setting, changed)
    return found


def variant_name(arm: str, setting: Setting) -> str:
    """`pd_1p3d`, `pd_1p3d-block-size-128`."""
    return f"{arm}-{short_name(' '.join(f'{option} {value}' for option, value in setting))}" if setting else arm


def _settings_of_kind(config: Config, kind: str) -> list[Setting]:
    if not is_tuned(config):
        return [()]
    return list(itertools.islice(settings(options_of(config.tune, kind), config.seed), config.tune.settings))


def settings(options: Mapping[str, Sequence[Any]], seed: int) -> Iterator[Setting]:
    """The arm as it is configured, then one option changed at a time in the order in which they are given, then two at a time, and
    so on, these in an order of the seed's own."""
    yield ()
    for count in range(1, len(options) + 1):
        found: list[Setting] = []
        for names in itertools.combinations(options, count):
            found += [tuple(zip(names, values, strict=True)) for values in itertools.product(*(options[name] for name in names))]
        if count > 1:
            random.Random(f"{seed}/settings/{count}").shuffle(found)
        yield from found


def room(options: Mapping[str, Sequence[Any]]) -> int:
    """How many different settings the options allow."""
    return math.prod(1 + len(values) for values in options.values())


def with_setting(topology: Topology, setting: Setting, gpus_per_node: int) -> Topology:
    """The topology with the options changed. A larger TP of a plain arm whose instances have too few GPUs for it makes fewer,
    larger instances of the same GPUs."""
    for option, value in setting:
        role, _, name = option.rpartition(".")
        if name == PARALLEL and not role:
            topology = _with_parallel(topology, int(value), gpus_per_node)
        elif not role:
            topology = replace(topology, extra_args=[*topology.extra_args, *flags({name: value})])
        else:
            field = f"as_{role}"
            mine = getattr(topology, field)
            given = {PARALLEL: int(value)} if name == PARALLEL else {"extra_args": [*mine.extra_args, *flags({name: value})]}
            topology = replace(topology, **{field: replace(mine, **given)})
    return topology


def _with_parallel(topology: Topology, tensor_parallel: int, gpus_per_node: int) -> Topology:
    route, gpus = topology.route, group_gpus(topology, gpus_per_node)
    if not topology.prefill and gpus % tensor_parallel and (route * gpus) % tensor_parallel == 0:
        route = route * gpus // tensor_parallel
    return replace(topology, tensor_parallel=tensor_parallel, route=route)


# --- trials


def rounds(tune: Tune) -> tuple[int, ...]:
    """How many settings each round tries: 6 → 6, 3, 2, or the first of these where there are fewer rounds. Nothing is tried where
    there is one setting."""
    settings, found = tune.settings, []
    while settings > 1:
        found.append(settings)
        settings = 0 if settings <= KEPT else max(-(-settings // 2), KEPT)
    return tuple(found[: tune.rounds])


def trial_points(config: Config) -> tuple[Point, ...]:
    """The trials: the first lengths of the workload, at tune.rate or, while that is not known, at every coarse rate of the search,
    in every round (Point.repeat). Their seeds are no other point's."""
    if not is_tuned(config):
        return ()
    search, tune = config.workload.search, config.tune
    tried = [tune.rate] if tune.rate else [rate for n, rate in enumerate(rates(search)) if n % search.fine == 0]
    found = []
    for rate in tried:
        for number in range(len(rounds(tune))):
            point = rate_point(config.workload, rate, tune.duration_s * 2**number)
            point = replace(point, load=f"{point.load}, {TUNING}", sweeps=(TUNING,), repeat=number)
            found.append(replace(point, seed=point_seed(config.seed, point, number)))
    return tuple(found)


def best_first(known: Mapping[Setting, Latencies], *, keep: int) -> list[Setting]:
    """The settings that the next round tries: the best by TPOT and by TTFT in turn, until there are `keep`."""
    by_tpot, by_ttft = (_ranked(known, name) for name in ("tpot_ms", "ttft_ms"))
    in_turn = [setting for pair in zip(by_tpot, by_ttft, strict=True) for setting in pair]
    return list(dict.fromkeys(in_turn))[:keep]


def best(known: Mapping[Setting, Latencies]) -> list[Setting]:
    """The best setting for a tight limit on TPOT and the best for one on TTFT, once where they are the same; the arm as it is
    configured where no trial says anything."""
    if all(math.isinf(each.tpot_ms) and math.isinf(each.ttft_ms) for each in known.values()):
        return [()]
    return list(dict.fromkeys(_ranked(known, name)[0] for name in ("tpot_ms", "ttft_ms")))


def _ranked(known: Mapping[Setting, Latencies], name: str) -> list[Setting]:
    """The best first. Of those that are nearly as good as the best the one that was listed first leads."""
    left = {setting: getattr(each, name) for setting, each in known.items()}
    ranked = []
    while left:
        least = min(left.values())
        chosen = next(setting for setting, value in left.items() if value <= least * (1 + LEAST_GAIN))
        ranked.append(chosen)
        del left[chosen]
    return ranked
