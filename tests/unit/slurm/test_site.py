"""The first draft of a cluster's file, from what Slurm prints on sites of several kinds: every draft makes a plan."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pdslurm import config as c
from pdslurm import doctor
from pdslurm.errors import ConfigError
from pdslurm.node.site_look import MARK
from pdslurm.plan.outline import make_outline
from pdslurm.slurm import site_nodes
from pdslurm.slurm.jobs import sbatch_options
from pdslurm.slurm.known_gpus import known_gpu
from pdslurm.slurm.site_draft import choose, draft
from pdslurm.slurm.site_facts import Kind, ask_slurm, minutes, parse_gres, parse_nodes, parse_tres, run_command
from pdslurm.slurm.site_nodes import look_at_nodes, step_command
from tests.unit.plan.test_golden import ROOT, composed

Run = Callable[[Sequence[str]], str]
CONFIG = """Configuration data as of 2025-03-10T10:00:00
AccountingStorageEnforce = associations,limits
ClusterName             = tiger
SelectTypeParameters    = CR_CORE_MEMORY
SLURM_VERSION           = 23.11.10

Slurmctld(primary) at ctl is UP
"""
HELP = "Usage: srun [OPTIONS(0)... [executable(0) [args(0)...]]]\n"
PYXIS = HELP + "      --container-image=[USER@][REGISTRY#]IMAGE[:TAG]|PATH\n"
H100 = """\
g1|gpu*|h100,ib,gen5|2063000|192|2-00:00:00|4:00:00|gpu:h100:8(S:0-1)
g2|gpu*|h100,ib,gen5|2063000|192|2-00:00:00|4:00:00|gpu:h100:8(S:0-1)
g2|all|h100,ib,gen5|2063000|192|infinite|n/a|gpu:h100:8(S:0-1)
c1|cpu|(null)|515000+|64|infinite|n/a|(null)
"""
TWO_KINDS = """\
n1|x*|old,ib|9|9|20:00|n/a|gpu:a30:4
n2|x*|big,ib|9|9|20:00|n/a|gpu:h200:8
n3|x*|big,ib|9|9|20:00|n/a|gpu:h200:8
"""
PARTS = TWO_KINDS.replace("h200:8", "1g.10gb:7").replace("a30:4", "h200:8")
IB = {
    "node": "g1", "devices": ["uverbs0"], "fabrics": ["mlx5_core"], "memlock": 2**26, "programs": ["apptainer"],
    "gpus": [["NVIDIA H100 80GB HBM3", 81559.0]],
    "interfaces": [
        {"name": "eno1", "address": "10.0.0.5", "cidr": "10.0.0.0/24", "mbit": 25000, "ib": False},
        {"name": "ib0", "address": "10.1.3.5", "cidr": "10.1.0.0/16", "mbit": 400000, "ib": True},
    ],
}  # fmt: skip
EFA = {**IB, "fabrics": ["efa"], "memlock": None, "programs": [], "gpus": None, "interfaces": IB["interfaces"][:1]}  # type: ignore[index]
PLAIN = {**IB, "devices": [], "fabrics": [], "gpus": None, "interfaces": [IB["interfaces"][0]] * 2}  # type: ignore[index]
# Every line of YAML that a site's draft must have, and the pieces of text beside.
SITES: dict[str, tuple[Mapping[str, str], str | None, list[Mapping[str, Any]], dict[str, Any], list[str]]] = {
    "h100 with InfiniBand": (
        {"sinfo": H100, "scontrol show config": CONFIG, "sacctmgr": "0123\nphysics\n", "srun": PYXIS}, None, [IB],
        {
            "gpus_per_node": 8, "gpu": "H100-80GB", "gpu_memory_gib": 79, "network.cidr": "10.1.0.0/16",
            "network.transport": "rdma",
            "slurm.partition": "gpu", "slurm.account": "0123", "slurm.constraint": None, "slurm.gpus_by": "gres", "load_s": 100,
            "slurm.extra": {"mem": 0}, "kv_backends": ["UCX"],
        },
        [
            "# sinfo: gres=gpu:h100:8 on 2 node(s) of partition gpu", "# nvidia-smi: NVIDIA H100 80GB HBM3",
            "  # account: physics  #",
            "a job may last 2-00:00:00, and 4:00:00 where it asks for no time", "# partition: cpu  # sinfo: 1 node(s) with no GPU",
            "# cidr: 10.0.0.0/24  # g1: eno1 10.0.0.5, 25 Gbit/s", "ulimit -l is 65536 KiB, and RDMA needs 16 GiB",
            "# gpu_tflops: 400",
            "# Containers: apptainer, pyxis; for example runtime=pyxis",
        ],
    ),
    "EFA, and names that YAML takes for others": (
        {"sinfo": "p1|1e3*|p5,on,a=b|2000000|192|4:00:00|30:00|gpu:8\n", "sacctmgr": "on\n"}, None, [EFA],
        {
            "slurm.partition": "1e3", "slurm.account": "on", "kv_backends": ["LIBFABRIC"], "network.transport": "efa",
            "network.cidr": None, "gpu": "GPU", "gpu_memory_gib": 80, "slurm.extra": {}, "slurm.time_min": None,
        },
        ["gpu: GPU  # FILL IN: GRES has no type", "gpu_memory_gib: 80  # FILL IN: not known", "# Containers: none on g1"],
    ),
    "parts of GPUs on most nodes": (
        {"sinfo": PARTS},
        None, [{**IB, "gpus": None, "interfaces": [{**IB["interfaces"][1], "cidr": "10.1.3.5/32"}]}],  # type: ignore[index]
        {"gpus_per_node": 8, "gpu": "H200-141GB", "network.interface": "ib0", "network.cidr": None},
        ["# 2 other node(s) of this partition have gpu:1g.10gb:7",
         "  interface: ib0  # g1: ib0 10.1.3.5, 400 Gbit/s, over InfiniBand"],
    ),
    "two kinds of GPUs that a feature tells apart": (
        {"sinfo": TWO_KINDS},
        None, [],
        {
            "gpu": "H200-141GB", "gpu_memory_gib": 139, "load_s": 150, "slurm.constraint": "big", "slurm.time_min": 20,
            "slurm.extra": {},
        },
        ["# 1 other node(s) of this partition have gpu:a30:4", "# account: FILL IN if sbatch asks for one", "# network: {cidr:"],
    ),
    "two kinds that nothing tells apart, one node with both": (
        {"sinfo": "a|x*|(null)|9|9|infinite|n/a|gpu:a100_80gb:4,gpu:a30:2\n"}, None, [],
        {"gpus_per_node": 4, "gpu": "A100-80GB", "gpu_memory_gib": 80, "slurm.extra": {"gres": "gpu:a100_80gb:4"}},
        ["# the same nodes have gpu:a30:2 too", "a job may last without limit"],
    ),
    "GPUs in CfgTRES alone, named by a feature": (
        {
            "sinfo": "a|x*|rack1,a100,p3|9|9|infinite|n/a|(null)\n",
            "scontrol show node": "NodeName=a Gres=(null) OS=Linux 5.15 #1 SMP CfgTRES=cpu=9,mem=9G,gres/gpu=4 Reason=x y\n",
        },
        None, [PLAIN],
        {"gpus_per_node": 4, "gpu": "A100-40GB", "gpu_memory_gib": 40, "network.transport": "any", "network.cidr": None},
        ["# sinfo: feature a100 of these nodes", "  # cidr: FILL IN one of these", "the GPU's model; a few are sold with more"],
    ),
    "a default partition without GPUs": (
        {"sinfo": "c|short*|(null)|9|9|30:00|n/a|(null)\ng|dgx|(null)|9|9|infinite|n/a|gpu:V100:4\n"}, None, [],
        {"slurm.partition": "dgx", "gpu": "V100-16GB", "gpu_memory_gib": 16},
        ["the default partition short has no GPU, and this one has the most nodes with GPUs", "# partition: short  # sinfo: the"],
    ),
    "the partition that is asked for, which has no GPU": (
        {"sinfo": H100, "sshare": "physics|\n"}, "cpu", [],
        {"device": "cpu", "gpu_memory_gib": 402, "slurm.gpus_by": "none", "slurm.account": "physics"},
        ["# sinfo: no GPU on 1 node(s) of partition cpu", "# `scontrol show node` said nothing", "# Containers: not looked at"],
    ),
}  # fmt: skip


def printing(said: Mapping[str, str]) -> Run:
    """Commands of Slurm that print `said`, by the beginning of the command; those that are not in it are not there."""

    def run(command: Sequence[str]) -> str:
        for begin, text in said.items():
            if " ".join(command).startswith(begin):
                return text
        raise FileNotFoundError(command[0])

    return run


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(ROOT / "conf", tmp_path / "conf"))


@pytest.mark.parametrize("site", SITES)
def test_a_draft_says_where_it_is_from_and_makes_a_plan(site: str, conf: Path) -> None:
    said, wanted, looks, values, words = SITES[site]
    facts = ask_slurm(printing(said), "me")
    text = draft("site", facts, choose(facts, wanted), looks)
    (conf / "cluster" / "site.yaml").write_text(text)
    config = composed("pd_1p3d", "cluster=site", *(["model=tiny"] if "device" in values else []), conf=conf)
    found = OmegaConf.structured(config.cluster)
    got = {key: OmegaConf.select(found, key) for key in values}
    assert {key: getattr(v, "name", OmegaConf.to_container(v) if OmegaConf.is_config(v) else v) for key, v in got.items()} == values
    assert [piece for piece in words if piece not in text] == []
    plan = make_outline(config).plan
    assert sbatch_options(plan)["partition"] == config.cluster.slurm.partition


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("(null)", []),
        ("gpu:8", [("", 8)]),
        ("gpu", [("", 1)]),
        ("gpu:h100:8(S:0-1)", [("h100", 8)]),
        ("gpu:h100:8(S:0,2-3)", [("h100", 8)]),
        ("gpu:a30:2,gpu:a100_80gb:4", [("a100_80gb", 4), ("a30", 2)]),
        ("gpu:8(S:0-1),shard:32(S:0-1),nvme:1G", [("", 8)]),
        ("gpu:tesla:no_consume:2", [("tesla", 2)]),
        ("gpu:1g.10gb:7(S:0)", [("1g.10gb", 7)]),
        ("gpu:1g.10gb:14,gpu:a100:2", [("a100", 2), ("1g.10gb", 14)]),
        ("craynetwork:4,gpu:0", []),
    ],
)
def test_gres(text: str, kinds: list[tuple[str, int]]) -> None:
    assert parse_gres(text) == tuple(Kind(*each) for each in kinds)


def test_what_scontrol_says_of_nodes() -> None:
    assert parse_tres("cpu=9,gres/gpu=6,gres/gpu:a30=2,gres/gpu:h100=4,gres/shard=8") == (Kind("h100", 4), Kind("a30", 2))
    text = "NodeName=a Gres=gpu:l4:1 CfgTRES=cpu=1,gres/gpu=9\nNodeName=b Comment=Gres=gpu:8 Gres=(null) CfgTRES=cpu=1\n"
    assert parse_nodes(text) == {"a": (Kind("l4", 1),), "b": ()}


@pytest.mark.parametrize(
    ("text", "value"),
    [("30", 30), ("20:30", 20.5), ("4:00:00", 240), ("1-00:00:00", 1440), ("2-12", 3600), ("infinite", None), ("n/a", None)],
)
def test_times(text: str, value: float | None) -> None:
    assert minutes(text) == value


@pytest.mark.parametrize(
    ("called", "measured", "name", "gib"),
    [
        ("h100", None, "H100-80GB", 80),
        ("nvidia_h100_80gb_hbm3", None, "H100-80GB", 80),
        ("NVIDIA H100 NVL", 93.0, "H100-93GB", 93),
        ("NVIDIA H200", 140.0, "H200-141GB", 140),
        ("a100-sxm4-40gb", None, "A100-40GB", 40),
        ("NVIDIA GeForce RTX 3090", None, "RTX3090-24GB", 24),
        ("NVIDIA GH200 480GB", None, "GH200-96GB", 96),
        ("tesla", None, "tesla", None),
        ("", None, "GPU", None),
    ],
)
def test_gpus_by_any_name(called: str, measured: float | None, name: str, gib: float | None) -> None:
    known = known_gpu(called, measured)
    assert (known.name, known.memory_gib) == (name, gib)


@pytest.mark.parametrize(
    ("argv", "said", "error"),
    [
        ([], {}, "sinfo is not on PATH: no Slurm on this machine; run this on a login node"),
        ([], {"sinfo": ""}, "sinfo shows no node"),
        (["--partition", "gpus"], {"sinfo": H100}, "--partition=gpus: sinfo shows no such partition; use one of gpu, all, cpu"),
        (["--out", "there.yaml"], {"sinfo": H100}, "--out=there.yaml: is there already and stays as it is; name another file, or"),
        (["--out", "site.yml"], {"sinfo": H100}, "--out=site.yml: must end in .yaml"),
        (["--out", "no/site.yaml"], {"sinfo": H100}, "--out=no/site.yaml: cannot be written (No such file or directory)"),
        (["--look", "-1"], {"sinfo": H100}, "--look=-1: must be 0 or more"),
    ],
)  # fmt: skip
def test_one_clear_error(
    argv: list[str], said: Mapping[str, str], error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.yaml").write_text("mine")
    with pytest.raises(ConfigError) as caught:
        doctor.site(argv, {}, printing(said))
    [problem] = caught.value.problems
    assert problem.startswith(f"site: {error}")
    assert Path("there.yaml").read_text() == "mine"


def test_where_it_goes(tmp_path: Path) -> None:
    out, run = tmp_path / "tiger.yaml", printing({"sinfo": H100})
    assert "\nname: site  # " in doctor.site([], {}, run)
    assert doctor.site(["--out", str(out)], {}, run).endswith("experiment=pd_1p3d cluster=tiger launcher=plan\n")
    out.write_text("mine")
    doctor.site(["--out", str(out), "--force"], {}, run)
    assert OmegaConf.merge(OmegaConf.structured(c.Cluster), OmegaConf.load(out)).name == "tiger"


def test_a_user_that_has_a_number_and_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", unknown)
    asked: list[str] = []

    def run(command: Sequence[str]) -> str:
        asked.extend(command)
        return printing({"sinfo": H100})(command)

    assert "name: site" in doctor.site([], {}, run)
    assert f"user={os.getuid()}" in asked


def test_words_that_are_no_utf_8_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sinfo = tmp_path / "sinfo"
    sinfo.write_bytes(b"#!/bin/sh\nprintf 'caf\\351\\n'\n")
    sinfo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert run_command(["sinfo"]) == "caf\N{REPLACEMENT CHARACTER}\n"


def test_the_partition_of_a_job_that_this_runs_in() -> None:
    facts = ask_slurm(printing({"sinfo": H100}), "me")
    names = [(choose(facts, *wanted, job=job).partition.name) for wanted, job in [((), "all"), ((), "hidden"), (("cpu",), "all")]]
    assert names == ["all", "gpu", "cpu"]


def test_the_step_that_looks() -> None:
    facts = ask_slurm(printing({"sinfo": TWO_KINDS, "sacctmgr": "a1\n"}), "me")
    alone = step_command(choose(facts), facts, 2, {})
    assert {"--nodes=2", "--partition=x", "--account=a1", "--constraint=big", "--gres=gpu:h200:1", "--time=2"} <= set(alone)
    inside = step_command(choose(facts), facts, 1, {"SLURM_JOB_ID": "7"})
    assert "--overlap" in inside
    assert not [word for word in inside if word.startswith(("--partition", "--gres", "--time"))]


def test_nodes_that_cannot_be_looked_at_do_not_cost_the_draft(tmp_path: Path) -> None:
    facts = ask_slurm(printing({"sinfo": H100}), "me")
    assert look_at_nodes(choose(facts), facts, 0, {}) == ([], "")
    environ = {"PATH": str(tmp_path)}
    looks, failed = look_at_nodes(choose(facts), facts, 1, environ)
    assert (looks, failed) == ([], "srun: it is not on PATH")
    assert "# No node was looked at: srun: it is not on PATH\n" in draft("site", facts, choose(facts), looks, failed)
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\necho 'srun: error: Invalid account' >&2\nexit 1\n")
    srun.chmod(0o755)
    assert look_at_nodes(choose(facts), facts, 1, environ) == ([], "srun: error: Invalid account")


def test_no_job_stays_in_the_queue_when_no_node_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = ask_slurm(printing({"sinfo": H100}), "me")
    srun = tmp_path / "srun"
    waits = "sleep 30 > /dev/null 2>&1 & wait"
    srun.write_text(f"#!/bin/bash\ntrap 'kill %1; touch {tmp_path}/taken-back; exit 1' TERM\n{waits}\n")
    srun.chmod(0o755)
    monkeypatch.setattr(site_nodes, "STEP_S", 2.0)
    looks, failed = look_at_nodes(choose(facts), facts, 1, {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert (looks, failed) == ([], "srun: it does not answer within 2 s")
    assert (tmp_path / "taken-back").exists()


def test_a_look_at_this_machine(tmp_path: Path) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H100, 80GB, 81559'\n")
    smi.chmod(0o755)
    (tmp_path / "enroot").symlink_to(smi)
    env = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "pdslurm.node.site_look"], capture_output=True, text=True, check=True, env=env, cwd=ROOT
    )
    [line] = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    seen = json.loads(line.removeprefix(MARK))
    assert (seen["gpus"], seen["programs"]) == ([["NVIDIA H100, 80GB", 81559.0]], ["enroot"])
    for each in seen["interfaces"]:
        assert ipaddress.ip_address(each["address"]) in ipaddress.ip_network(each["cidr"])
        assert not each["address"].startswith("127.")
