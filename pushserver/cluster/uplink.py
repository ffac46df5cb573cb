"""A follower's end of its link to the author: the log's changes, and the answers to its calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from secrets import token_hex
from typing import Protocol

from twisted.logger import Logger

from pushserver import __version__
from pushserver.channels.publication import Draft, Receipt
from pushserver.cluster.calls import Calls, Send
from pushserver.cluster.handlers import RemoteHandlers
from pushserver.cluster.image_parts import join
from pushserver.cluster.measures import Measure
from pushserver.cluster.messages import (
    Answered,
    Attach,
    Clear,
    Cleared,
    Counted,
    Done,
    Failed,
    Follow,
    Forgotten,
    FromAuthor,
    Handled,
    Hello,
    Images,
    Installed,
    Leave,
    Measured,
    Outdated,
    Publish,
    Published,
    Row,
    error_of,
)
from pushserver.cluster.roster import Roster
from pushserver.cluster.shared_bounds import BoundsLink
from pushserver.hub.audience import Subscriber
from pushserver.hub.follower import Follower, Image, Point


class LinkedLog(Protocol):
    """The log lines of this process, which go over the link while it exists."""

    def connected(self, send: Send) -> None: ...
    def lost(self) -> None: ...


class Uplink:
    """The log of another process (`follower.Log`), over a link that may be lost and come back.

    `follower` gets the log's changes. `roster` has the peers of this process, and gets the messages
    to them. `worker` is the number of this process.
    """

    follower: Follower
    chan_info: Callable[[str, Subscriber], bytes]
    """The `chan_info` of a subscription here."""
    bounds: BoundsLink
    """What this process counts, for the other processes."""
    log: LinkedLog | None = None
    measure: Callable[[], Measure]
    """Returns the numbers of this process."""
    outdated: Callable[[str], None]
    """Called with the author's version if it differs from that of this process."""
    _log = Logger()

    def __init__(self, calls: Calls, roster: Roster, handlers: RemoteHandlers, worker: int) -> None:
        self.calls = calls
        self.outdated = lambda version: None
        self._process = token_hex(8)
        self._worker = worker
        self._was_linked = False
        # Of the answer whose last part has not come yet.
        self._parts: list[Image] = []
        self._roster = roster
        self._handlers = handlers
        self.attached: Callable[[], None] = lambda: None
        """Is called each time that the channels here have been compared with the author's."""
        self.link_now: Callable[[], None] = lambda: None
        """Ends the pause before the next attempt to link, if there is one."""

    # --- the link ---------------------------------------

    def connected(self, send: Send) -> None:
        """There is a link; `send` takes frames and raises nothing."""
        self.calls.connected(send)
        points, again = self.follower.points(), self._was_linked
        self._was_linked = True
        self.calls.tell(Hello(__version__))
        self.calls.tell(Attach(points, self._process, self._worker, again))
        self.bounds.connected(send)
        self._roster.announce(self.chan_info)
        if self.log is not None:
            self.log.connected(send)
        self.tell_measure()

    def tell_measure(self) -> None:
        """Tell the numbers of this process; a no-op without a link."""
        self.calls.tell(Measured(self.measure()))

    def lost(self) -> None:
        """The link is gone: the calls that wait fail."""
        self._parts = []
        if self.log is not None:
            self.log.lost()
        self.calls.lost()
        self.bounds.lost()

    def received(self, message: FromAuthor) -> None:
        """Pass a change on, or an answer to its call."""
        follower = self.follower
        if isinstance(message, Row):
            follower.row(message.publication, message.skip)
        elif isinstance(message, Published):
            self.calls.answer(message.call, message.receipt)
        elif isinstance(message, Images):
            self._parts += message.images
            if not message.more:
                self._install(message)
        elif isinstance(message, Cleared):
            follower.cleared(message.channel)
        elif isinstance(message, Forgotten):
            follower.forgotten(message.channel)
        elif isinstance(message, Counted):
            self.bounds.received(message)
        elif isinstance(message, Done):
            self.calls.answer(message.call, None)
        elif isinstance(message, Answered):
            self.calls.answer(message.call, message.value)
        elif isinstance(message, Handled):
            self._handlers.handled(message)
        elif isinstance(message, Failed):
            self.calls.fail(message.call, error_of(message))
        elif isinstance(message, Outdated):
            self._refused(message.version)
        else:
            self._roster.received(message)

    def _install(self, last: Images) -> None:
        """Install the images of an answer, of which this is the last part."""
        images, self._parts = join(self._parts), []
        ends = list(enumerate(last.ends))
        if last.call:
            self.follower.install(images, ends, lambda: self.calls.answer(last.call, None))
        else:
            self.follower.resume(images, ends)
            self.attached()
        self.calls.tell(Installed(last.call))

    def _refused(self, version: str) -> None:
        """The author ignores this process: go on as without a link."""
        self._log.warn(
            "the main process of version {version} ignores this worker of version {own}",
            version=version,
            own=__version__,
            event_name="worker_ignored",
        )
        self.lost()
        self.outdated(version)

    # --- the log ---------------------------------------

    async def publish(self, draft: Draft) -> Receipt:
        receipt: Receipt = await self.calls.call(lambda call: Publish(call, draft))
        return receipt

    async def clear(self, channel: str) -> None:
        await self.calls.call(lambda call: Clear(call, channel))

    async def follow(self, points: Sequence[Point], names: Sequence[str]) -> None:
        new = {point.channel for point in points}
        others = [name for name in names if name not in new]
        await self.calls.call(lambda call: Follow(call, list(points), others))

    def leave(self, channels: Sequence[str]) -> None:
        self.calls.tell(Leave(list(channels)))

    async def settle(self) -> None:
        await self.calls.settle()
