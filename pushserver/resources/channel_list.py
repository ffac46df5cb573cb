"""`GET /channels/`: all channels, as JSON or as a page."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from twisted.web.server import Request

from pushserver.auth.patterns import Patterns
from pushserver.channels.channel import Channel
from pushserver.errors import Denied, WrongKey
from pushserver.resources.history import number
from pushserver.resources.live_pages import LivePages
from pushserver.sessions.node import Node
from pushserver.web.gate import Gate
from pushserver.web.resource import HTML, JSON, Answer, LeafResource, Refusal, answer_json, wants

MOST = 1_000
"""The most channels in one list."""
RATE_SECONDS = 60.0
"""The time in which `last_minute` and `minute` count."""
MOST_SLICES = 60
"""The most parts of the last minute that are counted."""


class ChannelListResource(LeafResource):
    """`/channels/`: the list of all channels, for programs on this machine and with an API key.

    Its page is for everyone: it asks for the list, and for a key if it needs one.
    """

    def __init__(self, node: Node, gate: Gate, pages: LivePages):
        super().__init__()
        self._node = node
        self._gate = gate
        self._pages = pages

    def answer_get(self, request: Request) -> Answer:
        wanted = wants(request, (JSON, HTML))
        if wanted is None:
            raise Refusal(406, f"expected Accept to allow {JSON} or {HTML}")
        if wanted == JSON:
            return channel_list(request, self._node, readable_channels(request, self._gate))
        return self._pages.of_list(request, "..", self._pages.may_list(request))


def readable_channels(request: Request, gate: Gate) -> Patterns:
    """The channels that the API key of the request may read, or all for a program on this machine.

    Raises Denied for a request without a key that may not publish without one either. Names of
    channels may be secrets: a reader needs nothing but the name.
    """
    try:
        key = gate.check_caller(request)
    except WrongKey:
        raise
    except Denied:
        raise Denied(
            403,
            "the list of channels needs an X-API-Key (auth.api_keys or auth.keys); only without"
            " configured keys, programs on the server's machine need none",
        ) from None
    key.check_scope("read")
    return key.channels


async def channel_list(request: Request, node: Node, readable: Patterns) -> bytes:
    """`{"channels": [...], "total"}`: those with the newest events first, `limit=` (1,000) at most.

    `q=` selects names that contain a text, in any case. `total` is the number of all that match.
    With `slices=N` each has `minute`, the counts in that many equal parts of the last minute.
    Channels that are not `readable` are left out.
    """
    text = request.args.get(b"q", [b""])[-1].decode("utf-8", "replace").lower()
    limit = number(request, "limit", MOST)
    slices = number(request, "slices", MOST_SLICES) or 0
    watchers, channels = await node.presence.watchers(), node.history.channels
    # One pass, and no function for each name: a server may have 100,000 channels.
    found = [
        (-channel.time, name)
        for name, channel in channels.items()
        if (channel.top or name in watchers) and text in name.lower()
    ]
    found += [
        (float("inf"), name) for name in watchers if name not in channels and text in name.lower()
    ]
    if "*" not in readable.texts:
        found = [each for each in found if each[1] in readable]
    first = heapq.nsmallest(MOST if limit is None else limit, found)
    rows = [row(node, name, watchers, slices) for _, name in first]
    return answer_json(request, {"channels": rows, "total": len(found)})


def row(node: Node, name: str, watchers: Mapping[str, int], slices: int = 0) -> dict[str, Any]:
    """One channel: `last` is the event and Unix time of its newest retained publication, or null.

    `last_minute` counts the retained publications of the last minute, and `minute` those in each
    of `slices` parts of it, the oldest first.
    """
    channel: Channel = node.history.peek(name)
    begin = node.clock() - RATE_SECONDS
    more = {"minute": _minute(channel, begin, slices)} if slices else {}
    last = [{"event": each.event, "time": round(each.time, 3)} for each in channel.last(1)]
    return {
        "channel": name,
        "retained": len(channel),
        "offset": channel.top,
        "watchers": watchers.get(name, 0),
        "last": last[0] if last else None,
        "last_minute": channel.count_since(begin),
        **more,
    }


def _minute(channel: Channel, begin: float, slices: int) -> list[int]:
    """The retained publications in each of these parts of a minute that begins at this time."""
    since = [channel.count_since(begin + RATE_SECONDS * n / slices) for n in range(slices)]
    return [count - later for count, later in pairwise((*since, 0))]
