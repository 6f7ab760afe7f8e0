"""`python -m pdslurm.doctor …`: takes pdslurm's command line and does only the preflight. Exit code 0: nothing is wrong on any
node; 3: something is, and all of it is printed.

Without a launcher it looks at the nodes of the Slurm job that it is in, else at this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from pdslurm.__main__ import main as pdslurm


def arguments(argv: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """What pdslurm is to be called with. Raises SystemExit where nothing can be checked."""
    launcher = next((a.partition("=")[2] for a in reversed(argv) if a.startswith("launcher=")), None)
    if launcher == "plan":
        raise SystemExit("pdslurm.doctor: launcher=plan runs nothing; use launcher=local, allocation or slurm")
    chosen = [] if launcher else [f"launcher={'allocation' if environ.get('SLURM_JOB_ID') else 'local'}"]
    return [*argv, *chosen, "launcher.only_preflight=true"]


def main() -> None:
    sys.argv[1:] = arguments(sys.argv[1:], os.environ)
    pdslurm()


if __name__ == "__main__":
    main()
