"""The server's own origin and the client's address behind proxies, on both paths of handshakes."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerSection
from tests.unit.fakes.web import BROWSER, Line, Log, Server, handshake, parse, request

PAGE = "https://push.example"
HERE = IPv4Address("TCP", "127.0.0.1", 50000)
NEAR = IPv4Address("TCP", "10.0.0.7", 50000)
FAR = IPv4Address("TCP", "203.0.113.7", 50000)
STREAM = "text/event-stream"


def configured(*proxies: str, **more: Any) -> Server:
    section = ServerSection(trusted_proxies=list(proxies))
    return Server(config=Config(server=section), **more)


def send(server: Server, peer: Any, path: str = "/channels/a", /, **headers: str) -> Line:
    """A GET from this peer, to a server on a port of the network."""
    line = opened(server, peer)
    line.send(request(path, **headers))
    return line


def opened(server: Server, peer: Any) -> Line:
    """A connection of this peer, to a server on a port of the network."""
    line = Line(server.clock, peer)
    line.hostAddr = IPv4Address("TCP", "10.0.0.1", 8080)
    line.protocol = server.site.buildProtocol(peer)
    line.protocol.makeConnection(line)
    return line


def status(server: Server, peer: Any, **headers: str) -> int:
    return parse(send(server, peer, **headers).take()).status


HTTPS = {"host": "push.example", "origin": PAGE, "x_forwarded_proto": "https"}


@pytest.mark.parametrize("shortcuts", [True, False])
@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        (HERE, True),
        (IPv6Address("TCP", "::1", 50000), True),
        (IPv6Address("TCP", "::ffff:127.0.0.1", 50000), True),
        (UNIXAddress(None), True),
        (NEAR, True),
        (FAR, False),
        (IPv6Address("TCP", "2001:db8::1", 50000), False),
    ],
)
def test_scheme_of_a_trusted_proxy_makes_the_origin(
    peer: Any, trusted: bool, shortcuts: bool
) -> None:
    server = configured("10.0.0.0/8", shortcuts=shortcuts)
    assert status(server, peer, **HTTPS) == (200 if trusted else 403)
    assert status(server, peer, **handshake(**HTTPS)) == (101 if trusted else 403)


@pytest.mark.parametrize(
    "headers",
    [
        {
            "host": "127.0.0.1:8080",
            "x_forwarded_proto": "https",
            "x_forwarded_host": "push.example",
        },
        {"host": "a", "x_forwarded_proto": "https", "x_forwarded_host": "PUSH.example:443"},
        {"host": "push.example", "forwarded": "for=203.0.113.7;proto=https"},
        {"host": "10.0.0.1", "forwarded": 'host="push.example";proto=https'},
    ],
)
def test_host_of_a_trusted_proxy_makes_the_origin(headers: dict[str, str]) -> None:
    assert status(Server(), HERE, origin=PAGE, **headers) == 200
    assert status(Server(), HERE, origin="https://evil.example", **headers) == 403


def test_insecure_page_is_not_that_of_a_secure_proxy() -> None:
    """Who is between could put it there."""
    assert status(Server(), HERE, **{**HTTPS, "origin": "http://push.example"}) == 403


@pytest.mark.parametrize(
    ("headers", "missing"),
    [
        (
            {"host": "127.0.0.1:8080"},
            "Host: push.example and X-Forwarded-Proto: https",
        ),
        ({"host": "push.example"}, "X-Forwarded-Proto: https"),
        ({"host": "push.example", "x_forwarded_proto": "http"}, "X-Forwarded-Proto: https"),
        ({"host": "push.example:8080", "x_forwarded_proto": "https"}, "Host: push.example"),
    ],
)
def test_refusal_names_the_url_that_it_saw_and_the_headers_that_are_missing(
    headers: dict[str, str], missing: str
) -> None:
    with Log() as log:
        answer = parse(send(Server(), HERE, origin=PAGE, **headers).take())
    url = f"{headers.get('x_forwarded_proto', 'http')}://{headers['host']}"
    expected = "expected a page of the same origin, or of allowed_origins"
    message = f"a page of '{PAGE}' may not use '{url}': {expected}"
    message += f"; a proxy that serves this page has to send {missing}"
    assert answer.error == (403, message)
    assert log.take() == [f"refused 403 to 127.0.0.1: GET /channels/a: {message}"]


@pytest.mark.parametrize("origin", ["null", "file://", "chrome-extension://abc", "https://a b"])
def test_refusal_of_a_page_without_a_host_asks_for_no_header(origin: str) -> None:
    message = parse(send(Server(), HERE, origin=origin).take()).error[1]
    assert message.endswith("or of allowed_origins")


def test_refusal_names_the_setting_for_a_proxy_that_is_not_trusted() -> None:
    """And not for others, which did not send these headers."""
    message = parse(send(Server(), FAR, **HTTPS).take()).error[1]
    assert message.endswith(
        "; if 203.0.113.7 is the server's proxy, list it in server.trusted_proxies"
    )
    other = parse(send(Server(), FAR, **{**HTTPS, "origin": "https://evil.example"}).take())
    assert "trusted_proxies" not in other.error[1]


def test_foreign_page_cannot_send_the_headers_of_a_proxy() -> None:
    """Its browser asks first, and the answer does not allow it."""
    server = Server()
    line = server.connect()
    line.send(
        request(
            "/channels/a",
            "OPTIONS",
            origin="https://evil.example",
            access_control_request_method="POST",
            access_control_request_headers="x-forwarded-host,x-forwarded-proto",
        )
    )
    answer = line.response()
    assert answer.status == 405
    assert not any(name.startswith("access-control") for name in answer.headers)


FORWARDED_FOR = {"host": "push.example", "x_forwarded_for": "1.1.1.1, 198.51.100.9"}


@pytest.mark.parametrize("shortcuts", [True, False])
@pytest.mark.parametrize(
    ("proxies", "peer", "name"),
    [
        ([], HERE, "127.0.0.1:50000"),
        ([], UNIXAddress(None), "unix:"),
        ([], IPv6Address("TCP", "2001:db8::1", 50000), "[2001:db8::1]:50000"),
        ([], IPv6Address("TCP", "fe80::1%eth0", 50000), "[fe80::1%eth0]:50000"),
        ([], IPv6Address("TCP", "fe80::1%eth0.5", 50000), "[fe80::1%eth0.5]:50000"),
        ([], IPv6Address("TCP", "::ffff:203.0.113.7", 50000), "203.0.113.7:50000"),
        (["10.0.0.7"], IPv6Address("TCP", "::ffff:10.0.0.7", 50000), "198.51.100.9"),
        (["10.0.0.7"], HERE, "127.0.0.1:50000"),
        (["10.0.0.7"], NEAR, "198.51.100.9"),
        (["unix"], UNIXAddress(None), "198.51.100.9"),
        (["127.0.0.1"], HERE, "198.51.100.9"),
        (["127.0.0.1", "198.51.100.0/24"], HERE, "1.1.1.1"),
        (["10.0.0.7"], FAR, "203.0.113.7:50000"),
    ],
)
def test_log_has_the_client_of_a_trusted_proxy(
    proxies: list[str], peer: Any, name: str, shortcuts: bool
) -> None:
    server = configured(*proxies, debug=True, shortcuts=shortcuts)
    for headers in (handshake(**FORWARDED_FOR), {"accept": STREAM, **FORWARDED_FOR}):
        with Log() as log:
            line = send(server, peer, **headers)
            line.vanish()
        lines = [text for text in log.take() if " came by " in text]
        assert [text.partition(" ")[0] for text in lines] == [name], lines


@pytest.mark.parametrize("shortcuts", [True, False])
@pytest.mark.parametrize(
    ("fields", "name"),
    [
        # Lines are one list (RFC 9110, 5.3): the last address is that of the proxy's client.
        (["X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 2.2.2.2"], "2.2.2.2"),
        (["X-Forwarded-For: 1.1.1.1", "x-forwarded-for: 2.2.2.2, 3.3.3.3"], "3.3.3.3"),
        (3 * ["X-Forwarded-For: 198.51.100.9"], "198.51.100.9"),
        (["X-Forwarded-For: 198.51.100.9", "X-Forwarded-For: nobody"], "10.0.0.7:50000"),
        (["X-Forwarded-For: 198.51.100.9, "], "10.0.0.7:50000"),
        (["X-Forwarded-For: 198.51.100.900"], "10.0.0.7:50000"),
        (["X-Forwarded-For: fe80::9%eth0"], "fe80::9"),
        (["X-Forwarded-For: [2001:db8::9]:4711"], "2001:db8::9"),
        (["X-Forwarded-For: ::ffff:198.51.100.9"], "198.51.100.9"),
        (["Forwarded: for=1.1.1.1", "X-Forwarded-For: 198.51.100.9"], "198.51.100.9"),
        (['Forwarded: for="[2001:db8::9]:4711"', "Forwarded: for=198.51.100.9"], "198.51.100.9"),
        (['Forwarded: for="1.1.1.1', "Forwarded: for=198.51.100.9"], "10.0.0.7:50000"),
    ],
)
def test_client_of_a_proxy_that_sends_more_than_one_header(
    fields: list[str], name: str, shortcuts: bool
) -> None:
    server = configured("10.0.0.7", debug=True, shortcuts=shortcuts)
    lines = "\r\n".join(fields)
    for headers in (handshake(), {"accept": STREAM}):
        line = opened(server, NEAR)
        head = request("/channels/a", host="push.example", **headers)
        with Log() as log:
            line.send(head.replace(b"\r\n", f"\r\n{lines}\r\n".encode(), 1))
            line.vanish()
        [came] = [text for text in log.take() if " came by " in text]
        assert came.partition(" ")[0] == name


def test_error_page_has_the_words_of_the_refusal() -> None:
    headers = {"accept": BROWSER, "origin": PAGE}
    path = "/connection/sse?cf_connect=%7B%22id%22:1,%22connect%22:%7B%7D%7D"
    answer = parse(send(Server(), HERE, path, **headers).take())
    assert answer.status == 403
    assert b"X-Forwarded-Proto: https" in answer.body
