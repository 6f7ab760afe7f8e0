"""A plan's cost: what a load, a point and an arm's start take, from what earlier runs of the same cluster and model took, else from
the cluster's own numbers. Pure: the launcher hands the earlier runs in (pdslurm/records/earlier_runs.py)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from pdslurm.config import Config, Search, Topology
from pdslurm.plan.model import model_shape
from pdslurm.plan.placement import Instance
from pdslurm.plan.points import Point, ramp_requests, typical_lengths
from pdslurm.records.earlier_runs import NO_RUNS, ArmShape, EarlierRuns, PointTime

BESIDE_S = 3.0  # of a point: the client's start and end, counters and GPUs before and after; 1 to 3 s on H100, H200 and a CPU
ARM_S = 5.0  # router, first requests, text check
BATCH = 256  # requests that an instance decodes at a time
SIZE = 7e9  # parameters of a model of unknown size


@dataclass(frozen=True)
class Estimator:
    """For one configuration."""

    config: Config
    earlier: EarlierRuns = NO_RUNS

    def load_s(self, arm: ArmShape) -> float:
        """One load of a set that serves such an arm."""
        alike = self._loads(arm)
        return median(alike) if alike else self.config.cluster.load_s

    def point_s(self, point: Point, roles: Sequence[str], instances: Sequence[Instance]) -> float:
        """One point with what comes before and after it."""
        arm = arm_shape(roles, instances)
        alike = [seen.measuring_s for seen in self.earlier.points if seen.arm == arm and _setting(seen) == _of(point)]
        measuring = median(alike) if alike else self._measuring_s(point, roles, instances)
        return measuring + self.beside_s

    def warm_up_s(self, load: Point, roles: Sequence[str], instances: Sequence[Instance]) -> float:
        """One load of a warm-up; its counters are not read."""
        return self._measuring_s(load, roles, instances) + 1.0

    @property
    def beside_s(self) -> float:
        return median(self.earlier.beside_s) if self.earlier.beside_s else BESIDE_S

    def source(self, arms: Sequence[ArmShape]) -> str:
        """Where the estimate of these arms comes from, in words."""
        known = {arm: len(self._loads(arm)) for arm in dict.fromkeys(arms)}
        loads = sum(known.values())
        each = sorted({round(self.load_s(arm)) for arm in known})
        seconds = f"{each[0]}" if len(each) == 1 else f"{each[0]} to {each[-1]}"
        of_loads = f"as in {loads} earlier" if loads else "by cluster.load_s"
        count = len(self.earlier.beside_s)
        of_points = f"as in {count} earlier" if count else "no earlier run tells"
        runs = ", ".join(self.earlier.runs[:2]) + (f" and {more} more" if (more := len(self.earlier.runs) - 2) > 0 else "")
        where = f"; from {runs}" if self.earlier.runs else ""
        return f"a load takes {seconds} s ({of_loads}), a point {self.beside_s:.1f} s beside its measuring ({of_points}){where}"

    def _loads(self, arm: ArmShape) -> tuple[float, ...]:
        """Of the same arm, else of as large instances in any arm."""
        loads = self.earlier.loads
        same = tuple(load.load_s for load in loads if load.arm == arm)
        return same or tuple(load.load_s for load in loads if load.arm.gpus_each == arm.gpus_each)

    def _measuring_s(self, point: Point, roles: Sequence[str], instances: Sequence[Instance]) -> float:
        """Its fixed time, or its arrivals, and the last answers; or the work, where that takes longer. A trace's arrivals are not
        known."""
        work_s, last_s = self._work_s(point, roles, instances) * self._factor(roles, instances), self._last_s(point)
        if point.duration_s:
            return point.duration_s + last_s
        arrivals_s = point.num_prompts / point.request_rate if point.request_rate else 0.0
        if point.paced and (ramp := self.config.workload.ramp_up):
            arrivals_s = point.num_prompts / ramp_requests(ramp, 1.0)
        return max(arrivals_s + last_s, work_s)

    def _last_s(self, point: Point) -> float:
        """What is in flight when the last request is sent is waited for."""
        return typical_lengths(point)[1] * self.config.cluster.step_ms / 1000

    def _work_s(self, point: Point, roles: Sequence[str], instances: Sequence[Instance]) -> float:
        """Every prompt's prefill at cluster.gpu_tflops, and every answer's decode steps of cluster.step_ms in batches."""
        cluster, shape = self.config.cluster, model_shape(self.config.model)
        of_roles = list(zip(instances, roles, strict=True))
        prefill_gpus = sum(instance.gpu_count for instance, role in of_roles if role != "decode")
        decoders = sum(instance.data_parallel for instance, role in of_roles if role != "prefill")
        input_len, _ = typical_lengths(point)
        active = shape.active_parameters if shape else SIZE
        prefill_s = 2 * active * input_len * point.num_prompts / (prefill_gpus * cluster.gpu_tflops * 1e12)
        in_flight = min(point.num_prompts, point.max_concurrency or point.num_prompts)
        rounds = max(-(-in_flight // (decoders * BATCH)), 1) * point.num_prompts / in_flight
        return prefill_s + rounds * self._last_s(point)

    def _factor(self, roles: Sequence[str], instances: Sequence[Instance]) -> float:
        """How much longer the work of earlier points of such an arm took than is computed here; 1 where there was none."""
        arm = arm_shape(roles, instances)
        ratios = [
            seen.measuring_s / computed
            for seen in self.earlier.points
            if seen.arm == arm and seen.is_work and (computed := self._work_s(_point(seen), roles, instances)) > 0
        ]
        return median(ratios) if ratios else 1.0


def measured_share(topology: Topology, arms: Iterable[Topology], search: Search) -> float:
    """The part of a P/D arm's points that is likely measured, where saturated instances suggest one ratio and only that and its
    neighbours are: as if every ratio were as likely to be suggested."""
    ratios = [arm.prefill for arm in arms if arm.prefill]
    if search.lowest is None or search.neighbours is None or not topology.prefill:
        return 1.0
    return fmean(sum(abs(ratio - suggested) <= search.neighbours for ratio in ratios) / len(ratios) for suggested in ratios)


def arm_shape(roles: Sequence[str], instances: Sequence[Instance]) -> ArmShape:
    return ArmShape(tuple(roles), sum(instance.gpu_count for instance in instances) / len(instances))


def _of(point: Point) -> tuple[object, ...]:
    return (*point.setting, point.num_prompts, point.duration_s, point.load)


def _setting(seen: PointTime) -> tuple[object, ...]:
    return (seen.input_len, seen.output_len, seen.request_rate, seen.max_concurrency, seen.num_prompts, seen.duration_s, seen.load)


def _point(seen: PointTime) -> Point:
    lengths = seen.input_len, seen.output_len, seen.request_rate, seen.max_concurrency
    return Point(*lengths, seen.num_prompts, 0, 0, (), seen.load, seen.duration_s)
