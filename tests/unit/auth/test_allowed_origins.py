from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.auth.allowed_origins import Origins, normal_origin
from pushserver.auth.origin import allowed_origin


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("https://app.example", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:80", "http://app.example"),
        ("http://app.example:0080", "http://app.example"),
        ("http://app.example:443", "http://app.example:443"),
        ("https://app.example:8443", "https://app.example:8443"),
        ("HTTPS://App.Example", "https://app.example"),
        ("https://Büro.example", "https://xn--bro-hoa.example"),
        ("https://straße.example", "https://xn--strae-oqa.example"),
        ("https://例え。テスト:443", "https://xn--r8jz45g.xn--zckzah"),
        ("https://xn--bro-hoa.example", "https://xn--bro-hoa.example"),
        ("http://[0:0::1]:3000", "http://[::1]:3000"),
        ("http://10.0.0.1", "http://10.0.0.1"),
        ("http://my_box:8080", "http://my_box:8080"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("app://-", "app://-"),
        ("https://*.App.example:443", "https://*.app.example"),
        ("https://*.büro.example:8443", "https://*.xn--bro-hoa.example:8443"),
        ("http://*.localhost:3000", "http://*.localhost:3000"),
    ],
)
def test_an_origin_is_normalized_as_browsers_send_it(text: str, normal: str) -> None:
    assert normal_origin(text) == normal
    assert normal_origin(normal) == normal


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("*", "would allow every page"),
        ("https://*", "a * stands for the first label of a name"),
        ("https://app.*", "a * stands for the first label of a name"),
        ("https://a*.example.com", "a * stands for the first label of a name"),
        ("https://*.*.example.com", "a * stands for the first label of a name"),
        ("https://app.*.example.com", "a * stands for the first label of a name"),
        ("https://*.com", "is no pattern of names below a domain"),
        ("https://*.10.0.0.1", "is no pattern of names below a domain"),
        ("*://app.example", "expected one such as https://"),
        ("*.example.com", "expected one such as https://"),
        ("https://*.example.com:*", "expected one such as https://"),
        ("https://*.[::1]", "expected one such as https://"),
        ("https://[::zz]", "expected one such as https://"),
        ("https://[::1::]", "expected one such as https://"),
        ("https://app.example:", "expected one such as https://"),
        ("https://app.example:99999", "the port is over 65535"),
        ("https://user@app.example", "expected one such as https://"),
        ("https://app.example?x", "expected one such as https://"),
        ("https://app..example", "invalid host name"),
        ("https://i❤.example", "not allowed"),
        ("https://" + "ü" * 300, "expected one such as https://"),
        ("null", "expected one such as https://"),
        ("https://*.app.example/", "expected https://*.app.example, without a slash"),
    ],
)
def test_a_text_that_can_match_no_origin_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        normal_origin(text)


@pytest.mark.parametrize(
    ("origin", "contained"),
    [
        ("https://app.example.com", True),
        ("https://APP.example.com:443", True),
        ("https://xn--bro-hoa.example.com", True),
        ("https://example.com", False),
        ("https://.example.com", False),
        ("https://a.b.example.com", False),
        ("https://evil-example.com", False),
        ("https://app.example.com.evil.example", False),
        ("https://evil.example/.example.com", False),
        ("https://evil.example#.example.com", False),
        ("https://a@b.example.com", False),
        ("http://app.example.com", False),
        ("https://app.example.com:8443", False),
        ("https://app.example.com:80", False),
        ("null", False),
        ("", False),
    ],
)
def test_a_pattern_contains_origins_with_exactly_one_label(origin: str, contained: bool) -> None:
    origins = Origins.of(["https://*.example.com", "https://other.example"])
    assert (origin in origins) == contained
    assert allowed_origin(origin, "push.example", True, None, origins) == contained
    assert not origins.has_exact(origin)


def test_a_pattern_may_have_a_port() -> None:
    origins = Origins.of(["http://*.localhost:3000"])
    assert "http://shop.localhost:3000" in origins
    assert "http://shop.localhost" not in origins
    assert "http://shop.localhost:30000" not in origins


@pytest.mark.parametrize("text", ["https://app.example:443", "https://APP.example"])
def test_the_default_port_makes_no_difference(text: str) -> None:
    origins = Origins.of([text])
    for origin in ("https://app.example", "https://app.example:443", "HTTPS://App.example"):
        assert origin in origins
        assert origins.has_exact(origin)
    assert "https://app.example:80" not in origins
    assert "http://app.example" not in origins


@given(st.text())
def test_any_text_is_a_valid_argument(text: str) -> None:
    assert text not in Origins.of(["https://*.example.com"])
    with suppress(ValueError):
        normal_origin(text)
