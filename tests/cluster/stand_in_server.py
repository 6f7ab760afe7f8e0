"""A `vllm serve` or `vllm-router` of one file: it has what a clean-up must find (a child in a session of its own, shared memory, a
temporary folder) and behaves as files in $STAND_INS say, which no configuration names and so no content key."""

from __future__ import annotations

import itertools
import json
import mmap
import os
import platform
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

OPTIONS = """-S --host --port --served-model-name --dtype --tensor-parallel-size --max-model-len --enforce-eager --load-format
--enable-prefix-caching --no-enable-prefix-caching --block-size --kv-transfer-config --policy --worker-urls --prometheus-port
--prometheus-host --request-timeout-secs --vllm-pd-disaggregation --prefill --decode --prefill-policy --decode-policy --log-level
--disable-retries --disable-circuit-breaker --worker-startup-timeout-secs --worker-startup-check-interval
--intra-node-data-parallel-size --api-key --max-concurrent-requests --health-failure-threshold"""


def told(kind: str) -> str:
    """What $STAND_INS says of this kind of program, here first and then anywhere: die, silent or nothing."""
    for name in (f"{kind}-{platform.node()}", kind):
        path = Path(os.environ["STAND_INS"], name)
        if path.exists():
            return path.read_text().strip()
    return ""


def hold_resources() -> None:
    """As an engine does: a segment in /dev/shm that a child maps too, and a file in $TMPDIR."""
    tempfile.NamedTemporaryFile(prefix="stand-in-", delete=False).close()
    segment = Path(f"/dev/shm/stand-in-{os.getpid()}")
    with segment.open("w+b") as file:
        file.truncate(4096)
        memory = mmap.mmap(file.fileno(), 4096)
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while memory[0] == 0:
            time.sleep(600)


class Handler(BaseHTTPRequestHandler):
    kind = "engine"
    workers: Iterator[str] | None = None

    def do_GET(self) -> None:
        self.answer(200, "")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        while told(self.kind) == "silent":
            time.sleep(0.1)
        if self.workers:
            urllib.request.urlopen(urllib.request.Request(next(self.workers) + self.path, b"{}")).close()
        self.answer(200, json.dumps({"choices": []}))

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def main() -> None:
    if any(word.startswith("--help") for word in sys.argv):
        print(OPTIONS)
        return
    Handler.kind = "engine" if "serve" in sys.argv else "router"
    if told(Handler.kind) == "die":
        sys.exit("ValueError: --max-num-seqs must be positive")
    if Handler.kind == "engine":
        hold_resources()
    else:
        urls = sys.argv[sys.argv.index("--worker-urls") + 1 :]
        Handler.workers = itertools.cycle(itertools.takewhile(lambda word: word.startswith("http"), urls))
    host, port = (sys.argv[sys.argv.index(name) + 1] for name in ("--host", "--port"))
    ThreadingHTTPServer((host, int(port)), Handler).serve_forever(0.05)


if __name__ == "__main__":
    main()
