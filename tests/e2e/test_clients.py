"""Plain clients, and clients that misbehave; those of other projects are in tests/peers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.e2e.lines import Lines
from tests.e2e.server import Server
from tests.e2e.sockets import CONNECT, closed_with, dial, dial_channel, frame


def number(data: Any) -> float:
    """The number in the data of a publication of the built-in source."""
    value = data["number"]
    assert 0 <= value <= 10
    assert round(value, 3) == value
    return float(value)


def check_publication(publication: dict[str, Any], epoch: str) -> None:
    assert set(publication) == {"channel", "event", "data", "offset", "id", "time"}
    assert publication["channel"] == "numbers"
    assert publication["event"] == "newnumber"
    assert publication["id"].partition(":")[0] == epoch
    assert publication["time"] > 1_700_000_000
    number(publication["data"])


def test_curl_gets_a_stream_of_events(server: Server) -> None:
    url = f"{server.url}channels/numbers"
    accept = "Accept: text/event-stream"
    with closing(Lines(["curl", "-sSNi", "-H", accept, url])) as curl:
        assert curl.next() == "HTTP/1.1 200 OK"
        headers = dict(
            line.lower().split(": ", 1) for line in itertools.takewhile(bool, lines(curl))
        )
        assert headers["content-type"].startswith("text/event-stream")
        assert headers["cache-control"] == "no-store"
        assert "accept" in headers["vary"]
        assert next_event(curl)["event"] == "pushserver-subscribed"
        for _ in range(2):
            block = next_event(curl)
            publication = json.loads(block["data"])
            assert block["id"] == publication["id"]
            check_publication(publication, publication["id"].partition(":")[0])


def lines(program: Lines) -> Iterator[str]:
    while True:
        yield program.next()


def next_event(curl: Lines) -> dict[str, str]:
    """The fields of the next block of an event stream that has data."""
    while True:
        block = dict(
            line.split(": ", 1)
            for line in itertools.takewhile(bool, lines(curl))
            if not line.startswith(":")
        )
        if "data" in block:
            return block


class TestBadFrames:
    """Each gets a close code with a reason, and disturbs no other client."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _bystander(cls, server: Server) -> Iterator[None]:
        with dial_channel(server) as (bystander, begin):
            yield
            top = server.get("channels/numbers")
            heard = [frame(bystander)["offset"]]
            while heard[-1] <= json.loads(top.body)["offset"]:
                heard.append(frame(bystander)["offset"])
        assert heard == list(range(heard[0], heard[-1] + 1))
        assert heard[0] <= begin["offset"] + 1
        assert server.problems == []

    @pytest.mark.parametrize(
        ("frames", "code"),
        [
            pytest.param(["no JSON"], 3501, id="not JSON"),
            pytest.param(["[1]"], 3501, id="not an object"),
            pytest.param(["7"], 3501, id="a number"),
            pytest.param(['{"id":1}'], 3501, id="no method"),
            pytest.param(['{"id":"one","connect":{}}'], 3501, id="a field of another type"),
            pytest.param(['{"id":1,"subscribe":{"channel":"a"}}'], 3501, id="not connect first"),
            pytest.param([CONNECT, CONNECT], 3501, id="connect twice"),
            pytest.param([CONNECT, b"\x00\x01"], 3501, id="binary"),
            pytest.param([CONNECT, "x" * 70_000], 1009, id="too large"),
        ],
    )
    def test_on_the_centrifuge_protocol(
        self, server: Server, frames: list[str | bytes], code: int
    ) -> None:
        self.is_closed(server, "connection/websocket", frames, code)

    @pytest.mark.parametrize(
        ("frames", "code"),
        [
            pytest.param([b"\x00\x01"], 1003, id="binary"),
            pytest.param(["x" * 70_000], 1009, id="too large"),
        ],
    )
    def test_on_a_raw_websocket(self, server: Server, frames: list[str | bytes], code: int) -> None:
        self.is_closed(server, "channels/numbers", frames, code)

    @staticmethod
    def is_closed(server: Server, path: str, frames: list[str | bytes], code: int) -> None:
        with dial(server, path) as client:
            for content in frames:
                client.send(content)
            close = closed_with(client)
        assert close.code == code
        assert close.reason
        assert_reason_is_no_json(close.reason)


def assert_reason_is_no_json(reason: str) -> None:
    """The JavaScript client treats a reason that is JSON in another way."""
    with pytest.raises(ValueError, match=r"Expecting value|Extra data"):
        json.loads(reason)


@pytest.mark.parametrize("name", ["%20", "-a", "a%20b", "a%2Fb", "x" * 129, "%C3%A9"])
def test_an_invalid_channel_name_is_400_with_the_rule(server: Server, name: str) -> None:
    answer = server.get(f"channels/{name}")
    assert answer.status == 400
    assert "1 to 128 characters" in answer.text


@pytest.mark.parametrize("path", ["static/../setup.py", "static/%2e%2e/setup.py", "static/", "x"])
def test_a_missing_resource_is_404(server: Server, path: str) -> None:
    assert server.get(path).status == 404
