"""From a configuration to a plan: which instances are loaded together, which arms they serve, which points are measured. Pure.

`build_plan` decides where everything runs; `pdslurm.plan.deployment.bind` adds the hosts' addresses and ports that are free."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pdslurm.config import Config, Interleave, KvRole, Topology, Workload
from pdslurm.plan.checks.configuration import check
from pdslurm.plan.model import ModelShape, model_shape
from pdslurm.plan.placement import Instance, place
from pdslurm.plan.points import Point, points_of, ramp_requests, rate_sweeps, saturated_points, typical_lengths, warm_ups
from pdslurm.plan.rate_sweep import expected_points
from pdslurm.plan.tuning import Setting, Variant, is_tuned, rounds, trial_points, variant_name, variants

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


def build_plan(config: Config) -> Plan:
    """Checks the configuration and decides everything that does not depend on hosts. Raises ConfigError."""
    check(config)
    arms, todo = variants(config), points_of(config.workload, config.seed, share=config.slo.share)
    shape = model_shape(config.model)
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
        measure = sum(estimate_point_s(p, arm, instances, config, shape) for arm in planned for p in sure)
        warm = 0.0
        for repeat, whole in _turns(config.workload, len(planned)):
            loads = _warm_up(config.workload, todo, most, repeat, whole=whole)
            warm += sum(estimate_point_s(p, arm, instances, config, shape) for arm in planned for p in loads)
        load_s = config.workload.starts * config.cluster.load_s
        sets.append(InstanceSet(name, instances, planned, load_s, measure, warm))
    if is_tuned(config):
        sets = [_tuned_cost(each, config) for each in sets]
    nodes = max(variant.topology.nodes for variant in arms.values())
    return Plan(config.name, config, nodes, nodes * config.cluster.gpus_per_node, tuple(sets), todo, trial_points(config))


def _tuned_cost(each: InstanceSet, config: Config) -> InstanceSet:
    """The set with its estimates where arms are tuned: the trials of its setting, and of the comparison the part that falls to it
    if every setting is as likely to be compared as another. One or two of a kind are."""
    tune, numbers = config.tune, rounds(config.tune.settings)
    compared = min(LIKELY_COMPARED / tune.settings, 1.0)
    loads = sum(count / tune.settings for count in numbers)
    trial_s = sum(count / tune.settings * tune.duration_s * 2**number for number, count in enumerate(numbers))
    starts = config.workload.starts
    return replace(
        each,
        load_s=(compared * starts + loads) * config.cluster.load_s,
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


def estimate_point_s(point: Point, arm: Arm, instances: tuple[Instance, ...], config: Config, shape: ModelShape | None) -> float:
    """A rough time for one point, for the plan's cost: its fixed time; or arrivals (a trace's are unknown), or prefill at 10 % of
    peak, plus decode steps of `cluster.step_ms` for 256 requests an instance at a time. Good to a factor of about 3; `predict` is
    the real model. Without sizes: 7 B parameters."""
    roles = list(zip(instances, arm.roles, strict=True))
    prefill_gpus = sum(i.gpu_count for i, role in roles if role != "decode")
    decoders = sum(i.data_parallel for i, role in roles if role != "prefill")
    active = shape.active_parameters if shape else 7e9
    input_len, output_len = typical_lengths(point)
    prefill_s = 2 * active * input_len * point.num_prompts / (prefill_gpus * config.cluster.gpu_tflops * 1e12 * 0.1)
    in_flight = min(point.num_prompts, point.max_concurrency or point.num_prompts)
    batches = max(-(-in_flight // (decoders * 256)), 1) * point.num_prompts / in_flight
    decode_s = output_len * config.cluster.step_ms / 1000
    if point.duration_s:  # what is in flight then is waited for
        return point.duration_s + decode_s + 1.0
    arrivals_s = point.num_prompts / point.request_rate if point.request_rate else 0.0
    if point.paced and (ramp := config.workload.ramp_up):
        arrivals_s = point.num_prompts / ramp_requests(ramp, 1.0)
    return max(arrivals_s, prefill_s) + batches * decode_s + 1.0
