"""Answers a history request of the Centrifuge protocol, and of the server API."""

from __future__ import annotations

from pushserver.channels.channel import Channel
from pushserver.channels.history import History
from pushserver.channels.position import Position
from pushserver.protocols import centrifuge
from pushserver.protocols.centrifuge import CommandError
from pushserver.sessions.node import Node


async def history_result(
    node: Node, name: str, request: centrifuge.HistoryRequest
) -> centrifuge.HistoryResult:
    """The answer to a history request; raises CommandError for a position of another epoch.

    Raises Unavailable, too.
    """
    log, since = node.history, request.since
    # With a publication whose author was told so by another process, too.
    await node.load((name,), fresh=True)
    channel = log.open(name)
    if since is None:
        rows = channel.after(0)
    else:
        offset = _offset(log, channel, Position(since.epoch, since.offset))
        if request.reverse:
            rows = [row for row in channel.after(0) if row.offset < offset]
        else:
            rows = channel.after(offset)
    if request.reverse:
        rows.reverse()
    if request.limit >= 0:
        rows = rows[: request.limit]
    pubs = [centrifuge.pub(row) for row in rows]
    return centrifuge.HistoryResult(pubs, channel.epoch, channel.top)


def _offset(log: History, channel: Channel, position: Position) -> int:
    """The position's offset in the present numbering of the channel; raises CommandError."""
    if not position.epoch or position.epoch == channel.epoch:
        return position.offset
    if not position.offset:
        # The reader of a channel without publications may have the epoch of another generation.
        resumed = log.resume(channel.name, position, limited=False)
        if resumed.recovered:
            return channel.top - len(resumed.publications)
    raise CommandError(
        centrifuge.UNRECOVERABLE, f"unrecoverable position: epoch {position.epoch[:40]!r}"
    )
