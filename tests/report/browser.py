"""A headless Chromium, driven by its ChromeDriver (https://www.w3.org/TR/webdriver2/)."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

#: For a machine without a network, and for root.
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync --hide-scrollbars"
).split()
#: WebDriver's names of keys.
ENTER, PAGE_DOWN, END = "\ue007", "\ue00f", "\ue010"
LEFT, UP, RIGHT, DOWN = "\ue012", "\ue013", "\ue014", "\ue015"


class Browser:
    """One window.

    Args:
        address: of ChromeDriver.
        chromium: the browser's program.
        downloads: folder that downloads go to.
    """

    def __init__(self, address: str, chromium: str, downloads: Path):
        # Not by a proxy that the environment may name.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        options = {"args": ARGUMENTS, "binary": chromium}
        capabilities = {"browserName": "chrome", "goog:chromeOptions": options}
        self._address = f"{address}/session"
        session = self._post("", {"capabilities": {"alwaysMatch": capabilities}})
        self._address += f"/{session['sessionId']}"
        self.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def _post(self, path: str, body: dict) -> Any:
        request = urllib.request.Request(
            self._address + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with self._opener.open(request, timeout=120) as response:
            return json.load(response)["value"]

    def command(self, name: str, **parameters: Any) -> Any:
        """One of the DevTools' commands."""
        return self._post("/goog/cdp/execute", {"cmd": name, "params": parameters})

    def resize(self, width: int, height: int = 1000) -> None:
        """Of the page's viewport, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **size)

    def open(self, path: Path) -> None:
        """A file."""
        self._post("/url", {"url": path.resolve().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function body of JavaScript returns."""
        return self._post("/execute/sync", {"script": script, "args": arguments})

    def press(self, *keys: str) -> None:
        """Keys, one after the other, on whatever has the focus."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._post("/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def give_file(self, selector: str, path: Path) -> None:
        """Choose a file in the ``<input type=file>`` of a CSS selector."""
        root = self.command("DOM.getDocument")["root"]["nodeId"]
        node = self.command("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.command("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self, path: Path) -> None:
        """A PNG of what the window shows."""
        shot = self.command("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser."""
        request = urllib.request.Request(self._address, method="DELETE")
        self._opener.open(request, timeout=60).close()


@contextmanager
def chromium(downloads: Path) -> Iterator[Browser]:
    """A browser; the test is skipped where there is none."""
    programs = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    program, driver = next(filter(None, programs), None), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian's chromium and chromium-driver)")
    with subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            started = (re.search(r"successfully on port (\d+)", x) for x in process.stdout)
            port = next(match[1] for match in started if match)
            browser = Browser(f"http://127.0.0.1:{port}", program, downloads)
            try:
                yield browser
            finally:
                browser.close()
        finally:
            process.terminate()
