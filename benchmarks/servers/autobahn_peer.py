"""Autobahn on Twisted: a message is prepared once and sent to each client.

usage: autobahn_peer FEED PORT
"""

from __future__ import annotations

import json
import sys
from typing import Any

from autobahn import util
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import reactor as installed

from benchmarks.servers.feed import Feed

# With click, which only the tests need, Autobahn colours debug lines that nobody reads.
util._HAS_CLICK = False

reactor: Any = installed
CLIENTS: set[Client] = set()


class Client(WebSocketServerProtocol):
    """One client; it gets all publications while it is connected."""

    def onOpen(self) -> None:
        # Autobahn 26.10 has code to set it that does not work.
        transport: Any = self.transport
        transport.setTcpNoDelay(True)
        CLIENTS.add(self)

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:
        CLIENTS.discard(self)


def main(feed: Feed, port: int) -> None:
    """Serve and publish."""
    factory = WebSocketServerFactory()
    factory.protocol = Client

    def publish() -> None:
        for _, event in feed.due():
            text = json.dumps(event, separators=(",", ":")).encode()
            message = factory.prepareMessage(text)
            for client in CLIENTS:
                client.sendPreparedMessage(message)
        reactor.callLater(feed.wait(), publish)

    reactor.listenTCP(port, factory, backlog=4096, interface="127.0.0.1")
    publish()
    reactor.run()


main(Feed(sys.argv[1]), int(sys.argv[2]))
