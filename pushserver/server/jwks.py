"""Keeps the public keys of another service up to date: a JSON Web Key Set in a file or at a URL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver import __version__
from pushserver.auth.jwks import MAX_JWKS_BYTES, read_jwks
from pushserver.auth.tokens import Verifier
from pushserver.config.secret_files import read_file
from pushserver.config.settings import Auth
from pushserver.errors import SourceFailed, Unavailable
from pushserver.usercode.rate import LogLimiter
from pushserver.usercode.reactor import Reactor

FILE_SECONDS = 5.0
"""The interval at which a file is checked for a change."""

CHANGE_SECONDS = 1.0
"""The interval at which an unknown key has it checked."""

Read = Callable[[], Awaitable[bytes]]
"""Reads a set of keys; raises SourceFailed or ValueError."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When the set is read, in seconds: usually, at least apart, and how long it is valid."""

    refresh: float
    retry: float
    stale: float


class PublishedKeys(Service):
    """Gives the keys of a set to the verifier of tokens.

    While the set cannot be read, the last keys stay valid for `stale` seconds; a key that is not in
    a newer set is dropped. Nothing that a peer sends causes more than one reading in `retry`
    seconds.
    """

    _log = Logger()

    def __init__(
        self,
        read: Read,
        setting: str,
        schedule: Schedule,
        verifier: Verifier,
        reactor: Reactor,
        monotonic: Callable[[], float],
    ):
        self._read = read
        self._setting = setting
        self._schedule = schedule
        self._verifier = verifier
        self._reactor = reactor
        self._monotonic = monotonic
        self._text = b""
        self._names: tuple[str, ...] = ()
        self._reading: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []
        self._next: IDelayedCall | None = None
        self._read_at = 0.0
        self._good_at: float | None = None
        self._failed = False
        self._warnings = LogLimiter()

    def take_over(self, before: PublishedKeys) -> None:
        """Use the keys of an earlier service for the same set, until the set is read again."""
        self._names, self._good_at = before._names, before._good_at
        allowed = self._verifier.rules.algorithms
        keys = before._verifier.published
        self._verifier.set_published(key for key in keys if key.algorithm in allowed)

    def startService(self) -> None:
        super().startService()
        self._start_reading()

    def stopService(self) -> None:
        super().stopService()
        if self._next is not None and self._next.active():
            self._next.cancel()
        if self._reading is not None:
            self._reading.cancel()

    async def refresh(self) -> None:
        """Read the set for an unknown key, unless it was read within `retry` seconds.

        Raises Unavailable if it could not be read, so that nobody knows whether the key is valid.
        """
        early = self._monotonic() - self._read_at < self._schedule.retry
        if self._reading is None and self.running and not early:
            self._start_reading()
        if self._reading is not None:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            await waiting
        if self._failed:
            raise Unavailable(f"the keys of tokens cannot be read now ({self._setting})", "jwks")

    def _start_reading(self) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._read_at = self._monotonic()
        self._reading = reading = Deferred.fromCoroutine(self._update())
        reading.addErrback(self._unexpected)
        reading.addCallback(self._ended)

    async def _update(self) -> None:
        try:
            text = await self._read()
            if text != self._text:
                self._use(text)
                self._text = text
        except (SourceFailed, ValueError) as error:
            self._failed = True
            self._warn(str(error))
        else:
            self._failed = False
            self._good_at = self._monotonic()

    def _use(self, text: bytes) -> None:
        found = read_jwks(text, self._verifier.rules.algorithms)
        self._verifier.set_published(found.keys)
        names = tuple(f"{key.kid or 'without kid'} ({key.algorithm})" for key in found.keys)
        gone = [name for name in self._names if name not in names]
        self._names = names
        self._log.info(
            "{setting}: tokens are verified by {count} keys: {names}{gone}",
            setting=self._setting,
            count=len(names),
            names=f"{', '.join(names):.300}",
            gone=f"; no longer by {', '.join(gone):.300}" if gone else "",
            event_name="token_keys_read",
        )
        if found.skipped:
            self._log.warn(
                "{setting}: {count} entries are no keys for tokens here: {reasons}",
                setting=self._setting,
                count=len(found.skipped),
                reasons=f"{'; '.join(found.skipped):.300}",
                event_name="token_keys_skipped",
            )

    def _warn(self, problem: str) -> None:
        """Log the failure once a minute, and drop keys that are too old."""
        now = self._monotonic()
        age = 0.0 if self._good_at is None else now - self._good_at
        state = "no key is known yet"
        if self._good_at is not None:
            left = self._schedule.stale - age
            state = f"its last keys are valid for {left:.0f} s more (auth.jwks_stale_seconds)"
            if left <= 0:
                self._verifier.set_published(())
                self._text = b""
                state = (
                    f"its last keys are {age:.0f} s old, so none is valid (auth.jwks_stale_seconds)"
                )
        suffix = self._warnings.suffix(now)
        if suffix is not None:
            self._log.warn(
                "{setting}: {problem}; {state}{suffix}",
                setting=self._setting,
                problem=problem,
                state=state,
                suffix=suffix,
                event_name="token_keys_unread",
            )

    def _unexpected(self, failure: Failure) -> None:
        self._failed = True
        if not failure.check(CancelledError):
            self._log.failure(
                "{setting}: reading the keys failed",
                failure,
                setting=self._setting,
                event_name="token_keys_failed",
            )

    def _ended(self, _: object) -> None:
        self._reading = None
        waiting, self._waiting = self._waiting, []
        if self.running:
            schedule = self._schedule
            seconds = schedule.retry if self._failed else schedule.refresh
            self._next = self._reactor.callLater(seconds, self._start_reading)
        for each in waiting:
            each.callback(None)


def published_keys(
    auth: Auth, verifier: Verifier, reactor: Reactor, monotonic: Callable[[], float]
) -> PublishedKeys | None:
    """The keys of the configured file or URL, if any."""
    schedule = Schedule(auth.jwks_refresh_seconds, auth.jwks_retry_seconds, auth.jwks_stale_seconds)
    if auth.jwks_url:
        setting = "auth.jwks_url"
        read: Read = _Page(auth.jwks_url, auth.jwks_timeout_seconds, reactor).read
    elif auth.jwks_file:
        setting = "auth.jwks_file"
        read = _File(auth.jwks_file).read
        schedule = Schedule(FILE_SECONDS, CHANGE_SECONDS, schedule.stale)
    else:
        return None
    return PublishedKeys(read, setting, schedule, verifier, reactor, monotonic)


class _Page:
    """A set at a URL. Redirects are not followed: they could lead to an open network."""

    def __init__(self, url: str, seconds: float, reactor: Reactor):
        self._url = url
        self._host = urlsplit(url).netloc
        self._seconds = seconds
        self._reactor = reactor

    async def read(self) -> bytes:
        # Imported here, since most servers have no such URL: the client takes time to import.
        from pushserver.sources.http_client.fetch import with_timeout

        try:
            return await with_timeout(self._seconds, self._reactor, self._fetch())
        except TimeoutError:
            problem = f"no answer within {self._seconds:g} s (auth.jwks_timeout_seconds)"
            raise SourceFailed(f"{self._host}: {problem}") from None

    async def _fetch(self) -> bytes:
        from pushserver.sources.http_client.response import request

        headers = {"user-agent": f"pushserver/{__version__}", "accept": "application/json"}
        response = await request(self._reactor, self._url, headers)
        try:
            if response.status != 200:
                raise response.status_error()
            return await response.read_all(MAX_JWKS_BYTES)
        finally:
            response.close()


class _File:
    """A set in a file."""

    def __init__(self, path: str):
        self._path = path

    async def read(self) -> bytes:
        return read_file(self._path, MAX_JWKS_BYTES)
