"""A real proxy that counts, and what reaches it: nothing of the client's, the router's and the engines' traffic of a run."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pdslurm.measure.health import get
from pdslurm.node.processes import LocalProcesses
from pdslurm.plan.deployment import Host, Process, direct_hosts
from tests.integration.local_run import ROOT

PYTHON, ROUTER = ROOT / ".venv-engine/bin/python", ROOT / ".venv-engine/bin/vllm-router"
pytestmark = pytest.mark.skipif(not ROUTER.exists(), reason="no engine's environment (make setup)")
ASK = """
import asyncio, sys, aiohttp
async def main():
    async with aiohttp.ClientSession(trust_env=True) as session:
        for url in sys.argv[1:]:
            async with session.post(url + "/v1/completions", json={"model": "m", "prompt": "x", "max_tokens": 1}) as answer:
                print(answer.status, await answer.text(), flush=True)
asyncio.run(main())
"""
SHOW = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"


class Server(ThreadingHTTPServer):
    """An engine, or a proxy that refuses all: `asked` counts."""

    status, asked = 200, 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps({"object": "text_completion", "choices": [{"text": "x", "index": 0}], "data": [{"id": "m"}]}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_CONNECT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """An engine and a proxy."""
    both = Server(("127.0.0.1", 0), Handler), Server(("127.0.0.1", 0), Handler)
    both[1].status = 403
    threads = [threading.Thread(target=server.serve_forever, args=[0.02]) for server in both]
    for thread in threads:
        thread.start()
    yield both
    for server, thread in zip(both, threads, strict=True):
        server.shutdown()
        server.server_close()
        thread.join()


def wait_for(path: Path, text: str) -> str:
    deadline = time.monotonic() + 60
    while text not in (said := path.read_text() if path.exists() else "") and time.monotonic() < deadline:
        time.sleep(0.05)
    return said


def free_ports(count: int) -> list[int]:
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(count)]
    for server in servers:
        server.server_close()
    return [server.server_port for server in servers]


def ask_both(folder: Path, engine: Server) -> str:
    """What a client like vLLM's says of one request to the engine and one through vllm-router."""
    worker, (port, metrics) = f"http://127.0.0.1:{engine.server_port}", free_ports(2)
    direct = direct_hosts([Host("localhost", "127.0.0.1")])
    argv = (str(ROUTER), "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin", "--worker-urls", worker,
            "--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics), "--disable-retries",
            "--disable-circuit-breaker")  # fmt: skip
    router = Process("router", "router", "router", None, 0, "127.0.0.1", (), port, argv, {}, direct=direct)
    ask = (str(PYTHON), "-c", ASK, worker, str(router.url))
    client = Process("client", "engine", "client", None, 0, "127.0.0.1", (), None, ask, {}, direct=direct)
    with LocalProcesses(stop_s=2.0) as processes:
        started = processes.start(router, folder / "router.log")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and started.popen.poll() is None:
            try:
                if get(f"{router.url}/health")[0] == 200:
                    break
            except OSError:
                time.sleep(0.1)
        processes.start(client, folder / "client.log")
        return wait_for(folder / "client.log", "guard")


@pytest.fixture
def proxied(servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch) -> tuple[Server, Server]:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{servers[1].server_port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return servers


@pytest.mark.parametrize("given", ["*", "10.0.0.0/8"])
def test_client_and_router_pass_by_the_proxy(
    proxied: tuple[Server, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    engine, proxy = proxied
    monkeypatch.setenv("NO_PROXY", given)
    said = ask_both(tmp_path, engine)
    assert said.count("200 ") == 2, said + (tmp_path / "router.log").read_text()
    assert (proxy.asked, engine.asked >= 2) == (0, True)


def test_without_the_addresses_the_proxy_is_asked(
    proxied: tuple[Server, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the test above can fail. (vllm-router asks it for its worker's health and is never ready: 32 s.)"""
    engine, proxy = proxied
    monkeypatch.setattr("pdslurm.node.processes.no_proxy", lambda hosts, environ: {})
    argv = (str(PYTHON), "-c", ASK, f"http://127.0.0.1:{engine.server_port}")
    with LocalProcesses(stop_s=2.0) as processes:
        processes.start(Process("c", "engine", "client", None, 0, "127.0.0.1", (), None, argv, {}), tmp_path / "c.log")
        assert wait_for(tmp_path / "c.log", "guard").startswith("403 ")
    assert (proxy.asked, engine.asked) == (1, 0)


def test_an_engine_keeps_the_proxy_and_the_token_of_its_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:pw@squid:3128")
    monkeypatch.setenv("HF_TOKEN", "hf_of-me")
    monkeypatch.setenv("no_proxy", "site.org")
    monkeypatch.delenv("NO_PROXY", raising=False)
    file = tmp_path / "env.json"
    argv = (sys.executable, "-S", "-c", SHOW, str(file))
    direct = direct_hosts([Host("n1", "10.0.0.1"), Host("n2", "10.0.0.2")])
    with LocalProcesses(stop_s=2.0) as processes:
        processes.start(Process("e", "engine", "both", None, 0, "10.0.0.1", (), None, argv, {}, direct=direct), tmp_path / "e.log")
        env = json.loads(wait_for(file, "}"))
    assert (env["https_proxy"], env["HF_TOKEN"]) == ("http://me:pw@squid:3128", "hf_of-me")
    assert env["no_proxy"] == env["NO_PROXY"] == "site.org,localhost,127.0.0.1,::1,10.0.0.1,n1,10.0.0.2,n2"
