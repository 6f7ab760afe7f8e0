"""From cluster.network and cluster.slurm to everything that is wrong with them, one sentence for each problem. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from pdslurm.config import Cluster, Device, Network, Slurm

# sbatch's options whose values are text, even where they consist of digits
TEXT = frozenset((
    "partition", "account", "qos", "constraint", "reservation", "time", "time-min", "begin", "deadline", "comment", "wckey",
    "dependency", "licenses", "mcs-label", "nodelist", "exclude", "prefer", "chdir", "clusters", "cluster", "mail-user",
    "mail-type", "gres", "network", "acctg-freq", "hint", "export", "export-file", "uid", "gid", "kill-on-invalid-dep",
    "open-mode", "profile", "propagate", "switches", "distribution", "cpu-freq", "gpu-freq", "gpu-bind", "gres-flags", "bb",
    "bbf",
))  # fmt: skip
TIMES = frozenset(("time", "time-min", "begin", "deadline"))  # of which YAML makes seconds, or minutes
OWN_SBATCH = {
    **dict.fromkeys(("nodes", "ntasks", "ntasks-per-node", "ntasks-per-gpu"), "topology and cluster.gpus_per_node say it"),
    **dict.fromkeys(("tasks-per-node", "ntasks-per-tres"), "each node has one task, which starts the engines there"),
    **dict.fromkeys(("gpus", "gpus-per-task", "gpus-per-socket", "tres-per-task"), "cluster.gpus_per_node says it, of each node"),
    **dict.fromkeys(("job-name", "output", "error", "input"), "the run's name and folder say it"),
    "signal": "cluster.slurm.warn_s says it",
    "requeue": "cluster.slurm.requeue says it",
    "no-requeue": "cluster.slurm.requeue says it",
    "array": "a run is one job",
    "clusters": "set SLURM_CLUSTERS in the environment instead",
    "hetjob": "a run is one job of equal nodes",
    "het-group": "a run is one job of equal nodes",
    "wrap": "pdslurm writes the script",
    "test-only": "it submits nothing; use launcher=plan",
    "parsable": "pdslurm reads sbatch's answer",
    "wait": "launcher.wait says it",
    "quiet": "pdslurm reads sbatch's answer",
}
OWN_SRUN = frozenset((
    "nodes", "ntasks", "ntasks-per-node", "nodelist", "exclude", "overlap", "exact", "exclusive", "mem", "cpu-bind", "gres",
    "gpus", "gpus-per-node", "gpus-per-task", "kill-on-bad-exit", "wait", "quiet", "job-name", "jobid", "export", "output",
    "error", "input", "pty", "het-group", "multi-prog", "test-only", "no-allocate", "immediate", "time", "relative", "label",
    "chdir",
))  # fmt: skip
LOOPBACK = ipaddress.IPv4Network("127.0.0.0/8")
TIME = r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}"


def problems(cluster: Cluster) -> Iterator[str]:
    """Every problem of the site's network and of what is asked of its Slurm."""
    yield from _network(cluster.network, one_host=cluster.one_host)
    yield from _slurm(cluster.slurm)
    yield from _extra(cluster)
    yield from _srun(cluster.slurm.srun)


def _network(network: Network, *, one_host: bool) -> Iterator[str]:
    unreachable = "the loopback, by which nodes do not reach each other"
    if network.interface is not None and not re.fullmatch(r"[^\s,/:]{1,15}", network.interface):
        yield f"cluster.network.interface={network.interface!r}: must be the name of one interface, such as ib0"
    elif network.interface == "lo" and not one_host:
        yield f"cluster.network.interface=lo: is {unreachable}; must be an interface that leads to the others, such as ib0"
    if network.cidr is None:
        return
    example = "must be one IPv4 network such as 10.79.0.0/16"
    try:
        net = ipaddress.ip_network(network.cidr, strict=False)
    except ValueError:
        yield f"cluster.network.cidr={network.cidr!r}: {example}"
        return
    if net.version != 4:
        yield f"cluster.network.cidr={network.cidr}: {example}; pdslurm does not use IPv6"
    elif net.prefixlen == 0:
        yield f"cluster.network.cidr={network.cidr}: has every address in it, and so chooses none; {example}"
    elif net.overlaps(LOOPBACK) and not one_host:
        yield f"cluster.network.cidr={network.cidr}: has {unreachable}; {example}"
    elif net.is_multicast:
        yield f"cluster.network.cidr={network.cidr}: has addresses for multicast, which no node has of its own; {example}"
    elif net.prefixlen == 32:
        why = "names one address, which one node alone can have"
        yield f"cluster.network.cidr={network.cidr}: {why}; {example}"


def _slurm(slurm: Slurm) -> Iterator[str]:
    for name in ("partition", "account", "qos", "constraint", "reservation"):
        value = getattr(slurm, name)
        if value is not None and not (isinstance(value, str) and value.strip()):
            yield f"cluster.slurm.{name}={value}: {_not_text(name, value)}"
    if slurm.time_min is not None and slurm.time_min < 1:
        yield f"cluster.slurm.time_min={slurm.time_min}: must be 1 minute or more; null: by the plan's estimate"
    if slurm.warn_s < 0:
        yield f"cluster.slurm.warn_s={slurm.warn_s}: must be 0 or more seconds"


def _extra(cluster: Cluster) -> Iterator[str]:
    """`extra` goes to sbatch as it is: what YAML turned into something else is refused, and what pdslurm sets itself."""
    slurm = cluster.slurm
    for given, value in slurm.extra.items():
        name, field = str(given).replace("_", "-"), f"cluster.slurm.extra.{given}"
        if not re.fullmatch(r"[a-z][a-z0-9-]+", name):
            yield f"{field}: must be the long name of an option of sbatch, without its dashes"
        elif name in OWN_SBATCH:
            yield f"{field}={value}: pdslurm sets it itself; {OWN_SBATCH[name]}"
        elif isinstance(value, (float, list, dict)) or (name in TEXT and not (value is None or isinstance(value, str))):
            yield f"{field}={value}: {_not_text(name, value)}" + ("; or set cluster.slurm.time_min" if name == "time" else "")
        elif name == "time" and value is not None:
            yield from _time(slurm, value)
        elif name in ("gres", "gpus-per-node") and value is not None and value is not False:
            yield from _gpus(cluster, name, field, value)
        elif getattr(slurm, name.replace("-", "_"), None) is not None and name in TEXT and name != "time-min" and value is not None:
            yield f"{field}={value}: cluster.slurm.{name}={getattr(slurm, name)} says it too; set one of them"


def _gpus(cluster: Cluster, name: str, field: str, value: Any) -> Iterator[str]:
    """Either may name the type of the GPUs, but has to ask for as many of each node as the plan puts there."""
    asked, per_node = gpus_asked(name, value), cluster.gpus_per_node
    takes_the_place = name == "gres" and cluster.slurm.gpus_by == "gres"
    if cluster.device is Device.cpu or asked == per_node or (asked is None and not takes_the_place):
        return
    example = f"gpu:{per_node} or gpu:TYPE:{per_node}" if name == "gres" else f"{per_node} or TYPE:{per_node}"
    wrong = f"asks for {asked or 'no'} GPU(s) of each node, and cluster.gpus_per_node={per_node}"
    yield f"{field}={value}: {wrong}; must have {example}"


def gpus_asked(name: str, value: Any) -> int | None:
    """How many GPUs of each node --gres or --gpus-per-node asks for, all types together; None where it speaks of none.

    >>> gpus_asked("gres", "gpu:a100:4,nvme:1"), gpus_asked("gres", "nvme:1"), gpus_asked("gpus-per-node", "a100:2,h100:2")
    (4, None, 4)
    """
    entries = [re.split("[:=]", entry.strip().removeprefix("gres:").removeprefix("gres/")) for entry in str(value).split(",")]
    counted = [entry[1:] for entry in entries if entry[0] == "gpu"] if name == "gres" else entries
    counts = [int(words[-1]) if words and words[-1].isdecimal() else 1 for words in counted]  # without a number it is one
    return sum(counts) if counts else None


def _time(slurm: Slurm, value: str) -> Iterator[str]:
    if slurm.time_min is not None:
        yield f"cluster.slurm.extra.time={value}: cluster.slurm.time_min={slurm.time_min} says it too; set one of them"
    if not re.fullmatch(TIME, value):
        yield f"cluster.slurm.extra.time={value!r}: must be MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS or DAYS-HOURS[:MINUTES]"


def _not_text(name: str, value: Any) -> str:
    """What is wrong with a value that YAML read as something else than text: 4:00:00 as a number to base 60, 0123 to base 8."""
    if isinstance(value, str):
        return "is empty; give a name, or null to leave it out"
    if isinstance(value, bool):
        return "must be text, and YAML read a truth value; write it in quotes"
    if isinstance(value, (list, dict)):
        return "must be one value; write it as sbatch takes it, in quotes"
    words = [f'"{value}"']
    if isinstance(value, int) and value >= 60 and name in TIMES:
        hours, minutes, seconds = value // 3600, value // 60 % 60, value % 60
        words.append(f'"{hours}:{minutes:02}:{seconds:02}"' if hours else f'"{minutes}:{seconds:02}"')
    elif isinstance(value, int) and value > 7:
        words.append(f'"0{value:o}"')
    return f"must be text, and YAML read a number; write what you mean in quotes, such as {' or '.join(words)}"


def _srun(options: list[str]) -> Iterator[str]:
    for option in options:
        name = re.fullmatch(r"--([a-z][a-z0-9-]+)(=\S.*)?", option)
        if name is None:
            yield f"cluster.slurm.srun has {option!r}: each must be one long option of srun, such as --mpi=none"
        elif name[1] in OWN_SRUN:
            yield f"cluster.slurm.srun has {option}: pdslurm sets --{name[1]} itself; leave it out"
