from __future__ import annotations

import pytest

from pushserver.auth.keys import (
    EVERYTHING,
    Key,
    Keys,
    check_key_name,
    check_scopes,
    digest,
    digest_in,
    hash_of,
    is_hash,
    new_key,
)
from pushserver.auth.patterns import Patterns
from pushserver.errors import Denied

SHOP = Key("shop", Patterns.of(["orders:*", "news"]), frozenset({"publish", "read"}))
OTHER = Key("other", Patterns.of(["*"]), frozenset({"admin"}))
KEYS = Keys([(SHOP, digest("s3cret of the shop")), (OTHER, digest("schlüssel"))])


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("s3cret of the shop", SHOP),
        ("schlüssel", OTHER),
        ("s3cret of the shop ", None),
        ("S3cret of the shop", None),
        ("", None),
        ("\udcff", None),
        (digest("schlüssel").hex(), None),
        (hash_of("schlüssel"), None),
    ],
)
def test_a_key_is_found_by_its_secret_only(text: str, key: Key | None) -> None:
    assert KEYS.find(text) is key


def test_a_key_of_bytes_that_are_not_utf8_is_found() -> None:
    assert Keys([(SHOP, digest("\udcff"))]).find("\udcff") is SHOP


def test_a_text_that_cannot_be_encoded_is_no_key() -> None:
    assert KEYS.find("\ud800") is None


def test_no_keys_find_nothing() -> None:
    assert not Keys()
    assert Keys().find("") is None


def test_all_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(given: bytes, known: bytes) -> bool:
        compared.append(known)
        return given == known

    monkeypatch.setattr("pushserver.auth.keys.hmac.compare_digest", compare)
    for text in ("s3cret of the shop", "wrong"):
        KEYS.find(text)
        assert compared == [digest("s3cret of the shop"), digest("schlüssel")]
        compared.clear()


@pytest.mark.parametrize(
    ("scope", "channel", "allowed"),
    [
        ("publish", "news", True),
        ("read", "orders:1", True),
        ("publish", "order", False),
        ("admin", "news", False),
        ("publish", None, False),
    ],
)
def test_a_key_counts_for_its_scopes_on_its_channels(
    scope: str, channel: str | None, allowed: bool
) -> None:
    [word] = check_scopes([scope])
    assert SHOP.allows(word, channel) is allowed


def test_only_a_key_for_all_channels_counts_for_the_whole_server() -> None:
    assert OTHER.allows("admin", None)
    assert not OTHER.allows("publish", None)
    assert not Key("x", Patterns.of(["a*", "b*"]), EVERYTHING).allows("admin", None)


def test_a_refusal_names_the_key_its_scopes_and_the_setting() -> None:
    with pytest.raises(Denied, match=r"may not read .a\\n.: it may"):
        SHOP.check("read", "a\n")
    SHOP.check("publish", "news")
    with pytest.raises(Denied) as caught:
        SHOP.check("admin", "news")
    assert caught.value.http_status == 403
    assert str(caught.value) == (
        "the key shop may not administer news: it may publish and read on the channels orders:*,"
        " news (auth.keys.shop)"
    )
    with pytest.raises(Denied, match="the key shop may not administer the whole server: it may"):
        SHOP.check("admin", None)


def test_a_new_key_is_random_and_its_hash_finds_it() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        assert key.startswith("psk_")
        assert len(key) >= 43
        assert Keys([(SHOP, digest_in(hash_of(key)))]).find(key) is SHOP


def test_a_hash_may_have_capital_letters() -> None:
    assert digest_in(hash_of("x").upper()) == digest("x")


@pytest.mark.parametrize("text", ["", "s3cret", "sha256:", "sha256:" + "g" * 64, "a" * 64])
def test_another_text_is_no_hash_and_is_not_shown(text: str) -> None:
    assert not is_hash(text)
    with pytest.raises(ValueError, match=r"^expected sha256: and 64 hexadecimal digits") as caught:
        digest_in(text)
    assert not text or text not in str(caught.value) or text == "sha256:"


@pytest.mark.parametrize("name", ["", "a b", "a.b", "ü", "a\n", "x" * 65])
def test_names_of_keys_have_few_characters(name: str) -> None:
    with pytest.raises(ValueError, match="expected 1 to 64 characters"):
        check_key_name(name)


@pytest.mark.parametrize("names", [["write"], [], ["publish", "Read"], [""]])
def test_unknown_scopes_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="expected publish, read or admin"):
        check_scopes(names)
