"""A page's address in; what a real browser makes of it out: headless Chromium, spoken to over two pipes, without any package.

The protocol is Chrome's DevTools Protocol: JSON objects that end in a zero byte, commands by number, events between the answers."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT_S = 60.0


def program() -> str | None:
    """The browser's path, None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page of one Chromium. `problems` has what the console said as an error and every exception that no one caught."""

    def __init__(self, profile: Path, *, width: int = 1280, height: int = 900) -> None:
        self.problems: list[str] = []
        self.number, self.waiting = 0, b""
        self.profile, self.size = profile, (width, height)

    def __enter__(self) -> Browser:
        own_read, its_write = os.pipe()
        its_read, own_write = os.pipe()
        found = program()
        assert found
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync"]
        options += [
            "--remote-debugging-pipe",
            f"--user-data-dir={self.profile}",
            "--proxy-server=http://127.0.0.1:9",
            "about:blank",
        ]
        shell = f'exec "$@" 3<&{its_read} 4>&{its_write}'
        self.popen = subprocess.Popen(
            ["bash", "-c", shell, "browser", found, *options], pass_fds=(its_read, its_write), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(its_read)
        os.close(its_write)
        self.read_from, self.write_to, self.session = own_read, own_write, ""
        try:
            pages = self.ask("Target.getTargets")["targetInfos"]
            page = next(target for target in pages if target["type"] == "page")
            self.session = self.ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self.ask(f"{domain}.enable")
            self.resize(*self.size)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Chromium's processes are one group: the whole of it is ended."""
        os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        os.close(self.read_from)
        os.close(self.write_to)

    # --- the protocol

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to one command. Raises AssertionError with the browser's words when it refuses, or says nothing in time."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params, **({"sessionId": self.session} if self.session else {})}
        os.write(self.write_to, json.dumps(message).encode() + b"\0")
        while (said := self._next()).get("id") != self.number:
            self._note(said)
        assert "error" not in said, f"{method}: {said['error']}"
        return dict(said["result"])

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + WAIT_S
        while b"\0" not in self.waiting:
            ready, _, _ = select.select([self.read_from], [], [], max(deadline - time.monotonic(), 0))
            more = os.read(self.read_from, 1 << 20) if ready else b""
            assert more, "the browser ended or said nothing for a minute"
            self.waiting += more
        message, _, self.waiting = self.waiting.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, said: dict[str, Any]) -> None:
        params = said.get("params", {})
        if said.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"].get("exception", {}).get("description", params)))
        if said.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.problems.append(str([argument.get("value") for argument in params["args"]]))
        if said.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}".strip())

    # --- what a reader does

    def open(self, address: str) -> None:
        answer = self.ask("Page.navigate", url=address)
        assert "errorText" not in answer, answer
        self.until(lambda: self.js("document.readyState") == "complete", "the page is loaded")

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, true: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + 10
        while not true():
            assert time.monotonic() < deadline, f"waited 10 s until {what}"
            time.sleep(0.02)

    def centre(self, selector: str) -> tuple[float, float]:
        """Where an element is on the screen, after scrolling to it."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.js(f"{element}.scrollIntoView({{block: 'center'}})")
        box = self.js(f"(() => {{ const b = {element}.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; }})()")
        return box[0] + box[2] / 2, box[1] + box[3] / 2

    def hover(self, selector: str) -> None:
        x, y = self.centre(selector)
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        x, y = self.centre(selector)
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int) -> None:
        """One key by its DOM name and its Windows virtual key code."""
        text = {"text": "\r"} if key == "Enter" else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def resize(self, width: int, height: int) -> None:
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def scheme(self, name: str) -> None:
        """`light` or `dark`."""
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def scripts(self, on: bool) -> None:
        self.ask("Emulation.setScriptExecutionDisabled", value=not on)

    def picture(self, *, whole: bool = False) -> bytes:
        """A PNG of what is on the screen, or of the whole page."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])
