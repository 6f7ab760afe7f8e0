"""Containers: what each runtime is told, that nothing is split, expanded or shown on the way, and what is refused."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pdslurm.config import Runtime, RuntimeKind
from pdslurm.errors import CleanUpFailed, ConfigError
from pdslurm.node.container import (
    Devices,
    container_ids,
    find_devices,
    list_command,
    remove_command,
    remove_containers,
    step_options,
    wrap,
)

ARGV = (
    "python3",
    "guard.py",
    "--",
    "vllm",
    "serve",
    "a b",
    "it's",
    'say "hi"',
    "$(touch pwned)",
    "`id`",
    "line\nbreak",
    "",
    "ü 🙂",
)
ENV = {"VLLM_API_KEY": "se$(cret)", "UCX_TLS": "rc,cuda_ipc"}
RDMA = Devices(("/dev/infiniband/uverbs0", "/dev/infiniband/rdma_cm"), nvidia=True)
RUN = "/runs/a b"
KEEP = "--preserve-env={0}VLLM_API_KEY,{0}UCX_TLS"


def runtime(kind: str, **fields: Any) -> Runtime:
    return Runtime(name=kind, kind=RuntimeKind(kind), **{"image": "sha256:abc", **fields})


def wrapped(
    of: Runtime,
    argv: Sequence[str] = ARGV,
    env: Mapping[str, str] = ENV,
    mounts: Sequence[str] = (RUN, "/models:/m:ro"),
    devices: Devices = RDMA,
    stdin: bool = True,
) -> tuple[tuple[str, ...], dict[str, str]]:
    return wrap(of, argv, env, run="pd-1", name="engine0", mounts=mounts, devices=devices, stdin=stdin)


DOCKER = (
    "run", "--rm", "--pull", "never", "--interactive", "--name", "pdslurm-pd-1-engine0", "--label", "pdslurm.run=pd-1",
    "--network", "host", "--ipc", "host", "--pid", "host", "--log-driver", "none",
    "--ulimit", "memlock=-1:-1", "--cap-add", "IPC_LOCK",
    "--device", "/dev/infiniband/uverbs0", "--device", "/dev/infiniband/rdma_cm",
)  # fmt: skip
ENV_NAMES = ("--env", "VLLM_API_KEY", "--env", "UCX_TLS")
COMMANDS = {
    "bare": (),
    "pyxis": (),
    "docker": (
        "docker", *DOCKER, "--gpus", "all",
        "--mount", "type=bind,source=/runs/a b,destination=/runs/a b", "--mount", "type=bind,source=/models,destination=/m,ro",
        "--workdir", "/runs/a b", *ENV_NAMES, "--entrypoint", "python3", "sha256:abc",
    ),
    "podman": (
        "podman", *DOCKER, "--device", "nvidia.com/gpu=all", "--security-opt", "label=disable",
        "--volume", "/runs/a b:/runs/a b", "--volume", "/models:/m:ro",
        "--workdir", "/runs/a b", *ENV_NAMES, "--entrypoint", "python3", "sha256:abc",
    ),
    "apptainer": (
        "apptainer", "exec", "--cleanenv", "--no-home", "--no-eval", "--pwd", "/runs/a b", "--nv",
        "--mount", "type=bind,source=/runs/a b,destination=/runs/a b", "--mount", "type=bind,source=/models,destination=/m,ro",
        "sha256:abc", "python3",
    ),
    "enroot": (
        "enroot", "start", "--rw", *ENV_NAMES, "--env", "NVIDIA_VISIBLE_DEVICES",
        "--mount", "/runs/a\\040b:/runs/a\\040b:x-create=auto,rbind", "--mount", "/models:/m:x-create=auto,rbind,ro",
        "sha256:abc", "sh", "-c", 'cd "$0" && exec "$@"', "/runs/a b", "python3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", [k.value for k in RuntimeKind])
def test_each_kind(kind: str) -> None:
    command, env = wrapped(runtime(kind))
    before = COMMANDS[kind] or ARGV[:1]
    assert command == (*before, *ARGV[1:])
    prefix = "APPTAINERENV_" if kind == "apptainer" else ""
    extra = {"NVIDIA_VISIBLE_DEVICES": "all"} if kind == "enroot" else {}
    assert env == {**{prefix + key: value for key, value in ENV.items()}, **extra}


@pytest.mark.parametrize("kind", ["docker", "podman", "apptainer", "enroot"])
def test_values_stay_out_of_the_command(kind: str) -> None:
    command, _ = wrapped(runtime(kind, image="/i.sif"))
    assert not [arg for arg in command for value in ENV.values() if value in arg]


@pytest.mark.parametrize(
    ("kind", "fields", "has", "has_not"),
    [
        ("docker", {"privileged": True}, ("--privileged",), ()),
        ("docker", {"program": ["sudo", "-n", "docker"]}, ("sudo", KEEP.format(""), "-n", "docker", "run"), ()),
        ("apptainer", {"program": ["/usr/bin/sudo", "apptainer"]}, (KEEP.format("APPTAINERENV_"), "apptainer", "exec"), ()),
        ("podman", {"program": ["/opt/podman"]}, ("/opt/podman", "run"), ("podman",)),
        ("docker", {"extra_args": ["--pid="]}, ("VLLM_API_KEY", "--env", "UCX_TLS", "--pid=", "--entrypoint"), ()),
        ("docker", {"mounts": ["/data:/d:ro"]}, ("--mount", "type=bind,source=/data,destination=/d,ro", "--workdir"), ()),
        ("docker", {}, (), ("--privileged", "--init")),
    ],
)  # fmt: skip
def test_fields(kind: str, fields: dict[str, Any], has: tuple[str, ...], has_not: tuple[str, ...]) -> None:
    command, _ = wrapped(runtime(kind, **fields))
    assert not has or any(command[n : n + len(has)] == has for n in range(len(command)))
    assert not set(has_not) & set(command)


def test_without_gpus_and_stdin() -> None:
    plain = Devices()
    for kind in ("docker", "podman", "apptainer"):
        command, env = wrapped(runtime(kind), devices=plain, stdin=False)
        assert not {"--gpus", "--device", "--nv", "--interactive", "nvidia.com/gpu=all"} & set(command)
        assert len(env) == len(ENV)
    assert wrapped(runtime("enroot"), devices=plain)[1] == ENV


@pytest.mark.parametrize("path", ["/a,b", '/say "hi"', "/line\nbreak", "/it's $(id)", "/=,\\"])
def test_a_mount_is_one_line_of_csv(path: str) -> None:
    for kind in ("docker", "apptainer"):
        command, _ = wrapped(runtime(kind), mounts=[path])
        text = command[command.index("--mount") + 1]
        assert next(csv.reader(text.splitlines(keepends=True))) == [
            "type=bind",
            f"source={path}",
            f"destination={path}",
        ]


def test_a_name_fit_for_a_container() -> None:
    command, _ = wrap(runtime("docker"), ARGV, {}, run="a/b:c", name="engine 1", mounts=[], devices=Devices(), stdin=False)
    assert "pdslurm-a-b-c-engine-1" in command
    assert command[command.index("--workdir") + 1] == "/"


@pytest.mark.parametrize("run", ["", "a*", "a b", "a\n", "[a]", "?", "ü"])
def test_a_label_never_is_a_pattern(run: str) -> None:
    with pytest.raises(ConfigError, match="labels containers"):
        list_command(runtime("podman"), run)
    with pytest.raises(ConfigError, match="labels containers"):
        wrap(runtime("docker"), ARGV, {}, run=run, name="x", mounts=[], devices=Devices(), stdin=False)


def test_pyxis_starts_the_step_inside() -> None:
    of = runtime("pyxis", image="/i.sqsh", mounts=["/models:/m:ro"], extra_args=["--container-remap-root"])
    assert step_options(of, ["/runs/a b"]) == (
        "--container-image=/i.sqsh", "--no-container-entrypoint", "--no-container-mount-home", "--container-writable",
        "--container-mounts=/runs/a\\040b:/runs/a\\040b,/models:/m:ro", "--container-workdir=/runs/a b", "--container-remap-root",
    )  # fmt: skip
    assert step_options(runtime("docker"), ["/a"]) == ()
    with pytest.raises(ConfigError, match="without a comma"):
        step_options(of, ["/a,b"])


def test_enroot_refuses_what_it_would_lose() -> None:
    with pytest.raises(ConfigError, match="A has a line break"):
        wrapped(runtime("enroot"), env={"A": "1\n2", "B": "3"})


def test_no_image() -> None:
    with pytest.raises(ConfigError, match=r"runtime\.image=None: runtime\.kind=docker needs an image"):
        wrapped(runtime("docker", image=None))


@pytest.mark.parametrize(
    ("nodes", "devices", "expected"),
    [
        ([], None, Devices()),
        (
            ["infiniband/uverbs1", "infiniband/uverbs0", "infiniband/rdma_cm", "infiniband/umad0", "gdrdrv", "nvidiactl", "sda"],
            None,
            Devices(("/dev/infiniband/uverbs0", "/dev/infiniband/uverbs1", "/dev/infiniband/rdma_cm", "/dev/gdrdrv"), nvidia=True),
        ),
        (["gdrdrv", "nvidiactl"], ["/dev/x"], Devices(("/dev/x",))),
        (["gdrdrv"], ["nvidia"], Devices((), nvidia=True)),
        (["gdrdrv", "nvidiactl"], [], Devices()),
    ],
)
def test_devices(tmp_path: Path, nodes: list[str], devices: list[str] | None, expected: Devices) -> None:
    for node in nodes:
        (tmp_path / "dev" / node).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dev" / node).touch()
    assert find_devices(runtime("docker", devices=devices), tmp_path) == expected


def test_removal() -> None:
    of = runtime("docker", program=["sudo", "docker"])
    assert list_command(of, "pd-1") == (
        "sudo", "docker", "ps", "--all", "--quiet", "--no-trunc", "--filter", "label=pdslurm.run=pd-1",
    )  # fmt: skip
    assert remove_command(of, ["a1"]) == ("sudo", "docker", "rm", "--force", "a1")
    assert remove_command(runtime("podman"), ["a1", "b2"]) == ("podman", "rm", "--force", "--time", "0", "a1", "b2")
    assert list_command(runtime("apptainer"), "pd-1") is None
    full = "0123456789abcdef" * 4
    assert container_ids(f"WARNING: the daemon\n{full}\n0123456789ab\n\nnot an id\n--all\n") == (full, "0123456789ab")


def test_removal_that_fails(tmp_path: Path) -> None:
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\necho 'permission denied on docker.sock' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(CleanUpFailed, match=r"containers of run r cannot be removed \(permission denied"):
        remove_containers(runtime("docker", program=[str(program)]), "r")
    assert remove_containers(runtime("bare"), "r") == ()
