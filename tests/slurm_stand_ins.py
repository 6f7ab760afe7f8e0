"""A folder in; programs out that play sbatch, squeue, scontrol and sacct, remember jobs, and fail as they are told to."""

from __future__ import annotations

import json
import sys
from pathlib import Path

PROGRAM = r"""#!{python} -SE
import fcntl, json, os, re, sys, time
from pathlib import Path

root, name, args = Path({root!r}), Path(sys.argv[0]).name, sys.argv[1:]
with (root / "calls").open("a") as calls:
    calls.write(json.dumps([name, *args]) + "\n")
told = next((f.read_text() for f in (root / f"{{name}}.told", root / "all.told") if f.exists()), "")


def option(key):
    return next((a.partition("=")[2] for a in args if a.startswith(f"--{{key}}=")), None)


def away():
    sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")


def accept():
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        job = len(list((root / "jobs").iterdir())) + 1
        (root / "jobs" / str(job)).write_text(json.dumps({{
            "name": option("job-name"), "state": "PENDING", "log": (option("output") or "").replace("%j", str(job)),
        }}))
    return job


def jobs():
    return {{path.name: json.loads(path.read_text()) for path in sorted((root / "jobs").iterdir())}}


if told.startswith("once "):
    (root / f"{{name}}.told").unlink()
if told == "once forgotten":
    sys.exit("slurm_load_jobs error: Invalid job id specified")
if told in ("away", "once away"):
    away()
if told == "hang":
    time.sleep(5)
    away()
if told.startswith("refuse "):
    sys.exit(told.partition(" ")[2])
if name == "sbatch":
    if told == "late":
        if os.fork() == 0:
            os.closerange(0, 3)
            time.sleep(0.3)
            accept()
            os._exit(0)
        away()
    time.sleep(0.3 if told == "slow" else 0)
    job = accept()
    if told == "accept, away":
        away()
    if told == "accept, refuse":
        sys.exit("sbatch: error: Batch job submission failed: Header lengths are longer than data received")
    if told == "accept, hang":
        time.sleep(3)
    print("" if told == "accept, silent" else f"Submitted batch job {{job}}")
elif name == "squeue":
    ids = option("jobs").split(",") if option("jobs") else None
    if ids and len(ids) == 1 and ids[0] not in jobs():
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    if told == "error, exit 0":
        sys.exit(print("squeue: Unable to contact slurm controller (connect failure)", file=sys.stderr))
    print("JOBID|STATE|REASON")
    for job, what in jobs().items():
        if (ids is None or job in ids) and option("name") in (None, what["name"]):
            print(f"{{job}}|{{what['state']}}|{{what.get('reason', 'None')}}")
elif name == "scontrol" and args[0] == "requeue":
    (root / "requeued").write_text(args[1])
elif name == "scontrol":
    what = jobs().get(args[-1])
    if not what:
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    fields = f"JobName={{what['name']}} JobState={{what['state']}} Reason={{what.get('reason', 'None')}}"
    print(f"JobId={{args[-1]}} {{fields}} Dependency=(null) Requeue=1 Restarts={{what.get('restarts', 0)}}", end="")
    print(f" StdIn=/dev/null StdOut={{what['log']}} TresPerNode=gres:gpu:8" if what.get("log") else "")
elif name == "sacct":
    if not (root / "accounts").exists():
        sys.exit("Slurm accounting storage is disabled")
    print((root / "accounts").read_text())
"""


class SlurmStandIn:
    """`bin` goes into PATH. `told(sbatch="away")`: how a program behaves from now on, `all` for every one without words of its own;
    `told()` is as if nothing had been said."""

    def __init__(self, root: Path) -> None:
        self.root, self.bin = root, root / "bin"
        for folder in (self.bin, root / "jobs"):
            folder.mkdir(parents=True)
        for name in ("sbatch", "squeue", "scontrol", "sacct", "srun"):
            (self.bin / name).write_text(PROGRAM.format(python=sys.executable, root=str(root)))
            (self.bin / name).chmod(0o755)

    def told(self, **behaviours: str) -> None:
        for path in self.root.glob("*.told"):
            path.unlink(missing_ok=True)
        for name, behaviour in behaviours.items():
            (self.root / f"{name}.told").write_text(behaviour)

    def job(self, job: str, state: str, name: str = "x", **more: object) -> None:
        """Slurm knows this job, as it is now."""
        new = self.root / f"new-{job}"
        new.write_text(json.dumps({"name": name, "state": state, **more}))
        new.replace(self.root / "jobs" / job)

    def forget(self, job: str) -> None:
        (self.root / "jobs" / job).unlink()

    def accounts(self, line: str) -> None:
        """What sacct says of every job; before, accounting is disabled."""
        (self.root / "accounts").write_text(line)

    @property
    def jobs(self) -> list[str]:
        return sorted(path.name for path in (self.root / "jobs").iterdir())

    def calls(self, name: str) -> list[list[str]]:
        """The command lines of one program."""
        lines = (self.root / "calls").read_text().splitlines() if (self.root / "calls").exists() else []
        return [call[1:] for call in map(json.loads, lines) if call[0] == name]
