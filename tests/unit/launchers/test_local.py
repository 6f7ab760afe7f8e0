"""launcher=local around the driver: the folder of a run, its lock, the model made on the spot, signals before anything runs."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pdslurm import config as c
from pdslurm.errors import Interrupted, PreflightError, ResultsError
from pdslurm.launchers.allocation import write_key
from pdslurm.launchers.run import closing_line, lock, make_model
from pdslurm.launchers.run_path import run_path
from pdslurm.measure.driver import Outcome
from pdslurm.node.engine_env import EngineEnv
from pdslurm.records.whole_file import write_text
from pdslurm.signals import SIGNALS, SignalNote, raising

MakeConfig = Callable[..., c.Config]


# --- the folder


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"limits.point_s": 1.0, "launcher.format": c.PlanFormat.json}, True),
        ({"run_access": c.Access.all, "cluster.network.transport": c.Transport.rdma}, True),
        ({"slo.smallest_difference": 0.1}, True),
        ({"workload.num_prompts": 11}, False),
        ({"topology.route": 4}, False),
        ({"seed": 1}, False),
        ({"cluster.network": c.Network(interface="ib0")}, False),
        ({"cluster.network": c.Network(cidr="10.1.0.0/16")}, False),
        ({"cluster.network": c.Network(transport=c.Transport.tcp)}, True),
    ],
)
def test_the_same_measurement_finds_its_folder_again(make_config: MakeConfig, changes: dict[str, object], same: bool) -> None:
    first = run_path(make_config({"topology.route": 2}))
    assert first.parent == Path("runs")
    assert first.name.startswith("test-")
    assert (run_path(make_config({"topology.route": 2, **changes})) == first) is same


def test_run_dir_and_run_root(make_config: MakeConfig) -> None:
    assert run_path(make_config({"run_dir": "/data/x"})) == Path("/data/x")
    assert run_path(make_config({"run_root": "/data"})).parent == Path("/data")


@pytest.mark.parametrize(("access", "mode"), [(c.Access.owner, 0o700), (c.Access.group, 0o750), (c.Access.all, 0o755)])
def test_who_may_enter_a_runs_folder(tmp_path: Path, access: c.Access, mode: int) -> None:
    for given in (c.Access.owner, access):  # the second time it is a run's folder
        with lock(tmp_path / "a" / "run", given):
            pass
    assert (tmp_path / "a" / "run").stat().st_mode & 0o777 == mode
    tmp_path.chmod(0o711)
    with lock(tmp_path, access):
        assert tmp_path.stat().st_mode & 0o777 == 0o711, "it was something else before"


def test_one_run_at_a_time_in_a_folder(tmp_path: Path) -> None:
    with lock(tmp_path / "run"):
        with (
            pytest.raises(ResultsError, match=f"run_dir={tmp_path}/run: another run is in it .process {os.getpid()} on "),
            lock(tmp_path / "run"),
        ):
            pass
        with lock(tmp_path / "other"):
            pass
    with lock(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text().startswith(f"process {os.getpid()} on ")


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)


def test_a_file_system_without_locks_is_told(tmp_path: Path, no_locks: None, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with lock(tmp_path):
            pass
        said = capsys.readouterr().out
        assert said.startswith(f"the file system of {tmp_path} has no locks (No locks available): pdslurm cannot keep out a second")
        assert said.count("\n") == 1


def test_without_locks_a_living_process_of_this_machine_keeps_others_out(tmp_path: Path, no_locks: None) -> None:
    with lock(tmp_path):
        with pytest.raises(ResultsError, match=f"another run is in it .process {os.getpid()} on "), lock(tmp_path):
            pass
        mark = (tmp_path / ".lock").read_text()
    for other in (mark.replace(" on ", " on another-"), mark[:-6] + "1.00", "process 1 on x", ""):
        (tmp_path / ".lock").write_text(other)
        with lock(tmp_path):
            pass


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077])
def test_a_umask_changes_neither_the_folder_nor_the_key(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with lock(tmp_path / "run", c.Access.group):
            key = write_key(tmp_path / "run", "7", "secret")
            record = write_text(tmp_path / "run" / "x.json", "{}")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "run", key, record)] == [0o750, 0o600, 0o666 & ~umask]


@pytest.mark.parametrize("umask", [0o777, 0o377, 0o100])
def test_a_umask_that_takes_the_owners_rights(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with pytest.raises(ResultsError, match=f"umask=0{umask:o}: takes rights from the owner"), lock(tmp_path / "run"):
            pass
    finally:
        os.umask(before)
    assert not (tmp_path / "run").exists()


def test_the_lock_goes_with_a_killed_run(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pdslurm.launchers.run import lock\n"
        "with lock(Path(sys.argv[1])): print('in', flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(ResultsError, match=f"process {other.pid}"), lock(tmp_path):
            pass
        other.kill()
        other.wait(10)
        with lock(tmp_path):
            pass


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match=r"cannot be written .*; choose another with run_dir="), lock(tmp_path / "file"):
        pass


# --- the model


@pytest.fixture
def tiny(make_config: MakeConfig, tmp_path: Path) -> c.Config:
    config = make_config({"model.make": True, "model.path": str(tmp_path / "tiny"), "model.hf_config": {"hidden_size": 128}})
    config.runtime.python = ["/no/python"]
    return config


def folder_with(tiny: c.Config, *weights: str) -> None:
    """As a model that was made has it, with these files of weights out of two."""
    folder = Path(tiny.model.path)
    folder.mkdir()
    (folder / "config.json").write_text('{"hidden_size": 128}')
    if weights:
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}')
    for name in weights:
        (folder / name).touch()


def test_a_model_that_is_there_is_not_made(tiny: c.Config) -> None:
    folder_with(tiny, "1.safetensors", "2.safetensors")
    make_model(tiny, EngineEnv(tiny.runtime))
    tiny.model.hf_config["hidden_size"] = 256
    with pytest.raises(PreflightError, match=r"runtime.python=/no/python: No such file or directory; run `make setup`"):
        make_model(tiny, EngineEnv(tiny.runtime))


@pytest.mark.parametrize("weights", [(), ("1.safetensors",)], ids=["none", "one of two"])
def test_a_model_that_lacks_weights_is_made_unless_engines_fill_in_their_own(tiny: c.Config, weights: tuple[str, ...]) -> None:
    folder_with(tiny, *weights)
    with pytest.raises(PreflightError, match=r"runtime\.python=/no/python"):
        make_model(tiny, EngineEnv(tiny.runtime))
    tiny.model.engine_args["load_format"] = "dummy"
    make_model(tiny, EngineEnv(tiny.runtime))


@pytest.mark.parametrize(("load_format", "more"), [(None, []), ("dummy", ["--no-weights"])])
def test_weights_are_made_where_engines_read_them(tiny: c.Config, tmp_path: Path, load_format: str | None, more: list[str]) -> None:
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "$@" > "$0.asked"; cat > "$0.given"\n')
    program.chmod(0o755)
    tiny.runtime.python = [str(program)]
    tiny.model.engine_args = {"load_format": load_format} if load_format else {}
    make_model(tiny, EngineEnv(tiny.runtime))
    assert (tmp_path / "python.asked").read_text().split()[1:] == [tiny.model.path, *more]
    assert (tmp_path / "python.given").read_text() == '{"hidden_size": 128}'


def test_a_model_that_takes_too_long(tiny: c.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 30\n")
    program.chmod(0o755)
    tiny.runtime.python = [str(program)]
    monkeypatch.setattr("pdslurm.launchers.run.MAKE_S", 0.2)
    with pytest.raises(PreflightError, match=r"making .*/tiny took more than 0 s; is its disk slow"):
        make_model(tiny, EngineEnv(tiny.runtime))


def test_a_model_that_cannot_be_made(tiny: c.Config, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'ModuleNotFoundError: tokenizers' >&2; exit 1\n")
    program.chmod(0o755)
    tiny.runtime.python = [str(program)]
    with pytest.raises(PreflightError, match=r"making .*/tiny failed: ModuleNotFoundError: tokenizers"):
        make_model(tiny, EngineEnv(tiny.runtime))


def test_no_model_is_made_unasked(tiny: c.Config) -> None:
    tiny.model.make = False
    make_model(tiny, EngineEnv(tiny.runtime))
    assert not Path(tiny.model.path).exists()


# --- signals


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_a_signal_before_the_driver_ends_what_is_waited_for(number: signal.Signals) -> None:
    """As the 12 s in which vLLM says what options it has."""
    before = signal.getsignal(number)
    code = f"import os, signal, time; os.kill(os.getppid(), {int(number)}); time.sleep(30)"
    began = time.monotonic()
    with pytest.raises(Interrupted, match=f"stopped by {number.name}; run the same command again to go on") as caught, raising():
        subprocess.run([sys.executable, "-S", "-c", code], check=False)
    assert time.monotonic() - began < 5
    assert caught.value.exit_code == 130
    assert signal.getsignal(number) is before


def test_the_driver_takes_note_and_is_in_a_hurry_at_the_second_signal() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with SignalNote() as note:
        assert (note.name, note.hurry) == (None, False)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (note.name, note.hurry) == ("SIGTERM", False)
        os.kill(os.getpid(), signal.SIGINT)
        assert (note.name, note.hurry) == ("SIGTERM", True)
    assert signal.getsignal(signal.SIGTERM) is before


# --- the end


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (Outcome(measured=20, wall_s=100.0, loads_s=20.0, ready_s=75.0, measuring_s=60.0),
         "20 points measured in 100 s, 80% of the time from engines ready to the last point measuring; loads took 20 s; "
         "results in runs/x"),
        (Outcome(measured=3, skipped=2, failed=1, invalid=1, wall_s=10.0, loads_s=1200.0, ready_s=10.0, measuring_s=1.0),
         "3 points measured, 2 done before, 1 FAILED, 1 INVALID in 10 s, 10% of the time from engines ready to the last point "
         "measuring; loads took 20 min; results in runs/x"),
        (Outcome(skipped=20), "0 points measured, 20 done before in 0 s; results in runs/x"),
    ],
)  # fmt: skip
def test_closing_line(outcome: Outcome, line: str) -> None:
    assert closing_line(outcome, Path("runs/x")) == line


# --- the key of a run


def test_a_runs_key_is_its_owners_alone(tmp_path: Path) -> None:
    old = tmp_path / ".key-7"
    old.write_text("from a job of the same number")
    path = write_key(tmp_path, "7", "secret")
    assert path == old.absolute()
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("secret", 0o600)
