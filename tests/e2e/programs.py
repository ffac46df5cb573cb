"""The programs in the examples of a document: commands, and scripts in a browser."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.e2e import warm
from tests.e2e.lines import Lines
from tests.e2e.patience import PATIENCE
from tests.e2e.server import TWISTD, environment

PYTHON = (sys.executable, "-P", "-c")
PUSHSERVER = (sys.executable, "-P", "-m", "pushserver")
QUIET_SECONDS = 0.1
"""A running command has printed everything if it is silent for so long."""


class Program(Protocol):
    """A started command."""

    def next(self) -> str:
        """Wait for the next line of its output; raises EOFError after the last one."""

    def type(self, line: str) -> None:
        """Type a line."""

    def finish(self) -> None:
        """Raise AssertionError if it prints more."""

    def close(self) -> None:
        """End it if it still runs."""


class Curl:
    """A request with curl, which runs beside other commands."""

    def __init__(self, arguments: Sequence[str]):
        self._endless = any(re.fullmatch(r"-[A-Za-z]*N[A-Za-z]*", part) for part in arguments)
        self._lines = Lines(["curl", "-sS", *arguments])

    def next(self) -> str:
        return self._lines.next()

    def type(self, line: str) -> None:
        raise AssertionError(f"curl takes no {line!r}")

    def finish(self) -> None:
        rest = self._more() if self._endless else self._lines.to_the_end()
        assert not any(rest), f"the document does not have {rest}"

    def close(self) -> None:
        self._lines.close()

    def _more(self) -> list[str]:
        lines = []
        try:
            while True:
                lines.append(self._lines.next(QUIET_SECONDS))
        except (AssertionError, EOFError):
            return lines


class WebSocket:
    """The `websockets` command: prints each message, the connection and its end."""

    def __init__(self, url: str):
        self._output = [f"Connected to {url}."]
        self._client: ClientConnection | None = None
        self._connection = ExitStack()
        try:
            self._client = self._connection.enter_context(
                connect(url, proxy=None, open_timeout=PATIENCE)
            )
        except InvalidStatus as error:
            self._output = [f"Failed to connect to {url}: {error}."]

    def next(self) -> str:
        if self._output:
            return self._output.pop(0)
        if self._client is None:
            raise EOFError
        try:
            message = self._client.recv(timeout=PATIENCE)
        except ConnectionClosed:
            close = self._client.protocol.close_rcvd
            self._client = None
            return f"Connection closed: {close}."
        assert isinstance(message, str)
        return "< " + message.replace("\n", "\\n")

    def type(self, line: str) -> None:
        assert self._client is not None, "the connection is closed"
        self._client.send(line)

    def finish(self) -> None:
        assert self._output == []
        if self._client is None:
            return
        try:
            message = self._client.recv(timeout=QUIET_SECONDS)
        except TimeoutError:
            return
        raise AssertionError(f"the document does not have {message!r}")

    def close(self) -> None:
        self._connection.close()


class Script:
    """A program in a browser, by the generator of its output."""

    def __init__(self, printed: Generator[str, None, None]):
        self._printed = printed

    def next(self) -> str:
        for line in self._printed:
            return line
        raise EOFError

    def type(self, line: str) -> None:
        raise AssertionError(f"a script takes no {line!r}")

    def finish(self) -> None:
        """Cannot be checked: a page does not end."""

    def close(self) -> None:
        self._printed.close()


class Finished:
    """A command that ran to its end."""

    def __init__(self, command: Sequence[str], folder: Path, more: Mapping[str, str] | None = None):
        ended = warm.run(command, folder, environment(**(more or {})), joined=True)
        self._lines = ended.stdout.splitlines()

    def next(self) -> str:
        if not self._lines:
            raise EOFError
        return self._lines.pop(0)

    def type(self, line: str) -> None:
        raise AssertionError(f"takes no {line!r}")

    def finish(self) -> None:
        assert self._lines == [], f"the document does not have {self._lines}"

    def close(self) -> None:
        """No-op: the command has ended."""


def start(command: str, folder: Path) -> Program:
    """Start a command line in the folder."""
    words = shlex.split(command)
    more: dict[str, str] = {}
    while re.match(r"[A-Z_]+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        more[name] = value
    program, *arguments = words
    if program == "curl":
        return Curl(arguments)
    if program == "websockets":
        return WebSocket(*arguments)
    commands = {"pushserver": PUSHSERVER, "twistd": TWISTD}
    assert program in commands, f"{program} is not run"
    return Finished([*commands[program], *arguments], folder, more)
