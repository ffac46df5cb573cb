"""permessage-deflate with the websockets library and with Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.e2e.exchange import publish, serving
from tests.e2e.server import Server
from tests.e2e.sockets import dial, frame

pytestmark = pytest.mark.slow

TEXT = "again and " * 40


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path, "[server]\ncompress = true\n[sources]") as server:
        yield server


def test_a_library_negotiates_compression_and_reads_it(server: Server) -> None:
    with dial(server, "channels/numbers") as client:
        assert client.response is not None
        agreed = client.response.headers["Sec-WebSocket-Extensions"]
        assert agreed.startswith("permessage-deflate; server_no_context_takeover")
        frame(client)
        for number in range(3):
            publish(server, "numbers", {"number": number, "text": TEXT})
            assert frame(client)["data"] == {"number": number, "text": TEXT}


def test_chromium_negotiates_compression_in_both_directions(
    server: Server, browser: Browser
) -> None:
    page = browser.new_page()
    page.goto(server.url)
    page.evaluate(
        """() => new Promise((resolve) => {
            window.texts = [];
            window.socket = new WebSocket(`ws://${location.host}/connection/websocket`);
            socket.onmessage = (event) => texts.push(...event.data.split("\\n"));
            socket.onopen = () => {
                const data = "x".repeat(500);
                socket.send(JSON.stringify({id: 1, connect: {data}}) + "\\n"
                    + JSON.stringify({id: 2, subscribe: {channel: "numbers"}}));
                resolve();
            };
        })"""
    )
    assert page.evaluate("socket.extensions").startswith("permessage-deflate")
    page.wait_for_function("() => texts.length >= 2")
    publish(server, "numbers", {"text": TEXT})
    page.wait_for_function("() => texts.length >= 3")
    told = [json.loads(text) for text in page.evaluate("texts")]
    assert [value.get("id") for value in told] == [1, 2, None]
    assert told[2]["push"]["pub"]["data"] == {"text": TEXT}
    page.close()
