from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from pushserver.config.limits import Limits
from pushserver.config.settings import Auth, Config
from pushserver.config.settings import Server as ServerSection
from tests.unit.fakes.web import Server, Trouble, request

KEY = "s3cret"
KEYED = Config(auth=Auth([KEY]))
LENIENT = Config(auth=Auth([KEY], local_without_key=True))
FORM = "application/x-www-form-urlencoded"


def data(server: Server, channel: str = "a") -> list[Any]:
    """The publications of the channel."""
    return [json.loads(row.data) for row in server.hub.history.peek(channel).after(0)]


class TestTheBody:
    @pytest.mark.parametrize(
        ("media", "body", "expected"),
        [
            ("application/json", b'{"number": 3}', {"number": 3}),
            ("application/json; charset=utf-8", b" [1] ", [1]),
            ("application/JSON", b'"x"', "x"),
            ("application/problem+json", b"null", None),
            (FORM, b'{"number": 3}', {"number": 3}),
            (FORM, b"hello=1&x", "hello=1&x"),
            ("text/plain", b"hello", "hello"),
            ("text/plain", b"7", 7),
            ("text/plain", b"1 2", "1 2"),
            ("", b"hello", "hello"),
            ("", b"true", True),
            ("application/json", b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
            ("text/plain", b"\xef\xbb\xbfhello", "hello"),
            ("", "grün ✓".encode(), "grün ✓"),
            ("", b"\n", "\n"),
            ("", b"NaNcy", "NaNcy"),
            ("application/octet-stream", b"x", "x"),
        ],
    )
    def test_is_published_as_json_or_as_text(self, media: str, body: bytes, expected: Any) -> None:
        server = Server()
        answer = server.get("/channels/a", "POST", body, content_type=media)
        assert answer.status == 201
        assert data(server) == [expected]

    def test_is_answered_with_its_position(self) -> None:
        server = Server()
        server.publish("b")
        answer = server.get("/channels/a", "POST", b"1")
        epoch = server.hub.history.epoch
        assert answer.json == {"offset": 1, "epoch": epoch, "id": f"{epoch}:2"}
        assert answer["pushserver-cursor"] == f"{epoch}:2"
        assert answer["cache-control"] == "no-store"

    def test_keeps_the_spelling_of_numbers(self) -> None:
        server = Server()
        server.get(
            "/channels/a", "POST", b'{"n": 1.000, "m": 1E2}', content_type="application/json"
        )
        [row] = server.hub.history.peek("a").after(0)
        assert row.data == b'{"n":1.000,"m":1E2}'

    @pytest.mark.parametrize(
        ("media", "body", "problem"),
        [
            ("application/json", b"hello", "the body is not JSON: Expecting value at character 0"),
            ("application/json", b'{"a":1', "at character"),
            ("application/json", b"1 2", "Extra data"),
            ("application/json", b'"\xff"', "invalid UTF-8 at byte 1"),
            ("application/json", b'"\\ud83d"', "a lone surrogate"),
            ("text/plain", b"abc\xff", "invalid UTF-8 at byte 3"),
            ("", b"NaN", "NaN is not JSON"),
            ("", b'{"a": [-Infinity]}', "-Infinity is not JSON"),
            ("application/json", b"1e999", "beyond the range"),
            ("application/json", b'{"a": 1, "a": 2}', "'a' appears twice"),
            (FORM, b'{"a": 1, "a": 2}', "'a' appears twice"),
            ("application/json", b"[" * 101 + b"]" * 101, "nested deeper than 100"),
            ("application/json", b"[" * 100_000, "nested deeper than 100"),
            ("application/json", rb'"\ud800"', "surrogate"),
            ("", b"", "the body is empty"),
            ("application/json", b"", "the body is empty"),
        ],
    )
    def test_that_is_invalid_is_refused_with_the_reason(
        self, media: str, body: bytes, problem: str
    ) -> None:
        server = Server()
        answer = server.get("/channels/a", "POST", body, content_type=media)
        status, message = answer.error
        assert status == 400
        assert problem in message
        assert data(server) == []

    def test_that_is_compressed_is_refused(self) -> None:
        server = Server()
        body = gzip.compress(b'{"a": 1}')
        status, message = server.get(
            "/channels/a", "POST", body, content_type="application/json", content_encoding="gzip"
        ).error
        assert status == 415
        assert message == "content-encoding gzip is not understood, send it uncompressed"
        assert data(server) == []
        answer = server.get("/channels/a", "POST", b"1", content_encoding="Identity")
        assert answer.status == 201

    def test_of_several_parts_is_refused(self) -> None:
        media = "multipart/form-data; boundary=x"
        answer = Server().get("/channels/a", "POST", b"--x--", content_type=media)
        assert answer.error[0] == 415

    def test_over_the_limit_is_refused_with_the_setting(self) -> None:
        server = Server(Limits(body_bytes=10))
        assert server.get("/channels/a", "POST", b"1" * 10).status == 201
        status, message = server.get("/channels/a", "POST", b"1" * 11).error
        assert status == 413
        assert "more than 10 bytes (body_bytes)" in message

    def test_over_the_limit_in_chunks_is_refused(self) -> None:
        server = Server(Limits(body_bytes=10))
        head = request("/channels/a", "POST", **{"content-length": ""}, transfer_encoding="chunked")
        line = server.connect()
        line.send(head + b"6\r\n111111\r\n5\r\n11111\r\n0\r\n\r\n")
        assert line.response().status == 413
        assert data(server) == []

    @given(body=st.binary(max_size=60), media=st.sampled_from(["application/json", FORM, ""]))
    def test_of_any_bytes_is_published_or_refused(self, body: bytes, media: str) -> None:
        server = Server()
        answer = server.get("/channels/a", "POST", body, content_type=media)
        assert answer.status in (201, 400)
        assert len(data(server)) == (answer.status == 201)

    JSONISH = st.recursive(
        st.sampled_from(
            [b"1", b"NaN", b"-Infinity", b"1e999", b'"\\ud800"', b'"\xff"', b"null", b""]
        ),
        lambda inner: (
            st.builds(lambda parts: b"[" + b",".join(parts) + b"]", st.lists(inner))
            | st.builds(
                lambda pairs: b"{" + b",".join(b'"%b":%b' % pair for pair in pairs) + b"}",
                st.lists(st.tuples(st.sampled_from([b"a", b"b", b"\xff"]), inner)),
            )
        ),
        max_leaves=8,
    )

    @given(body=JSONISH)
    def test_is_published_as_unambiguous_json(self, body: bytes) -> None:
        server = Server()
        answer = server.get("/channels/a", "POST", body, content_type="application/json")
        if answer.status == 201:
            [row] = server.hub.history.peek("a").after(0)

            def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
                assert len(dict(pairs)) == len(pairs)
                return dict(pairs)

            def never(word: str) -> None:
                raise AssertionError(word)

            json.loads(row.data, object_pairs_hook=unique, parse_constant=never)
        else:
            assert answer.error[0] == 400


class TestTheEvent:
    def test_is_message_by_default(self) -> None:
        server = Server()
        for query in ("", "?event=newnumber", "?event=a&event=gr%C3%BCn"):
            assert server.get(f"/channels/a{query}", "POST", b"1").status == 201
        rows = server.hub.history.peek("a").after(0)
        assert [row.event for row in rows] == ["message", "newnumber", "grün"]

    def test_tags_are_in_the_query(self) -> None:
        server = Server()
        for query in ("?tag.city=K%C3%B6ln&tag.n=7&tag.n=8", "?tag.=x", "?tags=1"):
            assert server.get(f"/channels/a{query}", "POST", b"1").status == 201
        rows = server.hub.history.peek("a").after(0)
        assert [row.tags for row in rows] == [{"city": "Köln", "n": "8"}, {"": "x"}, None]

    @pytest.mark.parametrize("query", ["tag.a=%FF", "tag.%FF=a"])
    def test_tags_that_are_no_text_are_refused(self, query: str) -> None:
        answer = Server().get(f"/channels/a?{query}", "POST", b"1")
        assert answer.status == 400
        assert b"expected UTF-8" in answer.body

    @pytest.mark.parametrize("query", ["event=", "event=a%0Ab", "event=%00", f"event={'x' * 129}"])
    def test_that_is_invalid_is_refused_with_the_rule(self, query: str) -> None:
        server = Server()
        status, message = server.get(f"/channels/a?{query}", "POST", b"1").error
        assert status == 400
        assert "expected 1 to 128 printable characters" in message
        assert data(server) == []

    def test_that_is_not_utf8_is_refused(self) -> None:
        assert Server().get("/channels/a?event=%FF", "POST", b"1").status == 400


@pytest.mark.parametrize("name", ["%20", "-a", "a%20b", "a%2Fb", "x" * 129, "%C3%A9", "%FF", "%00"])
def test_an_invalid_channel_is_refused_with_the_rule(name: str) -> None:
    status, message = Server().get(f"/channels/{name}", "POST", b"1").error
    assert status == 400
    assert "1 to 128 characters of" in message


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_another_method_is_refused_with_the_allowed_ones(method: str) -> None:
    answer = Server().get("/channels/a", method)
    assert answer.error[0] == 405
    assert answer["allow"] == "GET, HEAD, POST"


class TestAnIdempotencyKey:
    @pytest.mark.parametrize("name", ["idempotency_key", "x_idempotency_key"])
    def test_answers_a_repetition_with_the_first_position(self, name: str) -> None:
        server = Server()
        first = server.get("/channels/a", "POST", b"1", **{name: "k"})
        again = server.get("/channels/a", "POST", b"1", **{name: "k"})
        assert (again.status, again.json) == (first.status, first.json)
        assert data(server) == [1]
        assert server.hub.metrics.duplicates == 1

    def test_belongs_to_one_channel(self) -> None:
        server = Server()
        for channel in "ab":
            server.get(f"/channels/{channel}", "POST", b"1", idempotency_key="k")
        assert data(server) == data(server, "b") == [1]

    def test_that_is_invalid_is_refused_with_the_rule(self) -> None:
        answer = Server().get("/channels/a", "POST", b"1", idempotency_key="x" * 129)
        assert answer.error[0] == 400
        assert "idempotency key" in answer.error[1]

    def test_over_the_limit_is_refused_with_503(self) -> None:
        server = Server(Limits(idempotency_keys=1))
        server.get("/channels/a", "POST", b"1", idempotency_key="k")
        answer = server.get("/channels/a", "POST", b"1", idempotency_key="l")
        assert answer.error[0] == 503
        assert "idempotency_keys" in answer.error[1]
        assert answer["retry-after"] == "1"
        assert server.get("/channels/a", "POST", b"1").status == 201


class TestPublishing:
    """Access to POST; the rules are in `access`."""

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, 201),
            ({"origin": "http://localhost:8080"}, 201),
            ({"origin": "http://evil.example"}, 403),
            ({"origin": "null"}, 403),
            ({"host": "evil.example"}, 403),
            ({"host": "evil.example", "origin": "http://evil.example"}, 403),
            ({"forwarded": "for=1.2.3.4"}, 401),
            ({"x_forwarded_for": "1.2.3.4"}, 401),
            ({"x_forwarded_host": "a.example"}, 401),
            ({"x_forwarded_proto": "https"}, 401),
            ({"x_real_ip": "127.0.0.1"}, 401),
            ({"via": "1.1 proxy"}, 401),
            ({"x_client_ip": "127.0.0.1"}, 401),
            ({"x_forwarded": "127.0.0.1"}, 401),
            ({"cdn_loop": "cloudflare"}, 401),
            ({"proxy_client_ip": "127.0.0.1"}, 401),
            ({"sec_fetch_site": "cross-site"}, 403),
            ({"sec_fetch_site": "same-site"}, 403),
            ({"sec_fetch_site": "same-origin"}, 201),
            ({"sec_fetch_site": "none"}, 201),
            ({"x_api_key": KEY}, 201),
            ({"x_api_key": KEY, "host": "evil.example", "x_forwarded_for": "1.2.3.4"}, 201),
            ({"x_api_key": KEY, "origin": "http://evil.example"}, 201),
            ({"x_api_key": "wrong"}, 401),
            ({"authorization": f"Bearer {KEY}"}, 201),
            ({"authorization": f"apikey {KEY}"}, 201),
            ({"authorization": "Bearer wrong"}, 401),
            ({"authorization": "Basic dTpw"}, 201),
            ({"x_api_key": "wrong", "authorization": f"Bearer {KEY}"}, 401),
        ],
    )
    def test_on_this_machine(self, headers: dict[str, str], status: int) -> None:
        server = Server(config=LENIENT)
        answer = server.get("/channels/a", "POST", b"1", **headers)
        assert answer.status == status
        assert ("www-authenticate" in answer) is (status == 401)
        assert len(data(server)) == (status == 201)

    @pytest.mark.parametrize("headers", [{}, {"authorization": "Basic dTpw"}])
    def test_with_a_key_configured_only_with_one(self, headers: dict[str, str]) -> None:
        server = Server(config=KEYED)
        status, message = server.get("/channels/a", "POST", b"1", **headers).error
        assert (status, "auth.api_keys" in message) == (401, True)
        assert server.get("/channels/a", "POST", b"1", x_api_key=KEY).status == 201
        assert len(data(server)) == 1

    @pytest.mark.parametrize(("own", "status"), [(True, 201), (False, 401), (None, 201)])
    def test_without_a_key_not_through_a_possible_proxy(
        self, own: bool | None, status: int
    ) -> None:
        server = Server()
        server.own = own
        assert server.get("/channels/a", "POST", b"1").status == status
        assert len(data(server)) == (status == 201)

    def test_not_in_http_1_0_as_of_a_bare_nginx(self, trouble: Trouble) -> None:
        line = Server().connect()
        line.send(
            b"POST /channels/a HTTP/1.0\r\nHost: 127.0.0.1:8080\r\nContent-Length: 1\r\n\r\n1"
        )
        answer = line.take()
        assert answer.startswith(b"HTTP/1.0 401")
        assert b"through a proxy (HTTP/1.0)" in answer
        assert len(trouble.take()) == 1

    def test_a_proxy_in_front_of_a_server_without_keys_is_a_warning_once(
        self, trouble: Trouble
    ) -> None:
        server = Server()
        for _ in range(2):
            assert server.get("/", x_forwarded_for="1.2.3.4").status == 200
        [warning] = trouble.take()
        assert "x-forwarded-for" in warning
        assert "auth.api_keys" in warning
        assert Server(config=KEYED).get("/", x_forwarded_for="1.2.3.4").status == 200

    @pytest.mark.parametrize(
        ("headers", "status"),
        [({}, 401), ({"x_api_key": "wrong"}, 401), ({"x_api_key": KEY}, 201)],
    )
    def test_from_another_machine_with_a_key(self, headers: dict[str, str], status: int) -> None:
        server = Server(config=KEYED)
        line = server.connect("10.0.0.1")
        line.send(request("/channels/a", "POST", b"1", **headers))
        assert line.response().status == status

    def test_a_page_of_an_allowed_origin(self) -> None:
        origin = "https://app.example"
        server = Server(config=Config(server=ServerSection(allowed_origins=[origin])))
        answer = server.get("/channels/a", "POST", b"1", origin=origin)
        assert answer.status == 201
        assert answer["access-control-allow-origin"] == origin

    def test_refusals_come_before_the_body_is_read(self) -> None:
        answer = Server().get("/channels/a", "POST", b"\xff", x_api_key="wrong")
        assert answer.error[0] == 401


def test_while_the_server_stops_publishing_is_503() -> None:
    server = Server()
    server.node.stop_publishing()
    answer = server.get("/channels/a", "POST", b"1")
    assert answer.error == (503, "the server is shutting down")
    assert answer["retry-after"] == "1"
    assert server.hub.metrics.refusals == {"stopping": 1}


@pytest.mark.parametrize("shortcuts", [True, False])
def test_an_internal_failure_is_500_without_details(shortcuts: bool, trouble: Trouble) -> None:
    server = Server(shortcuts=shortcuts)

    async def broken(draft: object) -> None:
        raise RuntimeError("a secret")

    server.node._broker.publish = broken  # type: ignore[assignment, method-assign]
    answer = server.get("/channels/a", "POST", b"1")
    assert answer.error == (500, "internal server error")
    assert "a secret" in trouble.take()[0]


def test_a_publisher_that_disconnected_gets_no_answer() -> None:
    server = Server(shortcuts=False)
    later: Deferred[Any] = Deferred()

    async def slow(draft: object) -> Any:
        return await later

    server.node._broker.publish = slow  # type: ignore[method-assign]
    line = server.open("/channels/a", "POST", b"1")
    line.vanish()
    later.callback(type("R", (), {"offset": 1, "epoch": "e", "id": "e:1"}))
    assert line.take() == b""
