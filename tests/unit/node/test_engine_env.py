"""What a process in a container gets of its node: secrets and proxies by name, and the hub's cache where it needs one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdslurm import config as c
from pdslurm.errors import PreflightError
from pdslurm.node import engine_env
from pdslurm.node.engine_env import COMPILE_CACHES, EngineEnv, prepare
from pdslurm.node.images import Image

MakeConfig = Callable[..., c.Config]
SECRETS = {"HF_TOKEN": "hf_of-me", "https_proxy": "http://me:pw@squid:3128", "MY_API_KEY": "mine"}
KINDS = [kind.value for kind in c.RuntimeKind]


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A node with SECRETS in its environment and its home in a folder, where images are."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**SECRETS, "HOME": str(tmp_path), "SLURMD_NODENAME": "n1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine_env, "ensure_image", lambda *_, **__: Image("/i", "id"))
    monkeypatch.setattr(EngineEnv, "remove_containers", lambda _: ())
    return tmp_path


def runtime(kind: str, **fields: Any) -> c.Runtime:
    return c.Runtime(kind, kind=c.RuntimeKind(kind), image=None if kind == "bare" else "/i", **fields)


@pytest.mark.parametrize("kind", KINDS)
def test_secrets_go_in_by_name(node: Path, kind: str) -> None:
    argv, env = EngineEnv(runtime(kind), image_id="i").command(["vllm", "serve"], {"A": "1", "no_proxy": "n1"}, name="engine0")
    assert not [word for word in argv for secret in SECRETS.values() if secret in word]
    prefix = "APPTAINERENV_" if kind == "apptainer" else ""
    assert {name: env[prefix + name] for name in SECRETS} == SECRETS
    if kind in ("docker", "podman", "enroot"):
        assert {argv[n + 1] for n, word in enumerate(argv) if word == "--env"} >= {*SECRETS, "A", "no_proxy"}
    if kind == "pyxis":  # else a value in the image would win over the run's
        (names,) = (word.removeprefix("--container-env=") for word in argv if word.startswith("--container-env="))
        assert set(names.split(",")) >= {*SECRETS, "A", "no_proxy"}
        assert "--nodelist=n1" in argv


def test_pyxis_outside_of_a_node_asks_for_no_node(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURMD_NODENAME")
    argv, _ = EngineEnv(runtime("pyxis")).command(["true"], {}, name="x")
    assert not [word for word in argv if word.startswith("--nodelist")]


@pytest.mark.parametrize(
    ("environ", "own", "mounted"),
    [
        ({}, {}, {"HF_HOME": ".cache/huggingface"}),
        ({"XDG_CACHE_HOME": "{}/x"}, {"XDG_CACHE_HOME": "/tmp/other"}, {"HF_HOME": "x/huggingface"}),
        ({"HF_HOME": "{}/shared"}, {}, {"HF_HOME": "shared"}),
        ({"HF_HOME": "{}/shared"}, {"HF_HOME": "{}/of-run"}, {"HF_HOME": "of-run"}),
        ({"HF_HOME": "{}/a", "HF_HUB_CACHE": "{}/b"}, {}, {"HF_HOME": "a", "HF_HUB_CACHE": "b"}),
        ({"HF_HOME": "{}/a", "HF_HUB_CACHE": "{}/a/hub"}, {}, {"HF_HOME": "a", "HF_HUB_CACHE": "a/hub"}),
    ],
    ids=["default", "XDG", "HF_HOME", "the configuration wins", "two folders", "one within the other"],
)
def test_the_hub_s_cache_is_mounted_where_the_node_has_it(
    node: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str], own: dict[str, str], mounted: dict[str, str],
) -> None:  # fmt: skip
    for name, value in environ.items():
        monkeypatch.setenv(name, value.format(node))
    folders = {name: node / place for name, place in mounted.items()}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    config = make_config({"runtime": runtime("docker", env={name: value.format(node) for name, value in own.items()})})
    env = prepare(config, node / "run", node="n1")
    outer = [str(f) for f in folders.values() if not any(f != other and f.is_relative_to(other) for other in folders.values())]
    assert list(env.mounts[1:-2]) == outer
    _, whole = env.command(["vllm"], config.runtime.env, name="x")
    assert {name: whole[name] for name in folders} == {name: str(folder) for name, folder in folders.items()}


def test_a_model_s_folder_needs_no_cache(node: Path, make_config: MakeConfig) -> None:
    (node / "model").mkdir()
    env = prepare(make_config({"runtime": runtime("docker"), "model.path": str(node / "model")}), node / "run", node="n1")
    assert (env.mounts[1:-2], env.variables.keys()) == ((str(node / "model"),), COMPILE_CACHES.keys())


def test_a_cache_that_is_not_there_is_told(node: Path, make_config: MakeConfig) -> None:
    config = make_config({"runtime": runtime("docker")})
    with pytest.raises(PreflightError, match=f"the hub's cache {node}/.cache/huggingface is no folder on this node; make it, or"):
        prepare(config, node / "run", node="n1")
    config = make_config({"runtime": runtime("docker", env={"HF_HOME": "/inside/hf"}, mounts=["/data:/inside"])})
    assert prepare(config, node / "run", node="n1").variables["HF_HOME"] == "/inside/hf", "runtime.mounts brings it already"
    assert prepare(make_config(), node / "run", node="n1").is_bare, "its own libraries make the folder"


def test_what_engines_compile_outlives_their_containers(node: Path, make_config: MakeConfig) -> None:
    (node / "model").mkdir()
    changes = {"runtime": runtime("docker"), "model.path": str(node / "model"), "run_root": str(node / "runs")}
    kept = node / "runs" / "cache" / "compiled" / "n1"
    env = prepare(make_config(changes), node / "run", node="n1")
    _, whole = env.command(["vllm"], {}, name="x")
    assert (kept.stat().st_mode & 0o777, str(kept) in env.mounts) == (0o700, True)
    assert {name: whole[name] for name in COMPILE_CACHES} == {
        "VLLM_CACHE_ROOT": str(kept / "vllm"),
        "TRITON_CACHE_DIR": str(kept / "triton"),
    }
    again = prepare(make_config(changes), node / "run2", node="n1")
    assert again.variables == env.variables, "the next run finds it"


def test_a_compile_cache_of_the_configuration_s_own_is_left_alone(node: Path, make_config: MakeConfig) -> None:
    (node / "model").mkdir()
    own = {"runtime": runtime("docker", env={"VLLM_CACHE_ROOT": "/inside"}), "model.path": str(node / "model")}
    assert prepare(make_config(own), node / "run", node="n1").variables == {}
    assert prepare(make_config({"runtime": runtime("bare")}), node / "run", node="n1").variables == {}, "the user's own is kept"
    assert not (node / "runs").exists()


def test_a_folder_for_compiled_code_that_cannot_be_made_is_told(node: Path, make_config: MakeConfig) -> None:
    (node / "model").mkdir()
    (node / "runs").write_text("")
    changes = {"runtime": runtime("docker"), "model.path": str(node / "model"), "run_root": str(node / "runs")}
    with pytest.raises(PreflightError, match=r"n1: .*/runs/cache/compiled/n1 cannot be made for what engines compile"):
        prepare(make_config(changes), node / "run", node="n1")
