from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from zope.interface import implementer

from pushserver.config.limits import Limits
from pushserver.config.settings import Config, Source
from pushserver.errors import InvalidData, InvalidKey, Unavailable
from pushserver.server.build import build
from pushserver.sources.interface import Feed, IHook, ISource, ISourceType, SourceFailed
from pushserver.sources.registry import SourceTypes
from tests.unit.fakes.web import Server, Trouble, memory_reactor, set_autobahns_clock


@implementer(ISource, IHook)
class Hook:
    """Records the requests, and answers with `answer` or its exception."""

    def __init__(self) -> None:
        self.posts: list[tuple[Mapping[str, str], bytes]] = []
        self.answer: Any = (201, {"offset": 1})
        self.feed: Feed | None = None

    async def run(self, feed: Feed) -> None:
        self.feed = feed
        await feed.sleep(1_000)

    async def receive(self, headers: Mapping[str, str], body: bytes) -> tuple[int, object]:
        self.posts.append((headers, body))
        if isinstance(self.answer, Exception):
            raise self.answer
        if isinstance(self.answer, Deferred):
            self.answer = await self.answer
        status, answer = self.answer
        return status, answer


@dataclass(frozen=True)
class Options:
    """No options."""


@implementer(IPlugin, ISourceType)
class Hooked:
    name = "hooked"
    options = Options
    extra = ""

    def __init__(self, hook: Any):
        self.hook = hook

    def make(self, options: Any) -> Any:
        return self.hook


class HookServer(Server):
    """A server with a source with this hook, and one without a hook."""

    def __init__(self, hook: Hook, limits: Limits = Limits()):
        super().__init__(limits)
        sources = {"a b": Source("hooked", "c"), "plain": Source("random", "c")}
        self.clock = memory_reactor()
        set_autobahns_clock(self.clock)
        config = replace(Config(limits=limits), sources=sources)
        types = SourceTypes([Hooked(hook), *SourceTypes().values()])
        self.service = build(config, self.clock, types=types)
        self.node = self.service.node
        self.site = self.service._site
        self.hub = self.node.hub


@pytest.fixture
def hook() -> Hook:
    return Hook()


@pytest.fixture
def server(hook: Hook) -> HookServer:
    return HookServer(hook)


def test_a_post_reaches_the_source_and_gets_its_answer(server: HookServer, hook: Hook) -> None:
    answer = server.get("/hooks/a%20b", "POST", b"\xffx", X_Signature="s", content_type="a/b")
    assert (answer.status, answer.json) == (201, {"offset": 1})
    [(headers, body)] = hook.posts
    assert body == b"\xffx"
    assert (headers["x-signature"], headers["content-type"]) == ("s", "a/b")
    assert all(name == name.lower() for name in headers)


def test_an_answer_may_come_later(server: HookServer, hook: Hook) -> None:
    waits: Deferred[Any] = Deferred()
    hook.answer = waits
    line = server.open("/hooks/a%20b", "POST", b"{}")
    assert line.take() == b""
    waits.callback((202, []))
    answer = line.response()
    assert (answer.status, answer.json) == (202, [])


@pytest.mark.parametrize("status", [429, 503])
def test_a_temporary_refusal_has_retry_after(server: HookServer, hook: Hook, status: int) -> None:
    hook.answer = (status, {})
    answer = server.get("/hooks/a%20b", "POST", b"{}")
    assert (answer.status, answer["retry-after"]) == (status, "1")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidData("the value is odd"), 400),
        (InvalidKey("the key is odd"), 400),
        (SourceFailed("the source is stopped"), 503),
        (Unavailable("the disk is full"), 503),
    ],
)
def test_an_exception_of_the_hook_is_answered_with_its_status(
    server: HookServer, hook: Hook, error: Exception, status: int
) -> None:
    hook.answer = error
    answer = server.get("/hooks/a%20b", "POST", b"{}")
    assert answer.error == (status, str(error))
    assert ("retry-after" in answer) is (status == 503)


def test_an_unexpected_failure_is_500_without_details(
    server: HookServer, hook: Hook, trouble: Trouble
) -> None:
    hook.answer = LookupError("a secret")
    answer = server.get("/hooks/a%20b", "POST", b"{}")
    assert answer.error == (500, "internal server error")
    assert "LookupError('a secret')" in trouble.take()[0]


@pytest.mark.parametrize("path", ["/hooks/plain", "/hooks/none", "/hooks", "/hooks/a%20b/x"])
def test_any_other_path_is_404(server: HookServer, path: str) -> None:
    assert server.get(path, "POST", b"{}").status == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_only_post_is_allowed(server: HookServer, hook: Hook, method: str) -> None:
    answer = server.get("/hooks/a%20b", method)
    assert (answer.status, answer["allow"]) == (405, "POST")
    assert hook.posts == []


def test_a_body_is_bounded(hook: Hook) -> None:
    server = HookServer(hook, Limits(body_bytes=10))
    assert server.get("/hooks/a%20b", "POST", b"x" * 11).status == 413
    assert hook.posts == []


def test_the_source_publishes_by_its_feed(server: HookServer, hook: Hook) -> None:
    server.service.startService()
    server.clock.advance(0)
    assert hook.feed is not None
    assert hook.feed.channel == "c"
