"""Servers on loopback that drip, hang, talk garbage or break off: each is no answer, in time and with its own word."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pdslurm.errors import NotReady
from pdslurm.measure import health, telemetry, timeline
from pdslurm.measure.health import HealthPoll, ask, get
from pdslurm.measure.warm_up import RequestOptions, complete
from pdslurm.plan.deployment import Process
from pdslurm.validity.checks import checks, reasons
from pdslurm.validity.demand import Demand
from pdslurm.validity.evidence import Evidence

LIMIT_S = 0.5
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
GOOD = b"# TYPE vllm:request_success_total counter\nvllm:request_success_total 4\n"


def ok(body: bytes) -> bytes:
    return HEAD % len(body) + body


class Bad:
    """Answers every connection with `answer`, a byte every `drip_s`; then it keeps the connection, or resets it."""

    def __init__(self, answer: bytes, drip_s: float = 0.0, *, reset: bool = False) -> None:
        self.answer, self.drip_s, self.reset, self.ended = answer, drip_s, reset, threading.Event()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        self.listening.settimeout(0.05)
        serving = []
        while not self.ended.is_set():
            try:
                connection, _ = self.listening.accept()
            except TimeoutError:
                continue
            serving.append(threading.Thread(target=self._answer, args=[connection]))
            serving[-1].start()
        for thread in serving:
            thread.join()
        self.listening.close()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                if self.reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    return
                size = 1 if self.drip_s else len(self.answer) or 1
                for n in range(0, len(self.answer), size):
                    connection.sendall(self.answer[n : n + size])
                    if self.ended.wait(self.drip_s):
                        return
                self.ended.wait(0 if self.answer else 60)
            except OSError:  # whoever asked has hung up
                pass


BAD: Mapping[str, tuple[dict[str, Any], str]] = {
    "drips its body": ({"answer": ok(GOOD), "drip_s": 0.1}, "gave no answer within 0.5 s"),
    "drips its head": ({"answer": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 99, "drip_s": 0.1}, "gave no answer within 0.5 s"),
    "hangs": ({"answer": b""}, "gave no answer within 0.5 s"),
    "fails": ({"answer": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"}, "answers 500"),
    "resets": ({"answer": b"", "reset": True}, "cannot be read (Connection reset by peer)"),
    "breaks off": ({"answer": HEAD % 999 + GOOD}, "cannot be read ("),
    "speaks no HTTP": ({"answer": b"SSH-2.0-OpenSSH_9.2\r\n\r\n"}, "cannot be read ("),
    "is a page": ({"answer": ok(b"<html><body>Log in</body></html>")}, "no text of Prometheus"),
    "is JSON": ({"answer": ok(b'{"detail": "Not Found"}')}, "no text of Prometheus"),
    "is garbage": ({"answer": ok(b"\xff\xfe\x00 one two three {\n" + GOOD)}, "no text of Prometheus"),
    "is zipped": ({"answer": ok(gzip.compress(GOOD))}, "no text of Prometheus"),
    "has no number": ({"answer": ok(GOOD.replace(b" 4", b" four"))}, "no text of Prometheus"),
    "counts NaN": ({"answer": ok(GOOD.replace(b" 4", b" NaN"))}, "vllm:request_success_total is nan"),
    "counts without end": ({"answer": ok(GOOD.replace(b" 4", b" 1e300"))}, "vllm:request_success_total is 1e+300"),
}  # fmt: skip


@pytest.fixture(params=list(BAD.values()), ids=list(BAD))
def bad(request: pytest.FixtureRequest) -> Iterator[tuple[Bad, str]]:
    server = Bad(**request.param[0])
    yield server, request.param[1]
    server.ended.set()
    server.thread.join()


def engine(url: str) -> Process:
    return Process("engine1", "engine", "both", None, 0, "127.0.0.1", (), None, (), {}, metrics_url=f"{url}/metrics")


def test_a_bad_answer_is_none_in_time_and_its_reason_stands_in_every_check_that_needs_it(bad: tuple[Bad, str]) -> None:
    server, said = bad
    began = time.monotonic()
    scraped = telemetry.scrape([engine(server.url)], timeout_s=LIMIT_S)
    assert time.monotonic() - began < 10 * LIMIT_S, "dripping would take at least 7 s"
    assert scraped == {"engine1": None}
    assert scraped.why["engine1"].startswith("engine1: /metrics ")
    assert said in scraped.why["engine1"]
    told = telemetry.counted(scraped, scraped, {"engine1": "decode"}, [])
    assert told["no_counters"] == scraped.why
    demand = Demand(num_prompts=4, nixl=True, kv_bytes_per_token=2.0)
    evidence = Evidence(demand, {"mean_ttft_ms": 9.0}, telemetry=told, completed=4)
    found = {check.name: check for check in checks(evidence)}
    for name in ("requests_counted", "tokens_counted", "counters", "nixl", "kv_bytes", "prefix_cache", "preemptions",
                 "delivery", "outside_engines", "ttft_parts"):  # fmt: skip
        assert (found[name].ok, found[name].unverified) == (None, True), name
        assert said in found[name].said, name
    assert any(said in reason for reason in reasons(found.values(), strict=True))


def test_a_good_answer_has_no_reason() -> None:
    server = Bad(ok(GOOD))
    scraped = telemetry.scrape([engine(server.url)], timeout_s=5.0)
    server.ended.set()
    server.thread.join()
    assert (dict(scraped), scraped.why) == ({"engine1": {("vllm:request_success_total", ()): 4.0}}, {})
    assert "no_counters" not in telemetry.counted(scraped, scraped, {"engine1": "both"}, [])


def test_an_empty_answer_counts_nothing() -> None:
    server = Bad(ok(b""))
    assert telemetry.scrape([engine(server.url)], timeout_s=5.0) == {"engine1": {}}
    server.ended.set()
    server.thread.join()


def test_an_answer_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_BYTES", 2**20)
    server = Bad(b"HTTP/1.1 200 OK\r\n\r\n" + b"#" * (2**20 + 1))
    assert ask(f"{server.url}/metrics", timeout_s=10.0).why == "/metrics cannot be read (the answer has more than 1 MiB)"
    server.ended.set()
    server.thread.join()


def test_a_dripping_health_is_no_health() -> None:
    server = Bad(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 99, 0.02)
    with HealthPoll({"engine1": server.url}, interval_s=0.01, timeout_s=0.1) as poll:
        with pytest.raises(OSError, match="timed out"):
            get(f"{server.url}/health", timeout_s=0.3)
        assert (poll.ready, poll.sick) == (set(), {})
    server.ended.set()
    server.thread.join()


def test_a_completion_that_is_no_json_is_an_error_which_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:secret@squid:3128")
    server = Bad(ok(b"<html>squid: access denied</html>"))
    with pytest.raises(NotReady) as caught:
        complete(server.url, RequestOptions("m", None, 5.0), salt=1)
    server.ended.set()
    server.thread.join()
    assert "what is no JSON object: <html>squid" in str(caught.value)
    assert "a proxy may have answered: http_proxy=http://***@squid:3128" in str(caught.value)


def test_a_timeline_leaves_garbage_out() -> None:
    text = "vllm:num_requests_running 3\nvllm:num_requests_waiting\nvllm:prompt_tokens_total x\nvllm:generation_tokens_total NaN\n"
    assert timeline.values_in(text) == {"running": 3.0}
