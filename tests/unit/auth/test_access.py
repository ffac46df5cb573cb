from __future__ import annotations

from dataclasses import replace

import pytest

from pushserver.auth.access import Caller, LocalRules, check_local
from pushserver.errors import Denied

LOCAL = Caller(
    address="127.0.0.1",
    host="localhost:8080",
    origin=None,
    site=None,
    secure=False,
    forwarded="",
    is_own=lambda: True,
)


def check(caller: Caller, origins: tuple[str, ...] = (), proven: bool = False) -> None:
    """The refusal by the rules for this machine, both without keys and by `local_without_key`."""
    check_local(caller, LocalRules(False, frozenset(origins)), proven)
    check_local(caller, LocalRules(True, frozenset(origins), True), proven)


def denied(caller: Caller, origins: tuple[str, ...] = ()) -> tuple[int, str]:
    refusals = set()
    for rules in (
        LocalRules(False, frozenset(origins)),
        LocalRules(True, frozenset(origins), local_without_key=True),
    ):
        with pytest.raises(Denied) as caught:
            check_local(caller, rules)
        refusals.add((caught.value.http_status, str(caught.value)))
    [refusal] = refusals
    return refusal


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", None], ids=str
)
@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8080", "LOCALHOST.", "app.localhost", "127.0.0.1:1", "[::1]:8080"],
)
def test_without_a_key_this_machine_may_publish(address: str | None, host: str) -> None:
    check(replace(LOCAL, address=address, host=host))


@pytest.mark.parametrize("address", ["192.168.0.2", "10.0.0.1", "::2", "::ffff:10.0.0.1", "", "x"])
def test_without_a_key_another_machine_is_refused(address: str) -> None:
    status, message = denied(replace(LOCAL, address=address))
    assert status == 401
    assert "X-API-Key" in message
    assert "auth.api_keys" in message


@pytest.mark.parametrize("sign", ["x-forwarded-for", "via", "HTTP/1.0"])
def test_without_a_key_a_proxy_is_refused(sign: str) -> None:
    status, message = denied(replace(LOCAL, forwarded=sign))
    assert status == 401
    assert f"proxy ({sign})" in message


def test_with_keys_configured_a_request_without_one_is_refused() -> None:
    with pytest.raises(Denied) as caught:
        check_local(LOCAL, LocalRules(True, frozenset()))
    assert caught.value.http_status == 401
    assert "auth.api_keys" in str(caught.value)


def test_without_a_key_the_program_of_another_user_is_refused() -> None:
    status, message = denied(replace(LOCAL, is_own=lambda: False))
    assert status == 401
    assert "not known to be one" in message


def test_unknown_user_is_refused_only_where_proof_is_needed() -> None:
    unknown = replace(LOCAL, is_own=lambda: None)
    check(unknown)
    with pytest.raises(Denied):
        check(unknown, proven=True)
    check(LOCAL, proven=True)


def test_owner_is_looked_up_last() -> None:
    def never() -> bool:
        raise AssertionError("asked")

    for change in (
        {"address": "10.0.0.1"},
        {"forwarded": "via"},
        {"host": "evil.example"},
        {"origin": "null"},
        {"site": "cross-site"},
    ):
        denied(replace(LOCAL, is_own=never, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "none, cross-site", "new-value"])
def test_without_a_key_a_foreign_page_is_refused_by_sec_fetch_site(site: str) -> None:
    status, message = denied(replace(LOCAL, site=site))
    assert status == 403
    assert repr(site) in message


@pytest.mark.parametrize("site", [None, "same-origin", "none"])
def test_own_pages_and_typed_urls_are_allowed_by_sec_fetch_site(site: str | None) -> None:
    check(replace(LOCAL, site=site))


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.0.2:8080", ""],
)
def test_without_a_key_a_foreign_host_name_is_refused(host: str) -> None:
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
def test_without_a_key_a_page_of_another_origin_is_refused(origin: str) -> None:
    status, message = denied(replace(LOCAL, origin=origin))
    assert status == 403
    assert repr(origin) in message
    assert "allowed_origins" in message


@pytest.mark.parametrize("origin", [None, "http://localhost:8080", "HTTP://LOCALHOST:8080"])
def test_without_a_key_a_page_of_the_same_origin_is_allowed(origin: str | None) -> None:
    check(replace(LOCAL, origin=origin))


def test_page_of_an_allowed_origin_is_allowed() -> None:
    check(replace(LOCAL, origin="https://app.example"), ("https://app.example",))


def test_allowed_origin_does_not_admit_another_machine() -> None:
    caller = replace(LOCAL, origin="https://app.example", address="10.0.0.1")
    assert denied(caller, ("https://app.example",))[0] == 401


def test_refusal_quotes_a_bounded_text() -> None:
    for caller in (replace(LOCAL, host="h" * 10_000), replace(LOCAL, origin="o" * 10_000)):
        assert len(denied(caller)[1]) < 300
