"""From a configuration to a plan: which instances are loaded together, which arms they serve, which points are measured. Pure.

`build_plan` decides where everything runs; `pdslurm.plan.deployment.bind` adds the hosts' addresses and ports that are free."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pdslurm.config import Config, Interleave, KvRole, Topology, Workload, arms_of
from pdslurm.plan.checks.configuration import check
from pdslurm.plan.estimate import ARM_S, Estimator, arm_shape, measured_share
from pdslurm.plan.placement import Instance, place
from pdslurm.plan.points import Point, points_of, rate_sweeps, saturated_points, warm_ups
from pdslurm.plan.rate_sweep import expected_points
from pdslurm.plan.tuning import Setting, Variant, is_tuned, rounds, trial_points, variant_name, variants
from pdslurm.records.earlier_runs import NO_RUNS, EarlierRuns

LIKELY_COMPARED = 1.5  # settings of a kind that are compared in the end: one, or two
WARM_AGAIN = 8  # warm-up prompts for each instance of the largest arm when a router is started again over engines that are warm


@dataclass(frozen=True)
class Arm:
    """A topology in the comparison; `roles[i]` is what instance i of its set does in it. A tuned arm is there once with each
    setting of its kind: `base` is the configuration's name of it."""

    name: str
    topology: Topology
    roles: tuple[str, ...]
    base: str = ""
    setting: Setting = ()


@dataclass(frozen=True)
class InstanceSet:
    """Instances loaded together, and the arms that they serve one after another."""

    name: str
    instances: tuple[Instance, ...]
    arms: tuple[Arm, ...]
    load_s: float  # estimate, all starts
    measure_s: float  # estimate, all arms and points
    warm_s: float  # estimate, the warm-ups of all arms

    @property
    def gpu_count(self) -> int:
        return sum(instance.gpu_count for instance in self.instances)


@dataclass(frozen=True)
class Plan:
    """Everything that a run will do, before any host is known."""

    name: str
    config: Config
    nodes: int
    gpus: int  # of the whole allocation, idle ones too
    sets: tuple[InstanceSet, ...]
    points: tuple[Point, ...]  # the same for every arm, in order; those that workload.until adds only where they turn out necessary
    trials: tuple[Point, ...] = ()  # what a setting of an arm may be tried with before; Point.repeat is the round
    estimate_from: str = ""  # what the estimates stand on, in words

    @property
    def sure_points(self) -> tuple[Point, ...]:
        """Those that every arm measures in any case; of a search about as many as it takes."""
        return sure_points(self.config.workload, self.points)

    def warm_up(self, repeat: int, *, whole: bool) -> tuple[Point, ...]:
        """The loads that warm an arm up before its points of a repeat, the same for every arm. `whole` is false where only the
        router is new: fewer requests then, of the same lengths."""
        most = max(len(s.instances) for s in self.sets)
        return _warm_up(self.config.workload, self.points, most, repeat, whole=whole)

    @property
    def estimate_s(self) -> float:
        return sum(s.load_s + s.measure_s + s.warm_s for s in self.sets)

    @property
    def estimate_gpu_hours(self) -> float:
        return self.estimate_s / 3600 * self.gpus


def build_plan(config: Config, earlier: EarlierRuns = NO_RUNS) -> Plan:
    """Checks the configuration and decides everything that does not depend on hosts; on `earlier` runs only its estimates do.
    Raises ConfigError."""
    check(config)
    arms, todo = variants(config), points_of(config.workload, config.seed, share=config.slo.share)
    estimate, shapes = Estimator(config, earlier), []
    shared: dict[object, list[tuple[str, Variant, tuple[Instance, ...]]]] = {}
    for name, variant in arms.items():
        instances = place(variant.topology, config.cluster)
        alike = _sharing_key(name, variant.topology, instances, config.workload.prefix_caching)
        shared.setdefault(alike, []).append((name, variant, instances))
    most = max(len(instances) for members in shared.values() for _, _, instances in members)
    sets = []
    for members in shared.values():
        instances = members[0][2]
        planned = tuple(
            Arm(name, variant.topology, tuple(i.role for i in placed), variant.arm, variant.setting)
            for name, variant, placed in members
        )
        shared_name = variant_name("shared-" + "-".join(arm.base for arm in planned), planned[0].setting)
        name = members[0][0] if len(members) == 1 else shared_name
        sure = sure_points(config.workload, todo)
        parts = [measured_share(arm.topology, arms_of(config).values(), config.workload.search) for arm in planned]
        each = list(zip(planned, parts, strict=True))
        measure = sum(part * estimate.point_s(p, arm.roles, instances) for arm, part in each for p in sure)
        warm = 0.0
        for repeat, whole in _turns(config.workload, len(planned)):
            loads = _warm_up(config.workload, todo, most, repeat, whole=whole)
            warm += sum(part * (ARM_S + sum(estimate.warm_up_s(p, arm.roles, instances) for p in loads)) for arm, part in each)
        of_arms = [arm_shape(arm.roles, instances) for arm in planned]
        shapes += of_arms
        load_s = config.workload.starts * estimate.load_s(of_arms[0])
        sets.append(InstanceSet(name, instances, planned, load_s, measure, warm))
        if is_tuned(config):
            sets[-1] = _tuned_cost(sets[-1], config)
    nodes = max(variant.topology.nodes for variant in arms.values())
    gpus, source = nodes * config.cluster.gpus_per_node, estimate.source(shapes)
    return Plan(config.name, config, nodes, gpus, tuple(sets), todo, trial_points(config), source)


def _tuned_cost(each: InstanceSet, config: Config) -> InstanceSet:
    """The set with its estimates where arms are tuned: the trials of its setting, and of the comparison the part that falls to it
    if every setting is as likely to be compared as another. One or two of a kind are."""
    tune, numbers = config.tune, rounds(config.tune)
    compared = min(LIKELY_COMPARED / tune.settings, 1.0)
    loads = sum(count / tune.settings for count in numbers)
    trial_s = sum(count / tune.settings * tune.duration_s * 2**number for number, count in enumerate(numbers))
    starts = config.workload.starts
    return replace(
        each,
        load_s=(compared + loads / starts) * each.load_s,
        measure_s=compared * each.measure_s + trial_s,
        warm_s=(compared + loads / starts) * each.warm_s,
    )


def _warm_up(workload: Workload, points: tuple[Point, ...], most: int, repeat: int, *, whole: bool) -> tuple[Point, ...]:
    """`most`: instances of the plan's largest arm, so that the number of requests is no arm's own."""
    prompts = workload.warmup_prompts
    return warm_ups(points, repeat, prompts if whole else min(prompts, WARM_AGAIN * most))


def _turns(workload: Workload, arms: int) -> list[tuple[int, bool]]:
    """(first repeat, whether the engines are cold) of each turn that an arm takes, as measure/schedule.py has them."""
    is_alone = workload.interleave is Interleave.none or arms == 1
    return [
        (start * workload.repeats + repeat, repeat == 0)
        for start in range(workload.starts)
        for repeat in range(1 if is_alone else workload.repeats)
    ]


def sure_points(workload: Workload, points: tuple[Point, ...]) -> tuple[Point, ...]:
    """What estimates stand on: the points before workload.until begins; of a rate sweep the middle ones."""
    if workload.search.lowest is None:
        return tuple(point for point in points if point.repeat < workload.sure_repeats)
    sure = [point for pair in saturated_points(points).values() for point in pair]
    for (_, repeat), sweep in rate_sweeps(points).items():
        count = expected_points(len(sweep), search=workload.search, is_first=repeat == 0)
        begin = (len(sweep) - count) // 2
        sure += sweep[begin : begin + count]
    return tuple(sure)


def _sharing_key(name: str, topology: Topology, instances: tuple[Instance, ...], prefix_caching: bool) -> object:
    """Arms with equal keys are served by the same loaded instances. P/D arms share them when their instances differ in role
    alone, for with kv_both the role is the router's choice; plain arms never share: they must not carry a connector's cost. With
    prefix caching none do: every arm gets the same prompts, and the second would find the first one's in the cache."""
    if not topology.prefill or topology.kv.role is not KvRole.both or prefix_caching:
        return name
    neutral = tuple(replace(i, role="any") for i in instances)
    return neutral, topology.kv.connector, repr(topology.kv.extra_config), topology.expert_parallel
