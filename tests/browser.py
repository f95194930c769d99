"""A headless Chromium, driven over its own debugging protocol: what a page shows, says and asks for."""

import base64
import itertools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import websocket

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)


def find_chromium() -> str:
    """Its path; where there is none the test is skipped, or fails if DISTILLERY_REQUIRE_INTEGRATION is 1."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), "")
    if not found:
        reason = "no Chromium on the PATH: apt-get install chromium"
        if os.environ.get("DISTILLERY_REQUIRE_INTEGRATION") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


class Page:
    """One tab.

    Attributes:
        requests: every URL that the page asked for.
        complaints: errors and warnings of its console, uncaught exceptions, and what the browser itself logged.
    """

    def __init__(self, address: str) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._socket = websocket.create_connection(address, timeout=60)
        self._numbers = itertools.count(1)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call the protocol, and note what happens meanwhile."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := json.loads(self._socket.recv())).get("id") != number:
            self._note(message)
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    def open(self, url: str) -> None:
        """Go there and wait until everything is loaded."""
        self.call("Page.navigate", url=url)
        while True:
            message = json.loads(self._socket.recv())
            self._note(message)
            if message.get("method") == "Page.loadEventFired":
                return

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives, as JSON."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def resize(self, width: int, height: int = 900, scheme: str = "light", media: str = "") -> None:
        """Show the page as on a screen of this size; a narrow one is a phone."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        self.call("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path) -> Path:
        """The whole page from top to bottom as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16_000), "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def close(self) -> None:
        """Let go of the browser."""
        self._socket.close()

    def _note(self, message: dict[str, Any]) -> None:
        method, told = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(told["args"]))
        elif method == "Log.entryAdded":
            self.complaints.append(told["entry"]["text"])


@contextmanager
def open_browser(folder: Path) -> Iterator[Page]:
    """A fresh browser with one empty tab, its profile below `folder`."""
    command = [find_chromium(), *_FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    log = folder / "chromium.log"
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
    try:
        page = Page(_tab(_wait_for_port(process, log)))
        try:
            yield page
        finally:
            page.close()
    finally:
        process.terminate()
        process.wait(20)


def _wait_for_port(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"DevTools listening on ws://([\w.]+:\d+)/", log.read_text(errors="replace")):
            return found[1]
        time.sleep(0.1)
    raise AssertionError(f"Chromium did not start: {log.read_text(errors='replace')[-2000:]}")


def _tab(port: str) -> str:
    from urllib.request import urlopen

    with urlopen(f"http://{port}/json/list") as answer:
        tabs = json.load(answer)
    return next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
