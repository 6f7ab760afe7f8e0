"""From a plan of one arm to one sbatch script in bash: every srun line visible, nothing of pdslurm needed where it runs. Pure.

Nodes' names and addresses are known in the job alone. `bind` gets marks in their place that occur nowhere in the configuration;
each argument is then cut at its marks, and what lies between is quoted: bash expands nothing but a node's address."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pdslurm.config import Config, Network, RuntimeKind, as_dict
from pdslurm.errors import ConfigError
from pdslurm.plan.commands import vllm_alone
from pdslurm.plan.deployment import BoundArm, BoundSet, Deployment, Host, Process, bind
from pdslurm.plan.plan import Plan
from pdslurm.plan.render import summary
from pdslurm.slurm.jobs import gpu_options, sbatch_options
from pdslurm.slurm.script_text import ABOUT, ADDRESS_COMMAND, ADDRESSES, FUNCTIONS, NO_PROXY, ROUTE_COMMAND, SERVE

WIDTH = 120
ARRAYS = {"A": "ADDRESS", "I": "INTERFACE"}  # a mark's letter → the array of the script that it stands for


@dataclass(frozen=True)
class Marks:
    """`mark` occurs nowhere in the configuration, and no end of it is its beginning, so that a mark is found where it was put."""

    mark: str

    def hosts(self, count: int) -> tuple[Host, ...]:
        """The nodes as `bind` wants them."""
        return tuple(Host(f"node{n}", f"{self.mark}A{n}{self.mark}", f"{self.mark}I{n}{self.mark}") for n in range(count))

    def word(self, text: str) -> str:
        """`text` as one word of bash that is worth just this text, with the nodes' addresses for the marks. Raises ConfigError for
        a NUL, which no argument can hold."""
        if "\0" in text:
            raise ConfigError([f"{text!r}: has a NUL character, which cannot be passed to a program"])
        pieces = re.split(rf"({self.mark}[AI][0-9]+{self.mark})", text)
        return "".join(self._piece(piece) for piece in pieces if piece) or "''"

    def _piece(self, text: str) -> str:
        mark = re.fullmatch(rf"{self.mark}([AI])([0-9]+){self.mark}", text)
        return f'"${{{ARRAYS[mark[1]]}[{mark[2]}]}}"' if mark else shlex.quote(text)


def marks_for(config: Config) -> Marks:
    """Marks that no value and no key of the configuration contains."""
    mark, everything = "NODEx", json.dumps(as_dict(config))
    while mark in everything:
        mark += "x"
    return Marks(mark)


def sbatch_script(plan: Plan) -> str:
    """The whole script. Raises ConfigError for what cannot be written as one: several arms, containers, a line break in an option
    of sbatch."""
    config = plan.config
    arms = [arm.name for s in plan.sets for arm in s.arms]
    if len(arms) != 1:
        raise ConfigError([f"launcher.arm=null: a script serves one arm; choose one of {', '.join(arms)}"])
    if config.runtime.kind is not RuntimeKind.bare:
        why = "launcher=script starts engines without a container, for bash could not end one that outlives its job"
        raise ConfigError([f"runtime.kind={config.runtime.kind.value}: {why}; use runtime=bare, or launcher=slurm"])
    marks = marks_for(config)
    deployment = bind(plan, marks.hosts(plan.nodes))
    return "\n".join(_lines(deployment, deployment.sets[0], deployment.sets[0].arms[0], marks)) + "\n"


def _lines(deployment: Deployment, bound: BoundSet, arm: BoundArm, marks: Marks) -> Iterator[str]:
    plan, config = deployment.plan, deployment.plan.config
    yield from _header(plan, arm)
    yield from _names(plan, marks)
    yield FUNCTIONS
    if options := config.cluster.slurm.srun:
        yield f"STEP+=({' '.join(map(marks.word, options))})   # cluster.slurm.srun"
    yield from _read_addresses(config.cluster.network, plan.nodes, marks)
    given = [value for name, value in {**config.cluster.env, **config.runtime.env}.items() if name.lower() == "no_proxy"]
    yield NO_PROXY.format(given="".join(f"{marks.word(value)}," for value in given))
    yield ""
    yield "# --- the engines, side by side"
    gpus = [f"--{name}={marks.word(value)}" for name, value in gpu_options(config.cluster).items()]
    for engine in bound.engines:
        yield from _step(engine, gpus, marks)
    yield ""
    yield f"ready {' '.join(marks.word(str(e.url)) for e in bound.engines if e.url)}"
    yield 'echo "engines ready after $SECONDS s"'
    if arm.routers:
        yield ""
        yield f"# --- the router{'s' * (len(arm.routers) > 1)}"
        for router in arm.routers:
            yield from _step(router, ["--gres=none"], marks)
        yield ""
        yield f"ready {' '.join(marks.word(str(r.url)) for r in arm.routers)}"
    yield from _serve(deployment, arm, marks)


# --- the script's parts


def _header(plan: Plan, arm: BoundArm) -> Iterator[str]:
    """What it is, and the options of sbatch."""
    yield "#!/bin/bash"
    yield comment(summary(plan))
    yield comment(
        f"Starts every engine and router of arm {arm.arm.name} and serves until it is stopped (scancel) or its time is over:"
    )
    yield ABOUT
    for name, value in {"job-name": plan.name, **sbatch_options(plan)}.items():
        yield f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={directive(name, value)}"
    yield ""
    yield from plan.config.cluster.slurm.setup


def _names(plan: Plan, marks: Marks) -> Iterator[str]:
    """The variables of the script that come from the configuration."""
    config = plan.config
    yield f"LOGS={marks.word(config.run_dir or f'{config.run_root}/{config.name}')}-script-$SLURM_JOB_ID"
    yield f"COUNT={plan.nodes}            # nodes"
    yield f"START_S={max(1, int(config.limits.start_s))}       # until everything answers /health"
    yield f"STOP_S={max(1, int(config.limits.stop_s))}          # between TERM and Slurm's KILL"
    if config.model.make:  # pdslurm makes such a model before a run; this script cannot
        yield f"MODEL={marks.word(config.model.path)}"
        yield "if [[ ! -f $MODEL/config.json ]]; then"
        yield '    echo "$MODEL: no model is there. pdslurm makes it at its first run: python -m pdslurm … launcher=local" >&2'
        yield "    exit 1"
        yield "fi"


def _read_addresses(network: Network, count: int, marks: Marks) -> Iterator[str]:
    """A step on all nodes that fills ADDRESS and INTERFACE: as the configuration says, else what leads to another node."""
    if network.interface or network.cidr:
        command = ADDRESS_COMMAND
        options = [*(("dev", network.interface) if network.interface else ()), *(("to", network.cidr) if network.cidr else ())]
        words = [marks.word(word) for word in options]
    else:
        command, words = ROUTE_COMMAND, ['"${NODES[0]}"', '"${NODES[1]:-${NODES[0]}}"']
    yield ADDRESSES.format(command=command, words=" ".join(words))


def _step(process: Process, options: Sequence[str], marks: Marks) -> Iterator[str]:
    """One srun in the background. `env` sets the variables on the node, after Slurm has set its own."""
    where = "" if process.group is None else f", group {process.group}"
    gpus = f", GPUs {','.join(map(str, process.gpus))}" if process.gpus else ""
    yield ""
    yield comment(f"{process.name}: {process.role}{where}, node {process.node}{gpus}")
    yield " ".join([
        'srun "${STEP[@]}"', "--nodes=1", "--ntasks=1", f'--nodelist="${{NODES[{process.node}]}}"', *options,
        f"--job-name={process.name}", "\\",
    ])  # fmt: skip
    env = {name: value for name, value in process.env.items() if name.lower() != "no_proxy"}  # which the script exports
    yield from (f"{line} \\" for line in filled(["env", *assignments(env, marks)], "  "))
    command = [marks.word(word) for word in process.argv]
    if "=" in process.argv[0]:  # env would take it for one more variable
        command = ["bash", "-c", "'exec \"$@\"'", "bash", *command]
    yield from (f"{line} \\" for line in filled(command, "  "))
    yield f'  >"$LOGS/{process.name}.log" 2>&1 </dev/null &'
    yield f'started {process.name} "${{NODES[{process.node}]}}"'


def _serve(deployment: Deployment, arm: BoundArm, marks: Marks) -> Iterator[str]:
    """What is printed when all is up, and the wait for the end."""
    plan = deployment.plan
    config, point = plan.config, plan.points[0]
    body = json.dumps({"model": config.model.name, "prompt": "Once upon a time", "max_tokens": 16})
    args = deployment.bench_args(arm, point)
    bench = [*config.runtime.vllm, "bench", "serve", *vllm_alone(args)]
    yield ""
    yield "# --- it serves"
    yield f"URL={marks.word(arm.base_url)}"
    yield f"BODY={marks.word(body)}"
    yield comment(f"the first of {len(plan.points)} points: {point.id}")
    if vllm_alone(args) != args:
        yield comment(f"vllm bench serve cannot send it ({point.load}): this is about as much, of random prompts")
    yield "# shellcheck disable=SC2054  # commas belong to the words"
    yield "BENCH=("
    yield from filled([marks.word(word) for word in bench], "    ")
    yield ")"
    yield SERVE


# --- words, lines


def assignments(env: Mapping[str, str], marks: Marks) -> list[str]:
    """NAME=value words for `env`. Raises ConfigError for a name that is none."""
    if bad := [name for name in env if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)]:
        raise ConfigError([f"cluster.env or runtime.env has {name!r}: not the name of a variable" for name in bad])
    return [f"{name}={marks.word(value)}" for name, value in env.items()]


def directive(name: str, value: Any) -> str:
    """A value after `#SBATCH --name=`, as sbatch's own parser reads it: no shell sees it. Raises ConfigError for a line break."""
    text = str(value)
    if any(not c.isprintable() for c in text):
        raise ConfigError([f"cluster.slurm: {name}={text!r}: a line break or control character cannot stand in an #SBATCH line"])
    if re.fullmatch(r"[\w@%+=:,./\[\]-]+", text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def comment(text: str) -> str:
    """One line, whatever is in the text."""
    return "# " + "".join(c if c.isprintable() else " " for c in text)


def filled(words: Iterable[str], indent: str) -> Iterator[str]:
    """Lines of up to WIDTH characters; an option and its values stay together where they fit."""
    groups: list[str] = []
    for word in words:
        if groups and not word.startswith("-") and groups[-1].startswith("-"):
            groups[-1] += f" {word}"
        else:
            groups.append(word)
    line = indent
    for group in groups:
        if line.strip() and len(line) + len(group) > WIDTH:
            yield line.rstrip(" ")
            line = indent
        line += group + " "
    yield line.rstrip(" ")
