from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.auth.origin import (
    allowed_origin,
    loopback_address,
    loopback_host,
    numeric_host,
    valid_host,
)

FOREIGN = [
    "http://evil.example",
    "http://push.example:81",
    "http://push.example:8080",
    "https://push.example",
    "https://push.example:80",
    "ws://push.example",
    "http://push.example.evil.example",
    "http://evilpush.example",
    "http://www.push.example",
    "http://push.exampl",
    "http://push.example@evil.example",
    "http://user@push.example",
    "http://push.example/",
    "http://push.example http://evil.example",
    "http://push.example, http://evil.example",
    "http://push.example, http://push.example",
    "HTTP://EVIL.EXAMPLE",
    "http://push.example:80:80",
    "http://push.example.",
    "http://xn--push-.example",
    "null",
    "file://",
    "chrome-extension://abcdefgh",
    "push.example",
    "",
    "*",
]


@pytest.mark.parametrize("origin", FOREIGN)
def test_page_of_another_origin_is_refused(origin: str) -> None:
    assert not allowed_origin(origin, "push.example", False, None, frozenset())
    assert not allowed_origin(
        origin, "push.example:80", False, None, frozenset({"https://app.example"})
    )


@pytest.mark.parametrize(
    ("origin", "host", "secure"),
    [
        ("http://push.example", "push.example", False),
        ("http://push.example", "PUSH.example:80", False),
        ("http://push.example:80", "push.example", False),
        ("HTTP://Push.Example", "push.example", False),
        ("http://localhost:8080", "localhost:8080", False),
        ("http://[::1]:8080", "[::1]:8080", False),
        ("https://push.example", "push.example", True),
        ("https://push.example", "push.example:443", True),
        ("https://push.example:8443", "push.example:8443", True),
    ],
)
def test_page_of_the_same_origin_is_allowed(origin: str, host: str, secure: bool) -> None:
    assert allowed_origin(origin, host, secure, None, frozenset())


def test_http_and_https_are_different_origins() -> None:
    assert not allowed_origin("http://push.example", "push.example", True, None, ())
    assert not allowed_origin("http://push.example:443", "push.example", True, None, ())
    assert not allowed_origin("https://push.example:443", "push.example:443", False, None, ())


def test_request_without_browser_headers_is_allowed() -> None:
    assert allowed_origin(None, "push.example", False, None, ())


def test_listed_origin_is_allowed_in_any_case() -> None:
    allowed = frozenset({"https://app.example"})
    assert allowed_origin("https://app.example", "push.example", False, None, allowed)
    assert allowed_origin("https://APP.example", "push.example", False, None, allowed)
    assert not allowed_origin("http://app.example", "push.example", False, None, allowed)
    assert not allowed_origin(
        "https://app.example.evil.example", "push.example", False, None, allowed
    )
    assert not allowed_origin("null", "push.example", False, None, allowed)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "new-value", "", "none, cross-site"])
def test_without_an_origin_sec_fetch_site_decides(site: str) -> None:
    assert not allowed_origin(None, "push.example", False, site, ())
    assert allowed_origin(None, "push.example", False, "none", ())
    assert allowed_origin(None, "push.example", False, "same-origin", ())


@pytest.mark.parametrize("origin", ["null", "https://push.example"])
def test_sec_fetch_site_decides_about_the_origin_null(origin: str) -> None:
    """A form on a page without referrers sends null; TLS of a proxy is not visible here."""
    assert allowed_origin(origin, "push.example", False, "same-origin", ())
    for site in (None, "none", "same-site", "cross-site", "same-origin, cross-site"):
        assert not allowed_origin(origin, "push.example", False, site, ())


@pytest.mark.parametrize("host", ["10.0.0.1", "0.0.0.0:80", "[::2]:8080", "127.0.0.1", "[::1]"])
def test_address_is_a_numeric_host(host: str) -> None:
    assert numeric_host(host)


@pytest.mark.parametrize(
    "host", ["", "localhost", "1.2.3", "10.0.0.1.evil.example", "2130706433", "0x7f.0.0.1", "::1"]
)
def test_name_like_an_address_is_not_numeric(host: str) -> None:
    assert not numeric_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost.localdomain:80",
        "ip6-localhost",
        "LOCALHOST:8080",
        "localhost.",
        "app.localhost",
        "app.localhost.:1",
        "127.0.0.1",
        "127.0.0.1:8080",
        "127.255.255.254",
        "[::1]",
        "[::1]:8080",
        "[::ffff:127.0.0.1]",
    ],
)
def test_names_of_this_machine_are_loopback_hosts(host: str) -> None:
    assert loopback_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "push.example",
        "localhost.evil.example",
        "evillocalhost",
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.io",
        "128.0.0.1",
        "0.0.0.0",
        "10.0.0.1",
        "[::2]",
        "[fe80::1]",
        "[::ffff:10.0.0.1]",
        "2130706433",
        "0x7f.1",
        "127.1",
        "localhost:8080:80",
        "user@localhost",
        "localhost/",
        " localhost",
        "localhost\n",
    ],
)
def test_names_of_other_machines_are_not_loopback_hosts(host: str) -> None:
    assert not loopback_host(host)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:8.8.8.8", False),
        ("192.168.1.1", False),
        ("::", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_loopback_addresses_are_recognized(address: str, loopback: bool) -> None:
    assert loopback_address(address) is loopback


@pytest.mark.parametrize(
    "host",
    ["a", "push.example", "push_1.example:0", "a.b.", "10.0.0.1:65535", "[::1]:80", "[fe80::1]"],
)
def test_name_or_address_is_valid_with_or_without_a_port(host: str) -> None:
    assert valid_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":80",
        "a:",
        "a:65536",
        "a:123456",
        "a:x",
        "a b",
        "a/b",
        "a@b",
        "a\n",
        "<script>",
        "é.example",
        "::1",
        "[::1",
        "-a",
        "a-",
        ".a",
        "x" * 256,
    ],
)
def test_any_other_text_is_not_a_valid_host(host: str) -> None:
    assert not valid_host(host)


@given(st.text(max_size=40), st.text(max_size=40), st.booleans())
def test_any_text_is_accepted_as_an_argument(origin: str, host: str, secure: bool) -> None:
    assert isinstance(allowed_origin(origin, host, secure, None, ()), bool)
    assert isinstance(loopback_host(host) or valid_host(host), bool)
    if loopback_host(host):
        assert "\n" not in host
