"""Debian's WebKitGTK, over WebDriver: https://www.w3.org/TR/webdriver/."""

from __future__ import annotations

import json
import os
import re
import subprocess
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.e2e.conditions import wait_until
from tests.e2e.patience import PATIENCE
from tests.e2e.server import free_port
from tests.engines.browser import HEIGHT, WIDTH, Browser, Tab

BROWSER = Path(__file__).with_name("webkit_browser.py")
CALL = """
const [text, done] = arguments;
(%s)(text).then((value) => done({ value }), (error) => done({ error: String(error) }));
"""
MESSAGE = re.compile(r"CONSOLE .*(ERROR|WARN)")


class WebKitTab(Tab):
    def __init__(self, webkit: WebKit, handle: str) -> None:
        self._webkit = webkit
        self._handle = handle
        self.resize(WIDTH, HEIGHT)

    def _command(self, method: str, path: str, **parameters: object) -> Any:
        self._webkit.command("POST", "/window", handle=self._handle)
        return self._webkit.command(method, path, **parameters)

    def go(self, url: str) -> None:
        self._command("POST", "/url", url=url)

    def back(self) -> None:
        self._command("POST", "/back")

    def resize(self, width: int, height: int) -> None:
        self._command("POST", "/window/rect", width=width, height=height)

    def close(self) -> None:
        self._command("DELETE", "/window")

    def call(self, function: str, text: str) -> str:
        answer = self._command("POST", "/execute/async", script=CALL % function, args=[text])
        assert "error" not in answer, answer
        return str(answer["value"])


class WebKit(Browser):
    def __init__(self, dark: bool) -> None:
        self._folder = TemporaryDirectory(prefix="pushserver-webkit-")
        folder = Path(self._folder.name)
        self._log = (folder / "log").open("a+", encoding="utf-8")
        reading, writing = os.pipe()
        self._display = subprocess.Popen(
            [
                *("Xvfb", "-nolisten", "tcp", "-screen", "0", "1280x1024x24"),
                *("-displayfd", str(writing)),
            ],
            pass_fds=[writing],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(writing)
        with open(reading) as numbers:
            display = numbers.readline().strip()
        assert display, "Xvfb did not start"
        self._port = free_port()
        self._driver = subprocess.Popen(
            # Lines of the log at once: stdbuf sets this for all processes of the browser.
            ["stdbuf", "--output=L", "WebKitWebDriver", f"--port={self._port}"],
            env=os.environ
            | {"DISPLAY": f":{display}", "GSETTINGS_BACKEND": "memory", "NO_AT_BRIDGE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        wait_until(self._is_ready)
        options = {"binary": str(BROWSER), "args": [str(folder), "dark" if dark else "light"]}
        capabilities = {"alwaysMatch": {"webkitgtk:browserOptions": options}}
        self._session = ""
        answer = self.command("POST", "", capabilities=capabilities)
        self._session = f"/{answer['sessionId']}"
        # The session ends with its last window.
        self._first: str = self.command("GET", "/window")

    def _is_ready(self) -> bool:
        with suppress(OSError), closing(HTTPConnection("127.0.0.1", self._port)) as driver:
            driver.connect()
            return True
        return False

    def command(self, method: str, path: str, **parameters: object) -> Any:
        """Return the value of one command."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            body = json.dumps(parameters) if method == "POST" else None
            connection.request(method, f"/session{self._session}{path}", body)
            response = connection.getresponse()
            value = json.load(response)["value"]
            assert response.status == 200, f"{method} {path}: {value}"
            return value
        finally:
            connection.close()

    def open(self) -> Tab:
        self.command("POST", "/window", handle=self._first)
        handle = self.command("POST", "/window/new", type="window")["handle"]
        return WebKitTab(self, handle)

    def messages(self) -> list[str]:
        return [line for line in self._log.read().splitlines() if MESSAGE.search(line)]

    def close(self) -> None:
        try:
            self.command("DELETE", "")
        finally:
            for process in (self._driver, self._display):
                process.terminate()
                process.wait(PATIENCE)
            self._log.close()
            self._folder.cleanup()
