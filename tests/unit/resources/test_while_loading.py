"""A right that ends while the channels of a request are loaded does not outlast that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from pushserver.config.settings import Auth, KeySettings
from pushserver.errors import Unavailable
from tests.unit.fakes.tokens import SECRET, of_user, token
from tests.unit.fakes.web import Line, handshake, patched
from tests.unit.server.test_live import Reloaded, config

KEY = "correct-horse-battery-staple"
AUTH = f"[auth]\ntoken_secret = '{SECRET}'\napi_keys = ['{KEY}']\n"
CHANNELS = "[channels.a]\n[channels.b]\n"
BEARER = f"Bearer {token(of_user('ann', seconds=1e9))}"
SSE, LINES = "text/event-stream", "application/x-ndjson"
DOORS: dict[str, tuple[str, dict[str, str]]] = {
    "sse": ("/channels/a", {"accept": SSE}),
    "lines": ("/channels/a", {"accept": LINES}),
    "websocket": ("/channels/a", handshake()),
    "events": ("/events?channel=b&channel=a", {"accept": SSE}),
    "events-websocket": ("/events?channel=b&channel=a", handshake()),
    "history": ("/channels/a", {"accept": "application/json"}),
    "long-poll": ("/channels/a?wait=60&since=now", {"accept": "application/json"}),
}
CHANGES = {
    "rule": AUTH + "[channels.a]\nsubscribe = 'nobody'\n[channels.b]",
    "secret": AUTH.replace(SECRET, f"another {SECRET}") + CHANNELS,
}


class Site(Reloaded):
    """A server whose channels are loaded when the test lets them be."""

    def __init__(self, auth: Auth | None = None) -> None:
        super().__init__(config(auth=auth or Auth(token_secret=SECRET, api_keys=[KEY])))
        self.waiting: list[Deferred[None]] = []

        async def load(names: Sequence[str], fresh: bool = False) -> None:
            self.waiting.append(Deferred())
            await self.waiting[-1]

        self.hub._load = load
        patched(self.node, "load", load)
        patched(self.node, "has", lambda names: False)

    def loaded(self) -> None:
        while self.waiting:
            self.waiting.pop().callback(None)
            self.clock.advance(0)

    def call(self, method: str, body: bytes) -> None:
        answer = self.get(f"/api/{method}", "POST", body, x_api_key=KEY)
        assert answer.json == {"result": {}}


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture(params=DOORS)
def line(request: Any, site: Site) -> Line:
    path, fields = DOORS[request.param]
    line = site.open(path, **fields, authorization=BEARER)
    assert len(site.waiting) == 1
    assert line.take() == b""
    return line


class TestAReload:
    @pytest.mark.parametrize("change", CHANGES)
    def test_that_ends_the_right_refuses_the_request(
        self, site: Site, line: Line, change: str
    ) -> None:
        site.reload(CHANGES[change])
        site.loaded()
        expected = 403 if change == "rule" else 401
        assert line.take().startswith(b"HTTP/1.1 %d " % expected)
        site.publish("a", "secret")
        site.clock.advance(0)
        assert b"secret" not in line.take()
        assert site.hub.channels() == {}
        line.vanish()
        assert site.is_empty()

    def test_of_something_else_leaves_it_alone(self, site: Site, line: Line) -> None:
        site.publish("a", "earlier")
        site.reload(AUTH + CHANNELS + "[limits]\nchannels = 99")
        site.loaded()
        taken = line.take()
        site.publish("a", "secret")
        site.clock.advance(0)
        assert b"earlier" in taken or b"secret" in line.take()
        line.vanish()

    def test_that_takes_the_scope_from_a_key_counts(self) -> None:
        site = Site(Auth(keys={"k": KeySettings(KEY, may=["read", "publish"])}))
        lines = [
            site.open(path, **fields, x_api_key=KEY)
            for path, fields in (DOORS["sse"], DOORS["history"])
        ]
        rules = "[channels.a]\nsubscribe = 'key'\nhistory = 'key'"
        site.reload(f"[auth.keys.k]\nkey = '{KEY}'\nmay = ['publish']\n{rules}")
        site.loaded()
        for line in lines:
            assert b"HTTP/1.1 403 " in line.take()


class TestTheServerApi:
    @pytest.mark.parametrize("end", ["disconnect", "unsubscribe"])
    def test_ends_the_request_of_its_user(self, site: Site, line: Line, end: str) -> None:
        more = b',"channel":"a"' if end == "unsubscribe" else b""
        site.call(end, b'{"user":"ann"%s}' % more)
        site.loaded()
        reason = b"unsubscribed from a" if more else b"force disconnect"
        answer = line.take()
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert reason in answer
        assert site.hub.channels() == {}
        assert site.node.sessions.readers("ann") == []

    @pytest.mark.parametrize(
        ("method", "body"),
        [
            ("disconnect", b'{"user":"bob"}'),
            ("unsubscribe", b'{"user":"ann","channel":"c"}'),
            # Its client would come again at once.
            ("disconnect", b'{"user":"ann","disconnect":{"code":4001,"reason":"again"}}'),
        ],
    )
    def test_leaves_it_alone_after_another_order(
        self, site: Site, line: Line, method: str, body: bytes
    ) -> None:
        site.publish("a", "earlier")
        site.call(method, body)
        site.loaded()
        taken = line.take()
        site.publish("a", "secret")
        site.clock.advance(0)
        assert b"earlier" in taken or b"secret" in line.take()
        line.vanish()
        assert site.node.sessions.readers("ann") == []


def test_end_counts_too_if_the_channels_cannot_be_had(site: Site) -> None:
    """The stream would begin, with its reason to come again."""
    path, fields = DOORS["sse"]
    line = site.open(path, **fields, authorization=BEARER)
    site.call("disconnect", b'{"user":"ann"}')
    site.waiting.pop().errback(Failure(Unavailable("away", "broker")))
    site.clock.advance(0)
    assert line.take().startswith(b"HTTP/1.1 403 ")


def test_reader_that_leaves_is_forgotten(site: Site) -> None:
    path, fields = DOORS["sse"]
    line = site.open(path, **fields, authorization=BEARER)
    assert len(site.node.sessions.readers("ann")) == 1
    line.vanish()
    site.loaded()
    assert site.node.sessions.readers("ann") == []
