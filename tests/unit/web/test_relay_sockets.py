"""Requests relayed over a real Unix socket."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as installed
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from pushserver.auth.proxies import Proxies
from pushserver.config.limits import Limits
from pushserver.web.proxied import ProxiedFactory
from pushserver.web.relay import Relay
from tests.unit.fakes.remote import RemoteCase
from tests.unit.fakes.web import Server, Trouble, request

reactor: Any = installed


class Echo(Resource):
    """Answers with the body of the request, and with the address of its client."""

    isLeaf = True

    def render_POST(self, request: Request) -> bytes:
        address: Any = request.getClientAddress()
        request.setHeader(b"x-client", f"{address.host}:{address.port}".encode())
        content: Any = request.content
        body: bytes = content.read()
        return body


class TestOverAUnixSocket(RemoteCase):
    """An edge in memory, whose relay uses the real reactor."""

    @pytest.fixture(autouse=True)
    def _with_trouble(self, trouble: Trouble) -> None:
        self.trouble = trouble

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "author")
        self.edge = Server(Limits(body_bytes=5_000_000), shortcuts=False)
        self.relay = Relay(str(self.path), reactor, reactor.seconds)
        self.edge.site.resource = self.relay

    def listen(self) -> None:
        site: Any = Site(Echo(), reactor=reactor)
        site.log = lambda request: None
        proxies = Proxies.of(["unix"])
        factory = ProxiedFactory(
            site, lambda: proxies, reactor, reactor.seconds, lambda: 5, of_processes=True
        )
        port = reactor.listenUNIX(str(self.path), factory)
        self.addCleanup(port.stopListening)

    async def answered(self) -> None:
        """Wait until no request waits for its answer."""
        while self.relay.waiting:
            await deferLater(reactor, 0)

    async def _long(self) -> None:
        self.listen()
        body = bytes(range(256)) * 16_000
        client = self.edge.open("/x", "POST", body)
        client.reading = False
        while client.unread <= 65_536:
            await deferLater(reactor, 0)
        for _ in range(50):
            await deferLater(reactor, 0)
        # More than a socket and one read hold still waits there.
        assert client.unread < 500_000
        assert self.relay.waiting
        client.read()
        client.settle()
        await self.answered()
        answer = client.response()
        assert answer.body == body
        assert answer["x-client"] == "127.0.0.1:50000"

    def test_long_body_goes_both_ways_at_the_pace_of_the_client(self) -> Any:
        return self.start(self._long())

    async def _refused(self) -> None:
        for _ in range(2):
            client = self.edge.open("/x", "POST", b"1")
            await self.answered()
            assert client.response().status == 503
            # The file of a process that has ended; no file before.
            if not self.path.exists():
                with socket.socket(socket.AF_UNIX) as old:
                    old.bind(str(self.path))
        self.trouble.clear()

    def test_process_that_is_away_or_has_ended_is_503(self) -> Any:
        return self.start(self._refused())

    async def _full(self) -> None:
        with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as other:
            busy.bind(str(self.path))
            busy.listen(0)
            other.connect(str(self.path))
            client = self.edge.open("/x", "POST", b"1")
            await self.answered()
            assert client.response().status == 503
        self.trouble.clear()

    def test_full_queue_of_connections_is_503(self) -> Any:
        return self.start(self._full())

    async def _gone(self) -> None:
        with socket.socket(socket.AF_UNIX) as slow:
            slow.bind(str(self.path))
            slow.listen()
            client = self.edge.connect()
            client.send(request("/x", "POST", b"1"))
            await deferLater(reactor, 0)
            client.vanish()
            await self.answered()
            other, _ = slow.accept()
            other.settimeout(10)
            with other:
                while other.recv(4_096):
                    pass

    def test_end_of_the_client_ends_the_connection(self) -> Any:
        return self.start(self._gone())
