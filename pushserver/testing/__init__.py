"""Tests of applications without sockets, on a clock that the test advances."""

from pushserver.testing.server import (
    Disconnected,
    Publication,
    ServerError,
    TestClient,
    TestServer,
)

__all__ = ["Disconnected", "Publication", "ServerError", "TestClient", "TestServer"]
