"""Debian's Firefox, over WebDriver BiDi: https://w3c.github.io/webdriver-bidi/."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from websockets.sync.client import connect

from tests.e2e.conditions import wait_until
from tests.e2e.patience import PATIENCE
from tests.engines.browser import HEIGHT, WIDTH, Browser, Tab

PROGRAM = shutil.which("firefox-esr") or "/usr/bin/firefox-esr"
# In addition to those that the remote agent of Firefox sets itself.
PREFERENCES = {
    "app.normandy.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "intl.accept_languages": "en-GB",
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "services.settings.server": "data:,#remote-settings-dummy/v1",
    "toolkit.telemetry.server": "",
}
SCHEME = "layout.css.prefers-color-scheme.content-override"
DARK, LIGHT = 0, 1


class FirefoxTab(Tab):
    def __init__(self, firefox: Firefox) -> None:
        self._firefox = firefox
        self._context = firefox.command("browsingContext.create", type="window")["context"]
        self.resize(WIDTH, HEIGHT)

    def go(self, url: str) -> None:
        self._firefox.command(
            "browsingContext.navigate", context=self._context, url=url, wait="complete"
        )

    def back(self) -> None:
        self._firefox.command("browsingContext.traverseHistory", context=self._context, delta=-1)

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height}
        self._firefox.command("browsingContext.setViewport", context=self._context, viewport=size)

    def close(self) -> None:
        self._firefox.command("browsingContext.close", context=self._context)

    def call(self, function: str, text: str) -> str:
        answer = self._firefox.command(
            "script.callFunction",
            functionDeclaration=function,
            arguments=[{"type": "string", "value": text}],
            awaitPromise=True,
            target={"context": self._context},
        )
        assert answer["type"] == "success", answer["exceptionDetails"]["text"]
        return str(answer["result"]["value"])


class Firefox(Browser):
    def __init__(self, dark: bool) -> None:
        self._messages: list[str] = []
        self._commands = 0
        self._folder = TemporaryDirectory(prefix="pushserver-firefox-")
        folder = Path(self._folder.name)
        preferences = PREFERENCES | {SCHEME: DARK if dark else LIGHT}
        (folder / "user.js").write_text(
            "".join(
                f"user_pref({json.dumps(name)}, {json.dumps(value)});\n"
                for name, value in preferences.items()
            )
        )
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(PROGRAM, "--headless", "--no-remote", "--remote-debugging-port", "0"),
                    *("--profile", folder),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._address)
        self._socket = connect(f"{self._address()}/session", max_size=None).__enter__()
        self.command("session.new", capabilities={})
        self.command("session.subscribe", events=["log.entryAdded"])

    def _address(self) -> str:
        log = self._log.read_text("utf-8", "replace")
        assert self._process.poll() is None, log
        found = re.search(r"BiDi listening on (ws://\S+)$", log, re.MULTILINE)
        return found[1] if found else ""

    def command(self, method: str, **parameters: object) -> Any:
        """Return the result of one command, and note the events before it."""
        self._commands += 1
        command = {"id": self._commands, "method": method, "params": parameters}
        self._socket.send(json.dumps(command))
        while True:
            message = json.loads(self._socket.recv(PATIENCE))
            if message["type"] == "event":
                self._note(message["params"])
            elif message["id"] == self._commands:
                assert message["type"] == "success", f"{method}: {message}"
                return message["result"]

    def _note(self, entry: dict[str, Any]) -> None:
        if entry["level"] in {"error", "warn"}:
            frames = (entry.get("stackTrace") or {}).get("callFrames", [])
            url = frames[0]["url"] if frames else ""
            self._messages.append(f"{entry['level']}: {entry['text']} ({url})")

    def open(self) -> Tab:
        return FirefoxTab(self)

    def messages(self) -> list[str]:
        self.command("session.status")
        found, self._messages = self._messages, []
        return found

    def close(self) -> None:
        try:
            self.command("browser.close")
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            self._socket.close()
            self._folder.cleanup()
