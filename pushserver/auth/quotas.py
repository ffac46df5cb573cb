"""The bounds on open and new connections, in all, by address and by user."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from pushserver.auth.proxies import Proxies
from pushserver.auth.rates import Rates
from pushserver.auth.wrong_keys import group
from pushserver.errors import TooMany

RESERVED = 100
"""Connections over the bound of all that exempt addresses may still open: a flood from outside
leaves room for the programs on this machine."""

BURST = 4
"""New connections at once, as a multiple of those a second."""

FULL_SECONDS = 10.0
"""The time after which a peer that found no room should come back."""


Changed = Callable[[str, int], None]
"""Is told of a name that this process counts, and by how much its number has changed."""


class Addresses:
    """The name under which an address is counted; "" for one that is exempt, and for proxies.

    The connections of a trusted proxy are those of many clients, who are counted by the addresses
    that it forwards.
    """

    def __init__(self, exempt: Proxies, proxies: Proxies):
        self.reconfigure(exempt, proxies)

    def reconfigure(self, exempt: Proxies, proxies: Proxies) -> None:
        """Change the exempt addresses; an open connection keeps the name that it has."""
        networks = exempt.networks + proxies.networks
        self._exempt = Proxies(networks, exempt.unix or proxies.unix)
        self.name = lru_cache(1_024)(self._name)

    def _name(self, address: str | None) -> str:
        return "" if address in self._exempt else group(address)


class Connections:
    """The open connections, in all and by the name of their address.

    Those of other processes of the server count too (`add`).
    """

    def __init__(self, most: int, per_name: int, new_per_second: int):
        self.open = 0
        self.rates = Rates(new_per_second, BURST * new_per_second)
        """Those of new connections."""
        self.changed: Changed | None = None
        self._by_name: dict[str, int] = {}
        self.reconfigure(most, per_name, new_per_second)

    def reconfigure(self, most: int, per_name: int, new_per_second: int) -> None:
        """Change the bounds; connections over a lower bound stay open."""
        self._most = most
        self._per_name = per_name
        self._new_per_second = new_per_second
        self.rates.reconfigure(new_per_second, BURST * new_per_second)

    def enter(self, name: str, now: float) -> None:
        """Count a new connection, until `leave`; raises TooMany and counts nothing."""
        if self.open >= self._most + (0 if name else RESERVED):
            message = f"this server has its {self._most} connections already"
            raise TooMany(message, "connections", FULL_SECONDS, 503)
        if name:
            self._enter(name, now)
        self.open += 1
        if self.changed is not None:
            self.changed(name, 1)

    def rename(self, old: str, new: str, now: float) -> None:
        """Count an open connection for another address; raises TooMany and changes nothing."""
        if new:
            self._enter(new, now)
        self._leave(old)
        if self.changed is not None:
            self.changed(new, 1)
            self.changed(old, -1)

    def leave(self, name: str) -> None:
        """Forget a connection that was counted under this name."""
        self.open -= 1
        self._leave(name)
        if self.changed is not None:
            self.changed(name, -1)

    def add(self, name: str, count: int) -> None:
        """Count connections of another process, or forget some if `count` is below 0."""
        self.open += count
        if name:
            add(self._by_name, name, count)

    def _enter(self, name: str, now: float) -> None:
        count = self._by_name.get(name, 0)
        if count >= self._per_name:
            message = f"this address has {count} connections already"
            raise TooMany(message, "connections_per_address", FULL_SECONDS)
        delay = self.rates.delay(name, now)
        if delay:
            message = f"more than {self._new_per_second} new connections of this address a second"
            raise TooMany(message, "new_connections_per_second", delay)
        self._by_name[name] = count + 1

    def _leave(self, name: str) -> None:
        if not name:
            return
        count = self._by_name[name] - 1
        if count:
            self._by_name[name] = count
        else:
            del self._by_name[name]


class Users:
    """The connections of each user, at most `most`; the empty user is not counted.

    Those of other processes of the server count too (`add`).
    """

    def __init__(self, most: int):
        self.most = most
        self.changed: Changed | None = None
        self._counts: dict[str, int] = {}

    def check(self, user: str) -> None:
        """Raise TooMany if the user has no room for another connection."""
        count = self._counts.get(user, 0)
        if count >= self.most:
            message = f"this user has {count} connections already"
            raise TooMany(message, "connections_per_user", FULL_SECONDS)

    def enter(self, user: str) -> None:
        """Count a connection, until `leave`."""
        if user:
            self._counts[user] = self._counts.get(user, 0) + 1
            if self.changed is not None:
                self.changed(user, 1)

    def leave(self, user: str) -> None:
        """Forget a connection that was counted."""
        if user:
            count = self._counts[user] - 1
            if count:
                self._counts[user] = count
            else:
                del self._counts[user]
            if self.changed is not None:
                self.changed(user, -1)

    def add(self, user: str, count: int) -> None:
        """Count connections of another process, or forget some if `count` is below 0."""
        add(self._counts, user, count)


def add(numbers: dict[str, int], name: str, count: int) -> None:
    """Add to the number of a name; a number of 0 is not kept."""
    number = numbers.get(name, 0) + count
    if number:
        numbers[name] = number
    else:
        numbers.pop(name, None)
