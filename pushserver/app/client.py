"""A connected client, as an application's handlers see it."""

from __future__ import annotations

from typing import Any

from pushserver.app.service import Running
from pushserver.channels import jsontext
from pushserver.channels.names import check_event, check_name
from pushserver.protocols import centrifuge
from pushserver.sessions.callbacks import ClientSession


class Client:
    """One connection of the Centrifuge protocol. All of it may be called from any thread.

    In a forked process of the server all that would change something raises NotRunning.

    `id` is unguessable and new for each connection; `state` is for the application, which may
    keep there what it likes.
    """

    def __init__(self, session: ClientSession, running: Running):
        self.id = session.info.client
        self.state: dict[str, Any] = {}
        self._session = session
        self._running = running

    def __repr__(self) -> str:
        return f"<Client {self.id}>"

    @property
    def user(self) -> str:
        """Who it is; empty for somebody who did not say."""
        return self._session.info.user

    @property
    def channels(self) -> frozenset[str]:
        """The channels that it is in; for another thread than the reactor's a moment ago."""
        return self._session.channels

    @property
    def connected(self) -> bool:
        """Whether it is there; not yet in its `connect` handler."""
        return self._session.connected

    def send(self, data: object, event: str = "") -> None:
        """Tell this client alone: its `message` handler gets the data.

        With an event what it gets is `{"event": ..., "data": ...}`. What a `connect` handler
        sends comes as soon as the client is connected. Raises InvalidData for what JSON cannot
        hold. Nothing happens when it is gone.
        """
        text = encoded(data, event)
        self._running.soon(lambda: self._session.message(text))

    def join(self, channel: str) -> None:
        """Put it into the channel, as if it had subscribed itself; raises InvalidName.

        Should it subscribe itself, that takes the place of this.
        In a `connect` handler: from the beginning, and with what it missed when it comes back.
        """
        check_name(channel)
        node = self._running.node
        self._running.soon(lambda: node.run(self._session.invite(channel)))

    def leave(self, channel: str) -> None:
        """Take it out of the channel; nothing happens when it is not in it."""
        check_name(channel)
        self._running.soon(
            lambda: self._session.unsubscribe(
                channel, centrifuge.UNSUBSCRIBED, "taken out by the server"
            )
        )

    def disconnect(self, reason: str = "disconnected by the application", code: int = 4500) -> None:
        """End the connection; from 4500 to 4999 the client does not come back."""
        if not 4000 <= code <= 4999:
            raise ValueError(f"code {code}: expected 4000 to 4999")
        text = str(reason).encode("utf-8", "replace").decode()
        self._running.soon(lambda: self._session.disconnect(code, text))


def encoded(data: object, event: str) -> bytes:
    """The text of something sent; raises InvalidData and InvalidName."""
    return jsontext.encode({"event": check_event(event), "data": data} if event else data)
