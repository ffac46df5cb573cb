"""The rates of publications by user, by API key and by address."""

from __future__ import annotations

from collections.abc import Callable

from pushserver.auth.identity import Identity
from pushserver.auth.keys import LOCAL
from pushserver.auth.quotas import Addresses
from pushserver.auth.rates import Rates
from pushserver.errors import TooMany

BURST = 10
"""Publications at once, as a multiple of those a second."""


class Publications:
    """The publications a second of each user, key and address; `clock` is the steady clock.

    A user has a bound at any address. A key counts in place of the address. Exempt addresses have
    neither of these two bounds.
    """

    def __init__(
        self,
        addresses: Addresses,
        per_user: int,
        per_key: int,
        per_address: int,
        clock: Callable[[], float],
    ):
        self._addresses = addresses
        self._user = _Bound("user", "user_publications_per_second", per_user)
        self._key = _Bound("API key", "key_publications_per_second", per_key)
        self._address = _Bound("address", "address_publications_per_second", per_address)
        self._clock = clock
        bounds = (self._user, self._key, self._address)
        self.rates = {bound.setting: bound.rates for bound in bounds}
        """The rates by their settings."""

    def reconfigure(self, per_user: int, per_key: int, per_address: int) -> None:
        """Change the rates."""
        self._user.reconfigure(per_user)
        self._key.reconfigure(per_key)
        self._address.reconfigure(per_address)

    def check(self, identity: Identity, address: str | None, count: int = 1) -> None:
        """Count publications of a peer, all or none; raises TooMany.

        `address` is that of the client, None on a Unix socket.
        """
        name, key = self._addresses.name(address), identity.key
        if not name and not identity.user:
            return
        now = self._clock()
        if identity.user:
            self._user.check(identity.user, now, count)
        if not name:
            return
        if key is None or key is LOCAL:
            self._address.check(name, now, count)
        else:
            self._key.check(key.name, now, count)


class _Bound:
    """One of the bounds."""

    def __init__(self, kind: str, setting: str, per_second: int):
        self._kind = kind
        self.setting = setting
        self.rates = Rates(per_second, BURST * per_second)
        self.reconfigure(per_second)

    def reconfigure(self, per_second: int) -> None:
        self._message = f"more than {per_second} publications of this {self._kind} a second"
        self.rates.reconfigure(per_second, BURST * per_second)

    def check(self, name: str, now: float, count: int) -> None:
        delay = self.rates.delay(name, now, count)
        if delay:
            raise TooMany(self._message, self.setting, delay)
