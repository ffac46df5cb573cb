from __future__ import annotations

import pytest

from pushserver.auth.identity import ANONYMOUS, Identity
from pushserver.auth.keys import LOCAL, Key
from pushserver.auth.proxies import Proxies
from pushserver.auth.publications import BURST, Publications
from pushserver.auth.quotas import Addresses, Users
from pushserver.errors import TooMany

A, B, HERE = "203.0.113.9", "198.51.100.7", "127.0.0.1"
ANN, BOB = Identity("ann", token=True), Identity("bob", token=True)
KEY, OTHER = Identity(key=Key("shop")), Identity(key=Key("bank"))
ON_THIS_MACHINE = Identity(key=LOCAL)
MANY = 1_000


class Bench:
    def __init__(self) -> None:
        self.now = 0.0
        exempt = Addresses(Proxies.of(["127.0.0.0/8", "unix"]), Proxies())
        self.rates = Publications(exempt, 2, 6, 4, lambda: self.now)

    def allowed(self, identity: Identity, address: str | None, most: int = MANY) -> int:
        """The number of publications that are allowed now."""
        for number in range(most):
            try:
                self.rates.check(identity, address)
            except TooMany as error:
                self.setting = error.setting
                return number
        return most


@pytest.mark.parametrize(
    ("identity", "address", "count", "setting"),
    [
        (ANONYMOUS, A, 4 * BURST, "address_publications_per_second"),
        (ANN, A, 2 * BURST, "user_publications_per_second"),
        (ANN, HERE, 2 * BURST, "user_publications_per_second"),
        (KEY, A, 6 * BURST, "key_publications_per_second"),
        (ON_THIS_MACHINE, A, 4 * BURST, "address_publications_per_second"),
        (ON_THIS_MACHINE, HERE, MANY, ""),
        (KEY, HERE, MANY, ""),
        (ANONYMOUS, None, MANY, ""),
    ],
)
def test_peer_has_the_rate_of_its_kind(
    identity: Identity, address: str | None, count: int, setting: str
) -> None:
    bench = Bench()
    assert bench.allowed(identity, address) == count
    if setting:
        assert bench.setting == setting
        bench.now = 1.0
        assert bench.allowed(identity, address) == count // BURST


def test_users_keys_and_addresses_are_counted_separately() -> None:
    bench = Bench()
    assert bench.allowed(ANONYMOUS, A) == 4 * BURST
    assert bench.allowed(KEY, A) == 6 * BURST
    assert bench.allowed(OTHER, A) == 6 * BURST
    assert bench.allowed(ANONYMOUS, B) == 4 * BURST
    assert bench.allowed(ANN, HERE) == 2 * BURST
    assert bench.allowed(BOB, HERE) == 2 * BURST


def test_user_at_many_addresses_has_one_rate() -> None:
    bench = Bench()
    assert sum(bench.allowed(ANN, f"192.0.2.{n}", 5) for n in range(20)) == 2 * BURST


def test_publications_together_are_counted_all_or_none() -> None:
    bench = Bench()
    bench.rates.check(KEY, A, 50)
    with pytest.raises(TooMany) as caught:
        bench.rates.check(KEY, A, 16)
    assert caught.value.seconds == pytest.approx(1.0)
    bench.rates.check(KEY, A, 10)


def test_user_has_as_many_connections_as_allowed() -> None:
    users = Users(2)
    for _ in range(2):
        users.check("ann")
        users.enter("ann")
    with pytest.raises(TooMany, match=r"2 connections already \(connections_per_user\)"):
        users.check("ann")
    users.check("bob")
    users.check("")
    users.leave("ann")
    users.check("ann")
    users.leave("ann")
    assert users._counts == {}
