"""Asks the Sentinels of a Redis server where its master is.

Each of them is asked, since one that was away for a while names an old master: the answer of the
latest failover counts. Whether that server is a master, it is asked itself by its connections.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList, TimeoutError
from twisted.internet.error import ConnectingCancelledError
from twisted.logger import Logger

from pushserver.config.redis_url import Address
from pushserver.errors import PushServerError
from pushserver.redis.commands import ErrorReply, Gone
from pushserver.redis.dial import CANNOT_CONNECT, authenticate, dial, reason_of

SENTINEL_SECONDS = 1.0
"""The time in which a Sentinel must answer."""
WATCH_SECONDS = 1.0
"""The interval in which an attached node asks which server is the master."""

_HINTS = {
    "ERR": "this may be no Sentinel: for one Redis, write redis://host:port",
    "NOAUTH": "give it with ?sentinel_password= in broker.url",
    "NOPERM": "its user needs SENTINEL MASTER and SENTINEL GET-MASTER-ADDR-BY-NAME",
    "WRONGPASS": "broker.url has another sentinel_password",
}


class NoMaster(PushServerError):
    """No Sentinel names a master; the text says what each of them answered."""


@dataclass(frozen=True, slots=True)
class Named:
    """A server that a Sentinel names, and the number of the failover that made it the master."""

    failover: int
    host: str
    port: int


def named_of(name: str, place: Any, facts: Any) -> Named:
    """The answers to `get-master-addr-by-name` and `master`; raises NoMaster."""
    try:
        if place is None:
            raise NoMaster(f"it knows no master {name!r}")
        host, port = place
        known = dict(zip(facts[::2], facts[1::2], strict=True))
        return Named(int(known[b"config-epoch"]), host.decode(), int(port))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise NoMaster("it did not answer as a Sentinel does") from None


class Sentinels:
    """The Sentinels of an address."""

    def __init__(self, address: Address, reactor: Any):
        self._address = address
        self._reactor = reactor

    async def master(self) -> Address:
        """The address of the master; raises NoMaster."""
        places = self._address.sentinels
        asked = [
            Deferred.fromCoroutine(self._ask(place)).addTimeout(SENTINEL_SECONDS, self._reactor)
            for place in places
        ]
        found: list[tuple[bool, Any]] = await DeferredList(asked, consumeErrors=True)
        named = [answer for success, answer in found if success]
        if not named:
            problems = [
                f"{place}: {_problem(failure.value)}"
                for place, (_, failure) in zip(places, found, strict=True)
            ]
            raise NoMaster(f"no Sentinel names the master ({'; '.join(problems):.600})")
        newest = max(named, key=lambda each: each.failover)
        return replace(self._address, host=newest.host, port=newest.port, master="", sentinels=())

    async def _ask(self, place: Address) -> Named:
        wire: Any = None
        name = self._address.master
        try:
            wire = await dial(place, self._reactor, lambda _: None)
            await authenticate(wire.send, place)
            sentinel = [b"SENTINEL", b"get-master-addr-by-name", name.encode()]
            found = await wire.send(sentinel)
            facts = await wire.send([b"SENTINEL", b"master", name.encode()]) if found else None
            return named_of(name, found, facts)
        except Gone:
            raise NoMaster(reason_of(wire, place)) from None
        finally:
            if wire is not None:
                wire.drop()


def _problem(error: BaseException) -> str:
    if isinstance(error, ErrorReply):
        hint = _HINTS.get(error.word)
        return f"{error!s:.200} ({hint})" if hint else f"{error!s:.200}"
    if isinstance(error, TimeoutError):
        return f"no answer within {SENTINEL_SECONDS:.0f} s"
    if isinstance(error, (*CANNOT_CONNECT, CancelledError, ConnectingCancelledError, NoMaster)):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error!s:.200}"


class Watch:
    """Asks the Sentinels again and again while the node is attached.

    `leave` is called with the master that they name. If none answers, the node stays where it is,
    and the log has a line.
    """

    _log = Logger()

    def __init__(
        self,
        ask: Callable[[], Awaitable[Address]],
        leave: Callable[[Address], None],
        monotonic: Callable[[], float],
    ):
        self._ask = ask
        self._leave = leave
        self._monotonic = monotonic
        self._asked = monotonic()
        self._asks = False
        self._told = False

    async def work(self) -> None:
        """Do what is due; called again and again."""
        now = self._monotonic()
        if self._asks or now - self._asked < WATCH_SECONDS:
            return
        self._asks, self._asked = True, now
        try:
            named = await self._ask()
        except NoMaster as error:
            if not self._told:
                self._told = True
                self._log.warn(
                    "{problem}; a connection to Redis that is there stays as it is",
                    problem=str(error),
                    event_name="redis_sentinels_away",
                )
        else:
            self._told = False
            self._leave(named)
        finally:
            self._asks = False
