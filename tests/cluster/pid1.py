"""PID 1 of one machine of the lab: takes a name, an address and mounts from its first line of stdin, and from each further line a
daemon to start. It says its pid as the world outside sees it on stdout. When stdin ends, with Lab or by it, so does the machine."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BIND, MOVE, RECURSIVE = 0x1000, 0x2000, 0x4000  # MS_BIND, MS_MOVE, MS_REC in linux/mount.h
LIBC = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, *, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2), which saves a process for each mount."""
    if LIBC.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()):
        error = ctypes.get_errno()
        raise OSError(error, f"mount {source} on {target}: {os.strerror(error)}")


def mount_own(binds: Mapping[str, str], shared: Sequence[str]) -> None:
    """What a machine has for itself: /proc, /dev/shm, /run, `binds` (place: source), and /tmp, in which `shared` is seen."""
    mount("proc", "/proc", kind="proc")
    mount("tmpfs", "/dev/shm", kind="tmpfs", data="mode=1777")
    mount("tmpfs", "/run", kind="tmpfs", data="mode=755")
    new_tmp = Path("/run/tmp")  # filled first: once it covers /tmp, the shared folders are out of sight
    new_tmp.mkdir()
    mount("tmpfs", str(new_tmp), kind="tmpfs", data="mode=1777")
    for folder in shared:
        target = new_tmp / Path(folder).relative_to("/tmp")
        target.mkdir(parents=True, exist_ok=True)
        mount(folder, str(target), flags=BIND | RECURSIVE)
    mount(str(new_tmp), "/tmp", flags=MOVE)
    new_tmp.rmdir()
    Path("/run/lock").mkdir(mode=0o1777)
    for place, source in binds.items():
        mount(source, place, flags=BIND)


def plug_in(device: str, address: str) -> None:
    """The network: a node's eth0, or on ctl the bridge at the other end of all cables. Lab has put it here."""
    lines = ("link set lo up", f"addr add {address} dev {device}", f"link set {device} up")
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)


def start(argv: Sequence[str], *, log: str) -> None:
    with open(log, "ab") as out:
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)


def reap(*_: object) -> None:
    """Children, and orphans of any process here, since they become children of PID 1."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def main() -> None:
    print(os.readlink("/proc/self"), flush=True)  # /proc is still that of the world outside
    settings: dict[str, Any] = json.loads(sys.stdin.readline())
    socket.sethostname(settings["name"])
    mount_own(settings["binds"], settings["shared"])
    plug_in(settings["device"], settings["address"])
    signal.signal(signal.SIGCHLD, reap)
    print("booted", flush=True)
    for line in sys.stdin:
        start(**json.loads(line))


if __name__ == "__main__":
    main()
