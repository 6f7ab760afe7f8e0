"""From what Slurm and, maybe, a compute node say of a site to the first draft of conf/cluster/NAME.yaml. Pure.

Every value stands with where it is from; what could not be found out stands as a comment that says what to fill in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pdslurm.errors import ConfigError
from pdslurm.slurm.known_gpus import KnownGpu, is_known, known_gpu
from pdslurm.slurm.site_facts import NOTHING, Kind, Node, Partition, SlurmFacts, minutes
from pdslurm.slurm.site_network import Look, network_lines
from pdslurm.slurm.yaml_lines import clean, entry, scalar

GUESSED_GIB = 80  # lets the plan be made
CPU_SHARE = 0.8  # of a node's memory that its engines may have
LEAST_MIN = 30  # pdslurm asks for no shorter job by itself


@dataclass(frozen=True)
class Chosen:
    """The part of the cluster that the draft is of: the nodes of one partition that have the same GPUs and are the most."""

    partition: Partition
    nodes: tuple[Node, ...]
    others: tuple[Node, ...]  # of the same partition, with other GPUs
    why: str  # this partition

    @property
    def gpus(self) -> Kind | None:
        return self.nodes[0].gpus[0] if self.nodes[0].gpus else None

    @property
    def feature(self) -> str | None:
        """One that all of its nodes have and none of the others."""
        theirs = {feature for node in self.others for feature in node.features}
        shared = [f for f in self.shared_features if f not in theirs]
        named = [f for f in shared if self.gpus and self.gpus.type and self.gpus.type.lower() in f.lower()]
        return next(iter([*named, *shared]), None)

    @property
    def shared_features(self) -> list[str]:
        return [f for f in self.nodes[0].features if all(f in node.features for node in self.nodes)]

    @property
    def constraint(self) -> str | None:
        """The feature that keeps a job off nodes with other GPUs; those without any are no danger, for GRES is asked for."""
        return self.feature if any(node.gpus for node in self.others) else None

    @property
    def needs_type(self) -> bool:
        """Whether a job has to name the type of GPU to get these and no others."""
        there = self.nodes if self.constraint else (*self.nodes, *self.others)
        return len({kind.type for node in there for kind in node.gpus}) > 1 and bool(self.gpus and self.gpus.type)

    @property
    def called(self) -> tuple[str, str]:
        """What Slurm calls these GPUs, and where it says so."""
        if self.gpus and self.gpus.type:
            return self.gpus.type, f"sinfo: the type in gres={self.gpus.gres}"
        named = next((f for f in self.shared_features if is_known(f)), "")
        return named, f"sinfo: feature {named} of these nodes" if named else "FILL IN: GRES has no type, and no feature names it"


def choose(facts: SlurmFacts, wanted: str | None = None, *, job: str | None = None) -> Chosen:
    """The wanted partition, else that of the `job` that this runs in, else the default one, or one with GPUs where that has none.
    Raises ConfigError for a wanted one that is not there."""
    of_job = next((partition for partition in facts.partitions if partition.name == job), None)
    partition, why = (of_job, "the partition of this job") if of_job and wanted is None else _partition(facts, wanted)
    nodes = facts.of(partition.name)
    whole = Counter(node.gpus for node in nodes if node.gpus and not node.gpus[0].is_part)
    alike = whole or Counter(node.gpus for node in nodes if node.gpus) or Counter(node.gpus for node in nodes)
    [(kinds, _)] = alike.most_common(1)
    same = tuple(node for node in nodes if node.gpus == kinds)
    return Chosen(partition, same, tuple(node for node in nodes if node.gpus != kinds), why)


def _partition(facts: SlurmFacts, wanted: str | None) -> tuple[Partition, str]:
    names = {partition.name: partition for partition in facts.partitions}
    if wanted is not None:
        if wanted not in names:
            raise ConfigError([f"site: --partition={wanted}: sinfo shows no such partition; use one of {', '.join(names)}"])
        return names[wanted], "as asked"
    with_gpus = Counter(node.partition for node in facts.nodes if node.gpus)
    default = next((p for p in facts.partitions if p.is_default), None)
    if default and (default.name in with_gpus or not with_gpus):
        return default, "the default partition"
    if with_gpus:
        instead = f"the default partition {default.name} has no GPU" if default else "there is no default partition"
        return names[with_gpus.most_common(1)[0][0]], f"{instead}, and this one has the most nodes with GPUs"
    return facts.partitions[0], "there is no default partition, and this is the first one"


def draft(name: str, facts: SlurmFacts, chosen: Chosen, looks: Sequence[Look], failed: str = "") -> str:
    """The file's text. `looks`: what was seen on nodes; `failed`: why none was, where one was asked for."""
    cluster, partition = clean(facts.config.get("ClusterName") or "Slurm"), clean(chosen.partition.name)
    lines = [
        f"# A first draft by `python -m pdslurm.doctor site`, of partition {partition} of {cluster}.",
        "# Read it and fill in what is commented out. Then look at the plan:",
        f"# python -m pdslurm experiment=pd_1p3d cluster={clean(name)} launcher=plan",
        *([f"# No node was looked at: {clean(failed)}"] if failed else []),
        *(f"# `{clean(command)}` said nothing: {clean(reason)}" for command, reason in facts.silent.items()),
        entry("name", name, "for people and for the record; the file's name is what cluster=… takes"),
        *_hardware(chosen, looks),
        *network_lines(looks),
        *_slurm(facts, chosen),
        *_containers(facts, looks),
    ]
    return "\n".join(lines) + "\n"


# --- GPUs


def _hardware(chosen: Chosen, looks: Sequence[Look]) -> Iterator[str]:
    kind, where = chosen.gpus, f"{len(chosen.nodes)} node(s) of partition {chosen.partition.name}"
    seen = [gpu for look in looks for gpu in look.get("gpus") or ()]
    if kind is None and not seen:
        yield from _cpus(chosen, where)
        return
    called, source = (seen[0][0], f"nvidia-smi: {seen[0][0]}") if seen else chosen.called
    mib = seen[0][1] if seen else None
    known = known_gpu(called, None if mib is None else float(int(mib / 1024)))
    count = kind.count if kind else len(looks[0]["gpus"])
    yield entry("gpus_per_node", count, f"sinfo: gres={kind.gres} on {where}" if kind else "nvidia-smi; Slurm knows of no GPU")
    cpus, memory = chosen.nodes[0].cpus, chosen.nodes[0].memory_mib
    yield f"# sinfo: {cpus or 'unknown'} CPUs and {memory // 1024 if memory else 'unknown'} GiB of memory a node"
    yield from _other_kinds(chosen)
    if kind and kind.is_part:
        yield f"# {clean(kind.type)} is a part of a GPU (MIG); pdslurm needs whole ones and refuses it before engines start"
    yield entry("gpu", known.name, source)
    yield from _memory(known, looks)
    yield from _differing(looks)
    yield from _estimates(known)
    yield 'env: {VLLM_NO_USAGE_STATS: "1"}  # as the files of conf/cluster have it'
    yield "engine_args: {gpu_memory_utilization: 0.9}  # as vLLM has it"


def _cpus(chosen: Chosen, where: str) -> Iterator[str]:
    memory = min((node.memory_mib for node in chosen.nodes if node.memory_mib), default=None)
    yield entry("device", "cpu", f"sinfo: no GPU on {where}")
    yield entry("gpus_per_node", 1, "one engine on each node")
    yield entry("gpu", "CPU", "for people and for the record")
    gib = max(1, int(memory * CPU_SHARE / 1024)) if memory else GUESSED_GIB
    yield entry("gpu_memory_gib", gib, f"sinfo: {memory} MiB a node, of which {CPU_SHARE:.0%}" if memory else "FILL IN: a guess")
    yield entry("kv_buffer_device", "cpu", "there is no other memory")
    yield entry("gpu_tflops", 0.2, "for estimates; as conf/cluster/laptop.yaml has it")
    yield 'env: {VLLM_CPU_KVCACHE_SPACE: "4", VLLM_NO_USAGE_STATS: "1"}  # GiB of KV cache of an engine, a whole number'
    yield "engine_args: {block_size: 128}  # a multiple of 32 on the CPU"


def _other_kinds(chosen: Chosen) -> Iterator[str]:
    first = chosen.nodes[0].gpus
    for kind in first[1:]:
        yield f"# the same nodes have {clean(kind.gres)} too, of which this draft takes none"
    others = Counter(", ".join(kind.gres for kind in node.gpus) or "no GPU" for node in chosen.others)
    for gres, count in others.most_common():
        yield f"# {count} other node(s) of this partition have {clean(gres)}; this draft is of the most frequent kind"


def _memory(known: KnownGpu, looks: Sequence[Look]) -> Iterator[str]:
    if known.memory_gib is not None:
        yield entry("gpu_memory_gib", _number(known.memory_gib), f"from {known.memory_from}")
        return
    asked = f"nvidia-smi does not answer on {looks[0]['node']}" if looks else "--look 1 asks nvidia-smi"
    yield entry("gpu_memory_gib", GUESSED_GIB, f"FILL IN: not known, a guess that lets the plan be made; {asked}")


def _differing(looks: Sequence[Look]) -> Iterator[str]:
    """Nodes that were looked at and do not have what the first one has."""
    for look in looks[1:]:
        for what in ("gpus", "fabrics", "memlock", "programs"):
            if look.get(what) != looks[0].get(what):
                yield f"# {clean(look['node'])} has other {what} than {clean(looks[0]['node'])}: {clean(look.get(what))}"


def _estimates(known: KnownGpu) -> Iterator[str]:
    for name, default in (("load_s", 180), ("gpu_tflops", 400)):
        if name in known.estimates:
            yield entry(name, _number(known.estimates[name]), f"for estimates; from {known.estimates_from}")
        else:
            yield f"# {name}: {default}  # not known; for estimates only, and this is the default"


# --- Slurm


def _slurm(facts: SlurmFacts, chosen: Chosen) -> Iterator[str]:
    partition = chosen.partition
    yield "slurm:"
    limit, default = partition.max_time, partition.default_time
    lasts = f", and {default} where it asks for no time" if default not in NOTHING else ""
    yield entry("  partition", partition.name, f"sinfo: {chosen.why}; a job may last {in_words(limit)}{lasts}")
    for other in facts.partitions:
        if other.name != partition.name:
            yield f"  # partition: {scalar(other.name)}  # sinfo: {clean(_summary(facts, other))}"
    yield from _accounts(facts)
    if chosen.constraint:
        yield entry("  constraint", chosen.constraint, "sinfo: a feature of these nodes and of no other node of the partition")
    if (most := minutes(limit)) is not None and most < LEAST_MIN:
        yield entry(
            "  time_min", max(1, int(most)), f"sinfo: a job lasts {limit} at most, and pdslurm would ask for {LEAST_MIN} min"
        )
    named = "gres" if chosen.gpus else "none"
    yield entry("  gpus_by", named, f"sinfo: GRES names {'the GPUs' if chosen.gpus else 'no GPU'}")
    yield from _extra(facts, chosen)


def _summary(facts: SlurmFacts, partition: Partition) -> str:
    nodes = facts.of(partition.name)
    kinds = Counter(", ".join(kind.gres for kind in node.gpus) or "no GPU" for node in nodes)
    words = "; ".join(f"{count} node(s) with {gres}" for gres, count in kinds.most_common())
    return f"{'the default partition, ' if partition.is_default else ''}{words}; a job may last {in_words(partition.max_time)}"


def in_words(limit: str) -> str:
    """A time limit; sinfo says `infinite` where there is none."""
    return limit if minutes(limit) is not None else "without limit"


def _accounts(facts: SlurmFacts) -> Iterator[str]:
    if not facts.accounts:
        enforced = facts.config.get("AccountingStorageEnforce", "none")
        enforce = f"AccountingStorageEnforce={clean(enforced)}"
        yield f"  # account: FILL IN if sbatch asks for one; {enforce}, and Slurm tells no account of yours"
        return
    yield entry("  account", facts.accounts[0], "sacctmgr or sshare: yours")
    yield from (f"  # account: {scalar(account)}  # yours, too" for account in facts.accounts[1:])


def _extra(facts: SlurmFacts, chosen: Chosen) -> Iterator[str]:
    """Options of sbatch beyond the usual ones."""
    options: dict[str, tuple[Any, str]] = {}
    if "MEMORY" in facts.config.get("SelectTypeParameters", "").upper():
        options["mem"] = 0, "scontrol: SelectTypeParameters counts memory; 0 is all of a node, without it a job gets DefMemPerNode"
    if chosen.gpus and chosen.needs_type:
        options["gres"] = chosen.gpus.gres, "sinfo: other GPUs are in the partition, and no feature tells these apart"
    if options:
        yield "  extra:"
        yield from (entry(f"    {name}", value, comment) for name, (value, comment) in options.items())


def _containers(facts: SlurmFacts, looks: Sequence[Look]) -> Iterator[str]:
    there = [name for name in (looks[0]["programs"] if looks else ()) if name != "singularity"]
    there += ["pyxis"] if facts.has_pyxis else []
    if there:
        yield f"# Containers: {', '.join(there)}; for example runtime={there[-1]} runtime.image=… (docs/containers.md)"
    elif looks:
        yield f"# Containers: none on {clean(looks[0]['node'])}; use runtime=bare with PDSLURM_ENGINE (docs/cluster.md)"
    else:
        yield "# Containers: not looked at; --look 1 does"


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value
