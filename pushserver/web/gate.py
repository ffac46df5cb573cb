"""Identifies requests, and decides whether each may read, publish, or use the server API."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.logger import Logger
from twisted.web.server import Request

from pushserver.auth.access import Caller, LocalRules, check_local
from pushserver.auth.credentials import Credentials
from pushserver.auth.identity import ANONYMOUS, Identity
from pushserver.auth.keys import LOCAL, Key
from pushserver.auth.origin import loopback_address
from pushserver.auth.permissions import Action, Permissions
from pushserver.auth.proxies import Trust
from pushserver.errors import Denied, NeedsKey, PushServerError, WrongKey
from pushserver.sessions.identification import Identification
from pushserver.sessions.visit import Visit
from pushserver.web.checks import check_origin, client_address, forwarded_by
from pushserver.web.proxied import PROXIED
from pushserver.web.resource import Answer, Refusal, header
from pushserver.web.visits import are_given, credentials, visit

IsOwn = Callable[[Request], bool | None]


class Gate:
    """Applies the rules of `auth` to requests.

    `rules`: those for programs on this machine; `is_own` is `owner.is_own`. `cookie`: the name of
    the cookie that may have a token.
    """

    _log = Logger()

    def __init__(
        self,
        permissions: Permissions,
        identification: Identification,
        rules: LocalRules,
        is_own: IsOwn,
        trust: Trust,
        cookie: str,
    ):
        self._permissions = permissions
        self._identification = identification
        self._rules = rules
        self._is_own = is_own
        self._trust = trust
        self._cookie = cookie
        self._warned = False

    # --- identities ---------------------------------------

    def credentials(self, request: Request) -> Credentials:
        """The credentials of the request."""
        return credentials(request, self._cookie, self._trust.proxies)

    @property
    def accepts(self) -> tuple[str, ...]:
        """The kinds of credentials that are configured: `token`, `key`."""
        return self._identification.accepts

    def is_anonymous(self, request: Request) -> bool:
        """Whether the request has no credentials, and the application does not identify it."""
        return not self._identification.asks_application and not are_given(request, self._cookie)

    def identity_at_once(self, request: Request) -> Identity | None:
        """The identity of a request without credentials or with a valid API key.

        None if it takes longer to find, or is to be refused.
        """
        given = self.credentials(request)
        if given.is_empty and not self._identification.asks_application:
            return ANONYMOUS
        return self._identification.of_valid_key(given)

    def visit(self, request: Request, protocol: str) -> Visit:
        """The facts about the request for the application."""
        return visit(request, protocol, self._trust.proxies)

    def identified(
        self, request: Request, protocol: str, answer: Callable[[Identity], Answer]
    ) -> Answer:
        """Answer a request by its identity; the application may take its time to find it.

        `protocol` names the transport for the application.
        """
        given = self.credentials(request)
        asks = self._identification.asks_application
        if given.is_empty and not asks:
            return answer(ANONYMOUS)
        known = self.visit(request, protocol) if asks else None
        return self._answer(request, self._identification.identify(given, known), answer)

    async def _answer(
        self,
        request: Request,
        identify: Coroutine[Any, Any, Identity],
        answer: Callable[[Identity], Answer],
    ) -> bytes | int:
        identity = await identify
        if request.channel is None:
            raise Refusal(400, "the client is gone")
        result = answer(identity)
        return result if isinstance(result, (bytes, int)) else await result

    def key(self, request: Request) -> Key | None:
        """The API key of the request; raises WrongKey, and Denied for a token in its place."""
        given = self.credentials(request)
        text = given.bearer if given.key is None else given.key
        if given.key is None and text is not None and not self._identification.is_key(text):
            # Not a guess, so it does not count as a wrong key.
            raise Denied(401, "expected an API key (auth.api_keys, auth.keys), got a token")
        return None if text is None else self._identification.of_key(text, given.address).key

    # --- permissions ---------------------------------------

    def check_reader(
        self,
        request: Request,
        identity: Identity,
        names: Sequence[str],
        action: Action = "subscribe",
        member: bool = False,
    ) -> None:
        """Return if this request may read the channels; raise Denied. See `Permissions.check`.

        A page of another origin may not, nor may a request without a key where a handler of the
        application decides: it decides about clients. A program on this machine needs the key
        too, so that development and production are alike.
        """
        check_origin(request, self._trust)
        self.check_readable(identity, names, action, member)

    def current(self, identity: Identity) -> Identity:
        """The identity by the present configuration; see `Identification.current`."""
        return self._identification.current(identity)

    def check_readable(
        self,
        identity: Identity,
        names: Sequence[str],
        action: Action = "subscribe",
        member: bool = False,
    ) -> None:
        """The same without the origin, for a page: a link from another site may open it."""
        for name in names:
            if self._permissions.check(action, name, identity, member=member):
                if identity.key is not None:
                    identity.key.check("read", name)
                raise identity.problem or NeedsKey(
                    403,
                    f"the application decides which clients may subscribe to {name};"
                    " reading it by plain HTTP needs an X-API-Key (auth.api_keys or auth.keys)",
                )

    def may_read(self, identity: Identity, name: str) -> bool:
        """Whether `check_readable` permits reading the channel."""
        try:
            self.check_readable(identity, (name,))
        except PushServerError:
            return False
        return True

    def check_publisher(self, request: Request, identity: Identity, name: str) -> bool:
        """Return whether the application's handler decides further; raise Denied.

        The handler decides about users, and about clients of the Centrifuge protocol. A program on
        this machine is not asked about, as an API key is not: it may use the server API.
        """
        try:
            handled = self._permissions.check("publish", name, identity)
        except NeedsKey:
            if not identity.is_anonymous or identity.problem is not None:
                raise
            by_key = self._permissions.rule("publish", name)[0] == "key"
            try:
                self._check_local(request)
            except Denied:
                if by_key:
                    raise
            else:
                return False
            # Another rule has more to say than that this is no program on this machine.
            raise
        if identity.key is not None:
            if handled:
                identity.key.check("publish", name)
            return False
        if handled and identity.is_anonymous:
            if identity.problem is not None:
                raise identity.problem
            try:
                self._check_local(request)
            except NeedsKey as error:
                if not (self._identification.asks_application or "token" in self.accepts):
                    raise
                text = f"{error}; about users, a handler of the application decides"
                raise NeedsKey(error.http_status, text) from None
            return False
        check_origin(request, self._trust)
        return handled

    def check_still_publisher(self, identity: Identity, name: str) -> None:
        """Raise Denied if a new configuration forbids what `check_publisher` has permitted.

        For peers with a user or a key: programs on this machine finish what they have begun.
        """
        if not identity.is_anonymous:
            self._permissions.check("publish", name, self.current(identity))

    def check_caller(self, request: Request, proven: bool = False) -> Key:
        """The key of a request to the server API or to the status of sources; raises Denied.

        `proven`: deny a program on this machine also if the system does not say whose it is.
        """
        key = self.key(request)
        if key is not None:
            return key
        self._check_local(request, proven)
        return LOCAL

    def address(self, request: Request) -> str | None:
        """The IP address of the client, behind trusted proxies; None on a Unix socket."""
        return client_address(request, self._trust.proxies)

    def caller(self, request: Request) -> Key | None:
        """The same key, or None where `check_caller` denies the request.

        Raises WrongKey, which is answered slowly: else a page would tell whether a guess is right.
        """
        try:
            return self.check_caller(request)
        except WrongKey:
            raise
        except Denied:
            return None

    # --- programs on this machine ---------------------------------------

    def _check_local(self, request: Request, proven: bool = False) -> None:
        caller = self._caller(request)
        self._warn_of_proxy(caller)
        check_local(caller, self._rules, proven)

    def _caller(self, request: Request) -> Caller:
        address = request.getClientAddress()
        return Caller(
            address=None if isinstance(address, UNIXAddress) else getattr(address, "host", ""),
            host=header(request, "host") or "",
            origin=header(request, "origin"),
            site=header(request, "sec-fetch-site"),
            secure=request.isSecure(),
            forwarded=forwarded_by(request) or _proxied(request),
            is_own=partial(self._is_own, request),
        )

    def _warn_of_proxy(self, caller: Caller) -> None:
        """Tell the operator once that a local proxy is in front of a server without keys."""
        local = caller.address is None or loopback_address(caller.address)
        if self._warned or self._rules.has_keys or not caller.forwarded or not local:
            return
        self._warned = True
        self._log.warn(
            "a proxy on this machine forwards requests ({by}), and there are no auth.api_keys:"
            " nothing can be published through it, and a proxy that adds no header may count as a"
            " program on this machine; set a key",
            by=caller.forwarded,
            event_name="proxy_without_keys",
        )


def _proxied(request: Request) -> str:
    """The sign of a proxy below HTTP; empty without one."""
    transport = getattr(request.channel, "transport", None)
    return "the PROXY protocol" if getattr(transport, PROXIED, False) else ""
