"""launcher=script run by real bash with small programs in place of Slurm: every process gets the very words that the driver would
give it, whatever is in them; deaths, deadlines and signals end all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pdslurm import config as c
from pdslurm.errors import ConfigError
from pdslurm.launchers import script
from pdslurm.launchers.script import only_arm
from pdslurm.node.preflight import processes_of
from pdslurm.plan.commands import bench_args
from pdslurm.plan.deployment import Host, bind
from pdslurm.plan.plan import build_plan
from pdslurm.slurm.sbatch_script import Marks, directive, filled, marks_for, sbatch_script

MakeConfig = Callable[..., c.Config]
MakeJob = Callable[..., "Job"]
HOSTS = (Host("n1", "10.0.0.1", "eth0"), Host("n2", "10.0.0.2", "ib0"))
NASTY = (
    "a b", "it's", 'say "x"', "$(touch x)", "`touch x`", "two\nlines", "back\\slash", "$HOME", "${ADDRESS[0]}", "*", "~", "a=b", "",
    "-", "# no", "!!", ";touch x", "\ttab", "€", "NODExA0NODEx", "{a,b}", "\\", "'", "\r", "--flag=$(touch x)", "%s",
)  # fmt: skip
STUBS = {
    "scontrol": '[[ "$*" == "show hostnames n[1-2]" ]] && printf "n1\\nn2\\n"',
    "curl": "[[ ! -e $STUBS/never-ready ]]",
    "scancel": '[[ "$*" == "--quiet --signal=TERM 7" ]] && ls "$STUBS/pids" | xargs -n1 kill -TERM 2>/dev/null; exit 0',
    # what srun starts is this very process, as if the node were here
    "srun": """
        if [[ "$*" == *--job-name=addresses* ]]; then printf "n2 ib0 10.0.0.2\\nn1 eth0 10.0.0.1\\n"; exit; fi
        touch "$STUBS/pids/$$"
        for word in "$@"; do case $word in --job-name=*) export NAME=${word#*=};; --nodelist=*) export NODE=${word#*=};; esac; done
        while [[ $1 == -* ]]; do shift; done
        exec "$@"
    """,
}
PROGRAM = """
import json, os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
stubs = pathlib.Path(os.environ["STUBS"])
(stubs / (os.environ["NAME"] + ".tmp")).write_text(json.dumps([os.environ["NODE"], sys.argv[1:], dict(os.environ)]))
(stubs / (os.environ["NAME"] + ".tmp")).rename(stubs / (os.environ["NAME"] + ".json"))
if (stubs / "die").exists() and os.environ["NAME"] == "engine1":
    print("last words"); sys.exit(3)
time.sleep(60 if os.environ["NAME"] != "bench" else 0)
"""


class Job:
    """A script under bash in `folder`, with programs in place of Slurm's on PATH."""

    def __init__(self, folder: Path, config: c.Config) -> None:
        self.folder, self.stubs = folder, folder / "stubs"
        self.started: list[subprocess.Popen[str]] = []
        (self.stubs / "pids").mkdir(parents=True)
        for name, body in STUBS.items():
            (self.stubs / name).write_text(f"#!/bin/bash\n{body}\n")
            (self.stubs / name).chmod(0o755)
        (folder / "program.py").write_text(PROGRAM)
        config.runtime.vllm = [sys.executable, "-S", str(folder / "program.py"), *config.runtime.vllm]
        config.runtime.router = [sys.executable, "-S", str(folder / "program.py"), *config.runtime.router]
        self.plan = build_plan(config)
        self.text = sbatch_script(self.plan)
        (folder / "job.sbatch").write_text(self.text)

    def start(self) -> subprocess.Popen[str]:
        env = {"PATH": f"{self.stubs}:/usr/bin:/bin", "STUBS": str(self.stubs), "SLURM_JOB_ID": "7"}
        env |= {"SLURM_JOB_NODELIST": "n[1-2]", "SLURMD_NODENAME": "n1", "LC_ALL": "C.UTF-8", "NO_PROXY": "site.org"}
        command = ["bash", "job.sbatch"]
        pipe = subprocess.PIPE
        self.started.append(
            subprocess.Popen(command, cwd=self.folder, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
        )
        return self.started[-1]

    def got(self, name: str) -> tuple[str, list[str], dict[str, str]]:
        """Node, arguments and environment of a process, as soon as it runs."""
        deadline = time.monotonic() + 10
        while not (self.stubs / f"{name}.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        node, argv, env = json.loads((self.stubs / f"{name}.json").read_text())
        return node, argv, env

    def alive(self) -> list[str]:
        """What srun started and did not end."""
        return [pid.name for pid in (self.stubs / "pids").iterdir() if Path("/proc", pid.name).exists()]


@pytest.fixture
def job(tmp_path: Path, make_config: MakeConfig) -> Iterator[MakeJob]:
    """job({"limits.start_s": 1}): a 1P1D on two nodes without GPUs."""

    def make(changes: dict[str, Any] | None = None) -> Job:
        config = make_config({
            "cluster.gpus_per_node": 1, "cluster.device": c.Device.cpu, "topology.nodes": 2, "topology.tensor_parallel": 1,
            "topology.prefill": 1, "limits.stop_s": 5.0, **(changes or {}),
        })  # fmt: skip
        made.append(Job(tmp_path, config))
        return made[-1]

    made: list[Job] = []
    yield make
    for popen in (popen for each in made for popen in each.started):
        if popen.poll() is None:
            os.killpg(popen.pid, signal.SIGKILL)
        popen.communicate()


def until_serving(popen: subprocess.Popen[str]) -> list[str]:
    """The lines up to the one that says so, and the three after it."""
    assert popen.stdout
    lines = []
    for line in popen.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith("the first point: "):
            return lines
    raise AssertionError(f"ended: {lines} {popen.stderr.read() if popen.stderr else ''}")


def test_every_process_gets_the_words_that_the_driver_would_give_it(job: MakeJob) -> None:
    made = job({
        "model.path": "models/it's $(touch x)", "model.name": "a\nb `touch x`", "topology.extra_args": list(NASTY),
        "cluster.env": {f"NASTY_{n}": word for n, word in enumerate(NASTY)}, "cluster.gpu": "a\ntouch x\n",
        "topology.router.extra_args": list(NASTY), "run_root": "-runs of $(touch x) 'me'", "runtime.vllm": list(NASTY),
        "topology.kv.extra_config": {"to": "10.0.0.9", "'$(touch x)'": ["\n", '"']},
    })  # fmt: skip
    popen = made.start()
    said = until_serving(popen)
    for process in processes_of(bind(made.plan, HOSTS)):
        node, argv, env = made.got(process.name)
        assert node == HOSTS[process.node].name
        assert argv == list(process.argv[3:])
        assert {name: env[name] for name in process.env} == dict(process.env)
        assert env["no_proxy"] == env["NO_PROXY"] == "site.org,localhost,127.0.0.1,::1,10.0.0.1,10.0.0.2,n1,n2"
        assert len(env["VLLM_API_KEY"]) == 64
        assert env["VLLM_API_KEY"] == env["OPENAI_API_KEY"]
    assert "node 1: n2 10.0.0.2 ib0" in said
    (key_file,) = made.folder.glob("-runs*/test-script-7/api-key")
    assert (key_file.stat().st_mode & 0o777, key_file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert key_file.read_text().strip() == env["VLLM_API_KEY"]
    assert env["VLLM_API_KEY"] not in "".join(said) + made.text
    printed(made, said[-2], said[-1], env["OPENAI_API_KEY"])
    popen.terminate()
    assert popen.wait(10) == 143
    assert not made.alive()
    assert not key_file.exists()
    assert not list(made.folder.rglob("x"))


def printed(made: Job, request: str, point: str, key: str) -> None:
    """The two commands that the script prints can be given to bash as they are."""
    show = f'curl() {{ cat "${{4#@}}"; printf \'\\0%s\' "$@"; }}; {request.partition(": ")[2]}'
    header, *words = subprocess.run(["bash", "-c", show], capture_output=True, text=True, check=True).stdout.split("\0")
    assert header == f"Authorization: Bearer {key}\n"
    assert json.loads(words[-2])["model"] == made.plan.config.model.name
    env = {"NAME": "bench", "NODE": "n1", "STUBS": str(made.stubs), "PATH": "/usr/bin:/bin"}
    subprocess.run(["bash", "-c", point.partition(": ")[2]], env=env, check=True)
    _, argv, got = made.got("bench")
    args = bench_args(made.plan.config, made.plan.points[0], "http://127.0.0.1:8001")
    assert argv == [*made.plan.config.runtime.vllm[3:], "bench", "serve", *args]
    assert got["OPENAI_API_KEY"] == key


def test_a_death_names_the_process_and_ends_the_others(job: MakeJob) -> None:
    made = job()
    (made.stubs / "never-ready").touch()
    (made.stubs / "die").touch()
    popen = made.start()
    _, err = popen.communicate(timeout=20)
    log = made.folder / "runs" / "test-script-7" / "engine1.log"
    assert err == f"engine1 on n2 died: exit code 3\n  log: {log}\n  | last words\n"
    assert popen.returncode == 4
    assert not made.alive()
    assert not (log.parent / "api-key").exists()


def test_engines_that_are_never_ready(job: MakeJob) -> None:
    made = job({"limits.start_s": 1.0})
    (made.stubs / "never-ready").touch()
    popen = made.start()
    _, err = popen.communicate(timeout=20)
    assert err.startswith("not ready within 1 s: http://10.0.0.1:8000 http://10.0.0.2:8000; see the logs in ")
    assert popen.returncode == 1
    assert not made.alive()


def test_a_signal_while_engines_load(job: MakeJob) -> None:
    made = job()
    (made.stubs / "never-ready").touch()
    popen = made.start()
    while not (made.stubs / "engine1.json").exists():
        time.sleep(0.02)
    popen.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert popen.wait(20) == 143
    assert time.monotonic() - began < 8
    assert not made.alive()


@pytest.mark.parametrize("text", NASTY)
def test_a_word_is_worth_its_text_and_its_marks_are_addresses(text: str) -> None:
    marks = Marks("NODExx")
    value = f'{text}NODExxA1NODExx{text}{{"host": "NODExxA0NODExx:80"}}NODExxI0NODExx'
    bash = f"ADDRESS=(10.0.0.1 10.0.0.2) INTERFACE=(eth0); printf '%s\\0' {marks.word(value)} {marks.word(text)}"
    out = subprocess.run(["bash", "-c", bash], capture_output=True, check=True).stdout.decode()
    assert out.split("\0") == [f'{text}10.0.0.2{text}{{"host": "10.0.0.1:80"}}eth0', text, ""]


def test_marks_occur_nowhere_in_the_configuration(make_config: MakeConfig) -> None:
    assert marks_for(make_config()).mark == "NODEx"
    assert marks_for(make_config({"topology.extra_args": ["NODExx"], "cluster.env": {"NODExxx": "1"}})).mark == "NODExxxx"
    with pytest.raises(ConfigError, match="NUL"):
        Marks("NODEx").word("a\0b")


@pytest.mark.parametrize(
    ("value", "text"),
    [(8, "8"), ("gpu:8", "gpu:8"), ("n[1-4]", "n[1-4]"), ("a b", '"a b"'), ("it's #1", '"it\'s #1"'), ('a"\\', '"a\\"\\\\"')],
)
def test_sbatch_reads_quotes_of_its_own(value: Any, text: str) -> None:
    assert directive("comment", value) == text


def test_lines_keep_an_option_with_its_values() -> None:
    words = ["vllm", "serve", *(w for n in range(8) for w in (f"--option-{n}", "value" * 4))]
    assert list(filled(words, "  ")) == [
        "  vllm serve " + " ".join(words[2:8]),
        "  " + " ".join(words[8:14]),
        "  " + " ".join(words[14:]),
    ]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"cluster.slurm.extra": {"comment": "a\nb"}},
            r"cluster.slurm: comment='a\nb': a line break or control character cannot stand in an #SBATCH line",
        ),
        ({"cluster.env": {"A B": "1"}}, "cluster.env or runtime.env has 'A B': not the name of a variable"),
        (
            {"runtime.kind": c.RuntimeKind.docker, "runtime.image": "x"},
            "runtime.kind=docker: launcher=script starts engines without a",
        ),
        ({"cluster.one_host": True}, "one_host is for launcher=local"),
        ({"launcher.arm": "x"}, "launcher.arm=x: a script serves one arm; choose one of test"),
    ],
)
def test_what_cannot_be_a_script(make_config: MakeConfig, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        script.launch(make_config(changes))
    assert text in str(caught.value)


def test_one_of_several_arms(make_config: MakeConfig, tmp_path: Path) -> None:
    arms = {"large": c.Topology(nodes=4, tensor_parallel=8), "small": c.Topology(nodes=2, route=2, tensor_parallel=8)}
    with pytest.raises(ConfigError, match=r"launcher.arm=null: a script serves one arm; choose one of large, small"):
        only_arm(make_config({"arms": arms}))
    file = tmp_path / "job.sbatch"
    script.launch(make_config({"arms": arms, "launcher.arm": "small", "launcher.file": str(file)}))
    assert "#SBATCH --nodes=2\n" in file.read_text()
    with pytest.raises(ConfigError, match=r"launcher.file=/proc/x: cannot be written"):
        script.launch(make_config({"launcher.file": "/proc/x"}))


def test_an_address_by_configuration(make_config: MakeConfig) -> None:
    text = sbatch_script(build_plan(make_config({"cluster.network.interface": "ib0", "cluster.network.cidr": "10.0.0.0/8"})))
    assert 'bash -c "$ASK" bash dev ib0 to 10.0.0.0/8' in text


def test_the_sites_own_options_of_srun(make_config: MakeConfig) -> None:
    text = sbatch_script(build_plan(make_config({"cluster.slurm.srun": ["--mpi=none", "--comment=a b"]})))
    assert "\nSTEP+=(--mpi=none '--comment=a b')" in text
    assert text.index("STEP=(") < text.index("STEP+=(") < text.index('srun "${STEP[@]}"')


@pytest.mark.parametrize(("given", "lower"), [("10.9.0.0/16", None), ("*", "*")])
def test_what_the_configuration_says_of_no_proxy_stays(job: MakeJob, given: str, lower: str | None) -> None:
    made = job({"cluster.env": {"no_proxy": given}})
    until_serving(made.start())
    _, _, env = made.got("engine0")
    assert env["NO_PROXY"] == f"{given},site.org,localhost,127.0.0.1,::1,10.0.0.1,10.0.0.2,n1,n2"
    assert env["no_proxy"] == (lower or env["NO_PROXY"])
