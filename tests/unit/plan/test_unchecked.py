"""What a plan says it did not check: only what is true of its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pdslurm import config as c
from pdslurm.plan.outline import make_outline
from pdslurm.plan.render import plan_json, plan_text
from pdslurm.plan.unchecked import unchecked

MakeConfig = Callable[..., c.Config]
PD = {"topology.prefill": 1}
DOCKER = c.Runtime("d", kind=c.RuntimeKind.docker, image="/x.tar")
PYXIS = c.Runtime("p", kind=c.RuntimeKind.pyxis, image="/x.sqsh")
HUB = "model.path=org/v2-lite: the engines look for this hub's name"


@pytest.mark.parametrize(
    ("changes", "there", "absent"),
    [
        ({}, [HUB, "model.hf_config: nobody compares"], ["NIXL", "the sizes of", "cluster.network.transport", "slo="]),
        ({"model.hf_config": {}}, [HUB, "the sizes of v2-lite, so memory, heads and context: vLLM finds out"], ["model.hf_config"]),
        ({"model.make": True}, [], [HUB, "model.hf_config"]),
        (PD, ["NIXL and its back end UCX: the preflight", "cluster.network.transport=any: nobody checks"], []),
        ({**PD, "cluster.kv_backends": ["LIBFABRIC"]}, ["NIXL and its back end LIBFABRIC:"], []),
        ({**PD, "cluster.network": c.Network(transport=c.Transport.rdma)}, [], ["cluster.network.transport"]),
        ({}, ["which network the engines use: cluster.network names neither"], ["cluster.network.cidr"]),
        ({"cluster.network": c.Network(cidr="10.1.0.0/16")}, ["cluster.network.cidr=10.1.0.0/16: every node"], ["which network"]),
        ({"cluster.one_host": True, "cluster.gpus_per_node": 8}, [], ["which network", "cluster.slurm"]),
        ({"cluster.device": c.Device.cpu}, ["cluster.slurm: sbatch says"], ["cluster.gpu="]),
        ({"runtime": DOCKER}, ["runtime.image=/x.tar: every node loads"], ["runtime.vllm"]),
        ({"runtime": PYXIS}, ["runtime.image=/x.sqsh: srun fetches"], []),
        ({"attach": {"test": c.Endpoint("http://h:1")}}, ["what runs at the addresses under attach"], ["model", "vLLM"]),
        ({"workload.search": c.Search(lowest=0.5), "slo": c.Slo("chat", ttft_ms=1.0)}, ["whether any arm meets slo=chat at"], []),
    ],
)  # fmt: skip
def test_only_what_is_true(make_config: MakeConfig, changes: Mapping[str, Any], there: list[str], absent: list[str]) -> None:
    said = unchecked(make_config(changes))
    assert [start for start in there if not any(line.startswith(start) for line in said)] == []
    assert [word for word in absent if any(word in line for line in said)] == []


def test_the_model_s_folder(make_config: MakeConfig, tmp_path: Path) -> None:
    known = {"model.path": str(tmp_path), "model.hf_config": {}}
    assert any("there is no such folder on this machine; the preflight looks" in line for line in unchecked(make_config(known)))
    (tmp_path / "config.json").write_text('{"architectures": ["Unheard"]}')
    said = unchecked(make_config(known))
    assert [line for line in said if str(tmp_path) in line] == [
        f"model.path={tmp_path}: the preflight looks on every node whether the folder and its weights are there"
    ]
    assert any(line.startswith("the sizes of v2-lite") for line in said)


def test_both_forms_of_the_plan_have_them(make_config: MakeConfig) -> None:
    config = make_config()
    outline = make_outline(config)
    last = plan_text(outline).splitlines()[-len(unchecked(config)) :]
    assert last == [f"not checked here: {text}" for text in unchecked(config)]
    assert plan_json(outline.deployment, outline.compared)["not_checked"] == list(unchecked(config))
