"""A restart of the server loses nothing, or the client is told that it did.

The clients of other projects are in tests/peers/test_restart.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.e2e.exchange import LINES, SSE, Reading, data, history, publish, serving
from tests.e2e.lines import Lines
from tests.e2e.programs import PUSHSERVER
from tests.e2e.server import Server
from tests.e2e.sockets import dial, frame

STORE = '[store]\npath = "s.db"\n[sources]'
MEMORY = "[sources]"
TRANSPORTS = ["websocket", "http_stream", "sse"]


@dataclass
class Resumed:
    """The missed and new publications of a reader after a restart, or the reason for a reset."""

    reason: str
    data: list[Any]


def by_sse(server: Server, path: str, cursor: str, count: int) -> Resumed:
    with closing(Reading(server, path, SSE, last_event_id=cursor)) as stream:
        first = stream.block()
        reason = json.loads(first["data"]).get("reason", "")
        assert first["event"] == ("pushserver-reset" if reason else "pushserver-subscribed")
        assert (first["id"] == cursor) is (not reason)
        publish(server, "a", "live")
        return Resumed(reason, [json.loads(stream.block()["data"])["data"] for _ in range(count)])


def by_lines(server: Server, path: str, cursor: str, count: int) -> Resumed:
    sign = "&" if "?" in path else "?"
    with closing(Reading(server, f"{path}{sign}since={cursor}", LINES)) as stream:
        return told(server, stream.object, count)


def by_websocket(server: Server, path: str, cursor: str, count: int) -> Resumed:
    sign = "&" if "?" in path else "?"
    with dial(server, f"{path}{sign}since={cursor}") as client:
        return told(server, lambda: frame(client), count)


def told(server: Server, following: Callable[[], Any], count: int) -> Resumed:
    """Read a stream of objects, which starts with the position in each channel."""
    reason, recovered, note = "", [], following()
    publish(server, "a", "live")
    while "subscribed" in note:
        recovered.append(note["subscribed"]["recovered"])
        note = following()
    if "reset" in note:
        reason, note = note["reset"]["reason"], following()
    assert recovered == [not reason] * len(recovered)
    return Resumed(reason, [note["data"], *(following()["data"] for _ in range(count - 1))])


def by_polling(server: Server, path: str, cursor: str, count: int) -> Resumed:
    found: list[Any] = []
    answer = history(server, "a", f"since={cursor}&wait=10")
    reason, since = answer.get("reason", ""), answer["id"]
    found += data(answer)
    publish(server, "a", "live")
    while len(found) < count:
        answer = history(server, "a", f"since={since}&wait=10")
        found, since = found + data(answer), answer["id"]
    return Resumed(reason, found)


WAYS = [
    pytest.param(by_sse, "channels/a", id="an event stream"),
    pytest.param(by_lines, "channels/a", id="lines"),
    pytest.param(by_websocket, "channels/a", id="a raw WebSocket"),
    pytest.param(by_polling, "channels/a", id="long-poll"),
    pytest.param(by_sse, "events?channel=a&channel=b", id="an event stream of two channels"),
    pytest.param(by_lines, "events?channel=b&channel=a", id="lines of two channels"),
    pytest.param(by_websocket, "events?channel=a&channel=b", id="a raw WebSocket on two channels"),
]


class TestAReaderOf:
    @pytest.fixture(scope="class")
    @classmethod
    def stored(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
        """A restarted server with a store, and the cursor after two of its publications."""
        with serving(tmp_path_factory.mktemp("stored"), STORE) as server:
            publish(server, "a", 1)
            cursor = publish(server, "b", 2)["id"]
            publish(server, "a", 3)
            server.stop()
            server.start()
            publish(server, "b", 4)
            publish(server, "a", 5)
            yield server, cursor

    @pytest.fixture(scope="class")
    @classmethod
    def forgetful(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
        """A restarted server without a store, and a cursor from before."""
        with serving(tmp_path_factory.mktemp("forgetful"), MEMORY) as server:
            cursor = publish(server, "a", 1)["id"]
            server.stop()
            server.start()
            publish(server, "a", 2)
            yield server, cursor

    @pytest.mark.parametrize(("read", "path"), WAYS)
    def test_resumes_at_its_cursor(
        self, stored: tuple[Server, str], read: Callable[..., Resumed], path: str
    ) -> None:
        server, cursor = stored
        missed: list[Any] = [3, 4, 5] if "b" in path else [3, 5]
        lives = data(history(server, "a")).count("live")
        found = read(server, path, cursor, len(missed) + lives + 1)
        assert found == Resumed("", [*missed, *["live"] * (lives + 1)])

    @pytest.mark.parametrize(("read", "path"), WAYS)
    def test_is_reset_when_it_cannot_resume(
        self, forgetful: tuple[Server, str], read: Callable[..., Resumed], path: str
    ) -> None:
        server, cursor = forgetful
        assert read(server, path, cursor, 1) == Resumed("epoch", ["live"])


def test_the_command_line_resumes_by_itself(tmp_path: Path) -> None:
    with serving(tmp_path, STORE) as server:
        publish(server, "a", 1)
        command = [
            *PUSHSERVER,
            "subscribe",
            "a",
            "--url",
            server.url,
            "--last",
            "1",
            "--count",
            "5",
        ]
        with closing(Lines(command)) as program:
            assert json.loads(program.next())["data"] == 1
            publish(server, "a", 2)
            assert json.loads(program.next())["data"] == 2
            server.stop()
            server.start()
            for n in (3, 4, 5):
                publish(server, "a", n)
            assert [json.loads(line)["data"] for line in program.to_the_end()] == [3, 4, 5]
            assert program.wait() == 0


def test_an_eventsource_of_a_browser_resumes_by_itself(tmp_path: Path, browser: Browser) -> None:
    with serving(tmp_path, STORE) as server, browser.new_context() as context:
        page = context.new_page()
        # A page of the same origin without a script.
        page.goto(f"{server.url}static/favicon.svg")
        page.evaluate(LISTEN)
        page.wait_for_function("() => window.opened === 1")
        publish(server, "a", 1)
        page.wait_for_function("() => window.heard.length === 1")
        server.stop()
        server.start()
        for n in (2, 3):
            publish(server, "a", n)
        # A lost stream reconnects after one to four seconds.
        page.wait_for_function("() => window.heard.length === 3")
        publish(server, "a", 4)
        page.wait_for_function("() => window.heard.length === 4")
        assert page.evaluate("window.heard") == [1, 2, 3, 4]
        assert page.evaluate("window.resets") == []


def test_an_eventsource_of_a_browser_is_told_of_a_loss(tmp_path: Path, browser: Browser) -> None:
    with serving(tmp_path, MEMORY) as server, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{server.url}static/favicon.svg")
        page.evaluate(LISTEN)
        # It has no publication yet, but knows its position.
        page.wait_for_function("() => window.opened === 1")
        server.stop()
        server.start()
        page.wait_for_function("() => window.resets.length === 1")
        assert page.evaluate("window.resets") == ["epoch"]
        publish(server, "a", 1)
        page.wait_for_function("() => window.heard.length === 1")


LISTEN = """
    () => {
        window.heard = [];
        window.resets = [];
        window.opened = 0;
        const source = new EventSource('/channels/a');
        source.addEventListener('pushserver-subscribed', () => { window.opened += 1; });
        source.onmessage = event => window.heard.push(JSON.parse(event.data).data);
        source.addEventListener('pushserver-reset',
            event => window.resets.push(JSON.parse(event.data).reason));
    }
"""
