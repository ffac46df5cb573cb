from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from pushserver.errors import (
    Denied,
    ExpiredToken,
    InvalidName,
    InvalidToken,
    NotRunning,
    Unavailable,
    UnknownKeyId,
    WrongKey,
)
from pushserver.web.resource import (
    Answer,
    ContainerResource,
    LeafResource,
    NotFound,
    Refusal,
    is_upgrade,
)
from tests.unit.fakes.web import BROWSER, Server, Trouble


class Desk(LeafResource):
    """A resource that answers with a function of the test."""

    def __init__(self, answer: Any):
        super().__init__()
        self._answer = answer
        self.seen: list[Request] = []

    def answer_get(self, request: Request) -> Answer:
        self.seen.append(request)
        if isinstance(self._answer, Exception):
            raise self._answer
        answer: Answer = self._answer
        return answer

    def answer_delete(self, request: Request) -> Answer:
        return b"gone"


def serve(answer: Any) -> Server:
    """A server with a desk at `/desk`."""
    server = Server()
    root = server.site.resource
    assert isinstance(root, Resource)
    root.putChild(b"desk", Desk(answer))
    return server


def test_result_of_a_resource_is_the_body() -> None:
    answer = serve(b"hello").get("/desk")
    assert (answer.status, answer.body, answer["content-length"]) == (200, b"hello", "5")


def test_head_is_get_without_the_body() -> None:
    answer = serve(b"hello").get("/desk", "HEAD")
    assert (answer.status, answer.rest, answer["content-length"]) == (200, b"", "5")


@pytest.mark.parametrize("method", ["POST", "PUT", "BREW", "_get", "GET.answer_get", "X" * 100])
def test_other_method_is_405_with_the_allowed_ones(method: str) -> None:
    answer = serve(b"hello").get("/desk", method)
    status, message = answer.error
    assert (status, answer["allow"]) == (405, "GET, HEAD, DELETE")
    assert message == f"{method[:20]} is not a method of this URL, expected GET, HEAD, DELETE"


@pytest.mark.parametrize("method", ["get", "Get", "gET", "head", "delete", "options", "post"])
@pytest.mark.parametrize("path", ["/desk", "/channels/a", "/", "/static/app.css", "/api/info"])
def test_methods_are_case_sensitive(path: str, method: str) -> None:
    server = serve(b"hello")
    answer = server.get(path, method, b"1", origin="http://localhost:8080")
    status, message = answer.error
    assert status == 405
    assert method not in answer["allow"].split(", ")
    assert method in message or path.startswith("/static")
    assert server.hub.history.seq == 0


def test_refusal_is_json_for_a_program_and_a_page_for_a_browser() -> None:
    server = serve(Refusal(409, "no <b>room</b>", {"retry-after": "7"}))
    answer = server.get("/desk")
    assert answer.error == (409, "no <b>room</b>")
    assert (answer["retry-after"], answer["cache-control"]) == ("7", "no-store")
    assert "Accept" in answer["vary"]
    page = server.get("/desk", accept=BROWSER)
    assert (page.status, page["content-type"]) == (409, "text/html; charset=utf-8")
    assert page["retry-after"] == "7"
    assert b"no &lt;b&gt;room&lt;/b&gt;" in page.body
    assert b"<b>" not in page.body
    assert "Accept" in page["vary"]


def test_failure_is_logged_and_answered_without_details(trouble: Trouble) -> None:
    answer = serve(RuntimeError("secret")).get("/desk")
    assert answer.error == (500, "internal server error")
    assert trouble.take() == ["b'/desk' failed: RuntimeError('secret')"]


def test_unknown_status_has_a_page() -> None:
    page = serve(Refusal(499, "odd")).get("/desk", accept=BROWSER)
    assert page.status == 499
    assert b"odd" in page.body


async def later(waiting: Deferred[bytes]) -> bytes:
    return await waiting


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_answer_may_be_awaitable(method: str) -> None:
    waiting: Deferred[bytes] = Deferred()
    server = serve(later(waiting))
    line = server.open("/desk", method)
    assert line.take() == b""
    waiting.callback(b"at last")
    answer = line.response(method)
    assert (answer.status, answer["content-length"]) == (200, "7")
    assert answer.body == (b"" if method == "HEAD" else b"at last")
    assert answer.rest == b""


def test_exception_is_answered_with_its_status() -> None:
    for error, status, header in (
        (InvalidName("a b"), 400, ""),
        (Denied(401, "no key"), 401, "www-authenticate"),
        (Denied(403, "no"), 403, ""),
        (Unavailable("full"), 503, "retry-after"),
    ):
        answer = serve(error).get("/desk")
        assert answer.error == (status, str(error))
        assert {"www-authenticate", "retry-after"} & set(answer.headers) == {header} - {""}


@pytest.mark.parametrize("kind", [InvalidToken, ExpiredToken, UnknownKeyId])
def test_a_token_that_is_not_valid_gets_the_challenge_of_its_scheme(
    kind: type[InvalidToken],
) -> None:
    answer = serve(kind('kid "a\\b" of é\r\ny: z')).get("/desk")
    described = "kid 'a'b' of " + "'" * 3 + "y: z"
    expected = f'Bearer error="invalid_token", error_description="{described}"'
    assert (answer.status, answer["www-authenticate"]) == (401, expected)
    assert "y" not in answer.headers
    assert serve(kind("x" * 9_000)).get("/desk")["www-authenticate"].count("x") == 300
    slowed = serve(WrongKey("too many", 429)).get("/desk")
    assert (slowed.status, slowed["retry-after"]) == (429, "60")


def test_exception_without_a_status_is_logged(trouble: Trouble) -> None:
    assert serve(NotRunning("secret")).get("/desk").error == (500, "internal server error")
    assert trouble.take() == ["b'/desk' failed: NotRunning('secret')"]


def test_awaitable_that_fails_is_a_refusal_or_a_500(trouble: Trouble) -> None:
    for error, status in ((Refusal(404, "no"), 404), (RuntimeError("secret"), 500)):
        waiting: Deferred[bytes] = Deferred()
        line = serve(later(waiting)).open("/desk")
        waiting.errback(error)
        assert line.response().error[0] == status
    assert trouble.take() == ["b'/desk' failed: RuntimeError('secret')"]


def test_answer_after_the_connection_is_lost_is_dropped() -> None:
    waiting: Deferred[bytes] = Deferred()
    line = serve(later(waiting)).open("/desk")
    line.vanish()
    waiting.callback(b"too late")
    assert line.take() == b""
    # A Deferred logs an unhandled failure when it is collected.
    del waiting, line
    gc.collect()


def test_resource_may_answer_itself() -> None:
    server = serve(NOT_DONE_YET)
    line = server.open("/desk")
    assert line.take() == b""
    desk = server.site.resource.children[b"desk"]
    desk.seen[0].finish()
    assert line.response().status == 200
    line = server.open("/desk", "HEAD")
    assert line.take() == b""
    desk.seen[1].finish()
    assert line.response("HEAD").status == 200


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/channels/a/b", "/connection", "/connection/x", "/api", "/..", "/%00"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_unknown_path_is_404(path: str, method: str, trouble: Trouble) -> None:
    answer = Server().get(path, method)
    assert answer.status == 404
    if method == "HEAD":
        assert answer.rest == b""
        trouble.take()
    else:
        assert answer.error[0] == 404


def test_head_of_an_unknown_path_logs_nothing(trouble: Trouble) -> None:
    Server().get("/nothing", "HEAD")
    assert trouble.take() == []


def test_container_has_its_children_alone() -> None:
    server = Server()
    root = server.site.resource
    assert isinstance(root, Resource)
    root.putChild(b"folder", ContainerResource({b"a": Desk(b"here"), b"b": NotFound("/folder/a")}))
    assert server.get("/folder/a").body == b"here"
    assert server.get("/folder/b").error[1] == "there is nothing at /folder/b, expected /folder/a"
    assert server.get("/folder").status == server.get("/folder/c").status == 404


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, False),
        ({"upgrade": "websocket"}, True),
        ({"upgrade": "WebSocket"}, True),
        ({"upgrade": "h2c, websocket"}, True),
        ({"upgrade": "websockets"}, False),
        ({"upgrade": "h2c"}, False),
    ],
)
def test_upgrade_header_asks_for_a_websocket(headers: Mapping[str, str], expected: bool) -> None:
    server = serve(b"")
    server.get("/desk", **headers)
    (request,) = server.site.resource.children[b"desk"].seen
    assert is_upgrade(request) is expected
