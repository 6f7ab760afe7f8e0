"""The watch on /health against a small server that falls ill, and the questions asked over HTTP."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pdslurm.measure.health import HealthPoll, get, get_many, post_json

INTERVAL_S = 0.05


class Engine(ThreadingHTTPServer):
    """Answers /health with `status`, after `delay_s`; anything else with what was asked. No daemon threads: they would be left."""

    status, delay_s = 200, 0.0
    allow_reuse_address = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def die(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Engine

    def do_GET(self) -> None:
        time.sleep(self.server.delay_s)
        self._answer(self.server.status if self.path == "/health" else 200, f"GET {self.path}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._answer(self.server.status, f"{self.headers['Content-Type']} {body}")

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def engine() -> Iterator[Engine]:
    server = Engine(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    yield server
    server.die()
    thread.join()


def wait_for(true: Callable[[], bool], seconds: float = 5.0) -> float:
    """How long it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds
        time.sleep(0.005)
    return time.monotonic() - began


def watch(url: str, timeout_s: float = 1.0) -> HealthPoll:
    return HealthPoll({"engine0": url}, interval_s=INTERVAL_S, timeout_s=timeout_s)


def test_ready_then_ill_then_well(engine: Engine) -> None:
    engine.status = 503
    with watch(engine.url) as health:
        time.sleep(3 * INTERVAL_S)
        assert (health.ready, health.sick) == (set(), {}), "an engine that loads answers 503 and is not ill"
        engine.status = 200
        wait_for(lambda: health.ready == {"engine0"})
        engine.status = 503
        assert wait_for(lambda: bool(health.sick)) < 10 * INTERVAL_S
        assert health.sick == {"engine0": "/health answers 503"}
        engine.status = 200
        wait_for(lambda: not health.sick)


def test_refused_connections_are_a_death_only_after_it_was_ready(engine: Engine) -> None:
    with HealthPoll({"here": engine.url, "never": "http://127.0.0.1:9"}, interval_s=INTERVAL_S, timeout_s=1.0) as health:
        wait_for(lambda: health.ready == {"here"})
        engine.die()
        wait_for(lambda: bool(health.sick))
        assert health.sick == {"here": "refuses connections"}


def test_silence_is_no_death(engine: Engine) -> None:
    with watch(engine.url, timeout_s=0.1) as health:
        wait_for(lambda: health.ready == {"engine0"})
        engine.delay_s = 0.3
        time.sleep(0.5)
        assert health.sick == {}
        engine.delay_s = 0.0


def test_a_silent_one_holds_up_neither_the_others_nor_the_end(engine: Engine) -> None:
    engine.delay_s = 1.0
    other = Engine(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: other.serve_forever(poll_interval=0.01))
    thread.start()
    with HealthPoll({"silent": engine.url, "other": other.url}, interval_s=INTERVAL_S, timeout_s=5.0) as health:
        wait_for(lambda: "other" in health.ready, 0.5)
        other.status = 503
        wait_for(lambda: bool(health.sick), 0.5)
        began = time.monotonic()
    assert time.monotonic() - began < 0.1
    other.die()
    thread.join()


def test_nothing_to_watch() -> None:
    with HealthPoll({}, interval_s=INTERVAL_S) as health:
        assert health.ready == set()


def test_the_watch_ends_with_its_block(engine: Engine) -> None:
    with watch(engine.url) as health:
        pass
    wait_for(lambda: not any(thread.is_alive() for thread in health._threads))


def test_get_and_post(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a login node's proxy must not be asked
    assert get(f"{engine.url}/metrics") == (200, "GET /metrics")
    assert post_json(f"{engine.url}/v1/completions", {"n": 1}, timeout_s=5.0) == (200, 'application/json {"n": 1}')
    engine.status = 503
    assert get(f"{engine.url}/health") == (503, "GET /health")
    with pytest.raises(OSError, match="refused"):
        get("http://127.0.0.1:9/health")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\npart", b"", b"no HTTP at all\r\n\r\n"])
def test_an_answer_that_breaks_off_is_no_answer(answer: bytes) -> None:
    """An engine killed while it answers."""

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=[listening])
        thread.start()
        with pytest.raises(OSError, match=r"broken answer|closed connection"):
            get(f"http://127.0.0.1:{listening.getsockname()[1]}/metrics")
        thread.join()


def test_get_many(engine: Engine) -> None:
    engine.status = 500
    urls = {"good": f"{engine.url}/metrics", "ill": f"{engine.url}/health", "gone": "http://127.0.0.1:9/metrics"}
    assert get_many(urls, timeout_s=1.0) == {"good": "GET /metrics", "ill": None, "gone": None}
    assert get_many({}, timeout_s=1.0) == {}
