"""The URLs of Redis servers, as clients of Redis write them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pushserver.config.redis_url import Address, parse_url
from pushserver.errors import InvalidConfig

HERE = Address("h", 26379)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost", Address("localhost")),
        ("redis://10.0.0.7:6380/2", Address("10.0.0.7", 6380, database=2)),
        ("redis://h?db=2", Address("h", database=2)),
        ("redis://:pass%40word@r/", Address("r", password="pass@word")),
        ("redis://:pass@word@r", Address("r", password="pass@word")),
        ("redis://me:secret@[::1]:7", Address("::1", 7, user="me", password="secret")),
        ("redis://h?username=me&password=p", Address("h", user="me", password="p")),
        ("rediss://r.example", Address("r.example", tls=True)),
        ("REDISS://r.example", Address("r.example", tls=True)),
        ("valkey://h", Address("h")),
        ("valkeys://h", Address("h", tls=True)),
        ("unix:///run/redis/socket", Address(path="/run/redis/socket")),
        ("unix:/run/redis/socket", Address(path="/run/redis/socket")),
        ("redis+unix:///a%20b", Address(path="/a b")),
        ("redis+socket:///s?db=3&password=p", Address(path="/s", password="p", database=3)),
        ("unix://:p@/s?db=3", Address(path="/s", password="p", database=3)),
        ("sentinel://h/m", Address(master="m", sentinels=(Address("h", 26379),))),
        ("redis-sentinel://h/m?db=2", Address(master="m", database=2, sentinels=(HERE,))),
        (
            "redis+sentinel://me:secret@h,[::1]:7/my.master-1/3",
            Address(
                user="me",
                password="secret",
                database=3,
                master="my.master-1",
                sentinels=(HERE, Address("::1", 7)),
            ),
        ),
        (
            "rediss+sentinel://:p@h/m?sentinel_username=a&sentinel_password=b",
            Address(
                tls=True,
                password="p",
                master="m",
                sentinels=(replace(HERE, tls=True, user="a", password="b"),),
            ),
        ),
    ],
)
def test_valid_ones_are_parsed(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "localhost:6379",
        "http://localhost",
        "redis://",
        "redis://h:0",
        "redis://h:99999",
        "redis://h:x",
        "redis://a b",
        "redis://a..b",
        "redis://-/",
        "redis://h/one",
        "redis://h/-1",
        "redis://h/0/1",
        "redis://h/1?db=1",
        "redis://h?base=1",
        "redis://h#1",
        "redis://user@h",
        "redis://[::1",
        "redis://a,b",
        "redis://%ff:p@h",
        "redis://h\ud800",
        "unix://host/path",
        "unix://path",
        "unix:///path?base=1",
        "unix:///path?db=1&db=2",
        "unix:///path?db",
        "unix:///%00",
        "unix:///" + 107 * "x",
        "sentinel://h",
        "sentinel:///m",
        "sentinel://h,/m",
        "sentinel://h:x/m",
        "sentinel://h:0,i/m",
        "sentinel://h/m/x",
        "sentinel://h/m/1?db=1",
        "sentinel://h/m n",
        "sentinel://user@h/m",
        "sentinel://h/m?sentinel_username=a",
        "sentinel://" + ",".join("h" * 17) + "/m",
        "redis://h?sentinel_password=b",
    ],
)
def test_others_are_refused_with_the_rule(url: str) -> None:
    with pytest.raises(InvalidConfig, match=r"invalid URL of a Redis server .*: expected redis"):
        parse_url(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:secret@h/x", "'redis://...@h/x'"),
        ("redis://:secret/@h", "'redis://...@h'"),
        ("redis://:secret://@h/x", "'redis://...@h/x'"),
        ("redis://:se@secret@h/x", "'redis://...@h/x'"),
        ("me:secret@h", "'...@h'"),
        ("redis://h/x?password=secret&db=1", "'redis://h/x?password=...&db=1'"),
        ("redis://h/x?db=1&username=secret", "'redis://h/x?db=1&username=...'"),
        ("sentinel://h?sentinel_password=secret", "'sentinel://h?sentinel_password=...'"),
    ],
)
def test_no_error_has_the_password(url: str, shown: str) -> None:
    with pytest.raises(InvalidConfig, match="invalid URL") as refused:
        parse_url(url)
    assert shown in str(refused.value)
    assert "secret" not in str(refused.value)


def test_no_text_of_an_address_has_the_password() -> None:
    address = parse_url("redis://me:secret@h")
    assert (f"{address} {address!r}") == "h:6379 <Address h:6379>"


def test_text_of_sentinels_has_the_name_and_the_places() -> None:
    address = parse_url("sentinel://:secret@a,b:7/main?sentinel_password=secret")
    assert str(address) == "main of the Sentinels a:26379, b:7"
    assert "secret" not in repr(address)


def test_certificates_vouch_for_the_sentinels_too() -> None:
    address = parse_url("rediss+sentinel://a,b/main").vouched_for_by("/ca.pem")
    assert {address.ca, *(each.ca for each in address.sentinels)} == {"/ca.pem"}
