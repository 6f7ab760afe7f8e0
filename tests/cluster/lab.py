"""A real Slurm cluster on this machine: each node is a set of namespaces (own network, host name, processes, /dev/shm, /tmp, /run).

`with Lab(root) as lab: lab.run("ctl", ["srun", "-N4", "hostname"], 20)`. Machines: `ctl` (login node, slurmctld), `n1`, `n2`, …
Addresses (10.78.0.x) exist only inside; the world outside sees processes, and no mount, interface or listening port."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from tests.cluster.accounting import start_accounting
from tests.cluster.configuration import (
    CTL_PORT,
    DB_PORT,
    DBD_PORT,
    NODE_PORT,
    UIDS,
    Cluster,
    address,
    disk,
    dockerd,
    environment,
    munged,
    podman_cgroups,
    remove_cgroups,
    write_files,
)
from tests.cluster.machine import OWN_NAMESPACES, LabError, Machine, tail

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMMANDS = ("slurmctld", "slurmd", "srun", "munged", "ip", "unshare", "nsenter")
EXTRA_COMMANDS = {
    "containers": ("dockerd", "docker", "podman", "runc"),
    "accounting": ("mariadbd", "mariadb-install-db", "slurmdbd"),
}
# /dev itself is everybody's, so a layer is put over it, with the mounts that are in it.
ADD_DEVICE_FILE = """
set -e
layer=$(mktemp -d /run/dev.XXXXXX)
mount -t tmpfs tmpfs "$layer"
mkdir "$layer/upper" "$layer/work" "$layer/dev"
mkdir -p "$layer/upper/$(dirname "$1")"
touch "$layer/upper/$1"
chmod 666 "$layer/upper/$1"
mount -t overlay overlay -o "lowerdir=/dev,upperdir=$layer/upper,workdir=$layer/work" "$layer/dev"
for inner in shm pts mqueue; do ! mountpoint -q "/dev/$inner" || mount --rbind "/dev/$inner" "$layer/dev/$inner"; done
mount --rbind "$layer/dev" /dev
"""
DAEMONS = frozenset({"munged", "slurmctld", "slurmscriptd", "slurmd", "slurmdbd", "mariadbd", "dockerd", "containerd"})
PODMANS = Path("/var/lib/containers")  # where podman keeps images and containers
DAEMON_PORTS = frozenset({CTL_PORT, NODE_PORT, DBD_PORT, DB_PORT})


def missing(*extras: str) -> str:
    """What this machine lacks for a lab, and for extras that install.sh knows, and how to get it; empty if nothing."""
    if os.geteuid() != 0:
        return "root"
    wanted = [*COMMANDS, *(command for extra in extras for command in EXTRA_COMMANDS[extra])]
    absent = [name for name in wanted if not shutil.which(name, path=SYSTEM_PATH)]
    if absent:
        return f"{', '.join(absent)}; as root: {' '.join(('bash tests/cluster/install.sh', *extras))}"
    allowed = subprocess.run(["unshare", *OWN_NAMESPACES, "--fork", "true"], capture_output=True, text=True)
    return f"the right to make namespaces ({allowed.stderr.strip()})" if allowed.returncode else ""


class Lab:
    """`root` keeps configuration, logs, homes and `scratch` (a folder for all users), and stays after down(). A node's /tmp is its
    own, as on a real cluster: of /tmp outside all machines see `root` and what `shared` names. The rest of the disk is shared."""

    def __init__(
        self,
        root: Path,
        nodes: int = 4,
        gpus: int = 8,
        docker: bool = False,
        slurmd_timeout_s: int = 10,
        kill_wait_s: int = 10,
        dbd: bool = False,
        *,
        grace_s: int = 5,
        shared: Iterable[Path] = (),
    ) -> None:
        self.root = root.resolve()
        self.cluster = Cluster(self.root, nodes, gpus, slurmd_timeout_s, kill_wait_s, grace_s, docker, dbd)
        self.nodes = self.cluster.names
        self.scratch = self.root / "scratch"
        everywhere = {path.resolve() for path in (self.root, *shared)}
        self._shared = sorted(str(path) for path in everywhere if path.is_relative_to("/tmp"))
        self._machines: dict[str, Machine] = {}
        self._unplugged: set[str] = set()

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    # --- the cluster ---

    def up(self) -> None:
        """Returns when all nodes are idle."""
        if self._machines:
            return
        write_files(self.cluster)
        try:
            self._power_on("ctl", *self.nodes)
            self.start("ctl", munged(self.cluster))
            self.wait_for("munged", (self.root / "run" / "munge.sock").exists, timeout_s=10)
            if self.cluster.dbd:
                start_accounting(self)
            self.start_slurmctld()
            for node in self.nodes:
                self._start_daemons(node)
            for node in self.nodes:
                self._wait_for_docker(node)
            self.wait_idle(timeout_s=30)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Ends every machine, and with it every process in it; safe to call again."""
        while self._machines:
            self._machines.popitem()[1].off()
        self._unplugged.clear()
        remove_cgroups({self.cluster.cgroup, *podman_cgroups(self.cluster)})

    def wait_idle(self, nodes: Iterable[str] = (), timeout_s: float = 60) -> None:
        """Until Slurm calls these nodes, all by default, idle and responding."""
        wanted = set(nodes) or set(self.nodes)

        def idle() -> bool:
            states = self.run("ctl", ["sinfo", "-h", "-N", "-p", "batch", "-o", "%N %t"], 10, check=False).stdout
            return wanted <= {line.split()[0] for line in states.splitlines() if line.endswith(" idle")}

        self.wait_for(f"{', '.join(sorted(wanted))} to be idle", idle, timeout_s=timeout_s)

    def wait_for(self, what: str, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Until ready(); a machine that dies meanwhile, or the time's end, is a LabError with the ends of the daemons' logs."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            ended = [name for name, machine in self._machines.items() if machine.has_ended()]
            if ended or time.monotonic() > deadline:
                why = f"{', '.join(ended)} died" if ended else f"not within {timeout_s} s"
                logs = "\n".join(tail(path) for path in sorted((self.root / "log").glob("*.out")) if path.stat().st_size)
                raise LabError(f"waiting for {what}: {why}; logs are in {self.root / 'log'}\n{logs}")
            time.sleep(0.02)

    # --- commands ---

    def on(self, node: str, argv: Sequence[str], *, user: str = "root", **popen_kwargs: Any) -> subprocess.Popen[Any]:
        """argv as a process of that machine, as after a login of `user`, root or guest: in the home folder unless `cwd` is given;
        `env` replaces this process's variables, but HOME, USER and SLURM_CONF are the lab's. Signals to the Popen reach argv."""
        variables = dict(popen_kwargs.pop("env", None) or os.environ) | environment(self.cluster, user)
        folder = Path(popen_kwargs.pop("cwd", None) or variables["HOME"])
        return self._machine(node).enter(argv, ids=(UIDS[user], UIDS[user]), cwd=folder, env=variables, **popen_kwargs)

    def run(
        self, node: str, argv: Sequence[str], timeout_s: float, check: bool = True, **popen_kwargs: Any
    ) -> subprocess.CompletedProcess[str]:
        """Output and exit code of a command, killed after timeout_s; `check` makes a failure a LabError with its output."""
        process = self.on(node, argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen_kwargs)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        if check and process.returncode:
            raise LabError(f"{' '.join(argv)} on {node}: exit code {process.returncode}\n{err}{out}")
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def add_network(self, device: str, prefix: str) -> None:
        """A second network until down(): node nN gets `device` with the address PREFIX.N."""
        bridge = f"br-{device}"
        lines = [f"link add {bridge} type bridge", f"link set {bridge} up"]
        for node in self.nodes:
            lines.append(f"link add {device}-{node} type veth peer name {device} netns {self._machine(node).init}")
            lines.append(f"link set {device}-{node} master {bridge} up")
        self._ip(*lines)
        for node in self.nodes:
            self.run(node, ["ip", "addr", "add", f"{prefix}.{node.removeprefix('n')}/24", "dev", device], 10)
            self.run(node, ["ip", "link", "set", device, "up"], 10)
            # UCX takes interfaces from /sys/class/net, which shows those of whoever mounted it
            self.run(node, ["mount", "-t", "sysfs", "sysfs", "/sys"], 10)

    def add_device_file(self, path: str) -> None:
        """Until down(), every node sees a file at `path` below /dev, which no driver is behind; the world outside does not."""
        for node in self.nodes:
            self.run(node, ["sh", "-c", ADD_DEVICE_FILE, "sh", path.removeprefix("/dev/")], 10)

    def start(self, node: str, argv: Sequence[str]) -> None:
        """A daemon of the machine, with its output in the lab's logs."""
        self._machine(node).start(argv, self.root / "log" / f"{argv[0]}-{node}.out")

    # --- faults ---

    def crash(self, node: str) -> None:
        """The power goes. The cable goes first, so that the kernel cannot say goodbye to the node's peers."""
        self._machine(node)
        self._ip(f"link del {_plug(node)}")
        self._machines.pop(node).off()

    def cable(self, node: str, up: bool) -> None:
        self._machine(node)
        self._ip(f"link set {_plug(node)} {'up' if up else 'down'}")
        (self._unplugged.discard if up else self._unplugged.add)(node)

    def kill_slurmd(self, node: str) -> None:
        """Only the daemon: what it started lives on."""
        pids = [str(process.pid) for process in self._machine(node).processes() if process.name == "slurmd"]
        self.run(node, ["kill", "-KILL", *pids], 10)
        self.wait_for(f"slurmd's end on {node}", lambda: not self._runs(node, "slurmd"), timeout_s=10)

    def stop_slurmctld(self) -> None:
        """Only the daemon, as an administrator stops it: it writes down which jobs there are, and one that is killed may forget
        some. Jobs live on, and no command of Slurm gets an answer until start_slurmctld()."""
        pids = [str(process.pid) for process in self._machine("ctl").processes() if process.name == "slurmctld"]
        self.run("ctl", ["kill", "-TERM", *pids], 10)
        self.wait_for("slurmctld's end", lambda: not self._runs("ctl", "slurmctld"), timeout_s=30)

    def start_slurmctld(self) -> None:
        """Returns when it listens."""
        self.start("ctl", ("slurmctld", "-D"))
        self.wait_for("slurmctld", lambda: CTL_PORT in self._machine("ctl").listening(), timeout_s=15)

    def boot(self, node: str) -> None:
        """Whatever was done to the node, it is on, plugged in and runs slurmd; wait_idle() says when Slurm has seen it."""
        if node not in self._machines:
            self._power_on(node)
        self.cable(node, True)
        self._start_daemons(node)
        self._wait_for_docker(node)

    # --- what is there ---

    def is_on(self, node: str) -> bool:
        return node in self._machines

    def is_healthy(self, node: str) -> bool:
        """On, plugged in and running slurmd: what is left there, its users could have removed."""
        return node in self._machines and node not in self._unplugged and self._runs(node, "slurmd")

    def processes(self, node: str) -> tuple[tuple[int, str], ...]:
        """(pid on that machine, command line) of all but its PID 1 and the cluster's daemons; containers' processes too."""
        return tuple((process.pid, process.cmdline) for process in self._machine(node).processes() if process.name not in DAEMONS)

    def listening(self, node: str) -> tuple[int, ...]:
        """TCP ports that something besides the cluster's daemons listens on."""
        return tuple(sorted(self._machine(node).listening() - DAEMON_PORTS))

    def containers(self, node: str) -> tuple[tuple[str, str], ...]:
        """(engine, name) of all containers there, running or not."""
        engines = ["docker"] if self.cluster.docker and node != "ctl" else []
        if (disk(self.cluster, node) / "containers" / "storage").exists():
            engines.append("podman")
        lists = {engine: self.run(node, [engine, "ps", "--all", "--format={{.Names}}"], 30).stdout.split() for engine in engines}
        return tuple((engine, name) for engine, names in lists.items() for name in sorted(names))

    def shm(self, node: str) -> tuple[str, ...]:
        """Names in its /dev/shm, without that which podman keeps there from its first use."""
        return tuple(sorted(self._machine(node).names_in("/dev/shm") - {"libpod_lock"}))

    def tmp(self, node: str) -> tuple[str, ...]:
        """Names in the node's own /tmp, without those that lead to shared folders."""
        lead = {Path(path).relative_to("/tmp").parts[0] for path in self._shared}
        return tuple(sorted(self._machine(node).names_in("/tmp") - lead))

    # --- how ---

    def _power_on(self, *names: str) -> None:
        """All at once: start each PID 1, lay the cables while they wait, then let them boot."""
        variables = {"PATH": f"{self.root / 'bin'}:{SYSTEM_PATH}", "LANG": "C.UTF-8"} | environment(self.cluster)
        for name in names:
            self._machines[name] = Machine.on(self.root / "log" / f"{name}.out", variables)
        lines = ["link add br0 type bridge"] if "ctl" in names else []
        for node in (name for name in names if name != "ctl"):
            lines.append(f"link add {_plug(node)} type veth peer name eth0 netns {self._machines[node].init}")
            lines.append(f"link set {_plug(node)} master br0 up")
        self._ip(*lines)
        files = {f"/etc/{name}": str(self.root / "etc" / name) for name in ("hosts", "passwd", "group")}
        for name in names:
            podmans = {str(PODMANS): str(disk(self.cluster, name) / "containers")} if PODMANS.exists() else {}
            network = {"address": f"{address(name)}/24", "device": "br0" if name == "ctl" else "eth0"}
            self._machines[name].boot({"name": name, **network, "binds": files | podmans, "shared": self._shared})
        for name in names:
            self._machines[name].ready()

    def _start_daemons(self, node: str) -> None:
        """Those of a node that do not run."""
        if not self._runs(node, "slurmd"):
            self.start(node, ("slurmd", "-D"))
        if self.cluster.docker and not self._runs(node, "dockerd"):
            self.start(node, dockerd(self.cluster, node))

    def _wait_for_docker(self, node: str) -> None:
        if self.cluster.docker:
            answers = ["docker", "version"]
            self.wait_for(f"dockerd on {node}", lambda: not self.run(node, answers, 10, check=False).returncode, timeout_s=30)

    def _runs(self, node: str, name: str) -> bool:
        return any(process.name == name for process in self._machine(node).processes())

    def _ip(self, *lines: str) -> None:
        """Commands of `ip` in ctl's network namespace, where the nodes' cables end; pids in them are those of the world outside."""
        enter = ["nsenter", f"--net=/proc/{self._machine('ctl').init}/ns/net", "ip", "-batch", "-"]
        done = subprocess.run(enter, input="\n".join(lines) + "\n", capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"ip: {done.stderr.strip()}: {'; '.join(lines)}")

    def _machine(self, name: str) -> Machine:
        if name not in ("ctl", *self.nodes):
            raise ValueError(f"node={name}: allowed are ctl, {', '.join(self.nodes)}")
        if name not in self._machines:
            raise LabError(f"{name} is off")
        return self._machines[name]


def _plug(node: str) -> str:
    """The other end of the node's eth0, at ctl's bridge."""
    return f"to-{node}"
