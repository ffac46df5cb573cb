"""Trusted proxies, and the client, scheme and host that they forward."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.auth.proxies import (
    EVERYONE,
    LOCAL,
    NO_PROXIES,
    Forwarded,
    Proxies,
    forwarded,
    parse_forwarded,
)

TWO = Proxies.of(["10.0.0.0/8", "fd00::7"])


def of(**headers: str) -> Forwarded:
    """What these headers forward; `_` stands for `-`."""
    return forwarded(lambda name: headers.get(name.replace("-", "_")))


@pytest.mark.parametrize(
    ("address", "contained"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("::ffff:10.1.2.3", True),
        ("fd00::7", True),
        ("fd00:0:0::7", True),
        ("fd00::7%eth0", True),
        ("fd00::8", False),
        ("", False),
        ("localhost", False),
        ("10.1.2.3, 10.1.2.3", False),
        (None, False),
    ],
)
def test_addresses_are_compared_as_numbers(address: str | None, contained: bool) -> None:
    assert (address in TWO) is contained
    assert address not in NO_PROXIES


def test_a_unix_socket_has_a_word_of_its_own() -> None:
    assert None in Proxies.of(["unix"])
    assert None in LOCAL
    assert "127.0.0.1" not in Proxies.of(["unix"])


@pytest.mark.parametrize(
    "text", ["", "localhost", "10.0.0.1:80", "10.0.0.0/33", "10.0.0.1/8", "*", "loopback", "UNIX"]
)
def test_other_texts_are_no_proxies(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected one such as 127\.0\.0\.1") as caught:
        Proxies.of(["10.0.0.1", text])
    assert repr(text) in str(caught.value)


CLIENTS = [
    ("203.0.113.7", "203.0.113.7"),
    # A client sends the header itself; the proxy appends.
    ("1.1.1.1, 203.0.113.7", "203.0.113.7"),
    ("10.0.0.9, 203.0.113.7", "203.0.113.7"),
    # Several trusted proxies.
    ("1.1.1.1, 203.0.113.7, 10.0.0.2", "203.0.113.7"),
    ("203.0.113.7,10.0.0.3 , fd00::7", "203.0.113.7"),
    # All of them are trusted: the first one is the client.
    ("10.0.0.4, 10.0.0.5", "10.0.0.4"),
    # With ports, and in the form of URLs.
    ("203.0.113.7:4711", "203.0.113.7"),
    ("[2001:db8::1]:4711", "2001:db8::1"),
    ("[2001:db8::1]", "2001:db8::1"),
    ("2001:DB8::1", "2001:db8::1"),
    ("::ffff:203.0.113.7", "203.0.113.7"),
    # The nearest proxy does not name its client.
    ("1.1.1.1, unknown", "10.0.0.1"),
    ("1.1.1.1, _hidden", "10.0.0.1"),
    ("1.1.1.1, ", "10.0.0.1"),
    ("1.1.1.1, evil\x1b]0;x", "10.0.0.1"),
    ("1.1.1.1, 203.0.113.700", "10.0.0.1"),
    ("1.1.1.1, [::1", "10.0.0.1"),
    ("1.1.1.1, unknown, 10.0.0.2", "10.0.0.2"),
    ("", "10.0.0.1"),
]


@pytest.mark.parametrize(("text", "client"), CLIENTS)
def test_the_client_is_the_last_address_that_is_not_of_a_trusted_proxy(
    text: str, client: str
) -> None:
    assert of(x_forwarded_for=text).client("10.0.0.1", TWO) == client
    assert of(x_forwarded_for=text).client("203.0.113.80", TWO) == "203.0.113.80"
    assert of(x_forwarded_for=text).client("10.0.0.1", NO_PROXIES) == "10.0.0.1"
    assert of(x_forwarded_for=text).client(None, TWO) is None


@pytest.mark.parametrize(
    ("text", "client"),
    [
        ("for=203.0.113.7", "203.0.113.7"),
        ("For=203.0.113.7;Proto=https;by=10.0.0.1", "203.0.113.7"),
        ('for="[2001:db8::1]:4711"', "2001:db8::1"),
        ('for="203.0.113.7:4711";proto=http', "203.0.113.7"),
        ("for=[2001:db8::1]", "2001:db8::1"),
        ('for="[2001:db8::1]:_port"', "2001:db8::1"),
        (r'for="203.0\.113.7"', "203.0.113.7"),
        ("for=1.1.1.1, for=203.0.113.7 , for=10.0.0.2", "203.0.113.7"),
        ("for=1.1.1.1,,for=203.0.113.7,", "203.0.113.7"),
        ("for=_gazonk", "10.0.0.1"),
        ("for=unknown", "10.0.0.1"),
        ("for=1.1.1.1, proto=https", "10.0.0.1"),
        # One address twice in an element: the first counts.
        ("for=203.0.113.7;for=1.1.1.1", "203.0.113.7"),
    ],
)
def test_the_client_in_forwarded(text: str, client: str) -> None:
    assert of(forwarded=text).client("10.0.0.1", TWO) == client
    assert of(forwarded=text).client("203.0.113.80", TWO) == "203.0.113.80"


@pytest.mark.parametrize(
    "sent", ['for="1.1.1.1', 'for="1.1.1.1\\', "for=1.1.1.1;x=\"'", 'for=1.1.1.1;x="', "a b", "="]
)
@pytest.mark.parametrize("added", ["for=203.0.113.7", 'for="[2001:db8::1]:4711"'])
def test_a_client_cannot_hide_what_the_proxy_appends(sent: str, added: str) -> None:
    """An open quote before it; then the proxy counts as the client, and nobody else does."""
    assert of(forwarded=f"{sent}, {added}").client("10.0.0.1", TWO) == "10.0.0.1"


def test_forwarded_of_a_client_does_not_count_beside_x_forwarded_for() -> None:
    """As with a proxy that sets the one and passes on the other."""
    both = of(x_forwarded_for="203.0.113.7", forwarded="for=1.1.1.1;proto=https;host=evil.example")
    assert both.client("10.0.0.1", TWO) == "203.0.113.7"
    assert both.origin("10.0.0.1", TWO) == ("", "")
    only_proto = of(x_forwarded_proto="https", forwarded="for=1.1.1.1;proto=http")
    assert only_proto.client("10.0.0.1", TWO) == "10.0.0.1"
    assert only_proto.origin("10.0.0.1", TWO) == ("https", "")


ORIGINS = [
    ({"x_forwarded_proto": "https"}, ("https", "")),
    (
        {"x_forwarded_proto": "HTTPS", "x_forwarded_host": "push.example:8443"},
        PUSH := ("https", "push.example:8443"),
    ),
    ({"x_forwarded_proto": "wss", "x_forwarded_host": "push.example:8443"}, PUSH),
    ({"forwarded": 'for=1.1.1.1;proto=https;host="push.example:8443"'}, PUSH),
    ({"forwarded": "proto=https;host=push.example:8443"}, PUSH),
    ({"x_forwarded_proto": "ftp"}, ("", "")),
    ({"x_forwarded_proto": ""}, ("", "")),
    ({"x_forwarded_host": "a b"}, ("", "")),
    ({"x_forwarded_host": "push.example/x"}, ("", "")),
    ({"x_forwarded_host": ""}, ("", "")),
    ({}, ("", "")),
    # The nearest proxy is trusted, and the value at its left is the client's own.
    (
        {
            "x_forwarded_for": "1.1.1.1, 203.0.113.7",
            "x_forwarded_proto": "http, https",
            "x_forwarded_host": "evil.example, push.example",
        },
        ("https", "push.example"),
    ),
    ({"forwarded": "proto=http;host=evil.example, for=203.0.113.7;proto=https"}, ("https", "")),
    # Two trusted proxies: the outer one knows the page's URL.
    (
        {
            "x_forwarded_for": "203.0.113.7, 10.0.0.2",
            "x_forwarded_proto": "https, http",
            "x_forwarded_host": "push.example, 10.0.0.1",
        },
        ("https", "push.example"),
    ),
    (
        {
            "forwarded": "for=1.1.1.1;proto=http, for=203.0.113.7;proto=https;host=push.example,"
            " for=10.0.0.2;proto=http;host=inner"
        },
        ("https", "push.example"),
    ),
    # The inner one passes on the value of the outer one.
    ({"x_forwarded_for": "203.0.113.7, 10.0.0.2", "x_forwarded_proto": "https"}, ("https", "")),
]


@pytest.mark.parametrize(("headers", "origin"), ORIGINS)
def test_scheme_and_host_are_those_of_the_outermost_trusted_proxy(
    headers: dict[str, str], origin: tuple[str, str]
) -> None:
    assert of(**headers).origin("10.0.0.1", TWO) == origin
    assert of(**headers).origin("203.0.113.80", TWO) == ("", "")


@given(st.text(st.sampled_from('for=host;proto,"\\[]:1. _unkwn\t'), max_size=80))
def test_no_text_of_a_client_changes_what_the_proxy_appends(text: str) -> None:
    client = of(forwarded=f"{text}, for=203.0.113.7").client("10.0.0.1", TWO)
    assert client in ("203.0.113.7", "10.0.0.1")
    assert of(x_forwarded_for=f"{text}, 203.0.113.7").client("10.0.0.1", TWO) == "203.0.113.7"


def test_elements_of_forwarded() -> None:
    text = 'for="a, b;c" ; Proto=https,, by=_x'
    assert parse_forwarded(text) == [{"for": "a, b;c", "proto": "https"}, {"by": "_x"}]
    assert parse_forwarded("") == []


@pytest.mark.parametrize("unit", ["for=1.1.1.1,", 'a="', '"\\', "a=b;", ",", " ", "a", '="'])
def test_long_headers_are_read_in_linear_time(unit: str) -> None:
    """A request may have 16 kilobytes; with this text, quadratic reading would take minutes."""
    text = unit * (200_000 // len(unit))
    of(forwarded=text).client("10.0.0.1", EVERYONE)
    of(x_forwarded_for=text, x_forwarded_proto=text).origin("10.0.0.1", EVERYONE)
