"""From what sinfo, scontrol, sacctmgr and sshare print to what they say of a site. Parsing is pure; `ask_slurm` runs the commands.

Only output formats are used that Slurm 20 to 25 have in common."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pdslurm.errors import ConfigError

TIMEOUT_S = 60.0
SINFO = ("sinfo", "--noheader", "--Node", "--format=%N|%P|%f|%m|%c|%l|%L|%G")  # the last: %G may hold any character but a newline
NODES = ("scontrol", "show", "node", "--oneliner")
CONFIG = ("scontrol", "show", "config")
NOTHING = ("", "(null)", "N/A", "n/a")
Run = Callable[[Sequence[str]], str]  # a command's standard output; raises OSError or subprocess.SubprocessError


@dataclass(frozen=True)
class Kind:
    """One kind of GPU on a node: `type` as GRES has it, "" where it has none."""

    type: str
    count: int

    @property
    def gres(self) -> str:
        return ":".join(["gpu", *([self.type] if self.type else []), str(self.count)])

    @property
    def is_part(self) -> bool:
        """Whether these are parts of GPUs, by a name of MIG such as 1g.10gb."""
        return re.search(r"\dg\.", self.type) is not None


@dataclass(frozen=True)
class Node:
    """A node as it is in one partition."""

    name: str
    partition: str
    features: tuple[str, ...]
    memory_mib: int | None
    cpus: int | None
    gpus: tuple[Kind, ...]  # the most first


@dataclass(frozen=True)
class Partition:
    name: str
    is_default: bool
    max_time: str
    default_time: str


@dataclass(frozen=True)
class SlurmFacts:
    """`config`: scontrol's settings. `accounts`: of this user, the default one first. `silent`: commands that said nothing, and
    why."""

    partitions: tuple[Partition, ...]
    nodes: tuple[Node, ...]
    config: Mapping[str, str]
    accounts: tuple[str, ...]
    has_pyxis: bool
    silent: Mapping[str, str]

    def of(self, partition: str) -> list[Node]:
        return [node for node in self.nodes if node.partition == partition]


def ask_slurm(run: Run, user: str) -> SlurmFacts:
    """Raises ConfigError where there is no Slurm, or it does not answer."""
    silent: dict[str, str] = {}

    def optional(*command: str) -> str:
        try:
            return run(command)
        except (OSError, subprocess.SubprocessError) as error:
            silent[command[0] if command[0] != "scontrol" else " ".join(command[:3])] = why(error)
            return ""

    try:
        listed = run(SINFO)
    except FileNotFoundError as error:
        raise ConfigError(["site: sinfo is not on PATH: no Slurm on this machine; run this on a login node"]) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError([f"site: `sinfo` does not tell the nodes: {why(error)}; run this where sinfo works"]) from error
    partitions, nodes = parse_sinfo(listed, parse_nodes(optional(*NODES)))
    if not nodes:
        raise ConfigError(["site: sinfo shows no node; ask the site which partitions this account may use"])
    accounts = parse_accounts(optional("sacctmgr", "--noheader", "--parsable2", "show", "user", user, "format=DefaultAccount"))
    accounts += parse_accounts(
        optional("sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}", "format=Account")
    )
    if not accounts:
        accounts = parse_accounts(optional("sshare", "--noheader", "--parsable2", "--users", user, "--format=Account"))
    help_text, config = optional("srun", "--help"), parse_config(optional(*CONFIG))
    return SlurmFacts(partitions, nodes, config, tuple(dict.fromkeys(accounts)), "--container-image" in help_text, silent)


def run_command(command: Sequence[str]) -> str:
    """A command's standard output. Raises OSError and subprocess.SubprocessError."""
    # In any other language or time format its output could not be read.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SINFO_", "SLURM_TIME_FORMAT"))} | {"LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=True, env=env).stdout


def why(error: Exception) -> str:
    """An error of `run_command` in words, on one line."""
    if isinstance(error, FileNotFoundError):
        return "it is not on PATH"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it does not answer within {error.timeout:g} s"
    if isinstance(error, subprocess.CalledProcessError):
        return " ".join((error.stderr or "").split())[-300:] or f"exit code {error.returncode}"
    return str(error)


# --- parsing


def parse_gres(text: str) -> tuple[Kind, ...]:
    """`gpu:a100:4(S:0-1),gpu:a30:2,shard:8` → the two kinds of GPUs, whole ones before parts, then the most first."""
    counts: dict[str, int] = {}
    for entry in re.sub(r"\([^)]*\)", "", text).split(","):
        name, *rest = entry.strip().split(":")
        if name != "gpu":
            continue
        count = int(rest.pop()) if rest and rest[-1].isdigit() else 1
        kind = ":".join(word for word in rest if word != "no_consume")
        counts[kind] = counts.get(kind, 0) + count
    kinds = (Kind(type_, count) for type_, count in counts.items() if count)
    return tuple(sorted(kinds, key=_most_first))


def _most_first(kind: Kind) -> tuple[bool, int, str]:
    return kind.is_part, -kind.count, kind.type


def parse_tres(text: str) -> tuple[Kind, ...]:
    """`cpu=96,mem=2000G,gres/gpu=8,gres/gpu:h100=8` → its GPUs, by type where types are told."""
    found = re.findall(r"(?:^|,)gres/gpu(?::([^=,]+))?=(\d+)", text)
    typed = [(type_, count) for type_, count in found if type_] or found
    kinds = (Kind(type_, int(count)) for type_, count in typed if int(count))
    return tuple(sorted(kinds, key=_most_first))


def parse_nodes(text: str) -> dict[str, tuple[Kind, ...]]:
    """`scontrol show node --oneliner`: node → its GPUs."""
    nodes = {}
    for line in text.splitlines():
        fields = dict(re.findall(r"(?:^|\s)(NodeName|Gres|CfgTRES)=(\S*)", line))
        if "NodeName" in fields:
            nodes[fields["NodeName"]] = parse_gres(fields.get("Gres", "")) or parse_tres(fields.get("CfgTRES", ""))
    return nodes


def parse_sinfo(text: str, gpus: Mapping[str, tuple[Kind, ...]]) -> tuple[tuple[Partition, ...], tuple[Node, ...]]:
    """SINFO's lines: a node once for each of its partitions. `gpus`: what scontrol said of nodes, where it said something."""
    partitions: dict[str, Partition] = {}
    nodes: dict[tuple[str, str], Node] = {}
    for line in text.splitlines():
        fields = line.strip().split("|", 7)
        if len(fields) < 8:
            continue
        name, starred, features, memory, cpus, max_time, default_time, gres = fields
        partition = starred.removesuffix("*")
        partitions[partition] = Partition(partition, starred.endswith("*"), max_time.strip(), default_time.strip())
        kinds = gpus.get(name) or parse_gres(gres)
        known = () if features in NOTHING else tuple(features.split(","))
        nodes[name, partition] = Node(name, partition, known, number(memory), number(cpus), kinds)
    return tuple(partitions.values()), tuple(nodes.values())


def parse_config(text: str) -> dict[str, str]:
    """`scontrol show config`: setting → value."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def parse_accounts(text: str) -> list[str]:
    return [account for line in text.splitlines() if (account := line.strip().rstrip("|").strip()) not in NOTHING]


def number(text: str) -> int | None:
    """`2063000`, and `2063000+` of nodes that are not alike."""
    digits = text.strip().removesuffix("+")
    return int(digits) if digits.isdigit() else None


def minutes(text: str) -> float | None:
    """Slurm's times, `4:00:00`, `2-00:00:00`, `30:00`; None for infinite and unknown."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        return None
    days, *parts = match.groups()
    given = [int(part) for part in parts if part is not None]
    if days is not None:  # days-hours[:minutes[:seconds]]
        hours, mins, secs = (*given, 0, 0)[:3]
        return int(days) * 1440 + hours * 60 + mins + secs / 60
    if len(given) == 3:
        return given[0] * 60 + given[1] + given[2] / 60
    return given[0] + (given[1] / 60 if len(given) == 2 else 0)
