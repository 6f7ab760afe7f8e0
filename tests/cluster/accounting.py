"""A real sacct for the lab: a private MariaDB and slurmdbd on ctl, up before slurmctld, which Slurm wants in this order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.cluster.configuration import DB_PORT, DBD_PORT

USER = "slurm"
DATABASE = "slurm_acct"


class OnCtl(Protocol):
    """What Lab lends: the means to run and start something on ctl, and to wait."""

    root: Path

    def run(self, node: str, argv: Sequence[str], timeout_s: float, check: bool = True, **popen_kwargs: Any) -> Any: ...
    def start(self, node: str, argv: Sequence[str]) -> None: ...
    def wait_for(self, what: str, ready: Callable[[], bool], *, timeout_s: float) -> None: ...


def start_accounting(lab: OnCtl) -> None:
    """Returns when sacct can be asked; an earlier database in the lab's folder is used again."""
    socket = lab.root / "run" / "db.sock"
    conf = lab.root / "etc" / "slurmdbd.conf"
    conf.touch(0o600)  # slurmdbd wants its password unread by others
    conf.write_text(slurmdbd_conf(lab.root))
    data = lab.root / "db"
    if not data.exists():
        install = ("mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root", "--skip-test-db")
        lab.run("ctl", [*install, "--auth-root-authentication-method=normal"], 60)
    lab.start("ctl", mariadbd(data, socket))
    client = ("mariadb", "--no-defaults", f"--socket={socket}")
    lab.wait_for("MariaDB", lambda: not lab.run("ctl", [*client, "-e", "select 1"], 10, check=False).returncode, timeout_s=30)
    for host in ("localhost", "127.0.0.1"):
        lab.run("ctl", [*client, "-e", f"grant all on {DATABASE}.* to '{USER}'@'{host}' identified by '{USER}'"], 10)
    lab.start("ctl", ("slurmdbd", "-D"))
    ask = ("sacctmgr", "--noheader", "show", "cluster")
    lab.wait_for("slurmdbd", lambda: not lab.run("ctl", ask, 10, check=False).returncode, timeout_s=60)
    if "lab" not in lab.run("ctl", ask, 10).stdout.split():
        lab.run("ctl", ["sacctmgr", "--immediate", "add", "cluster", "lab"], 30)


def mariadbd(data: Path, socket: Path) -> tuple[str, ...]:
    """Small, and careless of a crash: what it holds is a test's."""
    where = (f"--datadir={data}", f"--socket={socket}", f"--pid-file={socket.with_suffix('.pid')}")
    size = ("--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=0")
    return ("mariadbd", "--no-defaults", "--user=root", *where, "--bind-address=127.0.0.1", f"--port={DB_PORT}", *size)


def slurmdbd_conf(root: Path) -> str:
    return f"""\
AuthInfo=socket={root}/run/munge.sock
DbdHost=ctl
DbdPort={DBD_PORT}
SlurmUser=root
PidFile={root}/run/slurmdbd.pid
LogFile={root}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={DB_PORT}
StorageUser={USER}
StoragePass={USER}
StorageLoc={DATABASE}
"""
