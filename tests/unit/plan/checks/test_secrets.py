"""A secret anywhere in a configuration is refused by its place and its name; its value is never said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pdslurm.config import Config
from pdslurm.errors import ConfigError
from pdslurm.plan.checks.secrets import problems, refuse_words

MakeConfig = Callable[..., Config]
VALUE = "hf_verysecret"
WHY = "a secret must not stand in a configuration, which is written to the run's folder"
EXPORT = f"{WHY}; export HF_TOKEN in the shell, and pdslurm passes HF_TOKEN on by name to every process of the run"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"runtime.env": {"HF_TOKEN": VALUE}}, f"runtime.env.HF_TOKEN: {EXPORT}"),
        ({"cluster.env": {"HF_TOKEN": VALUE}}, f"cluster.env.HF_TOKEN: {EXPORT}"),
        ({"model.engine_args": {"hf_token": VALUE}}, f"model.engine_args.hf_token: {EXPORT}"),
        ({"topology.extra_args": ["--hf-token", VALUE]}, f"topology.extra_args --hf-token: {EXPORT}"),
        ({"topology.extra_args": [f"--hf-token={VALUE}"]}, "topology.extra_args: holds hf-token; " + EXPORT),
        ({"runtime.extra_args": ["--env", f"HF_TOKEN={VALUE}"]}, "runtime.extra_args: holds HF_TOKEN; " + EXPORT),
        ({"cluster.slurm.setup": [f"export HF_TOKEN={VALUE}"]}, "cluster.slurm.setup: holds HF_TOKEN; " + EXPORT),
        ({"model.hf_config": {"deep": {"api_key": VALUE}}},
         f"model.hf_config.deep.api_key: {WHY}; pdslurm makes the engines' key itself; leave it out"),
        ({"cluster.env": {"https_proxy": f"http://me:{VALUE}@squid:1"}},
         f"cluster.env.https_proxy: holds a URL with a password; {WHY}; export the variable that holds it in the shell, "
         "and pdslurm passes it on by name"),
        ({"runtime.env": {"MINE": "known-value"}},
         f"runtime.env.MINE: holds the value of MY_SECRET; {WHY}; leave it out, and pdslurm passes MY_SECRET on by name to every "
         "process of the run"),
    ],
)  # fmt: skip
def test_refused(make_config: MakeConfig, changes: dict[str, Any], said: str) -> None:
    (found,) = problems(make_config(changes), {"MY_SECRET": "known-value"})
    assert found == said
    assert VALUE not in found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"runtime.env": {"TOKENIZERS_PARALLELISM": "false", "HF_TOKEN": ""}},
        {"runtime.extra_args": ["--env", "HF_TOKEN"]},
        {"model.engine_args": {"hf_token": True, "max_num_batched_tokens": 512, "long_prefill_token_threshold": 4}},
        {"model.hf_config": {"eos_token": "</s>", "eos_token_id": 2, "boi_token": "<start>"}},
        {"cluster.slurm.setup": ["export HF_TOKEN=$(cat ~/.cache/huggingface/token)"]},
        {"cluster.env": {"https_proxy": "http://squid:3128"}},
    ],
)
def test_allowed(make_config: MakeConfig, changes: dict[str, Any]) -> None:
    assert list(problems(make_config(changes), {"MY_SECRET": "known-value", "SHORT_TOKEN": "1"})) == []


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (f"+runtime.env.HF_TOKEN={VALUE}", f"runtime.env.HF_TOKEN: {EXPORT}"),
        (f"runtime.env={{A: 1, HF_TOKEN: {VALUE}}}", f"runtime.env: holds HF_TOKEN; {EXPORT}"),
        (f"runtime.extra_args=[--env,HF_TOKEN={VALUE}]", f"runtime.extra_args: holds HF_TOKEN; {EXPORT}"),
    ],
)
def test_refused_on_the_command_line(word: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_words(["-m", word, "seed=1,2"])
    assert caught.value.problems == (said,)


def test_allowed_on_the_command_line() -> None:
    words = [
        "+runtime.env.HF_TOKEN=${oc.env:HF_TOKEN}",
        "+runtime.env.HF_TOKEN=null",
        "runtime.image=docker://me@hub#a:1",
        "seed=1,2",
    ]
    refuse_words([*words, "model.engine_args={max_num_batched_tokens: 512}", "slo={ttft_ms: 200, tpot_ms: 50}"])
