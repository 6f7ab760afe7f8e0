"""From nothing to an image on a node: built, saved, found by its ID, and serving a request."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pdslurm.config import Runtime, RuntimeKind
from pdslurm.node.container import find_devices, remove_containers, wrap
from pdslurm.node.images import ID_SUFFIX, ensure_image
from tests.cluster.container_stores import ROOT, Store, missing, new_store

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]
PORT = 7811
KEY = "a key"
URL = f"http://127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    if os.geteuid() != 0 or missing(RuntimeKind.docker):
        pytest.skip(f"no test of the image: this lacks {missing(RuntimeKind.docker) or 'root'}")
    with new_store(RuntimeKind.docker) as store:
        yield store


def make(store: Store, *arguments: str) -> None:
    env = {**os.environ, "DOCKER_BUILDKIT": "0"}  # Debian's docker has no buildx
    command = ["make", f"CONTAINERS={' '.join(store.program)}", "IMAGE=pdslurm-test", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def inside(runtime: Runtime, folder: Path, name: str, argv: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    mounts = [str(folder), f"{ROOT}/pdslurm:/pdslurm:ro"]
    command, more = wrap(runtime, argv, env, run="image", name=name, mounts=mounts, devices=find_devices(runtime), stdin=True)
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(command, env={**os.environ, **more}, stdin=subprocess.PIPE, stdout=log, stderr=log)


def test_an_image_from_nothing_serves(store: Store, tmp_path: Path) -> None:
    tarball = tmp_path / "image.tar.gz"
    make(store, "base-image", "image", "save", "BASE=pdslurm-base", f"TARBALL={tarball}")
    beside = tarball.with_name(tarball.name + ID_SUFFIX).read_text().split()
    assert beside == [store.run("image", "inspect", "--format", "{{.Id}}", "pdslurm-test")]

    runtime = store.runtime(str(tarball), env={})
    runtime = replace(runtime, image=ensure_image(runtime, node="here").start)
    folder = tmp_path / "run"
    folder.mkdir()
    with inside(runtime, folder, "model", ["python3", "/pdslurm/bench/make_model.py", str(folder / "model")], {}) as model:
        model.communicate(json.dumps(OmegaConf.to_container(OmegaConf.load(ROOT / "conf/model/tiny.yaml").hf_config)).encode(), 120)
    assert model.returncode == 0, (folder / "model.log").read_text()

    cluster = OmegaConf.load(ROOT / "conf/cluster/laptop.yaml")
    argv = ["vllm", "serve", str(folder / "model"), "--host", "127.0.0.1", "--port", str(PORT), "--served-model-name", "tiny"]
    argv += ["--dtype", "float32", "--load-format", "dummy", "--enforce-eager", "--block-size", "128", "--max-model-len", "512"]
    engine = inside(runtime, folder, "engine", argv, {**cluster.env, "VLLM_API_KEY": KEY, "VLLM_HOST_IP": "127.0.0.1"})
    try:
        answer = ask(engine, folder / "engine.log")
        assert answer["usage"]["completion_tokens"] == 8
        engine.terminate()
        assert engine.wait(60) == 0, (folder / "engine.log").read_text()[-2000:]
    finally:
        remove_containers(runtime, "image")
        with engine:
            engine.kill()


def ask(engine: subprocess.Popen[bytes], log: Path) -> dict[str, dict[str, int]]:
    """One completion, as soon as the engine answers at all."""
    body = json.dumps({"model": "tiny", "prompt": "hello world", "max_tokens": 8, "ignore_eos": True}).encode()
    request = urllib.request.Request(
        f"{URL}/v1/completions", body, {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    )
    deadline = time.monotonic() + 600
    while True:
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                answer: dict[str, dict[str, int]] = json.load(response)
                return answer
        except OSError:
            assert engine.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(1)
