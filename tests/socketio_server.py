"""The server that the test suites of the protocols Engine.IO and Socket.IO expect.

usage: python -m tests.socketio_server [PORT]

It has an echo at `/engine.io/`; at `/socket.io/` the namespaces `/` and `/custom`, which send the
`auth` of each client back, and echo `message` and `message-with-ack`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.web.server import Request

from pushserver import Client, PushServer
from pushserver.channels.channel import ChannelOptions
from pushserver.config.limits import Limits
from pushserver.config.settings import Config, SocketIO
from pushserver.config.settings import Server as ServerConfig
from pushserver.hub.fanout import Timer
from pushserver.protocols.socketio_formats import EngineFormat
from pushserver.resources.socketio import SocketIOResource
from pushserver.server.build import build
from pushserver.server.service import PushService
from pushserver.sessions.base import Transport
from pushserver.sessions.engine import Engine

PORT = 3_000
PING_SECONDS, PONG_SECONDS = 0.3, 0.2
AUTH_SECONDS = 0.02
"""The suites wait for one message and then for the next, and miss one that came together with the
first: `ws` reports both in one turn, except in some versions (all of 8.14)."""


class Echo(Engine[Any]):
    """Sends each message back."""

    def message(self, text: bytes) -> None:
        self.send_message(text)

    def binary_message(self, data: bytes) -> None:
        self.send(self.format.binary_frame(data))


class EchoResource(SocketIOResource):
    """A client of Engine.IO alone."""

    def session_maker(
        self, request: Request, upgrades: Sequence[str] = ()
    ) -> Callable[[Transport[EngineFormat]], Any]:
        node = self.context.node
        return lambda transport: Echo(node, transport, None, upgrades)


def make_app(timer: Timer | None = None) -> PushServer:
    """With a timer, `auth` is sent `AUTH_SECONDS` after the answer to the CONNECT."""
    app = PushServer()

    @app.on("connect", thread=False)
    def connect(client: Client, auth: Any) -> None:
        if timer is None:
            client.send(auth or {}, event="auth")
        else:
            timer.callLater(AUTH_SECONDS, lambda: client.send(auth or {}, event="auth"))

    @app.on("message", thread=False)
    def message(client: Client, data: Any) -> None:
        client.send(data, event="message-back")

    @app.on("message-with-ack", thread=False)
    def acknowledge(client: Client, data: Any) -> Any:
        return data

    return app


def make_config(listen: Sequence[str] = ()) -> Config:
    return Config(
        server=ServerConfig(listen=list(listen)),
        limits=Limits(
            ping_seconds=PING_SECONDS,
            dead_seconds=PONG_SECONDS,
            connect_seconds=1.0,
            frame_bytes=1_000_000,
        ),
        defaults=ChannelOptions(subscribe="nobody"),
        channels={"custom": {"subscribe": "anyone"}},
        sources={},
    )


def add_echo(service: PushService) -> None:
    """Serve the echo of Engine.IO."""
    resources = service._site.resource
    found = resources.children[b"socket.io"]
    resources.putChild(b"engine.io", EchoResource(found.context, found.pollings, {}, SocketIO()))


def main() -> None:
    from twisted.internet import reactor

    port = int(sys.argv[1]) if len(sys.argv) > 1 else PORT
    config = make_config([f"tcp:{port}:interface=localhost"])
    service = build(config, cast(Any, reactor), app=make_app(cast(Any, reactor)))
    add_echo(service)
    service.startService()
    cast(Any, reactor).run()


if __name__ == "__main__":
    main()
