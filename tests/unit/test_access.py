from __future__ import annotations

from dataclasses import replace

import pytest

from pushserver.access import Caller, Denied, check_publisher

KEYS = ("s3cret", "other", "schlüssel")
LOCAL = Caller(
    address="127.0.0.1",
    host="localhost:8080",
    origin=None,
    secure=False,
    forwarded=False,
    key=None,
)


def check(caller: Caller, origins: tuple[str, ...] = ()) -> None:
    check_publisher(caller, KEYS, origins)


def denied(caller: Caller, origins: tuple[str, ...] = ()) -> tuple[int, str]:
    with pytest.raises(Denied) as caught:
        check(caller, origins)
    assert str(caught.value) == caught.value.message
    return caught.value.status, caught.value.message


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", None], ids=str
)
@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8080", "LOCALHOST.", "app.localhost", "127.0.0.1:1", "[::1]:8080"],
)
def test_without_a_key_this_machine_may(address: str | None, host: str) -> None:
    check(replace(LOCAL, address=address, host=host))


@pytest.mark.parametrize("address", ["192.168.0.2", "10.0.0.1", "::2", "::ffff:10.0.0.1", "", "x"])
def test_without_a_key_no_other_machine_may(address: str) -> None:
    status, message = denied(replace(LOCAL, address=address))
    assert status == 401
    assert "X-API-Key" in message
    assert "auth.api_keys" in message


def test_without_a_key_nobody_may_through_a_proxy() -> None:
    status, message = denied(replace(LOCAL, forwarded=True))
    assert status == 401
    assert "proxy" in message


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.0.2:8080", ""],
)
def test_without_a_key_a_name_that_was_pointed_here_is_refused(host: str) -> None:
    status, message = denied(replace(LOCAL, host=host))
    assert status == 403
    assert repr(host) in message


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://localhost:8080",
        "http://localhost:8081",
        "http://localhost",
        "null",
        "",
        "file://",
    ],
)
def test_without_a_key_a_page_of_somebody_else_is_refused(origin: str) -> None:
    status, message = denied(replace(LOCAL, origin=origin))
    assert status == 403
    assert repr(origin) in message
    assert "allowed_origins" in message


@pytest.mark.parametrize("origin", [None, "http://localhost:8080", "HTTP://LOCALHOST:8080"])
def test_without_a_key_a_page_of_our_own_may(origin: str | None) -> None:
    check(replace(LOCAL, origin=origin))


def test_a_page_of_an_allowed_origin_may() -> None:
    check(replace(LOCAL, origin="https://app.example"), ("https://app.example",))


def test_an_allowed_origin_opens_nothing_to_another_machine() -> None:
    caller = replace(LOCAL, origin="https://app.example", address="10.0.0.1")
    assert denied(caller, ("https://app.example",))[0] == 401


@pytest.mark.parametrize("key", KEYS)
def test_with_a_key_everybody_may_from_everywhere(key: str) -> None:
    check(Caller("10.0.0.1", "evil.example", "http://evil.example", True, True, key))


@pytest.mark.parametrize("key", ["", "S3cret", "s3cret ", "s3cre", "s3crets", "ü", "\udcff"])
def test_a_wrong_key_is_worse_than_none(key: str) -> None:
    status, message = denied(replace(LOCAL, key=key))
    assert status == 401
    assert "auth.api_keys" in message
    assert not key or key not in message


def test_no_key_is_right_where_there_are_none() -> None:
    with pytest.raises(Denied):
        check_publisher(replace(LOCAL, key=""), (), ())


def test_what_a_refusal_quotes_has_a_bound() -> None:
    for caller in (replace(LOCAL, host="h" * 10_000), replace(LOCAL, origin="o" * 10_000)):
        assert len(denied(caller)[1]) < 300
