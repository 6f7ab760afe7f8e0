"""From a plan to a deployment on free ports whose every option the engine knows, or to all that is wrong, before any engine starts.

What is checked on a node is pdslurm/node/node_check.py's."""

from __future__ import annotations

import difflib
import json
import platform
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pdslurm.config import Config
from pdslurm.errors import ConfigError, PreflightError
from pdslurm.node.engine_env import EngineEnv
from pdslurm.node.node_check import NodeReport, check_node
from pdslurm.node.node_table import format_table
from pdslurm.node.ports import ReservedPorts
from pdslurm.plan.deployment import Deployment, Host, Process, bind
from pdslurm.plan.plan import Plan
from pdslurm.records import command_line
from pdslurm.records.measurement import content_key
from pdslurm.records.whole_file import write_json

HELP_TIMEOUT_S = 300.0  # vLLM imports torch before it prints its help: 12 s here, more from a cold network file system
RANKS = "--data-parallel-size"  # vLLM adds each rank's number to its side channel's port
Options = Mapping[str, frozenset[str]]  # engine, router → the long and short options that it knows


def check_and_bind(
    plan: Plan, engine_env: EngineEnv, cache: Path, run_dir: Path, ports: ReservedPorts
) -> tuple[Deployment, NodeReport]:
    """Checks this machine, binds the plan to its free ports, which `ports` then reserves, and looks every option up. Raises
    PreflightError with all findings.

    Returns the deployment and the report of this machine. `cache` keeps what an engine version's --help said (15 s to ask)."""
    report = check_node(plan.config, gpus_counted(plan), engine_env, run_dir=run_dir)
    deployment = bind_checked(
        plan,
        report.findings,
        report.versions,
        bind=lambda: bind_free(plan, ports.reserve_free),
        options=lambda: known_options(plan.config, report.versions, cache, engine_env),
        reports={platform.node(): report},
    )
    return deployment, report


def gpus_counted(plan: Plan) -> int:
    """How many of this machine's GPUs the plan counts through: one more than the highest number of a GPU that an engine uses."""
    parts = (part for instances in plan.sets for instance in instances.instances for part in instance.parts)
    return 1 + max((gpu for part in parts for gpu in part.gpus), default=-1)


def bind_checked(
    plan: Plan,
    findings: Sequence[str],
    versions: Mapping[str, str | None],
    *,
    bind: Callable[[], Deployment],
    options: Callable[[], Options],
    reports: Mapping[str, NodeReport],
) -> Deployment:
    """The plan on free ports, with every option looked up; goes on after a finding, so that all are told at once. Raises
    PreflightError with what the nodes' checks found and what is found here; where only the preflight was asked for, it has printed
    the reports by then."""
    findings, deployment = list(findings), None
    try:
        deployment = bind()
        if versions:
            findings += option_findings(deployment, options())
    except PreflightError as error:
        findings += error.findings
    except ConfigError as error:
        findings += error.problems
    if plan.config.launcher.only_preflight:
        print(format_table(reports), flush=True)
    for note in notes_of(reports):
        print(note, flush=True)
    if findings or not deployment:
        raise PreflightError(findings)
    return deployment


def notes_of(reports: Mapping[str, NodeReport]) -> Iterator[str]:
    """Each note once, with the nodes that have it."""
    nodes: dict[str, list[str]] = {}
    for name, report in reports.items():
        for note in report.notes:
            nodes.setdefault(note, []).append(name)
    for note, names in nodes.items():
        yield f"note: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}: {note}"


def processes_of(deployment: Deployment) -> Iterator[Process]:
    """Every engine and router."""
    for bound in deployment.sets:
        yield from bound.engines
        for arm in bound.arms:
            yield from arm.routers


def bind_free(
    plan: Plan, reserve: Callable[[set[tuple[str, int]]], set[tuple[str, int]]], hosts: Sequence[Host] = ()
) -> Deployment:
    """Binds the plan, passing over ports that somebody listens on or another run has reserved: `reserve` takes (address, port)
    pairs for this run and returns those that it could not get. Raises ConfigError when the ranges are full."""
    taken: set[tuple[str, int]] = set()
    while True:
        deployment = bind(plan, hosts, taken)
        clashes = reserve({(p.host, port) for p in processes_of(deployment) for port in ports_of(p)})
        if not clashes:
            return deployment
        taken |= clashes


def ports_of(process: Process) -> set[int]:
    """Every port that a process will listen on, read from its own command line and environment."""
    flags = ("--port", "--prometheus-port", "--master-port", "--data-parallel-rpc-port")
    given = [(flag, int(value)) for flag, value in zip(process.argv, process.argv[1:], strict=False) if flag in (*flags, RANKS)]
    found = {value for flag, value in given if flag != RANKS}
    first = int(process.env.get("VLLM_NIXL_SIDE_CHANNEL_PORT", 0))
    return found | (set(range(first, first + dict(given).get(RANKS, 1))) if first else set())


def known_options(config: Config, versions: Mapping[str, str | None], cache: Path, engine_env: EngineEnv) -> Options:
    """Options named in the programs' own help, kept in `cache` by version."""
    commands = {"engine": [*config.runtime.vllm, "serve", "--help=all"], "router": [*config.runtime.router, "--help"]}
    file = cache / f"options-{content_key([commands, versions])}.json"
    if file.is_file():
        return {kind: frozenset(names) for kind, names in json.loads(file.read_text()).items()}
    env = {**config.cluster.env, **config.runtime.env, "COLUMNS": "200"}

    def help_of(command: list[str]) -> str:
        try:
            with tempfile.TemporaryDirectory(prefix="pdslurm-") as temp:  # importing torch may leave its cache folder there
                own = {**env, "TMPDIR": temp} if engine_env.is_bare else env
                done = engine_env.output(command, own, name="help", timeout_s=HELP_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise PreflightError([f"`{' '.join(command)}` does not answer within {HELP_TIMEOUT_S:g} s"]) from error
        except OSError as error:
            raise PreflightError([f"`{' '.join(command)}` cannot be started: {error.strerror}"]) from error
        if done.returncode != 0:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-5:])
            raise PreflightError([f"`{' '.join(command)}` fails with exit code {done.returncode}: {tail}"])
        return done.stdout

    # in turn and in this thread, so that a signal ends the wait and the program with it
    options = {kind: options_in(help_of(command)) for kind, command in commands.items()}
    write_json(file, {kind: sorted(names) for kind, names in options.items()})
    return options


def options_in(help_text: str) -> frozenset[str]:
    """Every word of a help text that looks like an option."""
    return frozenset(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", help_text))


def option_findings(deployment: Deployment, options: Options) -> list[str]:
    """Findings for every option in the deployment that its program does not know, each once."""
    return list(dict.fromkeys(f for process in processes_of(deployment) for f in unknown_options(process, options)))


def unknown_options(process: Process, options: Options) -> Iterator[str]:
    """One line for each option on the command line that the program's help does not name. vLLM takes `--a_b` for `--a-b`."""
    known = options.get(process.kind, frozenset())
    for flag in option_names(process.argv):
        spelled = flag.replace("_", "-") if process.kind == "engine" else flag
        if spelled not in known:
            close = difflib.get_close_matches(flag, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            yield f"{process.argv[0]}: this version knows no option {flag} (extra_args or engine_args){hint}"


def option_names(argv: Iterable[str]) -> Iterator[str]:
    """`--a=1 --b.c 2 -d` → --a, --b, -d; negative numbers are values."""
    for option in command_line.options(argv):
        if re.match(r"--?[A-Za-z]", option.name) and not option.name.startswith("-m"):
            yield option.name.partition(".")[0]
