"""Decides whether a request may publish, use the server API, or read a guarded channel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from twisted.internet.address import UNIXAddress
from twisted.logger import Logger
from twisted.web.server import Request

from pushserver.auth.access import Caller, Rules, check_publisher, has_key
from pushserver.auth.origin import loopback_address
from pushserver.auth.proxies import Proxies
from pushserver.auth.wrong_keys import SLOW_SECONDS, WrongKeys
from pushserver.errors import Denied, WrongKey
from pushserver.hub.metrics import Metrics
from pushserver.web.checks import client_address, forwarded_by
from pushserver.web.resource import header

IsOwn = Callable[[Request], bool | None]


class Gate:
    """Applies the rules of `auth.access` to requests; `is_own` is `owner.is_own`."""

    _log = Logger()

    def __init__(
        self,
        rules: Rules,
        is_own: IsOwn,
        wrong_keys: WrongKeys,
        proxies: Proxies,
        metrics: Metrics,
        clock: Callable[[], float],
    ):
        self._rules = rules
        self._is_own = is_own
        self._wrong_keys = wrong_keys
        self._proxies = proxies
        self._metrics = metrics
        self._clock = clock
        self._warned = False

    def check(self, request: Request, proven: bool = False) -> None:
        """Return if this request may publish; raise Denied.

        `proven`: deny it also if the system does not say whose program made the request.
        """
        caller = self._caller(request)
        self._warn_of_proxy(caller)
        try:
            check_publisher(caller, self._rules, proven)
        except WrongKey as error:
            raise self._counted(request, error) from None

    def allows(self, request: Request) -> bool:
        """Whether this request may publish."""
        try:
            self.check(request)
        except Denied:
            return False
        return True

    def has_key(self, request: Request) -> bool:
        """Whether this request gives an API key; raises WrongKey for a wrong one."""
        try:
            return has_key(self._caller(request), self._rules.keys)
        except WrongKey as error:
            raise self._counted(request, error) from None

    def _counted(self, request: Request, error: WrongKey) -> WrongKey:
        """Count a wrong key; return the error for its answer."""
        self._metrics.refusals["wrong_key"] += 1
        address = client_address(request, self._proxies)
        if not self._wrong_keys.is_too_many(address, self._clock()):
            return error
        return WrongKey(f"{error}; too many wrong keys (wrong_keys_per_minute)", 429, SLOW_SECONDS)

    def _caller(self, request: Request) -> Caller:
        address = request.getClientAddress()
        key = header(request, "x-api-key")
        authorization = header(request, "authorization") or ""
        scheme, _, credentials = authorization.partition(" ")
        if key is None and scheme.lower() in ("apikey", "bearer"):
            key = credentials.strip()
        return Caller(
            address=None if isinstance(address, UNIXAddress) else getattr(address, "host", ""),
            host=header(request, "host") or "",
            origin=header(request, "origin"),
            site=header(request, "sec-fetch-site"),
            secure=request.isSecure(),
            forwarded=forwarded_by(request),
            key=key,
            is_own=partial(self._is_own, request),
        )

    def _warn_of_proxy(self, caller: Caller) -> None:
        """Tell the operator once that a local proxy is in front of a server without keys."""
        local = caller.address is None or loopback_address(caller.address)
        if self._warned or self._rules.keys or not caller.forwarded or not local:
            return
        self._warned = True
        self._log.warn(
            "a proxy on this machine forwards requests ({by}), and there are no auth.api_keys:"
            " nothing can be published through it, and a proxy that adds no header may count as a"
            " program on this machine; set a key",
            by=caller.forwarded,
        )
