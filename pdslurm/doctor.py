"""`python -m pdslurm.doctor …`: takes pdslurm's command line and does only the preflight. Exit code 0: nothing is wrong on any
node; 3: something is, and all of it is printed. Without a launcher it looks at the nodes of the Slurm job that it is in, else at
this machine.

`python -m pdslurm.doctor site`: writes the first draft of conf/cluster/NAME.yaml from what Slurm says of this cluster."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pdslurm.__main__ import main as pdslurm
from pdslurm.errors import ConfigError, PdslurmError
from pdslurm.slurm.site_draft import choose, draft
from pdslurm.slurm.site_facts import Run, ask_slurm, run_command
from pdslurm.slurm.site_nodes import look_at_nodes


def arguments(argv: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """What pdslurm is to be called with. Raises SystemExit where nothing can be checked."""
    launcher = next((a.partition("=")[2] for a in reversed(argv) if a.startswith("launcher=")), None)
    if launcher == "plan":
        raise SystemExit("pdslurm.doctor: launcher=plan runs nothing; use launcher=local, allocation or slurm")
    chosen = [] if launcher else [f"launcher={'allocation' if environ.get('SLURM_JOB_ID') else 'local'}"]
    return [*argv, *chosen, "launcher.only_preflight=true"]


def site_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pdslurm.doctor site",
        description="Writes the first draft of conf/cluster/NAME.yaml for this cluster.",
    )
    parser.add_argument("--partition", help="of Slurm; default: the default partition, or one with GPUs where that has none")
    parser.add_argument("--out", type=Path, metavar="FILE", help="such as conf/cluster/site.yaml; default: standard output")
    parser.add_argument("--look", type=int, default=0, metavar="N", help="look at N nodes, for GPUs and networks")
    parser.add_argument("--force", action="store_true", help="write FILE also where it is there already")
    return parser.parse_args(argv)


def site(argv: Sequence[str], environ: Mapping[str, str], run: Run = run_command) -> str:
    """The draft, or where it was written. Raises ConfigError."""
    options = site_options(argv)
    if options.look < 0:
        raise ConfigError([f"site: --look={options.look}: must be 0 or more"])
    refuse_path(options.out, force=options.force)
    facts = ask_slurm(run, user_name())
    chosen = choose(facts, options.partition, job=environ.get("SLURM_JOB_PARTITION"))
    looks, failed = look_at_nodes(chosen, facts, options.look, environ)
    text = draft(options.out.stem if options.out else "site", facts, chosen, looks, failed)
    if options.out is None:
        return text
    write(options.out, text, force=options.force)
    return f"wrote {options.out}; next: python -m pdslurm experiment=pd_1p3d cluster={options.out.stem} launcher=plan\n"


def user_name() -> str:
    """Slurm knows a user by number too, where this machine has no name for him."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def refuse_path(out: Path | None, *, force: bool) -> None:
    """Before Slurm is asked for anything."""
    if out is None:
        return
    if out.suffix != ".yaml":
        raise ConfigError([f"site: --out={out}: must end in .yaml; Hydra finds no other file in conf/cluster"])
    if out.exists() and not force:
        raise ConfigError([f"site: --out={out}: is there already and stays as it is; name another file, or add --force"])


def write(out: Path, text: str, *, force: bool) -> None:
    """Raises ConfigError; a file that came to be meanwhile is not overwritten without `force`."""
    try:
        with out.open("w" if force else "x") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError([f"site: --out={out}: cannot be written ({error.strerror})"]) from error


def main() -> None:
    if sys.argv[1:2] != ["site"]:
        sys.argv[1:] = arguments(sys.argv[1:], os.environ)
        pdslurm()
        return
    try:
        print(site(sys.argv[2:], os.environ), end="")
    except PdslurmError as error:
        print(f"pdslurm: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
