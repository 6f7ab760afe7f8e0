"""What stands in the lab's folder before a machine is switched on: a few numbers in, the files of Slurm, munge and /etc out."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

CTL_PORT, NODE_PORT, DBD_PORT, DB_PORT = 6817, 6818, 6819, 3306  # Slurm's and MariaDB's own defaults
RUNTIME = Path(__file__).with_name("oci_runtime.py")
UIDS = {"root": 0, "guest": 2001}


@dataclass(frozen=True)
class Cluster:
    """What tests vary. Times in seconds; Slurm's own defaults are 300 (slurmd_timeout_s), 30 (kill_wait_s) and 0 (grace_s)."""

    root: Path
    nodes: int
    gpus: int
    slurmd_timeout_s: int
    kill_wait_s: int
    grace_s: int
    docker: bool = False
    dbd: bool = False

    def __post_init__(self) -> None:
        if len(str(self.root)) > 80:  # a Unix socket's path has 108 bytes, and munge's is in there
            raise ValueError(f"root={self.root}: {len(str(self.root))} characters; allowed are 80, for the sockets in it")
        if not 1 <= self.nodes <= 200:
            raise ValueError(f"nodes={self.nodes}: allowed are 1 to 200")

    @property
    def cgroup(self) -> str:
        """The parent of all containers' cgroups."""
        return f"pdslurm-lab-{hashlib.sha256(str(self.root).encode()).hexdigest()[:12]}"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"n{i}" for i in range(1, self.nodes + 1))


def slurm_conf(cluster: Cluster) -> str:
    """Two partitions over all nodes: `batch`, and `high`, whose jobs preempt those of `batch`, which are requeued."""
    root, nodes = cluster.root, f"n[1-{cluster.nodes}]"
    accounting = f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=ctl
AccountingStoragePort={DBD_PORT}
AccountingStoragePass={root}/run/munge.sock
"""
    return f"""\
ClusterName=lab
SlurmctldHost=ctl
# cred_expire: a requeued job waits that long before it starts again (Slurm's default: 120)
AuthInfo=socket={root}/run/munge.sock,cred_expire=5
SlurmUser=root
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose

# a process tracker that needs no cgroup, which a test machine may not give
ProctrackType=proctrack/linuxproc
PropagateResourceLimits=NONE
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
# nodes have the cores named below, whatever this machine has
SlurmdParameters=config_overrides
# a node that was down and registers again is used again
ReturnToService=2

PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# a preempted job gets the signal it asked for with --signal, and not only TERM
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=2

SlurmdTimeout={cluster.slurmd_timeout_s}
KillWait={cluster.kill_wait_s}
OverTimeLimit=0
MinJobAge=3600
{accounting if cluster.dbd else ""}
NodeName={nodes} CPUs=8 RealMemory=16000 Gres=gpu:{cluster.gpus}
PartitionName=batch Nodes={nodes} Default=YES DefaultTime=30 MaxTime=INFINITE PriorityTier=1 GraceTime={cluster.grace_s}
PartitionName=high Nodes={nodes} DefaultTime=30 MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""


def gres_conf(cluster: Cluster) -> str:
    """Slurm gives out GPUs, and sets CUDA_VISIBLE_DEVICES, only where there are device files; Lab makes them."""
    return f"NodeName=n[1-{cluster.nodes}] Name=gpu File={cluster.root}/dev/gpu[0-{cluster.gpus - 1}]\n" if cluster.gpus else ""


def cgroup_conf(version: tuple[int, int]) -> str:
    """Nothing here uses cgroups, but slurmd looks for them: 22.05 must not guess their version, newer ones need not look."""
    return f"CgroupPlugin={'disabled' if version >= (23, 11) else 'cgroup/v1'}\n"


def address(machine: str) -> str:
    return f"10.78.0.{254 if machine == 'ctl' else machine.removeprefix('n')}"


def environment(cluster: Cluster, user: str = "root") -> dict[str, str]:
    """What a login on any machine sets."""
    etc = cluster.root / "etc"
    files = {"SLURM_CONF": str(etc / "slurm.conf"), "CONTAINERS_CONF": str(etc / "containers.conf")}
    return files | {"HOME": str(cluster.root / "home" / user), "USER": user}


def disk(cluster: Cluster, machine: str) -> Path:
    """What is on that machine's own disk, and so survives a crash."""
    return cluster.root / "disks" / machine


def dockerd(cluster: Cluster, node: str) -> tuple[str, ...]:
    """The command of a node's own dockerd, which sets up no network: containers get the node's (--net=host) or none."""
    settings = {
        "data-root": str(disk(cluster, node) / "docker"),
        "exec-root": "/run/docker",
        "pidfile": "/run/docker.pid",
        "deprecated-key-path": "/run/docker.key",
        "hosts": ["unix:///run/docker.sock"],
        "iptables": False,
        "ip6tables": False,
        "bridge": "none",
        "cgroup-parent": f"/{cluster.cgroup}",
        "runtimes": {"lab": {"path": str(cluster.root / "bin" / "runtime")}},
        "default-runtime": "lab",
    }
    path = cluster.root / "etc" / f"dockerd-{node}.json"
    path.write_text(json.dumps(settings, indent=1))
    return ("dockerd", "--config-file", str(path))


def containers_conf(cluster: Cluster) -> str:
    """podman's: the lab's runtime, and no systemd, which a test machine may not run."""
    return f"""\
[containers]
default_ulimits = []
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "lab"
[engine.runtimes]
lab = ["{cluster.root}/bin/runtime"]
"""


def podman_cgroups(cluster: Cluster) -> frozenset[str]:
    """Those of containers still in the nodes' stores; podman gives them no parent of our choice."""
    stores = cluster.root.glob("disks/*/containers/storage/overlay-containers/*/")
    return frozenset(f"libpod-{container.name}" for container in stores)


def remove_cgroups(names: AbstractSet[str]) -> None:
    """What containers leave that were not stopped: empty groups, of which each has to be removed by itself."""
    for path, _, _ in os.walk("/sys/fs/cgroup", topdown=False):
        if not names.isdisjoint(Path(path).parts):
            os.rmdir(path)


def munged(cluster: Cluster) -> tuple[str, ...]:
    """The command of the one munged for all machines: a Unix socket on a shared disk is reached from every network namespace."""
    files = {"key-file": "etc/munge.key", "socket": "run/munge.sock", "pid-file": "run/munged.pid"}
    files |= {"seed-file": "run/munged.seed", "log-file": "log/munged.log"}
    return ("munged", "--foreground", *(f"--{option}={cluster.root / path}" for option, path in files.items()))


def write_files(cluster: Cluster) -> None:
    """All of it, as for a cluster that was never up; logs and what is in homes, scratch and on the nodes' disks stay."""
    root = cluster.root
    for name in ("run", "state", "spool"):
        shutil.rmtree(root / name, ignore_errors=True)
    for name in ("etc", "log", "run", "state", "spool", "dev", "home/root", "home/guest", "bin", "scratch"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("ctl", *cluster.names):
        (disk(cluster, name) / "containers").mkdir(parents=True, exist_ok=True)
    root.chmod(0o755)
    (root / "scratch").chmod(0o1777)
    os.chown(root / "home" / "guest", UIDS["guest"], UIDS["guest"])
    for i in range(cluster.gpus):
        if not (root / "dev" / f"gpu{i}").exists():
            os.mknod(root / "dev" / f"gpu{i}", 0o20666, os.makedev(1, 3))  # a character device, as /dev/null is
    for name, text in _programs().items():
        (root / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (root / "bin" / name).chmod(0o755)
    for name, text in _etc(cluster).items():
        (root / "etc" / name).write_text(text)
    key = root / "etc" / "munge.key"
    key.unlink(missing_ok=True)
    key.touch(0o400)
    key.write_bytes(secrets.token_bytes(128))


def _etc(cluster: Cluster) -> dict[str, str]:
    hosts = "".join(f"{address(name)} {name}\n" for name in ("ctl", *cluster.names))
    uid = UIDS["guest"]
    return {
        "slurm.conf": slurm_conf(cluster),
        "gres.conf": gres_conf(cluster),
        "cgroup.conf": cgroup_conf(slurm_version()),
        "containers.conf": containers_conf(cluster),
        "hosts": f"127.0.0.1 localhost\n::1 localhost\n{hosts}",
        "passwd": f"{Path('/etc/passwd').read_text()}guest:x:{uid}:{uid}::{cluster.root}/home/guest:/bin/sh\n",
        "group": f"{Path('/etc/group').read_text()}guest:x:{uid}:\n",
    }


def _programs() -> dict[str, str]:
    """Shell scripts by name, which only daemons find."""
    return {
        "runtime": f'exec {shlex.quote(sys.executable)} -IS {shlex.quote(str(RUNTIME))} "$@"',
        "nvidia-container-runtime-hook": "exit 0",  # dockerd refuses --gpus where there is none
    }


def slurm_version() -> tuple[int, int]:
    """`slurm-wlm 22.05.8` → (22, 5)."""
    said = subprocess.run(["slurmctld", "-V"], capture_output=True, text=True, check=True).stdout
    year, month = said.split()[-1].split(".")[:2]
    return int(year), int(month)
