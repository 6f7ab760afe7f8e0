"""The lab is what it claims: a Slurm cluster of separate machines that fail as machines do, and of which nothing remains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import leftovers
from tests.cluster.lab import Lab, missing
from tests.cluster.machine import LabError, Machine

pytestmark = pytest.mark.cluster

GREET = """
import socket, sys
server = socket.create_server(("", 8000))
while True:
    connection, _ = server.accept()
    connection.sendall(socket.gethostname().encode())
    if sys.argv[1:] != ["hold"]:
        connection.close()
"""
GREETED = """
import socket, sys
with socket.create_connection((sys.argv[1], 8000), timeout=2) as connection:
    print(connection.recv(100).decode())
"""
HELD = """
import socket, sys
with socket.create_connection((sys.argv[1], 8000), timeout=2) as connection:
    print(connection.recv(100).decode(), flush=True)
    sys.stdin.readline()
    connection.recv(100)
"""


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """started(lab, node, argv): a process on that machine until the test's end."""
    processes: list[subprocess.Popen[str]] = []

    def start(lab: Lab, node: str, argv: list[str]) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        processes.append(lab.on(node, argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


Started = Callable[[Lab, str, list[str]], subprocess.Popen[str]]
MakeLab = Callable[..., Lab]


def job_state(lab: Lab, job: str) -> str:
    fields = lab.run("ctl", ["scontrol", "-o", "show", "job", job], 10).stdout.split()
    return next(field.removeprefix("JobState=") for field in fields if field.startswith("JobState="))


def node_state(lab: Lab, node: str) -> str:
    return lab.run("ctl", ["sinfo", "-h", "-N", "-n", node, "-p", "batch", "-o", "%T %E"], 10).stdout.strip()


def submit(lab: Lab, *options: str, script: str) -> str:
    return lab.run("ctl", ["sbatch", "--parsable", *options, f"--wrap={script}"], 10).stdout.strip()


def test_a_lab_of_four_is_up_soon_and_runs_jobs(make_lab: MakeLab) -> None:
    began = time.monotonic()
    lab = make_lab(nodes=4)
    took_s = time.monotonic() - began
    print(f"4 nodes were idle after {took_s:.2f} s")
    assert took_s < 10  # 0.3 s on two idle cores
    hosts = lab.run("ctl", ["srun", "-N4", "hostname"], 20).stdout.split()
    assert sorted(hosts) == ["n1", "n2", "n3", "n4"]


def test_a_lab_of_sixteen(make_lab: MakeLab) -> None:
    began = time.monotonic()
    lab = make_lab(nodes=16)
    took_s = time.monotonic() - began
    print(f"16 nodes were idle after {took_s:.2f} s")
    assert took_s < 30  # 1 s on two idle cores
    assert len(set(lab.run("ctl", ["srun", "-N16", "hostname"], 30).stdout.split())) == 16


def test_each_machine_has_its_own_ports(lab: Lab, started: Started) -> None:
    for node in lab.nodes:
        started(lab, node, [sys.executable, "-c", GREET])
    lab.wait_for("all servers", lambda: all(lab.listening(node) == (8000,) for node in lab.nodes), timeout_s=10)
    assert lab.listening("ctl") == ()
    greetings = [lab.run("ctl", [sys.executable, "-c", GREETED, node], 10).stdout.strip() for node in lab.nodes]
    assert greetings == list(lab.nodes)
    greetings = [lab.run("n1", [sys.executable, "-c", GREETED, node], 10).stdout.strip() for node in lab.nodes]
    assert greetings == list(lab.nodes)


def test_each_machine_has_its_own_shared_memory_and_tmp_and_sees_the_same_disk(lab: Lab, tmp_path: Path) -> None:
    script = f"touch /dev/shm/of-$(hostname) /tmp/of-$(hostname) {tmp_path}/of-$(hostname) {lab.scratch}/of-$(hostname)"
    lab.run("ctl", ["srun", "-N4", "sh", "-c", script], 20)
    for node in lab.nodes:
        assert lab.shm(node) == (f"of-{node}",)
        assert lab.tmp(node) == (f"of-{node}",)
    everyones = {f"of-{node}" for node in lab.nodes}
    assert {path.name for path in tmp_path.iterdir()} == everyones
    assert {path.name for path in lab.scratch.iterdir()} == everyones
    assert not any(Path("/dev/shm", name).exists() or Path("/tmp", name).exists() for name in everyones)
    lab.run("ctl", ["srun", "-N4", "sh", "-c", f"rm /dev/shm/of-* /tmp/of-* {lab.scratch}/of-$(hostname)"], 20)


def test_slurm_gives_out_the_gpus(lab: Lab) -> None:
    ask = ["srun", "-N2", "-n4", "--ntasks-per-node=2", "--gpus-per-task=4", "sh", "-c", "echo $(hostname) $CUDA_VISIBLE_DEVICES"]
    lines = lab.run("ctl", ask, 20).stdout.splitlines()
    hosts = sorted(line.split()[0] for line in lines)
    assert len(set(hosts)) == 2
    assert hosts[0] == hosts[1]
    assert all(len(line.split()[1].split(",")) == 4 for line in lines)


def test_a_guest_has_an_account_everywhere_and_reads_no_secrets(lab: Lab) -> None:
    secret = lab.scratch / "secret"
    secret.write_text("key")
    secret.chmod(0o600)
    who = lab.run("ctl", ["srun", "-N4", "sh", "-c", "id -un; echo $HOME; touch $HOME/here"], 20, user="guest")
    assert set(who.stdout.split()) == {"guest", str(lab.root / "home" / "guest")}
    read = lab.run("n1", ["cat", str(secret)], 10, check=False, user="guest")
    assert "Permission denied" in read.stderr
    assert lab.run("n1", ["cat", str(secret)], 10).stdout == "key"
    secret.unlink()


def test_signals_and_exit_codes_pass_through(lab: Lab, started: Started) -> None:
    loop = "trap 'echo stopped; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    process = started(lab, "n1", ["bash", "-c", loop])
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    # a set: between fork and exec each `sleep` still bears the loop's own command line
    assert {line for _, line in lab.processes("n1") if "trap" in line} == {f"bash -c {loop}"}
    process.terminate()
    assert process.communicate(timeout=10)[0] == "stopped\n"
    assert process.returncode == 7
    killed = started(lab, "n1", ["sleep", "100"])
    lab.wait_for("sleep", lambda: any(line == "sleep 100" for _, line in lab.processes("n1")), timeout_s=10)
    killed.kill()
    assert killed.wait(timeout=10) == -signal.SIGKILL
    assert not any(line == "sleep 100" for _, line in lab.processes("n1"))


def test_a_command_past_its_time_is_killed_and_a_failed_one_says_why(lab: Lab) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        lab.run("n1", ["sleep", "100"], 0.2)
    assert lab.processes("n1") == ()
    with pytest.raises(LabError, match=r"(?s)ls /nowhere on n1: exit code 2.*No such file"):
        lab.run("n1", ["ls", "/nowhere"], 10)
    with pytest.raises(ValueError, match=r"node=n5: allowed are ctl, n1, n2, n3, n4"):
        lab.run("n5", ["true"], 10)


def test_jobs_of_the_high_partition_preempt_those_of_batch(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=1, grace_s=0, kill_wait_s=1)
    low = submit(lab, "--exclusive", script="sleep 300")
    lab.wait_for("the first job", lambda: job_state(lab, low) == "RUNNING", timeout_s=10)
    high = submit(lab, "--exclusive", "--partition=high", script="sleep 300")
    lab.wait_for("the second job", lambda: job_state(lab, high) == "RUNNING", timeout_s=30)
    assert job_state(lab, low) == "PENDING"


def test_sacct_where_it_can_be_installed(make_lab: MakeLab) -> None:
    lacks = missing("accounting")
    if lacks:
        pytest.skip(f"no test with a real sacct: this lacks {lacks}")
    lab = make_lab(nodes=1, dbd=True)
    lab.run("ctl", ["srun", "false"], 20, check=False)
    ask = ["sacct", "--noheader", "--parsable2", "--jobs=1", "--allocations", "--format=JobID,State,ExitCode,NodeList"]
    lab.wait_for("sacct", lambda: lab.run("ctl", ask, 10).stdout == "1|FAILED|1:0|n1\n", timeout_s=20)


def test_a_crashed_machine_falls_silent_and_comes_back(make_lab: MakeLab, started: Started) -> None:
    lab = make_lab(nodes=2, slurmd_timeout_s=3, kill_wait_s=1)
    job = submit(lab, "--nodes=2", "--no-requeue", script="srun sleep 300")
    lab.wait_for("the job", lambda: job_state(lab, job) == "RUNNING", timeout_s=10)
    started(lab, "n2", [sys.executable, "-c", GREET, "hold"])
    lab.wait_for("the server", lambda: 8000 in lab.listening("n2"), timeout_s=10)
    client = started(lab, "n1", [sys.executable, "-c", HELD, "n2"])
    assert client.stdout is not None
    assert client.stdout.readline() == "n2\n"

    lab.crash("n2")
    assert "TimeoutError" in client.communicate("go\n", timeout=10)[1]  # neither end of file nor connection reset
    assert not lab.is_on("n2")
    with pytest.raises(LabError, match="n2 is off"):
        lab.processes("n2")
    lab.wait_for("Slurm to see it", lambda: node_state(lab, "n2") == "down* Not responding", timeout_s=60)
    lab.wait_for("the job's end", lambda: job_state(lab, job) == "NODE_FAIL", timeout_s=20)

    lab.boot("n2")
    lab.wait_idle()
    assert lab.processes("n2") == ()
    assert len(lab.run("ctl", ["srun", "-N2", "hostname"], 20).stdout.split()) == 2


def test_a_pulled_cable(lab: Lab, started: Started) -> None:
    started(lab, "n3", [sys.executable, "-c", GREET])
    lab.wait_for("the server", lambda: lab.listening("n3") == (8000,), timeout_s=10)
    greeted = [sys.executable, "-c", GREETED, "n3"]
    lab.cable("n3", False)
    assert "TimeoutError" in lab.run("ctl", greeted, 10, check=False).stderr
    assert not lab.is_healthy("n3")
    assert lab.run("n3", greeted, 10).stdout == "n3\n"  # it has not noticed
    lab.cable("n3", True)
    assert lab.run("ctl", greeted, 10).stdout == "n3\n"
    assert lab.is_healthy("n3")


def test_processes_outlive_their_slurmd(lab: Lab) -> None:
    job = submit(lab, "--nodes=1", "--nodelist=n4", script="sleep 300")
    lab.wait_for("the job", lambda: any("sleep 300" in line for _, line in lab.processes("n4")), timeout_s=10)
    lab.kill_slurmd("n4")
    assert any("sleep 300" in line for _, line in lab.processes("n4"))
    assert not lab.is_healthy("n4")
    lab.boot("n4")
    lab.run("ctl", ["scancel", job], 10)
    lab.wait_for("the job's end", lambda: job_state(lab, job) == "CANCELLED", timeout_s=20)


def test_what_a_test_leaves_is_named_and_removed(lab: Lab) -> None:
    before = leftovers.present(lab)
    assert before == frozenset()
    job = submit(lab, "--nodes=1", "--nodelist=n2", script="sleep 300")
    daemon = f"setsid {sys.executable} -c '{GREET}' >/dev/null 2>&1 & touch /dev/shm/forgotten"
    lab.run("n1", ["bash", "-c", daemon], 10)
    lab.wait_for("both", lambda: lab.listening("n1") == (8000,) and len(lab.processes("n2")) > 1, timeout_s=10)
    lab.cable("n3", False)

    left = leftovers.since(lab, before, patience_s=0)
    named = {(leftover.machine, leftover.kind, leftover.key) for leftover in left}
    assert named >= {("ctl", "job", job), ("n1", "port", "8000"), ("n1", "shared memory", "forgotten")}
    assert any(str(leftover).startswith("n1: process") and "create_server" in str(leftover) for leftover in left)
    assert any(leftover.machine == "n2" and leftover.detail == "sleep 300" for leftover in left)

    leftovers.restore(lab, left)
    assert leftovers.since(lab, before, patience_s=10) == ()
    assert lab.is_healthy("n3")


def test_two_labs_stand_side_by_side(lab: Lab, make_lab: MakeLab) -> None:
    other = make_lab(nodes=1)
    assert other.run("ctl", ["srun", "-N1", "hostname"], 20).stdout == "n1\n"
    other.crash("n1")
    assert len(lab.run("ctl", ["srun", "-N4", "hostname"], 20).stdout.split()) == 4


def namespaces_in_use() -> set[str]:
    """Identities of all network and process namespaces that some process is in."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/ns/*"):
        if link.name in ("net", "pid"):
            try:
                found.add(os.readlink(link))
            except OSError:
                continue  # ended meanwhile
    return found


def test_nothing_remains(lab_root: Path, shared: tuple[Path, ...]) -> None:
    mounts, links = Path("/proc/self/mounts").read_text(), sorted(os.listdir("/sys/class/net"))
    lab = Lab(lab_root / "gone", nodes=2, shared=shared)
    lab.up()
    processes = [lab.on(node, ["sleep", "100"]) for node in ("ctl", "n1", "n2")]
    submit(lab, "--nodes=2", script="srun sleep 300")
    inits = [machine.init for machine in machines(lab)]
    theirs = {os.readlink(f"/proc/{init}/ns/{kind}") for init in inits for kind in ("net", "pid")}
    assert len(theirs) == 6
    assert theirs <= namespaces_in_use()
    lab.kill_slurmd("n1")
    lab.cable("n2", False)
    lab.down()
    lab.down()
    assert [process.wait(timeout=10) for process in processes] == [-signal.SIGKILL] * 3
    assert not theirs & namespaces_in_use()
    assert Path("/proc/self/mounts").read_text() == mounts
    assert sorted(os.listdir("/sys/class/net")) == links
    with pytest.raises(LabError, match="ctl is off"):
        lab.run("ctl", ["true"], 10)
    lab.up()  # the same lab again
    assert len(lab.run("ctl", ["srun", "-N2", "hostname"], 20).stdout.split()) == 2
    lab.down()


def machines(lab: Lab) -> tuple[Machine, ...]:
    return tuple(lab._machines.values())


def test_a_lab_dies_with_the_process_that_made_it(lab_root: Path) -> None:
    code = f"""
import time
from pathlib import Path
from tests.cluster.lab import Lab
lab = Lab(Path({str(lab_root / "orphan")!r}), nodes=2, shared=[Path.cwd()])
lab.up()
lab.on("n1", ["sleep", "100"])
print(*(machine.init for machine in lab._machines.values()), flush=True)
time.sleep(100)
"""
    root = Path(__file__).parents[2]
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root)
    assert owner.stdout is not None
    inits = [os.pidfd_open(int(pid)) for pid in owner.stdout.readline().split()]
    assert len(inits) == 3
    owner.kill()
    owner.communicate()
    deadline = time.monotonic() + 10
    while any(alive(init) for init in inits):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for init in inits:
        os.close(init)


def alive(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"root": Path("/tmp/" + "x" * 90)}, "95 characters; allowed are 80"),
        ({"root": Path("/tmp/x"), "nodes": 0}, "nodes=0: allowed are 1 to 200"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Lab(**settings)  # type: ignore[arg-type]
