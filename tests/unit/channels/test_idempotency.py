from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels import idempotency
from pushserver.channels.idempotency import THIS_MACHINE, KeyEntry, Keys, check_key
from pushserver.channels.publication import Receipt
from pushserver.errors import InvalidKey, TooMany, Unavailable
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


def of(publisher: str, key: str, offset: int) -> KeyEntry:
    return KeyEntry("a", key, Receipt(EPOCH, offset, offset), 0.0, publisher)


def test_publisher_that_has_used_its_share_leaves_the_room_of_others() -> None:
    keys = Keys(6, 3)
    for n in range(3):
        keys.check_room(0.0, publisher="one")
        keys.remember(of("one", str(n), n + 1), 0.0)
    with pytest.raises(TooMany, match=r"3 .* \(idempotency_keys_per_publisher\)") as refused:
        keys.check_room(299.0, publisher="one")
    assert (refused.value.http_status, refused.value.seconds) == (429, 60)
    keys.check_room(0.0, publisher="other")
    keys.check_room(0.0, publisher="other", pending=2, own_pending=2)
    with pytest.raises(TooMany):
        keys.check_room(0.0, publisher="other", pending=3, own_pending=3)
    with pytest.raises(Unavailable):
        keys.check_room(0.0, publisher="third", pending=3)
    keys.check_room(300.0, publisher="one")


def test_many_keys_expire_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "EXPIRED_AT_ONCE", 2)
    keys = Keys(7, 7)
    for n in range(7):
        keys.remember(of("one", str(n), n + 1), 0.0)
    assert [keys.expire(300.0) for _ in range(4)] == [True, True, True, False]
    assert (len(keys), keys.forgotten_seq) == (0, 7)
    for publisher in ("one",) * 4 + ("other",) * 3:
        keys.remember(of(publisher, str(len(keys)), len(keys) + 1), 400.0)
    keys.check_room(700.0, pending=5, publisher="new")
    assert len(keys) == 1, "as many as were needed"


def test_keys_without_a_publisher_have_only_the_bound_of_all() -> None:
    keys = Keys(4, 2)
    for n in range(4):
        keys.check_room(0.0)
        keys.remember(of("", str(n), n + 1), 0.0)
    with pytest.raises(Unavailable):
        keys.check_room(0.0)


def test_users_and_addresses_have_a_half_of_the_room() -> None:
    keys = Keys(8, 3)
    for offset, publisher in enumerate(("user ann", "address 10.0.0.7", "user bob"), 1):
        keys.check_room(0.0, publisher=publisher)
        keys.remember(of(publisher, str(offset), offset), 0.0)
    keys.check_room(0.0, publisher="user eve")
    with pytest.raises(Unavailable, match=r"more than 4 .*without an API key"):
        keys.check_room(0.0, publisher="user eve", own_pending=1)
    keys.remember(of("user eve", "4", 4), 0.0)
    for publisher in ("user new", "address 10.0.0.8"):
        with pytest.raises(Unavailable, match=r"more than 4 .* \(half of idempotency_keys\)"):
            keys.check_room(299.0, publisher=publisher)
    for offset, publisher in enumerate(("key shop", "", f"{THIS_MACHINE}127.0.0.1", "key b"), 5):
        keys.check_room(299.0, publisher=publisher)
        keys.remember(of(publisher, str(offset), offset), 299.0)
    keys.check_room(300.0, publisher="user new")


def test_guests_may_use_the_only_key() -> None:
    keys = Keys(1)
    keys.check_room(0.0, publisher="user ann")
    keys.remember(of("user ann", "1", 1), 0.0)
    with pytest.raises(Unavailable):
        keys.check_room(0.0, publisher="user bob")


@given(
    st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from("klmno"), st.integers(0, 200))),
    st.integers(1, 4),
)
def test_each_publisher_has_as_many_keys_as_are_counted(
    uses: list[tuple[str, str, int]], most_of_one: int
) -> None:
    keys, now = Keys(6, most_of_one), 0.0
    born: dict[KeyEntry, float] = {}
    for seq, (publisher, key, seconds) in enumerate(uses, 1):
        now += seconds
        if keys.find("a", key, now) is None:
            own = [e for e in keys if e.publisher == publisher and born[e] + 300 > now]
            total = [e for e in keys if born[e] + 300 > now]
            try:
                keys.check_room(now, publisher=publisher)
            except TooMany:
                assert len(own) >= most_of_one
                continue
            except Unavailable:
                assert len(total) >= 6
                continue
            assert len(own) < most_of_one
            entry = of(publisher, key, seq)
            born[entry] = now
            keys.remember(entry, now)
        counts = Counter(entry.publisher for entry in keys)
        assert keys._counts == counts
