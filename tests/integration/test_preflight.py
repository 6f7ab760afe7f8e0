"""Findings before anything starts: programs that are missing, options that nobody knows, ports that are taken. Small scripts
stand for vllm, vllm-router and the engine's Python."""

from __future__ import annotations

import json
import os
import pwd
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pdslurm import config as c
from pdslurm.errors import ConfigError, PreflightError
from pdslurm.node import engine_probe
from pdslurm.node.engine_env import EngineEnv
from pdslurm.node.node_check import NodeReport
from pdslurm.node.ports import ReservedPorts, is_free
from pdslurm.node.preflight import (
    bind_free,
    check_and_bind,
    known_options,
    notes_of,
    option_names,
    options_in,
    ports_of,
    unknown_options,
)  # fmt: skip
from pdslurm.plan.deployment import Process
from pdslurm.plan.plan import build_plan

MakeConfig = Callable[..., c.Config]
HELP = """\
usage: vllm serve [model_tag] [options]
  --host HOST           Host name. (default: None)
  --tensor-parallel-size, -tp TENSOR_PARALLEL_SIZE
  --enable-expert-parallel, --no-enable-expert-parallel, -ep
  --max-num-seqs MAX_NUM_SEQS
                        Not --this-is-text-too; see [--gpu-memory-utilization].
"""


def engine(*argv: str, kind: str = "engine", **env: str) -> Process:
    return Process("engine0", kind, "both", None, 0, "127.0.0.1", (), None, ("vllm", *argv), env)


# --- options


def test_options_in_a_help_text() -> None:
    assert options_in(HELP) == {
        "--host", "--tensor-parallel-size", "-tp", "--enable-expert-parallel", "--no-enable-expert-parallel", "-ep",
        "--max-num-seqs", "--this-is-text-too", "--gpu-memory-utilization",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["serve", "org/model", "--port", "8000"], ["--port"]),
        (["--max-num-seqs=4", "--compilation-config.mode=3", "-tp", "2"], ["--max-num-seqs", "--compilation-config", "-tp"]),
        (["python3", "-m", "vllm.entrypoints.cli.main", "serve"], []),
        (["--seed", "-1", "--scale", "-.5", '{"a": "--b"}', "a-b", "--"], ["--seed", "--scale"]),
        (["--kv-transfer-config", '{"kv_role": "kv_both"}'], ["--kv-transfer-config"]),
    ],
)
def test_option_names(argv: list[str], names: list[str]) -> None:
    assert list(option_names(argv)) == names


@pytest.mark.parametrize(
    ("process", "findings"),
    [
        pytest.param(engine("serve", "m", "--host", "x", "-tp", "2", "--max-num-seqs=4"), [], id="all known"),
        pytest.param(
            engine("serve", "--max-num-sequences", "4"),
            ["vllm: this version knows no option --max-num-sequences (extra_args or engine_args); did you mean --max-num-seqs?"],
            id="a near one is suggested",
        ),
        pytest.param(
            engine("serve", "--qqq=1", "-x"),
            ["vllm: this version knows no option --qqq (extra_args or engine_args)",
             "vllm: this version knows no option -x (extra_args or engine_args)"],
            id="none is near; every unknown one is told",
        ),
        pytest.param(engine("serve", "--max_num_seqs=4"), [], id="vLLM takes underscores too"),
        pytest.param(
            engine("--max_num_seqs=4", kind="router"),
            ["vllm: this version knows no option --max_num_seqs (extra_args or engine_args); did you mean --max-num-seqs?"],
            id="the router does not",
        ),
        pytest.param(
            engine("--host", kind="other"), ["vllm: this version knows no option --host (extra_args or engine_args)"],
            id="nothing is known of other programs",
        ),
    ],
)  # fmt: skip
def test_unknown_options(process: Process, findings: list[str]) -> None:
    options = {"engine": options_in(HELP), "router": options_in(HELP)}
    assert list(unknown_options(process, options)) == findings


# --- ports

ports = ReservedPorts()


@pytest.fixture(autouse=True)
def _let_ports_go() -> Iterator[None]:
    with ports:
        yield


def test_ports_of() -> None:
    process = engine(
        "serve", "--port", "8000", "--prometheus-port", "8001", "--master-port", "20000", "--data-parallel-rpc-port", "20001",
        "--seed", "42", VLLM_NIXL_SIDE_CHANNEL_PORT="20002",
    )  # fmt: skip
    assert ports_of(process) == {8000, 8001, 20000, 20001, 20002}
    ranks = engine("serve", "--port", "8000", "--data-parallel-size", "3", VLLM_NIXL_SIDE_CHANNEL_PORT="20002")
    assert ports_of(ranks) == {8000, 20002, 20003, 20004}, "each rank of an engine has a side channel"
    assert ports_of(engine("serve", "--port", "8000", "--data-parallel-size", "3")) == {8000}


def test_a_note_names_its_nodes_once() -> None:
    reports = {f"n{n}": NodeReport((), notes=("TMPDIR=/x: no such folder on this node",) if n else ()) for n in range(6)}
    assert list(notes_of(reports)) == ["note: n1, n2, n3 and 2 more: TMPDIR=/x: no such folder on this node"]
    assert list(notes_of({"n0": NodeReport(())})) == []


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_is_free(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert not is_free("127.0.0.1", port)
    listener.close()
    assert is_free("127.0.0.1", port)


def test_a_port_that_was_just_closed_is_free(listener: socket.socket) -> None:
    """A connection in TIME_WAIT keeps nobody from listening."""
    port = listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)):
        accepted, _ = listener.accept()
        accepted.close()
    listener.close()
    assert is_free("127.0.0.1", port)


def test_two_runs_that_start_together_get_ports_apart(make_config: MakeConfig, first: int) -> None:
    """Nobody listens yet: only the claim tells the second run that the first is about to."""
    plan = build_plan(make_config({**ranges(first), "cluster.ports.http.last": first + 40}))
    with ReservedPorts() as others:
        one, two = bind_free(plan, ports.reserve_free), bind_free(plan, others.reserve_free)
    used = [{port for e in d.sets[0].engines for port in ports_of(e)} for d in (one, two)]
    assert len(used[0]) == len(used[1]) == 4
    assert not used[0] & used[1]
    assert {e.port for e in bind_free(plan, ports.reserve_free).sets[0].engines} == used[0]


def ranges(first: int) -> dict[str, Any]:
    return {
        "cluster.one_host": True, "topology.route": 4,
        "cluster.ports.http.first": first, "cluster.ports.http.last": first + 7,
    }  # fmt: skip


@pytest.fixture
def first() -> int:
    """The first of eight ports that are free now, below those that Linux gives to outgoing connections."""
    return next(p for p in range(12000, 20000, 8) if all(is_free("127.0.0.1", p + n) for n in range(8)))


def test_ports_that_are_taken_are_passed_over(make_config: MakeConfig, first: int) -> None:
    plan = build_plan(make_config(ranges(first)))
    with socket.create_server(("127.0.0.1", first)), socket.create_server(("0.0.0.0", first + 3)):
        bound = bind_free(plan, ports.reserve_free).sets[0]
    assert [e.port for e in bound.engines] == [first + n for n in (1, 2, 4, 5)]
    assert ports_of(bound.arms[0].routers[0]) == {first + 6, first + 7}


def test_too_few_free_ports(make_config: MakeConfig, first: int) -> None:
    plan = build_plan(make_config({**ranges(first), "cluster.ports.http.last": first + 5}))
    bind_free(plan, ports.reserve_free)
    ports.__exit__()
    with (
        socket.create_server(("127.0.0.1", first)),
        pytest.raises(ConfigError, match=f"cluster.ports.http={first}-{first + 5}: too few free ports on 127.0.0.1"),
    ):
        bind_free(plan, ports.reserve_free)


# --- programs


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str, str], str]:
    """program(name, code): a Python script that can be run; its path."""

    def write(name: str, code: str) -> str:
        path = tmp_path / name
        path.write_text(f"#!{sys.executable} -S\n{code}\n")
        path.chmod(0o755)
        return str(path)

    return write


@pytest.fixture
def config(make_config: MakeConfig, program: Callable[[str, str], str]) -> c.Config:
    """On this machine, with programs that know the options of a plain plan."""
    config = make_config({"cluster.one_host": True, "cluster.device": c.Device.cpu, "topology.route": 2})
    known = {name for process in _processes(config) for name in option_names(process.argv)}
    code = f"print({' '.join(sorted(known))!r})"
    config.runtime.vllm = [program("vllm", code)]
    config.runtime.router = [program("vllm-router", code)]
    config.runtime.python = [program("python", probed(versions={"vllm": "0.32.0", "vllm-router": "0.1.17"}))]
    return config


def probed(**parts: Any) -> str:
    """The code of a Python that answers pdslurm/node/engine_probe.py's questions so."""
    return "\n".join(f"print({engine_probe.MARK + json.dumps({name: value})!r})" for name, value in parts.items())


def _processes(config: c.Config) -> Iterator[Process]:
    bound = bind_free(build_plan(config), ports.reserve_free).sets[0]
    yield from (*bound.engines, *bound.arms[0].routers)


def test_nothing_to_find(config: c.Config, tmp_path: Path) -> None:
    deployment, report = check_and_bind(build_plan(config), EngineEnv(config.runtime), tmp_path / "cache", tmp_path, ports)
    assert report.versions["vllm"] == "0.32.0"
    assert len(deployment.sets[0].engines) == 4


def failing(config: c.Config, tmp_path: Path) -> tuple[str, ...]:
    with pytest.raises(PreflightError) as caught:
        check_and_bind(build_plan(config), EngineEnv(config.runtime), tmp_path / "cache", tmp_path, ports)
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith("preflight failed; no engine was started\n  - ")
    return caught.value.findings


def test_every_missing_program_is_told(config: c.Config, tmp_path: Path) -> None:
    config.runtime.vllm, config.runtime.router, config.runtime.python = ["/no/vllm"], [], ["/no/python"]
    assert failing(config, tmp_path) == (
        "runtime.vllm=/no/vllm: no such program; run `make setup`, or set PDSLURM_ENGINE",
        "runtime.router: empty; give a command",
        "runtime.python=/no/python: no such program; run `make setup`, or set PDSLURM_ENGINE",
    )


def test_every_unknown_option_is_told_once(config: c.Config, tmp_path: Path) -> None:
    config.topology.extra_args = ["--hosst=x"]
    config.topology.router.extra_args = ["--log-lewel", "info"]
    vllm, router = config.runtime.vllm[0], config.runtime.router[0]
    assert failing(config, tmp_path) == (
        f"{vllm}: this version knows no option --hosst (extra_args or engine_args); did you mean --host?",
        f"{router}: this version knows no option --log-lewel (extra_args or engine_args); did you mean --log-level?",
    )


def test_an_environment_without_vllm(config: c.Config, tmp_path: Path, program: Callable[[str, str], str]) -> None:
    config.runtime.python = [program("python", probed(versions={"vllm": None}))]
    (finding,) = failing(config, tmp_path)
    assert finding.endswith("vLLM is not installed there; run `make setup`, or set PDSLURM_ENGINE")


@pytest.mark.parametrize("code", ["raise SystemExit(1)", "print('no JSON')"])
def test_a_python_that_does_not_run(config: c.Config, tmp_path: Path, program: Callable[[str, str], str], code: str) -> None:
    config.runtime.python = [program("python", code)]
    (finding,) = failing(config, tmp_path)
    assert finding.startswith(f"runtime.python={config.runtime.python[0]}: does not run (exit code ")


def test_a_program_that_cannot_say_its_options(config: c.Config, tmp_path: Path, program: Callable[[str, str], str]) -> None:
    config.runtime.vllm = [program("vllm", "import sys; sys.exit('ImportError: libcudart.so.12')")]
    assert failing(config, tmp_path) == (
        f"`{config.runtime.vllm[0]} serve --help=all` fails with exit code 1: ImportError: libcudart.so.12",
    )


def test_a_program_that_never_says_its_options(
    config: c.Config, tmp_path: Path, program: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pdslurm.node.preflight.HELP_TIMEOUT_S", 0.2)
    config.runtime.vllm = [program("vllm", "import time; time.sleep(60)")]
    assert failing(config, tmp_path) == (f"`{config.runtime.vllm[0]} serve --help=all` does not answer within 0.2 s",)


# --- GPUs


@pytest.fixture
def on_gpus(
    config: c.Config, tmp_path: Path, program: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., c.Config]:
    """on_gpus(count, processes): the configuration on a machine whose nvidia-smi tells of so many GPUs, and of who is on them."""
    monkeypatch.setattr("pdslurm.node.node_check.BUSY_AGAIN_S", 0.0)
    monkeypatch.setattr("pdslurm.node.preflight.unknown_options", lambda *_: iter(()))

    def make(count: int, processes: str = "") -> c.Config:
        config.cluster.device, config.cluster.gpus_per_node, config.topology.nodes = c.Device.cuda, 4, 1
        config.topology.tensor_parallel, config.topology.route = 1, 1
        program("nvidia-smi", NVIDIA_SMI.format(count=count, processes=processes))
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return config

    return make


NVIDIA_SMI = """
import sys
fields = sys.argv[1].partition("=")[2].split(",")
known = {{"name": "NVIDIA H200", "memory.total": 143771, "memory.used": 4, "driver_version": "580.159.04"}}
known["mig.mode.current"] = "Disabled"
if "--query-compute-apps" in sys.argv[1]:
    print({processes!r}, end="")
elif "clocks.sm" in fields:
    for n in range({count}): print(f"{{n}}, 345, 1980, 31, Enabled, 0x0000000000000001")
else:
    for n in range({count}): print(", ".join(str({{**known, "index": n, "uuid": f"GPU-{{n}}"}}[f]) for f in fields))
"""


def test_gpus_are_asked_for(config: c.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.cluster.device = c.Device.cuda
    monkeypatch.setattr("pdslurm.node.preflight.unknown_options", lambda *_: iter(()))
    monkeypatch.setenv("PATH", str(tmp_path))
    text = "cluster=eights: needs 32 GPUs, and this machine has no nvidia-smi; without GPUs use cluster=laptop"
    assert failing(config, tmp_path) == (text,)


def test_gpus_are_counted(on_gpus: Callable[..., c.Config], tmp_path: Path) -> None:
    config = on_gpus(4)
    _, report = check_and_bind(build_plan(config), EngineEnv(config.runtime), tmp_path / "cache", tmp_path, ports)
    assert (report.facts["driver"], report.facts["gpu_names"]) == ("580.159.04", ["NVIDIA H200"] * 4)
    assert report.facts["gpu_states"][3]["clocks_held_by"] == ["idle"]
    assert report.to_compare["the GPU driver"] == "580.159.04"
    ports.__exit__()
    assert failing(on_gpus(3), tmp_path) == ("cluster=eights: needs 4 GPUs, and this machine has 3",)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("4,5,6,7", [4, 5, 6, 7]),
        ("7,6,5,4,2", [7, 6, 5, 4]),
        ("GPU-6,GPU-2,GPU-1,GPU-0", [6, 2, 1, 0]),
        ("4,5,6", "CUDA_VISIBLE_DEVICES=4,5,6: leaves 3 GPUs of this node, and the plan needs 4 here; name 4 by number or UUID, "
                  "each once, or plan for fewer"),
        ("", "CUDA_VISIBLE_DEVICES=: leaves no GPU of this node, and the plan needs 4 here; name 4 by number or UUID, each "
             "once, or plan for fewer"),
    ],
)  # fmt: skip
def test_gpus_are_those_that_the_environment_leaves(
    on_gpus: Callable[..., c.Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[int] | str
) -> None:
    """GPU 3 is busy, and none of this run's."""
    config = on_gpus(8, "GPU-3, 1, 71680, other\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if isinstance(expected, str):
        assert failing(config, tmp_path) == (expected,)
        return
    with ReservedPorts() as own:
        _, report = check_and_bind(build_plan(config), EngineEnv(config.runtime), tmp_path / "cache", tmp_path, own)
    assert report.facts["gpus_used"] == expected
    assert len(report.facts["gpu_names"]) == 8, "the node's"


@pytest.mark.parametrize(
    ("code", "finding"),
    [
        ("print('Unable to determine the device handle for GPU 0000:41:00.0: GPU is lost.'); raise SystemExit(15)",
         "nvidia-smi: exit code 15: Unable to determine the device handle for GPU 0000:41:00.0: GPU is lost."),
        ("print('| NVIDIA-SMI 580 |')", "nvidia-smi: prints what pdslurm cannot read ('| NVIDIA-SMI 580 |')"),
        ("print('0, GPU-0, NVIDIA H2')", "nvidia-smi: prints what pdslurm cannot read ('0, GPU-0, NVIDIA H2')"),
    ],
)  # fmt: skip
def test_an_nvidia_smi_that_is_ill(
    on_gpus: Callable[..., c.Config], program: Callable[[str, str], str], tmp_path: Path, code: str, finding: str
) -> None:
    config = on_gpus(4)
    program("nvidia-smi", code)
    assert failing(config, tmp_path) == (
        f"{finding}; the driver or a GPU is out of order, use another node and tell the administrator",
    )


def test_gpus_of_two_kinds_are_counted_by_one_order(
    on_gpus: Callable[..., c.Config], program: Callable[[str, str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = on_gpus(4)
    mixed = NVIDIA_SMI.format(count=4, processes="").replace('f"GPU-{n}"', 'f"GPU-{n}", "name": "T1000" if n == 0 else "A100"')
    program("nvidia-smi", mixed)
    (finding,) = failing(config, tmp_path)
    assert finding.startswith(
        "CUDA_DEVICE_ORDER=FASTEST_FIRST: this node has T1000 and A100, and CUDA counts them in another order"
    )
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    with ReservedPorts() as own:
        check_and_bind(build_plan(config), EngineEnv(config.runtime), tmp_path / "cache", tmp_path, own)


def test_a_busy_gpu_names_its_process_and_owner(on_gpus: Callable[..., c.Config], tmp_path: Path) -> None:
    """GPU 5 is busy too, but not this plan's."""
    lines = f"GPU-2, {os.getpid()}, 71680, python3 -m train\nGPU-5, 1, 71680, other\n"
    owner = pwd.getpwuid(os.getuid()).pw_name
    text = f"GPU 2 is busy: python3 -m train (pid {os.getpid()}, of {owner}) holds 70.0 GiB of it; end it, or use another node"
    assert failing(on_gpus(8, lines), tmp_path) == (text,)


def test_a_driver_that_does_not_answer(
    on_gpus: Callable[..., c.Config], program: Callable[[str, str], str], tmp_path: Path
) -> None:
    config = on_gpus(4)
    said = "Failed to initialize NVML: Driver/library version mismatch"
    program("nvidia-smi", f"print({said!r}); raise SystemExit(18)")
    out_of_order = "the driver or a GPU is out of order, use another node and tell the administrator"
    assert failing(config, tmp_path) == (f"nvidia-smi: exit code 18: {said}; {out_of_order}",)


def test_what_hangs_is_left_behind_and_ended(
    on_gpus: Callable[..., c.Config], program: Callable[[str, str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pdslurm.node.node_check.NVIDIA_SMI_S", 3.0)
    config = on_gpus(4)
    program("nvidia-smi", f"import os, time; open({str(tmp_path)!r} + f'/pid-{{os.getpid()}}', 'w'); time.sleep(60)")
    (finding,) = failing(config, tmp_path)
    hangs = "the GPU driver of this node hangs; use another node and tell the administrator"
    assert finding == f"nvidia-smi gave no answer within 3 s; {hangs}"
    pids = [int(p.name.removeprefix("pid-")) for p in tmp_path.glob("pid-*")]
    assert len(pids) == 3
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_everything_that_is_wrong_is_told_at_once(
    on_gpus: Callable[..., c.Config], program: Callable[[str, str], str], tmp_path: Path
) -> None:
    config = on_gpus(3)
    config.model.path = str(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config.model.hf_config))
    config.runtime.router = [program("vllm-router", "import sys; sys.exit('ImportError: no router')")]
    model = {"folder": None, "cache": "/c", "cached": 0, "offline": True}  # though the driver saw it
    config.runtime.python = [program("python", probed(versions={"vllm": "0.32.0"}, shm_free=0, model=model))]
    found = failing(config, tmp_path)
    assert [text.partition(":")[0].partition("=")[0] for text in found] == [
        "cluster", "runtime.router", "/dev/shm", "model.path", f"`{config.runtime.router[0]} --help` fails with exit code 1",
    ]  # fmt: skip


def test_options_are_asked_for_once_a_version(config: c.Config, tmp_path: Path, program: Callable[[str, str], str]) -> None:
    cache, versions = tmp_path / "cache", {"vllm": "0.32.0"}
    first = known_options(config, versions, cache, EngineEnv(config.runtime))
    program("vllm", "raise SystemExit('asked again')")
    assert known_options(config, versions, cache, EngineEnv(config.runtime)) == first
    assert len(list(cache.iterdir())) == 1
    with pytest.raises(PreflightError, match="asked again"):
        known_options(config, {"vllm": "0.33.0"}, cache, EngineEnv(config.runtime))
    (file,) = cache.iterdir()
    assert set(json.loads(file.read_text())) == {"engine", "router"}


def test_a_program_that_is_not_there_is_a_finding_and_no_traceback(config: c.Config, tmp_path: Path) -> None:
    config.runtime.vllm = ["/no/vllm"]
    assert any(text.startswith("`/no/vllm serve --help=all` cannot be started: ") for text in failing(config, tmp_path))
