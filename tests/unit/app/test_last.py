from __future__ import annotations

from typing import Any

import pytest

from pushserver import InvalidName, NotRunning, PushServer
from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.testing import TestServer


@pytest.fixture
def app() -> PushServer:
    return PushServer()


def published(server: TestServer, *values: object) -> None:
    for value in values:
        server.publish("votes", value, event="vote")


class TestLast:
    def test_gives_a_thread_the_newest_publications(self, app: PushServer) -> None:
        app.on("read")(lambda client, count: [row.data for row in app.last("votes", count)])
        with TestServer(app) as server:
            published(server, *range(12))
            client = server.connect()
            assert client.rpc("read", 2) == [10, 11]
            assert client.rpc("read", 0) == []
            assert client.rpc("read", 100) == [*range(12)]
            [row] = app.last("votes", 1)
            assert (row.channel, row.event, row.offset, row.tags) == ("votes", "vote", 12, {})
            assert app.last("nothing") == []
            assert len(app.last("votes")) == 10

    def test_is_awaited_in_a_coroutine(self, app: PushServer) -> None:
        @app.on("read")
        async def read() -> list[Any]:
            return [row.data for row in await app.last("votes", 2)]

        with TestServer(app) as server:
            published(server, 1, 2, 3)
            assert server.connect().rpc("read") == [2, 3]

    @pytest.mark.parametrize("count", [-1, 21, True, 1.0, "1", None])
    def test_has_a_bound(self, app: PushServer, count: Any) -> None:
        with TestServer(app, Config(limits=Limits(read_limit=20))):
            assert app.last("votes", 20) == []
            with pytest.raises(ValueError, match=rf"count is {count!r}, expected 0 to 20"):
                app.last("votes", count)

    def test_needs_a_name_and_a_server(self, app: PushServer) -> None:
        with TestServer(app), pytest.raises(InvalidName):
            app.last("no channel")
        with pytest.raises(NotRunning):
            app.last("votes")

    def test_is_there_for_the_start_handler(self, app: PushServer) -> None:
        seen: list[Any] = []
        app.on("start")(lambda: seen.append(app.last("votes")))
        with TestServer(app):
            assert seen == [[]]
