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
KNOWN = f"holds the value of MY_SECRET; {WHY}; leave it out, and pdslurm passes MY_SECRET on by name to every process of the run"
LOGIN = (
    f"holds a URL with a password or token; {WHY}; export the variable that holds it in the shell, and pdslurm passes it on by name"
)


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
        ({"cluster.env": {"https_proxy": f"http://me:{VALUE}@squid:1"}}, f"cluster.env.https_proxy: {LOGIN}"),
        ({"cluster.env": {"HTTPS_PROXY": f"{VALUE}@squid:1"}}, f"cluster.env.HTTPS_PROXY: {LOGIN}"),
        ({"runtime.env": {"INDEX": f"https://{VALUE}@host/x"}}, f"runtime.env.INDEX: {LOGIN}"),
        ({"runtime.env": {"MINE": f"Bearer {VALUE}"}},
         f"runtime.env.MINE: holds an authorization header; {WHY}; export the variable that holds it in the shell, "
         "and pdslurm passes it on by name"),
        ({"runtime.env": {"MINE": "ghp_0123456789abcdefghijkl"}},
         f"runtime.env.MINE: holds an access token; {WHY}; export the variable that holds it in the shell, "
         "and pdslurm passes it on by name"),
        ({"runtime.env": {"MINE": "known-value"}}, f"runtime.env.MINE: {KNOWN}"),
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
        {"cluster.slurm.setup": ["export https_proxy=http://$USER:$PROXY_PASSWORD@squid:3128", "git clone https://$TOKEN@host/x"]},
        {"runtime.image": "docker://me@hub#img:1", "runtime.env": {"REPO": "ssh://git@host/x", "PWD": "/home/me/work"}},
        {"runtime.image": "docker://hub/img:1@sha256:0123456789abcdef0123456789abcdef"},
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
        (f"topology.extra_args=[--hf-token,{VALUE}]", f"topology.extra_args: holds --hf-token; {EXPORT}"),
        (f"topology.extra_args=['--hf-token', '{VALUE}']", f"topology.extra_args: holds --hf-token; {EXPORT}"),
        ("+runtime.env.MINE=known-value", f"runtime.env.MINE: {KNOWN}"),
        ("+runtime.env.MINE=other,known-value", f"runtime.env.MINE: {KNOWN}"),
        ("+cluster.env.https_proxy=me:p@ss@squid:3128", f"cluster.env.https_proxy: {LOGIN}"),
        ("+cluster.env.https_proxy=token@squid:3128", f"cluster.env.https_proxy: {LOGIN}"),
        ("https://me:pw@squid", f"the command line: {LOGIN}"),
    ],
)
def test_refused_on_the_command_line(word: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_words(["-m", word, "seed=1,2"], {"MY_SECRET": "known-value"})
    assert caught.value.problems == (said,)


def test_allowed_on_the_command_line() -> None:
    words = [
        "+runtime.env.HF_TOKEN=${oc.env:HF_TOKEN}",
        "+runtime.env.HF_TOKEN=null",
        "runtime.image=docker://me@hub#a:1",
        "runtime.image=docker://hub#a:1@sha256:0123",
        "topology.extra_args=[--hf-token,${oc.env:HF_TOKEN}]",
        "seed=1,2",
    ]
    refuse_words(
        [*words, "model.engine_args={max_num_batched_tokens: 512}", "slo={ttft_ms: 200, tpot_ms: 50}"], {"SHORT_TOKEN": "1"}
    )
