"""The `publish` handler of an application decides about a POST by a user, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver import Identified, PushServer, Refused, token
from pushserver.app.client import Client
from pushserver.config.settings import Auth, Config
from pushserver.sessions.working import AT_A_TIME
from tests.unit.fakes.web import Line, Log, Server, Trouble
from tests.unit.resources.test_publish import data

KEY, SECRET = "a-key-of-a-job", "a secret of thirty-two characters"
ANN = {"cookie": "user=ann"}
REMOTE = "203.0.113.9"
NDJSON = "application/x-ndjson"

USERS = "; about users, a handler of the application decides"

Call = tuple[Client, str, Any]


class Site:
    """A server with an application that identifies users and decides about publications."""

    def __init__(
        self, decide: Callable[[Any], Any] = lambda data: True, event: str = "publish", **auth: Any
    ) -> None:
        self.app = PushServer()
        self.calls: list[Call] = []

        def publish(client: Client, channel: str, data: Any) -> Any:
            self.calls.append((client, channel, data))
            return decide(data)

        self.app.on(event, thread=False)(publish)
        self.app.authenticate(
            lambda v: Identified("ann", {"n": 1}, expires=4e9) if v.cookies.get("user") else None
        )
        self.server = Server(config=Config(auth=Auth(**auth)), app=self.app)
        self.server.service.startService()
        self.server.clock.advance(0)

    def post(self, body: bytes = b"1", content_type: str = "", /, **headers: str) -> Line:
        line = self.server.open(
            "/channels/a", "POST", body, content_type=content_type or "text/plain", **headers
        )
        for _ in range(10):
            self.server.clock.advance(0)
        return line

    def error(self, *arguments: Any, **headers: str) -> tuple[int, str]:
        return self.post(*arguments, **headers).response("POST").error

    @property
    def published(self) -> list[Any]:
        return data(self.server)


@pytest.fixture
def site() -> Site:
    return Site(api_keys=[KEY])


def test_handler_gets_the_facts_about_the_request(site: Site) -> None:
    assert site.post(b'{"x": [1]}', **ANN, user_agent="t").response("POST").status == 201
    [(client, channel, value)] = site.calls
    assert (channel, value) == ("a", {"x": [1]})
    assert (client.user, client.info, client.expires) == ("ann", {"n": 1}, 4e9)
    assert (client.id, client.state, client.channels, client.connected) == (
        "",
        {},
        frozenset(),
        False,
    )
    assert (client.address, client.protocol) == ("127.0.0.1", "http")
    assert (client.cookies, client.headers["user-agent"]) == ({"user": "ann"}, "t")
    assert site.published == [{"x": [1]}]


def test_text_is_given_as_text(site: Site) -> None:
    assert site.post(b"hello", **ANN).response("POST").status == 201
    assert site.calls[0][2] == "hello"


def test_nothing_can_be_sent_to_the_user_of_a_request(site: Site) -> None:
    site.post(**ANN)
    [(client, _, _)] = site.calls
    client.send("hello")
    client.join("a")
    client.leave("a")
    client.disconnect()
    site.server.clock.advance(0)
    assert client.channels == frozenset()
    with pytest.raises(RuntimeError, match="the user of a request"):
        client.user = "bob"
    assert list(site.app.clients) == []


@pytest.mark.parametrize("content_type", ["application/json", NDJSON])
def test_refusal_has_the_reason_and_is_no_attack_in_the_log(content_type: str) -> None:
    def decide(data: Any) -> None:
        raise Refused("not now", 1000)

    site = Site(decide)
    with Log() as log:
        answer = site.post(b"1\n", content_type, **ANN).response("POST")
    assert answer.status == 403
    assert answer.json["error"]["message"].removeprefix("line 1: ") == "not now"
    assert log.take() == []
    assert site.published == []
    assert len(site.calls) == 1


def test_handler_that_returns_false_refuses_the_post() -> None:
    site = Site(lambda data: False)
    assert site.error(**ANN) == (403, "publishing to a was refused by the application")


def test_failure_is_logged_and_answered_without_details(trouble: Trouble) -> None:
    site = Site(lambda data: 1 / 0)
    answer = site.post(**ANN).response("POST")
    assert answer.error == (503, "the application failed")
    assert answer["retry-after"] == "1"
    assert "ZeroDivisionError" in trouble.take()[0]
    answer = site.post(b"1\n2", NDJSON, **ANN).response("POST")
    assert (answer.status, answer.json["published"], answer["retry-after"]) == (503, 0, "1")
    assert "ZeroDivisionError" in trouble.take()[0]
    assert site.published == []


def test_answer_waits_for_the_handler() -> None:
    decided: Deferred[bool] = Deferred()
    site = Site(lambda data: decided)
    line = site.post(**ANN)
    assert (line.take(), site.published) == (b"", [])
    decided.callback(True)
    assert line.response("POST").status == 201
    assert site.published == [1]


class TestLines:
    def test_each_asks_in_order(self, site: Site) -> None:
        many = range(2 * AT_A_TIME + 5)
        body = b"\n".join(b"%d" % n for n in many)
        assert site.post(body, NDJSON, **ANN).response("POST").json["published"] == len(many)
        assert [value for _, _, value in site.calls] == list(many) == site.published

    def test_first_refused_one_ends_the_request(self) -> None:
        site = Site(lambda data: data != 3)
        answer = site.post(b"1\n2\n3\n4\n", NDJSON, **ANN).response("POST")
        assert (answer.status, answer.json["line"], answer.json["published"]) == (403, 3, 2)
        assert [value for _, _, value in site.calls] == [1, 2, 3]
        assert site.published == [1, 2]

    def test_one_turn_asks_about_as_many_as_commands(self) -> None:
        in_the_turn: list[int] = []

        def decide(data: Any) -> None:
            if data == 0:
                busy.server.clock.callLater(0, lambda: in_the_turn.append(len(busy.calls)))

        busy = Site(decide)
        body = b"\n".join(b"%d" % n for n in range(AT_A_TIME + 1))
        assert busy.post(body, NDJSON, **ANN).response("POST").status == 201
        assert (in_the_turn, len(busy.calls)) == ([AT_A_TIME], AT_A_TIME + 1)

    def test_wait_for_the_handler_one_by_one(self) -> None:
        waiting: list[Deferred[bool]] = []

        def decide(data: Any) -> Deferred[bool]:
            waiting.append(Deferred())
            return waiting[-1]

        site = Site(decide)
        line = site.post(b"1\n2", NDJSON, **ANN)
        assert len(waiting) == 1
        waiting[0].callback(True)
        assert (site.published, len(waiting)) == ([1], 2)
        waiting[1].callback(True)
        site.server.clock.advance(0)
        assert line.response("POST").json["published"] == 2


class TestWithoutAUser:
    def test_key_and_program_on_this_machine_are_not_asked_about(self) -> None:
        site = Site(lambda data: False, api_keys=[KEY])
        assert site.post(x_api_key=KEY).response("POST").status == 201
        local = Site(lambda data: False)
        assert local.post().response("POST").status == 201
        assert (site.calls, local.calls) == ([], [])

    def test_request_is_refused_and_told_of_users(self, site: Site) -> None:
        status, text = site.error()
        assert (status, text) == (
            401,
            "an API key is needed (auth.api_keys or auth.keys): send X-API-Key" + USERS,
        )
        assert site.calls == []

    def test_invalid_token_is_refused_on_this_machine_too(self) -> None:
        site = Site(token_secret=SECRET)
        status, _ = site.error(authorization="Bearer a.b.c")
        assert (status, site.calls, site.published) == (401, [], [])


def test_user_of_a_token_is_decided_about() -> None:
    site = Site(token_secret=SECRET)
    bearer = f"Bearer {token('bob', info=[2], secret=SECRET)}"
    assert site.post(authorization=bearer).response("POST").status == 201
    assert [(client.user, client.info) for client, _, _ in site.calls] == [("bob", [2])]


def test_page_of_another_origin_is_refused_before_the_handler(site: Site) -> None:
    status, text = site.error(**ANN, origin="https://elsewhere.example")
    assert status == 403
    assert "https://elsewhere.example" in text
    assert site.calls == []


def test_info_of_a_user_is_that_of_authenticate_for_clients_too(site: Site) -> None:
    socket = site.server.session(**ANN)
    socket.say({"id": 2, "publish": {"channel": "a", "data": 1}})
    assert [(client.user, client.info) for client, _, _ in site.calls] == [("ann", {"n": 1})]
    assert site.calls[0][0].id
    socket.line.vanish()


def test_request_waits_for_the_start_of_the_application() -> None:
    app, started, calls = PushServer(), Deferred[None](), []
    app.on("start", thread=False)(lambda: started)
    app.on("publish", thread=False)(lambda client: calls.append(client.user))
    auth = Auth(token_secret=SECRET)
    server = Server(config=Config(auth=auth), app=app)
    server.service.startService()
    server.clock.advance(0)
    bearer = f"Bearer {token('bob', secret=SECRET)}"
    line = server.open("/channels/a", "POST", b"1", authorization=bearer)
    server.clock.advance(0)
    assert (calls, line.take()) == ([], b"")
    started.callback(None)
    assert line.response("POST").status == 201
    assert calls == ["bob"]
