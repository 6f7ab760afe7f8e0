"""All ways to divide instances between prefill and decode, and the one to begin with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pdslurm import config as c
from pdslurm.errors import ConfigError
from pdslurm.plan.outline import make_outline
from pdslurm.plan.plan import build_plan
from pdslurm.plan.render import plan_text
from pdslurm.plan.splits import split_topologies, with_splits

MakeConfig = Callable[..., c.Config]


def test_every_split_of_four_nodes(make_config: MakeConfig) -> None:
    config = with_splits(make_config({"splits": True}))
    assert list(config.arms) == ["route_4", "pd_1p3d", "pd_2p2d", "pd_3p1d"]
    plan = build_plan(config)
    assert [[arm.name for arm in s.arms] for s in plan.sets] == [["route_4"], ["pd_1p3d", "pd_2p2d", "pd_3p1d"]]
    assert all(i.gpu_count == 8 for s in plan.sets for i in s.instances)
    assert with_splits(replace(config, splits=False)).arms == config.arms


def test_splits_of_one_node() -> None:
    made = split_topologies(c.Topology(nodes=1, tensor_parallel=2, extra_args=["--x"]), 8)
    assert list(made) == ["route_4", "pd_1p3d", "pd_2p2d", "pd_3p1d"]
    assert {topology.route for topology in made.values()} == {4, 1}
    assert all(topology.extra_args == ["--x"] for topology in made.values())


@pytest.mark.parametrize(
    ("topology", "text"),
    [
        (c.Topology(nodes=1, tensor_parallel=8), "8 GPUs in instances of 8; give it nodes"),
        (c.Topology(nodes=3, tensor_parallel=8, gpus=16), "24 GPUs in instances of 16; give it nodes"),
        (
            c.Topology(nodes=2, tensor_parallel=8, as_prefill=c.Role(gpus=16)),
            "prefill instances of 16 GPUs and decode instances of 8",
        ),
    ],
)
def test_no_room_for_splits(topology: c.Topology, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        split_topologies(topology, 8)


def test_splits_beside_arms_are_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="there are arms already"):
        with_splits(make_config({"splits": True, "arms": {"a": c.Topology(nodes=4, tensor_parallel=8)}}))


def test_a_plan_with_a_search_tells_its_sweeps_and_not_every_rate(make_config: MakeConfig) -> None:
    search = c.Search(lowest=1.0, highest=100.0, step=1.25, fine=1, beside=0, neighbours=1, beyond=0)
    config = with_splits(make_config({"splits": True, "workload.search": search, "workload.duration_s": 60.0,
                                      "slo": c.Slo("chat", ttft_ms=1000), "workload.repeats": 3}))  # fmt: skip
    text = plan_text(make_outline(config))
    assert "about 15 points each" in text.splitlines()[0]
    said = text[text.index("sent to the plain arm") :].splitlines()
    assert [line.partition(",")[0] for line in said[1:4]] == [
        "  i128-o1-rinf-cinf-rep0             1024 prompts", "  i128-o32-rinf-cinf-rep0            1024 prompts",
        "  i128-o32-rinf-c16-rep0             64 prompts",
    ]  # fmt: skip
    assert said[4] == (
        "128 tokens in, 32 out, random: 21 rates from 1 to 86.7 requests/s (60 to 5202 prompts), of which each arm measures what "
        "leads to the highest that meets slo=chat, 3 times"
    )
    whole = c.Search(lowest=1.0, highest=100.0, step=1.25, beside=1, cover=4.0, neighbours=1)
    workload = replace(config.workload, search=whole, starts=3, repeats=1)
    (line,) = [each for each in plan_text(make_outline(replace(config, workload=workload))).splitlines() if "tokens in," in each]
    assert line.startswith("128 tokens in, 32 out, random: 83 rates from 1 to 97 requests/s (100 to 5820 prompts), of which")
    assert line.endswith(
        "meets slo=chat, 1 beside it on each side, what other SLOs need, down to 1/4 of it, once in each of 3 starts"
    )
