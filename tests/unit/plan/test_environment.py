"""Which names are secrets, what is never shown, and how no_proxy is made and read."""

from __future__ import annotations

import urllib.request

import pytest

from pdslurm.plan.environment import is_secret, masked, masked_argv, no_proxy, passed_on, proxy_hint, proxy_note, secret_in

SECRET = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "HF_TOKEN_2", "hf_token", "--hf-token", "hfToken", "OPENAI_API_KEY",
    "VLLM_API_KEY", "api_key", "--api-key", "apiKey", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
    "WANDB_API_KEY", "NGC_API_KEY", "GITHUB_TOKEN", "SLURM_JWT", "DB_PASSWORD", "MY_SECRET", "SSH_PASSPHRASE", "S3_CREDENTIALS",
    "MY_KEY", "PGPASSWORD", "MYSQL_PWD", "SSHPASS", "GITHUB_PAT", "DOCKER_AUTH_CONFIG", "AZURE_STORAGE_CONNECTION_STRING",
    "AUTHORIZATION", "Authorization",
)  # fmt: skip
NO_SECRET = (
    "TOKENIZERS_PARALLELISM", "VLLM_KEY_CACHE_SIZE", "MAX_TOKENS", "HF_TOKEN_PATH", "PASSWORD_FILE", "--ssl-keyfile",
    "UCX_IB_PKEY",
    "long_prefill_token_threshold", "--return-tokens-as-token-ids", "num_speculative_tokens", "VLLM_MAX_TOKENS_PER_EXPERT",
    "eos_token", "eos_token_id", "image_token_id", "time_per_output_token", "tokenizer", "hash_ids", "MONKEY", "KEYBOARD", "key",
    "XAUTHORITY", "key_value", "HF_HOME", "", "PWD", "OLDPWD", "GLOB_PAT", "MPI_CONNECTION", "AUTHORIZATION_TYPE",
)  # fmt: skip


@pytest.mark.parametrize(("names", "expected"), [(SECRET, True), (NO_SECRET, False)], ids=["secrets", "others"])
def test_names(names: tuple[str, ...], expected: bool) -> None:
    assert [name for name in names if is_secret(name) is not expected] == []


@pytest.mark.parametrize(
    ("text", "shown", "found"),
    [
        ("+runtime.env.HF_TOKEN=hf_abc", "+runtime.env.HF_TOKEN=***", "runtime.env.HF_TOKEN"),
        ("runtime.env={HF_TOKEN:hf_abc,A:1}", "runtime.env={HF_TOKEN:***,A:1}", "HF_TOKEN"),
        ("runtime.env={A: 1, HF_TOKEN: hf_abc}", "runtime.env={A: 1, HF_TOKEN: ***}", "HF_TOKEN"),
        ("runtime.env.HF_TOKEN: a secret must not", "runtime.env.HF_TOKEN: a secret must not", None),
        ("export HF_TOKEN='a b'; x", "export HF_TOKEN=***; x", "HF_TOKEN"),
        ("vllm serve m --hf-token hf_abc --port 1", "vllm serve m --hf-token *** --port 1", "--hf-token"),
        ("serve --api-key=abc", "serve --api-key=***", "api-key"),
        ("{'api_key': 'abc', 'n': 1}", "{'api_key': ***, 'n': 1}", "api_key"),
        ("http://me:pw@proxy:3128/x", "http://***@proxy:3128/x", "a URL with a password or token"),
        ("model is hf_0123456789abcdefghijkl", "model is ***", "a Hugging Face token"),
        ("TOKENIZERS_PARALLELISM=false --max-num-seqs 5", "TOKENIZERS_PARALLELISM=false --max-num-seqs 5", None),
        ("docker run --env=HF_TOKEN=abc= x", "docker run --env=HF_TOKEN=*** x", "HF_TOKEN"),
        ("http://me:p@ss:w@proxy:3128/x@y", "http://***@proxy:3128/x@y", "a URL with a password or token"),
        ("curl --proxy me:p@ss@squid:1", "curl --proxy ***@squid:1", "a URL with a password or token"),
        ("https://t0ken@host/x", "https://***@host/x", "a URL with a password or token"),
        ("socks5h://t0ken@host:1", "socks5h://***@host:1", "a URL with a password or token"),
        ("pip install git+https://t0ken@host/x", "pip install git+https://***@host/x", "a URL with a password or token"),
        ("ssh://git@host/x", "ssh://***@host/x", None),
        ("docker://hub#a:1@sha256:0123 b:1@sha256:0123", "docker://hub#a:1@sha256:0123 b:1@sha256:0123", None),
        ("-H 'Authorization: Bearer abcdef'", "-H 'Authorization: Bearer ***'", "an authorization header"),
        ("Authorization: Basic YTpiYzo=", "Authorization: Basic ***", "an authorization header"),
        ("a bearer token, Bearer authentication", "a bearer token, Bearer authentication", None),
        ("[--hf-token,abc,--port,1]", "[--hf-token,***,--port,1]", "--hf-token"),
        ("['--hf-token', 'a b', '--port']", "['--hf-token', ***, '--port']", "--hf-token"),
        ("['--hf-token', '--port']", "['--hf-token', '--port']", None),
        ("ghp_0123456789abcdefghijkl.", "***.", "an access token"),
        ("github_pat_0123456789_abcdefghijkl", "***", "an access token"),
        ("glpat-0123456789abcdefghij", "***", "an access token"),
        ("nvapi-0123456789-abcdefghij", "***", "an access token"),
        ("sk-proj-0123456789abcdefghij", "***", "an access token"),
        ("/data/sk-learn-pipelines-and-benchmarks", "/data/sk-learn-pipelines-and-benchmarks", None),
        ("/disk-0123456789abcdefghijkl", "/disk-0123456789abcdefghijkl", None),
        ("http://proxy:3128, git@github.com:a/b", "http://proxy:3128, git@github.com:a/b", None),
    ],
)  # fmt: skip
def test_texts(text: str, shown: str, found: str | None) -> None:
    assert masked(text) == shown
    assert secret_in(text) == found


def test_what_a_shell_will_put_there_is_no_secret() -> None:
    assert secret_in('export HF_TOKEN=$(cat ~/.cache/token) B="$HF_TOKEN"') is None


def test_a_command_line() -> None:
    argv = ["pdslurm", "+runtime.env.HF_TOKEN=a b{c", "--hf-token", "abc", "--hf-token", "--port", "8000", "model=tiny"]
    argv.append("+cluster.env.https_proxy=me:p/w@squid:1")
    shown = ["pdslurm", "+runtime.env.HF_TOKEN=***", "--hf-token", "***", "--hf-token", "--port", "8000", "model=tiny"]
    shown.append("+cluster.env.https_proxy=***@squid:1")
    assert masked_argv(argv) == shown


BOTH = "localhost,127.0.0.1,::1,10.0.0.1,n1"


@pytest.mark.parametrize(
    ("environ", "lower", "upper"),
    [
        ({}, BOTH, BOTH),
        ({"no_proxy": "a.org, 10.0.0.1"}, "a.org,10.0.0.1,localhost,127.0.0.1,::1,n1", "a.org,10.0.0.1,localhost,127.0.0.1,::1,n1"),
        ({"NO_PROXY": "b", "no_proxy": "a"}, f"a,b,{BOTH}", f"a,b,{BOTH}"),
        ({"NO_PROXY": "*"}, "*", f"*,{BOTH}"),
        ({"no_proxy": "10.0.0.0/8"}, f"10.0.0.0/8,{BOTH}", f"10.0.0.0/8,{BOTH}"),
    ],
)
def test_no_proxy(environ: dict[str, str], lower: str, upper: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = no_proxy(["10.0.0.1", "n1"], environ)
    assert found == {"no_proxy": lower, "NO_PROXY": upper}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    for host in ("localhost:8000", "127.0.0.1:8000", "10.0.0.1:8000", "n1"):
        assert urllib.request.proxy_bypass(host), f"Python asks the proxy for {host}"
    assert bool(urllib.request.proxy_bypass("huggingface.co")) is (lower == "*")


def test_proxies_are_told_without_their_password() -> None:
    found = {"http_proxy": "http://me:pw@squid:3128", "HTTPS_PROXY": "http://squid:3128"}
    assert proxy_note(found) == (
        "HTTPS_PROXY=http://squid:3128, http_proxy=http://***@squid:3128 are set; pdslurm keeps them for downloads and bypasses "
        "them for loopback and for the nodes of the run"
    )
    assert proxy_note({"http_proxy": "me:p@s/s@squid:1"}).startswith("http_proxy=***@squid:1 is set; ")
    assert proxy_note({}) == ""
    assert "http_proxy=http://***@squid:3128" in proxy_hint("n1 answers 403", found)
    assert "http_proxy=***@squid:1;" in proxy_hint("n1 answers 403", {"http_proxy": "me:p@s/s@squid:1"})
    assert [proxy_hint("n1 answers 403", {}), proxy_hint("ValueError: no such data set", found)] == ["", ""]


def test_what_a_container_gets() -> None:
    own = {
        "HF_TOKEN": "t",
        "HF_HUB_OFFLINE": "1",
        "https_proxy": "http://p",
        "MY_API_KEY": "k",
        "SSH_PRIVATE_KEY": "two\nlines",
        "EMPTY_TOKEN": "",
    }
    assert passed_on({**own, "PATH": "/bin", "TOKENIZERS_PARALLELISM": "1"}) == {
        "HF_TOKEN": "t", "HF_HUB_OFFLINE": "1", "https_proxy": "http://p", "MY_API_KEY": "k",
    }  # fmt: skip
