"""launcher=attach against a real 1P1D that this test started itself: measured as if pdslurm had, and left running."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdslurm.config import Config
from pdslurm.measure.health import get
from pdslurm.node.ports import ReservedPorts
from pdslurm.node.preflight import bind_free, processes_of
from pdslurm.node.processes import LocalProcesses
from pdslurm.plan.deployment import Deployment
from pdslurm.plan.plan import build_plan
from tests.integration.local_run import ROOT, LocalRun
from tests.unit.plan.test_golden import composed

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
KEY = "a-key-of-theirs"
WHAT = (
    *("model=tiny", "cluster=laptop", "topology=pd_1p3d", "topology.nodes=2", "workload=demo", "workload.repeats=1"),
    *("workload.num_prompts=8", "workload.warmup_prompts=2", "limits.stop_s=5", "workload.sweeps.input.input_len=[200]"),
    *("workload.sweeps.input.output_len=[8]", "workload.sweeps.output.input_len=[200]", "workload.sweeps.output.output_len=[8]"),
)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory, engine: Path) -> Iterator[tuple[Deployment, LocalProcesses]]:
    """Two engines and a router that serve, as somebody else would have started them."""
    model = tmp_path_factory.mktemp("model")
    config: Config = composed("custom", *WHAT, f"model.path={model}")
    config.runtime.vllm, config.runtime.router = [f"{engine}/bin/vllm"], [f"{engine}/bin/vllm-router"]
    config.runtime.python = [f"{engine}/bin/python"]
    from pdslurm.launchers.run import make_model
    from pdslurm.node.engine_env import EngineEnv

    make_model(config, EngineEnv(config.runtime))
    with ReservedPorts() as ports, LocalProcesses(stop_s=5, api_key=KEY) as processes:
        deployment = bind_free(build_plan(config), ports.reserve_free)
        logs = tmp_path_factory.mktemp("logs")
        for process in processes_of(deployment):
            processes.start(process, logs / f"{process.name}.log")
        for process in processes_of(deployment):
            wait_ready(str(process.url), processes)
        yield deployment, processes


def wait_ready(url: str, processes: LocalProcesses) -> None:
    deadline = time.monotonic() + 300
    while True:
        processes.check()
        try:
            if get(f"{url}/health")[0] == 200:
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, url
        time.sleep(0.5)


def attached(folder: Path, deployment: Deployment, **env: str) -> LocalRun:
    (bound,) = deployment.sets
    (arm,) = bound.arms
    p, d = (str(e.url) for e in bound.engines)
    where = f"{{url: {arm.base_url}, prefill: [{p}], decode: [{d}], router_metrics: {arm.routers[0].metrics_url}}}"
    model = deployment.plan.config.model.path
    command = ("experiment=custom", "launcher=attach", *WHAT, f"model.path={model}", f"+attach={{custom: {where}}}")
    return LocalRun(folder, *command, env={"OPENAI_API_KEY": KEY} | env)


def test_what_runs_already_is_measured_and_left_running(tmp_path: Path, theirs: tuple[Deployment, LocalProcesses]) -> None:
    deployment, processes = theirs
    run = attached(tmp_path / "run", deployment)
    try:
        assert run.wait(240) == 0, run.text
        (record,) = run.records()
        assert record.valid, record.invalid_reasons
        assert record.telemetry["totals"]["nixl_transfers"] == 8
        assert record.telemetry["totals"]["nixl_bytes"] == 8 * 2 * 128 * 1024  # two blocks of 128 tokens a prompt of 200
        assert record.telemetry["router_requests"]
        assert "endpoints that ran already: how they were started is not known" in record.provenance["cautions"]
        assert str(record.provenance["versions"]["vllm"]).startswith("0.")
        files = [p for p in run.folder.rglob("*") if p.is_file()]
        texts = [gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes() for p in files]
        assert not any(KEY.encode() in text for text in texts)
        processes.check()
        assert all(get(f"{e.url}/health")[0] == 200 for e in deployment.sets[0].engines)
        assert not any("engine" in log for log in run.logs())
    finally:
        run.close()


@pytest.mark.parametrize(
    ("key", "model", "says"),
    [
        ("wrong", "tiny", "asks for a key; put it into OPENAI_API_KEY"),
        (KEY, "other", "serves tiny, not other; set model.name"),
    ],
)
def test_what_would_fail_is_said_before(
    tmp_path: Path, theirs: tuple[Deployment, LocalProcesses], key: str, model: str, says: str
) -> None:
    deployment, _ = theirs
    (bound,) = deployment.sets
    p, d = (str(e.url) for e in bound.engines)
    where = f"{{url: {p}, prefill: [{p}], decode: [{d}]}}"
    path = deployment.plan.config.model.path
    command = (
        "experiment=custom",
        "launcher=attach",
        *WHAT,
        f"model.path={path}",
        f"model.name={model}",
        f"+attach={{custom: {where}}}",
    )
    run = LocalRun(tmp_path / "run", *command, env={"OPENAI_API_KEY": key})
    try:
        assert run.wait(120) == 3, run.text
        assert says in run.text
    finally:
        run.close()


def test_nobody_there_is_said_before(tmp_path: Path, engine: Path) -> None:
    where = "{url: http://127.0.0.1:9, prefill: [http://127.0.0.1:9], decode: [http://127.0.0.1:10]}"
    env = {"PDSLURM_MODELS": str(tmp_path / "models"), "PDSLURM_ENGINE": os.path.relpath(engine, ROOT)}
    run = LocalRun(tmp_path / "run", "experiment=custom", "launcher=attach", *WHAT, f"+attach={{custom: {where}}}", env=env)
    try:
        assert run.wait(120) == 3, run.text
        assert "attach.custom: http://127.0.0.1:10/health does not answer" in run.text
        assert run.text.count("http://127.0.0.1:9/health does not answer") == 1
    finally:
        run.close()
