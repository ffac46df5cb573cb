"""`POST /channels/{name}` of NDJSON: publishes each line, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from twisted.internet.defer import Deferred
from twisted.web.server import Request

from pushserver.channels import jsontext
from pushserver.channels.idempotency import check_key
from pushserver.channels.publication import Draft, Receipt
from pushserver.errors import InvalidData, PushServerError, Unavailable
from pushserver.sessions.node import Node
from pushserver.usercode.coroutines import start
from pushserver.web.resource import answer_json

MEDIA_TYPES = ("application/x-ndjson", "application/ndjson", "application/jsonl")
GROUP = 128
"""The lines that are published in one turn of the reactor; other connections get theirs between."""
ROOM_SECONDS = 10.0
"""How long a line waits for room in the channel's backlog."""
PAUSE_SECONDS = 0.01

Line = tuple[int, bytes]
"""The number of a line, from 1, and its text."""


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


async def publish_lines(request: Request, draft: Draft, body: bytes, node: Node) -> bytes:
    """Publish each line of the body; blank lines are skipped.

    `draft` has the channel, event and tags of all, and the idempotency key, to which a colon and
    the number of the line are added. `201 {"published", "offset", "epoch", "id"}`; the last three
    are of the last line. A line that fails ends it: the status is that of its error, and the
    answer `{"error": {"code", "message"}, "published", "line"}`. Without a store, or with a batched
    one, no later line is published; with a sync one, lines of later commits may be.
    """
    outcome = Outcome()
    lines = [line for line in enumerate(body.split(b"\n"), 1) if line[1].strip()]
    if not lines:
        raise InvalidData("the body has no lines, expected a JSON value in each")
    for first in range(0, len(lines), GROUP):
        await _publish(lines[first : first + GROUP], draft, node, outcome)
        if outcome.failed is not None:
            return _failure(request, *outcome.failed, outcome.published)
        await _pause(node, 0.0)
    assert outcome.last is not None, "no line was published"
    last = outcome.last
    request.setResponseCode(201)
    position = {"offset": last.offset, "epoch": last.epoch, "id": last.id}
    return answer_json(request, {"published": outcome.published, **position})


async def _publish(lines: Sequence[Line], draft: Draft, node: Node, outcome: Outcome) -> None:
    """Publish some lines, and wait for all of their receipts."""
    group = _Group()
    for number, each in _drafts(lines, draft, group):
        if not node.hub.has_room(draft.channel) and not await _room(node, draft.channel):
            group.failed = number, Unavailable("the channel's backlog is full", "overloaded")
            break
        try:
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


def _drafts(lines: Sequence[Line], draft: Draft, group: _Group) -> Iterator[tuple[int, Draft]]:
    for number, line in lines:
        try:
            data = jsontext.compact(line)
            key = check_key(f"{draft.key}:{number}") if draft.key else ""
        except PushServerError as error:
            group.failed = number, error
            return
        yield number, replace(draft, data=data, key=key)


async def _room(node: Node, channel: str) -> bool:
    """Wait until the subscribers' queues take another publication; False if they do not."""
    until = node.monotonic() + ROOM_SECONDS
    while not node.hub.has_room(channel):
        if node.monotonic() >= until:
            return False
        await _pause(node, PAUSE_SECONDS)
    return True


def _pause(node: Node, seconds: float) -> Deferred[None]:
    over: Deferred[None] = Deferred()
    node.timer.callLater(seconds, lambda: over.callback(None))
    return over


def _failure(request: Request, line: int, error: PushServerError, published: int) -> bytes:
    code = error.http_status or 500
    request.setResponseCode(code)
    if code == Unavailable.http_status:
        request.setHeader(b"retry-after", b"1")
    told = {"code": code, "message": f"line {line}: {error}"}
    return answer_json(request, {"error": told, "published": published, "line": line})
