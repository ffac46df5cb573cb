"""Configured servers, and requests to them."""

from __future__ import annotations

import http.client
import json
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.e2e.conditions import wait_until
from tests.e2e.patience import PATIENCE
from tests.e2e.server import Answer, Server, running

SSE = "text/event-stream"
LINES = "application/x-ndjson"


def configured(folder: Path, text: str) -> Server:
    """A server that is not started, with this TOML text as its configuration."""
    path = folder / "pushserver.toml"
    path.write_text(text)
    return Server(folder, "--config", str(path))


def serving(folder: Path, text: str = "[sources]") -> AbstractContextManager[Server]:
    """A running server with this configuration; see `server.running`."""
    return running(configured(folder, text))


def ask(server: Server, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    """Make one request; `_` in the name of a header stands for `-`."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, f"/{path}", body or None, named)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def publish(server: Server, channel: str, data: object) -> Any:
    """Publish a JSON value and return its position."""
    answer = ask(server, "POST", f"channels/{channel}", json.dumps(data).encode())
    assert answer.status == 201, answer
    return json.loads(answer.body)


def history(server: Server, channel: str, query: str = "") -> Any:
    """The history of a channel."""
    answer = server.get(f"channels/{channel}?{query}")
    assert answer.status == 200, answer
    return json.loads(answer.body)


def wait_for_commit(server: Server) -> None:
    """Wait until all publications so far are in the file of the store.

    Only for `batched` durability; with `sync` an acknowledged publication is there.
    """
    none = re.compile(r"^pushserver_store_waiting_publications 0\.0$", re.MULTILINE)
    wait_until(lambda: none.search(server.get("metrics").text))


def data(answer: Any) -> list[Any]:
    """The data of all publications in a history."""
    return [publication["data"] for publication in answer["publications"]]


class Reading:
    """An endless response, read line by line."""

    def __init__(self, server: Server, path: str, accept: str, **headers: str):
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request("GET", f"/{path}", headers={"Accept": accept, **named})
        self._response = self._connection.getresponse()
        assert self._response.status == 200, self._response.read()

    def line(self) -> str:
        """The next line that is not empty; raises EOFError after the last."""
        while True:
            line = self._response.readline()
            if not line:
                raise EOFError
            if line.strip():
                return line.decode().rstrip("\n")

    def object(self) -> Any:
        """The next line as JSON."""
        return json.loads(self.line())

    def block(self) -> dict[str, str]:
        """The next block of an event stream."""
        fields: dict[str, str] = {}
        while True:
            line = self._response.readline().decode()
            if not line:
                raise EOFError
            line = line.rstrip("\n")
            if not line and fields:
                return fields
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
