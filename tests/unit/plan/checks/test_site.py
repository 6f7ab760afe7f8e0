"""cluster.network and cluster.slurm: for each mistake the sentence that a user reads, and nothing for what is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pdslurm import config as c
from pdslurm.plan.checks.site import problems

NETWORK = "must be one IPv4 network such as 10.79.0.0/16"
LOOPBACK = "the loopback, by which nodes do not reach each other"
GPUS = "pdslurm sets it itself; cluster.gpus_per_node says it, of each node"
PER_NODE = "GPU(s) of each node, and cluster.gpus_per_node=8; must have"
QUOTES = "must be text, and YAML read a number; write what you mean in quotes, such as"


def cluster(text: str, folder: Path) -> c.Cluster:
    """A cluster as a user's YAML file describes it."""
    file = folder / "site.yaml"
    file.write_text(f"name: site\ngpus_per_node: 8\ngpu: H100\ngpu_memory_gib: 80\n{text}\n")
    made: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(c.Cluster), OmegaConf.load(file)))
    assert isinstance(made, c.Cluster)
    return made


@pytest.mark.parametrize(
    "text",
    [
        "",
        "network: {interface: ib0, cidr: 10.79.0.0/16}",
        "network: {interface: bond0.100, cidr: 10.79.1.2/16}",
        "network: {cidr: 0.0.0.0/2}",
        "network: {interface: lo, cidr: 127.0.0.0/8}\none_host: true",
        'slurm: {partition: gpu, account: "0123", extra: {time: "4:00:00", mem: 0, comment: "p/d test", nice: 5}}',
        "slurm: {extra: {time: 1-12, hold: true, no_such_option: 1, mail_type: END, exclude: n7, mem: null}}",
        "slurm: {extra: {gres: 'gpu:h100:8', cpus-per-task: 96}}",
        "slurm: {extra: {gres: 'gpu:8,nvme:1'}}",
        "slurm: {extra: {gres: null}}",
        "slurm: {gpus_by: gpus-per-node, extra: {gpus-per-node: 'h100:8', gres: 'nvme:1'}}",
        "slurm: {gpus_by: gpus-per-node, extra: {gpus_per_node: 8}}",
        "slurm: {gpus_by: none, extra: {gres: 'nvme:1'}}",
        "slurm: {extra: {gres: 'nvme:1'}}\ndevice: cpu",
        "slurm: {time_min: 240, srun: [--mpi=none, --network=sn_all, --unbuffered]}",
    ],
)
def test_what_is_right(text: str, tmp_path: Path) -> None:
    assert list(problems(cluster(text, tmp_path))) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("network: {cidr: ib0}", f"cluster.network.cidr='ib0': {NETWORK}"),
        ("network: {cidr: ''}", f"cluster.network.cidr='': {NETWORK}"),
        ("network: {cidr: '10.1.0.0/16,10.2.0.0/16'}", f"cluster.network.cidr='10.1.0.0/16,10.2.0.0/16': {NETWORK}"),
        ("network: {cidr: 10.1.0.0/33}", f"cluster.network.cidr='10.1.0.0/33': {NETWORK}"),
        ("network: {cidr: 'fd00::/8'}", f"cluster.network.cidr=fd00::/8: {NETWORK}; pdslurm does not use IPv6"),
        ("network: {cidr: 10.1.2.3}",
         f"cluster.network.cidr=10.1.2.3: names one address, which one node alone can have; {NETWORK}"),
        ("network: {cidr: '::1/128'}", f"cluster.network.cidr=::1/128: {NETWORK}; pdslurm does not use IPv6"),
        ("network: {cidr: 0.0.0.0/0}",
         f"cluster.network.cidr=0.0.0.0/0: has every address in it, and so chooses none; {NETWORK}"),
        ("network: {cidr: 10.0.0.0/0}\none_host: true",
         f"cluster.network.cidr=10.0.0.0/0: has every address in it, and so chooses none; {NETWORK}"),
        ("network: {cidr: 127.0.0.0/8}", f"cluster.network.cidr=127.0.0.0/8: has {LOOPBACK}; {NETWORK}"),
        ("network: {cidr: 127.0.0.1}", f"cluster.network.cidr=127.0.0.1: has {LOOPBACK}; {NETWORK}"),
        ("network: {cidr: 0.0.0.0/1}", f"cluster.network.cidr=0.0.0.0/1: has {LOOPBACK}; {NETWORK}"),
        ("network: {cidr: 239.1.0.0/16}",
         f"cluster.network.cidr=239.1.0.0/16: has addresses for multicast, which no node has of its own; {NETWORK}"),
        ("network: {interface: lo}",
         f"cluster.network.interface=lo: is {LOOPBACK}; must be an interface that leads to the others, such as ib0"),
        ("network: {interface: 'ib0,ib1'}",
         "cluster.network.interface='ib0,ib1': must be the name of one interface, such as ib0"),
        ("slurm: {account: 0123}", f'cluster.slurm.account=83: {QUOTES} "83" or "0123"'),
        ("slurm: {partition: 1e3}", f'cluster.slurm.partition=1000.0: {QUOTES} "1000.0"'),
        ("slurm: {qos: on}", "cluster.slurm.qos=True: must be text, and YAML read a truth value; write it in quotes"),
        ("slurm: {qos: ''}", "cluster.slurm.qos=: is empty; give a name, or null to leave it out"),
        ("slurm: {time_min: 0}", "cluster.slurm.time_min=0: must be 1 minute or more; null: by the plan's estimate"),
        ("slurm: {extra: {time: 4:00:00}}",
         f'cluster.slurm.extra.time=14400: {QUOTES} "14400" or "4:00:00"; or set cluster.slurm.time_min'),
        ("slurm: {extra: {begin: 16:00}}", f'cluster.slurm.extra.begin=960: {QUOTES} "960" or "16:00"'),
        ("slurm: {extra: {time: UNLIMITED}}",
         "cluster.slurm.extra.time='UNLIMITED': must be MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS or DAYS-HOURS[:MINUTES]"),
        ("slurm: {extra: {time: 4h}}",
         "cluster.slurm.extra.time='4h': must be MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS or DAYS-HOURS[:MINUTES]"),
        ("slurm: {time_min: 60, extra: {time: '4:00:00'}}",
         "cluster.slurm.extra.time=4:00:00: cluster.slurm.time_min=60 says it too; set one of them"),
        ("slurm: {account: a, extra: {account: b}}",
         "cluster.slurm.extra.account=b: cluster.slurm.account=a says it too; set one of them"),
        ("slurm: {extra: {mem: 1e3}}", f'cluster.slurm.extra.mem=1000.0: {QUOTES} "1000.0"'),
        ("slurm: {extra: {exclude: [n1, n2]}}",
         "cluster.slurm.extra.exclude=['n1', 'n2']: must be one value; write it as sbatch takes it, in quotes"),
        ("slurm: {extra: {nodes: 2}}",
         "cluster.slurm.extra.nodes=2: pdslurm sets it itself; topology and cluster.gpus_per_node say it"),
        ("slurm: {extra: {tasks-per-node: 8}}",
         "cluster.slurm.extra.tasks-per-node=8: pdslurm sets it itself; each node has one task, which starts the engines there"),
        ("slurm: {extra: {gpus: 32}}", f"cluster.slurm.extra.gpus=32: {GPUS}"),
        ("slurm: {extra: {gpus_per_task: 8}}", f"cluster.slurm.extra.gpus_per_task=8: {GPUS}"),
        ("slurm: {extra: {gres: 'gpu:4'}}", f"cluster.slurm.extra.gres=gpu:4: asks for 4 {PER_NODE} gpu:8 or gpu:TYPE:8"),
        ("slurm: {extra: {gres: 'gpu:a100:4,gpu:h100:8'}}",
         f"cluster.slurm.extra.gres=gpu:a100:4,gpu:h100:8: asks for 12 {PER_NODE} gpu:8 or gpu:TYPE:8"),
        ("slurm: {gpus_by: none, extra: {gres: gpu}}",
         f"cluster.slurm.extra.gres=gpu: asks for 1 {PER_NODE} gpu:8 or gpu:TYPE:8"),
        ("slurm: {extra: {gres: 'nvme:1'}}",
         f"cluster.slurm.extra.gres=nvme:1: asks for no {PER_NODE} gpu:8 or gpu:TYPE:8"),
        ("slurm: {extra: {gpus-per-node: 4}}", f"cluster.slurm.extra.gpus-per-node=4: asks for 4 {PER_NODE} 8 or TYPE:8"),
        ("slurm: {extra: {gpus-per-node: 0}}", f"cluster.slurm.extra.gpus-per-node=0: asks for no {PER_NODE} 8 or TYPE:8"),
        ("slurm: {gpus_by: none, extra: {gpus-per-node: 'h100:4'}}",
         f"cluster.slurm.extra.gpus-per-node=h100:4: asks for 4 {PER_NODE} 8 or TYPE:8"),
        ("slurm: {extra: {job_name: x}}",
         "cluster.slurm.extra.job_name=x: pdslurm sets it itself; the run's name and folder say it"),
        ("slurm: {extra: {clusters: b}}",
         "cluster.slurm.extra.clusters=b: pdslurm sets it itself; set SLURM_CLUSTERS in the environment instead"),
        ("slurm: {extra: {--mem: 0}}",
         "cluster.slurm.extra.--mem: must be the long name of an option of sbatch, without its dashes"),
        ("slurm: {srun: [mpi=none]}",
         "cluster.slurm.srun has 'mpi=none': each must be one long option of srun, such as --mpi=none"),
        ("slurm: {srun: [--overlap]}", "cluster.slurm.srun has --overlap: pdslurm sets --overlap itself; leave it out"),
        ("slurm: {srun: [--nodelist=n1]}", "cluster.slurm.srun has --nodelist=n1: pdslurm sets --nodelist itself; leave it out"),
    ],
)  # fmt: skip
def test_what_is_wrong(text: str, said: str, tmp_path: Path) -> None:
    assert list(problems(cluster(text, tmp_path))) == [said]
