"""Workloads: for each mistake, in the configuration or in a data file's beginning, the one sentence that a user reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pdslurm.config import Config, PromptClass, RampUp, Sweep, Trace, Workload
from pdslurm.plan.checks import workload as workload_checks
from pdslurm.plan.checks.configuration import problems
from pdslurm.plan.points import points_of

MakeConfig = Callable[..., Config]
OWN = {"s": Sweep()}  # lengths as the data set has them
SHORT, LONG = PromptClass(0.9, 128, 64), PromptClass(0.1, 4000, 64)
TALK = [{"id": "a", "conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I."}]}]
LINE = {"prompt": "Who?", "output_tokens": 5}
TRACED = [{"timestamp": t, "input_length": 10 * t, "output_length": 5} for t in (1, 2, 3, 4)]
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
BURSTGPT = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n"
    "45,GPT-4,1087,0,1087,API log\n118,GPT-4,417,276,693,Conversation log\n"
)
BURSTGPT_COLUMNS = Trace("Timestamp", "Request tokens", "Response tokens")
AZURE_COLUMNS = Trace("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def lines(*values: object) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def found(make_config: MakeConfig, changes: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(problems(make_config({f"workload.{name}": value for name, value in changes.items()}))))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"duration_s": 60.0, "num_prompts": None, "sweeps": {"s": Sweep([1], [1], [2.0, 4.0])}}, id="rate × time"),
        pytest.param({"duration_s": 60.0, "sweeps": {"s": Sweep([1], [1], max_concurrency=[4])}}, id="closed loop for a time"),
        pytest.param({"duration_s": 60.0, "num_prompts": None, "ramp_up": RampUp(1, 8)}, id="a ramp for a time"),
        pytest.param({"dataset": "mix", "sweeps": {"s": Sweep(mix={"short": SHORT, "long": LONG})}}, id="a mix"),
        pytest.param({"dataset": "mix", "sweeps": {"s": Sweep(mix={"a": PromptClass(1.0, 10, 1, 0.9)})}}, id="a mix of one"),
        pytest.param(
            {"dataset": "prefix_repetition", "prefix_len": 100, "num_prefixes": 4, "prefix_caching": True}, id="shared beginnings"
        ),
        pytest.param({"prefix_caching": True}, id="random prompts hit nothing"),
        pytest.param({"prefix_caching": True, "prefix_hit_rate": 0.3}, id="a stated hit rate"),
        pytest.param({"stream": False, "burstiness": 0.2}, id="whole answers in bursts"),
    ],
)
def test_right_workloads_pass(make_config: MakeConfig, changes: dict[str, Any]) -> None:
    assert found(make_config, changes) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"dataset": "sharegtp"},
            ["workload.dataset=sharegtp: use one of random, mix, prefix_repetition, sharegpt, custom, trace"],
        ),
        (
            {"dataset": "timed_trace"},
            [
                "workload.dataset=timed_trace: use one of random, mix, prefix_repetition, sharegpt, custom, trace; "
                "what has recorded times and lengths is a trace here"
            ],
        ),
        (
            {"dataset": "sharegpt", "dataset_path": "no/such.json", "sweeps": OWN},
            ["workload.dataset_path=no/such.json: no such file"],
        ),
        (
            {"dataset": "sharegpt", "sweeps": OWN},
            ["workload.dataset_path=null: workload.dataset=sharegpt reads a file; give its path"],
        ),
        (
            {"dataset_path": "a.json"},
            ["workload.dataset_path=a.json: workload.dataset=random reads no file; leave it out, or choose another data set"],
        ),
        (
            {"num_prompts": None},
            ["workload.num_prompts=null: say how many requests a point has; only duration_s with a rate tells it by itself"],
        ),
        (
            {"num_prompts": None, "duration_s": 60.0, "sweeps": {"s": Sweep([1], [1], [None, 2.0], [4])}},
            [
                "workload.num_prompts=null: say how many different prompts to make for the time; "
                "only duration_s with a rate tells it by itself"
            ],
        ),
        (
            {"duration_s": 60.0, "sweeps": {"s": Sweep([1], [1], [None, 2.0], [None, 4])}},
            [
                "workload.duration_s=60: workload.sweeps.s without request_rate and max_concurrency sends everything at once, "
                "which takes no time; give either"
            ],
        ),
        (
            {"duration_s": 0.0, "burstiness": -1.0},
            ["workload.duration_s=0.0: must be above 0", "workload.burstiness=-1.0: must be above 0"],
        ),
        (
            {"ramp_up": RampUp(0, 8), "sweeps": {"s": Sweep([1], [1], [2.0])}},
            [
                "workload.ramp_up.start_per_s=0: must be 1 or more",
                "workload.sweeps.s.request_rate=2.0: workload.ramp_up has times of its own; leave it out",
            ],
        ),
        ({"ramp_up": RampUp(8, 2)}, ["workload.ramp_up.end_per_s=2: must not be below start_per_s=8"]),
        ({"dataset": "mix", "sweeps": {"s": Sweep([64], [0], mix={"a": PromptClass(1.0, 10, 1)})}},
         ["workload.sweeps.s.input_len=64: workload.dataset=mix has lengths of its own; leave it out"]),
        ({"dataset": "mix", "sweeps": OWN},
         ["workload.sweeps.s.mix: empty; give classes such as short: {share: 0.9, input_len: 128, output_len: 64}"]),
        ({"sweeps": {"s": Sweep([64], [1], mix={"short": SHORT})}},
         ["workload.sweeps.s.mix: belongs to workload.dataset=mix, and workload.dataset=random"]),
        ({"dataset": "mix", "sweeps": {"s": Sweep(mix={"short": SHORT, "long": PromptClass(0.2, 4000, 64)})}},
         ["workload.sweeps.s.mix: the shares add up to 1.1; they must to 1"]),
        ({"dataset": "mix", "sweeps": {"s": Sweep(mix={"a": PromptClass(1.5, 0, -1, 1.0)})}},
         ["workload.sweeps.s.mix.a.share=1.5: must be above 0 and at most 1",
          "workload.sweeps.s.mix.a.input_len=0: must be above 0",
          "workload.sweeps.s.mix.a.output_len=-1: must be above 0",
          "workload.sweeps.s.mix.a.spread=1.0: must be 0 or more and below 1",
          "workload.sweeps.s.mix: the shares add up to 1.5; they must to 1"]),
        ({"dataset": "mix", "sweeps": {"s": Sweep(mix={"a": PromptClass(1.0, 16000, 64, 0.5)})}},
         ["workload.sweeps.s.mix.a: up to 24064 tokens with the output, longer than the model's context of 16384; shorten them"]),
        ({"dataset": "prefix_repetition", "num_prefixes": 0},
         ["workload.prefix_len=null: workload.dataset=prefix_repetition needs 1 or more",
          "workload.num_prefixes=0: workload.dataset=prefix_repetition needs 1 or more"]),
        ({"dataset": "prefix_repetition", "num_prefixes": 4, "prefix_len": 128},
         ["workload.sweeps.only.input_len=128: must be above workload.prefix_len=128, which it includes"]),
        ({"prefix_len": 128}, ["workload.prefix_len=128: belongs to workload.dataset=prefix_repetition alone; leave it out"]),
        ({"prefix_hit_rate": 0.5}, ["workload.prefix_hit_rate=0.5: nothing can hit with workload.prefix_caching=false"]),
        ({"prefix_hit_rate": 50.0, "prefix_caching": True},
         ["workload.prefix_hit_rate=50.0: a share of the prompt tokens, from 0 to 1"]),
    ],
)  # fmt: skip
def test_each_mistake(make_config: MakeConfig, changes: dict[str, Any], expected: list[str]) -> None:
    assert found(make_config, changes) == expected


@pytest.mark.parametrize(
    ("dataset", "name", "content", "more"),
    [
        ("sharegpt", "a.json", json.dumps(TALK), {}),
        ("sharegpt", "a.json", "\n [\n " + json.dumps(TALK)[1:], {"sweeps": {"s": Sweep([0], [64])}}),
        pytest.param("sharegpt", "a.json", '[{"conversations": [{"value": "' + "x" * 2**21 + '"}]}]', {}, id="a long first entry"),
        ("custom", "a.jsonl", lines(LINE, LINE), {}),
        ("custom", "a.jsonl", lines({"prompt": "Who?"}), {"sweeps": {"s": Sweep([0], [64])}}),
        pytest.param("trace", "a.csv", BURSTGPT, {"num_prompts": 2, "trace": BURSTGPT_COLUMNS}, id="BurstGPT's"),
        ("trace", "a.jsonl", lines(*TRACED), {"num_prompts": 4}),
        ("trace", "a.jsonl", lines(*TRACED), {"num_prompts": 3, "duration_s": 60.0}),
        pytest.param("trace", "a.jsonl", "\n" + lines({**TRACED[0], "output_length": 0}, *TRACED), {"num_prompts": 4},
                     id="a failed request is left out"),
        pytest.param("trace", "a.csv", AZURE, {"num_prompts": 2, "trace": AZURE_COLUMNS}, id="Azure's"),
    ],
)  # fmt: skip
def test_files_that_are_right(
    make_config: MakeConfig, tmp_path: Path, dataset: str, name: str, content: str, more: dict[str, Any]
) -> None:
    (tmp_path / name).write_text(content)
    assert found(make_config, {"dataset": dataset, "dataset_path": str(tmp_path / name), "sweeps": OWN, **more}) == []


@pytest.mark.parametrize(
    ("dataset", "name", "content", "more", "expected"),
    [
        ("sharegpt", "a.json", json.dumps(TALK[0]), {},
         'does not begin with [; workload.dataset=sharegpt reads a JSON list of {"conversations": [{"value": prompt}, '
         '{"value": answer}, …]}'),
        ("sharegpt", "a.json", json.dumps([LINE]), {},
         'its first entry has no conversations with values; workload.dataset=sharegpt reads a JSON list of {"conversations": '
         '[{"value": prompt}, {"value": answer}, …]}'),
        ("sharegpt", "a.json", "[{", {},
         "is not JSON (Expecting property name enclosed in double quotes: line 1 column 3 (char 2))"),
        ("custom", "a.json", lines(LINE), {}, "workload.dataset=custom reads JSON lines; name the file .jsonl"),
        ("custom", "a.jsonl", "Who?\n", {}, "its first line is not JSON (Expecting value: line 1 column 1 (char 0))"),
        ("custom", "a.jsonl", lines({"text": "Who?"}), {}, "its first line has no text under 'prompt'"),
        ("custom", "a.jsonl", lines({"prompt": "Who?"}), {},
         "its first line has no 'output_tokens'; add them, or give workload.sweeps an output_len"),
        ("trace", "a.txt", "", {}, "workload.dataset=trace reads .jsonl and .csv"),
        ("trace", "a.jsonl", lines({"t": 1, "input_length": 1}), {},
         "line 1 has no column 'timestamp'; it has t, input_length"),
        ("trace", "a.csv", AZURE, {}, "line 2 has no column 'timestamp'; it has TIMESTAMP, ContextTokens, GeneratedTokens"),
        ("trace", "a.jsonl", lines(TRACED[0], {**TRACED[1], "input_length": "many"}), {},
         "line 2: invalid literal for int() with base 10: 'many'"),
        ("trace", "a.jsonl", lines(TRACED[0]) + "{\n", {},
         "line 2 is not JSON (Expecting property name enclosed in double quotes: line 2 column 1 (char 2))"),
        ("trace", "a.jsonl", lines(TRACED[1], TRACED[0]), {},
         "line 2: its time is before that of the line above; sort the file by timestamp"),
        ("trace", "a.jsonl", lines(*TRACED), {}, "has 4 requests, and workload.num_prompts=10"),
        ("trace", "a.jsonl", lines(*TRACED, {**TRACED[3], "input_length": 16380}), {"num_prompts": 5},
         "1 of its first 5 requests, the first of 16380 + 5 tokens, are longer than the model's context of 16384"),
    ],
)  # fmt: skip
def test_files_that_are_wrong(
    make_config: MakeConfig, tmp_path: Path, dataset: str, name: str, content: str, more: dict[str, Any], expected: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    changes = {"dataset": dataset, "dataset_path": str(path), "sweeps": OWN, **more}
    assert found(make_config, changes) == [f"workload.dataset_path={path}: {expected}"]


@pytest.mark.parametrize(("changes", "asks"), [({}, True), ({"prefix_hit_rate": 0.4}, False), ({"prefix_caching": False}, False)])
def test_what_a_file_s_prompts_share_has_to_be_said(
    make_config: MakeConfig, tmp_path: Path, changes: dict[str, Any], asks: bool
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(TALK))
    base = {"dataset": "sharegpt", "dataset_path": str(tmp_path / "a.json"), "sweeps": OWN, "prefix_caching": True}
    told = found(make_config, {**base, **changes})
    assert told == ([
        "workload.prefix_hit_rate=null: with prefix_caching=true say which share of the prompt tokens may hit; "
        "of workload.dataset=sharegpt nothing else tells"
    ] if asks else [])  # fmt: skip


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[4] / "conf" / "workload").glob("*.yaml")), ids=lambda f: f.stem)
def test_the_workloads_that_are_shipped(file: Path) -> None:
    """They are right but for the data files, which are the user's."""
    workload = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Workload), OmegaConf.load(file)))
    assert isinstance(workload, Workload)
    assert workload.name == file.stem
    missing = [f"workload.dataset_path={workload.dataset_path}: no such file"] if workload.dataset_path else []
    assert list(workload_checks.problems(workload, 16384)) == missing
    assert points_of(workload, 0)
