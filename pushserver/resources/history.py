"""`GET /channels/{name}`: the parameters of reading, the history, and long polling."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from twisted.internet.defer import Deferred
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET, Request

from pushserver.auth.identity import Identity
from pushserver.channels.position import Cursor, Start, parse_cursor, parse_since
from pushserver.channels.publication import Publication
from pushserver.errors import InvalidCursor, LimitExceeded
from pushserver.protocols.formats import (
    history_cursor,
    history_ends,
    history_object,
    publication_objects,
)
from pushserver.sessions.arriving import arrive
from pushserver.sessions.long_poll import LongPoll
from pushserver.sessions.node import Node
from pushserver.sessions.replay_cache import FIRST_BYTES, fitting
from pushserver.usercode import coroutines
from pushserver.web.checks import check_no_navigation
from pushserver.web.document import is_known, not_modified
from pushserver.web.first_bytes import once
from pushserver.web.gate import Gate
from pushserver.web.heads import forget_head
from pushserver.web.mount import mark_open_ended
from pushserver.web.portions import Portions
from pushserver.web.resource import JSON, Answer, Refusal, header
from pushserver.web.short_post import CURSOR

FRAGMENTS_AT_ONCE = 100
"""The publications that are rendered at once."""

NO_EPOCH = Cursor("?", 0)


def stream_start(request: Request, most: int) -> Start:
    """Return the start that a request asks for, by `since=` or `last=`.

    The Last-Event-ID of a browser that reconnects takes precedence. If that is not a valid id, the
    start is one that cannot be resumed, and the stream says so.
    """
    return once(request, ("start", most), partial(_start, request, most))


def _start(request: Request, most: int) -> Start:
    last_id = header(request, "last-event-id") or argument(request, "lastEventId")
    if last_id:
        try:
            return Start(since=parse_cursor(last_id))
        except InvalidCursor:
            return Start(since=NO_EPOCH)
    since, last = _since(request), number(request, "last", most)
    if since is None:
        return Start(last=last)
    if last is not None:
        raise Refusal(400, "since and last exclude each other, expected one of them")
    try:
        return parse_since(since)
    except InvalidCursor as error:
        raise InvalidCursor(f"since: {error}") from None


def _since(request: Request) -> str | None:
    """The value of `since=`; raises Refusal if there are different ones."""
    given = set(request.args.get(b"since", ()))
    if len(given) > 1:
        raise Refusal(400, f"since: {len(given)} different values, expected one")
    return argument(request, "since")


@dataclass(frozen=True, slots=True)
class Reading:
    """A request for the history of a channel.

    `elsewhere` answers for a channel that has no room here; None in the process with the log.
    """

    request: Request
    name: str
    node: Node
    gate: Gate
    identity: Identity
    elsewhere: IResource | None = None

    def check(self) -> None:
        """Raise Denied if the reader may not read the history."""
        self.gate.check_reader(self.request, self.identity, (self.name,), "history")

    def checked_again(self) -> Reading:
        """The same by the present configuration, which may have changed; raises Denied."""
        current = replace(self, identity=self.gate.current(self.identity))
        current.check()
        return current


def history(reading: Reading) -> Answer:
    """Answer with the history of a channel, or wait for its next publication with `wait=`.

    Raises Denied.
    """
    reading.check()
    request, node = reading.request, reading.node
    limits = node.limits
    start = stream_start(request, limits.read_limit)
    limit = number(request, "limit", limits.read_limit)
    wait = number(request, "wait", limits.wait_seconds) or 0
    request.setHeader(b"content-type", JSON.encode())
    request.setHeader(b"cache-control", b"no-store")
    return _when_loaded(reading, partial(_read, start, limit, wait))


def _when_loaded(reading: Reading, answer: Callable[[Reading], Answer]) -> Answer:
    """Answer when the history of a channel is here."""
    loaded = coroutines.start(_load(reading))
    if isinstance(loaded, bool):
        return _go_on(reading, loaded, answer)
    return _later(reading, loaded, answer)


def _go_on(reading: Reading, is_here: bool, answer: Callable[[Reading], Answer]) -> Answer:
    if is_here or reading.elsewhere is None:
        return answer(reading)
    relayed: Answer = reading.elsewhere.render(reading.request)
    return relayed


async def _load(reading: Reading) -> bool:
    """Have the channel here; return whether it has room here, or raise without `elsewhere`."""
    try:
        # With a publication whose author was told so by another process, too.
        await reading.node.load((reading.name,), fresh=True)
    except LimitExceeded:
        if reading.elsewhere is None:
            raise
        return False
    return True


async def _later(
    reading: Reading, loading: Awaitable[bool], answer: Callable[[Reading], Answer]
) -> bytes | int:
    is_here = await arrive(reading.node, reading.identity, (reading.name,), loading)
    if reading.request.channel is None:
        raise Refusal(400, "the client is gone")
    result = _go_on(reading.checked_again(), is_here, answer)
    return result if isinstance(result, (bytes, int)) else await result


def _read(start: Start, limit: int | None, wait: int, reading: Reading) -> Answer:
    """Answer from the history that is loaded."""
    request, name, node = reading.request, reading.name, reading.node
    wanted = Start(oldest=True) if start == Start() else start
    answer = node.history.read((name,), wanted, limited=False)
    rows, reason = answer.publications, answer.reason
    # With `limit=0` no publication would be the answer.
    waits = wait and limit != 0 and request.method != b"HEAD"
    if waits and not rows and not reason:
        check_no_navigation(request)
        return _long_poll(start, limit, wait, reading)
    return _answer(request, name, node, rows, limit, reason)


def _answer(
    request: Request,
    name: str,
    node: Node,
    rows: Sequence[Publication],
    limit: int | None,
    reason: str,
) -> Answer:
    log = node.history
    if limit is None or limit == 0 or limit >= len(rows):
        channel, rows = log.peek(name), () if limit == 0 else rows
        position = channel.epoch, channel.top, str(log.cursor((name,))), reason
    else:
        # A part: the next page starts after the last publication of this one.
        rows, last = rows[:limit], rows[limit - 1]
        position = last.epoch, last.offset, last.id, ""
    _tell_position(request, position[2], reason)
    first = rows[0].offset if rows else 0
    # The cursor in the answer also moves with publications of other channels, and the one that the
    # client has is as good.
    if is_known(request, f"{position[0]}-{position[1]}-{first}-{len(rows)}{reason and '-reset'}"):
        return not_modified(request)
    if request.method == b"HEAD" or not rows or fitting(rows, FIRST_BYTES) == len(rows):
        return history_object(name, rows, *position)
    Portions(request, _portions(name, node, rows, *history_ends(name, *position))).start()
    return NOT_DONE_YET


def fragments(reading: Reading, encode: Callable[[Publication], bytes]) -> Answer:
    """Answer with retained publications as HTML, each as `encode` makes it; raises Denied."""
    reading.check()
    request, name, node = reading.request, reading.name, reading.node
    start = stream_start(request, node.limits.read_limit)
    limit = number(request, "limit", node.limits.read_limit)
    request.setHeader(b"content-type", b"text/html; charset=utf-8")
    request.setHeader(b"cache-control", b"no-store")

    def answer(_: Reading) -> Answer:
        wanted = Start(oldest=True) if start == Start() else start
        answer = node.history.read((name,), wanted, limited=False)
        rows = answer.publications if limit is None else answer.publications[:limit]
        log, cursor = node.history, ""
        if rows and len(rows) < len(answer.publications):
            # A part: the next one starts after its last publication.
            cursor = rows[-1].id
        _tell_position(request, cursor or str(log.cursor((name,))), answer.reason)
        if request.method == b"HEAD" or len(rows) <= FRAGMENTS_AT_ONCE:
            return b"\n".join((*filter(None, map(encode, rows)), b""))
        Portions(request, _fragment_portions(rows, encode)).start()
        return NOT_DONE_YET

    return _when_loaded(reading, answer)


def tell_cursor(request: Request, node: Node, gate: Gate, name: str, identity: Identity) -> None:
    """Tell a reader of the channel where a stream continues from this answer."""
    log = node.history
    if log.epoch and gate.may_read(identity, name):
        request.setHeader(CURSOR, str(log.cursor((name,))).encode())


def _tell_position(request: Request, cursor: str, reason: str) -> None:
    """Tell in headers where to continue, and why `since=` could not be resumed."""
    request.setHeader(CURSOR, cursor.encode())
    if reason:
        request.setHeader(b"pushserver-reset", reason.encode())


def _fragment_portions(
    rows: Sequence[Publication], encode: Callable[[Publication], bytes]
) -> Iterator[bytes]:
    """A long answer in HTML; each portion is made when the last one has left."""
    for first in range(0, len(rows), FRAGMENTS_AT_ONCE):
        portion = rows[first : first + FRAGMENTS_AT_ONCE]
        # An empty portion would be the end.
        yield b"\n".join((*filter(None, map(encode, portion)), b"")) or b"\n"


def _portions(
    name: str, node: Node, rows: Sequence[Publication], before: bytes, behind: bytes
) -> Iterator[bytes]:
    """A long history answer; readers of the same publications share its portions."""
    yield before
    comma = b""
    for portion in node.replays.portions(name, rows, publication_objects):
        yield comma + portion
        comma = b","
    yield behind


def _long_poll(start: Start, limit: int | None, wait: int, reading: Reading) -> Deferred[bytes]:
    """Wait for a publication; called in the same turn in which the history was read."""
    request, name, node = reading.request, reading.name, reading.node
    node.hub.check_room((name,))
    answer: Deferred[bytes] = Deferred()
    log = node.history
    channel = log.peek(name)
    # If none comes, the reader gets its own cursor back.
    cursor = start.since or log.cursor((name,))
    nothing = history_object(name, (), channel.epoch, channel.top, str(cursor), "")
    poll = LongPoll(node, name, answer.callback, answer.errback, nothing, limit, reading.identity)

    def gone(_: object) -> None:
        poll.leave()

    def tell(body: bytes) -> bytes:
        request.setHeader(CURSOR, history_cursor(body))
        return body

    answer.addCallback(tell)
    request.notifyFinish().addErrback(gone)
    mark_open_ended(request.channel)
    forget_head(request, answered=False)
    node.run(poll.wait(wait))
    return answer


def number(request: Request, name: str, most: int) -> int | None:
    """The query parameter, a whole number from 0 to `most`; None without it."""
    text = argument(request, name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) <= most):
        raise Refusal(400, f"{name}={text[:40]}: expected a whole number from 0 to {most}")
    return int(text)


def argument(request: Request, name: str) -> str | None:
    """The last value of this name in the query; None without one."""
    values = request.args.get(name.encode(), [])
    return values[-1].decode("utf-8", "replace") if values else None
