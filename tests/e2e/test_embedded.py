"""examples/embedded.py: a Twisted program that contains the server."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.conditions import answers, wait_until
from tests.e2e.follower import NO_ICON
from tests.e2e.lines import Lines
from tests.e2e.patience import PATIENCE
from tests.e2e.server import CHECKOUT, PROBLEM, TWISTD, environment, free_port, get
from tests.e2e.test_browser import state
from tests.e2e.visits import Visits
from tests.e2e.watcher import NODE

EXAMPLE = CHECKOUT / "examples" / "embedded.py"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of the program, which must end in order and without a problem in its log."""
    port = free_port()
    text = EXAMPLE.read_text("utf-8")
    [command] = re.findall(r"(twistd -n -y \S+) \(in this folder\)", text)
    (tmp_path / "embedded.py").write_text(text.replace("tcp:8081", f"tcp:{port}"))
    with (tmp_path / "log").open("wb") as log:
        program = subprocess.Popen(
            [*TWISTD, "--pidfile=", *command.split()[1:]],
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: answers(port))
        yield port
        program.terminate()
        assert program.wait(PATIENCE) == -signal.SIGTERM
    finally:
        program.kill()
        program.wait()
    said = (tmp_path / "log").read_text()
    assert [line for line in said.splitlines() if PROBLEM.search(line)] == []


def test_the_embedded_server_serves_pages_and_clients(port: int, browser: Browser) -> None:
    page = get(port, "").text
    assert page == 'Somebody visited. <a href="push/channels/visits">Watch.</a>'
    visits = Visits(browser, f"http://127.0.0.1:{port}/")
    live = visits.open()
    live.click("text=Watch.")
    state(live, "live")
    command = ["node", "watch.mjs", f"http://127.0.0.1:{port}/push/", "websocket", "visits"]
    with closing(Lines(command, folder=NODE)) as client:
        while "subscribed" not in client.next():
            pass
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", "/")
        connection.getresponse().read()
        connection.close()
        while '"publication"' not in (line := client.next()):
            pass
    assert '"visits":' in line
    expect(live.locator("#list li.newest")).to_contain_text("visits")
    visits.close()
    visits.allow(NO_ICON)
    assert visits.problems == []
