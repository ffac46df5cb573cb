"""`POST /channels/{name}` of NDJSON: publishes each line, in order."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from msgspec import structs
from twisted.internet.defer import Deferred
from twisted.web.server import Request

from pushserver.channels import jsontext
from pushserver.channels.idempotency import check_key
from pushserver.channels.publication import Draft, Receipt
from pushserver.errors import Denied, InvalidData, InvalidKey, PushServerError, TooMany, Unavailable
from pushserver.sessions.node import Node
from pushserver.sessions.working import AT_A_TIME
from pushserver.usercode.coroutines import start
from pushserver.usercode.pause import pause
from pushserver.web.mount import surroundings
from pushserver.web.resource import answer_json
from pushserver.web.short_post import CURSOR
from pushserver.web.turned_away import retry_after

MEDIA_TYPES = ("application/x-ndjson", "application/ndjson", "application/jsonl")
GROUP = 128
"""The lines that are published in one turn of the reactor, of all bodies together."""
MOST_BYTES = 33_554_432
"""The bytes of all bodies that are being published. One body may be longer if it is alone."""
SEPARATOR = "\n"
"""Between a key and the number of a line: no character of a key (KEY_RULE)."""
ROOM_SECONDS = 10.0
"""The longest wait of a line for room in the channel's backlog."""
PAUSE_SECONDS = 0.01
"""The pause between two looks for that room."""

Admit = Callable[[int], None]
"""Counts publications of the publisher; raises TooMany, and Denied if it may not any more."""

Ask = Callable[[bytes], Awaitable[None]]
"""Lets the application decide about the data of a publication; raises its refusal."""

Line = tuple[int, bytes]
"""The number of a line, from 1, and its text."""

_LINE = re.compile(rb"[^ \t\r\n][^\n]*")


class Bulks:
    """The bodies that are being published: they take turns, and their size is bounded.

    A client may close after a long body, and connect for the next one.
    """

    def __init__(self) -> None:
        self._bytes = 0
        self._waiting: deque[Deferred[None]] = deque()

    async def publish(
        self,
        request: Request,
        draft: Draft,
        body: bytes,
        node: Node,
        admit: Admit,
        ask: Ask | None = None,
    ) -> bytes:
        """`publish_lines`; 503 if too many bytes of other bodies are being published."""
        if self._bytes and self._bytes + len(body) > MOST_BYTES:
            node.metrics.refusals["overloaded"] += 1
            problem = f"more than {MOST_BYTES} bytes of lines are being published"
            return _failure(request, 1, Unavailable(problem, "overloaded"), 0)
        self._bytes += len(body)
        try:
            if self._waiting:
                await self.turn(node)
            return await publish_lines(request, draft, body, node, self, admit, ask)
        finally:
            self._bytes -= len(body)

    def turn(self, node: Node) -> Deferred[None]:
        """Wait for a turn of the reactor, behind the bodies that wait already."""
        over: Deferred[None] = Deferred()
        self._waiting.append(over)
        if len(self._waiting) == 1:
            self._plan(node)
        return over

    def _plan(self, node: Node) -> None:
        pause(node.timer.callLater, 0.0).addCallback(lambda _: self._next(node))

    def _next(self, node: Node) -> None:
        over = self._waiting.popleft()
        if self._waiting:
            self._plan(node)
        over.callback(None)


@dataclass(slots=True)
class Outcome:
    """The number of published lines, the last receipt, and the first line that failed."""

    published: int = 0
    last: Receipt | None = None
    failed: tuple[int, PushServerError] | None = None


@dataclass(slots=True)
class _Group:
    """Publications that wait for their receipts, by the number of their lines."""

    waiting: list[tuple[int, Receipt | Deferred[Receipt]]] = field(default_factory=list)
    failed: tuple[int, PushServerError] | None = None


async def publish_lines(
    request: Request,
    draft: Draft,
    body: bytes,
    node: Node,
    bulks: Bulks,
    admit: Admit,
    ask: Ask | None = None,
) -> bytes:
    """Publish each line of the body; blank lines are skipped.

    `draft` has the channel, event and tags of all, and the idempotency key, to which SEPARATOR and
    the number of the line are added. The answer is `201 {"published", "offset", "epoch", "id"}`,
    with the position of the last line. The first line that fails ends the request: the status is
    that of its error, and the answer `{"error": {"code", "message"}, "published", "line"}`. Without
    a store, or with a batched one, no later line is published. With a sync one, lines of later
    commits may be published.
    """
    outcome = Outcome()
    lines = _lines(body)
    # A handler takes as long for a line as for a command of a client.
    most = GROUP if ask is None else AT_A_TIME
    group = list(islice(lines, most))
    if not group:
        raise InvalidData("the body has no lines, expected a JSON value in each")
    if draft.key:
        try:
            check_key(_key(draft, 1 + body.rstrip().count(b"\n")).replace(SEPARATOR, ":"))
        except InvalidKey as error:
            return _failure(request, group[0][0], error, 0)
    while group:
        try:
            await _wait_for_admission(node, admit, len(group))
        except (Denied, TooMany) as error:
            return _failure(request, group[0][0], error, outcome.published)
        await _publish(group, draft, node, outcome, ask)
        if outcome.failed is not None:
            return _failure(request, *outcome.failed, outcome.published)
        await bulks.turn(node)
        group = list(islice(lines, most))
    assert outcome.last is not None, "no line was published"
    last = outcome.last
    request.setResponseCode(201)
    request.setHeader(CURSOR, last.id.encode())
    position = {"offset": last.offset, "epoch": last.epoch, "id": last.id}
    return answer_json(request, {"published": outcome.published, **position})


def _lines(body: bytes) -> Iterator[Line]:
    """The lines that are not blank, without white space before them.

    Not all at once: half a million tiny lines would need 60 MB.
    """
    number, end = 1, 0
    for match in _LINE.finditer(body):
        number += body.count(b"\n", end, match.start())
        end = match.end()
        yield number, match[0]


def _key(draft: Draft, number: int) -> str:
    """The idempotency key of a line, which no publisher can give to another publication."""
    return f"{draft.key}{SEPARATOR}{number}" if draft.key else ""


async def _publish(
    lines: list[Line], draft: Draft, node: Node, outcome: Outcome, ask: Ask | None
) -> None:
    """Publish some lines, and wait for all of their receipts."""
    group = _Group()
    for number, each in _drafts(lines, draft, group):
        try:
            if ask is not None:
                await ask(each.data)
            if not node.has_room(draft.channel):
                await _wait_for_room(node, draft.channel)
            group.waiting.append((number, start(node.publish(each))))
        except PushServerError as error:
            group.failed = number, error
            break
    failed = []
    for number, answer in group.waiting:
        try:
            outcome.last = await answer if isinstance(answer, Deferred) else answer
            outcome.published += 1
        except PushServerError as error:
            failed.append((number, error))
    outcome.failed = failed[0] if failed else group.failed


def _drafts(lines: list[Line], draft: Draft, group: _Group) -> Iterator[tuple[int, Draft]]:
    """The drafts of the lines, up to the first invalid one, which is noted in the group."""
    for number, line in lines:
        try:
            data = jsontext.compact(line)
        except PushServerError as error:
            group.failed = number, error
            return
        yield number, structs.replace(draft, data=data, key=_key(draft, number))


async def _wait_for_admission(node: Node, admit: Admit, count: int) -> None:
    """Wait until the rates of the publisher allow `count` lines; raises TooMany if that is long.

    Raises Denied if the publisher may not publish any more.
    """
    until = node.monotonic() + ROOM_SECONDS
    while True:
        try:
            admit(count)
            return
        except TooMany as error:
            if node.monotonic() + error.seconds > until:
                raise
            await pause(node.timer.callLater, error.seconds)


async def _wait_for_room(node: Node, channel: str) -> None:
    """Wait until the subscribers' queues take another publication; raises Unavailable."""
    until = node.monotonic() + ROOM_SECONDS
    while not node.has_room(channel):
        if node.monotonic() >= until:
            raise Unavailable("the channel's backlog is full", "overloaded")
        await pause(node.timer.callLater, PAUSE_SECONDS)


def _failure(request: Request, line: int, error: PushServerError, published: int) -> bytes:
    code = error.http_status or 500
    request.setResponseCode(code)
    if isinstance(error, TooMany):
        surroundings(request).note_excess(request, error)
        request.setHeader(b"retry-after", retry_after(error).encode())
    elif code == Unavailable.http_status:
        request.setHeader(b"retry-after", b"1")
    shown = {"code": code, "message": f"line {line}: {error}"}
    return answer_json(request, {"error": shown, "published": published, "line": line})
