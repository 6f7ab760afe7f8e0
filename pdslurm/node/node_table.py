"""From the nodes' reports to a table for people: one line a node, columns as wide as they need to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pdslurm.node.node_check import NodeReport

GIB = 2**30
HEADINGS = ("node", "GPUs", "driver", "fabric", "memlock", "free: run, tmp, shm", "NIXL", "engine", "found")


def format_table(reports: Mapping[str, NodeReport]) -> str:
    """`reports` by node; `-` for what was not looked at or is not known."""
    rows = [HEADINGS, *(row(name, report) for name, report in reports.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in rows)


def row(name: str, report: NodeReport) -> tuple[str, ...]:
    facts, versions = report.facts, report.versions
    engine = " ".join(f"{p} {versions[p]}" for p in ("vllm", "nixl", "vllm-router") if versions.get(p))
    findings = f"{len(report.findings)} finding(s)" if report.findings else "nothing"
    cells = gpu_names(facts), facts.get("driver"), fabric(facts), memlock(facts), free_space(facts), nixl_backends(facts), engine
    return name, *(cell or "-" for cell in cells), findings


def gpu_names(facts: Mapping[str, Any]) -> str:
    """`8 × NVIDIA H200`."""
    return ", ".join(f"{count} × {name}" for name, count in Counter(facts.get("gpu_names", ())).items())


def fabric(facts: Mapping[str, Any]) -> str:
    """`4 uverbs, gdrdrv`."""
    names = [path.rpartition("/")[2].rstrip("0123456789") for path in facts.get("devices", ())]
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in Counter(names).items())


def memlock(facts: Mapping[str, Any]) -> str:
    limits = facts.get("limits")
    if not limits:
        return ""
    if limits["memlock"] is None or limits["ipc_lock"]:
        return "unlimited"
    return f"{limits['memlock'] / GIB:.1f} GiB" if limits["memlock"] >= GIB else f"{limits['memlock'] // 1024} KiB"


def free_space(facts: Mapping[str, Any]) -> str:
    """GiB free in the run's folder, the temporary folder and /dev/shm."""
    places = [*facts.get("free", {}).values(), facts.get("shm_free")]
    return ", ".join("-" if n is None else f"{n / GIB:.1f}" for n in places) + " GiB"


def nixl_backends(facts: Mapping[str, Any]) -> str:
    """`UCX` where it starts, `LIBFABRIC: fails` where it does not."""
    return ", ".join(f"{name}: fails" if backend["error"] else name for name, backend in (facts.get("nixl") or {}).items())
