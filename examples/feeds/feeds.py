"""A monitor of feeds and event streams. README.md in this folder has the command that runs it."""

import json
import os
from pathlib import Path
from urllib.parse import urlsplit

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import DeferredQueue, TimeoutError
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.ssl import optionsForClientTLS

from pushserver import PushServer
from pushserver.sources.interface import SourceFailed

PRICES = os.environ.get("PRICES_URL", "ws://127.0.0.1:8081/prices")
SILENCE_SECONDS = 60

app = PushServer(pages=Path(__file__).parent / "pages")


# Feeds, SSE and lines of JSON need no Python: feeds.toml has them.
@app.source("prices", event="price")
async def prices(feed):
    await follow(feed, PRICES)


class Follower(WebSocketClientProtocol):
    def onMessage(self, payload, isBinary):
        # More than 1,000 that wait are an error, which ends the connection.
        self.factory.messages.put(payload)

    def onClose(self, wasClean, code, reason):
        self.factory.messages.put(None)


async def follow(feed, url):
    """Publish each message of a WebSocket, until it fails; then the server calls it again."""
    factory = WebSocketClientFactory(url)
    factory.noisy = False  # no line in the log for each connection
    factory.protocol = Follower
    factory.messages = DeferredQueue(size=1000)
    factory.setProtocolOptions(maxMessagePayloadSize=65536, openHandshakeTimeout=10)
    try:
        connection = await endpoint_of(feed.reactor, url).connect(factory)
    except (ConnectError, DNSLookupError) as error:
        raise SourceFailed(f"no connection: {error}") from None
    try:
        while message := await factory.messages.get().addTimeout(SILENCE_SECONDS, feed.reactor):
            try:
                data = json.loads(message)
            except ValueError as error:
                feed.trouble(f"a message is not JSON: {error}")
            else:
                await feed.publish(data)
        raise SourceFailed("the other server closed the WebSocket")
    except TimeoutError:
        raise SourceFailed(f"no message in {SILENCE_SECONDS} s") from None
    finally:
        connection.transport.abortConnection()


def endpoint_of(reactor, url):
    parts = urlsplit(url)
    if parts.scheme != "wss":
        return HostnameEndpoint(reactor, parts.hostname, parts.port or 80)
    endpoint = HostnameEndpoint(reactor, parts.hostname, parts.port or 443)
    return wrapClientTLS(optionsForClientTLS(parts.hostname), endpoint)
