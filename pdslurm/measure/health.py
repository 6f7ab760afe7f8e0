"""HTTP questions to engines and routers: one answer, many side by side, and a poll that keeps asking. Standard library."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, IncompleteRead
from typing import Any

MAX_BYTES = 64 * 2**20  # of one answer; 1000 ranks' /metrics have less


class _TimedSocket(socket.socket):
    """A socket whose reads all end by `deadline`, however slowly bytes drip: a socket's own time limit is for each read."""

    deadline = float("inf")

    def recv_into(self, *args: Any) -> int:
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left_s)
        return super().recv_into(*args)


class _TimedConnection(HTTPConnection):
    """One whose `timeout` is for connecting and the whole answer together."""

    def connect(self) -> None:
        limit_s = self.timeout or 0.0
        deadline = time.monotonic() + limit_s
        super().connect()
        timed = _TimedSocket(fileno=self.sock.detach())
        timed.deadline = deadline
        timed.settimeout(limit_s)
        self.sock = timed


class _TimedHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_TimedConnection, req)


# No proxy: the addresses are the cluster's own, and a login node's http_proxy must not see them.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _TimedHandler())


def get(url: str, *, timeout_s: float = 5.0, api_key: str | None = None) -> tuple[int, str]:
    """Status and body; an HTTP error is a status too. Raises OSError when the whole answer is not there in time."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return _open(urllib.request.Request(url, headers=headers), timeout_s)


def post_json(
    url: str, value: Any, *, timeout_s: float, api_key: str | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Status and body of a POST. Raises OSError when the whole answer is not there in time."""
    headers = {**(headers or {}), "Content-Type": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    request = urllib.request.Request(url, json.dumps(value).encode(), headers)
    return _open(request, timeout_s)


def _open(request: urllib.request.Request, timeout_s: float) -> tuple[int, str]:
    try:
        try:
            with _OPENER.open(request, timeout=timeout_s) as response:
                return int(response.status), _body(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _body(error)
    except (HTTPException, ValueError) as error:  # the server died in the middle of its answer, or it speaks no HTTP
        raise ConnectionError(f"{request.full_url}: broken answer: {error!r}") from error


def _body(response: Any) -> str:
    """The whole body as text. Raises ConnectionError for one that is too long, IncompleteRead for one that breaks off."""
    body = response.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise ConnectionError(f"the answer has more than {MAX_BYTES >> 20} MiB")
    if getattr(response, "length", None):  # what Content-Length promised and never came
        raise IncompleteRead(body, response.length)
    return str(body.decode(errors="replace"))


@dataclass(frozen=True)
class Answer:
    """The body of a 200, or None and why there is none."""

    text: str | None
    why: str = ""


def ask(url: str, *, timeout_s: float) -> Answer:
    """What a server answers with 200; raises nothing."""
    path = urllib.parse.urlsplit(url).path
    try:
        status, text = get(url, timeout_s=timeout_s)
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return Answer(None, f"{path} gave no answer within {timeout_s:.3g} s")
        return Answer(None, f"{path} cannot be read ({getattr(reason, 'strerror', None) or reason})")
    return Answer(text) if status == 200 else Answer(None, f"{path} answers {status}")


def ask_many(urls: Mapping[str, str], *, timeout_s: float) -> dict[str, Answer]:
    """What servers answer, by name, all side by side."""
    if not urls:
        return {}
    with ThreadPoolExecutor(max_workers=min(256, len(urls))) as pool:
        return dict(zip(urls, pool.map(lambda url: ask(url, timeout_s=timeout_s), urls.values()), strict=True))


def get_many(urls: Mapping[str, str], *, timeout_s: float) -> dict[str, str | None]:
    """Bodies by name; None where there was no 200."""
    return {name: answer.text for name, answer in ask_many(urls, timeout_s=timeout_s).items()}


class HealthPoll:
    """Asks every endpoint's /health twice a second in the background and remembers the answers. Each has a thread of its own: a
    silent one does not hold up what the others have to say, nor the end of the poll.

    An engine whose core died answers 503 half a second later, while its process lives on for seconds: this is how a death
    is noticed in time. Silence alone is no death: a busy machine is silent too."""

    def __init__(self, endpoints: Mapping[str, str], *, interval_s: float = 0.5, timeout_s: float = 5.0) -> None:
        self.endpoints, self.interval_s, self.timeout_s = dict(endpoints), interval_s, timeout_s
        self.ready: set[str] = set()
        self.sick: dict[str, str] = {}  # once ready, then 5xx or refused
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=[name], name=f"health-{name}", daemon=True) for name in endpoints]

    def __enter__(self) -> HealthPoll:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _run(self, name: str) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self._poll(name)
            self._stop.wait(max(0.0, self.interval_s - (time.monotonic() - began)))

    def _poll(self, name: str) -> None:
        try:
            status, _ = get(f"{self.endpoints[name]}/health", timeout_s=self.timeout_s)
        except OSError as error:
            refused = isinstance(getattr(error, "reason", error), ConnectionRefusedError)
            if refused and name in self.ready:
                self.sick[name] = "refuses connections"
            return
        if status == 200:
            self.ready.add(name)
            self.sick.pop(name, None)
        elif status >= 500 and name in self.ready:
            self.sick[name] = f"/health answers {status}"
