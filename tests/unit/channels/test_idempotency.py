from __future__ import annotations

import pytest

from pushserver.channels.idempotency import KeyEntry, Keys, check_key
from pushserver.channels.publication import Receipt
from pushserver.errors import InvalidKey, Unavailable
from tests.unit.fakes.tools import EPOCH


def entry(key: str, time: float = 0.0, channel: str = "a", offset: int = 1) -> KeyEntry:
    return KeyEntry(channel, key, Receipt(EPOCH, offset, offset), time)


@pytest.mark.parametrize("key", ["k", "a b", "x" * 128, "~!@#"])
def test_printable_ascii_is_a_valid_key(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize("key", ["", "x" * 129, "ü", "a\n", "\0", "x" * 100_000])
def test_invalid_key_is_refused_with_the_rule(key: str) -> None:
    with pytest.raises(InvalidKey, match="expected 1 to 128 printable ASCII characters") as refused:
        check_key(key)
    assert len(str(refused.value)) < 300


def test_key_is_remembered_for_five_minutes_in_its_channel() -> None:
    keys = Keys(10)
    keys.remember(entry("k"), 100.0)
    assert keys.find("a", "k", 399.9) == Receipt(EPOCH, 1, 1)
    assert keys.find("a", "k", 400.0) is None
    assert keys.find("b", "k", 100.0) is None
    assert keys.find("a", "K", 100.0) is None


def test_expire_removes_old_keys_only() -> None:
    keys = Keys(10)
    for n in range(4):
        keys.remember(entry(str(n)), 100.0 * n)
    keys.expire(450.0)
    assert [k.key for k in keys] == ["2", "3"]
    assert len(keys) == 2


def test_key_used_again_expires_later() -> None:
    keys = Keys(10)
    keys.remember(entry("k"), 0.0)
    keys.remember(entry("other"), 10.0)
    keys.remember(entry("k", offset=2), 400.0)
    keys.expire(320.0)
    assert keys.find("a", "k", 500.0) == Receipt(EPOCH, 2, 2)
    assert len(keys) == 1


def test_no_key_is_removed_early_to_make_room() -> None:
    keys = Keys(2)
    keys.remember(entry("1"), 0.0)
    keys.check_room(0.0)
    keys.remember(entry("2"), 100.0)
    with pytest.raises(Unavailable, match=r"more than 2 .* \(idempotency_keys\)"):
        keys.check_room(299.0)
    assert len(keys) == 2
    keys.check_room(300.0)
    assert [k.key for k in keys] == ["2"]
