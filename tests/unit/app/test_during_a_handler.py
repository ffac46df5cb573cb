"""A right that ends while a handler of the application runs does not outlast the handler."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver.config.limits import Limits
from pushserver.config.settings import Auth
from pushserver.server.embedding import PushServer
from tests.unit.fakes.tokens import SECRET, of_user, token
from tests.unit.fakes.web import Socket
from tests.unit.server.test_live import Reloaded, config

TOKENS = Auth(token_secret=SECRET)
SHUT = f"[auth]\ntoken_secret = '{SECRET}'\n[channels.a]\n"


def bearer() -> str:
    return f"Bearer {token(of_user(seconds=1e9))}"


class Site:
    """A server whose handlers of one event wait until the test lets them return."""

    def __init__(self, event: str):
        app = PushServer()
        self.waiting: list[Deferred[None]] = []

        @app.on(event, thread=False)
        async def wait(client: Any, channel: Any = None) -> None:
            self.waiting.append(Deferred())
            await self.waiting[-1]

        self.server = Reloaded(config(auth=TOKENS), app=app)
        assert self.server.service._app is not None
        self.server.service._app.startService()

    def end(self) -> None:
        """Let the handler return."""
        self.waiting.pop(0).callback(None)
        self.server.clock.advance(0)

    @property
    def published(self) -> int:
        """The number of publications in the channel a."""
        return len(self.server.node.history.channels.get("a", ()))


def socketio(site: Site) -> Socket:
    return site.server.websocket("/socket.io/?EIO=4&transport=websocket", authorization=bearer())


class TestAReload:
    def test_ends_a_subscription_that_waits_for_its_handler(self) -> None:
        site = Site("subscribe")
        socket = site.server.session()
        socket.say({"id": 2, "subscribe": {"channel": "a"}})
        site.server.reload(SHUT + "subscribe = 'key'")
        site.end()
        assert socket.texts()[0]["error"]["code"] == 103
        site.server.publish("a")
        assert socket.take() == []

    def test_ends_a_namespace_that_waits_for_its_handler(self) -> None:
        site = Site("subscribe")
        socket = socketio(site)
        socket.say(b"40/a,")
        site.server.reload(SHUT + "subscribe = 'key'")
        site.end()
        [answer] = socket.take()
        assert answer.payload.startswith(b"44/a,")
        site.server.publish("a")
        assert socket.take() == []

    @pytest.mark.parametrize("method", ["history", "presence", "presence_stats"])
    def test_forbids_an_answer_that_waits_for_the_handler(self, method: str) -> None:
        site = Site("subscribe")
        site.server.publish("a", "secret")
        socket = site.server.session()
        socket.say({"id": 2, method: {"channel": "a"}})
        site.server.reload(SHUT + "subscribe = 'nobody'")
        site.end()
        assert socket.texts()[0]["error"]["code"] == 103

    def test_forbids_a_publication_that_waits_for_its_handler(self) -> None:
        site = Site("publish")
        socket = site.server.session()
        socket.say({"id": 2, "publish": {"channel": "a", "data": 1}})
        site.server.reload(SHUT + "publish = 'nobody'")
        site.end()
        assert socket.texts()[0]["error"]["code"] == 103
        assert site.published == 0

    @pytest.mark.parametrize(
        "change", [SHUT + "publish = 'nobody'", f"[auth]\ntoken_secret = 'another {SECRET}'"]
    )
    def test_forbids_a_post_that_waits_for_its_handler(self, change: str) -> None:
        site = Site("publish")
        line = site.server.open("/channels/a", "POST", b"1", authorization=bearer())
        site.server.reload(change)
        site.end()
        assert line.response("POST").status in (401, 403)
        assert site.published == 0

    def test_forbids_the_rest_of_the_lines_of_a_body(self) -> None:
        site = Site("publish")
        line = site.server.open(
            "/channels/a",
            "POST",
            b"1\n2\n3\n",
            authorization=bearer(),
            content_type="application/x-ndjson",
        )
        site.end()
        site.server.reload(SHUT + "publish = 'nobody'")
        site.end()
        answer = line.response("POST")
        assert (answer.status, answer.json["published"], answer.json["line"]) == (403, 1, 2)

    def test_forbids_the_lines_that_wait_for_the_rate_of_their_key(self) -> None:
        limits = Limits(exempt_networks=[], key_publications_per_second=20)
        server = Reloaded(config(auth=Auth(api_keys=["the old key"]), limits=limits))
        given = {"x_api_key": "the old key", "content_type": "application/x-ndjson"}
        line = server.open("/channels/a", "POST", b"1\n" * 1_000, **given)
        server.advance(3)
        server.reload(auth=Auth(api_keys=["the new key"]), limits=limits)
        server.advance(30)
        answer = line.response("POST")
        assert answer.status == 401
        assert answer.json["error"]["message"].endswith(
            "the API key was removed from the configuration"
        )
        assert 0 < answer.json["published"] < 1_000


class TestTheServerApi:
    @pytest.mark.parametrize(
        ("method", "fields"), [("disconnect", b""), ("refresh", b',"expired":true')]
    )
    def test_ends_a_client_that_connects(self, method: str, fields: bytes) -> None:
        site = Site("connect")
        socket = site.server.websocket("/connection/websocket", authorization=bearer())
        socket.say({"id": 1, "connect": {}})
        call = b'{"user":"42"%s}' % fields
        assert site.server.get(f"/api/{method}", "POST", call).json == {"result": {}}
        site.end()
        assert socket.close()[0] in (3005, 3503)

    def test_ends_a_namespace_that_connects(self) -> None:
        site = Site("connect")
        socket = socketio(site)
        socket.say(b"40/a,")
        site.server.get("/api/disconnect", "POST", b'{"user":"42"}')
        site.end()
        assert not any(b'"sid"' in frame.payload for frame in socket.take())

    def test_leaves_a_client_of_another_user_alone(self) -> None:
        site = Site("connect")
        socket = site.server.websocket("/connection/websocket", authorization=bearer())
        socket.say({"id": 1, "connect": {}})
        site.server.get("/api/disconnect", "POST", b'{"user":"43"}')
        site.end()
        assert "connect" in socket.texts()[0]
