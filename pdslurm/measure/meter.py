"""One point: counters and clocks before, the client, the same after, and the record made from them."""

from __future__ import annotations

import dataclasses
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pdslurm.config import Config, Device, Topology
from pdslurm.errors import PdslurmError, PointFailed
from pdslurm.measure import telemetry, timeline, transport, ttft
from pdslurm.measure.bench_client import BenchClient
from pdslurm.measure.watch import Deadline, Watch
from pdslurm.node.gpu_states import states_during
from pdslurm.node.gpu_use import use_during
from pdslurm.node.process_logs import log_lines
from pdslurm.node.processes import logs_by_instance
from pdslurm.plan.deployment import BoundArm, Process
from pdslurm.plan.environment import proxy_hint
from pdslurm.plan.kv_size import kv_size
from pdslurm.plan.model import hf_config
from pdslurm.plan.points import expected_hit_rate
from pdslurm.plan.tasks import Task
from pdslurm.records.good_requests import read_columns
from pdslurm.records.measurement import Measurement, metrics_of
from pdslurm.records.run_folder import RunFolder
from pdslurm.validity import kv_path
from pdslurm.validity.checks import checks
from pdslurm.validity.counters import total_of
from pdslurm.validity.demand import Demand
from pdslurm.validity.evidence import evidence_of
from pdslurm.validity.recheck import with_checks


class Meter:
    """What every measurement of a run has in common."""

    def __init__(self, config: Config, folder: RunFolder, watch: Watch) -> None:
        self.config, self.folder, self.watch, self.processes = config, folder, watch, watch.processes
        self.text: dict[str, Mapping[str, Any]] = {}  # by arm: what pdslurm/measure/text_check.py found after this load
        self.resolved: Mapping[str, Mapping[str, str]] = {}  # engine → what it resolved, of the set that is loaded

    def measure(
        self,
        client: BenchClient,
        record: Measurement,
        task: Task,
        engines: Sequence[Process],
        *,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Measurement:
        """`record` with what came out; `meanwhile` is called again and again. Raises PointFailed when the client could not measure,
        NotReady after limits.point_s, and PdslurmError alone: a point always leaves a record."""
        try:
            return self._measure(client, record, task, engines, meanwhile)
        except PdslurmError:
            raise
        except Exception as error:
            raise PointFailed(f"pdslurm could not measure this point\n{traceback.format_exc()}") from error

    def _measure(
        self, client: BenchClient, record: Measurement, task: Task, engines: Sequence[Process], meanwhile: Callable[[], None]
    ) -> Measurement:
        arm, deadline = task.arm, self.watch.deadline(self.config.limits.point_s)
        scraped = [*engines, *arm.routers]
        states = self._gpu_states(engines)
        before = self._scrape(scraped, deadline)
        with timeline.sampling(engines, self.config.telemetry_every_s) as samples, self._gpu_use(engines) as use:
            result = client.run(
                task.args,
                self.folder.path / record.provenance["raw"],
                requests=self.folder.beside_raw(record, "requests"),
                timeout_s=deadline.left_s,
                state=self.watch.state,
                meanwhile=meanwhile,
            )
        counted = self._counted(before, scraped, arm, result.get("completed") or 0, point=deadline)
        itls = result.pop("itl_histogram", {})
        over = self.transports(arm)
        counted["text"] = self.text.get(arm.arm.name)
        counted["transport"] = kv_path.as_json(over) if over else None
        after = self._gpu_states(engines)
        counted["gpus"] = {node: states_during(states.get(node, ()), now) for node, now in after.items()} or None
        counted["gpu_use"] = use.during(result.get("began_s"), result.get("duration"))
        counted["resolved"] = {name: dict(self.resolved[name]) for name in arm.engine_roles if name in self.resolved} or None
        counted |= ttft_telemetry(counted["engines"], result)
        if samples:
            path = self.folder.beside_raw(record, "timeline")
            timeline.write(path, samples, arm.engine_roles, result.get("began_s") or samples[0][0])
        demand = demand_of(self.config, task, result, counted["engines"])
        measured = dataclasses.replace(
            record,
            status="done" if result.get("completed") else "failed",
            demand=demand.as_json(),
            completed=result.get("completed"),
            failed=result.get("failed"),
            metrics=metrics_of(result),
            telemetry=counted,
            distributions={"itl_ms": itls} if itls else {},
            provenance={**record.provenance, "bytes": self.folder.raw_bytes(record), "client": result},
            error=None if result.get("completed") else _why_none(str(result.get("first_error") or "no request completed")),
        )
        found = checks(evidence_of(measured, read_columns(self.folder.beside_raw(record, "requests"))))
        return with_checks(measured, found, strict=demand.strict)

    def _counted(
        self, before: telemetry.Scrape, scraped: Sequence[Process], arm: BoundArm, completed: int, *, point: Deadline
    ) -> dict[str, Any]:
        """The counters' difference; waits for the last transfers to be counted."""
        deadline, due = self.watch.deadline(telemetry.COUNTED_WITHIN_S), transfers_due(self.config, arm.arm.topology, completed)
        while True:
            after = self._scrape(scraped, point)
            counted = telemetry.counted(before, after, arm.engine_roles, [r.name for r in arm.routers])
            if deadline.is_over or _is_all_counted(counted, completed, due if arm.arm.topology.moves_by_nixl else 0):
                return counted
            self.watch.wait(lambda: time.sleep(0.2))

    def _scrape(self, scraped: Sequence[Process], point: Deadline) -> telemetry.Scrape:
        """Within what limits.point_s leaves, and a second at least: without it the point's work would be lost."""
        limit_s = min(telemetry.SCRAPE_S, max(1.0, point.left_s))
        return self.watch.wait(lambda: telemetry.scrape(scraped, timeout_s=limit_s))

    def _gpu_states(self, engines: Sequence[Process]) -> dict[str, list[dict[str, Any]]]:
        """The engines' GPUs by node, while nothing is asked of them; empty on a cluster without GPUs."""
        if self.config.cluster.device is not Device.cuda:
            return {}
        return self.watch.wait(lambda: self.processes.gpu_states(engines))

    @contextmanager
    def _gpu_use(self, engines: Sequence[Process]) -> Iterator[_Use]:
        """Looks at the engines' GPUs while the block runs; at none on a cluster without GPUs."""
        use = _Use()
        if self.config.cluster.device is not Device.cuda:
            yield use
            return
        self.watch.wait(lambda: self.processes.begin_gpu_use(engines))
        try:
            yield use
        finally:
            use.ended_at = time.monotonic()
            with suppress(PdslurmError):  # of a node that is lost the next tick tells
                use.told = self.processes.end_gpu_use()

    def transports(self, arm: BoundArm) -> dict[str, tuple[kv_path.KvPath, ...]]:
        """What the instances that fetch KV in this arm said about its way, by name; empty for an arm where none moves by NIXL."""
        if not arm.arm.topology.moves_by_nixl:
            return {}
        decoding = [name for name, role in arm.engine_roles.items() if role == "decode"]
        logs = logs_by_instance(self.processes.running, decoding)
        return {name: transport.kv_paths(log_lines(paths)) for name, paths in logs.items()}


@dataclasses.dataclass
class _Use:
    """What the looks at GPUs saw by node, and when they ended by the monotonic clock."""

    told: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    ended_at: float = 0.0

    def during(self, began_s: float | None, duration_s: float | None) -> dict[str, Any] | None:
        """By node what each GPU did while requests were measured; None where nobody looked, or when is not known."""
        if not self.told or began_s is None or not duration_s:
            return None
        age = self.ended_at - began_s
        return {node: use_during(told, began_age_s=age, duration_s=duration_s) for node, told in self.told.items()}


def _why_none(first_error: str) -> str:
    """Why no request was answered, and on the same line the proxy that may have answered instead: one line of an error is said."""
    hint = proxy_hint(first_error, os.environ).strip()
    return f"{first_error.strip()} ({hint})" if hint else first_error


def _is_all_counted(counted: Mapping[str, Any], completed: int, transfers: int) -> bool:
    """Whether engines have counted every request and so many transfers; what they do not tell is not waited for."""
    engines = counted["engines"].values()
    by_role = [total_of([e for e in engines if e["role"] == role], "requests") for role in {e["role"] for e in engines}]
    moved = counted["totals"]["nixl_transfers"]
    return all(count is None or count >= completed for count in by_role) and (moved is None or moved >= transfers)


def transfers_due(config: Config, topology: Topology, completed: int) -> int:
    """Transfers that engines count once the KV of so many requests has moved: each rank of a decode instance fetches its own."""
    return completed * kv_size(config, topology, {}).ranks


def demand_of(config: Config, task: Task, client: Mapping[str, Any], engines: Mapping[str, Mapping[str, Any]]) -> Demand:
    """What the checks compare a point with. Of a point that ends by the clock the client tells how many requests it sent; engines
    tell the dtype of their KV cache."""
    topology, point = task.arm.arm.topology, task.point
    router, workload = topology.router, config.workload
    return Demand(
        **_kv(config, topology, engines),
        num_prompts=(client.get("asked") or 0) if point.duration_s else point.num_prompts,
        input_len=point.input_len if workload.dataset == "random" and not point.mix else 0,
        output_len=point.output_len,
        request_rate=point.request_rate,
        max_concurrency=point.max_concurrency,
        duration_s=point.duration_s,
        stream=workload.stream,
        disaggregated=bool(topology.prefill),
        gpu_count=topology.nodes * config.cluster.gpus_per_node,
        strict=config.strict,
        even=workload.dataset != "trace" and not workload.ramp_up,
        prefix_hit_rate=expected_hit_rate(workload, point),
        nixl=topology.moves_by_nixl,
        transport=config.cluster.network.transport.value,
        policies={}  # attached: somebody else's router chooses by a policy that is not known
        if config.attach
        else {
            "both": router.policy,
            "prefill": router.prefill_policy or router.policy,
            "decode": router.decode_policy or router.policy,
        },
        gpus=config.cluster.device is Device.cuda,
    )


def _kv(config: Config, topology: Topology, engines: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of Demand that say how much KV a prompt has to move."""
    if not topology.moves_by_nixl:
        return {}
    size = kv_size(config, topology, hf_config(config.model))
    told = {engine.get("cache_dtype") for engine in engines.values() if engine["role"] == "decode"}
    dtype = told.pop() if len(told) == 1 else None
    each = size.bytes_per_token(dtype)
    unknown = "" if each is not None else size.unknown or f"the cache's dtype {dtype} is unknown"
    return {"kv_bytes_per_token": each, "kv_ranks": size.ranks, "kv_unknown": unknown}


def ttft_telemetry(engines: Mapping[str, Any], client: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a record's telemetry that pdslurm/measure/ttft.py makes."""
    whole = client.get("until_last_answer") or client  # engines count what ended after a fixed time, too
    starved, evidence = ttft.starved_decode(engines, whole.get("duration"))
    return {
        "ttft": ttft.breakdown(engines, client.get("mean_ttft_ms") or None),
        "ttft_spans": ttft.spans(engines),
        "starved_decode": {"starved": starved, **evidence},
    }
