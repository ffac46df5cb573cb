"""The pages that the user's templates make: `pages/about.html` is at `/about`."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from secrets import token_urlsafe

import msgspec
from twisted.web.server import Request

from pushserver.auth.identity import Identity
from pushserver.auth.issuer import NO_SECRET, Issuer
from pushserver.auth.permissions import Action
from pushserver.channels.names import check_name
from pushserver.channels.position import Start
from pushserver.errors import PushServerError
from pushserver.resources.fragment_functions import PublicationView
from pushserver.resources.pages import OWN_PAGES, Pending
from pushserver.resources.static import within
from pushserver.resources.templates import TooMuch
from pushserver.sessions.arriving import arrive
from pushserver.sessions.node import Node
from pushserver.usercode import coroutines
from pushserver.web.document import Document, answer_page
from pushserver.web.gate import Gate
from pushserver.web.mount import depth
from pushserver.web.resource import Answer, LeafResource, Refusal
from pushserver.web.short_post import CURSOR

INDEX = "index"
MOST_CHANNELS = 32
MOST_BYTES = 4_194_304
"""The channels that one page reads, and the data of their publications."""
TOKEN_SECONDS = 3600.0
POLICY = "content-security-policy"


@dataclass(frozen=True, slots=True)
class PageContext:
    """The shared state of the pages.

    `render` makes the HTML of a template, with these values, and raises Refusal and Pending.
    """

    node: Node
    gate: Gate
    render: Callable[[str, Mapping[str, object]], bytes]
    issuer: Issuer


class OwnPages:
    """The templates in the folder `pages` of the user's folder of templates.

    Files and folders whose names begin with `_` or a dot are parts of others, and no pages.
    """

    def __init__(self, folder: str, context: PageContext):
        self.folder = os.path.join(folder, OWN_PAGES)
        self._context = context

    def find(self, segments: Sequence[bytes]) -> OwnPage | None:
        """The page at the path of these segments; those of `/` are one empty segment."""
        try:
            names = [segment.decode("utf-8") for segment in segments]
        except UnicodeError:
            return None
        *folders, last = names
        if last == INDEX or any(not is_public(name) for name in (*folders, last or INDEX)):
            return None
        name = "/".join((*folders, last or INDEX)) + ".html"
        try:
            path = os.path.join(self.folder, name)
            found = os.path.isfile(path) and within(path, self.folder)
        except ValueError:
            return None
        return OwnPage(self._context, f"{OWN_PAGES}/{name}") if found else None

    def names(self) -> Iterator[tuple[str, str]]:
        """The first part of the path of each page, and its file or folder; that of `/` is ""."""
        for file in sorted(os.listdir(self.folder) if os.path.isdir(self.folder) else ()):
            stem = file.removesuffix(".html")
            if is_public(file) and (stem != file or os.path.isdir(os.path.join(self.folder, file))):
                yield "" if file == f"{INDEX}.html" else stem, file


def is_public(name: str) -> bool:
    """Whether a file or folder of this name may be a page or have pages."""
    return bool(name) and name[0] not in "._" and not any(letter in name for letter in "\0/\\")


class OwnPage(LeafResource):
    """One page, as its viewer may see it."""

    def __init__(self, context: PageContext, template: str):
        super().__init__()
        self._context = context
        self._template = template

    def answer_get(self, request: Request) -> Answer:
        return self._context.gate.identified(request, "http", partial(self._answer, request))

    def _answer(self, request: Request, identity: Identity) -> Answer:
        reading = Reading(self._context, identity)
        try:
            return self._render(request, reading)
        except Pending as pending:
            return self._render_later(request, reading, pending.loading)

    async def _render_later(
        self, request: Request, reading: Reading, loading: Awaitable[None]
    ) -> bytes | int:
        node = self._context.node
        while True:
            await arrive(node, reading.identity, reading.loaded, loading)
            if request.channel is None:
                raise Refusal(400, "the client is gone")
            # The rules may have changed meanwhile.
            reading.identity = self._context.gate.current(reading.identity)
            try:
                return self._render(request, reading)
            except Pending as pending:
                loading = pending.loading

    def _render(self, request: Request, reading: Reading) -> bytes | int:
        values = {**reading.names(), "root": "/".join([".."] * depth(request)) or "."}
        html = self._context.render(self._template, values)
        if reading.position:
            request.setHeader(CURSOR, reading.position.encode())
        if reading.own_nonce:
            _permit(request, reading.own_nonce)
        if not reading.is_personal:
            return answer_page(request, Document(html))
        # As a history. Not compressed: a published text beside a secret may be a guess (BREACH).
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        request.setHeader(b"cache-control", b"no-store")
        return html


def _permit(request: Request, nonce: str) -> None:
    """Let the page have scripts and styles with this nonce in it (CSP 3, 7.1)."""
    headers = request.responseHeaders
    policies = headers.getRawHeaders(POLICY, [])
    for kind in ("script-src 'self'", "style-src 'self'"):
        policies = [policy.replace(kind, f"{kind} 'nonce-{nonce}'") for policy in policies]
    headers.setRawHeaders(POLICY, policies)


@dataclass(frozen=True, slots=True)
class Recent:
    """The newest publications of a channel, oldest first, and where a reader of the next begins.

    See `pushserver.last`. `problem`: why the viewer may not read the channel; then all else is
    empty.
    """

    publications: tuple[PublicationView, ...] = ()
    cursor: str = ""
    position: Mapping[str, object] = field(default_factory=dict)
    problem: str = ""

    def __iter__(self) -> Iterator[PublicationView]:
        return iter(self.publications)

    def __len__(self) -> int:
        return len(self.publications)


class Reading:
    """What the template of one page reads, with the rights of the viewer.

    `position`: the cursor of the page, if it has read a channel. `loaded`: the channels that it has
    asked for. `own_nonce`: that of its scripts and styles, if it has asked for one.
    """

    def __init__(self, context: PageContext, identity: Identity):
        self.position = ""
        self.own_nonce = ""
        self._context = context
        self.identity = identity
        self._is_personal = bool(identity.user)
        self.loaded: set[str] = set()
        self._bytes = 0
        # In their order, those that it has read this time.
        self._read: dict[str, None] = {}

    @property
    def is_personal(self) -> bool:
        """Whether the page may have something that is not for everybody, or soon out of date."""
        return self._is_personal or bool(self.loaded)

    def names(self) -> Mapping[str, object]:
        """The names that the template knows."""
        # A page that waited for its channels is rendered again, from the beginning.
        self._bytes = 0
        self._read.clear()
        return {
            "cursor": self.cursor,
            "last": self.last,
            "nonce": self.nonce,
            "token": self.token,
            "user": self.identity.user,
        }

    def cursor(self, channel: str, *others: str) -> str:
        """The cursor behind the newest publications; empty if the viewer may not read them all."""
        names = (channel, *others)
        if any(self.last(name, 0).problem for name in names):
            return ""
        return str(self._context.node.history.cursor(names))

    def last(self, channel: str, count: int = 10) -> Recent:
        """The newest publications of a channel; see `Recent`."""
        node = self._context.node
        most = node.limits.read_limit
        if type(count) is not int or not 0 <= count <= most:
            raise ValueError(f"last({channel!r:.100}, {count!r:.40}): expected 0 to {most}")
        # A name that is undefined raises its own error.
        channel = check_name(str(channel))
        self._load(channel)
        problem = self._problem(channel, "history")
        if problem:
            return Recent(problem=problem)
        log = node.history
        rows = log.read((channel,), Start(last=count), limited=False).publications
        self._bytes += sum(len(row.data) for row in rows)
        if self._bytes > MOST_BYTES:
            raise TooMuch(f"more than {MOST_BYTES} bytes of publications")
        self._read[channel] = None
        self.position = str(log.cursor(tuple(self._read)))
        state = log.peek(channel)
        position = {"epoch": state.epoch, "offset": state.top}
        cursor = str(log.cursor((channel,)))
        return Recent(tuple(map(PublicationView.of, rows)), cursor, position)

    def nonce(self) -> str:
        """A text for the attribute `nonce` of a script or style, another one for each answer."""
        # Else a browser, or a proxy, could keep the page, whose nonce would be known.
        self._is_personal = True
        self.own_nonce = self.own_nonce or token_urlsafe(16)
        return self.own_nonce

    def _load(self, channel: str) -> None:
        """Have the channel in the history, or raise Pending."""
        if channel in self.loaded:
            return
        if len(self.loaded) == MOST_CHANNELS:
            raise TooMuch(f"more than {MOST_CHANNELS} channels in one page")
        self.loaded.add(channel)
        loading = coroutines.start(self._context.node.load((channel,), fresh=True))
        if loading is not None:
            raise Pending(loading)

    def token(self, *channels: str, seconds: float = TOKEN_SECONDS) -> str:
        """A token with which a client is the viewer, in those of the channels that it may read.

        Empty for a viewer without a user, who needs none. It ends with the credentials of the
        viewer, if they end earlier.
        """
        issuer, identity = self._context.issuer, self.identity
        if not issuer.secret:
            raise ValueError(NO_SECRET)
        self._is_personal = True
        if not identity.user:
            return ""
        names = [name for name in channels if not self._problem(check_name(name), "subscribe")]
        if identity.expires:
            seconds = min(seconds, max(1.0, identity.expires - self._context.node.clock()))
        info = msgspec.json.decode(identity.info) if identity.info else None
        return issuer.token(identity.user, channels=names or None, seconds=seconds, info=info)

    def _problem(self, channel: str, action: Action) -> str:
        try:
            self._context.gate.check_readable(self.identity, (channel,), action)
        except PushServerError as error:
            return str(error)
        return ""
