"""A server whose process has no file left answers on the connections that it has."""

from __future__ import annotations

import http.client
import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.e2e.patience import PATIENCE
from tests.e2e.server import Server, running


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[http.client.HTTPConnection]:
    """A connection to a server that can open no other file."""
    (tmp_path / "push.toml").write_text("[sources]\n")
    with running(Server(tmp_path, "--config", "push.toml")) as server, ExitStack() as stack:
        made = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        stack.enter_context(closing(made))
        made.connect()
        made.request("GET", "/health/live")
        made.getresponse().read()
        files = max(map(int, os.listdir(f"/proc/{server.pid}/fd"))) + 1
        hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (files, hard))
        yield made
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (hard, hard))


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, accept: str = "*/*"
) -> tuple[int, bytes]:
    body = b"1" if method == "POST" else None
    connection.request(method, path, body, {"Accept": accept})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_programs_on_this_machine_are_still_known(
    connection: http.client.HTTPConnection,
) -> None:
    assert ask(connection, "POST", "/channels/a")[0] == 201
    assert ask(connection, "GET", "/status")[0] == 200
    assert ask(connection, "GET", "/channels/a")[0] == 200


def test_files_that_are_needed_for_the_first_time_are_missed_for_a_while(
    connection: http.client.HTTPConnection,
) -> None:
    status, text = ask(connection, "GET", "/metrics")
    assert (status, b"the library for metrics cannot be read now" in text) == (503, True)
    status, text = ask(connection, "GET", "/nothing", "text/html")
    assert (status, b"404" in text) == (404, True)
