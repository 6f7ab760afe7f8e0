"""What pdslurm asks of Slurm, as tables; programs that print an answer play Slurm where one is needed."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdslurm import config as c
from pdslurm.errors import ConfigError
from pdslurm.plan.plan import build_plan
from pdslurm.slurm import jobs

MakeConfig = Callable[..., c.Config]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """programs(squeue="echo n1"): the only programs of Slurm on PATH."""

    def write(**scripts: str) -> None:
        for name, script in scripts.items():
            path = tmp_path / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:/bin:/usr/bin" if scripts else str(tmp_path))

    monkeypatch.setenv("PATH", str(tmp_path))
    return write


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"nodes": 4, "ntasks-per-node": 1, "gres": "gpu:8", "time": 30, "exclusive": True, "requeue": True}),
        ({"cluster.device": c.Device.cpu},
         {"nodes": 4, "ntasks-per-node": 1, "time": 30, "exclusive": True, "requeue": True}),
        ({"cluster.slurm": c.Slurm(gpus_by="gpus-per-node", partition="p5", account="lab", qos="high", constraint="efa",
                                   reservation="paper", time_min=90, exclusive=False, requeue=False,
                                   extra={"mail_type": "END", "nice": 5, "mem": None, "hold": False})},
         {"nodes": 4, "ntasks-per-node": 1, "gpus-per-node": "8", "partition": "p5", "account": "lab", "qos": "high",
          "constraint": "efa", "reservation": "paper", "time": 90, "no-requeue": True, "mail-type": "END", "nice": 5}),
        ({"cluster.slurm": c.Slurm(gpus_by="none"), "topology.nodes": 2},
         {"nodes": 2, "ntasks-per-node": 1, "time": 30, "exclusive": True, "requeue": True}),
    ],
)  # fmt: skip
def test_a_job_is_sized_by_its_plan(make_config: MakeConfig, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    assert jobs.sbatch_options(build_plan(make_config(changes))) == expected


def test_the_time_asked_for_is_half_more_than_the_estimate(make_config: MakeConfig) -> None:
    plan = build_plan(make_config({"workload.num_prompts": 400_000, "workload.repeats": 8}))
    assert plan.estimate_s > 30 * 60
    assert plan.estimate_s * 1.5 / 60 < jobs.time_min(plan, c.Slurm()) <= plan.estimate_s * 1.5 / 60 + 1


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:30", 91), ("4:00:00", 240), ("0:59:60", 60), ("1-12", 2160), ("1-0:30", 1470), ("2-1:0:1", 2941)],
)
def test_a_time_in_sbatchs_words(make_config: MakeConfig, text: str, minutes: int) -> None:
    slurm = c.Slurm(extra={"time": text})
    plan = build_plan(make_config({"cluster.slurm": slurm}))
    assert (jobs.time_min(plan, slurm), jobs.sbatch_options(plan)["time"]) == (minutes, text)


def test_gpus_by(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.slurm\.gpus_by=gpu: must be gres, gpus-per-node or none"):
        jobs.sbatch_options(build_plan(make_config({"cluster.slurm": c.Slurm(gpus_by="gpu")})))


def test_one_step_starts_all_agents(make_config: MakeConfig) -> None:
    command = jobs.agents_command(make_config().cluster, ["n1", "n2"], "10.0.0.1:5", "/runs/a b/.key-7")
    assert command[:6] == ("srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--nodelist=n1,n2", "--gres=gpu:8")
    assert command[-4:] == ("-m", "pdslurm.slurm.agent", "10.0.0.1:5", "/runs/a b/.key-7")
    assert {"--overlap", "--kill-on-bad-exit=0", "--wait=0", "--cpu-bind=none", "--mem=0"} <= set(command)


def test_a_steps_own_variables_stay_out_of_the_next_step() -> None:
    given = {"PATH": "/bin", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_CPU_BIND": "x", "SLURM_CONF": "/c", "SRUN_DEBUG": "3"}
    site = {"SLURM_MPI_TYPE": "none", "SLURM_NETWORK": "sn", "SLURMD_NODENAME": "n1", "PDSLURM_STEP": "7"}
    assert jobs.step_environment(given | site) == {"PATH": "/bin", "SLURM_JOB_ID": "7", "SLURM_CONF": "/c"} | site


def test_the_sites_own_options_of_srun(make_config: MakeConfig) -> None:
    cluster = make_config({"cluster.slurm": c.Slurm(srun=["--mpi=none", "--network=sn"])}).cluster
    agents = jobs.agents_command(cluster, ["n1"], "10.0.0.1:5", "/key")
    driver = jobs.driver_command(jobs.Allocation("7", ("n1",), 0), cluster, ["a=b"])
    for command in (agents, driver):
        assert command[command.index("--mpi=none") :][:4] == ("--mpi=none", "--network=sn", sys.executable, "-m")


def test_the_allocation_this_process_is_in(programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    programs(squeue='[ "$2" = --jobs=7 ] && echo " n[1-2]"', scontrol='[ "$3" = "n[1-2]" ] && printf "n1\\nn2\\n"')
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    found = jobs.current_allocation()
    assert found == jobs.Allocation("7", ("n1", "n2"), 2)


@pytest.mark.parametrize(
    ("named", "host", "here"),
    [
        pytest.param(None, "n1", True, id="its name"),
        pytest.param(None, "n1.cluster.local", True, id="its name with a domain"),
        pytest.param(None, "n2", False, id="another node"),
        pytest.param(None, "ip-10-0-1-5", True, id="a shell on the node, of another host name that Slurm knows"),
        pytest.param(None, "ip-10-0-1-6", False, id="a shell on another node"),
        pytest.param("n1", "ip-10-0-1-7", True, id="a step on the node, of another host name"),
        pytest.param("n2", "n1", False, id="a step on another node whose host name misleads"),
    ],
)
def test_the_first_node(
    programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch, named: str | None, host: str, here: bool
) -> None:
    programs(scontrol='[ "$4" = n1 ] && echo "NodeName=n1 Arch=x86_64 NodeAddr=10.0.1.5 NodeHostName=ip-10-0-1-5 Version=24"')
    monkeypatch.setattr("platform.node", lambda: host)
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    if named:
        monkeypatch.setenv("SLURMD_NODENAME", named)
    assert jobs.Allocation("7", ("n1", "n2"), 0).is_here is here


def test_pdslurm_starts_itself_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "ip-10-0-1-5")
    monkeypatch.setenv("SLURMD_NODENAME", "n3")
    found = jobs.Allocation("7", ("n1", "n2"), 0)
    first = jobs.driver_environment({"PATH": "/bin", "SLURM_NTASKS": "1", "PDSLURM_STEP": "6"}, found)
    assert first == {"PATH": "/bin", "PDSLURM_STEP": "7"}
    with pytest.raises(ConfigError) as caught:
        jobs.driver_environment({**first, "SLURMD_NODENAME": "n3"}, found)
    where = "srun --nodelist=n1 started pdslurm on another node (SLURMD_NODENAME=n3, host name ip-10-0-1-5)"
    assert caught.value.problems == (f"launcher=allocation: job 7: {where}; ask the site why, or use launcher=slurm",)


@pytest.mark.parametrize(
    "squeue",
    ["echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", "true", "echo"],
    ids=["unknown", "ended", "none"],
)
def test_a_job_that_has_ended(programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch, squeue: str) -> None:
    programs(squeue=squeue)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(ConfigError) as caught:
        jobs.current_allocation()
    why = "this job has no nodes, for it has ended or not begun; run it in a new salloc, or `unset SLURM_JOB_ID` and use "
    why += "launcher=slurm"
    assert caught.value.problems == (f"launcher=allocation: SLURM_JOB_ID=7: {why}",)


@pytest.mark.parametrize("variable", ["SLURM_HET_SIZE", "SLURM_JOB_ID_HET_GROUP_0"])
def test_a_heterogeneous_job(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(variable, "2")
    with pytest.raises(ConfigError, match=f"launcher=allocation: {variable} is set: this is a heterogeneous job"):
        jobs.current_allocation()


def test_outside_of_an_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ConfigError, match="launcher=allocation: not inside a Slurm allocation; run it under salloc or sbatch"):
        jobs.current_allocation()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (None, "launcher: squeue is not on PATH: no Slurm on this machine; use launcher=local or launcher=plan"),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", "Invalid job id specified"),
        ("exit 3", "`squeue -h`: exit code 3"),
    ],
)
def test_slurms_own_words(programs: Callable[..., None], script: str | None, said: str) -> None:
    if script:
        programs(squeue=script)
    with pytest.raises(ConfigError) as caught:
        jobs.run_slurm_command("squeue", "-h")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "topology.nodes=4: job 7 has 2 (n1, n2)"),
        ({"topology.nodes": 2}, None),
        ({"topology.nodes": 1}, None),
        ({"cluster.one_host": True}, "cluster=eights: one_host is for launcher=local; name a cluster of nodes"),
    ],
)
def test_what_fits(make_config: MakeConfig, changes: dict[str, Any], said: str | None) -> None:
    plan, found = build_plan(make_config(changes)), jobs.Allocation("7", ("n1", "n2"), 0)
    if said is None:
        jobs.check_fits(plan, found)
        return
    with pytest.raises(ConfigError) as caught:
        jobs.check_fits(plan, found)
    assert caught.value.problems == (said,)
