"""Clients of Server-Sent Events and of raw WebSockets, and the habits of their users."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.e2e.exchange import SSE, ask, history, publish
from tests.e2e.lines import Lines
from tests.e2e.server import Server
from tests.peers.readers import READERS, READERS_OF_FRAMES, READERS_OF_SSE, Readers

VALUES: list[Any] = [
    "Grüße, 日本 🎉",
    "a\nb\r\nc\rd",
    "\u2028 and \u2029",
    "\x00\x1f\x7f\x85",
    "id: 7\n\ndata: no",
    ":",
    "",
    None,
    [],
    0.1,
    {"deep": {"er": [1, {"x": " leading and trailing "}]}},
    "x" * 300_000,
]
"""Values that are hard to frame, the last one in several packets."""


@pytest.fixture(scope="module")
def heard(server: Server) -> Iterator[dict[str, list[tuple[str, Any]]]]:
    """All events of each client: VALUES with heartbeats between them."""
    with closing(Readers(server, "channels/values")) as readers:
        for name in READERS:
            readers.next(name, "begin")
        for value in VALUES[:3]:
            publish(server, "values", value)
        wait_for_heartbeats(server)
        for value in VALUES[3:]:
            publish(server, "values", value)
        wait_for_heartbeats(server)
        publish(server, "values", "end")
        yield {name: readers.until(name, "end")[:-1] for name in READERS}


def wait_for_heartbeats(server: Server) -> None:
    """Wait for two heartbeats of a stream that began now."""
    url = f"{server.url}channels/quiet"
    with closing(Lines(["curl", "-sSN", "-m60", "-H", f"Accept: {SSE}", url])) as curl:
        for _ in range(2):
            while not curl.next(60).startswith(":"):
                pass


@pytest.mark.parametrize("client", READERS)
class TestAllReaders:
    def test_get_each_value_as_it_was_published(
        self, heard: dict[str, list[tuple[str, Any]]], client: str
    ) -> None:
        assert [content["data"] for _, content in heard[client]] == VALUES
        assert [content["offset"] for _, content in heard[client]] == list(
            range(1, len(VALUES) + 1)
        )

    def test_get_no_event_without_data(
        self, heard: dict[str, list[tuple[str, Any]]], client: str
    ) -> None:
        """Neither from heartbeats nor from the first block of a stream; see `Readers.any`."""
        assert {kind for kind, _ in heard[client]} == {"publication"}


class TestAReaderThatComesBack:
    """By an id that its user kept."""

    CLIENTS = (*READERS_OF_SSE, *READERS_OF_FRAMES)

    @pytest.fixture(scope="class")
    @classmethod
    def resumed(cls, server: Server) -> Iterator[Readers]:
        ids = [publish(server, "kept", n)["id"] for n in range(4)]
        with closing(Readers(server, "channels/kept", cls.CLIENTS, last=ids[1])) as readers:
            yield readers

    @pytest.fixture(scope="class")
    @classmethod
    def gapped(cls, server: Server) -> Iterator[Readers]:
        ids = [publish(server, "short", n)["id"] for n in range(4)]
        with closing(Readers(server, "channels/short", cls.CLIENTS, last=ids[0])) as readers:
            yield readers

    @pytest.mark.parametrize("client", CLIENTS)
    def test_gets_the_publications_after_it(self, resumed: Readers, client: str) -> None:
        events = resumed.until(client, 3)
        assert "reset" not in [kind for kind, _ in events]
        assert [row["data"] for kind, row in events if kind == "publication"] == [2, 3]

    @pytest.mark.parametrize("client", CLIENTS)
    def test_is_told_of_a_gap(self, gapped: Readers, client: str) -> None:
        assert gapped.next(client, "reset")["reason"] == "evicted"


def events_of(server: Server, path: str, *arguments: str) -> Iterator[dict[str, str]]:
    """The blocks of an event stream by curl, without those that have no data."""
    command = ["curl", "-sSN", "-m60", "-H", f"Accept: {SSE}", *arguments, f"{server.url}{path}"]
    with closing(Lines(command)) as curl:
        while True:
            lines = itertools.takewhile(bool, iter(lambda: curl.next(60), None))
            block = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
            if "data" in block:
                yield block


class TestHowAnIdIsGiven:
    def test_the_header_wins_over_the_query(self, server: Server) -> None:
        """A browser's EventSource keeps the URL with its old query, and sends the newer header."""
        ids = [publish(server, "ways", n)["id"] for n in range(3)]
        header = ["-H", f"Last-Event-ID: {ids[1]}"]
        for query in (f"since={ids[0]}", f"lastEventId={ids[0]}", "since=oldest", "last=3"):
            stream = events_of(server, f"channels/ways?{query}", *header)
            assert next(stream)["event"] == "pushserver-subscribed"
            assert json.loads(next(stream)["data"])["data"] == 2, query

    @pytest.mark.parametrize("name", ["since", "lastEventId"])
    def test_by_each_name_in_the_query(self, server: Server, name: str) -> None:
        channel = f"query.{name}"
        ids = [publish(server, channel, n)["id"] for n in range(3)]
        stream = events_of(server, f"channels/{channel}?{name}={ids[1]}")
        next(stream)
        assert json.loads(next(stream)["data"])["data"] == 2


@pytest.mark.parametrize("coding", ["gzip", "gzip, deflate, br, zstd", "identity", "*"])
@pytest.mark.parametrize("accept", [SSE, "application/x-ndjson", "application/json"])
def test_client_that_accepts_compressed_answers_gets_plain_ones(
    server: Server, accept: str, coding: str
) -> None:
    """So that none waits for a compressor; `requests` and `httpx` ask for gzip by default."""
    publish(server, "coded", 1)
    headers = ["-H", f"Accept: {accept}", "-H", f"Accept-Encoding: {coding}"]
    url = f"{server.url}channels/coded?last=1"
    with closing(Lines(["curl", "-sSNi", "-m60", *headers, url])) as curl:
        head = list(itertools.takewhile(bool, iter(curl.next, None)))
        assert head[0] == "HTTP/1.1 200 OK"
        assert not [line for line in head if line.lower().startswith("content-encoding")]
        while '"data":1' not in curl.next():
            pass


def test_since_an_id_of_the_past_and_of_another_server(server: Server) -> None:
    first = publish(server, "since", 1)["id"]
    publish(server, "since", 2)
    assert [row["data"] for row in history(server, "since", f"since={first}")["publications"]] == [
        2
    ]
    assert history(server, "since", "since=00000000:1")["reason"] == "epoch"
    assert ask(server, "GET", "channels/since?since=1").status == 400
