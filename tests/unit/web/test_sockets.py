from __future__ import annotations

import socket

from twisted.internet.testing import StringTransport

from pushserver.web.sockets import drop


class Transport(StringTransport):
    """A transport over a real socket, or without one."""

    def __init__(self, connected: socket.socket | None = None):
        super().__init__()
        self.socket = connected
        self.aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname(), 5)
        return client, server.accept()[0]


def test_peer_notices_the_drop_while_a_fork_has_a_copy_of_the_socket() -> None:
    client, connected = pair()
    with client, connected, connected.dup():
        transport = Transport(connected)
        drop(transport)
        connected.close()
        assert transport.aborted
        assert client.recv(1) == b""


def test_transport_whose_socket_is_gone_and_one_without_a_socket_are_dropped() -> None:
    client, connected = pair()
    client.close()
    connected.close()
    for transport in (Transport(connected), Transport()):
        drop(transport)
        assert transport.aborted
