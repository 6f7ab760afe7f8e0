"""HTTP questions to engines and routers: one answer, many side by side, and a poll that keeps asking. Standard library."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any

# No proxy: the addresses are the cluster's own, and a login node's http_proxy must not see them.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url: str, *, timeout_s: float = 5.0, api_key: str | None = None) -> tuple[int, str]:
    """Status and body; an HTTP error is a status too. Raises OSError when nobody answers in time."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return _open(urllib.request.Request(url, headers=headers), timeout_s)


def post_json(
    url: str, value: Any, *, timeout_s: float, api_key: str | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Status and body of a POST. Raises OSError when nobody answers in time."""
    headers = {**(headers or {}), "Content-Type": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    request = urllib.request.Request(url, json.dumps(value).encode(), headers)
    return _open(request, timeout_s)


def _open(request: urllib.request.Request, timeout_s: float) -> tuple[int, str]:
    try:
        with _OPENER.open(request, timeout=timeout_s) as response:
            return int(response.status), response.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")
    except HTTPException as error:  # the server died in the middle of its answer
        raise ConnectionError(f"{request.full_url}: broken answer: {error!r}") from error


def get_many(urls: Mapping[str, str], *, timeout_s: float) -> dict[str, str | None]:
    """Bodies by name; None where there was no 200."""

    def body(url: str) -> str | None:
        try:
            status, text = get(url, timeout_s=timeout_s)
        except OSError:
            return None
        return text if status == 200 else None

    if not urls:
        return {}
    with ThreadPoolExecutor(max_workers=min(32, len(urls))) as pool:
        return dict(zip(urls, pool.map(body, urls.values()), strict=True))


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
